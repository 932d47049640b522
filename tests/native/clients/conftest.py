"""Tools that people use, as they are: what they need to find a region that is simulated."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from server import Server, exported


@pytest.fixture
def region() -> Iterator[Server]:
    with Server("--simulate") as server:
        yield server


@pytest.fixture
def environment(region: Server) -> dict[str, str]:
    """What a shell has after eval "$(nimbo env)", and nothing else of AWS's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return kept | exported("--endpoint", region.url)


@pytest.fixture(scope="session")
def public_key() -> str:
    return "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJlUkYpiWMdYYVhXqyJgG6wHBNG8vYiWjIZFvMRl4Zhd admin@example"


@pytest.fixture(scope="session")
def everything() -> Callable[[Any], dict[str, set[str]]]:
    return all_ids


LISTS = {
    "addresses": ("Addresses", "AllocationId"),
    "dhcp_options": ("DhcpOptions", "DhcpOptionsId"),
    "internet_gateways": ("InternetGateways", "InternetGatewayId"),
    "key_pairs": ("KeyPairs", "KeyPairId"),
    "launch_templates": ("LaunchTemplates", "LaunchTemplateId"),
    "network_acls": ("NetworkAcls", "NetworkAclId"),
    "network_interfaces": ("NetworkInterfaces", "NetworkInterfaceId"),
    "placement_groups": ("PlacementGroups", "GroupId"),
    "route_tables": ("RouteTables", "RouteTableId"),
    "security_groups": ("SecurityGroups", "GroupId"),
    "subnets": ("Subnets", "SubnetId"),
    "volumes": ("Volumes", "VolumeId"),
    "vpcs": ("Vpcs", "VpcId"),
}


def all_ids(ec2: Any) -> dict[str, set[str]]:
    """Of all that an account has, and that lasts."""
    found = {name: {each[id] for each in getattr(ec2, f"describe_{name}")()[key]} for name, (key, id) in LISTS.items()}
    found["images"] = {image["ImageId"] for image in ec2.describe_images(Owners=["self"])["Images"]}
    found["snapshots"] = {snapshot["SnapshotId"] for snapshot in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}
    alive = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
    reservations = ec2.describe_instances(Filters=alive)["Reservations"]
    found["instances"] = {instance["InstanceId"] for each in reservations for instance in each["Instances"]}
    return found
