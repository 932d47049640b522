"""Route tables, their associations and their routes."""

import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

import pytest

NOBODY = {"rtb": "rtb-00000000000000000", "igw": "igw-00000000000000000", "nat": "nat-00000000000000000"}


@pytest.fixture
def vpc(ec2: Any) -> Iterator[str]:
    """A VPC that is its test's alone; what is in it is not cleared away: a server is a module's."""
    yield ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]


@pytest.fixture
def subnet(ec2: Any, vpc: str) -> str:
    return ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]


@pytest.fixture
def table(ec2: Any, vpc: str) -> str:
    return ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]


@pytest.fixture
def gateway(ec2: Any, vpc: str) -> str:
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    return gateway


def filters(**wanted: str) -> list[dict[str, Any]]:
    return [{"Name": name.replace("__", ".").replace("_", "-"), "Values": [value]} for name, value in wanted.items()]


def routes(ec2: Any, table: str) -> dict[str, dict[str, Any]]:
    [found] = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"]
    return {route["DestinationCidrBlock"]: route for route in found["Routes"]}


def main_table(ec2: Any, vpc: str) -> dict[str, Any]:
    [table] = ec2.describe_route_tables(Filters=filters(vpc_id=vpc, association__main="true"))["RouteTables"]
    return table


def test_a_table_has_a_local_route_for_each_range_of_its_vpc(ec2: Any, vpc: str) -> None:
    ec2.associate_vpc_cidr_block(VpcId=vpc, CidrBlock="10.99.0.0/16")
    tags = [{"Key": "Name", "Value": "private"}]
    made = ec2.create_route_table(VpcId=vpc, TagSpecifications=[{"ResourceType": "route-table", "Tags": tags}])["RouteTable"]
    local = {"GatewayId": "local", "Origin": "CreateRouteTable", "State": "active"}
    assert made["Routes"] == [{"DestinationCidrBlock": cidr, **local} for cidr in ["10.0.0.0/16", "10.99.0.0/16"]]
    assert made["Associations"] == made["PropagatingVgws"] == []
    assert made["Tags"] == tags and made["OwnerId"] == "000000000000" and made["VpcId"] == vpc
    assert ec2.describe_route_tables(RouteTableIds=[made["RouteTableId"]])["RouteTables"] == [made]


def test_the_default_vpc_has_a_way_to_the_internet(ec2: Any) -> None:
    default = ec2.describe_vpcs(Filters=filters(is_default="true"))["Vpcs"][0]["VpcId"]
    assert main_table(ec2, default)["Tags"] == []
    [to_internet] = [route for route in main_table(ec2, default)["Routes"] if route["Origin"] == "CreateRoute"]
    assert to_internet["DestinationCidrBlock"] == "0.0.0.0/0"
    assert to_internet["GatewayId"].startswith("igw-") and to_internet["State"] == "active"


def test_a_route_comes_changes_and_goes(ec2: Any, vpc: str, table: str, gateway: str, refused: Callable[..., str]) -> None:
    where = {"RouteTableId": table, "DestinationCidrBlock": "192.168.7.9/16"}
    assert ec2.create_route(**where, GatewayId=gateway)["Return"] is True
    route = routes(ec2, table)["192.168.0.0/16"]
    assert route == {"DestinationCidrBlock": "192.168.0.0/16", "GatewayId": gateway, "Origin": "CreateRoute", "State": "active"}
    refused("RouteAlreadyExists", ec2.create_route, **where, GatewayId=gateway)
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.2.0/24")["Subnet"]["SubnetId"]
    nat = ec2.create_nat_gateway(SubnetId=subnet, ConnectivityType="private")["NatGateway"]["NatGatewayId"]
    ec2.replace_route(**where, NatGatewayId=nat)
    assert routes(ec2, table)["192.168.0.0/16"]["NatGatewayId"] == nat
    assert "GatewayId" not in routes(ec2, table)["192.168.0.0/16"]
    ec2.delete_route(**where)
    refused("InvalidRoute.NotFound", ec2.delete_route, **where)
    assert "Use CreateRoute" in refused("InvalidParameterValue", ec2.replace_route, **where, NatGatewayId=nat)


def test_local_routes_stay(ec2: Any, table: str, gateway: str, refused: Callable[..., str]) -> None:
    where = {"RouteTableId": table, "DestinationCidrBlock": "10.0.0.0/16"}
    refused("RouteAlreadyExists", ec2.create_route, **where, GatewayId=gateway)
    assert "local route" in refused("InvalidParameterValue", ec2.delete_route, **where)
    refused("UnsupportedOperation", ec2.replace_route, **where, GatewayId=gateway)
    # All of it is in the VPC, and what is not goes on to the Internet.
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="10.0.0.0/8", GatewayId=gateway)


