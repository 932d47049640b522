"""Volumes: what there is, what there is not, and what becomes of them."""

from collections.abc import Callable
from typing import Any

import pytest

Refused = Callable[..., str]
ZONE = "us-east-1a"
NO_VOLUME = "vol-00000000000000000"


def wait(ec2: Any, name: str, **arguments: Any) -> None:
    ec2.get_waiter(name).wait(WaiterConfig={"Delay": 0.05, "MaxAttempts": 200}, **arguments)


def make(ec2: Any, **arguments: Any) -> str:
    volume = ec2.create_volume(**{"AvailabilityZone": ZONE, "Size": 8, **arguments})["VolumeId"]
    wait(ec2, "volume_available", VolumeIds=[volume])
    return volume


def described(ec2: Any, volume: str) -> dict[str, Any]:
    [found] = ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
    return found


def test_a_volume_is_made_described_and_deleted(ec2: Any, refused: Refused) -> None:
    tags = [{"Key": "Name", "Value": "data"}]
    made = ec2.create_volume(
        AvailabilityZone=ZONE, Size=10, VolumeType="gp3", TagSpecifications=[{"ResourceType": "volume", "Tags": tags}]
    )
    assert made["State"] == "creating" and made["Attachments"] == [] and made["Tags"] == tags
    volume = made["VolumeId"]
    wait(ec2, "volume_available", VolumeIds=[volume])
    found = described(ec2, volume)
    assert (found["Size"], found["VolumeType"], found["Iops"], found["Throughput"]) == (10, "gp3", 3000, 125)
    assert found["AvailabilityZone"] == ZONE and not found["Encrypted"] and not found["MultiAttachEnabled"]
    assert found["SnapshotId"] == "" and "KmsKeyId" not in found
    ec2.delete_volume(VolumeId=volume)
    wait(ec2, "volume_deleted", VolumeIds=[volume])
    assert volume in refused("InvalidVolume.NotFound", ec2.describe_volumes, VolumeIds=[volume])
    refused("InvalidVolume.NotFound", ec2.delete_volume, VolumeId=volume)


@pytest.mark.parametrize(
    ("wanted", "iops", "throughput"),
    [
        ({"Size": 1}, 100, None),
        ({"Size": 1, "VolumeType": "gp2"}, 100, None),
        ({"Size": 500, "VolumeType": "gp2"}, 1500, None),
        ({"Size": 16384, "VolumeType": "gp2"}, 16000, None),
        ({"Size": 100, "VolumeType": "gp3", "Iops": 4000, "Throughput": 500}, 4000, 500),
        ({"Size": 100, "VolumeType": "io1", "Iops": 5000}, 5000, None),
        ({"Size": 100, "VolumeType": "io2", "Iops": 100000}, 100000, None),
        ({"Size": 125, "VolumeType": "st1"}, None, None),
        ({"Size": 125, "VolumeType": "sc1"}, None, None),
        ({"Size": 10, "VolumeType": "standard"}, None, None),
    ],
)
def test_each_type_has_its_speed(ec2: Any, wanted: dict[str, Any], iops: int | None, throughput: int | None) -> None:
    found = described(ec2, make(ec2, **wanted))
    assert (found.get("Iops"), found.get("Throughput")) == (iops, throughput)
    assert found["VolumeType"] == wanted.get("VolumeType", "gp2")


