"""Security groups and their rules."""

from collections.abc import Callable
from typing import Any

import pytest

ANYWHERE = [{"CidrIp": "0.0.0.0/0"}]
ALL_OUT = {"IpProtocol": "-1", "IpRanges": ANYWHERE, "Ipv6Ranges": [], "PrefixListIds": [], "UserIdGroupPairs": []}


def tcp(port: int, *ranges: str, **more: Any) -> dict[str, Any]:
    ranges_of = {"IpRanges": [{"CidrIp": each} for each in ranges]} if ranges else {}
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **ranges_of, **more}


def filters(**wanted: str) -> list[dict[str, Any]]:
    return [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in wanted.items()]


@pytest.fixture(scope="module")
def vpc(ec2: Any) -> str:
    return ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]


@pytest.fixture
def group(ec2: Any, vpc: str, request: Any) -> str:
    name = request.node.name.replace("[", "(").replace("]", ")")
    return ec2.create_security_group(GroupName=name, Description="of a test", VpcId=vpc)["GroupId"]


def shown(ec2: Any, group: str) -> dict[str, Any]:
    [found] = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    return found


def test_a_vpc_has_a_default_group_whose_members_reach_each_other(ec2: Any, vpc: str, refused: Callable[..., str]) -> None:
    [default] = ec2.describe_security_groups(Filters=filters(vpc_id=vpc, group_name="default"))["SecurityGroups"]
    [inward] = default["IpPermissions"]
    assert inward["IpProtocol"] == "-1" and "FromPort" not in inward
    assert inward["UserIdGroupPairs"] == [{"UserId": "000000000000", "GroupId": default["GroupId"]}]
    assert default["IpPermissionsEgress"] == [ALL_OUT]
    refused("CannotDelete", ec2.delete_security_group, GroupId=default["GroupId"])


def test_a_new_group_lets_everything_out_and_nothing_in(ec2: Any, vpc: str) -> None:
    tags = [{"Key": "Name", "Value": "web"}]
    specification = [{"ResourceType": "security-group", "Tags": tags}]
    made = ec2.create_security_group(GroupName="web", Description="for the web", VpcId=vpc, TagSpecifications=specification)
    assert made["Tags"] == tags
    found = shown(ec2, made["GroupId"])
    assert (found["GroupName"], found["Description"], found["VpcId"], found["Tags"]) == ("web", "for the web", vpc, tags)
    assert found["SecurityGroupArn"] == f"arn:aws:ec2:us-east-1:000000000000:security-group/{made['GroupId']}" == made["SecurityGroupArn"]
    assert found["IpPermissions"] == [] and found["IpPermissionsEgress"] == [ALL_OUT]


def test_rules_for_the_same_traffic_are_shown_as_one_permission(ec2: Any, group: str) -> None:
    first = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(22, "10.0.0.0/8")])["SecurityGroupRules"]
    described = [{"CidrIp": "192.0.2.0/24", "Description": "the office"}]
    permissions = [tcp(22, IpRanges=described, Ipv6Ranges=[{"CidrIpv6": "2001:db8::/32"}]), tcp(80, "0.0.0.0/0")]
    more = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permissions)["SecurityGroupRules"]
    assert [rule["GroupId"] for rule in first + more] == [group] * 4
    ssh, web = shown(ec2, group)["IpPermissions"]
    assert ssh["IpRanges"] == [{"CidrIp": "10.0.0.0/8"}, {"Description": "the office", "CidrIp": "192.0.2.0/24"}]
    assert ssh["Ipv6Ranges"] == [{"CidrIpv6": "2001:db8::/32"}]
    assert (web["FromPort"], web["ToPort"], web["IpRanges"]) == (80, 80, ANYWHERE)


def test_a_range_is_kept_as_its_network(ec2: Any, group: str, refused: Callable[..., str]) -> None:
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(22, "100.68.0.18/18")])
    assert shown(ec2, group)["IpPermissions"][0]["IpRanges"] == [{"CidrIp": "100.68.0.0/18"}]
    refused("InvalidPermission.Duplicate", ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[tcp(22, "100.68.0.0/18")])


