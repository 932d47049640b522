"""Snapshots: of volumes, of each other, shared and deleted."""

from collections.abc import Callable
from typing import Any

import pytest

Refused = Callable[..., str]
OTHER = "111111111111"
THIRD = "222222222222"


def wait(ec2: Any, name: str, **arguments: Any) -> None:
    ec2.get_waiter(name).wait(WaiterConfig={"Delay": 0.05, "MaxAttempts": 200}, **arguments)


def volume(ec2: Any, **arguments: Any) -> str:
    made = ec2.create_volume(**{"AvailabilityZone": f"{ec2.meta.region_name}a", "Size": 4, **arguments})["VolumeId"]
    wait(ec2, "volume_available", VolumeIds=[made])
    return made


def snapshot(ec2: Any, of: str | None = None, **arguments: Any) -> str:
    made = ec2.create_snapshot(VolumeId=of or volume(ec2), **arguments)["SnapshotId"]
    wait(ec2, "snapshot_completed", SnapshotIds=[made])
    return made


def described(ec2: Any, wanted: str) -> dict[str, Any]:
    [found] = ec2.describe_snapshots(SnapshotIds=[wanted])["Snapshots"]
    return found


def ids(ec2: Any, **arguments: Any) -> set[str]:
    return {each["SnapshotId"] for each in ec2.describe_snapshots(**arguments)["Snapshots"]}


def test_a_snapshot_is_made_described_and_deleted(ec2: Any, refused: Refused) -> None:
    of = volume(ec2)
    tags = [{"Key": "Name", "Value": "nightly"}]
    made = ec2.create_snapshot(VolumeId=of, Description="before", TagSpecifications=[{"ResourceType": "snapshot", "Tags": tags}])
    assert made["State"] == "pending" and made["Progress"] == "0%" and made["Tags"] == tags
    wait(ec2, "snapshot_completed", SnapshotIds=[made["SnapshotId"]])
    found = described(ec2, made["SnapshotId"])
    assert (found["State"], found["Progress"], found["VolumeSize"], found["VolumeId"]) == ("completed", "100%", 4, of)
    assert found["OwnerId"] == "000000000000" and found["Description"] == "before" and not found["Encrypted"]
    assert found["StorageTier"] == "standard" and found["CompletionTime"] >= found["StartTime"].replace(microsecond=0)
    ec2.delete_snapshot(SnapshotId=made["SnapshotId"])
    refused("InvalidSnapshot.NotFound", ec2.describe_snapshots, SnapshotIds=[made["SnapshotId"]])
    refused("InvalidSnapshot.NotFound", ec2.delete_snapshot, SnapshotId=made["SnapshotId"])
    refused("InvalidSnapshotID.Malformed", ec2.delete_snapshot, SnapshotId="snap-1")


def test_a_volume_is_made_of_a_snapshot_and_outlives_it(ec2: Any, refused: Refused) -> None:
    of = snapshot(ec2)
    restored = volume(ec2, SnapshotId=of, Size=6)
    same = ec2.create_volume(AvailabilityZone="us-east-1b", SnapshotId=of)
    assert same["Size"] == 4 and same["SnapshotId"] == of
    assert of in refused("InvalidParameterValue", ec2.create_volume, AvailabilityZone="us-east-1a", SnapshotId=of, Size=3)
    ec2.delete_snapshot(SnapshotId=of)
    [found] = ec2.describe_volumes(Filters=[{"Name": "snapshot-id", "Values": [of]}, {"Name": "size", "Values": ["6"]}])["Volumes"]
    assert found["VolumeId"] == restored


