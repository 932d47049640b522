"""Network ACLs, their entries and their associations."""

from collections.abc import Callable
from typing import Any

import pytest

NOBODY = "acl-00000000000000000"
LAST = {"CidrBlock": "0.0.0.0/0", "Protocol": "-1", "RuleAction": "deny", "RuleNumber": 32767}


def filters(**wanted: str) -> list[dict[str, Any]]:
    return [{"Name": name.replace("__", ".").replace("_", "-"), "Values": [value]} for name, value in wanted.items()]


@pytest.fixture
def vpc(ec2: Any) -> str:
    return ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]


@pytest.fixture
def acl(ec2: Any, vpc: str) -> str:
    return ec2.create_network_acl(VpcId=vpc)["NetworkAcl"]["NetworkAclId"]


def described(ec2: Any, acl: str) -> dict[str, Any]:
    [found] = ec2.describe_network_acls(NetworkAclIds=[acl])["NetworkAcls"]
    return found


def default(ec2: Any, vpc: str) -> dict[str, Any]:
    [found] = ec2.describe_network_acls(Filters=filters(vpc_id=vpc, default="true"))["NetworkAcls"]
    return found


def web(acl: str, **other: Any) -> dict[str, Any]:
    """An entry that lets requests in."""
    entry = {"NetworkAclId": acl, "RuleNumber": 100, "Protocol": "6", "RuleAction": "allow", "Egress": False}
    return entry | {"CidrBlock": "0.0.0.0/0", "PortRange": {"From": 80, "To": 443}} | other


def test_a_new_acl_lets_nothing_through(ec2: Any, vpc: str) -> None:
    tags = [{"Key": "Name", "Value": "dmz"}]
    made = ec2.create_network_acl(VpcId=vpc, TagSpecifications=[{"ResourceType": "network-acl", "Tags": tags}])["NetworkAcl"]
    assert made["Entries"] == [LAST | {"Egress": True}, LAST | {"Egress": False}]
    assert made["IsDefault"] is False and made["Associations"] == [] and made["Tags"] == tags
    assert made["VpcId"] == vpc and made["OwnerId"] == "000000000000"
    assert described(ec2, made["NetworkAclId"]) == made


def test_the_default_acl_lets_all_through_and_has_each_new_subnet(ec2: Any, vpc: str, refused: Callable[..., str]) -> None:
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    acl = default(ec2, vpc)
    allow = LAST | {"RuleAction": "allow", "RuleNumber": 100}
    assert acl["Entries"] == [allow | {"Egress": True}, LAST | {"Egress": True}, allow | {"Egress": False}, LAST | {"Egress": False}]
    [association] = acl["Associations"]
    assert association["SubnetId"] == subnet and association["NetworkAclId"] == acl["NetworkAclId"]
    refused("InvalidParameterValue", ec2.delete_network_acl, NetworkAclId=acl["NetworkAclId"])
    ec2.delete_subnet(SubnetId=subnet)
    assert default(ec2, vpc)["Associations"] == []


def test_entries_are_made_in_order_replaced_and_deleted(ec2: Any, acl: str, refused: Callable[..., str]) -> None:
    ec2.create_network_acl_entry(**web(acl))
    ec2.create_network_acl_entry(**web(acl, RuleNumber=50, Protocol="udp", CidrBlock="10.1.2.3/8", PortRange={"From": 53, "To": 53}))
    ec2.create_network_acl_entry(**web(acl, Egress=True, Protocol="-1"))
    assert described(ec2, acl)["Entries"] == [
        {"CidrBlock": "0.0.0.0/0", "Egress": True, "Protocol": "-1", "RuleAction": "allow", "RuleNumber": 100},
        LAST | {"Egress": True},
        {
            "CidrBlock": "10.0.0.0/8",
            "Egress": False,
            "PortRange": {"From": 53, "To": 53},
            "Protocol": "17",
            "RuleAction": "allow",
            "RuleNumber": 50,
        },
        {
            "CidrBlock": "0.0.0.0/0",
            "Egress": False,
            "PortRange": {"From": 80, "To": 443},
            "Protocol": "6",
            "RuleAction": "allow",
            "RuleNumber": 100,
        },
        LAST | {"Egress": False},
    ]
    assert "100" in refused("NetworkAclEntryAlreadyExists", ec2.create_network_acl_entry, **web(acl))
    ping = {"Protocol": "icmp", "IcmpTypeCode": {"Type": 8, "Code": -1}, "RuleAction": "deny"}
    ec2.replace_network_acl_entry(**web(acl, **ping))
    [replaced] = [entry for entry in described(ec2, acl)["Entries"] if (entry["RuleNumber"], entry["Egress"]) == (100, False)]
    assert replaced["IcmpTypeCode"] == {"Type": 8, "Code": -1} and replaced["RuleAction"] == "deny" and "PortRange" not in replaced
    ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=100, Egress=False)
    refused("InvalidNetworkAclEntry.NotFound", ec2.delete_network_acl_entry, NetworkAclId=acl, RuleNumber=100, Egress=False)
    refused("InvalidNetworkAclEntry.NotFound", ec2.replace_network_acl_entry, **web(acl))
    assert [entry["RuleNumber"] for entry in described(ec2, acl)["Entries"]] == [100, 32767, 50, 32767]


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("InvalidParameterValue", {"RuleNumber": 0}),
        ("InvalidParameterValue", {"RuleNumber": 32767}),
        ("InvalidParameterValue", {"Protocol": "tpc"}),
        ("InvalidParameterValue", {"Protocol": "256"}),
        ("InvalidParameterValue", {"CidrBlock": "10.0.0.0"}),
        ("InvalidParameterValue", {"PortRange": {"From": 443, "To": 80}}),
        ("InvalidParameterValue", {"PortRange": {"From": 1, "To": 65536}}),
        ("InvalidParameterValue", {"RuleAction": "drop"}),
        ("InvalidParameterValue", {"Protocol": "1", "IcmpTypeCode": {"Type": 256, "Code": 0}}),
        ("MissingParameter", {"Protocol": "1"}),
        ("InvalidNetworkAclID.NotFound", {"NetworkAclId": NOBODY}),
        ("InvalidNetworkAclID.Malformed", {"NetworkAclId": "acl"}),
    ],
)
def test_entries_that_cannot_be_are_refused(ec2: Any, acl: str, refused: Callable[..., str], code: str, wrong: dict[str, Any]) -> None:
    ec2.create_network_acl_entry(**web(acl, RuleNumber=7))
    before = described(ec2, acl)
    refused(code, ec2.create_network_acl_entry, **web(acl, **wrong))
    refused(code, ec2.replace_network_acl_entry, **web(acl, **{"RuleNumber": 7} | wrong))
    assert described(ec2, acl) == before


