"""Internet gateways and NAT gateways."""

from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from botocore.exceptions import WaiterError

NO_IGW = "igw-00000000000000000"
QUICK = {"Delay": 0.1, "MaxAttempts": 100}


def filters(**wanted: str) -> list[dict[str, Any]]:
    return [{"Name": name.replace("__", ".").replace("_", "-"), "Values": [value]} for name, value in wanted.items()]


@pytest.fixture
def vpc(ec2: Any) -> str:
    return ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]


@pytest.fixture
def subnet(ec2: Any, vpc: str) -> Iterator[str]:
    """One that has no NAT gateways when its test has ended: a zone has only so many."""
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/28")["Subnet"]["SubnetId"]
    yield subnet
    left = [{"Name": "subnet-id", "Values": [subnet]}, {"Name": "state", "Values": ["pending", "available"]}]
    for nat in ec2.describe_nat_gateways(Filter=left)["NatGateways"]:
        ec2.delete_nat_gateway(NatGatewayId=nat["NatGatewayId"])
        wait(ec2, nat["NatGatewayId"], "deleted")


@pytest.fixture
def gateway(ec2: Any) -> str:
    return ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]


def private(ec2: Any, subnet: str, **more: Any) -> dict[str, Any]:
    return ec2.create_nat_gateway(SubnetId=subnet, ConnectivityType="private", **more)["NatGateway"]


def described(ec2: Any, nat: str) -> dict[str, Any]:
    [found] = ec2.describe_nat_gateways(NatGatewayIds=[nat])["NatGateways"]
    return found


def wait(ec2: Any, nat: str, state: str) -> None:
    ec2.get_waiter(f"nat_gateway_{state}").wait(NatGatewayIds=[nat], WaiterConfig=QUICK)


def test_an_internet_gateway_is_made_attached_detached_and_deleted(ec2: Any, vpc: str, refused: Callable[..., str]) -> None:
    tags = [{"Key": "Name", "Value": "out"}]
    made = ec2.create_internet_gateway(TagSpecifications=[{"ResourceType": "internet-gateway", "Tags": tags}])["InternetGateway"]
    assert made["Attachments"] == [] and made["Tags"] == tags and made["OwnerId"] == "000000000000"
    gateway = made["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    [found] = ec2.describe_internet_gateways(InternetGatewayIds=[gateway])["InternetGateways"]
    assert found["Attachments"] == [{"State": "available", "VpcId": vpc}]
    assert gateway in refused("DependencyViolation", ec2.delete_internet_gateway, InternetGatewayId=gateway)
    refused("DependencyViolation", ec2.delete_vpc, VpcId=vpc)
    ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    refused("Gateway.NotAttached", ec2.detach_internet_gateway, InternetGatewayId=gateway, VpcId=vpc)
    ec2.delete_internet_gateway(InternetGatewayId=gateway)
    refused("InvalidInternetGatewayID.NotFound", ec2.delete_internet_gateway, InternetGatewayId=gateway)


def test_a_vpc_has_one_internet_gateway_and_it_one_vpc(ec2: Any, vpc: str, gateway: str, refused: Callable[..., str]) -> None:
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    refused("Resource.AlreadyAssociated", ec2.attach_internet_gateway, InternetGatewayId=gateway, VpcId=vpc)
    other = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    message = refused("InvalidParameterValue", ec2.attach_internet_gateway, InternetGatewayId=other, VpcId=vpc)
    assert message == f"Network {vpc} already has an internet gateway attached"


def test_internet_gateways_are_found_by_their_filters(ec2: Any, vpc: str, gateway: str, refused: Callable[..., str]) -> None:
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)

    def found(**wanted: str) -> list[str]:
        gateways = ec2.describe_internet_gateways(Filters=filters(**wanted))["InternetGateways"]
        return [found["InternetGatewayId"] for found in gateways]

    assert found(attachment__vpc_id=vpc) == found(internet_gateway_id=gateway) == [gateway]
    assert gateway in found(attachment__state="available") and gateway in found(owner_id="000000000000")
    assert found(attachment__state="detached") == []
    refused("InvalidParameterValue", found, vpc_id=vpc)


@pytest.mark.parametrize("operation", ["attach_internet_gateway", "detach_internet_gateway"])
def test_what_names_no_internet_gateway_is_refused(ec2: Any, vpc: str, gateway: str, operation: str, refused: Callable[..., str]) -> None:
    call = getattr(ec2, operation)
    assert NO_IGW in refused("InvalidInternetGatewayID.NotFound", call, InternetGatewayId=NO_IGW, VpcId=vpc)
    refused("InvalidInternetGatewayID.Malformed", call, InternetGatewayId="gateway", VpcId=vpc)
    refused("InvalidVpcID.Malformed", call, InternetGatewayId=gateway, VpcId="vpc")