def test_within_a_vpc_a_route_is_for_a_whole_subnet(
    ec2: Any, vpc: str, subnet: str, table: str, gateway: str, refused: Callable[..., str]
) -> None:
    nat = ec2.create_nat_gateway(SubnetId=subnet, ConnectivityType="private")["NatGateway"]["NatGatewayId"]
    refused("InvalidParameterValue", ec2.create_route, RouteTableId=table, DestinationCidrBlock="10.0.1.0/24", GatewayId=gateway)
    refused("InvalidParameterValue", ec2.create_route, RouteTableId=table, DestinationCidrBlock="10.0.1.0/25", NatGatewayId=nat)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="10.0.1.0/24", NatGatewayId=nat)
    assert routes(ec2, table)["10.0.1.0/24"]["State"] == "active"


def test_a_route_has_one_target_in_its_own_vpc(ec2: Any, vpc: str, table: str, gateway: str, refused: Callable[..., str]) -> None:
    where = {"RouteTableId": table, "DestinationCidrBlock": "0.0.0.0/0"}
    refused("MissingParameter", ec2.create_route, **where)
    refused("MissingParameter", ec2.create_route, RouteTableId=table, GatewayId=gateway)
    refused("InvalidParameterCombination", ec2.create_route, **where, GatewayId=gateway, NatGatewayId=NOBODY["nat"])
    refused("InvalidGatewayID.NotFound", ec2.create_route, **where, GatewayId=NOBODY["igw"])
    refused("InvalidNatGatewayID.NotFound", ec2.create_route, **where, NatGatewayId=NOBODY["nat"])
    refused("NatGatewayMalformed", ec2.create_route, **where, NatGatewayId="nat-")
    refused("InvalidNetworkInterfaceID.NotFound", ec2.create_route, **where, NetworkInterfaceId="eni-00000000000000000")
    refused("InvalidInstanceID.NotFound", ec2.create_route, **where, InstanceId="i-00000000000000000")
    peering = {"VpcPeeringConnectionId": "pcx-00000000000000000"}
    refused("InvalidVpcPeeringConnectionID.NotFound", ec2.create_route, **where, **peering)
    refused("InvalidRouteTableID.NotFound", ec2.create_route, **{**where, "RouteTableId": NOBODY["rtb"]}, GatewayId=gateway)
    bad = {**where, "DestinationCidrBlock": "0.0.0.0"}
    assert "0.0.0.0" in refused("InvalidParameterValue", ec2.create_route, **bad, GatewayId=gateway)
    elsewhere = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    message = refused("InvalidParameterValue", ec2.create_route, **where, GatewayId=elsewhere)
    assert elsewhere in message and "different networks" in message
    assert list(routes(ec2, table)) == ["10.0.0.0/16"]


def test_a_route_to_what_is_gone_is_a_black_hole(ec2: Any, vpc: str, table: str, gateway: str) -> None:
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    by_state = filters(route__state="blackhole", vpc_id=vpc)
    assert ec2.describe_route_tables(Filters=by_state)["RouteTables"] == []
    ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    assert routes(ec2, table)["0.0.0.0/0"]["State"] == "blackhole"
    assert [found["RouteTableId"] for found in ec2.describe_route_tables(Filters=by_state)["RouteTables"]] == [table]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    assert routes(ec2, table)["0.0.0.0/0"]["State"] == "active"
    ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    ec2.delete_internet_gateway(InternetGatewayId=gateway)
    assert routes(ec2, table)["0.0.0.0/0"] == {
        "DestinationCidrBlock": "0.0.0.0/0",
        "GatewayId": gateway,
        "Origin": "CreateRoute",
        "State": "blackhole",
    }


def test_a_route_to_an_interface_waits_for_its_instance(ec2: Any, subnet: str, table: str) -> None:
    interface = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NetworkInterfaceId=interface)
    route = routes(ec2, table)["0.0.0.0/0"]
    assert (route["NetworkInterfaceId"], route["State"]) == (interface, "blackhole") and "InstanceId" not in route


def test_a_subnet_has_one_table(ec2: Any, vpc: str, subnet: str, table: str, refused: Callable[..., str]) -> None:
    made = ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    assert made["AssociationState"] == {"State": "associated"}
    association = made["AssociationId"]
    # Again is no other.
    assert ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)["AssociationId"] == association
    [found] = ec2.describe_route_tables(Filters=filters(association__subnet_id=subnet))["RouteTables"]
    assert found["Associations"] == [
        {
            "Main": False,
            "RouteTableAssociationId": association,
            "RouteTableId": table,
            "SubnetId": subnet,
            "AssociationState": {"State": "associated"},
        }
    ]
    other = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    refused("Resource.AlreadyAssociated", ec2.associate_route_table, RouteTableId=other, SubnetId=subnet)
    refused("DependencyViolation", ec2.delete_route_table, RouteTableId=table)
    replaced = ec2.replace_route_table_association(AssociationId=association, RouteTableId=other)["NewAssociationId"]
    assert replaced != association
    refused("InvalidAssociationID.NotFound", ec2.disassociate_route_table, AssociationId=association)
    ec2.delete_route_table(RouteTableId=table)
    ec2.disassociate_route_table(AssociationId=replaced)
    ec2.delete_route_table(RouteTableId=other)
    refused("InvalidRouteTableID.NotFound", ec2.describe_route_tables, RouteTableIds=[other])


