"""Network interfaces and Elastic addresses."""

from collections.abc import Callable
from typing import Any

import pytest

UNKNOWN = "00000000000000000"


def filters(**wanted: str) -> list[dict[str, Any]]:
    return [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in wanted.items()]


@pytest.fixture(scope="module")
def network(ec2: Any) -> dict[str, str]:
    """A VPC that has a way to the Internet, a subnet of it, and a security group."""
    vpc = ec2.create_vpc(CidrBlock="10.30.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.30.1.0/24", AvailabilityZone="us-east-1b")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="tests", Description="of tests", VpcId=vpc)["GroupId"]
    return {"vpc": vpc, "subnet": subnet, "group": group}


@pytest.fixture(scope="module")
def default_subnet(ec2: Any) -> str:
    return ec2.describe_subnets(Filters=filters(default_for_az="true"))["Subnets"][0]["SubnetId"]


def make(ec2: Any, network: dict[str, str], **more: Any) -> dict[str, Any]:
    return ec2.create_network_interface(SubnetId=network["subnet"], **more)["NetworkInterface"]


def shown(ec2: Any, interface: str) -> dict[str, Any]:
    [found] = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])["NetworkInterfaces"]
    return found


def test_an_interface_is_made_found_and_deleted(ec2: Any, network: dict[str, str], refused: Callable[..., str]) -> None:
    tags = [{"Key": "Name", "Value": "spare"}]
    made = make(
        ec2,
        network,
        PrivateIpAddress="10.30.1.77",
        Groups=[network["group"]],
        Description="a spare one",
        TagSpecifications=[{"ResourceType": "network-interface", "Tags": tags}],
    )
    id = made["NetworkInterfaceId"]
    assert int(made["MacAddress"][:2], 16) & 3 == 2
    assert (made["Status"], made["AvailabilityZone"], made["InterfaceType"]) == ("available", "us-east-1b", "interface")
    assert (made["PrivateIpAddress"], made["PrivateDnsName"]) == ("10.30.1.77", "ip-10-30-1-77.ec2.internal")
    assert made["Groups"] == [{"GroupId": network["group"], "GroupName": "tests"}]
    assert made["TagSet"] == tags and made["SourceDestCheck"] and not made["RequesterManaged"]
    assert shown(ec2, id) == made
    ec2.get_waiter("network_interface_available").wait(NetworkInterfaceIds=[id], WaiterConfig={"Delay": 1, "MaxAttempts": 3})
    refused("DependencyViolation", ec2.delete_subnet, SubnetId=network["subnet"])
    refused("DependencyViolation", ec2.delete_security_group, GroupId=network["group"])
    ec2.delete_network_interface(NetworkInterfaceId=id)
    refused("InvalidNetworkInterfaceID.NotFound", ec2.describe_network_interfaces, NetworkInterfaceIds=[id])


def test_an_interface_without_groups_is_in_the_default_one(ec2: Any, network: dict[str, str]) -> None:
    made = make(ec2, network)
    assert [group["GroupName"] for group in made["Groups"]] == ["default"]
    ec2.delete_network_interface(NetworkInterfaceId=made["NetworkInterfaceId"])