def test_a_rule_is_there_once(ec2: Any, group: str, refused: Callable[..., str]) -> None:
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(22, "0.0.0.0/0")])
    both = [tcp(23, "0.0.0.0/0"), tcp(22, IpRanges=[{"CidrIp": "0.0.0.0/0", "Description": "again"}])]
    message = refused("InvalidPermission.Duplicate", ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=both)
    assert "peer: 0.0.0.0/0, TCP, from port: 22, to port: 22, ALLOW" in message
    # All or nothing.
    assert len(shown(ec2, group)["IpPermissions"]) == 1
    refused("InvalidParameterValue", ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[tcp(9, "10.0.0.0/8", "10.0.0.0/8")])
    # The other direction is another matter.
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[tcp(22, "0.0.0.0/0")])


def test_what_terraform_does_to_a_new_group(ec2: Any, group: str, refused: Callable[..., str]) -> None:
    every = {"IpProtocol": "-1", "FromPort": 0, "ToPort": 0}
    ec2.revoke_security_group_egress(GroupId=group, IpPermissions=[{**every, "IpRanges": ANYWHERE}])
    absent = [{**every, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}]
    refused("InvalidPermission.NotFound", ec2.revoke_security_group_egress, GroupId=group, IpPermissions=absent)
    assert shown(ec2, group)["IpPermissionsEgress"] == []
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[{**absent[0], "IpRanges": ANYWHERE}])
    [egress] = shown(ec2, group)["IpPermissionsEgress"]
    assert egress["Ipv6Ranges"] == [{"CidrIpv6": "::/0"}] and egress["IpRanges"] == ANYWHERE


def test_rules_are_revoked_all_or_none(ec2: Any, group: str, refused: Callable[..., str]) -> None:
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(22, "10.0.0.0/8"), tcp(80, "0.0.0.0/0")])
    wanted = [tcp(22, "10.0.0.0/8"), tcp(81, "0.0.0.0/0")]
    refused("InvalidPermission.NotFound", ec2.revoke_security_group_ingress, GroupId=group, IpPermissions=wanted)
    assert len(shown(ec2, group)["IpPermissions"]) == 2
    revoked = ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=wanted[:1])["RevokedSecurityGroupRules"]
    assert [(rule["CidrIpv4"], rule["FromPort"], rule["IsEgress"]) for rule in revoked] == [("10.0.0.0/8", 22, False)]
    assert len(shown(ec2, group)["IpPermissions"]) == 1


def test_in_the_default_vpc_what_is_not_there_is_only_told(ec2: Any) -> None:
    ec2.create_security_group(GroupName="lenient", Description="in the default VPC")
    ec2.authorize_security_group_ingress(GroupName="lenient", IpProtocol="tcp", FromPort=1, ToPort=9, CidrIp="10.0.0.0/8")
    answer = ec2.revoke_security_group_ingress(GroupName="lenient", IpPermissions=[tcp(22, "10.0.0.0/8")])
    [unknown] = answer["UnknownIpPermissions"]
    assert (unknown["FromPort"], unknown["IpRanges"]) == (22, [{"CidrIp": "10.0.0.0/8"}])
    assert answer["RevokedSecurityGroupRules"] == []
    [found] = ec2.describe_security_groups(GroupNames=["lenient"])["SecurityGroups"]
    assert (found["IpPermissions"][0]["FromPort"], found["IpPermissions"][0]["ToPort"]) == (1, 9)
    ec2.delete_security_group(GroupName="lenient")


