"""Tags, placement groups, regions, zones and account attributes."""

from collections.abc import Callable
from typing import Any

import pytest

UNKNOWN = "00000000000000000"


def filters(**wanted: str) -> list[dict[str, Any]]:
    return [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in wanted.items()]


def tags(**wanted: str) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in wanted.items()]


def of(ec2: Any, resource: str) -> dict[str, str]:
    found = ec2.describe_tags(Filters=filters(resource_id=resource))["Tags"]
    return {tag["Key"]: tag["Value"] for tag in found}


@pytest.fixture
def vpc(ec2: Any) -> Any:
    vpc = ec2.create_vpc(CidrBlock="10.40.0.0/16")["Vpc"]["VpcId"]
    yield vpc
    ec2.delete_vpc(VpcId=vpc)


def test_tags_are_put_on_changed_and_taken_off(ec2: Any, vpc: str) -> None:
    [group] = ec2.describe_security_groups(Filters=filters(vpc_id=vpc))["SecurityGroups"]
    ec2.create_tags(Resources=[vpc, group["GroupId"]], Tags=tags(a="1", b="2", c=""))
    ec2.create_tags(Resources=[vpc], Tags=tags(a="3"))
    assert of(ec2, vpc) == {"a": "3", "b": "2", "c": ""} and of(ec2, group["GroupId"])["a"] == "1"
    assert ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"][0]["Tags"] == tags(a="3", b="2", c="")
    # By key and value, which must be it; by key alone; all.
    ec2.delete_tags(Resources=[vpc], Tags=[{"Key": "a", "Value": "1"}, {"Key": "b"}])
    assert of(ec2, vpc) == {"a": "3", "c": ""}
    ec2.delete_tags(Resources=[vpc])
    assert of(ec2, vpc) == {} and of(ec2, group["GroupId"]) == {"a": "1", "b": "2", "c": ""}


def test_tags_go_with_their_resource(ec2: Any) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.41.0.0/16", TagSpecifications=[{"ResourceType": "vpc", "Tags": tags(gone="soon")}])["Vpc"]["VpcId"]
    [tag] = ec2.describe_tags(Filters=filters(key="gone"))["Tags"]
    assert tag == {"Key": "gone", "Value": "soon", "ResourceId": vpc, "ResourceType": "vpc"}
    ec2.delete_vpc(VpcId=vpc)
    assert ec2.describe_tags(Filters=filters(key="gone"))["Tags"] == []


def test_tags_of_rules_go_with_their_vpc(ec2: Any) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.42.0.0/16")["Vpc"]["VpcId"]
    [group] = ec2.describe_security_groups(Filters=filters(vpc_id=vpc))["SecurityGroups"]
    rules = ec2.describe_security_group_rules(Filters=filters(group_id=group["GroupId"]))["SecurityGroupRules"]
    ec2.create_tags(Resources=[rule["SecurityGroupRuleId"] for rule in rules], Tags=tags(rule="default"))
    assert len(ec2.describe_tags(Filters=filters(key="rule"))["Tags"]) == 2
    ec2.delete_vpc(VpcId=vpc)
    assert ec2.describe_tags(Filters=filters(key="rule"))["Tags"] == []


