"""Images: those that are there, those that one makes of snapshots, and who may launch them."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Refused = Callable[..., str]
OTHER = "111111111111"


def wait(ec2: Any, name: str, **arguments: Any) -> None:
    ec2.get_waiter(name).wait(WaiterConfig={"Delay": 0.05, "MaxAttempts": 200}, **arguments)


def snapshot(ec2: Any, **arguments: Any) -> str:
    zone = f"{ec2.meta.region_name}a"
    volume = ec2.create_volume(**{"AvailabilityZone": zone, "Size": 4, **arguments})["VolumeId"]
    wait(ec2, "volume_available", VolumeIds=[volume])
    made = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    wait(ec2, "snapshot_completed", SnapshotIds=[made])
    return made


def root(of: str, **ebs: Any) -> dict[str, Any]:
    return {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": of, **ebs}}


def register(ec2: Any, name: str, of: str | None = None, **arguments: Any) -> str:
    mappings = arguments.pop("BlockDeviceMappings", None) or [root(of or snapshot(ec2))]
    image = ec2.register_image(Name=name, RootDeviceName="/dev/xvda", BlockDeviceMappings=mappings, **arguments)["ImageId"]
    wait(ec2, "image_available", ImageIds=[image])
    return image


def described(ec2: Any, image: str) -> dict[str, Any]:
    [found] = ec2.describe_images(ImageIds=[image])["Images"]
    return found


def ids(ec2: Any, **arguments: Any) -> set[str]:
    return {each["ImageId"] for each in ec2.describe_images(**arguments)["Images"]}


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "ap-south-1"])
def test_there_is_a_debian_in_every_region(api: Any, region: str) -> None:
    ec2 = api.client("ec2", region=region)
    [image] = ec2.describe_images(
        Owners=["amazon"],
        Filters=[
            {"Name": "name", "Values": ["debian-12-amd64-*"]},
            {"Name": "architecture", "Values": ["x86_64"]},
            {"Name": "virtualization-type", "Values": ["hvm"]},
            {"Name": "root-device-type", "Values": ["ebs"]},
            {"Name": "state", "Values": ["available"]},
        ],
    )["Images"]
    assert image["Public"] and image["OwnerId"] == "136693071363" and image["ImageOwnerAlias"] == "amazon"
    assert image["RootDeviceName"] == "/dev/xvda" == image["BlockDeviceMappings"][0]["DeviceName"]
    assert image["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 8
    assert image["ImageId"] in ids(ec2) and image["ImageId"] in ids(ec2, Owners=["136693071363"])
    assert image["ImageId"] in ids(ec2, ExecutableUsers=["all"]) and ids(ec2, Owners=["self"]) == set()
    assert image["ImageId"] not in ids(ec2, ExecutableUsers=["self"])


def test_an_image_is_registered_described_and_deregistered(ec2: Any, refused: Refused) -> None:
    of = snapshot(ec2)
    tags = [{"Key": "stage", "Value": "test"}]
    mappings = [root(of, VolumeType="gp3", VolumeSize=9, Iops=4000), {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1}}]
    image = register(
        ec2,
        "web 1",
        BlockDeviceMappings=mappings,
        Description="first",
        VirtualizationType="hvm",
        Architecture="x86_64",
        EnaSupport=True,
        BootMode="uefi-preferred",
        ImdsSupport="v2.0",
        SriovNetSupport="simple",
        ImageLocation="",
        TagSpecifications=[{"ResourceType": "image", "Tags": tags}],
    )
    found = described(ec2, image)
    assert (found["Name"], found["Description"], found["State"], found["Public"]) == ("web 1", "first", "available", False)
    assert found["Tags"] == tags and found["BootMode"] == "uefi-preferred" and found["ImdsSupport"] == "v2.0"
    assert found["ImageLocation"] == "000000000000/web 1" and found["RootDeviceType"] == "ebs"
    first, second = (mapping["Ebs"] for mapping in found["BlockDeviceMappings"])
    assert (first["SnapshotId"], first["VolumeSize"], first["VolumeType"], first["Iops"]) == (of, 9, "gp3", 4000)
    assert first["DeleteOnTermination"] and "SnapshotId" not in second and second["VolumeType"] == "gp2"
    assert of in refused("InvalidSnapshot.InUse", ec2.delete_snapshot, SnapshotId=of)
    ec2.deregister_image(ImageId=image)
    refused("InvalidAMIID.NotFound", ec2.describe_images, ImageIds=[image])
    refused("InvalidAMIID.NotFound", ec2.deregister_image, ImageId=image)
    refused("InvalidAMIID.Malformed", ec2.deregister_image, ImageId="ami-1")
    ec2.delete_snapshot(SnapshotId=of)


def test_the_snapshots_of_an_image_can_go_with_it(ec2: Any, refused: Refused) -> None:
    shared = snapshot(ec2)
    first, second = register(ec2, "one-of-two", shared), register(ec2, "two-of-two", shared)
    [result] = ec2.deregister_image(ImageId=first, DeleteAssociatedSnapshots=True)["DeleteSnapshotResults"]
    assert result == {"SnapshotId": shared, "ReturnCode": "skipped"}
    [result] = ec2.deregister_image(ImageId=second, DeleteAssociatedSnapshots=True)["DeleteSnapshotResults"]
    assert result == {"SnapshotId": shared, "ReturnCode": "success"}
    refused("InvalidSnapshot.NotFound", ec2.describe_snapshots, SnapshotIds=[shared])


def test_what_no_image_can_be_is_refused(ec2: Any, refused: Refused) -> None:
    of = snapshot(ec2)
    register(ec2, "taken", of)
    good = {"Name": "good", "RootDeviceName": "/dev/xvda", "BlockDeviceMappings": [root(of)]}
    for code, change in [
        ("InvalidAMIName.Duplicate", {"Name": "taken"}),
        ("InvalidAMIName.Malformed", {"Name": "with:colon"}),
        ("InvalidBlockDeviceMapping", {"RootDeviceName": "/dev/sda1"}),
        ("InvalidBlockDeviceMapping", {"BlockDeviceMappings": [root(of), root(of)]}),
        ("InvalidBlockDeviceMapping", {"BlockDeviceMappings": [root(of, VolumeSize=3)]}),
        ("InvalidBlockDeviceMapping", {"BlockDeviceMappings": [root(of, Encrypted=True)]}),
        ("InvalidParameterValue", {"BlockDeviceMappings": [root(of, VolumeSize=99999)]}),
        ("InvalidParameterValue", {"BlockDeviceMappings": [{**root(of), "DeviceName": "/dev/nvme0n1"}]}),
        ("InvalidSnapshot.NotFound", {"BlockDeviceMappings": [root("snap-00000000000000000")]}),
        ("InvalidSnapshotID.Malformed", {"BlockDeviceMappings": [root("snap-1")]}),
        ("UnsupportedOperation", {"BlockDeviceMappings": [{"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}]}),
        ("UnsupportedOperation", {"Architecture": "arm64"}),
        ("InvalidParameterValue", {"SriovNetSupport": "complex"}),
        ("UnsupportedOperation", {"ImageLocation": "bucket/image.manifest.xml"}),
        ("UnsupportedOperation", {"VirtualizationType": "paravirtual"}),
    ]:
        refused(code, ec2.register_image, **{**good, **change})
    assert ids(ec2, Filters=[{"Name": "name", "Values": ["good"]}]) == set()


def test_an_image_is_copied_to_another_region(api: Any, ec2: Any, refused: Refused) -> None:
    tags = [{"Key": "stage", "Value": "test"}]
    of = register(ec2, "original", TagSpecifications=[{"ResourceType": "image", "Tags": tags}])
    west = api.client("ec2", region="us-west-2")
    wanted = {"Name": "copy", "SourceImageId": of, "SourceRegion": "us-east-1", "ClientToken": "c", "CopyImageTags": True}
    copy = west.copy_image(**wanted)["ImageId"]
    assert west.copy_image(**wanted)["ImageId"] == copy
    refused("IdempotentParameterMismatch", west.copy_image, **{**wanted, "Name": "other"})
    wait(west, "image_available", ImageIds=[copy])
    found = described(west, copy)
    assert (found["SourceImageId"], found["SourceImageRegion"], found["Tags"]) == (of, "us-east-1", tags)
    [mapping] = found["BlockDeviceMappings"]
    [kept] = west.describe_snapshots(SnapshotIds=[mapping["Ebs"]["SnapshotId"]])["Snapshots"]
    assert kept["State"] == "completed" and of in kept["Description"]
    secret = west.copy_image(Name="secret", SourceImageId=copy, SourceRegion="us-west-2", Encrypted=True, KmsKeyId="alias/k")["ImageId"]
    wait(west, "image_available", ImageIds=[secret])
    assert described(west, secret)["BlockDeviceMappings"][0]["Ebs"]["Encrypted"]
    refused("InvalidAMIID.NotFound", west.copy_image, Name="again", SourceImageId=of, SourceRegion="us-west-2")
    # The original and its snapshot are not needed any more.
    ec2.deregister_image(ImageId=of, DeleteAssociatedSnapshots=True)
    assert described(west, copy)["State"] == "available"


def test_an_image_is_shared(api: Any, ec2: Any, refused: Refused) -> None:
    other = api.client("ec2", account=OTHER)
    image = register(ec2, "shared")
    refused("InvalidAMIID.NotFound", other.describe_images, ImageIds=[image])
    ec2.modify_image_attribute(ImageId=image, LaunchPermission={"Add": [{"UserId": OTHER}]})
    assert described(other, image)["OwnerId"] == "000000000000"
    assert image in ids(other, ExecutableUsers=["self"]) and image in ids(other, Owners=["000000000000"])
    assert image not in ids(other, Owners=["self"])
    refused("AuthFailure", other.deregister_image, ImageId=image)
    refused("AuthFailure", other.describe_image_attribute, ImageId=image, Attribute="launchPermission")
    assert ec2.describe_image_attribute(ImageId=image, Attribute="launchPermission")["LaunchPermissions"] == [{"UserId": OTHER}]
    ec2.modify_image_attribute(ImageId=image, Attribute="launchPermission", OperationType="add", UserGroups=["all"])
    assert described(ec2, image)["Public"]
    ec2.reset_image_attribute(ImageId=image, Attribute="launchPermission")
    assert ec2.describe_image_attribute(ImageId=image, Attribute="launchPermission")["LaunchPermissions"] == []
    assert image not in ids(other)
    share = {"ImageId": image, "OperationType": "add"}
    refused("InvalidAMIAttributeItemValue", ec2.modify_image_attribute, **share, UserIds=["me"])
    refused("InvalidAMIAttributeItemValue", ec2.modify_image_attribute, **share, UserGroups=["some"])


def test_what_is_encrypted_is_not_for_everybody(ec2: Any, refused: Refused) -> None:
    image = register(ec2, "secret", snapshot(ec2, Encrypted=True))
    refused("OperationNotPermitted", ec2.modify_image_attribute, ImageId=image, LaunchPermission={"Add": [{"Group": "all"}]})


def test_attributes_of_an_image(ec2: Any, refused: Refused) -> None:
    image = register(ec2, "attributes", Description="old")

    def value(name: str) -> Any:
        return ec2.describe_image_attribute(ImageId=image, Attribute=name)

    assert value("description")["Description"]["Value"] == "old"
    ec2.modify_image_attribute(ImageId=image, Description={"Value": "new"})
    assert value("description")["Description"]["Value"] == "new"
    ec2.modify_image_attribute(ImageId=image, Attribute="description", Value="newer")
    assert described(ec2, image)["Description"] == "newer"
    assert value("blockDeviceMapping")["BlockDeviceMappings"][0]["DeviceName"] == "/dev/xvda"
    ec2.modify_image_attribute(ImageId=image, ImdsSupport={"Value": "v2.0"})
    assert value("imdsSupport")["ImdsSupport"]["Value"] == "v2.0"
    refused("InvalidParameterValue", ec2.modify_image_attribute, ImageId=image, Attribute="kernel", Value="aki-1")
    refused("MissingParameter", ec2.modify_image_attribute, ImageId=image)
    refused("UnsupportedOperation", ec2.modify_image_attribute, ImageId=image, ProductCodes=["x"])


def test_images_are_found_by_filters(api: Any, refused: Refused) -> None:
    ec2 = api.client("ec2", region="eu-west-3")
    of = snapshot(ec2, Size=3)
    image = register(ec2, "filtered", of, Description="a b")

    def found(name: str, value: str) -> set[str]:
        return ids(ec2, Owners=["self"], Filters=[{"Name": name, "Values": [value]}])

    for name, value in [
        ("name", "filt*"),
        ("description", "a?b"),
        ("image-id", image),
        ("owner-id", "000000000000"),
        ("is-public", "false"),
        ("block-device-mapping.snapshot-id", of),
        ("block-device-mapping.volume-size", "3"),
        ("block-device-mapping.volume-type", "gp2"),
        ("block-device-mapping.device-name", "/dev/xvda"),
        ("block-device-mapping.encrypted", "false"),
        ("block-device-mapping.delete-on-termination", "true"),
        ("root-device-name", "/dev/xvda"),
        ("image-type", "machine"),
        ("ena-support", "true"),
        ("manifest-location", "*/filtered"),
    ]:
        assert found(name, value) == {image}, name
        assert found(name, "nothing") == set(), name
    assert found("owner-alias", "amazon") == set() and found("platform", "windows") == set()
    refused("InvalidParameterValue", ec2.describe_images, Filters=[{"Name": "colour", "Values": ["red"]}])


def test_images_of_no_instance_are_refused(ec2: Any, refused: Refused) -> None:
    refused("InvalidInstanceID.NotFound", ec2.create_image, InstanceId="i-00000000000000000", Name="none")


def test_a_file_can_say_which_images_there_are(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps([{"name": "x"}]))
    command = [os.environ["NIMBO"], "serve", "--simulate", "--listen", "127.0.0.1:0", "--seed-images", str(wrong)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1 and str(wrong) in done.stderr and "owner" in done.stderr
