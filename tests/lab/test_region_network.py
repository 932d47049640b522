"""The network between the guests of a region, and to them: groups, names, Elastic addresses, interfaces that they begin with and that come later."""

import json
from collections.abc import Iterator

import pytest
from guest import wait_until
from region import Instance, Region
from server import nimbo
from test_region import image, instance, key, region  # noqa: F401
from traces import own_address

METADATA = "wget -qO- http://169.254.169.254/latest/meta-data"


@pytest.fixture(scope="module")
def elastic(region) -> Iterator[str]:  # noqa: F811
    """The id of an Elastic address."""
    yield region.ec2.allocate_address()["AllocationId"]


@pytest.fixture(scope="module")
def other(region, image, instance, key, elastic) -> Iterator[Instance]:  # noqa: F811
    """A second instance with two interfaces, one with an Elastic address."""
    seen = instance.seen()
    interfaces = [{"DeviceIndex": index, "SubnetId": seen["SubnetId"], "Groups": [region.group()]} for index in (0, 1)]
    launched = region.ec2.run_instances(
        ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1, KeyName="test", NetworkInterfaces=interfaces
    )["Instances"][0]
    other = Instance(region, launched["InstanceId"], key)
    region.wait("instance_running", InstanceIds=[other.id])
    region.ec2.associate_address(AllocationId=elastic, NetworkInterfaceId=primary(other)["NetworkInterfaceId"])
    yield other
    region.ec2.terminate_instances(InstanceIds=[other.id])
    region.wait("instance_terminated", InstanceIds=[other.id])


def primary(instance: Instance) -> dict:  # noqa: F811
    return next(found for found in instance.seen()["NetworkInterfaces"] if found["Attachment"]["DeviceIndex"] == 0)


def answers(asker: Instance, command: str) -> bool:
    return asker.try_to_run(command).returncode == 0


def test_each_interface_is_the_guests_own(other):
    interfaces = {found["Attachment"]["DeviceIndex"]: found for found in other.seen()["NetworkInterfaces"]}
    assert other.run("cat /sys/class/net/eth0/address") == interfaces[0]["MacAddress"]
    assert other.run("cat /sys/class/net/eth1/address") == interfaces[1]["MacAddress"]
    macs = f"{METADATA}/network/interfaces/macs"
    assert other.run(f"{macs}/{interfaces[1]['MacAddress']}/local-ipv4s") == interfaces[1]["PrivateIpAddress"]


def test_names_lead_to_private_addresses(instance, other):  # noqa: F811
    seen = other.seen()
    for name in [seen["PrivateDnsName"], seen["PublicDnsName"]]:
        assert seen["PrivateIpAddress"] in instance.run(f"nslookup {name}")


def test_guests_reach_each_other_as_their_groups_say(region, instance, other):  # noqa: F811
    address = other.seen()["PrivateIpAddress"]
    ping = f"ping -c 1 -W 2 {address}"
    # Who answers there names itself first.
    connect = f"nc -w 2 {address} 22 </dev/null | grep -aq ^SSH-"
    # Both are in the group that lets its own in.
    assert answers(instance, ping) and answers(instance, connect)
    group = region.ec2.create_security_group(GroupName="ssh", Description="ssh", VpcId=other.seen()["VpcId"])["GroupId"]
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    # To guests this machine is itself.
    from_host = {**ssh, "IpRanges": [{"CidrIp": f"{own_address()}/32"}]}
    from_default = {**ssh, "UserIdGroupPairs": [{"GroupId": region.group()}]}
    region.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[from_host, from_default])
    interface = primary(other)["NetworkInterfaceId"]
    region.ec2.modify_network_interface_attribute(NetworkInterfaceId=interface, Groups=[group])
    wait_until(lambda: not answers(instance, ping), "the group lets no ping in")
    assert answers(instance, connect) and answers(other, "true")
    region.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[from_default])
    wait_until(lambda: not answers(instance, connect), "the rule is gone")
    assert answers(other, "true")
    region.ec2.modify_network_interface_attribute(NetworkInterfaceId=interface, Groups=[region.group()])
    wait_until(lambda: answers(instance, ping), "the groups are as they were")
    region.ec2.delete_security_group(GroupId=group)


def test_an_elastic_address_moves_between_guests(region: Region, instance, other, elastic):  # noqa: F811
    address = region.ec2.describe_addresses(AllocationIds=[elastic])["Addresses"][0]["PublicIp"]
    names = {instance.id: instance.run("hostname"), other.id: other.run("hostname")}
    assert other.seen()["PublicIpAddress"] == address
    assert other.run(f"{METADATA}/public-ipv4") == address
    region.ec2.associate_address(AllocationId=elastic, InstanceId=instance.id, AllowReassociation=True)
    assert instance.seen()["PublicIpAddress"] == address
    assert instance.run("hostname") == names[instance.id]
    wait_until(lambda: instance.run(f"{METADATA}/public-ipv4") == address, "the guest is told of its address")
    region.ec2.associate_address(
        AllocationId=elastic, NetworkInterfaceId=primary(other)["NetworkInterfaceId"], AllowReassociation=True
    )
    assert other.run("hostname") == names[other.id]
    # The one has another of its own again.
    assert instance.seen()["PublicIpAddress"] != address and instance.run("hostname") == names[instance.id]