def test_every_kind_of_resource_is_tagged_and_told_by_its_type(ec2: Any, vpc: str) -> None:
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.40.0.0/24")["Subnet"]["SubnetId"]
    group = ec2.describe_security_groups(Filters=filters(vpc_id=vpc))["SecurityGroups"][0]["GroupId"]
    resources = {
        "vpc": vpc,
        "subnet": subnet,
        "security-group": group,
        "security-group-rule": ec2.describe_security_group_rules(Filters=filters(group_id=group))["SecurityGroupRules"][0]["SecurityGroupRuleId"],
        "network-interface": ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"],
        "elastic-ip": ec2.allocate_address()["AllocationId"],
        "key-pair": ec2.create_key_pair(KeyName="tagged", KeyType="ed25519")["KeyPairId"],
        "placement-group": ec2.create_placement_group(GroupName="tagged")["PlacementGroup"]["GroupId"],
    }
    ec2.create_tags(Resources=list(resources.values()), Tags=tags(kinds="all"))
    found = ec2.describe_tags(Filters=filters(key="kinds"))["Tags"]
    assert {tag["ResourceType"]: tag["ResourceId"] for tag in found} == resources
    [tag] = ec2.describe_tags(Filters=filters(resource_type="elastic-ip", value="a?l"))["Tags"]
    assert tag["ResourceId"] == resources["elastic-ip"]
    assert len(ec2.describe_tags(Filters=[{"Name": "tag:kinds", "Values": ["all"]}])["Tags"]) == len(resources)
    ec2.delete_network_interface(NetworkInterfaceId=resources["network-interface"])
    ec2.delete_subnet(SubnetId=subnet)
    ec2.release_address(AllocationId=resources["elastic-ip"])


def test_what_cannot_be_tagged_is_refused(ec2: Any, vpc: str, refused: Callable[..., str]) -> None:
    for code, resource in [
        ("InvalidVpcID.NotFound", f"vpc-{UNKNOWN}"),
        ("InvalidInstanceID.NotFound", f"i-{UNKNOWN}"),
        ("InvalidSecurityGroupRuleId.NotFound", f"sgr-{UNKNOWN}"),
        ("InvalidGroup.NotFound", f"sg-{UNKNOWN}"),
        ("InvalidID", "thing-1"),
        ("InvalidID", f"eipassoc-{UNKNOWN}"),
    ]:
        # Neither is tagged what the request names beside it.
        assert resource in refused(code, ec2.create_tags, Resources=[vpc, resource], Tags=tags(a="1"))
    assert of(ec2, vpc) == {}


@pytest.mark.parametrize(("key", "value"), [("aws:x", "1"), ("AWS:x", "1"), ("k" * 128 + "k", "1"), ("k", "v" * 257), ("", "1")])
def test_tags_that_there_cannot_be(ec2: Any, vpc: str, refused: Callable[..., str], key: str, value: str) -> None:
    refused("InvalidParameterValue", ec2.create_tags, Resources=[vpc], Tags=[{"Key": key, "Value": value}])


def test_a_resource_has_fifty_tags(ec2: Any, vpc: str, refused: Callable[..., str]) -> None:
    ec2.create_tags(Resources=[vpc], Tags=[{"Key": f"key {number}", "Value": ""} for number in range(50)])
    refused("TagLimitExceeded", ec2.create_tags, Resources=[vpc], Tags=tags(one="more"))
    ec2.create_tags(Resources=[vpc], Tags=[{"Key": "key 7", "Value": "changed"}])
    pages = list(ec2.get_paginator("describe_tags").paginate(Filters=filters(resource_id=vpc), PaginationConfig={"PageSize": 20}))
    assert [len(page["Tags"]) for page in pages] == [20, 20, 10]
    assert len({tag["Key"] for page in pages for tag in page["Tags"]}) == 50


def test_a_key_is_named_once(ec2: Any, vpc: str, refused: Callable[..., str]) -> None:
    refused("InvalidParameterValue", ec2.create_tags, Resources=[vpc], Tags=[*tags(a="1"), *tags(a="2")])