def test_a_group_as_source_by_name_is_all_traffic(ec2: Any) -> None:
    ec2.create_security_group(GroupName="source", Description="in the default VPC")
    ec2.create_security_group(GroupName="sink", Description="in the default VPC")
    ec2.authorize_security_group_ingress(GroupName="sink", SourceSecurityGroupName="source")
    [sink] = ec2.describe_security_groups(GroupNames=["sink"])["SecurityGroups"]
    spans = [(each["IpProtocol"], each["FromPort"], each["ToPort"]) for each in sink["IpPermissions"]]
    assert spans == [("icmp", -1, -1), ("tcp", 0, 65535), ("udp", 0, 65535)]


def test_rules_by_their_ids(ec2: Any, group: str, refused: Callable[..., str]) -> None:
    tags = [{"Key": "why", "Value": "test"}]
    specification = [{"ResourceType": "security-group-rule", "Tags": tags}]
    [rule] = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(22, "10.0.0.0/8")], TagSpecifications=specification)[
        "SecurityGroupRules"
    ]
    rule_id = rule["SecurityGroupRuleId"]
    assert rule["Tags"] == tags and rule["SecurityGroupRuleArn"].endswith(f":security-group-rule/{rule_id}")
    change = {"IpProtocol": "udp", "FromPort": 53, "ToPort": 53, "CidrIpv4": "10.1.0.0/16", "Description": "names"}
    ec2.modify_security_group_rules(GroupId=group, SecurityGroupRules=[{"SecurityGroupRuleId": rule_id, "SecurityGroupRule": change}])
    [found] = ec2.describe_security_group_rules(SecurityGroupRuleIds=[rule_id])["SecurityGroupRules"]
    assert {key: found[key] for key in change} == change and found["Tags"] == tags
    described = [{"SecurityGroupRuleId": rule_id, "Description": "other names"}]
    ec2.update_security_group_rule_descriptions_ingress(GroupId=group, SecurityGroupRuleDescriptions=described)
    [permission] = shown(ec2, group)["IpPermissions"]
    assert permission["IpRanges"] == [{"Description": "other names", "CidrIp": "10.1.0.0/16"}]
    [found] = ec2.describe_security_group_rules(Filters=[{"Name": "tag:why", "Values": ["test"]}])["SecurityGroupRules"]
    assert found["SecurityGroupRuleId"] == rule_id
    refused("InvalidSecurityGroupRuleId.NotFound", ec2.revoke_security_group_egress, GroupId=group, SecurityGroupRuleIds=[rule_id])
    ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=[rule_id])
    refused("InvalidSecurityGroupRuleId.NotFound", ec2.describe_security_group_rules, SecurityGroupRuleIds=[rule_id])
    refused("InvalidSecurityGroupRuleId.Malformed", ec2.describe_security_group_rules, SecurityGroupRuleIds=["sgr-1"])
    assert ec2.describe_tags(Filters=filters(resource_id=rule_id))["Tags"] == []


def test_all_rules_of_a_group_are_listed_in_both_directions(ec2: Any, group: str) -> None:
    icmp = {"IpProtocol": "icmp", "FromPort": 8, "ToPort": -1, "IpRanges": ANYWHERE}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[icmp, {"IpProtocol": "50", "IpRanges": ANYWHERE}])
    rules = ec2.describe_security_group_rules(Filters=filters(group_id=group))["SecurityGroupRules"]
    spans = sorted((rule["IsEgress"], rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in rules)
    assert spans == [(False, "50", -1, -1), (False, "icmp", 8, -1), (True, "-1", -1, -1)]


def test_descriptions_are_changed_by_permission(ec2: Any, group: str, refused: Callable[..., str]) -> None:
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[tcp(443, "10.0.0.0/8")])
    described = tcp(443, IpRanges=[{"CidrIp": "10.0.0.0/8", "Description": "internal"}])
    ec2.update_security_group_rule_descriptions_egress(GroupId=group, IpPermissions=[described])
    [permission] = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissionsEgress"][1:]
    assert permission["IpRanges"] == described["IpRanges"]
    absent = [tcp(444, "10.0.0.0/8")]
    refused("InvalidPermission.NotFound", ec2.update_security_group_rule_descriptions_egress, GroupId=group, IpPermissions=absent)
    bad = [tcp(443, IpRanges=[{"CidrIp": "10.0.0.0/8", "Description": "naïve"}])]
    refused("InvalidParameterValue", ec2.update_security_group_rule_descriptions_egress, GroupId=group, IpPermissions=bad)


