"""nimbo why: what passes a packet, or stops it, and the answer to it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from server import Server
from server import nimbo as run

RUNNING = {"Delay": 0.05, "MaxAttempts": 600}
OUTSIDE = "192.0.2.9"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--simulate") as server:
        yield server


@pytest.fixture(scope="module")
def ec2(server: Server) -> Any:
    return server.client("ec2")


def launch(ec2: Any, **more: Any) -> dict[str, Any]:
    image = ec2.describe_images()["Images"][0]["ImageId"]
    [made] = ec2.run_instances(ImageId=image, InstanceType="t3.nano", MinCount=1, MaxCount=1, **more)["Instances"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[made["InstanceId"]], WaiterConfig=RUNNING)
    [found] = ec2.describe_instances(InstanceIds=[made["InstanceId"]])["Reservations"]
    return found["Instances"][0]


class Network:
    """A VPC with one subnet and one instance in it, whose group lets everything out and nothing in."""

    def __init__(self, ec2: Any, number: int) -> None:
        self.ec2 = ec2
        self.vpc = ec2.create_vpc(CidrBlock=f"10.{number}.0.0/16")["Vpc"]["VpcId"]
        self.subnet = ec2.create_subnet(VpcId=self.vpc, CidrBlock=f"10.{number}.1.0/24")["Subnet"]["SubnetId"]
        self.group = ec2.create_security_group(GroupName="web", Description="web", VpcId=self.vpc)["GroupId"]
        here = [{"Name": "vpc-id", "Values": [self.vpc]}]
        self.table = ec2.describe_route_tables(Filters=here)["RouteTables"][0]["RouteTableId"]
        self.acl = ec2.describe_network_acls(Filters=here)["NetworkAcls"][0]["NetworkAclId"]
        instance = launch(ec2, SubnetId=self.subnet, SecurityGroupIds=[self.group])
        self.instance = instance["InstanceId"]
        self.interface = instance["NetworkInterfaces"][0]["NetworkInterfaceId"]
        self.address = instance["PrivateIpAddress"]

    def let_in(self, port: int, cidr: str = "0.0.0.0/0") -> str:
        rule = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": cidr}]}
        answer = self.ec2.authorize_security_group_ingress(GroupId=self.group, IpPermissions=[rule])
        return answer["SecurityGroupRules"][0]["SecurityGroupRuleId"]

    def open(self) -> str:
        """An internet gateway, and a public address."""
        gateway = self.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        self.ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=self.vpc)
        allocation = self.ec2.allocate_address(Domain="vpc")
        self.ec2.associate_address(AllocationId=allocation["AllocationId"], NetworkInterfaceId=self.interface)
        self.public = allocation["PublicIp"]
        return gateway

    def route(self, cidr: str, **target: str) -> None:
        self.ec2.create_route(RouteTableId=self.table, DestinationCidrBlock=cidr, **target)


def why(server: Server, *arguments: str, **more: str) -> dict[str, Any]:
    told = run("why", *arguments, "--json", **{"AWS_ENDPOINT_URL": server.url, **more})
    answer: dict[str, Any] = json.loads(told.stdout or "{}")
    assert answer, told.stderr
    assert told.returncode == (0 if answer["passes"] else 1)
    return answer


def names(path: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    return [(step["by"], step["id"], step["part"]) for step in path["passed"]]


def stopped(path: dict[str, Any]) -> tuple[str, str, str | None]:
    return path["stopped"]["reason"], path["stopped"]["id"], path["stopped"]["part"]


def test_neighbours_pass_by_what_is_named(server: Server, ec2: Any) -> None:
    net = Network(ec2, 10)
    other = launch(ec2, SubnetId=net.subnet, SecurityGroupIds=[net.group])
    ends = (other["InstanceId"], net.instance)
    denied = why(server, *ends, "--tcp", "80")
    assert stopped(denied["request"]) == ("no_rule", net.group, None)
    assert denied["answer"] is None and denied["source"]["address"] == other["PrivateIpAddress"]
    rule = net.let_in(80, "10.10.0.0/16")
    passes = why(server, *ends, "--tcp", "80")
    assert passes["passes"] and passes["request"]["stopped"] is None
    route, out, into = names(passes["request"])
    assert route == ("route_table", net.table, "local")
    assert out[:2] == ("security_group", net.group) and into == ("security_group", net.group, rule)
    assert names(passes["answer"])[0] == ("route_table", net.table, "local")
    assert not why(server, *ends, "--tcp", "81")["passes"] and not why(server, *ends, "--udp", "80")["passes"]
    assert not why(server, *ends, "--icmp")["passes"]
    # By any of their names.
    assert why(server, other["PrivateIpAddress"], net.interface, "--tcp", "80")["destination"]["instance"] == net.instance
    table = run("why", *ends, "--tcp", "80", AWS_ENDPOINT_URL=server.url)
    assert table.returncode == 0 and rule in table.stdout and "It passes, and so does the answer." in table.stdout
    table = run("why", *ends, "--tcp", "81", AWS_ENDPOINT_URL=server.url)
    assert table.returncode == 1 and "It is stopped: no rule lets tcp 81 in from 10.10.1." in table.stdout


def test_an_acl_may_stop_the_answer_alone(server: Server, ec2: Any) -> None:
    net = Network(ec2, 11)
    net.let_in(80)
    subnet = ec2.create_subnet(VpcId=net.vpc, CidrBlock="10.11.2.0/24")["Subnet"]["SubnetId"]
    client = launch(ec2, SubnetId=subnet, SecurityGroupIds=[net.group])["InstanceId"]
    assert why(server, client, net.instance, "--tcp", "80")["passes"]
    ports = {"From": 49152, "To": 65535}
    entry = {"NetworkAclId": net.acl, "RuleNumber": 100, "Protocol": "6", "RuleAction": "allow", "CidrBlock": "0.0.0.0/0"}
    ec2.replace_network_acl_entry(**entry, Egress=True, PortRange=ports)
    # The request leaves the client's subnet by the same ACL.
    denied = why(server, client, net.instance, "--tcp", "80")
    assert stopped(denied["request"]) == ("acl_denies", net.acl, None)
    ec2.create_network_acl_entry(**entry | {"RuleNumber": 90}, Egress=True, PortRange={"From": 80, "To": 80})
    denied = why(server, client, net.instance, "--tcp", "80")
    assert ("network_acl", net.acl, "90") in names(denied["request"]) and denied["request"]["stopped"] is None
    assert stopped(denied["answer"]) == ("acl_denies", net.acl, None)
    told = run("why", client, net.instance, "--tcp", "80", AWS_ENDPOINT_URL=server.url)
    assert "It arrives, and the answer is stopped: no entry lets tcp 32768 out to 10.11.2." in told.stdout, told.stdout
    assert why(server, client, net.instance, "--tcp", "80", "--source-port", "50000")["passes"]
    ec2.create_network_acl_entry(**entry | {"RuleNumber": 80, "RuleAction": "deny"}, Egress=False, PortRange={"From": 80, "To": 80})
    assert stopped(why(server, client, net.instance, "--tcp", "80")["request"]) == ("acl_denies", net.acl, "80")


def test_the_internet_is_reached_with_a_gateway_a_route_and_a_public_address(server: Server, ec2: Any) -> None:
    net = Network(ec2, 12)
    assert stopped(why(server, net.instance, OUTSIDE, "--tcp", "443")["request"]) == ("no_route", net.table, None)
    assert stopped(why(server, net.instance, "--tcp", "22")["request"]) == ("no_public_address", net.interface, None)
    gateway = net.open()
    rule = net.let_in(22)
    # It comes in, and the answer not out.
    inward = why(server, net.instance, "--tcp", "22")
    assert inward["destination"]["address"] == net.public and inward["source"]["interface"] is None
    assert names(inward["request"]) == [("internet_gateway", gateway, None), ("network_acl", net.acl, "100"), ("security_group", net.group, rule)]
    assert stopped(inward["answer"]) == ("no_route", net.table, None)
    net.route("0.0.0.0/0", GatewayId=gateway)
    assert why(server, net.instance, "--tcp", "22")["passes"]
    assert why(server, OUTSIDE, net.public, "--tcp", "22")["passes"]
    assert why(server, net.instance, OUTSIDE, "--tcp", "443")["passes"]
    # Neither private addresses nor those of nobody.
    assert stopped(why(server, OUTSIDE, net.address, "--tcp", "22")["request"])[0] == "nobody_there"
    other = launch(ec2, SubnetId=net.subnet, SecurityGroupIds=[net.group])["InstanceId"]
    assert stopped(why(server, other, OUTSIDE, "--tcp", "443")["request"]) == ("no_public_address", gateway, None)


def test_what_is_private_gets_out_by_a_nat_gateway(server: Server, ec2: Any) -> None:
    net = Network(ec2, 13)
    gateway = net.open()
    net.route("0.0.0.0/0", GatewayId=gateway)
    allocation = ec2.allocate_address(Domain="vpc")["AllocationId"]
    nat = ec2.create_nat_gateway(SubnetId=net.subnet, AllocationId=allocation)["NatGateway"]["NatGatewayId"]
    ec2.get_waiter("nat_gateway_available").wait(NatGatewayIds=[nat], WaiterConfig=RUNNING)
    subnet = ec2.create_subnet(VpcId=net.vpc, CidrBlock="10.13.2.0/24")["Subnet"]["SubnetId"]
    table = ec2.create_route_table(VpcId=net.vpc)["RouteTable"]["RouteTableId"]
    ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat)
    private = launch(ec2, SubnetId=subnet, SecurityGroupIds=[net.group])["InstanceId"]
    passes = why(server, private, OUTSIDE, "--tcp", "443")
    assert passes["passes"], passes
    assert ("nat_gateway", nat, None) in names(passes["request"]) and ("nat_gateway", nat, None) in names(passes["answer"])
    assert ("route_table", table, "0.0.0.0/0") in names(passes["request"])
    assert ("internet_gateway", gateway, None) in names(passes["request"])


def test_peers_pass_by_the_routes_of_both(server: Server, ec2: Any) -> None:
    one, two = Network(ec2, 14), Network(ec2, 15)
    two.let_in(80)
    # As long as they are no peers, only public addresses lead there.
    assert stopped(why(server, one.instance, two.instance, "--tcp", "80")["request"]) == ("no_route", one.table, None)
    made = ec2.create_vpc_peering_connection(VpcId=one.vpc, PeerVpcId=two.vpc)["VpcPeeringConnection"]
    peering = made["VpcPeeringConnectionId"]
    one.route("10.15.0.0/16", VpcPeeringConnectionId=peering)
    blackhole = why(server, one.instance, two.address, "--tcp", "80")["request"]
    assert stopped(blackhole) == ("blackhole", one.table, "10.15.0.0/16") and peering in blackhole["stopped"]["says"]
    ec2.accept_vpc_peering_connection(VpcPeeringConnectionId=peering)
    way = why(server, one.instance, two.instance, "--tcp", "80")
    assert ("peering_connection", peering, None) in names(way["request"])
    assert stopped(way["answer"]) == ("no_route", two.table, None)
    two.route("10.14.0.0/16", VpcPeeringConnectionId=peering)
    assert why(server, one.instance, two.instance, "--tcp", "80")["passes"]


def test_of_others_networks_nothing_is_told_but_that_they_stop_it(server: Server, ec2: Any) -> None:
    theirs = Network(server.client("ec2", account="222222222222"), 16)
    gateway = theirs.open()
    theirs.route("0.0.0.0/0", GatewayId=gateway)
    ours = Network(ec2, 17)
    ours.route("0.0.0.0/0", GatewayId=ours.open())
    denied = why(server, ours.instance, theirs.public, "--tcp", "80")
    assert stopped(denied["request"]) == ("foreign", theirs.vpc, None)
    theirs.let_in(80)
    passes = why(server, ours.instance, theirs.public, "--tcp", "80")
    assert passes["passes"] and passes["destination"]["interface"] is None
    assert theirs.group not in json.dumps(passes) and theirs.acl not in json.dumps(passes)
    told = run("why", ours.instance, theirs.instance, "--tcp", "80", AWS_ENDPOINT_URL=server.url)
    assert told.returncode == 1 and f"There is no {theirs.instance}" in told.stderr


def test_who_is_not_there_is_told(server: Server, ec2: Any) -> None:
    net = Network(ec2, 18)
    net.let_in(80)
    other = launch(ec2, SubnetId=net.subnet, SecurityGroupIds=[net.group])["InstanceId"]
    ec2.stop_instances(InstanceIds=[net.instance])
    ec2.get_waiter("instance_stopped").wait(InstanceIds=[net.instance], WaiterConfig=RUNNING)
    for ends in [(other, net.instance), (net.instance, other), (net.address, other), (net.instance,)]:
        assert stopped(why(server, *ends, "--tcp", "80")["request"])[:2] == ("instance_not_running", net.instance), ends
    assert stopped(why(server, other, "10.18.1.77", "--tcp", "80")["request"])[0] == "nobody_there"
    spare = ec2.create_network_interface(SubnetId=net.subnet)["NetworkInterface"]["NetworkInterfaceId"]
    assert stopped(why(server, other, spare, "--tcp", "80")["request"]) == ("not_attached", spare, None)
    assert stopped(why(server, other, "10.18.1.1", "--tcp", "80")["request"])[0] == "not_answered"
    assert why(server, other, "169.254.169.254", "--tcp", "80")["passes"]


def test_an_address_of_several_is_whose_network_it_is(server: Server, ec2: Any) -> None:
    same = [Network(ec2, 19), Network(ec2, 19)]
    for net in same:
        net.let_in(80)
    address = ec2.create_network_interface(SubnetId=same[0].subnet, PrivateIpAddress="10.19.1.200")["NetworkInterface"]
    ec2.create_network_interface(SubnetId=same[1].subnet, PrivateIpAddress="10.19.1.200")
    told = why(server, same[0].instance, "10.19.1.200", "--tcp", "80")
    assert told["destination"]["interface"] == address["NetworkInterfaceId"]
    told = run("why", "10.19.1.200", "--tcp", "80", AWS_ENDPOINT_URL=server.url)
    assert told.returncode == 1 and address["NetworkInterfaceId"] in told.stderr and "Several" in told.stderr, told.stderr


@pytest.mark.parametrize("arguments", [[], ["i-0123456789abcdef0"], ["web", "--tcp", "80"], ["10.0.0.1", "--tcp", "80", "--udp", "80"], ["10.0.0.1", "--tcp", "web"]])
def test_a_wrong_command_line_is_told(server: Server, arguments: list[str]) -> None:
    assert run("why", *arguments, AWS_ENDPOINT_URL=server.url).returncode == 2


def test_who_is_unknown_is_told_nothing(server: Server, ec2: Any) -> None:
    told = run("why", "i-00000000000000000", "--tcp", "80", AWS_ENDPOINT_URL=server.url)
    assert told.returncode == 1 and "There is no i-00000000000000000" in told.stderr
    told = run("why", "10.0.0.1", "--tcp", "80", AWS_ENDPOINT_URL=server.url, AWS_ACCESS_KEY_ID="222222222222", AWS_SECRET_ACCESS_KEY="wrong")
    assert told.returncode == 1 and "InvalidSignature" in told.stderr, told.stderr
    assert server.ask("POST", "/_nimbo/why")[0] == 403
