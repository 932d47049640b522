"""Elastic Load Balancing's API, with boto3, on a host that only says that it does things."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError
from server import ACCOUNT, REGION, Server

QUICK = {"Delay": 1, "MaxAttempts": 20}


@pytest.fixture(scope="module")
def elb(api: Server) -> Any:
    return api.client("elbv2")


@dataclass
class Network:
    """The default VPC."""

    vpc: str
    # One in each zone.
    subnets: list[str]
    group: str


@pytest.fixture(scope="module")
def network(ec2: Any) -> Network:
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    named = [{"Name": "group-name", "Values": ["default"]}, {"Name": "vpc-id", "Values": [vpc]}]
    group = ec2.describe_security_groups(Filters=named)["SecurityGroups"][0]["GroupId"]
    return Network(vpc, [subnet["SubnetId"] for subnet in subnets], group)


@pytest.fixture
def shop(elb: Any, network: Network) -> Iterator[dict[str, Any]]:
    """A load balancer that is active, without listeners."""
    made = elb.create_load_balancer(Name="shop", Subnets=network.subnets[:2])["LoadBalancers"][0]
    elb.get_waiter("load_balancer_available").wait(LoadBalancerArns=[made["LoadBalancerArn"]], WaiterConfig=QUICK)
    yield elb.describe_load_balancers(Names=["shop"])["LoadBalancers"][0]
    elb.delete_load_balancer(LoadBalancerArn=made["LoadBalancerArn"])


@pytest.fixture
def group(elb: Any, network: Network, shop: dict[str, Any]) -> Iterator[Callable[..., dict[str, Any]]]:
    """Makes target groups, which go after the load balancer's listeners."""
    made: list[str] = []

    def make(name: str = "web", **more: Any) -> dict[str, Any]:
        arguments = {"Protocol": "HTTP", "Port": 80, "VpcId": network.vpc} | more
        found = elb.create_target_group(Name=name, **arguments)["TargetGroups"][0]
        made.append(found["TargetGroupArn"])
        return found

    yield make
    for listener in elb.describe_listeners(LoadBalancerArn=shop["LoadBalancerArn"])["Listeners"]:
        elb.delete_listener(ListenerArn=listener["ListenerArn"])
    for arn in made:
        elb.delete_target_group(TargetGroupArn=arn)


def forward(*groups: dict[str, Any]) -> list[dict[str, Any]]:
    tuples = [{"TargetGroupArn": group["TargetGroupArn"]} for group in groups]
    return [{"Type": "forward", "ForwardConfig": {"TargetGroups": tuples}}]