def test_another_table_can_be_the_main_one(ec2: Any, vpc: str, table: str, refused: Callable[..., str]) -> None:
    before = main_table(ec2, vpc)
    [association] = before["Associations"]
    assert association["Main"] is True and "SubnetId" not in association
    refused("InvalidParameterValue", ec2.disassociate_route_table, AssociationId=association["RouteTableAssociationId"])
    refused("DependencyViolation", ec2.delete_route_table, RouteTableId=before["RouteTableId"])
    replace = {"AssociationId": association["RouteTableAssociationId"], "RouteTableId": table}
    new = ec2.replace_route_table_association(**replace)["NewAssociationId"]
    [now] = main_table(ec2, vpc)["Associations"]
    assert (now["RouteTableId"], now["RouteTableAssociationId"]) == (table, new)
    ec2.delete_route_table(RouteTableId=before["RouteTableId"])
    # The main table goes with its VPC.
    ec2.delete_vpc(VpcId=vpc)


def test_tables_and_subnets_of_different_vpcs_are_kept_apart(ec2: Any, table: str, refused: Callable[..., str]) -> None:
    other = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=other, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    message = refused("InvalidParameterValue", ec2.associate_route_table, RouteTableId=table, SubnetId=subnet)
    assert "different networks" in message
    [main] = main_table(ec2, other)["Associations"]
    refused(
        "InvalidParameterValue",
        ec2.replace_route_table_association,
        AssociationId=main["RouteTableAssociationId"],
        RouteTableId=table,
    )


def test_what_names_no_table_is_refused(ec2: Any, subnet: str, table: str, refused: Callable[..., str]) -> None:
    refused("InvalidVpcID.NotFound", ec2.create_route_table, VpcId="vpc-00000000000000000")
    refused("InvalidRouteTableID.NotFound", ec2.delete_route_table, RouteTableId=NOBODY["rtb"])
    refused("InvalidRouteTableID.Malformed", ec2.delete_route_table, RouteTableId="rtb-zz")
    refused("InvalidRouteTableID.NotFound", ec2.associate_route_table, RouteTableId=NOBODY["rtb"], SubnetId=subnet)
    refused("InvalidSubnetID.NotFound", ec2.associate_route_table, RouteTableId=table, SubnetId="subnet-00000000000000000")
    refused("MissingParameter", ec2.associate_route_table, RouteTableId=table)
    refused("InvalidAssociationID.NotFound", ec2.disassociate_route_table, AssociationId="rtbassoc-00000000000000000")


def test_a_token_makes_one_table(ec2: Any, vpc: str, refused: Callable[..., str]) -> None:
    def make(**arguments: Any) -> str:
        return ec2.create_route_table(VpcId=vpc, ClientToken="one", **arguments)["RouteTable"]["RouteTableId"]

    assert make() == make()
    other = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    refused("IdempotentParameterMismatch", ec2.create_route_table, VpcId=other, ClientToken="one")


def test_tables_are_found_by_their_filters(ec2: Any, vpc: str, table: str, gateway: str) -> None:
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="203.0.113.0/24", GatewayId=gateway)
    main = main_table(ec2, vpc)["RouteTableId"]

    def found(**wanted: str) -> list[str]:
        tables = ec2.describe_route_tables(Filters=filters(vpc_id=vpc, **wanted))["RouteTables"]
        return sorted(found["RouteTableId"] for found in tables)

    assert found() == found(owner_id="000000000000") == sorted([main, table])
    assert found(route__gateway_id="local") == sorted([main, table])
    assert found(route__destination_cidr_block="203.0.*") == [table]
    assert found(route__gateway_id=gateway) == found(route__origin="CreateRoute") == found(route_table_id=table) == [table]
    assert found(association__route_table_id=main) == [main]
    assert found(association__gateway_id="*") == found(route__nat_gateway_id="*") == found(route__instance_id="*") == []
    assert found(route__vpc_peering_connection_id="*") == found(association__route_table_association_id="x") == []


def test_pages_of_tables_hold_all_once(ec2: Any, vpc: str) -> None:
    made = {ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"] for _ in range(11)}
    pages = ec2.get_paginator("describe_route_tables").paginate(Filters=filters(vpc_id=vpc), PaginationConfig={"PageSize": 5})
    sizes_and_ids = [[table["RouteTableId"] for table in page["RouteTables"]] for page in pages]
    assert [len(page) for page in sizes_and_ids] == [5, 5, 2]
    assert made < {table for page in sizes_and_ids for table in page}


def test_a_table_has_so_many_routes(ec2: Any, table: str, gateway: str, refused: Callable[..., str]) -> None:
    ranges = [str(range_) for range_ in ipaddress.ip_network("192.0.0.0/14").subnets(new_prefix=23)][:501]
    for destination in ranges[:500]:
        ec2.create_route(RouteTableId=table, DestinationCidrBlock=destination, GatewayId=gateway)
    refused("RouteLimitExceeded", ec2.create_route, RouteTableId=table, DestinationCidrBlock=ranges[500], GatewayId=gateway)
