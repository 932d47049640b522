"""VPC peering connections, within an account and a region and across them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

NOBODY = "pcx-00000000000000000"
OTHER = "111111111111"
QUICK = {"Delay": 0.1, "MaxAttempts": 20}


def filters(**wanted: str) -> list[dict[str, Any]]:
    return [{"Name": name.replace("__", ".").replace("_", "-"), "Values": [value]} for name, value in wanted.items()]


def new_vpc(ec2: Any, cidr: str) -> str:
    return ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"]


def ask(ec2: Any, vpc: str, peer: str, **more: Any) -> dict[str, Any]:
    return ec2.create_vpc_peering_connection(VpcId=vpc, PeerVpcId=peer, **more)["VpcPeeringConnection"]


def described(ec2: Any, id_: str) -> dict[str, Any]:
    [found] = ec2.describe_vpc_peering_connections(VpcPeeringConnectionIds=[id_])["VpcPeeringConnections"]
    return found


def status(ec2: Any, id_: str) -> str:
    return described(ec2, id_)["Status"]["Code"]


@pytest.fixture
def other(api: Any) -> Any:
    """Another account, in another region."""
    return api.client("ec2", account=OTHER, region="eu-west-1")


def test_two_vpcs_of_an_account_are_connected(ec2: Any, refused: Callable[..., str]) -> None:
    one, two = new_vpc(ec2, "10.1.0.0/16"), new_vpc(ec2, "10.2.0.0/16")
    tags = [{"Key": "Name", "Value": "way"}]
    made = ask(ec2, one, two, TagSpecifications=[{"ResourceType": "vpc-peering-connection", "Tags": tags}])
    id_ = made["VpcPeeringConnectionId"]
    assert made["Tags"] == tags
    assert status(ec2, id_) == "pending-acceptance"
    ec2.get_waiter("vpc_peering_connection_exists").wait(VpcPeeringConnectionIds=[id_], WaiterConfig=QUICK)
    refused("VpcPeeringConnectionAlreadyExists", ask, ec2=ec2, vpc=two, peer=one)
    accepted = ec2.accept_vpc_peering_connection(VpcPeeringConnectionId=id_)["VpcPeeringConnection"]
    assert accepted["Status"] == {"Code": "active", "Message": "Active"}
    assert accepted["RequesterVpcInfo"]["CidrBlock"] == "10.1.0.0/16"
    assert accepted["AccepterVpcInfo"]["CidrBlockSet"] == [{"CidrBlock": "10.2.0.0/16"}]
    assert "ExpirationTime" not in accepted and described(ec2, id_) == accepted
    refused("InvalidStateTransition", ec2.accept_vpc_peering_connection, VpcPeeringConnectionId=id_)
    refused("InvalidStateTransition", ec2.reject_vpc_peering_connection, VpcPeeringConnectionId=id_)
    refused("DependencyViolation", ec2.delete_vpc, VpcId=two)
    assert ec2.delete_vpc_peering_connection(VpcPeeringConnectionId=id_)["Return"] is True
    ec2.get_waiter("vpc_peering_connection_deleted").wait(VpcPeeringConnectionIds=[id_], WaiterConfig=QUICK)
    assert described(ec2, id_)["Status"] == {"Code": "deleted", "Message": "Deleted by 000000000000"}
    message = refused("InvalidStateTransition", ec2.delete_vpc_peering_connection, VpcPeeringConnectionId=id_)
    assert message == f"Invalid state transition for {id_}, attempted to transition from deleted to deleting"
    ec2.delete_vpc(VpcId=two)


def test_each_side_sees_the_connection_from_its_own(ec2: Any, other: Any, refused: Callable[..., str]) -> None:
    ours, theirs = new_vpc(ec2, "10.3.0.0/16"), new_vpc(other, "10.4.0.0/16")
    made = ask(ec2, ours, theirs, PeerOwnerId=OTHER, PeerRegion="eu-west-1")
    id_ = made["VpcPeeringConnectionId"]
    assert made["AccepterVpcInfo"] == {"OwnerId": OTHER, "VpcId": theirs, "Region": "eu-west-1"}
    seen = described(other, id_)
    assert seen["RequesterVpcInfo"]["CidrBlock"] == "10.3.0.0/16" and seen["RequesterVpcInfo"]["OwnerId"] == "000000000000"
    assert seen["ExpirationTime"] == made["ExpirationTime"]
    refused("OperationNotPermitted", ec2.accept_vpc_peering_connection, VpcPeeringConnectionId=id_)
    refused("OperationNotPermitted", ec2.reject_vpc_peering_connection, VpcPeeringConnectionId=id_)
    refused("InvalidStateTransition", other.delete_vpc_peering_connection, VpcPeeringConnectionId=id_)
    other.accept_vpc_peering_connection(VpcPeeringConnectionId=id_)
    assert status(ec2, id_) == status(other, id_) == "active"
    assert described(ec2, id_)["AccepterVpcInfo"]["CidrBlock"] == "10.4.0.0/16"
    other.delete_vpc_peering_connection(VpcPeeringConnectionId=id_)
    assert described(ec2, id_)["Status"]["Message"] == f"Deleted by {OTHER}"


def test_each_side_has_its_own_tags(ec2: Any, other: Any) -> None:
    ours, theirs = new_vpc(ec2, "10.3.0.0/16"), new_vpc(other, "10.4.0.0/16")
    id_ = ask(ec2, ours, theirs, PeerOwnerId=OTHER, PeerRegion="eu-west-1")["VpcPeeringConnectionId"]
    for side, name in [(ec2, "to them"), (other, "to us")]:
        side.create_tags(Resources=[id_], Tags=[{"Key": "Name", "Value": name}])
    assert described(ec2, id_)["Tags"] == [{"Key": "Name", "Value": "to them"}]
    assert described(other, id_)["Tags"] == [{"Key": "Name", "Value": "to us"}]


def test_others_see_nothing_of_it(api: Any, ec2: Any, other: Any, refused: Callable[..., str]) -> None:
    ours, theirs = new_vpc(ec2, "10.3.0.0/16"), new_vpc(other, "10.4.0.0/16")
    id_ = ask(ec2, ours, theirs, PeerOwnerId=OTHER, PeerRegion="eu-west-1")["VpcPeeringConnectionId"]
    for stranger in [api.client("ec2", account="222222222222"), api.client("ec2", account=OTHER), api.client("ec2", region="eu-west-1")]:
        refused("InvalidVpcPeeringConnectionID.NotFound", stranger.accept_vpc_peering_connection, VpcPeeringConnectionId=id_)
        assert stranger.describe_vpc_peering_connections()["VpcPeeringConnections"] == []


def test_in_another_region_it_is_accepted_there(api: Any, ec2: Any, refused: Callable[..., str]) -> None:
    west = api.client("ec2", region="us-west-2")
    id_ = ask(ec2, new_vpc(ec2, "10.5.0.0/16"), new_vpc(west, "10.6.0.0/16"), PeerRegion="us-west-2")["VpcPeeringConnectionId"]
    message = refused("OperationNotPermitted", ec2.accept_vpc_peering_connection, VpcPeeringConnectionId=id_)
    assert "us-west-2" in message
    west.accept_vpc_peering_connection(VpcPeeringConnectionId=id_)
    assert status(ec2, id_) == status(west, id_) == "active"


def test_what_is_rejected_or_taken_back_is_over(ec2: Any, other: Any, refused: Callable[..., str]) -> None:
    ours, theirs = new_vpc(ec2, "10.3.0.0/16"), new_vpc(other, "10.4.0.0/16")
    where = {"PeerOwnerId": OTHER, "PeerRegion": "eu-west-1"}
    rejected = ask(ec2, ours, theirs, **where)["VpcPeeringConnectionId"]
    other.reject_vpc_peering_connection(VpcPeeringConnectionId=rejected)
    assert described(ec2, rejected)["Status"] == {"Code": "rejected", "Message": f"Rejected by {OTHER}"}
    refused("InvalidStateTransition", other.accept_vpc_peering_connection, VpcPeeringConnectionId=rejected)
    back = ask(ec2, ours, theirs, **where)["VpcPeeringConnectionId"]
    ec2.delete_vpc_peering_connection(VpcPeeringConnectionId=back)
    assert status(other, back) == "deleted"
    refused("InvalidStateTransition", other.accept_vpc_peering_connection, VpcPeeringConnectionId=back)


def test_a_connection_that_cannot_be_fails(ec2: Any, other: Any, refused: Callable[..., str]) -> None:
    ours = new_vpc(ec2, "10.3.0.0/16")
    overlapping = ask(ec2, ours, new_vpc(ec2, "10.3.128.0/20"))
    assert overlapping["Status"]["Code"] == "failed" and "overlapping" in overlapping["Status"]["Message"]
    theirs = new_vpc(other, "10.3.0.0/24")
    for peer in [theirs, "vpc-00000000000000000"]:
        failed = ask(ec2, ours, peer, PeerOwnerId=OTHER, PeerRegion="eu-west-1")
        assert failed["Status"]["Code"] == "failed"
    # Who was asked in vain does not hear of it.
    assert other.describe_vpc_peering_connections(Filters=filters(status_code="failed"))["VpcPeeringConnections"] == []
    id_ = overlapping["VpcPeeringConnectionId"]
    message = refused("InvalidStateTransition", ec2.delete_vpc_peering_connection, VpcPeeringConnectionId=id_)
    assert "attempted to transition from failed to deleting" in message


def test_vpcs_that_grew_together_are_not_connected(ec2: Any, refused: Callable[..., str]) -> None:
    one, two = new_vpc(ec2, "10.1.0.0/16"), new_vpc(ec2, "10.2.0.0/16")
    id_ = ask(ec2, one, two)["VpcPeeringConnectionId"]
    ec2.associate_vpc_cidr_block(VpcId=one, CidrBlock="10.7.0.0/16")
    ec2.associate_vpc_cidr_block(VpcId=two, CidrBlock="10.7.0.0/24")
    refused("OperationNotPermitted", ec2.accept_vpc_peering_connection, VpcPeeringConnectionId=id_)
    assert status(ec2, id_) == "pending-acceptance"


def test_a_request_expires_in_a_week(ec2: Any) -> None:
    one, two = new_vpc(ec2, "10.1.0.0/16"), new_vpc(ec2, "10.2.0.0/16")
    before = datetime.now(UTC)
    expires = ask(ec2, one, two)["ExpirationTime"]
    assert timedelta(seconds=-1) < expires - before - timedelta(days=7) < timedelta(minutes=1)


def test_each_side_sets_its_own_options(ec2: Any, other: Any, refused: Callable[..., str]) -> None:
    ours, theirs = new_vpc(ec2, "10.3.0.0/16"), new_vpc(other, "10.4.0.0/16")
    id_ = ask(ec2, ours, theirs, PeerOwnerId=OTHER, PeerRegion="eu-west-1")["VpcPeeringConnectionId"]
    on = {"AllowDnsResolutionFromRemoteVpc": True}
    change = {"VpcPeeringConnectionId": id_}
    requesters, accepters = {"RequesterPeeringConnectionOptions": on}, {"AccepterPeeringConnectionOptions": on}
    message = refused("OperationNotPermitted", ec2.modify_vpc_peering_connection_options, **change, **requesters)
    assert "is not active" in message
    other.accept_vpc_peering_connection(VpcPeeringConnectionId=id_)
    refused("OperationNotPermitted", ec2.modify_vpc_peering_connection_options, **change, **accepters)
    refused("MissingParameter", ec2.modify_vpc_peering_connection_options, **change)
    answer = other.modify_vpc_peering_connection_options(**change, **accepters)
    assert answer["AccepterPeeringConnectionOptions"]["AllowDnsResolutionFromRemoteVpc"] is True
    assert "RequesterPeeringConnectionOptions" not in answer
    seen = described(ec2, id_)
    assert seen["AccepterVpcInfo"]["PeeringOptions"]["AllowDnsResolutionFromRemoteVpc"] is True
    assert seen["RequesterVpcInfo"]["PeeringOptions"]["AllowDnsResolutionFromRemoteVpc"] is False


def test_a_route_to_a_peer_works_once_it_is_accepted(ec2: Any, refused: Callable[..., str]) -> None:
    one, two = new_vpc(ec2, "10.1.0.0/16"), new_vpc(ec2, "10.2.0.0/16")
    id_ = ask(ec2, one, two)["VpcPeeringConnectionId"]
    table = ec2.create_route_table(VpcId=one)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="10.2.0.0/16", VpcPeeringConnectionId=id_)

    def state() -> str:
        [found] = ec2.describe_route_tables(Filters=filters(route__vpc_peering_connection_id=id_))["RouteTables"]
        return found["Routes"][-1]["State"]

    assert state() == "blackhole"
    ec2.accept_vpc_peering_connection(VpcPeeringConnectionId=id_)
    assert state() == "active"
    ec2.delete_vpc_peering_connection(VpcPeeringConnectionId=id_)
    assert state() == "blackhole"
    third = ec2.create_route_table(VpcId=new_vpc(ec2, "10.9.0.0/16"))["RouteTable"]["RouteTableId"]
    elsewhere = {"RouteTableId": third, "DestinationCidrBlock": "10.2.0.0/16", "VpcPeeringConnectionId": id_}
    refused("InvalidParameterValue", ec2.create_route, **elsewhere)


def test_what_names_no_connection_is_refused(ec2: Any, refused: Callable[..., str]) -> None:
    vpc = new_vpc(ec2, "10.1.0.0/16")
    for operation in ["accept", "reject", "delete"]:
        call = getattr(ec2, f"{operation}_vpc_peering_connection")
        refused("InvalidVpcPeeringConnectionID.NotFound", call, VpcPeeringConnectionId=NOBODY)
        refused("InvalidVpcPeeringConnectionID.Malformed", call, VpcPeeringConnectionId="pcx")
    refused("MissingParameter", ec2.create_vpc_peering_connection, VpcId=vpc)
    refused("InvalidParameterValue", ask, ec2=ec2, vpc=vpc, peer=vpc)
    refused("InvalidVpcID.NotFound", ask, ec2=ec2, vpc=vpc, peer="vpc-00000000000000000")
    refused("InvalidVpcID.NotFound", ask, ec2=ec2, vpc="vpc-00000000000000000", peer=vpc)
    refused("InvalidParameterValue", ask, ec2=ec2, vpc=vpc, peer=vpc, PeerOwnerId="me")
    refused("InvalidParameterValue", ask, ec2=ec2, vpc=vpc, peer=vpc, PeerRegion="mars-north-1")


def test_connections_are_found_by_their_filters(ec2: Any) -> None:
    one, two = new_vpc(ec2, "10.21.0.0/16"), new_vpc(ec2, "10.22.0.0/16")
    id_ = ask(ec2, one, two)["VpcPeeringConnectionId"]

    def found(**wanted: str) -> list[str]:
        connections = ec2.describe_vpc_peering_connections(Filters=filters(**wanted))["VpcPeeringConnections"]
        return [found["VpcPeeringConnectionId"] for found in connections]

    expires = described(ec2, id_)["ExpirationTime"]
    text = f"{expires:%Y-%m-%dT%H:%M:%S}.{expires.microsecond // 1000:03}Z"
    for its in [
        found(requester_vpc_info__vpc_id=one),
        found(accepter_vpc_info__vpc_id=two),
        found(requester_vpc_info__cidr_block="10.21.*"),
        found(accepter_vpc_info__cidr_block="10.22.0.0/16"),
        found(status_code="pending-acceptance", requester_vpc_info__owner_id="000000000000", vpc_peering_connection_id=id_),
        found(status_message="Pending Acceptance by *", accepter_vpc_info__owner_id="000000000000", accepter_vpc_info__vpc_id=two),
        found(expiration_time=text, requester_vpc_info__vpc_id=one),
    ]:
        assert its == [id_]
    assert found(requester_vpc_info__vpc_id=one, status_code="active") == []