@pytest.mark.parametrize("member", ["CidrBlock", "PortRange"])
def test_what_an_entry_needs_is_asked_for(ec2: Any, acl: str, refused: Callable[..., str], member: str) -> None:
    entry = web(acl)
    del entry[member]
    refused("MissingParameter", ec2.create_network_acl_entry, **entry)


def test_an_acl_has_so_many_entries_in_each_direction(ec2: Any, acl: str, refused: Callable[..., str]) -> None:
    for number in range(1, 21):
        ec2.create_network_acl_entry(**web(acl, RuleNumber=number))
    refused("NetworkAclEntryLimitExceeded", ec2.create_network_acl_entry, **web(acl, RuleNumber=21))
    ec2.create_network_acl_entry(**web(acl, RuleNumber=21, Egress=True))


def test_a_subnet_gets_another_acl(ec2: Any, vpc: str, acl: str, refused: Callable[..., str]) -> None:
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    before = default(ec2, vpc)["Associations"][0]["NetworkAclAssociationId"]
    now = ec2.replace_network_acl_association(AssociationId=before, NetworkAclId=acl)["NewAssociationId"]
    assert described(ec2, acl)["Associations"] == [{"NetworkAclAssociationId": now, "NetworkAclId": acl, "SubnetId": subnet}]
    assert default(ec2, vpc)["Associations"] == []
    refused("InvalidAssociationID.NotFound", ec2.replace_network_acl_association, AssociationId=before, NetworkAclId=acl)
    refused("DependencyViolation", ec2.delete_network_acl, NetworkAclId=acl)
    refused("InvalidNetworkAclID.NotFound", ec2.replace_network_acl_association, AssociationId=now, NetworkAclId=NOBODY)
    elsewhere = ec2.create_network_acl(VpcId=ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"])["NetworkAcl"]["NetworkAclId"]
    refused("InvalidParameterValue", ec2.replace_network_acl_association, AssociationId=now, NetworkAclId=elsewhere)
    back = default(ec2, vpc)["NetworkAclId"]
    ec2.replace_network_acl_association(AssociationId=now, NetworkAclId=back)
    ec2.delete_network_acl(NetworkAclId=acl)
    refused("InvalidNetworkAclID.NotFound", ec2.describe_network_acls, NetworkAclIds=[acl])


def test_acls_are_found_by_their_filters(ec2: Any, vpc: str, acl: str) -> None:
    ec2.create_network_acl_entry(**web(acl, RuleNumber=77, RuleAction="deny", CidrBlock="192.0.2.0/24"))
    ping = {"Protocol": "1", "IcmpTypeCode": {"Type": 8, "Code": 0}}
    ec2.create_network_acl_entry(**web(acl, RuleNumber=78, **ping))
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    first = default(ec2, vpc)
    association = first["Associations"][0]["NetworkAclAssociationId"]

    def found(**wanted: str) -> list[str]:
        acls = ec2.describe_network_acls(Filters=filters(vpc_id=vpc, **wanted))["NetworkAcls"]
        return sorted(found["NetworkAclId"] for found in acls)

    both = sorted([acl, first["NetworkAclId"]])
    assert found() == found(entry__rule_number="32767") == found(entry__rule_action="deny") == found(entry__egress="true") == both
    for of_acl in [
        found(entry__cidr="192.0.2.0/24"),
        found(entry__protocol="tcp"),
        found(entry__protocol="6"),
        found(entry__protocol="icmp"),
        found(entry__port_range__from="80"),
        found(entry__port_range__to="443"),
        found(entry__icmp__type="8"),
        found(entry__icmp__code="0"),
        found(entry__rule_number="77"),
        found(default="false"),
        found(network_acl_id=acl),
    ]:
        assert of_acl == [acl]
    of_subnet = found(association__subnet_id=subnet)
    assert of_subnet == found(association__association_id=association) == found(entry__rule_action="allow", default="true")
    assert of_subnet == found(association__network_acl_id="acl-*") == [first["NetworkAclId"]]
    assert found(entry__ipv6_cidr="*") == []