def test_a_subnet_has_each_address_once_and_not_all(ec2: Any, network: dict[str, str], refused: Callable[..., str]) -> None:
    subnet = ec2.create_subnet(VpcId=network["vpc"], CidrBlock="10.30.2.0/28")["Subnet"]["SubnetId"]
    small = {**network, "subnet": subnet}
    made = [make(ec2, small) for _ in range(11)]
    addresses = sorted(int(each["PrivateIpAddress"].rpartition(".")[2]) for each in made)
    assert addresses == list(range(4, 15))
    refused("InsufficientFreeAddressesInSubnet", ec2.create_network_interface, SubnetId=subnet)
    [shown_subnet] = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"]
    assert shown_subnet["AvailableIpAddressCount"] == 0
    ec2.delete_network_interface(NetworkInterfaceId=made[3]["NetworkInterfaceId"])
    assert make(ec2, small)["PrivateIpAddress"] == made[3]["PrivateIpAddress"]


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("InvalidParameterValue", {"PrivateIpAddress": "10.31.0.5"}),
        ("InvalidParameterValue", {"PrivateIpAddress": "10.30.1.3"}),
        ("InvalidParameterValue", {"PrivateIpAddress": "10.30.1.255"}),
        ("InvalidParameterValue", {"PrivateIpAddress": "10.30.1"}),
        ("InvalidParameterValue", {"PrivateIpAddresses": [{"PrivateIpAddress": "10.30.1.9"}, {"PrivateIpAddress": "10.30.1.9"}]}),
        ("InvalidGroup.NotFound", {"Groups": [f"sg-{UNKNOWN}"]}),
        ("InvalidGroupId.Malformed", {"Groups": ["default"]}),
        ("InvalidSubnetID.NotFound", {"SubnetId": f"subnet-{UNKNOWN}"}),
        ("InvalidSubnetID.Malformed", {"SubnetId": "subnet"}),
        ("PrivateIpAddressLimitExceeded", {"SecondaryPrivateIpAddressCount": 50}),
        ("InvalidParameterValue", {"SecondaryPrivateIpAddressCount": -1}),
    ],
)
def test_what_is_wrong_with_an_interface_is_told(
    ec2: Any, network: dict[str, str], refused: Callable[..., str], code: str, arguments: dict[str, Any]
) -> None:
    before = len(ec2.describe_network_interfaces()["NetworkInterfaces"])
    refused(code, ec2.create_network_interface, **{"SubnetId": network["subnet"], **arguments})
    assert len(ec2.describe_network_interfaces()["NetworkInterfaces"]) == before


def test_groups_of_an_interface_are_of_its_vpc_and_five_at_most(ec2: Any, network: dict[str, str], refused: Callable[..., str]) -> None:
    elsewhere = ec2.describe_security_groups(GroupNames=["default"])["SecurityGroups"][0]["GroupId"]
    refused("InvalidParameter", ec2.create_network_interface, SubnetId=network["subnet"], Groups=[elsewhere])
    groups = [
        ec2.create_security_group(GroupName=f"of six {number}", Description="of tests", VpcId=network["vpc"])["GroupId"] for number in range(6)
    ]
    refused("SecurityGroupsPerInterfaceLimitExceeded", ec2.create_network_interface, SubnetId=network["subnet"], Groups=groups)
    made = make(ec2, network, Groups=groups[:5])
    ec2.delete_network_interface(NetworkInterfaceId=made["NetworkInterfaceId"])


def test_a_token_makes_one_interface(ec2: Any, network: dict[str, str], refused: Callable[..., str]) -> None:
    first, second = (make(ec2, network, ClientToken="one", Description="x") for _ in range(2))
    assert first == second
    refused("IdempotentParameterMismatch", ec2.create_network_interface, SubnetId=network["subnet"], ClientToken="one", Description="y")
    ec2.delete_network_interface(NetworkInterfaceId=first["NetworkInterfaceId"])


def test_attributes_are_changed_one_at_a_time(ec2: Any, network: dict[str, str], refused: Callable[..., str]) -> None:
    id = make(ec2, network)["NetworkInterfaceId"]
    change = ec2.modify_network_interface_attribute
    change(NetworkInterfaceId=id, Description={"Value": "described"})
    change(NetworkInterfaceId=id, SourceDestCheck={"Value": False})
    change(NetworkInterfaceId=id, Groups=[network["group"]])

    def value(attribute: str) -> dict[str, Any]:
        return ec2.describe_network_interface_attribute(NetworkInterfaceId=id, Attribute=attribute)

    assert value("description")["Description"]["Value"] == "described"
    assert value("sourceDestCheck")["SourceDestCheck"]["Value"] is False
    assert [group["GroupId"] for group in value("groupSet")["Groups"]] == [network["group"]]
    assert "Attachment" not in value("attachment")
    ec2.reset_network_interface_attribute(NetworkInterfaceId=id, SourceDestCheck="true")
    assert shown(ec2, id)["SourceDestCheck"] is True
    refused("InvalidParameterCombination", change, NetworkInterfaceId=id, Description={"Value": "x"}, SourceDestCheck={"Value": False})
    refused("InvalidParameterCombination", change, NetworkInterfaceId=id)
    refused("InvalidAttachmentID.NotFound", change, NetworkInterfaceId=id, Attachment={"AttachmentId": f"eni-attach-{UNKNOWN}", "DeleteOnTermination": True})
    refused("InvalidNetworkInterfaceID.NotFound", change, NetworkInterfaceId=f"eni-{UNKNOWN}", Description={"Value": "x"})
    ec2.delete_network_interface(NetworkInterfaceId=id)