@pytest.mark.parametrize(
    ("code", "wanted", "said"),
    [
        ("InvalidParameterValue", {"Size": 0}, "1 to 16384 GiB, not 0"),
        ("InvalidParameterValue", {"Size": -1}, "(-1)"),
        ("InvalidParameterValue", {"Size": 20000, "VolumeType": "gp2"}, "not 20000"),
        ("InvalidParameterValue", {"Size": 100, "VolumeType": "st1"}, "125 to 16384"),
        ("InvalidParameterValue", {"Size": 2000, "VolumeType": "standard"}, "1 to 1024"),
        ("InvalidParameterValue", {"Size": 3, "VolumeType": "io1", "Iops": 100}, "4 to 16384"),
        ("InvalidParameterValue", {"Size": 10, "VolumeType": "io1", "Iops": 501}, "at most 50"),
        ("InvalidParameterValue", {"Size": 10, "VolumeType": "gp3", "Iops": 2999}, "3000 to 80000"),
        ("InvalidParameterValue", {"Size": 10, "VolumeType": "gp3", "Throughput": 800}, "0.25"),
        ("InvalidParameterValue", {"Size": 10, "VolumeType": "gp9"}, "gp9"),
        ("InvalidParameterCombination", {"Size": 10, "VolumeType": "gp2", "Iops": 300}, "gp2"),
        ("InvalidParameterCombination", {"Size": 10, "VolumeType": "io1", "Iops": 300, "Throughput": 200}, "gp3 lets you"),
        ("InvalidParameterCombination", {"Size": 10, "VolumeType": "gp3", "MultiAttachEnabled": True}, "io1 and io2"),
        ("MissingParameter", {"Size": 10, "VolumeType": "io2"}, "100 to 256000"),
        ("MissingParameter", {}, "snapshotId"),
        ("InvalidZone.NotFound", {"Size": 10, "AvailabilityZone": "us-east-1q"}, "us-east-1q"),
        ("InvalidZone.NotFound", {"Size": 10, "AvailabilityZone": "eu-west-1a"}, "eu-west-1a"),
        ("InvalidSnapshotID.Malformed", {"SnapshotId": "snap-x"}, "snap-x"),
        ("InvalidSnapshot.NotFound", {"SnapshotId": "snap-00000000000000000"}, "snap-0000"),
        ("InvalidParameterDependency", {"Size": 1, "KmsKeyId": "mine"}, "Encrypted"),
        ("InvalidParameterValue", {"Size": 1, "Encrypted": True, "KmsKeyId": "a b"}, "a b"),
        ("UnknownParameter", {"Size": 1, "VolumeInitializationRate": 100}, "VolumeInitializationRate"),
    ],
)
def test_what_no_volume_can_be_is_refused(ec2: Any, refused: Refused, code: str, wanted: dict[str, Any], said: str) -> None:
    before = len(ec2.describe_volumes()["Volumes"])
    if code == "UnknownParameter":
        code = "UnsupportedOperation"
    assert said in refused(code, ec2.create_volume, **{"AvailabilityZone": ZONE, **wanted})
    assert len(ec2.describe_volumes()["Volumes"]) == before


def test_ids_that_are_none_are_told(ec2: Any, refused: Refused) -> None:
    assert NO_VOLUME in refused("InvalidVolume.NotFound", ec2.delete_volume, VolumeId=NO_VOLUME)
    assert "vol-1" in refused("InvalidVolumeID.Malformed", ec2.delete_volume, VolumeId="vol-1")
    refused("InvalidVolume.NotFound", ec2.modify_volume, VolumeId=NO_VOLUME, Size=9)
    refused("InvalidVolume.NotFound", ec2.create_snapshot, VolumeId=NO_VOLUME)
    refused("InvalidVolume.NotFound", ec2.describe_volume_status, VolumeIds=[NO_VOLUME])
    refused("InvalidVolume.NotFound", ec2.describe_volumes_modifications, VolumeIds=[NO_VOLUME])
    refused("InvalidVolume.NotFound", ec2.describe_volume_attribute, VolumeId=NO_VOLUME, Attribute="autoEnableIO")
    refused("InvalidInstanceID.NotFound", ec2.attach_volume, VolumeId=make(ec2), InstanceId="i-00000000000000000", Device="/dev/sdf")
    refused("IncorrectState", ec2.detach_volume, VolumeId=make(ec2))


def test_the_same_token_makes_one_volume(ec2: Any, refused: Refused) -> None:
    wanted = {"AvailabilityZone": ZONE, "Size": 3, "ClientToken": "once"}
    first = ec2.create_volume(**wanted)["VolumeId"]
    assert ec2.create_volume(**wanted)["VolumeId"] == first
    refused("IdempotentParameterMismatch", ec2.create_volume, **{**wanted, "Size": 4})
    assert ec2.create_volume(**{**wanted, "ClientToken": "twice"})["VolumeId"] != first


def test_a_zone_can_be_said_by_its_id(ec2: Any, refused: Refused) -> None:
    volume = ec2.create_volume(AvailabilityZoneId="use1-az2", Size=1)
    assert volume["AvailabilityZone"] == "us-east-1b" and volume["AvailabilityZoneId"] == "use1-az2"
    refused("InvalidParameterCombination", ec2.create_volume, AvailabilityZone=ZONE, AvailabilityZoneId="use1-az1", Size=1)


