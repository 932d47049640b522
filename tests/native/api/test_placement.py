"""Where instances stand to each other."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

TIMEOUT_S = 30


@pytest.fixture(scope="module")
def image(ec2: Any) -> str:
    return ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]


@pytest.fixture(scope="module")
def groups(ec2: Any) -> dict[str, str]:
    made = {
        "near": ec2.create_placement_group(GroupName="near", Strategy="cluster"),
        "apart": ec2.create_placement_group(GroupName="apart", Strategy="partition", PartitionCount=3),
    }
    return {name: group["PlacementGroup"]["GroupId"] for name, group in made.items()}


@pytest.fixture
def instance(ec2: Any, image: str) -> Iterator[str]:
    made = ec2.run_instances(ImageId=image, InstanceType="m5.large", MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    wait = {"InstanceIds": [made], "WaiterConfig": {"Delay": 0.05, "MaxAttempts": 20 * TIMEOUT_S}}
    ec2.get_waiter("instance_running").wait(**wait)
    ec2.stop_instances(InstanceIds=[made])
    ec2.get_waiter("instance_stopped").wait(**wait)
    yield made
    ec2.terminate_instances(InstanceIds=[made])


def launch(ec2: Any, image: str, placement: dict[str, Any], *, count: int = 1, kind: str = "t3.micro") -> list[str]:
    made = ec2.run_instances(ImageId=image, InstanceType=kind, MinCount=count, MaxCount=count, Placement=placement)
    return [instance["InstanceId"] for instance in made["Instances"]]


def placement(ec2: Any, instance: str) -> dict[str, Any]:
    return ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]["Placement"]


def test_a_stopped_instance_joins_a_group_moves_and_leaves(ec2: Any, groups: dict[str, str], instance: str) -> None:
    assert ec2.modify_instance_placement(InstanceId=instance, GroupName="near")["Return"] is True
    assert placement(ec2, instance)["GroupId"] == groups["near"]
    ec2.modify_instance_placement(InstanceId=instance, GroupId=groups["apart"], PartitionNumber=3)
    now = placement(ec2, instance)
    assert (now["GroupName"], now["PartitionNumber"]) == ("apart", 3)
    # Of the group where it is already.
    ec2.modify_instance_placement(InstanceId=instance, PartitionNumber=1, Tenancy="default")
    assert placement(ec2, instance)["PartitionNumber"] == 1
    ec2.modify_instance_placement(InstanceId=instance, GroupName="")
    now = placement(ec2, instance)
    assert now["GroupName"] == "" and "GroupId" not in now and "PartitionNumber" not in now


def test_placements_that_cannot_be_are_refused(ec2: Any, groups: dict[str, str], instance: str, refused: Callable[..., str]) -> None:
    modify = ec2.modify_instance_placement
    refused("InvalidPlacementGroup.Unknown", modify, InstanceId=instance, GroupName="nowhere")
    message = refused("InvalidParameterValue", modify, InstanceId=instance, GroupName="apart", PartitionNumber=4)
    assert "(4)" in message
    refused("InvalidParameterCombination", modify, InstanceId=instance, GroupName="near", PartitionNumber=1)
    refused("InvalidParameterCombination", modify, InstanceId=instance, PartitionNumber=1)
    refused("UnsupportedOperation", modify, InstanceId=instance, Tenancy="host")
    refused("UnsupportedOperation", modify, InstanceId=instance, HostId="h-0123456789abcdef0")
    refused("InvalidInstanceID.NotFound", modify, InstanceId="i-0123456789abcdef0", GroupName="near")
    refused("InvalidInstanceID.Malformed", modify, InstanceId="instance", GroupName="near")
    assert placement(ec2, instance)["GroupName"] == ""


def test_an_instance_that_runs_stays_where_it_is(ec2: Any, groups: dict[str, str], image: str, refused: Callable[..., str]) -> None:
    [made] = launch(ec2, image, {"GroupName": "near"}, kind="m5.large")
    refused("IncorrectInstanceState", ec2.modify_instance_placement, InstanceId=made, GroupName="")
    ec2.terminate_instances(InstanceIds=[made])


def test_an_instance_is_launched_only_into_a_partition_that_there_is(ec2: Any, groups: dict[str, str], image: str, refused: Callable[..., str]) -> None:
    wanted = {"ImageId": image, "MinCount": 1, "MaxCount": 1}
    refused("InvalidParameterCombination", ec2.run_instances, **wanted, Placement={"PartitionNumber": 1})
    refused("InvalidParameterValue", ec2.run_instances, **wanted, Placement={"GroupName": "apart", "PartitionNumber": 4})


def test_instances_are_spread_over_the_partitions_of_their_group(ec2: Any, image: str, instance: str) -> None:
    ec2.create_placement_group(GroupName="racks", Strategy="partition", PartitionCount=3)
    chosen = launch(ec2, image, {"GroupName": "racks", "PartitionNumber": 2})
    others = launch(ec2, image, {"GroupName": "racks"}, count=5)
    numbers = [placement(ec2, each)["PartitionNumber"] for each in chosen + others]
    assert sorted(numbers) == [1, 1, 2, 2, 3, 3] and numbers[0] == 2
    filters = [{"Name": "placement-partition-number", "Values": ["2"]}, {"Name": "placement-group-name", "Values": ["racks"]}]
    assert sum(len(found["Instances"]) for found in ec2.describe_instances(Filters=filters)["Reservations"]) == 2
    # What goes makes room for what comes.
    gone = [each for each, number in zip(others, numbers[1:], strict=True) if number == 3]
    ec2.terminate_instances(InstanceIds=gone)
    ec2.get_waiter("instance_terminated").wait(InstanceIds=gone, WaiterConfig={"Delay": 0.05, "MaxAttempts": 20 * TIMEOUT_S})
    ec2.modify_instance_placement(InstanceId=instance, GroupName="racks")
    assert placement(ec2, instance)["PartitionNumber"] == 3
    ec2.modify_instance_placement(InstanceId=instance, GroupName="")
    ec2.terminate_instances(InstanceIds=[*chosen, *others])


def test_burstable_instances_are_in_no_cluster(
    ec2: Any, groups: dict[str, str], image: str, instance: str, refused: Callable[..., str]
) -> None:
    wanted = {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1, "Placement": {"GroupName": "near"}}
    assert "'t3.micro'" in refused("InvalidParameterCombination", ec2.run_instances, **wanted)
    ec2.modify_instance_placement(InstanceId=instance, GroupName="near")
    refused("InvalidParameterCombination", ec2.modify_instance_attribute, InstanceId=instance, InstanceType={"Value": "t3.micro"})
    strategies = {
        kind["InstanceType"]: kind["PlacementGroupInfo"]["SupportedStrategies"]
        for kind in ec2.describe_instance_types(InstanceTypes=["t3.micro", "m5.large"])["InstanceTypes"]
    }
    assert strategies == {"t3.micro": ["partition", "spread"], "m5.large": ["cluster", "partition", "spread"]}