def test_secondary_addresses_come_and_go(ec2: Any, network: dict[str, str], refused: Callable[..., str]) -> None:
    one, other = (make(ec2, network)["NetworkInterfaceId"] for _ in range(2))

    def addresses(id: str) -> list[str]:
        return [each["PrivateIpAddress"] for each in shown(ec2, id)["PrivateIpAddresses"]]

    assigned = ec2.assign_private_ip_addresses(NetworkInterfaceId=one, PrivateIpAddresses=["10.30.1.100"])
    assert assigned["AssignedPrivateIpAddresses"] == [{"PrivateIpAddress": "10.30.1.100"}]
    counted = ec2.assign_private_ip_addresses(NetworkInterfaceId=one, SecondaryPrivateIpAddressCount=2)["AssignedPrivateIpAddresses"]
    assert addresses(one)[2:] == [each["PrivateIpAddress"] for each in counted]
    assert [each["Primary"] for each in shown(ec2, one)["PrivateIpAddresses"]] == [True, False, False, False]
    wanted = {"NetworkInterfaceId": other, "PrivateIpAddresses": ["10.30.1.100"]}
    refused("InvalidIPAddress.InUse", ec2.assign_private_ip_addresses, **wanted)
    ec2.assign_private_ip_addresses(**wanted, AllowReassignment=True)
    assert "10.30.1.100" in addresses(other) and "10.30.1.100" not in addresses(one)
    primary = addresses(one)[:1]
    refused("InvalidParameterValue", ec2.assign_private_ip_addresses, NetworkInterfaceId=other, PrivateIpAddresses=primary, AllowReassignment=True)
    refused("InvalidParameterValue", ec2.unassign_private_ip_addresses, NetworkInterfaceId=one, PrivateIpAddresses=primary)
    refused("InvalidParameterValue", ec2.unassign_private_ip_addresses, NetworkInterfaceId=one, PrivateIpAddresses=["10.30.1.100"])
    refused("MissingParameter", ec2.assign_private_ip_addresses, NetworkInterfaceId=one)
    refused("PrivateIpAddressLimitExceeded", ec2.assign_private_ip_addresses, NetworkInterfaceId=one, SecondaryPrivateIpAddressCount=48)
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=one, PrivateIpAddresses=addresses(one)[1:])
    assert addresses(one) == primary
    for id in (one, other):
        ec2.delete_network_interface(NetworkInterfaceId=id)


def test_interfaces_are_found_by_what_they_are(ec2: Any, network: dict[str, str]) -> None:
    made = make(ec2, network, Description="to be found", Groups=[network["group"]], SecondaryPrivateIpAddressCount=1)
    id = made["NetworkInterfaceId"]
    secondary = made["PrivateIpAddresses"][1]["PrivateIpAddress"]
    for name, value in [
        ("network-interface-id", id),
        ("description", "to be f*"),
        ("mac-address", made["MacAddress"]),
        ("private-ip-address", made["PrivateIpAddress"]),
        ("private-dns-name", made["PrivateDnsName"]),
        ("addresses.private-ip-address", secondary),
        ("group-id", network["group"]),
        ("group-name", "tests"),
    ]:
        found = ec2.describe_network_interfaces(Filters=[{"Name": name, "Values": [value]}])["NetworkInterfaces"]
        assert [each["NetworkInterfaceId"] for each in found] == [id], name
    for name, value in [("private-ip-address", secondary), ("status", "in-use"), ("attachment.status", "attached"), ("vpc-id", "vpc-x")]:
        found = ec2.describe_network_interfaces(Filters=[{"Name": name, "Values": [value]}])["NetworkInterfaces"]
        assert id not in [each["NetworkInterfaceId"] for each in found], name
    ec2.delete_network_interface(NetworkInterfaceId=id)


def test_attachments_and_instances_that_are_not_there(ec2: Any, network: dict[str, str], refused: Callable[..., str]) -> None:
    id = make(ec2, network)["NetworkInterfaceId"]
    attach = {"NetworkInterfaceId": id, "DeviceIndex": 1}
    refused("InvalidInstanceID.NotFound", ec2.attach_network_interface, **attach, InstanceId=f"i-{UNKNOWN}")
    refused("InvalidInstanceID.Malformed", ec2.attach_network_interface, **attach, InstanceId="i-x")
    refused("InvalidAttachmentID.NotFound", ec2.detach_network_interface, AttachmentId=f"eni-attach-{UNKNOWN}")
    ec2.delete_network_interface(NetworkInterfaceId=id)