def test_volumes_are_found_by_filters(api: Any) -> None:
    ec2 = api.client("ec2", region="eu-west-2")
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "role", "Value": "db"}]}]
    small = ec2.create_volume(AvailabilityZone="eu-west-2a", Size=1, TagSpecifications=tags)["VolumeId"]
    large = ec2.create_volume(AvailabilityZone="eu-west-2b", Size=100, VolumeType="io1", Iops=100, Encrypted=True)["VolumeId"]
    wait(ec2, "volume_available", VolumeIds=[small, large])
    created = described(ec2, small)["CreateTime"].strftime("%Y-%m-%dT%H:*")

    def found(**wanted: str) -> set[str]:
        filters = [{"Name": name.replace("_", "-").replace("__", "."), "Values": [value]} for name, value in wanted.items()]
        return {volume["VolumeId"] for volume in ec2.describe_volumes(Filters=filters)["Volumes"]}

    assert found(size="1") == {small}
    assert found(volume_type="io1") == {large}
    assert found(availability_zone="eu-west-2b") == {large}
    assert found(availability_zone_id="euw2-az1") == {small}
    assert found(encrypted="true") == {large}
    assert found(status="available") == {small, large}
    assert found(status="in-use") == set()
    assert found(volume_id=small) == {small}
    assert found(create_time=created) == {small, large}
    assert found(multi_attach_enabled="false") == {small, large}
    assert found(tag_key="role") == {small}
    assert found(**{"tag:role": "d*"}) == {small}
    assert found(size="1", volume_type="io1") == set()
    assert found(**{"attachment.instance-id": "i-00000000000000000"}) == set()


def test_volumes_come_in_pages(api: Any) -> None:
    ec2 = api.client("ec2", region="eu-west-3")
    made = {ec2.create_volume(AvailabilityZone="eu-west-3a", Size=1)["VolumeId"] for _ in range(12)}
    pages = list(ec2.get_paginator("describe_volumes").paginate(PaginationConfig={"PageSize": 5}))
    assert [len(page["Volumes"]) for page in pages] == [5, 5, 2]
    assert {volume["VolumeId"] for page in pages for volume in page["Volumes"]} == made
    pages = list(ec2.get_paginator("describe_volume_status").paginate(PaginationConfig={"PageSize": 5}))
    assert {status["VolumeId"] for page in pages for status in page["VolumeStatuses"]} == made


def test_a_volume_grows_and_becomes_another_type(ec2: Any, refused: Refused) -> None:
    volume = make(ec2, Size=10, VolumeType="gp2")
    modification = ec2.modify_volume(VolumeId=volume, Size=20, VolumeType="gp3", Iops=4000, Throughput=250)["VolumeModification"]
    assert modification["ModificationState"] == "modifying" and modification["Progress"] == 0
    assert (modification["OriginalSize"], modification["OriginalIops"], modification["OriginalVolumeType"]) == (10, 100, "gp2")
    assert (modification["TargetSize"], modification["TargetIops"], modification["TargetThroughput"]) == (20, 4000, 250)
    modification = modified(ec2, volume)
    assert modification["Progress"] == 100 and modification["EndTime"]
    found = described(ec2, volume)
    assert (found["Size"], found["VolumeType"], found["Iops"], found["Throughput"]) == (20, "gp3", 4000, 250)
    # What is not said stays.
    ec2.modify_volume(VolumeId=volume, Size=30)
    modified(ec2, volume)
    found = described(ec2, volume)
    assert (found["Size"], found["VolumeType"], found["Iops"], found["Throughput"]) == (30, "gp3", 4000, 250)
    refused("InvalidParameterValue", ec2.modify_volume, VolumeId=volume, Size=29)
    refused("InvalidParameterValue", ec2.modify_volume, VolumeId=volume, Iops=500000)
    refused("InvalidParameterCombination", ec2.modify_volume, VolumeId=volume, VolumeType="gp2", Iops=3000)
    refused("MissingParameter", ec2.modify_volume, VolumeId=volume)
    ec2.modify_volume(VolumeId=volume, VolumeType="gp2")
    modified(ec2, volume)
    assert described(ec2, volume)["Iops"] == 100


def modified(ec2: Any, volume: str) -> dict[str, Any]:
    for _ in range(200):
        [modification] = ec2.describe_volumes_modifications(VolumeIds=[volume])["VolumesModifications"]
        if modification["ModificationState"] == "completed":
            return modification
    raise AssertionError(modification)


def test_modifications_are_found_by_filters(api: Any, refused: Refused) -> None:
    ec2 = api.client("ec2", region="sa-east-1")
    volume = make(ec2, AvailabilityZone="sa-east-1a")
    other = make(ec2, AvailabilityZone="sa-east-1a")
    assert ec2.describe_volumes_modifications()["VolumesModifications"] == []
    refused("InvalidVolumeModification.NotFound", ec2.describe_volumes_modifications, VolumeIds=[other])
    ec2.modify_volume(VolumeId=volume, Size=9)
    modified(ec2, volume)
    for name, value in [("modification-state", "completed"), ("target-size", "9"), ("original-size", "8"), ("original-volume-type", "gp2")]:
        found = ec2.describe_volumes_modifications(Filters=[{"Name": name, "Values": [value]}])["VolumesModifications"]
        assert [each["VolumeId"] for each in found] == [volume], name
    refused("InvalidParameterValue", ec2.describe_volumes_modifications, Filters=[{"Name": "colour", "Values": ["red"]}])


