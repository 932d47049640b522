"""The commands that ask a server."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import TIMEOUT_S, Server
from server import nimbo as run

UNKNOWN = "i-00000000000000000"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--simulate") as server:
        yield server


@pytest.fixture(scope="module")
def instances(server: Server) -> dict[str, str]:
    """One in each of two regions."""
    ids = {}
    for region in ("us-east-1", "eu-west-3"):
        ec2 = server.client("ec2", region=region)
        image = ec2.describe_images()["Images"][0]["ImageId"]
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": f"a <{region}> & more"}]}]
        [made] = ec2.run_instances(ImageId=image, InstanceType="t3.nano", MinCount=1, MaxCount=1, TagSpecifications=tags)["Instances"]
        ec2.get_waiter("instance_running").wait(InstanceIds=[made["InstanceId"]], WaiterConfig={"Delay": 0.05, "MaxAttempts": 600})
        ids[region] = made["InstanceId"]
    return ids


def nimbo(server: Server, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return run(*arguments, **{"AWS_ENDPOINT_URL": server.url, **more})


def test_status_shows_what_there_is(server: Server, instances: dict[str, str]) -> None:
    told = nimbo(server, "status", "--json")
    assert told.returncode == 0, told.stderr
    status: dict[str, Any] = json.loads(told.stdout)
    assert status["endpoint"] == server.url and status["is_simulated"]
    assert [(region["region"], region["instances"], region["volumes"]) for region in status["regions"]] == [
        (region, {"running": 1}, 1) for region in sorted(instances)
    ]
    assert {each["id"]: each["name"] for each in status["instances"]} == {id: f"a <{region}> & more" for region, id in instances.items()}
    table = nimbo(server, "status").stdout
    for text in (*instances.values(), "1 running", "simulated", server.url, "t3.nano"):
        assert text in table, table


def test_status_is_of_the_account_that_asks(server: Server, instances: dict[str, str]) -> None:
    told = nimbo(server, "status", "--json", AWS_ACCESS_KEY_ID="222222222222", AWS_SECRET_ACCESS_KEY="test")
    assert json.loads(told.stdout)["instances"] == []
    told = nimbo(server, "status", AWS_ACCESS_KEY_ID="222222222222", AWS_SECRET_ACCESS_KEY="wrong")
    assert told.returncode == 1 and "AuthFailure" in told.stderr, told.stderr


def test_what_a_simulation_has_not_is_told_clearly(server: Server, instances: dict[str, str]) -> None:
    for id in instances.values():
        logs = nimbo(server, "logs", id)
        assert (logs.returncode, logs.stdout) == (0, ""), logs.stderr
        assert "has written nothing to its console" in logs.stderr
        for command in (["console"], ["ssh"], ["capture"], ["impair", "--latency", "1ms"]):
            told = nimbo(server, *command, id)
            assert told.returncode == 1
            assert f"{id} is simulated" in told.stderr, told.stderr
    [interface] = server.client("ec2", region="eu-west-3").describe_network_interfaces()["NetworkInterfaces"]
    told = nimbo(server, "capture", interface["NetworkInterfaceId"])
    assert told.returncode == 1 and "is simulated" in told.stderr, told.stderr
    assert nimbo(server, "impair", "--list").stdout == ""
    told = nimbo(server, "drops")
    assert told.returncode == 1 and "A server that simulates has no networks" in told.stderr, told.stderr


@pytest.mark.parametrize("command", ["console", "logs", "ssh", "capture"])
def test_an_instance_that_there_is_not_is_told(server: Server, command: str) -> None:
    told = nimbo(server, command, UNKNOWN)
    assert told.returncode == 1 and f"there is no instance {UNKNOWN}" in told.stderr, told.stderr
    told = nimbo(server, command, "web")
    assert told.returncode == 2


def test_without_a_server_every_command_says_what_to_do() -> None:
    with Server("--simulate") as server:
        pass
    for arguments in (["status"], ["logs", UNKNOWN], ["ssh", UNKNOWN], ["console", UNKNOWN], ["capture", UNKNOWN], ["impair", "--list"], ["drops"]):
        told = nimbo(server, *arguments)
        assert told.returncode == 1 and "start one (nimbo serve --simulate)" in told.stderr, told.stderr


@pytest.mark.parametrize(("shell", "text"), [("bash", "complete -F"), ("zsh", "#compdef nimbo"), ("fish", "complete -c nimbo")])
def test_completions_are_for_the_shell(tmp_path: Path, shell: str, text: str) -> None:
    script = subprocess.run([os.environ["NIMBO"], "completions", shell], capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout
    assert text in script and "simulate" in script
    if shell == "bash":
        complete = f"{script}\nCOMP_WORDS=(nimbo stat) COMP_CWORD=1; _nimbo nimbo stat nimbo; echo \"${{COMPREPLY[@]}}\""
        done = subprocess.run(["bash", "-c", complete], capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.stdout == "status\n", done.stderr