def test_a_private_nat_gateway_lives_in_its_subnet(ec2: Any, vpc: str, subnet: str, refused: Callable[..., str]) -> None:
    tags = [{"Key": "Name", "Value": "nat"}]
    made = private(ec2, subnet, TagSpecifications=[{"ResourceType": "natgateway", "Tags": tags}])
    assert made["State"] in ["pending", "available"]
    assert (made["VpcId"], made["SubnetId"], made["ConnectivityType"], made["Tags"]) == (vpc, subnet, "private", tags)
    nat = made["NatGatewayId"]
    wait(ec2, nat, "available")
    [address] = described(ec2, nat)["NatGatewayAddresses"]
    assert ip_address(address["PrivateIp"]) in ip_network("10.0.1.0/28") and address["IsPrimary"]
    assert address["Status"] == "succeeded"
    assert address["NetworkInterfaceId"].startswith("eni-") and "AllocationId" not in address
    count = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["AvailableIpAddressCount"]
    assert count == 10
    refused("DependencyViolation", ec2.delete_subnet, SubnetId=subnet)
    refused("DependencyViolation", ec2.delete_vpc, VpcId=vpc)


def test_the_interface_of_a_nat_gateway_says_what_it_is(ec2: Any, vpc: str, subnet: str) -> None:
    made = ec2.create_nat_gateway(SubnetId=subnet, ConnectivityType="private")["NatGateway"]
    wanted = [{"Name": "interface-type", "Values": ["nat_gateway"]}, {"Name": "subnet-id", "Values": [subnet]}]
    [interface] = ec2.describe_network_interfaces(Filters=wanted)["NetworkInterfaces"]
    assert interface["InterfaceType"] == "nat_gateway"
    ec2.delete_nat_gateway(NatGatewayId=made["NatGatewayId"])


def test_a_nat_gateway_that_is_deleted_is_told_of_and_gives_all_back(ec2: Any, vpc: str, subnet: str, refused: Callable[..., str]) -> None:
    nat = private(ec2, subnet)["NatGatewayId"]
    wait(ec2, nat, "available")
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat)
    assert ec2.delete_nat_gateway(NatGatewayId=nat)["NatGatewayId"] == nat
    wait(ec2, nat, "deleted")
    gone = described(ec2, nat)
    assert gone["State"] == "deleted" and gone["DeleteTime"] >= gone["CreateTime"]
    assert ec2.describe_nat_gateways(Filter=filters(state="deleted", vpc_id=vpc))["NatGateways"] == [gone]
    assert ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["AvailableIpAddressCount"] == 11
    [to_nat] = [
        route
        for route in ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]["Routes"]
        if route["DestinationCidrBlock"] == "0.0.0.0/0"
    ]
    assert (to_nat["NatGatewayId"], to_nat["State"]) == (nat, "blackhole")
    refused("NatGatewayNotFound", ec2.delete_nat_gateway, NatGatewayId=nat)
    ec2.delete_subnet(SubnetId=subnet)


def test_a_public_nat_gateway_has_an_elastic_address(ec2: Any, vpc: str, subnet: str, gateway: str, refused: Callable[..., str]) -> None:
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    elastic = ec2.allocate_address(Domain="vpc")
    where = {"SubnetId": subnet, "AllocationId": elastic["AllocationId"]}
    nat = ec2.create_nat_gateway(**where)["NatGateway"]["NatGatewayId"]
    wait(ec2, nat, "available")
    found = described(ec2, nat)
    [address] = found["NatGatewayAddresses"]
    assert found["ConnectivityType"] == "public"
    assert (address["PublicIp"], address["AllocationId"]) == (elastic["PublicIp"], elastic["AllocationId"])
    [its] = ec2.describe_addresses(AllocationIds=[elastic["AllocationId"]])["Addresses"]
    assert its["AssociationId"] == address["AssociationId"] and its["NetworkInterfaceId"] == address["NetworkInterfaceId"]
    [interface] = ec2.describe_network_interfaces(NetworkInterfaceIds=[address["NetworkInterfaceId"]])["NetworkInterfaces"]
    assert interface["RequesterManaged"] is True and interface["SubnetId"] == subnet
    assert interface["Description"] == f"Interface for NAT Gateway {nat}"
    refused("Resource.AlreadyAssociated", ec2.create_nat_gateway, **where)
    refused("DependencyViolation", ec2.detach_internet_gateway, InternetGatewayId=gateway, VpcId=vpc)
    ec2.delete_nat_gateway(NatGatewayId=nat)
    wait(ec2, nat, "deleted")
    refused("InvalidNetworkInterfaceID.NotFound", ec2.describe_network_interfaces, NetworkInterfaceIds=[address["NetworkInterfaceId"]])
    ec2.release_address(AllocationId=elastic["AllocationId"])
    ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)


