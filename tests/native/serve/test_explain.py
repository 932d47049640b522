"""nimbo explain asg: what is decided about a group, and why."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from scaling import Groups
from server import Server
from server import nimbo as run


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--simulate") as server:
        yield server


@pytest.fixture(scope="module")
def autoscaling(server: Server) -> Any:
    return server.client("autoscaling")


@pytest.fixture(scope="module")
def groups(server: Server, autoscaling: Any) -> Groups:
    return Groups(server.client("ec2"), autoscaling)


def test_a_group_is_explained(server: Server, groups: Groups, autoscaling: Any) -> None:
    name = groups.make(MaxSize=2, DesiredCapacity=1)
    groups.wait_for(name, 1)
    [instance] = [it["InstanceId"] for it in groups.describe(name)["Instances"]]
    autoscaling.suspend_processes(AutoScalingGroupName=name, ScalingProcesses=["Launch"])
    autoscaling.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=2)
    said = run("explain", "asg", name, "--endpoint", server.url)
    assert said.returncode == 0, said.stderr
    assert f"{name}: 2 are desired, 0 to 2 allowed" in said.stdout
    assert "Held up: the process Launch is suspended." in said.stdout
    told = json.loads(run("explain", "asg", name, "--endpoint", server.url, "--json").stdout)
    assert [member["instance"] for member in told["members"]] == [instance]
    assert told["members"][0]["condition"] == "healthy" and told["steps"] == []
    assert told["activities"][0]["cause"] == groups.activities(name)[0]["Cause"]
    autoscaling.resume_processes(AutoScalingGroupName=name)
    groups.wait_for(name, 2)
    assert "Nothing is to be done." in run("explain", "asg", name, "--endpoint", server.url).stdout


def test_what_is_not_there_is_not_explained(server: Server) -> None:
    said = run("explain", "asg", "nobody", "--endpoint", server.url)
    assert said.returncode == 1 and "no Auto Scaling group" in said.stderr
    assert server.ask("POST", "/_nimbo/explain")[0] == 403