def test_a_group_that_others_name_stays(ec2: Any, vpc: str, group: str, refused: Callable[..., str]) -> None:
    other = ec2.create_security_group(GroupName="names another", Description="of a test", VpcId=vpc)["GroupId"]
    pair = tcp(22, UserIdGroupPairs=[{"GroupId": group, "Description": "peers"}])
    [rule] = ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=[pair])["SecurityGroupRules"]
    assert rule["ReferencedGroupInfo"]["GroupId"] == group
    refused("DependencyViolation", ec2.delete_security_group, GroupId=group)
    ec2.delete_security_group(GroupId=other)
    assert ec2.delete_security_group(GroupId=group)["GroupId"] == group
    refused("InvalidGroup.NotFound", ec2.describe_security_groups, GroupIds=[group])


def test_a_group_may_name_itself_and_go(ec2: Any, group: str) -> None:
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}])
    ec2.delete_security_group(GroupId=group)


def test_sixty_rules_in_each_direction(ec2: Any, group: str, refused: Callable[..., str]) -> None:
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(port, "10.0.0.0/8") for port in range(60)])
    refused("RulesPerSecurityGroupLimitExceeded", ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[tcp(60, "10.0.0.0/8")])
    # IPv6 is counted apart, and so is the other direction.
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(60, Ipv6Ranges=[{"CidrIpv6": "::/0"}])])
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[tcp(60, "10.0.0.0/8")])


@pytest.mark.parametrize(
    ("code", "permission"),
    [
        ("InvalidParameterValue", tcp(22, "10.0.0.0/33")),
        ("InvalidParameterValue", tcp(22, "10.0.0.1")),
        ("InvalidParameterValue", tcp(22, Ipv6Ranges=[{"CidrIpv6": "10.0.0.0/8"}])),
        ("InvalidParameterValue", tcp(70000, "10.0.0.0/8")),
        ("InvalidParameterValue", {"IpProtocol": "tcp", "IpRanges": ANYWHERE}),
        ("InvalidParameterValue", {"IpProtocol": "tcp", "FromPort": 9, "ToPort": 8, "IpRanges": ANYWHERE}),
        ("InvalidParameterValue", {"IpProtocol": "ftp", "IpRanges": ANYWHERE}),
        ("MissingParameter", {"IpRanges": ANYWHERE}),
        ("MissingParameter", tcp(22)),
        ("InvalidGroup.NotFound", tcp(22, UserIdGroupPairs=[{"GroupId": "sg-00000000000000000"}])),
        ("InvalidGroupId.Malformed", tcp(22, UserIdGroupPairs=[{"GroupId": "group"}])),
        ("InvalidGroup.NotFound", tcp(22, UserIdGroupPairs=[{"GroupName": "nobody's"}])),
        ("InvalidPrefixListID.NotFound", tcp(22, PrefixListIds=[{"PrefixListId": "pl-00000000000000000"}])),
    ],
)
def test_what_is_no_permission_is_refused(ec2: Any, group: str, refused: Callable[..., str], code: str, permission: dict[str, Any]) -> None:
    refused(code, ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[permission])
    assert shown(ec2, group)["IpPermissions"] == []


@pytest.mark.parametrize("name", ["sg-mine", "default", "naïve", "x" * 256, " x"])
def test_names_that_groups_cannot_have(ec2: Any, vpc: str, refused: Callable[..., str], name: str) -> None:
    refused("InvalidParameterValue", ec2.create_security_group, GroupName=name, Description="of a test", VpcId=vpc)


