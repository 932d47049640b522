"""Client tokens whose resources are gone: nothing is made again."""

from collections.abc import Callable
from typing import Any

TIMEOUT_S = 30


def test_instances_that_are_terminated_are_not_launched_again(ec2: Any, refused: Callable[..., str]) -> None:
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    request = {"ImageId": image, "InstanceType": "t3.nano", "MinCount": 2, "MaxCount": 2, "ClientToken": "two"}
    made = ec2.run_instances(**request)
    one, other = (instance["InstanceId"] for instance in made["Instances"])
    waiter = ec2.get_waiter("instance_terminated")
    ec2.terminate_instances(InstanceIds=[one])
    waiter.wait(InstanceIds=[one], WaiterConfig={"Delay": 0.05, "MaxAttempts": 20 * TIMEOUT_S})
    # One of them is left.
    assert ec2.run_instances(**request)["ReservationId"] == made["ReservationId"]
    ec2.terminate_instances(InstanceIds=[other])
    waiter.wait(InstanceIds=[other], WaiterConfig={"Delay": 0.05, "MaxAttempts": 20 * TIMEOUT_S})
    refused("IdempotentInstanceTerminated", ec2.run_instances, **request)
    refused("IdempotentParameterMismatch", ec2.run_instances, **{**request, "MaxCount": 3})


def test_what_was_deleted_is_not_made_again(ec2: Any, refused: Callable[..., str]) -> None:
    request = {"AvailabilityZone": "us-east-1a", "Size": 1, "ClientToken": "one"}
    volume = ec2.create_volume(**request)["VolumeId"]
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume], WaiterConfig={"Delay": 0.05, "MaxAttempts": 20 * TIMEOUT_S})
    ec2.delete_volume(VolumeId=volume)
    ec2.get_waiter("volume_deleted").wait(VolumeIds=[volume], WaiterConfig={"Delay": 0.05, "MaxAttempts": 20 * TIMEOUT_S})
    assert volume in refused("InvalidVolume.NotFound", ec2.create_volume, **request)
    vpc = ec2.create_vpc(CidrBlock="10.83.0.0/16")["Vpc"]["VpcId"]
    table = {"VpcId": vpc, "ClientToken": "table"}
    made = ec2.create_route_table(**table)["RouteTable"]["RouteTableId"]
    assert ec2.create_route_table(**table)["RouteTable"]["RouteTableId"] == made
    ec2.delete_route_table(RouteTableId=made)
    refused("InvalidRouteTableID.NotFound", ec2.create_route_table, **table)
    template = {"LaunchTemplateName": "small", "LaunchTemplateData": {"InstanceType": "t3.nano"}, "ClientToken": "template"}
    made = ec2.create_launch_template(**template)["LaunchTemplate"]["LaunchTemplateId"]
    ec2.delete_launch_template(LaunchTemplateId=made)
    assert made in refused("InvalidLaunchTemplateId.NotFound", ec2.create_launch_template, **template)