def test_sharing_by_instances_is_a_matter_of_io1_and_io2(ec2: Any, refused: Refused) -> None:
    assert described(ec2, make(ec2, VolumeType="io1", Iops=100, MultiAttachEnabled=True))["MultiAttachEnabled"]
    volume = make(ec2, VolumeType="io2", Iops=100)
    ec2.modify_volume(VolumeId=volume, MultiAttachEnabled=True)
    modified(ec2, volume)
    assert described(ec2, volume)["MultiAttachEnabled"]
    refused("InvalidParameterCombination", ec2.modify_volume, VolumeId=volume, VolumeType="gp3")
    refused("InvalidParameterCombination", ec2.modify_volume, VolumeId=make(ec2), MultiAttachEnabled=True)


def test_the_status_of_a_volume(ec2: Any) -> None:
    volume = make(ec2)
    [status] = ec2.describe_volume_status(VolumeIds=[volume])["VolumeStatuses"]
    assert status["VolumeStatus"]["Status"] == "ok" and status["Events"] == [] and status["Actions"] == []
    assert {"Name": "io-enabled", "Status": "passed"} in status["VolumeStatus"]["Details"]
    filters = [{"Name": "volume-status.status", "Values": ["impaired"]}]
    assert ec2.describe_volume_status(Filters=filters)["VolumeStatuses"] == []


def test_attributes_of_a_volume(ec2: Any) -> None:
    volume = make(ec2)
    assert not ec2.describe_volume_attribute(VolumeId=volume, Attribute="autoEnableIO")["AutoEnableIO"]["Value"]
    ec2.modify_volume_attribute(VolumeId=volume, AutoEnableIO={"Value": True})
    assert ec2.describe_volume_attribute(VolumeId=volume, Attribute="autoEnableIO")["AutoEnableIO"]["Value"]
    assert ec2.describe_volume_attribute(VolumeId=volume, Attribute="productCodes")["ProductCodes"] == []


def test_a_volume_is_encrypted_by_a_key(ec2: Any) -> None:
    own = described(ec2, make(ec2, Encrypted=True))
    assert own["Encrypted"] and own["KmsKeyId"] == "arn:aws:kms:us-east-1:000000000000:alias/aws/ebs"
    arn = "arn:aws:kms:us-east-1:000000000000:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    for name in [arn, "1234abcd-12ab-34cd-56ef-1234567890ab"]:
        assert described(ec2, make(ec2, Encrypted=True, KmsKeyId=name))["KmsKeyId"] == arn
    alias = described(ec2, make(ec2, Encrypted=True, KmsKeyId="alias/mine"))
    assert alias["KmsKeyId"] == "arn:aws:kms:us-east-1:000000000000:alias/mine"


def test_volumes_can_be_encrypted_by_default(api: Any, refused: Refused) -> None:
    ec2 = api.client("ec2", region="us-west-1")
    assert ec2.get_ebs_encryption_by_default()["EbsEncryptionByDefault"] is False
    assert ec2.get_ebs_default_kms_key_id()["KmsKeyId"] == "alias/aws/ebs"
    assert ec2.enable_ebs_encryption_by_default()["EbsEncryptionByDefault"] is True
    assert ec2.get_ebs_encryption_by_default()["SseType"] == "sse-kms"
    key = ec2.modify_ebs_default_kms_key_id(KmsKeyId="alias/house")["KmsKeyId"]
    assert ec2.get_ebs_default_kms_key_id()["KmsKeyId"] == key == "arn:aws:kms:us-west-1:000000000000:alias/house"
    made = ec2.create_volume(AvailabilityZone="us-west-1a", Size=1)
    assert made["Encrypted"] and made["KmsKeyId"] == key
    assert ec2.create_volume(AvailabilityZone="us-west-1a", Size=1, KmsKeyId="alias/x")["KmsKeyId"].endswith("alias/x")
    assert ec2.reset_ebs_default_kms_key_id()["KmsKeyId"] == "alias/aws/ebs"
    assert ec2.disable_ebs_encryption_by_default()["EbsEncryptionByDefault"] is False
    assert not ec2.create_volume(AvailabilityZone="us-west-1a", Size=1)["Encrypted"]
    refused("InvalidParameterValue", ec2.modify_ebs_default_kms_key_id, KmsKeyId="arn:aws:kms:eu-west-1:000000000000:key/x")
    # Another region has its own.
    assert api.client("ec2").get_ebs_encryption_by_default()["EbsEncryptionByDefault"] is False


def test_a_dry_run_makes_nothing(ec2: Any, refused: Refused) -> None:
    before = len(ec2.describe_volumes()["Volumes"])
    refused("DryRunOperation", ec2.create_volume, AvailabilityZone=ZONE, Size=1, DryRun=True)
    assert len(ec2.describe_volumes()["Volumes"]) == before