def test_an_address_is_had_associated_and_released(ec2: Any, default_subnet: str, refused: Callable[..., str]) -> None:
    tags = [{"Key": "Name", "Value": "front"}]
    had = ec2.allocate_address(Domain="vpc", TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": tags}])
    assert had["PublicIp"].startswith("198.1") and (had["Domain"], had["NetworkBorderGroup"]) == ("vpc", "us-east-1")
    allocation = had["AllocationId"]
    id = ec2.create_network_interface(SubnetId=default_subnet)["NetworkInterface"]["NetworkInterfaceId"]
    association = ec2.associate_address(AllocationId=allocation, NetworkInterfaceId=id)["AssociationId"]
    [address] = ec2.describe_addresses(PublicIps=[had["PublicIp"]])["Addresses"]
    interface = shown(ec2, id)
    assert (address["AssociationId"], address["NetworkInterfaceId"], address["Tags"]) == (association, id, tags)
    assert address["PrivateIpAddress"] == interface["PrivateIpAddress"]
    assert interface["Association"]["PublicIp"] == had["PublicIp"] and interface["Association"]["IpOwnerId"] == "000000000000"
    dashed = had["PublicIp"].replace(".", "-")
    assert interface["PublicDnsName"] == f"ec2-{dashed}.compute-1.amazonaws.com"
    found = ec2.describe_network_interfaces(Filters=[{"Name": "association.public-ip", "Values": [had["PublicIp"]]}])["NetworkInterfaces"]
    assert [each["NetworkInterfaceId"] for each in found] == [id]
    refused("InvalidIPAddress.InUse", ec2.release_address, AllocationId=allocation)
    ec2.disassociate_address(AssociationId=association)
    refused("InvalidAssociationID.NotFound", ec2.disassociate_address, AssociationId=association)
    assert "Association" not in shown(ec2, id)
    ec2.release_address(AllocationId=allocation)
    refused("InvalidAllocationID.NotFound", ec2.describe_addresses, AllocationIds=[allocation])
    refused("InvalidAddress.NotFound", ec2.describe_addresses, PublicIps=[had["PublicIp"]])
    ec2.delete_network_interface(NetworkInterfaceId=id)


def test_an_address_moves_where_it_may(ec2: Any, default_subnet: str, refused: Callable[..., str]) -> None:
    one, other = (ec2.create_network_interface(SubnetId=default_subnet)["NetworkInterface"]["NetworkInterfaceId"] for _ in range(2))
    first, second = (ec2.allocate_address()["AllocationId"] for _ in range(2))
    association = ec2.associate_address(AllocationId=first, NetworkInterfaceId=one)["AssociationId"]
    again = ec2.associate_address(AllocationId=first, NetworkInterfaceId=one, AllowReassociation=False)["AssociationId"]
    assert again == association
    refused("Resource.AlreadyAssociated", ec2.associate_address, AllocationId=first, NetworkInterfaceId=other, AllowReassociation=False)
    refused("Resource.AlreadyAssociated", ec2.associate_address, AllocationId=second, NetworkInterfaceId=one, AllowReassociation=False)
    moved = ec2.associate_address(AllocationId=first, NetworkInterfaceId=other, AllowReassociation=True)["AssociationId"]
    assert moved != association and "Association" not in shown(ec2, one)
    # The one that was there leads nowhere.
    ec2.associate_address(AllocationId=second, NetworkInterfaceId=other)
    assert [("AssociationId" in each) for each in ec2.describe_addresses(AllocationIds=[first])["Addresses"]] == [False]
    # With its interface goes the association, and not the address.
    ec2.delete_network_interface(NetworkInterfaceId=other)
    assert "AssociationId" not in ec2.describe_addresses(AllocationIds=[second])["Addresses"][0]
    ec2.delete_network_interface(NetworkInterfaceId=one)
    for allocation in (first, second):
        ec2.release_address(AllocationId=allocation)


def test_an_address_follows_the_secondary_address_that_it_leads_to(ec2: Any, default_subnet: str) -> None:
    one, other = (ec2.create_network_interface(SubnetId=default_subnet)["NetworkInterface"]["NetworkInterfaceId"] for _ in range(2))
    allocation = ec2.allocate_address()["AllocationId"]
    [assigned] = ec2.assign_private_ip_addresses(NetworkInterfaceId=one, SecondaryPrivateIpAddressCount=1)["AssignedPrivateIpAddresses"]
    private = assigned["PrivateIpAddress"]
    ec2.associate_address(AllocationId=allocation, NetworkInterfaceId=one, PrivateIpAddress=private)
    ec2.assign_private_ip_addresses(NetworkInterfaceId=other, PrivateIpAddresses=[private], AllowReassignment=True)
    assert ec2.describe_addresses(AllocationIds=[allocation])["Addresses"][0]["NetworkInterfaceId"] == other
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=other, PrivateIpAddresses=[private])
    assert "AssociationId" not in ec2.describe_addresses(AllocationIds=[allocation])["Addresses"][0]
    ec2.release_address(AllocationId=allocation)
    for id in (one, other):
        ec2.delete_network_interface(NetworkInterfaceId=id)


