"""The console of an instance. A simulated guest says nothing."""

from collections.abc import Callable
from typing import Any


def test_a_guest_that_has_said_nothing_has_no_output(ec2: Any, refused: Callable[..., str]) -> None:
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    instance = ec2.run_instances(ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    for latest in [False, True]:
        answer = ec2.get_console_output(InstanceId=instance, Latest=latest)
        assert answer["InstanceId"] == instance and "Timestamp" in answer and answer.get("Output", "") == ""
    ec2.terminate_instances(InstanceIds=[instance])
    assert ec2.get_console_output(InstanceId=instance)["InstanceId"] == instance
    refused("DryRunOperation", ec2.get_console_output, InstanceId=instance, DryRun=True)


def test_an_instance_that_is_not_there_has_no_console(ec2: Any, refused: Callable[..., str]) -> None:
    refused("InvalidInstanceID.NotFound", ec2.get_console_output, InstanceId="i-0123456789abcdef0")
    refused("InvalidInstanceID.Malformed", ec2.get_console_output, InstanceId="i-")