def test_what_is_made_of_what_is_encrypted_is(ec2: Any, refused: Refused) -> None:
    of = snapshot(ec2, volume(ec2, Encrypted=True, KmsKeyId="alias/mine"))
    key = described(ec2, of)["KmsKeyId"]
    assert key.endswith(":alias/mine")
    restored = ec2.create_volume(AvailabilityZone="us-east-1a", SnapshotId=of)
    assert restored["Encrypted"] and restored["KmsKeyId"] == key
    other = ec2.create_volume(AvailabilityZone="us-east-1a", SnapshotId=of, Encrypted=True, KmsKeyId="alias/other")
    assert other["KmsKeyId"].endswith(":alias/other")
    refused("InvalidParameterCombination", ec2.create_volume, AvailabilityZone="us-east-1a", SnapshotId=of, Encrypted=False)


def test_a_snapshot_is_copied_within_a_region_and_to_another(api: Any, ec2: Any, refused: Refused) -> None:
    of = snapshot(ec2, Description="first")
    tags = [{"Key": "copy", "Value": "1"}]
    copy = ec2.copy_snapshot(
        SourceRegion="us-east-1", SourceSnapshotId=of, Description="second", TagSpecifications=[{"ResourceType": "snapshot", "Tags": tags}]
    )
    assert copy["Tags"] == tags
    wait(ec2, "snapshot_completed", SnapshotIds=[copy["SnapshotId"]])
    assert described(ec2, copy["SnapshotId"])["Description"] == "second"
    west = api.client("ec2", region="us-west-2")
    copy = west.copy_snapshot(SourceRegion="us-east-1", SourceSnapshotId=of, Encrypted=True, KmsKeyId="alias/west")["SnapshotId"]
    wait(west, "snapshot_completed", SnapshotIds=[copy])
    found = described(west, copy)
    assert found["KmsKeyId"] == "arn:aws:kms:us-west-2:000000000000:alias/west" and found["VolumeSize"] == 4
    assert found["VolumeId"] == "vol-ffffffff"
    refused("InvalidSnapshot.NotFound", ec2.describe_snapshots, SnapshotIds=[copy])
    refused("InvalidSnapshot.NotFound", west.copy_snapshot, SourceRegion="us-west-2", SourceSnapshotId=of)
    refused("InvalidParameterValue", west.copy_snapshot, SourceRegion="mars-1", SourceSnapshotId=of)
    # A key does not leave its region: the copy of what is encrypted has another.
    again = ec2.copy_snapshot(SourceRegion="us-west-2", SourceSnapshotId=copy)["SnapshotId"]
    assert described(ec2, again)["KmsKeyId"].endswith("us-east-1:000000000000:alias/aws/ebs")
    refused("InvalidParameterCombination", ec2.copy_snapshot, SourceRegion="us-west-2", SourceSnapshotId=copy, Encrypted=False)


def test_a_snapshot_is_shared_with_an_account(api: Any, ec2: Any, refused: Refused) -> None:
    other, third = (api.client("ec2", account=account) for account in (OTHER, THIRD))
    of = snapshot(ec2, TagSpecifications=[{"ResourceType": "snapshot", "Tags": [{"Key": "mine", "Value": ""}]}])
    refused("InvalidSnapshot.NotFound", other.describe_snapshots, SnapshotIds=[of])
    ec2.modify_snapshot_attribute(SnapshotId=of, CreateVolumePermission={"Add": [{"UserId": OTHER}]})
    seen = described(other, of)
    assert seen["OwnerId"] == "000000000000" and "Tags" not in seen
    assert of in ids(other) and of not in ids(other, OwnerIds=["self"]) and of in ids(other, OwnerIds=["000000000000"])
    assert of in ids(other, RestorableByUserIds=["self"]) and of not in ids(other, RestorableByUserIds=["all"])
    assert of not in ids(third)
    assert volume(other, SnapshotId=of)
    refused("InvalidSnapshot.NotFound", other.delete_snapshot, SnapshotId=of)
    refused("InvalidSnapshot.NotFound", third.create_volume, AvailabilityZone="us-east-1a", SnapshotId=of)
    permissions = ec2.describe_snapshot_attribute(SnapshotId=of, Attribute="createVolumePermission")
    assert permissions["CreateVolumePermissions"] == [{"UserId": OTHER}]
    ec2.modify_snapshot_attribute(SnapshotId=of, Attribute="createVolumePermission", OperationType="remove", UserIds=[OTHER])
    assert of not in ids(other)