def test_an_interface_comes_into_a_running_guest_and_leaves_it(region: Region, instance, other):  # noqa: F811
    seen, peer = instance.seen(), other.seen()["PrivateIpAddress"]
    group = region.ec2.create_security_group(GroupName="late", Description="late", VpcId=seen["VpcId"])["GroupId"]
    made = region.ec2.create_network_interface(SubnetId=seen["SubnetId"], Groups=[group])["NetworkInterface"]
    identity, address, mac = made["NetworkInterfaceId"], made["PrivateIpAddress"], made["MacAddress"]

    def shown() -> dict:
        return region.ec2.describe_network_interfaces(NetworkInterfaceIds=[identity])["NetworkInterfaces"][0]

    attach = {"NetworkInterfaceId": identity, "InstanceId": instance.id, "DeviceIndex": 1}
    attachment = region.ec2.attach_network_interface(**attach)["AttachmentId"]
    wait_until(lambda: shown()["Attachment"]["Status"] == "attached", "the attachment")
    macs = f"{METADATA}/network/interfaces/macs"
    assert instance.run(f"{macs}/{mac}/local-ipv4s") == address
    wait_until(lambda: mac in instance.run("ip link"), "a second interface")
    # The guest's DHCP client asks there by itself.
    wait_until(lambda: f"inet {address}/" in instance.run("ip -4 addr show eth1"), "its address")
    # What comes from that address leaves by that interface, or is dropped.
    instance.run(f"ip route add {peer}/32 dev eth1 src {address}")
    ping = f"ping -c 1 -W 2 {address}"
    assert not answers(other, ping)
    region.ec2.authorize_security_group_ingress(
        GroupId=group, IpPermissions=[{"IpProtocol": "icmp", "FromPort": -1, "ToPort": -1, "UserIdGroupPairs": [{"GroupId": region.group()}]}]
    )
    wait_until(lambda: answers(other, ping), "the group lets pings in")
    # The next server answers on it, too.
    region.kill()
    region.start()
    assert answers(other, ping) and instance.run(f"{macs}/{mac}/local-ipv4s") == address
    region.ec2.detach_network_interface(AttachmentId=attachment)
    region.wait("network_interface_available", NetworkInterfaceIds=[identity])
    wait_until(lambda: mac not in instance.run("ip link"), "the interface's end")
    assert mac not in instance.run(f"{macs}/")
    assert not answers(other, ping)
    # It can come again, and be taken away.
    attachment = region.ec2.attach_network_interface(**attach)["AttachmentId"]
    wait_until(lambda: mac in instance.run("ip link"), "the interface's return")
    region.ec2.detach_network_interface(AttachmentId=attachment, Force=True)
    region.wait("network_interface_available", NetworkInterfaceIds=[identity])
    wait_until(lambda: mac not in instance.run("ip link"), "the interface's end")
    region.ec2.delete_network_interface(NetworkInterfaceId=identity)
    region.ec2.delete_security_group(GroupId=group)


def test_a_guest_reads_what_is_to_become_of_it(instance):  # noqa: F811
    where = ["--state", str(instance.region.state)]
    action = f"{METADATA}/spot/instance-action"
    assert not answers(instance, action)
    told = nimbo("notice", instance.id, "spot-interruption", "--in", "1h", "--action", "stop", *where)
    assert told.returncode == 0, told.stderr
    assert json.loads(instance.run(action))["action"] == "stop"
    assert nimbo("notice", instance.id, "clear", *where).returncode == 0
    wait_until(lambda: not answers(instance, action), "the notice's end")


def test_what_a_guest_sends_in_anothers_name_is_counted(instance, other):  # noqa: F811
    def spoofed() -> int:
        told = nimbo("drops", "--json", "--state", str(instance.region.state))
        assert told.returncode == 0, told.stderr
        vpcs = {found["vpc"]: found["dropped"] for found in json.loads(told.stdout)["vpcs"]}
        return vpcs[instance.seen()["VpcId"]]["spoofed"]

    before = spoofed()
    peer = other.seen()["PrivateIpAddress"]
    instance.run(f"ip addr add 192.0.2.1/32 dev lo; ! ping -c 3 -W 1 -I 192.0.2.1 {peer}; ip addr del 192.0.2.1/32 dev lo")
    assert spoofed() >= before + 3