def test_what_else_is_wrong_with_a_group_is_told(ec2: Any, vpc: str, group: str, refused: Callable[..., str]) -> None:
    name = shown(ec2, group)["GroupName"]
    refused("InvalidGroup.Duplicate", ec2.create_security_group, GroupName=name, Description="of a test", VpcId=vpc)
    refused("InvalidVpcID.NotFound", ec2.create_security_group, GroupName="y", Description="z", VpcId="vpc-00000000000000000")
    refused("MissingParameter", ec2.create_security_group, GroupName="y", Description="", VpcId=vpc)
    refused("MissingParameter", ec2.delete_security_group)
    refused("InvalidGroup.NotFound", ec2.delete_security_group, GroupName="nobody's")
    refused("MissingParameter", ec2.authorize_security_group_ingress, GroupId=group)
    refused("MissingParameter", ec2.revoke_security_group_ingress, GroupId=group)
    both = {"IpPermissions": [tcp(1, "10.0.0.0/8")], "CidrIp": "10.0.0.0/8", "IpProtocol": "-1"}
    refused("InvalidParameterCombination", ec2.authorize_security_group_ingress, GroupId=group, **both)


def test_groups_of_unconnected_vpcs_do_not_name_each_other(ec2: Any, group: str, refused: Callable[..., str]) -> None:
    other = ec2.create_security_group(GroupName="elsewhere", Description="in the default VPC")["GroupId"]
    pair = tcp(22, UserIdGroupPairs=[{"GroupId": other}])
    refused("InvalidGroup.NotFound", ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[pair])


def test_groups_are_found_by_their_rules(ec2: Any, group: str) -> None:
    permissions = [tcp(6443, "203.0.113.0/24"), tcp(6443, Ipv6Ranges=[{"CidrIpv6": "2001:db8:7::/48"}])]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permissions)
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[tcp(6444, UserIdGroupPairs=[{"GroupId": group}])])
    for name, value in [
        ("ip-permission.cidr", "203.0.113.0/24"),
        ("ip-permission.ipv6-cidr", "2001:db8:7::/48"),
        ("ip-permission.from-port", "6443"),
        ("ip-permission.to-port", "644?"),
        ("egress.ip-permission.to-port", "6444"),
        ("egress.ip-permission.group-id", group),
        ("egress.ip-permission.group-name", "test_groups_are_found*"),
    ]:
        found = ec2.describe_security_groups(Filters=[{"Name": name, "Values": [value]}])["SecurityGroups"]
        assert [each["GroupId"] for each in found] == [group], name


def test_rules_come_in_pages(ec2: Any, group: str) -> None:
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(port, "10.0.0.0/8") for port in range(11)])
    pages = ec2.get_paginator("describe_security_group_rules").paginate(Filters=filters(group_id=group), PaginationConfig={"PageSize": 5})
    sizes = [len(page["SecurityGroupRules"]) for page in pages]
    assert sizes == [5, 5, 2]


