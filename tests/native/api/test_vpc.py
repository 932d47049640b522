"""VPCs and subnets."""

from collections.abc import Callable
from typing import Any

import pytest


def filters(**wanted: str) -> list[dict[str, Any]]:
    return [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in wanted.items()]


def test_an_account_has_a_default_vpc_with_a_subnet_in_each_zone(ec2: Any) -> None:
    [vpc] = ec2.describe_vpcs(Filters=filters(is_default="true"))["Vpcs"]
    assert vpc["CidrBlock"] == "172.31.0.0/16"
    subnets = ec2.describe_subnets(Filters=filters(vpc_id=vpc["VpcId"]))["Subnets"]
    assert sorted(subnet["AvailabilityZone"] for subnet in subnets) == ["us-east-1a", "us-east-1b", "us-east-1c"]
    assert all(subnet["MapPublicIpOnLaunch"] and subnet["AvailableIpAddressCount"] == 4091 for subnet in subnets)


def test_a_vpc_is_made_tagged_found_and_deleted(ec2: Any, refused: Callable[..., str]) -> None:
    tags = [{"Key": "Name", "Value": "web"}, {"Key": "stage", "Value": "test"}]
    vpc = ec2.create_vpc(CidrBlock="10.1.2.3/16", TagSpecifications=[{"ResourceType": "vpc", "Tags": tags}])["Vpc"]
    assert vpc["CidrBlock"] == "10.1.0.0/16"
    assert vpc["Tags"] == tags
    found = ec2.describe_vpcs(Filters=[{"Name": "tag:Name", "Values": ["w?b", "x"]}, {"Name": "tag-key", "Values": ["st*"]}])["Vpcs"]
    assert [each["VpcId"] for each in found] == [vpc["VpcId"]]
    for name in ("cidr", "cidr-block"):
        [found] = ec2.describe_vpcs(Filters=[{"Name": name, "Values": ["10.1.0.0/16"]}])["Vpcs"]
        assert found["VpcId"] == vpc["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc["VpcId"], CidrBlock="10.1.7.0/24")["Subnet"]
    refused("DependencyViolation", ec2.delete_vpc, VpcId=vpc["VpcId"])
    ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    ec2.delete_vpc(VpcId=vpc["VpcId"])
    refused("InvalidVpcID.NotFound", ec2.describe_vpcs, VpcIds=[vpc["VpcId"]])


def test_attributes_of_a_vpc_are_read_back(ec2: Any, refused: Callable[..., str]) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.2.0.0/16")["Vpc"]["VpcId"]

    def value(name: str) -> bool:
        return ec2.describe_vpc_attribute(VpcId=vpc, Attribute=name)[name[0].upper() + name[1:]]["Value"]

    assert value("enableDnsSupport") and not value("enableDnsHostnames")
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsSupport={"Value": False})
    assert value("enableDnsHostnames") and not value("enableDnsSupport")
    refused("InvalidParameterValue", ec2.describe_vpc_attribute, VpcId=vpc, Attribute="enableNothing")


def test_a_vpc_can_have_further_ranges(ec2: Any, refused: Callable[..., str]) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.3.0.0/24")["Vpc"]
    added = ec2.associate_vpc_cidr_block(VpcId=vpc["VpcId"], CidrBlock="10.4.0.0/24")["CidrBlockAssociation"]
    refused("InvalidVpc.Conflict", ec2.associate_vpc_cidr_block, VpcId=vpc["VpcId"], CidrBlock="10.4.0.0/28")
    subnet = ec2.create_subnet(VpcId=vpc["VpcId"], CidrBlock="10.4.0.0/25")["Subnet"]["SubnetId"]
    refused("InvalidCidrBlock.InUse", ec2.disassociate_vpc_cidr_block, AssociationId=added["AssociationId"])
    # What was refused has changed nothing.
    assert len(ec2.describe_vpcs(VpcIds=[vpc["VpcId"]])["Vpcs"][0]["CidrBlockAssociationSet"]) == 2
    ec2.delete_subnet(SubnetId=subnet)
    ec2.disassociate_vpc_cidr_block(AssociationId=added["AssociationId"])
    primary = vpc["CidrBlockAssociationSet"][0]["AssociationId"]
    refused("OperationNotPermitted", ec2.disassociate_vpc_cidr_block, AssociationId=primary)


@pytest.mark.parametrize("cidr", ["10.0.0.0/15", "10.0.0.0/29"])
def test_ranges_that_vpcs_cannot_have_are_refused(ec2: Any, refused: Callable[..., str], cidr: str) -> None:
    assert cidr in refused("InvalidVpc.Range", ec2.create_vpc, CidrBlock=cidr)


def test_what_is_wrong_with_a_subnet_is_told(ec2: Any, refused: Callable[..., str]) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.5.0.0/16")["Vpc"]["VpcId"]
    ec2.create_subnet(VpcId=vpc, CidrBlock="10.5.1.0/24", AvailabilityZone="us-east-1c")
    refused("InvalidSubnet.Conflict", ec2.create_subnet, VpcId=vpc, CidrBlock="10.5.0.0/20")
    refused("InvalidSubnet.Range", ec2.create_subnet, VpcId=vpc, CidrBlock="10.6.0.0/24")
    refused("InvalidParameterValue", ec2.create_subnet, VpcId=vpc, CidrBlock="10.5.2.0/24", AvailabilityZone="us-west-1a")
    refused("InvalidVpcID.NotFound", ec2.create_subnet, VpcId="vpc-00000000000000000", CidrBlock="10.5.2.0/24")
    refused("InvalidVpcID.Malformed", ec2.create_subnet, VpcId="vpc-x", CidrBlock="10.5.2.0/24")


def test_regions_and_accounts_have_their_own(api: Any) -> None:
    spaces = [{"region": "eu-west-1"}, {"account": "111111111111"}, {}]
    clients = [api.client("ec2", **space) for space in spaces]
    vpcs = [client.describe_vpcs(Filters=filters(is_default="true"))["Vpcs"][0] for client in clients]
    assert len({vpc["VpcId"] for vpc in vpcs}) == 3
    assert [vpc["OwnerId"] for vpc in vpcs] == ["000000000000", "111111111111", "000000000000"]


def test_pages_hold_all_once(api: Any) -> None:
    ec2 = api.client("ec2", region="eu-north-1")
    made = {ec2.create_vpc(CidrBlock=f"10.{number}.0.0/16")["Vpc"]["VpcId"] for number in range(12)}
    default = ec2.describe_vpcs(Filters=filters(is_default="true"))["Vpcs"][0]["VpcId"]
    pages = list(ec2.get_paginator("describe_vpcs").paginate(PaginationConfig={"PageSize": 5}))
    assert [len(page["Vpcs"]) for page in pages] == [5, 5, 3]
    assert sorted(vpc["VpcId"] for page in pages for vpc in page["Vpcs"]) == sorted(made | {default})


def test_a_dry_run_changes_nothing(ec2: Any, refused: Callable[..., str]) -> None:
    before = len(ec2.describe_vpcs()["Vpcs"])
    refused("DryRunOperation", ec2.create_vpc, CidrBlock="10.9.0.0/16", DryRun=True)
    assert len(ec2.describe_vpcs()["Vpcs"]) == before