def test_a_public_nat_gateway_needs_a_way_to_the_internet(ec2: Any, subnet: str) -> None:
    elastic = ec2.allocate_address(Domain="vpc")["AllocationId"]
    nat = ec2.create_nat_gateway(SubnetId=subnet, AllocationId=elastic)["NatGateway"]["NatGatewayId"]
    with pytest.raises(WaiterError):
        wait(ec2, nat, "available")
    failed = described(ec2, nat)
    assert failed["State"] == "failed" and failed["FailureCode"] == "Gateway.NotAttached"
    assert failed["VpcId"] in failed["FailureMessage"]
    ec2.release_address(AllocationId=elastic)
    ec2.delete_subnet(SubnetId=subnet)


def test_tags_of_gateways_are_filters(ec2: Any, subnet: str, gateway: str) -> None:
    nat = private(ec2, subnet)["NatGatewayId"]
    ec2.create_tags(Resources=[nat, gateway], Tags=[{"Key": "stage", "Value": gateway}])
    by_tag = [{"Name": "tag:stage", "Values": [gateway]}]
    assert [found["NatGatewayId"] for found in ec2.describe_nat_gateways(Filter=by_tag)["NatGateways"]] == [nat]
    found = ec2.describe_internet_gateways(Filters=by_tag)["InternetGateways"]
    assert [each["InternetGatewayId"] for each in found] == [gateway]


def test_a_nat_gateway_has_the_address_that_is_asked_for(ec2: Any, subnet: str, refused: Callable[..., str]) -> None:
    made = private(ec2, subnet, PrivateIpAddress="10.0.1.9")
    assert described(ec2, made["NatGatewayId"])["NatGatewayAddresses"][0]["PrivateIp"] == "10.0.1.9"
    refused("InvalidIPAddress.InUse", private, ec2=ec2, subnet=subnet, PrivateIpAddress="10.0.1.9")
    for address in ["10.0.1.3", "10.0.1.15", "10.0.2.4", "x"]:
        assert address in refused("InvalidParameterValue", private, ec2=ec2, subnet=subnet, PrivateIpAddress=address)


def test_a_zone_has_so_many_nat_gateways(api: Any, refused: Callable[..., str]) -> None:
    ec2 = api.client("ec2", region="eu-west-1")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    zones = {zone: ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=zone)["Subnet"]["SubnetId"]
             for number, zone in enumerate(["eu-west-1a", "eu-west-1b"])}  # fmt: skip
    made = [private(ec2, zones["eu-west-1a"])["NatGatewayId"] for _ in range(5)]
    refused("NatGatewayLimitExceeded", private, ec2=ec2, subnet=zones["eu-west-1a"])
    private(ec2, zones["eu-west-1b"])
    ec2.delete_nat_gateway(NatGatewayId=made[0])
    wait(ec2, made[0], "deleted")
    private(ec2, zones["eu-west-1a"])


def test_what_makes_no_nat_gateway_is_refused(ec2: Any, subnet: str, refused: Callable[..., str]) -> None:
    make = ec2.create_nat_gateway
    allocation = "eipalloc-00000000000000000"
    refused("MissingParameter", make, ConnectivityType="private")
    assert "AllocationId" in refused("MissingParameter", make, SubnetId=subnet)
    refused("InvalidAllocationID.NotFound", make, SubnetId=subnet, AllocationId=allocation)
    refused("InvalidParameterCombination", make, SubnetId=subnet, AllocationId=allocation, ConnectivityType="private")
    refused("InvalidSubnetID.NotFound", make, SubnetId="subnet-00000000000000000", ConnectivityType="private")
    refused("InvalidParameterValue", make, SubnetId=subnet, ConnectivityType="secret")
    refused("UnsupportedOperation", make, SubnetId=subnet, ConnectivityType="private", SecondaryPrivateIpAddressCount=1)
    refused("NatGatewayNotFound", ec2.delete_nat_gateway, NatGatewayId="nat-00000000000000000")
    refused("NatGatewayMalformed", ec2.describe_nat_gateways, NatGatewayIds=["nat"])
    assert ec2.describe_nat_gateways(Filter=filters(subnet_id=subnet))["NatGateways"] == []


def test_a_token_makes_one_nat_gateway(ec2: Any, subnet: str, refused: Callable[..., str]) -> None:
    first = private(ec2, subnet, ClientToken="one")["NatGatewayId"]
    assert private(ec2, subnet, ClientToken="one")["NatGatewayId"] == first
    refused("IdempotentParameterMismatch", private, ec2=ec2, subnet=subnet, ClientToken="one", PrivateIpAddress="10.0.1.9")


def test_nat_gateways_are_found_by_their_filters(ec2: Any, vpc: str, subnet: str) -> None:
    nats = [private(ec2, subnet)["NatGatewayId"] for _ in range(2)]
    for nat in nats:
        wait(ec2, nat, "available")

    def found(**wanted: str) -> list[str]:
        return [nat["NatGatewayId"] for nat in ec2.describe_nat_gateways(Filter=filters(**wanted))["NatGateways"]]

    assert sorted(found(vpc_id=vpc)) == sorted(found(subnet_id=subnet)) == sorted(nats)
    assert found(nat_gateway_id=nats[0], state="available") == [nats[0]]
    assert found(vpc_id=vpc, state="deleted") == []