def test_a_snapshot_is_shared_with_everybody(api: Any, ec2: Any, refused: Refused) -> None:
    third = api.client("ec2", account=THIRD)
    of = snapshot(ec2)
    ec2.modify_snapshot_attribute(SnapshotId=of, Attribute="createVolumePermission", OperationType="add", GroupNames=["all"])
    assert of in ids(third, RestorableByUserIds=["all"])
    assert ec2.describe_snapshot_attribute(SnapshotId=of, Attribute="createVolumePermission")["CreateVolumePermissions"] == [
        {"Group": "all"}
    ]
    ec2.reset_snapshot_attribute(SnapshotId=of, Attribute="createVolumePermission")
    assert of not in ids(third)
    refused("MissingParameter", ec2.modify_snapshot_attribute, SnapshotId=of)
    refused("InvalidParameterValue", ec2.modify_snapshot_attribute, SnapshotId=of, OperationType="add", UserIds=["me"])
    refused("InvalidParameterValue", ec2.modify_snapshot_attribute, SnapshotId=of, OperationType="add", GroupNames=["some"])


def test_what_is_encrypted_is_not_for_everybody(ec2: Any, refused: Refused) -> None:
    of = snapshot(ec2, volume(ec2, Encrypted=True))
    share = {"SnapshotId": of, "Attribute": "createVolumePermission", "OperationType": "add"}
    refused("OperationNotPermitted", ec2.modify_snapshot_attribute, **share, GroupNames=["all"])
    refused("OperationNotPermitted", ec2.modify_snapshot_attribute, **share, UserIds=[OTHER])
    of = snapshot(ec2, volume(ec2, Encrypted=True, KmsKeyId="alias/shared"))
    ec2.modify_snapshot_attribute(**{**share, "SnapshotId": of}, UserIds=[OTHER])
    refused("OperationNotPermitted", ec2.modify_snapshot_attribute, **{**share, "SnapshotId": of}, GroupNames=["all"])


def test_snapshots_are_found_by_filters_and_pages(api: Any, refused: Refused) -> None:
    ec2 = api.client("ec2", region="ca-central-1")
    of = volume(ec2, Size=2)
    made = {snapshot(ec2, of, Description=f"number {number}") for number in range(7)}
    encrypted = snapshot(ec2, volume(ec2, Encrypted=True))

    def found(name: str, value: str) -> set[str]:
        return ids(ec2, OwnerIds=["self"], Filters=[{"Name": name, "Values": [value]}])

    assert found("volume-id", of) == made and found("volume-size", "2") == made
    assert found("encrypted", "true") == {encrypted}
    assert len(found("description", "number 3")) == 1
    assert found("status", "completed") == made | {encrypted} and found("status", "pending") == set()
    assert found("progress", "100%") == made | {encrypted} and found("owner-id", OTHER) == set()
    assert found("snapshot-id", encrypted) == {encrypted} and found("storage-tier", "archive") == set()
    refused("InvalidParameterValue", ec2.describe_snapshots, Filters=[{"Name": "colour", "Values": ["red"]}])
    pages = list(ec2.get_paginator("describe_snapshots").paginate(OwnerIds=["self"], PaginationConfig={"PageSize": 5}))
    assert [len(page["Snapshots"]) for page in pages] == [5, 3]
    assert {each["SnapshotId"] for page in pages for each in page["Snapshots"]} == made | {encrypted}
    refused("InvalidParameterValue", ec2.describe_snapshots, OwnerIds=["me"])


@pytest.mark.parametrize("code", ["InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"])
def test_snapshots_of_no_instance_are_refused(ec2: Any, refused: Refused, code: str) -> None:
    instance = "i-00000000000000000" if code.endswith("NotFound") else "x"
    refused(code, ec2.create_snapshots, InstanceSpecification={"InstanceId": instance})