def test_placement_groups(ec2: Any, refused: Callable[..., str]) -> None:
    specification = [{"ResourceType": "placement-group", "Tags": tags(Name="near")}]
    near = ec2.create_placement_group(GroupName="near", Strategy="cluster", TagSpecifications=specification)["PlacementGroup"]
    assert near["GroupArn"] == "arn:aws:ec2:us-east-1:000000000000:placement-group/near" and near["Tags"] == tags(Name="near")
    ec2.create_placement_group(GroupName="far", Strategy="spread")
    parts = ec2.create_placement_group(GroupName="parts", Strategy="partition", PartitionCount=3)["PlacementGroup"]
    assert (parts["PartitionCount"], parts["State"]) == (3, "available")
    [far] = ec2.describe_placement_groups(Filters=filters(strategy="spread"))["PlacementGroups"]
    assert (far["GroupName"], far["SpreadLevel"]) == ("far", "rack")
    assert ec2.describe_placement_groups(GroupIds=[near["GroupId"]], GroupNames=["near"])["PlacementGroups"] == [near]
    refused("InvalidPlacementGroup.Duplicate", ec2.create_placement_group, GroupName="near", Strategy="cluster")
    refused("InvalidParameterValue", ec2.create_placement_group, GroupName="x", Strategy="partition", PartitionCount=8)
    refused("InvalidParameterValue", ec2.create_placement_group, GroupName="x", Strategy="cluster", PartitionCount=2)
    refused("InvalidParameterValue", ec2.create_placement_group, GroupName="x", Strategy="spread", SpreadLevel="host")
    refused("MissingParameter", ec2.create_placement_group, Strategy="spread")
    for name in ("near", "far", "parts"):
        ec2.delete_placement_group(GroupName=name)
    refused("InvalidPlacementGroup.Unknown", ec2.delete_placement_group, GroupName="near")
    refused("InvalidPlacementGroup.Unknown", ec2.describe_placement_groups, GroupNames=["near"])


def test_regions(ec2: Any, refused: Callable[..., str]) -> None:
    regions = ec2.describe_regions()["Regions"]
    assert len(regions) == 17
    [region] = ec2.describe_regions(RegionNames=["eu-west-1"], AllRegions=True)["Regions"]
    assert region == {"OptInStatus": "opt-in-not-required", "RegionName": "eu-west-1", "Endpoint": "ec2.eu-west-1.amazonaws.com"}
    found = ec2.describe_regions(Filters=filters(region_name="us-*"))["Regions"]
    assert [each["RegionName"] for each in found] == ["us-east-1", "us-east-2", "us-west-1", "us-west-2"]
    refused("InvalidParameterValue", ec2.describe_regions, RegionNames=["mars-1"])


def test_zones(api: Any, refused: Callable[..., str]) -> None:
    ec2 = api.client("ec2", region="eu-west-1")
    zones = ec2.describe_availability_zones()["AvailabilityZones"]
    assert [(zone["ZoneName"], zone["ZoneId"], zone["State"]) for zone in zones] == [
        ("eu-west-1a", "euw1-az1", "available"),
        ("eu-west-1b", "euw1-az2", "available"),
        ("eu-west-1c", "euw1-az3", "available"),
    ]
    assert {(zone["RegionName"], zone["ZoneType"]) for zone in zones} == {("eu-west-1", "availability-zone")}
    # What Terraform and Ansible ask before all else.
    asked = [*filters(opt_in_status="opt-in-not-required"), *filters(state="available")]
    assert len(ec2.describe_availability_zones(Filters=asked)["AvailabilityZones"]) == 3
    [zone] = ec2.describe_availability_zones(ZoneIds=["euw1-az2"])["AvailabilityZones"]
    assert zone["ZoneName"] == "eu-west-1b"
    refused("InvalidParameterValue", ec2.describe_availability_zones, ZoneNames=["us-east-1a"])


def test_account_attributes(ec2: Any) -> None:
    [vpc] = ec2.describe_vpcs(Filters=filters(is_default="true"))["Vpcs"]
    attributes = ec2.describe_account_attributes(AttributeNames=["default-vpc", "supported-platforms"])["AccountAttributes"]
    values = {each["AttributeName"]: each["AttributeValues"][0]["AttributeValue"] for each in attributes}
    assert values == {"supported-platforms": "VPC", "default-vpc": vpc["VpcId"]}