def test_a_rule_names_a_group_of_a_peer_in_another_account(ec2: Any, api: Any, refused: Callable[..., str]) -> None:
    account = "111111111111"
    other = api.client("ec2", account=account)
    ours = ec2.create_vpc(CidrBlock="10.81.0.0/16")["Vpc"]["VpcId"]
    theirs = other.create_vpc(CidrBlock="10.82.0.0/16")["Vpc"]["VpcId"]
    group = ec2.create_security_group(GroupName="web", Description="web", VpcId=ours)["GroupId"]
    peer = other.create_security_group(GroupName="clients", Description="clients", VpcId=theirs)["GroupId"]

    def rule(**pair: str) -> list[dict[str, Any]]:
        return [{"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "UserIdGroupPairs": [pair]}]

    allow = ec2.authorize_security_group_ingress
    # Without a connection it is as if there were none.
    refused("InvalidGroup.NotFound", allow, GroupId=group, IpPermissions=rule(UserId=account, GroupId=peer))
    asked = ec2.create_vpc_peering_connection(VpcId=ours, PeerVpcId=theirs, PeerOwnerId=account)
    way = asked["VpcPeeringConnection"]["VpcPeeringConnectionId"]
    refused("InvalidGroup.NotFound", allow, GroupId=group, IpPermissions=rule(UserId=account, GroupId=peer))
    other.accept_vpc_peering_connection(VpcPeeringConnectionId=way)
    refused("InvalidGroup.NotFound", allow, GroupId=group, IpPermissions=rule(UserId="222222222222", GroupId=peer))
    refused("InvalidGroup.NotFound", allow, GroupId=group, IpPermissions=rule(GroupId=peer))
    refused("InvalidParameterValue", allow, GroupId=group, IpPermissions=rule(UserId="me", GroupId=peer))
    refused("MissingParameter", allow, GroupId=group, IpPermissions=rule(UserId=account, GroupName="clients"))
    [made] = allow(GroupId=group, IpPermissions=rule(UserId=account, GroupId=peer))["SecurityGroupRules"]
    expected = {"GroupId": peer, "UserId": account, "VpcId": theirs, "VpcPeeringConnectionId": way, "PeeringStatus": "active"}
    assert made["ReferencedGroupInfo"] == expected
    [permission] = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    assert permission["UserIdGroupPairs"] == [expected]
    refused("InvalidPermission.Duplicate", allow, GroupId=group, IpPermissions=rule(UserId=account, GroupId=peer))
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rule(UserId=account, GroupId=peer))
    assert ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"] == []
    other.delete_vpc_peering_connection(VpcPeeringConnectionId=way)
    refused("InvalidGroup.NotFound", allow, GroupId=group, IpPermissions=rule(UserId=account, GroupId=peer))


def test_a_rule_is_stale_when_its_peers_group_is_not_reached(ec2: Any, refused: Callable[..., str]) -> None:
    ours, theirs = (ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"] for cidr in ("10.83.0.0/16", "10.84.0.0/16"))
    way = ec2.create_vpc_peering_connection(VpcId=ours, PeerVpcId=theirs)["VpcPeeringConnection"]["VpcPeeringConnectionId"]
    ec2.accept_vpc_peering_connection(VpcPeeringConnectionId=way)
    group = ec2.create_security_group(GroupName="web", Description="web", VpcId=ours)["GroupId"]
    peers = [ec2.create_security_group(GroupName=name, Description=name, VpcId=theirs)["GroupId"] for name in ("a", "b")]
    rules = [tcp(port, UserIdGroupPairs=[{"GroupId": peer}]) for port, peer in zip((80, 81), peers, strict=True)]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[*rules, tcp(22, "10.0.0.0/8")])

    def stale() -> list[dict[str, Any]]:
        return ec2.describe_stale_security_groups(VpcId=ours)["StaleSecurityGroupSet"]

    assert stale() == []
    ec2.delete_security_group(GroupId=peers[0])
    [found] = stale()
    assert (found["GroupId"], found["GroupName"], found["VpcId"]) == (group, "web", ours)
    [permission] = found["StaleIpPermissions"]
    assert (permission["FromPort"], permission["UserIdGroupPairs"][0]["GroupId"]) == (80, peers[0])
    assert found["StaleIpPermissionsEgress"] == []
    ec2.delete_vpc_peering_connection(VpcPeeringConnectionId=way)
    [found] = stale()
    assert [permission["FromPort"] for permission in found["StaleIpPermissions"]] == [80, 81]
    pair = {"GroupId": peers[1], "UserId": "000000000000", "VpcId": theirs, "VpcPeeringConnectionId": way, "PeeringStatus": "deleted"}
    assert found["StaleIpPermissions"][1]["UserIdGroupPairs"] == [pair]
    refused("InvalidGroup.NotFound", ec2.authorize_security_group_egress, GroupId=group, IpPermissions=[rules[1]])
    # They are removed as they were made.
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rules)
    assert stale() == []
    refused("InvalidVpcID.NotFound", ec2.describe_stale_security_groups, VpcId="vpc-00000000000000000")
