"""Volumes that instances have, and what is made of an instance's."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

Refused = Callable[..., str]


def wait(ec2: Any, name: str, **arguments: Any) -> None:
    ec2.get_waiter(name).wait(WaiterConfig={"Delay": 0.05, "MaxAttempts": 200}, **arguments)


@pytest.fixture
def instance(ec2: Any) -> Iterator[dict[str, Any]]:
    debian = ec2.describe_images(Owners=["amazon"], Filters=[{"Name": "name", "Values": ["debian-12-amd64-*"]}])["Images"][0]["ImageId"]
    [made] = ec2.run_instances(ImageId=debian, InstanceType="t3.micro", MinCount=1, MaxCount=1)["Instances"]
    wait(ec2, "instance_running", InstanceIds=[made["InstanceId"]])
    [reservation] = ec2.describe_instances(InstanceIds=[made["InstanceId"]])["Reservations"]
    yield reservation["Instances"][0]
    ec2.terminate_instances(InstanceIds=[made["InstanceId"]])


def data(ec2: Any, instance: dict[str, Any]) -> str:
    made = ec2.create_volume(AvailabilityZone=instance["Placement"]["AvailabilityZone"], Size=2)["VolumeId"]
    wait(ec2, "volume_available", VolumeIds=[made])
    return made


def attachments(ec2: Any, volume: str) -> list[dict[str, Any]]:
    return ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Attachments"]


def test_a_volume_is_attached_and_detached(ec2: Any, refused: Refused, instance: dict[str, Any]) -> None:
    volume, owner = data(ec2, instance), instance["InstanceId"]
    assert ec2.attach_volume(VolumeId=volume, InstanceId=owner, Device="/dev/sdf")["State"] == "attaching"
    wait(ec2, "volume_in_use", VolumeIds=[volume])
    for _ in range(200):
        [attachment] = attachments(ec2, volume)
        if attachment["State"] == "attached":
            break
    assert (attachment["State"], attachment["InstanceId"], attachment["Device"]) == ("attached", owner, "/dev/sdf")
    found = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [owner]}])["Volumes"]
    assert len(found) == 2
    refused("VolumeInUse", ec2.delete_volume, VolumeId=volume)
    ec2.modify_volume(VolumeId=volume, Size=3)
    assert ec2.detach_volume(VolumeId=volume)["State"] == "detaching"
    wait(ec2, "volume_available", VolumeIds=[volume])
    assert attachments(ec2, volume) == []


def test_volumes_end_with_their_instance_as_they_should(ec2: Any, refused: Refused, instance: dict[str, Any]) -> None:
    volume, owner = data(ec2, instance), instance["InstanceId"]
    ec2.attach_volume(VolumeId=volume, InstanceId=owner, Device="/dev/sdf")
    filters = [{"Name": "attachment.instance-id", "Values": [owner]}, {"Name": "attachment.delete-on-termination", "Values": ["true"]}]
    [root] = ec2.describe_volumes(Filters=filters)["Volumes"]
    refused("OperationNotPermitted", ec2.detach_volume, VolumeId=root["VolumeId"])
    ec2.terminate_instances(InstanceIds=[owner])
    wait(ec2, "instance_terminated", InstanceIds=[owner])
    wait(ec2, "volume_deleted", VolumeIds=[root["VolumeId"]])
    wait(ec2, "volume_available", VolumeIds=[volume])


def test_an_image_of_an_instance_is_launched(ec2: Any, instance: dict[str, Any]) -> None:
    volume, owner = data(ec2, instance), instance["InstanceId"]
    ec2.attach_volume(VolumeId=volume, InstanceId=owner, Device="/dev/sdf")
    tags = [{"ResourceType": kind, "Tags": [{"Key": "of", "Value": owner}]} for kind in ("image", "snapshot")]
    image = ec2.create_image(InstanceId=owner, Name=f"of {owner}", TagSpecifications=tags)["ImageId"]
    wait(ec2, "image_available", ImageIds=[image])
    [found] = ec2.describe_images(ImageIds=[image])["Images"]
    assert found["SourceInstanceId"] == owner and found["Tags"] == [{"Key": "of", "Value": owner}]
    snapshots = ec2.describe_snapshots(Filters=[{"Name": "tag:of", "Values": [owner]}])["Snapshots"]
    assert {each["SnapshotId"] for each in snapshots} == {each["Ebs"]["SnapshotId"] for each in found["BlockDeviceMappings"]}
    [copy] = ec2.run_instances(ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1)["Instances"]
    wait(ec2, "instance_running", InstanceIds=[copy["InstanceId"]])
    filters = [{"Name": "attachment.instance-id", "Values": [copy["InstanceId"]]}]
    volumes = ec2.describe_volumes(Filters=filters)["Volumes"]
    assert sorted((each["Size"], each["SnapshotId"]) for each in volumes) == sorted(
        (each["VolumeSize"], each["SnapshotId"]) for each in snapshots
    )
    ec2.terminate_instances(InstanceIds=[copy["InstanceId"]])


def test_snapshots_of_all_volumes_of_an_instance(ec2: Any, instance: dict[str, Any]) -> None:
    volume, owner = data(ec2, instance), instance["InstanceId"]
    ec2.attach_volume(VolumeId=volume, InstanceId=owner, Device="/dev/sdf")
    made = ec2.create_snapshots(InstanceSpecification={"InstanceId": owner, "ExcludeBootVolume": True}, Description="all")["Snapshots"]
    assert [(each["VolumeId"], each["Description"]) for each in made] == [(volume, "all")]
    wait(ec2, "snapshot_completed", SnapshotIds=[made[0]["SnapshotId"]])