def test_what_is_wrong_with_an_association_is_told(ec2: Any, network: dict[str, str], refused: Callable[..., str]) -> None:
    allocation = ec2.allocate_address()["AllocationId"]
    id = make(ec2, network)["NetworkInterfaceId"]
    refused("Gateway.NotAttached", ec2.associate_address, AllocationId=allocation, NetworkInterfaceId=id)
    refused("InvalidParameterValue", ec2.associate_address, AllocationId=allocation, NetworkInterfaceId=id, PrivateIpAddress="10.30.1.250")
    refused("InvalidAllocationID.NotFound", ec2.associate_address, AllocationId=f"eipalloc-{UNKNOWN}", NetworkInterfaceId=id)
    refused("InvalidNetworkInterfaceID.NotFound", ec2.associate_address, AllocationId=allocation, NetworkInterfaceId=f"eni-{UNKNOWN}")
    refused("InvalidInstanceID.NotFound", ec2.associate_address, AllocationId=allocation, InstanceId=f"i-{UNKNOWN}")
    refused("MissingParameter", ec2.associate_address, AllocationId=allocation)
    refused("MissingParameter", ec2.associate_address, NetworkInterfaceId=id)
    refused("MissingParameter", ec2.release_address)
    refused("InvalidAllocationID.Malformed", ec2.release_address, AllocationId="eipalloc-1")
    ec2.release_address(AllocationId=allocation)
    ec2.delete_network_interface(NetworkInterfaceId=id)


def test_an_address_can_be_asked_for_and_is_one_accounts(api: Any, ec2: Any, refused: Callable[..., str]) -> None:
    had = ec2.allocate_address(Address="198.18.7.7")
    other = api.client("ec2", region="eu-west-1", account="111111111111")
    refused("InvalidAddress.NotFound", other.allocate_address, Address="198.18.7.7")
    refused("InvalidAddress.NotFound", other.allocate_address, Address="8.8.8.8")
    refused("InvalidParameterValue", other.allocate_address, Address="198.18.7")
    refused("InvalidParameterValue", other.allocate_address, NetworkBorderGroup="us-east-1")
    refused("InvalidParameterValue", ec2.allocate_address, Domain="standard")
    ec2.release_address(AllocationId=had["AllocationId"])
    taken = other.allocate_address(Address="198.18.7.7")
    [attribute] = other.describe_addresses_attribute(AllocationIds=[taken["AllocationId"]], Attribute="domain-name")["Addresses"]
    assert attribute["PublicIp"] == "198.18.7.7"
    other.release_address(PublicIp="198.18.7.7")


def test_an_account_has_so_many_addresses(api: Any, refused: Callable[..., str]) -> None:
    client = api.client("ec2", account="222222222222")
    [attribute] = [
        each for each in client.describe_account_attributes()["AccountAttributes"] if each["AttributeName"] == "vpc-max-elastic-ips"
    ]
    limit = int(attribute["AttributeValues"][0]["AttributeValue"])
    addresses = {client.allocate_address()["PublicIp"] for _ in range(limit)}
    assert len(addresses) == limit
    refused("AddressLimitExceeded", client.allocate_address)
