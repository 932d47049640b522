"""How much a host has, and what happens when it is full, or when a zone fails."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from server import Server

TIMEOUT_S = 30


class Region(Server):
    """nimbo serve --simulate with options."""

    def __init__(self, *options: str) -> None:
        super().__init__("--simulate", *options)

    def ec2(self, account: str = "000000000000", region: str = "us-east-1") -> Any:
        return self.client("ec2", account=account, region=region)

    def zone(self, name: str, body: str, *, secret: str | None = "test", method: str = "POST") -> tuple[int, Any]:
        request = AWSRequest(method, f"{self.url}/_nimbo/zones/{name}", data=body)
        if secret:
            SigV4Auth(Credentials("test", secret), "ec2", "us-east-1").add_auth(request)
        sent = urllib.request.Request(request.url, body.encode(), dict(request.headers.items()), method=method)
        try:
            with urllib.request.urlopen(sent, timeout=TIMEOUT_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["error"]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [os.environ["NIMBO"], "zone", *words, "--endpoint", self.url]
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)


@pytest.fixture
def serve() -> Iterator[Callable[..., Region]]:
    servers: list[Region] = []

    def one(*options: str) -> Region:
        servers.append(Region(*options))
        return servers[-1]

    yield one
    for server in servers:
        if server.process.poll() is None:
            server.end()


def run(ec2: Any, count: int = 1, at_least: int | None = None, kind: str = "t3.micro", **more: Any) -> list[str]:
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    made = ec2.run_instances(ImageId=image, InstanceType=kind, MinCount=at_least or count, MaxCount=count, **more)
    return [instance["InstanceId"] for instance in made["Instances"]]


def wait(ec2: Any, waiter: str, *instances: str) -> None:
    ec2.get_waiter(waiter).wait(InstanceIds=list(instances), WaiterConfig={"Delay": 0.05, "MaxAttempts": 20 * TIMEOUT_S})


def until(check: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def described(ec2: Any, instance: str) -> dict[str, Any]:
    return ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]


def test_as_many_are_launched_as_fit_and_no_fewer_than_asked_for(serve: Callable[..., Region], refused: Callable[..., str]) -> None:
    ec2 = serve("--host-cpus", "8", "--host-memory", "64G", "--overcommit-cpus", "1").ec2()
    message = refused("InsufficientInstanceCapacity", run, ec2=ec2, count=5)
    assert "t3.micro" in message and "us-east-1a" in message
    # Nothing of it is left behind.
    assert ec2.describe_instances()["Reservations"] == [] and ec2.describe_volumes()["Volumes"] == []
    four = run(ec2, 100, at_least=3)
    assert len(four) == 4
    refused("InsufficientInstanceCapacity", run, ec2=ec2)
    wait(ec2, "instance_running", *four)
    # Who is stopped or gone has room no more, and who comes back needs some.
    ec2.stop_instances(InstanceIds=four[:1])
    wait(ec2, "instance_stopped", four[0])
    [other] = run(ec2)
    refused("InsufficientInstanceCapacity", ec2.start_instances, InstanceIds=four[:1])
    assert described(ec2, four[0])["State"]["Name"] == "stopped"
    ec2.terminate_instances(InstanceIds=[other])
    wait(ec2, "instance_terminated", other)
    ec2.start_instances(InstanceIds=four[:1])
    wait(ec2, "instance_running", four[0])


def test_several_that_start_together_need_room_for_all(serve: Callable[..., Region], refused: Callable[..., str]) -> None:
    ec2 = serve("--host-memory", "2G").ec2()
    two = run(ec2, 2)
    wait(ec2, "instance_running", *two)
    ec2.stop_instances(InstanceIds=two)
    wait(ec2, "instance_stopped", *two)
    [other] = run(ec2)
    refused("InsufficientInstanceCapacity", ec2.start_instances, InstanceIds=two)
    # None of them was started.
    assert {described(ec2, instance)["State"]["Name"] for instance in two} == {"stopped"}
    ec2.terminate_instances(InstanceIds=[other])


def test_zones_regions_and_accounts_share_the_host(serve: Callable[..., Region], refused: Callable[..., str]) -> None:
    server = serve("--host-memory", "1G", "--overcommit-memory", "2.5")
    run(server.ec2())
    run(server.ec2(account="111111111111", region="eu-west-1"), Placement={"AvailabilityZone": "eu-west-1c"})
    refused("InsufficientInstanceCapacity", run, ec2=server.ec2(account="222222222222"))
    assert len(run(server.ec2(), kind="t3.nano")) == 1


def test_factors_and_sizes_are_checked() -> None:
    for options in [["--overcommit-cpus", "0"], ["--overcommit-memory", "x"], ["--host-memory", "many"]]:
        command = [os.environ["NIMBO"], "serve", "--simulate", "--listen", "127.0.0.1:0", *options]
        assert subprocess.run(command, capture_output=True, timeout=TIMEOUT_S).returncode == 2


def test_a_zone_fails_and_recovers(serve: Callable[..., Region], refused: Callable[..., str]) -> None:
    server = serve()
    ec2 = server.ec2()
    [here] = run(ec2, Placement={"AvailabilityZone": "us-east-1a"})
    [elsewhere] = run(ec2, Placement={"AvailabilityZone": "us-east-1b"})
    wait(ec2, "instance_status_ok", here, elsewhere)
    address = described(ec2, here)["PublicIpAddress"]
    idle = ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    ec2.get_waiter("volume_available").wait(VolumeIds=[idle])
    roots = [described(ec2, instance)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"] for instance in (here, elsewhere)]

    def volumes() -> list[tuple[str, str]]:
        found = {status["VolumeId"]: status["VolumeStatus"] for status in ec2.describe_volume_status()["VolumeStatuses"]}
        details = [{detail["Name"]: detail["Status"] for detail in found[volume]["Details"]}["io-enabled"] for volume in [idle, *roots]]
        return list(zip([found[volume]["Status"] for volume in [idle, *roots]], details, strict=True))

    assert volumes() == [("ok", "passed")] * 3

    def statuses() -> dict[str, tuple[str, str]]:
        found = ec2.describe_instance_status(InstanceIds=[here, elsewhere])["InstanceStatuses"]
        return {status["InstanceId"]: (status["InstanceStatus"]["Status"], status["SystemStatus"]["Status"]) for status in found}

    assert server.zone("us-east-1a", '{"state": "failed"}') == (200, {})
    until(lambda: statuses() == {here: ("impaired", "impaired"), elsewhere: ("ok", "ok")}, "the instance stays well")
    assert volumes() == [("impaired", "failed"), ("impaired", "failed"), ("ok", "passed")]
    found = ec2.describe_volume_status(Filters=[{"Name": "volume-status.status", "Values": ["impaired"]}])["VolumeStatuses"]
    assert {status["VolumeId"] for status in found} == {idle, roots[0]}
    [impaired] = ec2.describe_instance_status(Filters=[{"Name": "system-status.status", "Values": ["impaired"]}])["InstanceStatuses"]
    [detail] = impaired["SystemStatus"]["Details"]
    assert detail["Name"] == "reachability" and detail["Status"] == "failed" and "ImpairedSince" in detail
    assert described(ec2, here)["State"]["Name"] == "running"
    [zone] = ec2.describe_availability_zones(Filters=[{"Name": "state", "Values": ["unavailable"]}])["AvailabilityZones"]
    assert zone["ZoneName"] == "us-east-1a" and "us-east-1a" in zone["Messages"][0]["Message"]
    # Nothing more can be launched there, and where nobody says where, it is elsewhere.
    message = refused("InsufficientInstanceCapacity", run, ec2=ec2, Placement={"AvailabilityZone": "us-east-1a"})
    assert "choosing us-east-1b, us-east-1c" in message
    [third] = run(ec2)
    assert described(ec2, third)["Placement"]["AvailabilityZone"] == "us-east-1b"
    assert server.zone("us-east-1a", '{"state": "available"}') == (200, {})
    wait(ec2, "instance_status_ok", here)
    wait(ec2, "system_status_ok", here)
    assert described(ec2, here)["PublicIpAddress"] == address
    assert volumes() == [("ok", "passed")] * 3
    assert all(zone["State"] == "available" and zone["Messages"] == [] for zone in ec2.describe_availability_zones()["AvailabilityZones"])
    assert len(run(ec2, Placement={"AvailabilityZone": "us-east-1a"})) == 1


def test_what_is_stopped_in_a_failed_zone_is_started_after_it(serve: Callable[..., Region], refused: Callable[..., str]) -> None:
    server = serve()
    ec2 = server.ec2()
    [instance] = run(ec2, Placement={"AvailabilityZone": "us-east-1c"})
    wait(ec2, "instance_running", instance)
    for _ in range(2):
        assert server.zone("us-east-1c", '{"state": "failed"}')[0] == 200
    ec2.stop_instances(InstanceIds=[instance])
    wait(ec2, "instance_stopped", instance)
    refused("InsufficientInstanceCapacity", ec2.start_instances, InstanceIds=[instance])
    assert server.zone("us-east-1c", '{"state": "available"}')[0] == 200
    ec2.start_instances(InstanceIds=[instance])
    wait(ec2, "instance_status_ok", instance)


def test_who_may_have_a_zone_fail(serve: Callable[..., Region]) -> None:
    server = serve()
    wanted = '{"state": "failed"}'
    assert server.zone("us-east-1a", wanted, secret=None)[0] in (401, 403)
    assert server.zone("us-east-1a", wanted, secret="wrong")[0] in (401, 403)
    assert server.zone("us-east-1a", wanted, method="PUT") == (405, {"code": "MethodNotAllowed", "message": "A zone is changed by POST."})
    for name in ["", "us-east-1d", "us-east-1", "us-east-1a/", "%75s-east-1a"]:
        assert server.zone(name, wanted)[0] == 404, name
    for body in ["", "{}", '{"state": "broken"}', '{"state": "failed", "for": 1}', "[]"]:
        status, error = server.zone("us-east-1a", body)
        assert (status, error["code"]) == (400, "InvalidParameterValue"), body
    assert server.ec2().describe_availability_zones(ZoneNames=["us-east-1a"])["AvailabilityZones"][0]["State"] == "available"


def test_nimbo_zone_has_a_zone_fail_and_recover(serve: Callable[..., Region]) -> None:
    server = serve()

    def state() -> str:
        return server.ec2(region="eu-west-1").describe_availability_zones(ZoneNames=["eu-west-1b"])["AvailabilityZones"][0]["State"]

    done = server.command("fail", "eu-west-1b")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert state() == "unavailable"
    assert server.command("recover", "eu-west-1b").returncode == 0
    assert state() == "available"
    wrong = server.command("fail", "mars-1a")
    assert wrong.returncode == 2 and "mars-1a" in wrong.stderr


def test_a_reset_leaves_the_host_as_large_as_it_is_and_no_zone_failed(serve: Callable[..., Region], refused: Callable[..., str]) -> None:
    server = serve("--host-memory", "1G")
    assert server.zone("us-east-1a", '{"state": "failed"}')[0] == 200
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/_nimbo/reset", b"", method="POST"), timeout=TIMEOUT_S) as answer:
        assert answer.status == 200
    ec2 = server.ec2()
    run(ec2, Placement={"AvailabilityZone": "us-east-1a"})
    refused("InsufficientInstanceCapacity", run, ec2=ec2)


def test_a_server_that_is_killed_knows_what_is_taken_and_what_has_failed(serve: Callable[..., Region], refused: Callable[..., str], tmp_path: Path) -> None:
    options = ("--host-memory", "1G", "--state", str(tmp_path / "state"))
    server = serve(*options)
    [instance] = run(server.ec2(), Placement={"AvailabilityZone": "us-east-1b"})
    wait(server.ec2(), "instance_status_ok", instance)
    assert server.zone("us-east-1b", '{"state": "failed"}')[0] == 200
    server.kill()
    again = serve(*options)
    ec2 = again.ec2()

    def status() -> str:
        [found] = ec2.describe_instance_status(InstanceIds=[instance])["InstanceStatuses"]
        return found["SystemStatus"]["Status"]

    until(lambda: status() == "impaired", "the zone has recovered by itself")
    refused("InsufficientInstanceCapacity", run, ec2=ec2)
    assert again.zone("us-east-1b", '{"state": "available"}')[0] == 200
    wait(ec2, "instance_status_ok", instance)
    wait(ec2, "system_status_ok", instance)
    refused("InsufficientInstanceCapacity", run, ec2=ec2)
    ec2.terminate_instances(InstanceIds=[instance])
    wait(ec2, "instance_terminated", instance)
    assert len(run(ec2)) == 1