def fixed(status: str = "404") -> list[dict[str, Any]]:
    return [{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": status}}]


def path(*patterns: str) -> list[dict[str, Any]]:
    return [{"Field": "path-pattern", "Values": list(patterns)}]


@pytest.fixture
def instances(ec2: Any, network: Network) -> Iterator[list[str]]:
    """In a zone in which the load balancer is."""
    image = ec2.describe_images()["Images"][0]["ImageId"]
    launched = ec2.run_instances(ImageId=image, InstanceType="t3.micro", MinCount=2, MaxCount=2, SubnetId=network.subnets[0])["Instances"]
    ids = [instance["InstanceId"] for instance in launched]
    ec2.get_waiter("instance_running").wait(InstanceIds=ids, WaiterConfig=QUICK)
    yield ids
    ec2.terminate_instances(InstanceIds=ids)


def health(elb: Any, group: dict[str, Any], **more: Any) -> dict[str, tuple[str, str | None]]:
    found = elb.describe_target_health(TargetGroupArn=group["TargetGroupArn"], **more)["TargetHealthDescriptions"]
    return {one["Target"]["Id"]: (one["TargetHealth"]["State"], one["TargetHealth"].get("Reason")) for one in found}


def test_a_load_balancer_is_named_as_aws_names_it(elb: Any, network: Network, shop: dict[str, Any]) -> None:
    arn = rf"arn:aws:elasticloadbalancing:{REGION}:{ACCOUNT}:loadbalancer/app/shop/[0-9a-f]{{16}}"
    assert re.fullmatch(arn, shop["LoadBalancerArn"])
    assert re.fullmatch(rf"shop-\d+\.{REGION}\.elb\.amazonaws\.com", shop["DNSName"])
    assert (shop["State"], shop["Scheme"], shop["Type"]) == ({"Code": "active"}, "internet-facing", "application")
    assert (shop["VpcId"], shop["SecurityGroups"], shop["IpAddressType"]) == (network.vpc, [network.group], "ipv4")
    assert shop["CanonicalHostedZoneId"] == "Z35SXDOTRQ7X7K"
    assert {zone["SubnetId"] for zone in shop["AvailabilityZones"]} == set(network.subnets[:2])
    internal = elb.create_load_balancer(Name="back", Subnets=network.subnets[:2], Scheme="internal")["LoadBalancers"][0]
    assert internal["DNSName"].startswith("internal-back-")
    elb.delete_load_balancer(LoadBalancerArn=internal["LoadBalancerArn"])


def test_its_interfaces_are_the_services_own(ec2: Any, elb: Any, network: Network, shop: dict[str, Any], refused: Callable[..., str]) -> None:
    described = [{"Name": "description", "Values": ["ELB " + shop["LoadBalancerArn"].split("loadbalancer/")[1]]}]
    interfaces = ec2.describe_network_interfaces(Filters=described)["NetworkInterfaces"]
    assert {interface["SubnetId"] for interface in interfaces} == set(network.subnets[:2])
    for interface in interfaces:
        assert (interface["RequesterManaged"], interface["RequesterId"], interface["Status"]) == (True, "amazon-elb", "in-use")
        assert interface["Association"]["IpOwnerId"] == "amazon-elb"
        assert [group["GroupId"] for group in interface["Groups"]] == [network.group]
    refused("OperationNotPermitted", ec2.delete_network_interface, NetworkInterfaceId=interfaces[0]["NetworkInterfaceId"])
    refused("DependencyViolation", ec2.delete_subnet, SubnetId=network.subnets[0])
    elb.delete_load_balancer(LoadBalancerArn=shop["LoadBalancerArn"])
    assert ec2.describe_network_interfaces(Filters=described)["NetworkInterfaces"] == []
    elb.get_waiter("load_balancers_deleted").wait(LoadBalancerArns=[shop["LoadBalancerArn"]], WaiterConfig=QUICK)


def test_the_same_is_made_once_and_another_of_its_name_not(elb: Any, network: Network, shop: dict[str, Any], refused: Callable[..., str]) -> None:
    again = elb.create_load_balancer(Name="shop", Subnets=network.subnets[:2])["LoadBalancers"][0]
    assert again["LoadBalancerArn"] == shop["LoadBalancerArn"]
    refused("DuplicateLoadBalancerName", elb.create_load_balancer, Name="shop", Subnets=network.subnets)


def test_what_no_load_balancer_can_be_is_refused(ec2: Any, elb: Any, network: Network, refused: Callable[..., str]) -> None:
    create = elb.create_load_balancer
    subnets = network.subnets[:2]
    for name in ["x" * 33, "-x", "a_b", "internal-x"]:
        refused("ValidationError", create, Name=name, Subnets=subnets)
    refused("ValidationError", create, Name="one", Subnets=subnets[:1])
    refused("ValidationError", create, Name="one")
    refused("SubnetNotFound", create, Name="one", Subnets=["subnet-00000000000000000", subnets[0]])
    refused("InvalidSecurityGroup", create, Name="one", Subnets=subnets, SecurityGroups=["sg-00000000000000000"])
    assert "network" in refused("UnsupportedOperation", create, Name="one", Subnets=subnets, Type="network")
    refused("UnsupportedOperation", create, Name="one", Subnets=subnets, IpAddressType="dualstack")
    tags = [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]
    refused("DuplicateTagKeys", create, Name="one", Subnets=subnets, Tags=tags)
    vpc = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    zones = [f"{REGION}a", f"{REGION}b"]
    lonely = [ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.8.{at}.0/24", AvailabilityZone=zone)["Subnet"]["SubnetId"] for at, zone in enumerate(zones)]
    refused("InvalidSubnet", create, Name="one", Subnets=lonely)
    refused("InvalidConfigurationRequest", create, Name="one", Subnets=[lonely[0], network.subnets[1]])
    refused("LoadBalancerNotFound", elb.describe_load_balancers, Names=["one"])


def test_groups_and_subnets_can_be_others(ec2: Any, elb: Any, network: Network, shop: dict[str, Any]) -> None:
    arn = shop["LoadBalancerArn"]
    other = ec2.create_security_group(GroupName="lb", Description="lb", VpcId=network.vpc)["GroupId"]
    assert elb.set_security_groups(LoadBalancerArn=arn, SecurityGroups=[other])["SecurityGroupIds"] == [other]
    zones = elb.set_subnets(LoadBalancerArn=arn, Subnets=network.subnets[1:])["AvailabilityZones"]
    assert {zone["SubnetId"] for zone in zones} == set(network.subnets[1:])
    described = [{"Name": "description", "Values": ["ELB app/shop/*"]}]
    interfaces = ec2.describe_network_interfaces(Filters=described)["NetworkInterfaces"]
    assert {interface["SubnetId"] for interface in interfaces} == set(network.subnets[1:])
    assert all([group["GroupId"] for group in interface["Groups"]] == [other] for interface in interfaces)
    with pytest.raises(ClientError, match="DependencyViolation"):
        ec2.delete_security_group(GroupId=other)
    assert elb.set_ip_address_type(LoadBalancerArn=arn, IpAddressType="ipv4")["IpAddressType"] == "ipv4"


def test_attributes_have_their_defaults_and_what_is_set(elb: Any, shop: dict[str, Any], refused: Callable[..., str]) -> None:
    arn = shop["LoadBalancerArn"]

    def known() -> dict[str, str]:
        return {one["Key"]: one["Value"] for one in elb.describe_load_balancer_attributes(LoadBalancerArn=arn)["Attributes"]}

    def modify(key: str, value: str) -> dict[str, Any]:
        return {"LoadBalancerArn": arn, "Attributes": [{"Key": key, "Value": value}]}

    before = known()
    assert (before["idle_timeout.timeout_seconds"], before["routing.http.desync_mitigation_mode"]) == ("60", "defensive")
    elb.modify_load_balancer_attributes(**modify("idle_timeout.timeout_seconds", "120"))
    assert known() == before | {"idle_timeout.timeout_seconds": "120"}
    refused("InvalidConfigurationRequest", elb.modify_load_balancer_attributes, **modify("idle_timeout.timeout_seconds", "0"))
    refused("ValidationError", elb.modify_load_balancer_attributes, **modify("no.such", "1"))
    elb.modify_load_balancer_attributes(**modify("access_logs.s3.enabled", "false"))
    refused("UnsupportedOperation", elb.modify_load_balancer_attributes, **modify("access_logs.s3.enabled", "true"))
    elb.modify_load_balancer_attributes(**modify("deletion_protection.enabled", "true"))
    refused("OperationNotPermitted", elb.delete_load_balancer, LoadBalancerArn=arn)
    elb.modify_load_balancer_attributes(**modify("deletion_protection.enabled", "false"))


def test_a_target_group_has_the_published_defaults(elb: Any, group: Callable[..., dict[str, Any]], network: Network, refused: Callable[..., str]) -> None:
    web = group()
    assert re.fullmatch(rf"arn:aws:elasticloadbalancing:{REGION}:{ACCOUNT}:targetgroup/web/[0-9a-f]{{16}}", web["TargetGroupArn"])
    assert (web["HealthCheckIntervalSeconds"], web["HealthCheckTimeoutSeconds"]) == (30, 5)
    assert (web["HealthyThresholdCount"], web["UnhealthyThresholdCount"], web["Matcher"]) == (5, 2, {"HttpCode": "200"})
    assert (web["HealthCheckPath"], web["HealthCheckPort"], web["HealthCheckProtocol"]) == ("/", "traffic-port", "HTTP")
    assert (web["TargetType"], web["ProtocolVersion"], web["LoadBalancerArns"]) == ("instance", "HTTP1", [])
    assert group()["TargetGroupArn"] == web["TargetGroupArn"]
    create = elb.create_target_group
    usual = {"Protocol": "HTTP", "Port": 80, "VpcId": network.vpc}
    refused("DuplicateTargetGroupName", create, Name="web", **usual | {"Port": 81})
    refused("ValidationError", create, Name="other", Protocol="HTTP", Port=80)
    refused("ValidationError", create, Name="other", **usual | {"VpcId": "vpc-00000000000000000"})
    refused("ValidationError", create, Name="other", **usual, HealthCheckIntervalSeconds=5, HealthCheckTimeoutSeconds=6)
    refused("ValidationError", create, Name="other", **usual, Matcher={"HttpCode": "99"})
    refused("UnsupportedOperation", create, Name="other", **usual | {"Protocol": "TCP"})
    refused("UnsupportedOperation", create, Name="other", TargetType="lambda")
    changed = elb.modify_target_group(TargetGroupArn=web["TargetGroupArn"], HealthCheckPath="/up", Matcher={"HttpCode": "200-299"})["TargetGroups"][0]
    assert (changed["HealthCheckPath"], changed["Matcher"], changed["HealthyThresholdCount"]) == ("/up", {"HttpCode": "200-299"}, 5)


def test_attributes_of_target_groups_go_together(elb: Any, group: Callable[..., dict[str, Any]], refused: Callable[..., str]) -> None:
    arn = group()["TargetGroupArn"]

    def modify(**values: str) -> dict[str, Any]:
        attributes = [{"Key": key.replace("__", "."), "Value": value} for key, value in values.items()]
        return {"TargetGroupArn": arn, "Attributes": attributes}

    found = elb.modify_target_group_attributes(**modify(stickiness__enabled="true", stickiness__lb_cookie__duration_seconds="60"))["Attributes"]
    known = {one["Key"]: one["Value"] for one in found}
    assert (known["stickiness.enabled"], known["stickiness.type"], known["deregistration_delay.timeout_seconds"]) == ("true", "lb_cookie", "300")
    assert found == elb.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"]
    slow = modify(slow_start__duration_seconds="60", load_balancing__algorithm__type="least_outstanding_requests")
    refused("ValidationError", elb.modify_target_group_attributes, **slow)
    reserved = modify(stickiness__type="app_cookie", stickiness__app_cookie__cookie_name="AWSALB")
    refused("ValidationError", elb.modify_target_group_attributes, **reserved)


def test_listeners_are_made_changed_and_deleted(elb: Any, shop: dict[str, Any], group: Callable[..., dict[str, Any]], refused: Callable[..., str]) -> None:
    arn, web = shop["LoadBalancerArn"], group()
    create = elb.create_listener
    made = create(LoadBalancerArn=arn, Protocol="HTTP", Port=80, DefaultActions=[{"Type": "forward", "TargetGroupArn": web["TargetGroupArn"]}])["Listeners"][0]
    assert made["ListenerArn"].startswith(arn.replace(":loadbalancer/", ":listener/") + "/")
    [action] = made["DefaultActions"]
    assert (action["Type"], action["TargetGroupArn"]) == ("forward", web["TargetGroupArn"])
    assert action["ForwardConfig"]["TargetGroups"] == [{"TargetGroupArn": web["TargetGroupArn"], "Weight": 1}]
    assert create(LoadBalancerArn=arn, Protocol="HTTP", Port=80, DefaultActions=forward(web))["Listeners"] == [made]
    refused("DuplicateListener", create, LoadBalancerArn=arn, Protocol="HTTP", Port=80, DefaultActions=fixed())
    refused("UnsupportedProtocol", create, LoadBalancerArn=arn, Protocol="TCP", Port=81, DefaultActions=fixed())
    refused("UnsupportedOperation", create, LoadBalancerArn=arn, Protocol="HTTPS", Port=443, DefaultActions=fixed())
    refused("InvalidLoadBalancerAction", create, LoadBalancerArn=arn, Protocol="HTTP", Port=81, DefaultActions=[{"Type": "redirect", "RedirectConfig": {"StatusCode": "HTTP_301"}}])
    refused("LoadBalancerNotFound", create, LoadBalancerArn=arn[:-1] + ("0" if arn[-1] != "0" else "1"), Protocol="HTTP", Port=81, DefaultActions=fixed())
    refused("ResourceInUse", elb.delete_target_group, TargetGroupArn=web["TargetGroupArn"])
    assert elb.describe_target_groups(LoadBalancerArn=arn)["TargetGroups"][0]["LoadBalancerArns"] == [arn]
    changed = elb.modify_listener(ListenerArn=made["ListenerArn"], Port=8080, DefaultActions=fixed("503"))["Listeners"][0]
    assert (changed["Port"], changed["DefaultActions"][0]["FixedResponseConfig"]["StatusCode"]) == (8080, "503")
    attributes = {one["Key"]: one["Value"] for one in elb.describe_listener_attributes(ListenerArn=made["ListenerArn"])["Attributes"]}
    assert attributes["routing.http.response.server.enabled"] == "true"
    elb.delete_listener(ListenerArn=made["ListenerArn"])
    refused("ListenerNotFound", elb.describe_listeners, ListenerArns=[made["ListenerArn"]])


def test_a_group_is_one_load_balancers(elb: Any, network: Network, shop: dict[str, Any], group: Callable[..., dict[str, Any]], refused: Callable[..., str]) -> None:
    web = group()
    elb.create_listener(LoadBalancerArn=shop["LoadBalancerArn"], Protocol="HTTP", Port=80, DefaultActions=forward(web))
    other = elb.create_load_balancer(Name="other", Subnets=network.subnets[:2])["LoadBalancers"][0]["LoadBalancerArn"]
    refused("TargetGroupAssociationLimit", elb.create_listener, LoadBalancerArn=other, Protocol="HTTP", Port=80, DefaultActions=forward(web))
    elb.delete_load_balancer(LoadBalancerArn=other)


def test_rules_have_priorities_and_conditions(elb: Any, shop: dict[str, Any], group: Callable[..., dict[str, Any]], refused: Callable[..., str]) -> None:
    web, api = group(), group("api")
    listener = elb.create_listener(LoadBalancerArn=shop["LoadBalancerArn"], Protocol="HTTP", Port=80, DefaultActions=forward(web))["Listeners"][0]["ListenerArn"]
    conditions = [
        {"Field": "host-header", "HostHeaderConfig": {"Values": ["*.example.com"]}},
        {"Field": "http-request-method", "HttpRequestMethodConfig": {"Values": ["GET"]}},
        {"Field": "source-ip", "SourceIpConfig": {"Values": ["10.0.0.0/8"]}},
        {"Field": "query-string", "QueryStringConfig": {"Values": [{"Key": "v", "Value": "2"}]}},
    ]
    first = elb.create_rule(ListenerArn=listener, Priority=10, Conditions=conditions, Actions=forward(api))["Rules"][0]
    shown = {one["Field"]: one for one in first["Conditions"]}
    assert shown["host-header"]["Values"] == ["*.example.com"]
    assert shown["query-string"]["QueryStringConfig"]["Values"] == [{"Key": "v", "Value": "2"}]
    second = elb.create_rule(ListenerArn=listener, Priority=20, Conditions=path("/a/*"), Actions=fixed())["Rules"][0]
    create = elb.create_rule
    refused("PriorityInUse", create, ListenerArn=listener, Priority=10, Conditions=path("/b"), Actions=fixed())
    refused("ValidationError", create, ListenerArn=listener, Priority=30, Conditions=path("/*/*/*/*/*/*"), Actions=fixed())
    refused("ValidationError", create, ListenerArn=listener, Priority=30, Conditions=[{"Field": "colour", "Values": ["red"]}], Actions=fixed())
    refused("InvalidLoadBalancerAction", create, ListenerArn=listener, Priority=30, Conditions=path("/b"), Actions=fixed("300"))
    refused("TargetGroupNotFound", create, ListenerArn=listener, Priority=30, Conditions=path("/b"), Actions=[{"Type": "forward", "TargetGroupArn": api["TargetGroupArn"].replace("/api/", "/apo/")}])
    rules = elb.describe_rules(ListenerArn=listener)["Rules"]
    assert [(rule["Priority"], rule["IsDefault"]) for rule in rules] == [("10", False), ("20", False), ("default", True)]
    assert rules[2]["Actions"][0]["TargetGroupArn"] == web["TargetGroupArn"]
    for call in (elb.delete_rule, elb.modify_rule):
        refused("OperationNotPermitted", call, RuleArn=rules[2]["RuleArn"])
    pairs = [{"RuleArn": first["RuleArn"], "Priority": 20}]
    refused("PriorityInUse", elb.set_rule_priorities, RulePriorities=pairs)
    elb.set_rule_priorities(RulePriorities=[*pairs, {"RuleArn": second["RuleArn"], "Priority": 5}])
    assert [rule["RuleArn"] for rule in elb.describe_rules(ListenerArn=listener)["Rules"][:2]] == [second["RuleArn"], first["RuleArn"]]
    changed = elb.modify_rule(RuleArn=second["RuleArn"], Conditions=path("/c"))["Rules"][0]
    assert (changed["Priority"], changed["Conditions"][0]["Values"]) == ("5", ["/c"])
    elb.delete_rule(RuleArn=second["RuleArn"])
    refused("RuleNotFound", elb.describe_rules, RuleArns=[second["RuleArn"]])
    assert elb.describe_rules(RuleArns=[rules[2]["RuleArn"]])["Rules"][0]["IsDefault"]


def test_targets_become_healthy_and_go(ec2: Any, elb: Any, shop: dict[str, Any], group: Callable[..., dict[str, Any]], instances: list[str], refused: Callable[..., str]) -> None:
    web = group()
    arn = web["TargetGroupArn"]
    targets = [{"Id": identity} for identity in instances]
    refused("InvalidTarget", elb.register_targets, TargetGroupArn=arn, Targets=[{"Id": "i-00000000000000000"}])
    elb.register_targets(TargetGroupArn=arn, Targets=targets)
    assert health(elb, web) == dict.fromkeys(instances, ("unused", "Target.NotInUse"))
    elb.create_listener(LoadBalancerArn=shop["LoadBalancerArn"], Protocol="HTTP", Port=80, DefaultActions=forward(web))
    elb.get_waiter("target_in_service").wait(TargetGroupArn=arn, Targets=targets, WaiterConfig=QUICK)
    assert health(elb, web) == dict.fromkeys(instances, ("healthy", None))
    assert health(elb, web, Targets=[{"Id": instances[0], "Port": 81}]) == {instances[0]: ("unused", "Target.NotRegistered")}
    ec2.stop_instances(InstanceIds=instances[:1])
    ec2.get_waiter("instance_stopped").wait(InstanceIds=instances[:1], WaiterConfig=QUICK)
    assert health(elb, web)[instances[0]] == ("unused", "Target.InvalidState")
    # One that is not asked goes at once, the other when it has had its time.
    elb.deregister_targets(TargetGroupArn=arn, Targets=targets)
    assert health(elb, web) == {instances[1]: ("draining", "Target.DeregistrationInProgress")}
    elb.register_targets(TargetGroupArn=arn, Targets=targets[1:])
    elb.get_waiter("target_in_service").wait(TargetGroupArn=arn, Targets=targets[1:], WaiterConfig=QUICK)
    elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=[{"Key": "deregistration_delay.timeout_seconds", "Value": "0"}])
    elb.deregister_targets(TargetGroupArn=arn, Targets=targets)
    elb.get_waiter("target_deregistered").wait(TargetGroupArn=arn, Targets=targets, WaiterConfig=QUICK)
    assert health(elb, web) == {}


def test_targets_are_addresses_too(elb: Any, ec2: Any, network: Network, shop: dict[str, Any], group: Callable[..., dict[str, Any]], refused: Callable[..., str]) -> None:
    web = group("addresses", TargetType="ip", Port=8080)
    arn = web["TargetGroupArn"]
    subnet = ec2.describe_subnets(SubnetIds=network.subnets[:1])["Subnets"][0]
    inside = subnet["CidrBlock"].split("/")[0].rsplit(".", 1)[0] + ".77"
    register = elb.register_targets
    refused("InvalidTarget", register, TargetGroupArn=arn, Targets=[{"Id": "8.8.8.8", "AvailabilityZone": "all"}])
    refused("InvalidTarget", register, TargetGroupArn=arn, Targets=[{"Id": "192.168.7.7"}])
    register(TargetGroupArn=arn, Targets=[{"Id": inside}, {"Id": "192.168.7.7", "Port": 9000, "AvailabilityZone": "all"}])
    elb.create_listener(LoadBalancerArn=shop["LoadBalancerArn"], Protocol="HTTP", Port=80, DefaultActions=forward(web))
    elb.get_waiter("target_in_service").wait(TargetGroupArn=arn, WaiterConfig=QUICK)
    found = elb.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
    assert {(one["Target"]["Id"], one["Target"]["Port"], one["Target"]["AvailabilityZone"]) for one in found} == {
        (inside, 8080, subnet["AvailabilityZone"]),
        ("192.168.7.7", 9000, "all"),
    }


def test_tags_are_of_everything(elb: Any, ec2: Any, shop: dict[str, Any], group: Callable[..., dict[str, Any]], refused: Callable[..., str]) -> None:
    web = group(Tags=[{"Key": "team", "Value": "web"}])
    listener = elb.create_listener(LoadBalancerArn=shop["LoadBalancerArn"], Protocol="HTTP", Port=80, DefaultActions=forward(web))["Listeners"][0]["ListenerArn"]
    rule = elb.describe_rules(ListenerArn=listener)["Rules"][0]["RuleArn"]
    arns = [shop["LoadBalancerArn"], web["TargetGroupArn"], listener, rule]
    elb.add_tags(ResourceArns=arns, Tags=[{"Key": "stage", "Value": "test"}])
    found = {one["ResourceArn"]: {tag["Key"]: tag["Value"] for tag in one["Tags"]} for one in elb.describe_tags(ResourceArns=arns)["TagDescriptions"]}
    assert found == dict.fromkeys(arns, {"stage": "test"}) | {web["TargetGroupArn"]: {"stage": "test", "team": "web"}}
    elb.remove_tags(ResourceArns=arns, TagKeys=["stage"])
    assert elb.describe_tags(ResourceArns=[listener])["TagDescriptions"] == [{"ResourceArn": listener, "Tags": []}]
    refused("LoadBalancerNotFound", elb.describe_tags, ResourceArns=[shop["LoadBalancerArn"].replace("/shop/", "/shap/")])
    assert [tag for tag in ec2.describe_tags()["Tags"] if tag["Value"] == "web"] == []


def test_much_is_told_in_pages(elb: Any, network: Network) -> None:
    names = [f"page-{at}" for at in range(5)]
    for name in names:
        elb.create_target_group(Name=name, Protocol="HTTP", Port=80, VpcId=network.vpc)
    pages = list(elb.get_paginator("describe_target_groups").paginate(PaginationConfig={"PageSize": 2}))
    assert [group["TargetGroupName"] for page in pages for group in page["TargetGroups"]] == names
    assert [len(page["TargetGroups"]) for page in pages] == [2, 2, 1]
    limits = {one["Name"]: one["Max"] for one in elb.describe_account_limits()["Limits"]}
    assert limits["application-load-balancers"] == "50"
    for group in elb.describe_target_groups(Names=names)["TargetGroups"]:
        elb.delete_target_group(TargetGroupArn=group["TargetGroupArn"])
