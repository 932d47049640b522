"""nimbo notice: what instances are told that is to become of them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from server import Server
from server import nimbo as run

QUICK = {"Delay": 0.05, "MaxAttempts": 600}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--simulate") as server:
        yield server


@pytest.fixture(scope="module")
def ec2(server: Server) -> Any:
    return server.client("ec2")


@pytest.fixture
def instance(ec2: Any) -> str:
    image = ec2.describe_images()["Images"][0]["ImageId"]
    [made] = ec2.run_instances(ImageId=image, InstanceType="t3.nano", MinCount=1, MaxCount=1)["Instances"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[made["InstanceId"]], WaiterConfig=QUICK)
    return made["InstanceId"]


def notice(server: Server, *arguments: str) -> dict[str, Any]:
    told = run("notice", *arguments, "--json", AWS_ENDPOINT_URL=server.url)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def seen(ec2: Any, instance: str) -> dict[str, Any]:
    return ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]


def events(ec2: Any, instance: str) -> list[dict[str, Any]]:
    return ec2.describe_instance_status(InstanceIds=[instance])["InstanceStatuses"][0]["Events"]


@pytest.mark.parametrize(
    ("action", "waiter", "code"),
    [("terminate", "instance_terminated", "Server.SpotInstanceTermination"), ("stop", "instance_stopped", "Server.SpotInstanceShutdown")],
)
def test_an_interruption_is_announced_and_comes(server: Server, ec2: Any, instance: str, action: str, waiter: str, code: str) -> None:
    told = notice(server, instance, "spot-interruption", "--in", "1s", "--action", action)
    assert told["interruption"]["action"] == action
    ec2.get_waiter(waiter).wait(InstanceIds=[instance], WaiterConfig=QUICK)
    reason = seen(ec2, instance)["StateReason"]
    assert reason["Code"] == code and reason["Message"].startswith(f"{code}: ")
    assert notice(server, instance, "list")["interruption"] is None


def test_events_are_seen_in_the_status(server: Server, ec2: Any, instance: str) -> None:
    assert events(ec2, instance) == []
    told = notice(server, instance, "event", "--code", "system-reboot", "--not-before", "2040-01-31T02:00:00Z")
    [event] = events(ec2, instance)
    assert event["InstanceEventId"] == told["events"][0]["id"] and event["InstanceEventId"].startswith("instance-event-")
    assert (event["Code"], event["Description"]) == ("system-reboot", "scheduled reboot")
    assert event["NotBefore"].isoformat() == "2040-01-31T02:00:00+00:00"
    wanted = {"event.code": "system-reboot", "event.not-before": "2040-01-31T02:00:00Z", "event.instance-event-id": event["InstanceEventId"]}
    for name, value in wanted.items():
        found = ec2.describe_instance_status(Filters=[{"Name": name, "Values": [value]}])["InstanceStatuses"]
        assert [status["InstanceId"] for status in found] == [instance], name
    notice(server, instance, "rebalance")
    table = run("notice", instance, "list", AWS_ENDPOINT_URL=server.url).stdout
    assert "rebalance" in table and "2040-01-31T02:00:00Z" in table, table
    assert notice(server, instance, "clear")["rebalance"] is None
    assert [event["Description"] for event in events(ec2, instance)] == ["[Canceled] scheduled reboot"]
    notice(server, instance, "event", "--code", "instance-stop", "--not-before", "0s")
    ec2.get_waiter("instance_stopped").wait(InstanceIds=[instance], WaiterConfig=QUICK)
    assert seen(ec2, instance)["StateReason"]["Code"] == "Server.ScheduledStop"


def test_what_cannot_be_is_refused(server: Server, ec2: Any, instance: str) -> None:
    for arguments in ([], ["list", "now"], ["spot-interruption", "--in", "soon"], ["event", "--code", "fire", "--not-before", "1m"]):
        assert run("notice", instance, *arguments, AWS_ENDPOINT_URL=server.url).returncode == 2, arguments
    ec2.stop_instances(InstanceIds=[instance])
    told = run("notice", instance, "rebalance", AWS_ENDPOINT_URL=server.url)
    assert told.returncode == 1 and "is not running" in told.stderr, told.stderr
    stranger = {"AWS_ACCESS_KEY_ID": "222222222222", "AWS_SECRET_ACCESS_KEY": "test"}
    told = run("notice", instance, "list", AWS_ENDPOINT_URL=server.url, **stranger)
    assert told.returncode == 1 and "does not exist" in told.stderr, told.stderr
    assert server.ask("POST", f"/_nimbo/notices/{instance}")[0] == 403
