"""DHCP options."""

from collections.abc import Callable
from typing import Any

import pytest

NOBODY = "dopt-00000000000000000"


def configurations(**options: str | list[str]) -> list[dict[str, Any]]:
    values = {key.replace("_", "-"): value if isinstance(value, list) else [value] for key, value in options.items()}
    return [{"Key": key, "Values": value} for key, value in values.items()]


def shown(options: dict[str, Any]) -> dict[str, list[str]]:
    return {each["Key"]: [value["Value"] for value in each["Values"]] for each in options["DhcpConfigurations"]}


def make(ec2: Any, **options: str | list[str]) -> str:
    return ec2.create_dhcp_options(DhcpConfigurations=configurations(**options))["DhcpOptions"]["DhcpOptionsId"]


def filters(**wanted: str) -> list[dict[str, Any]]:
    return [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in wanted.items()]


def test_a_new_vpc_has_the_options_that_amazon_provides(api: Any) -> None:
    for region, domain in [("us-east-1", "ec2.internal"), ("eu-west-2", "eu-west-2.compute.internal")]:
        ec2 = api.client("ec2", region=region)
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]
        [options] = ec2.describe_dhcp_options(DhcpOptionsIds=[vpc["DhcpOptionsId"]])["DhcpOptions"]
        assert shown(options) == {"domain-name": [domain], "domain-name-servers": ["AmazonProvidedDNS"]}


def test_all_options_are_told_again(ec2: Any) -> None:
    tags = [{"Key": "Name", "Value": "lab"}]
    wanted = {
        "domain_name": "lab.example",
        "domain_name_servers": ["10.0.0.2", "AmazonProvidedDNS"],
        "ntp_servers": ["10.0.0.3"],
        "netbios_name_servers": ["10.0.0.4", "10.0.0.5"],
        "netbios_node_type": "2",
    }
    made = ec2.create_dhcp_options(
        DhcpConfigurations=configurations(**wanted), TagSpecifications=[{"ResourceType": "dhcp-options", "Tags": tags}]
    )["DhcpOptions"]
    assert shown(made) == shown({"DhcpConfigurations": [{"Key": each["Key"], "Values": [{"Value": value} for value in each["Values"]]}
                                                        for each in configurations(**wanted)]})  # fmt: skip
    assert made["Tags"] == tags and made["OwnerId"] == "000000000000"
    assert ec2.describe_dhcp_options(DhcpOptionsIds=[made["DhcpOptionsId"]])["DhcpOptions"] == [made]


def test_values_can_stand_in_one_text(ec2: Any) -> None:
    options = make(ec2, domain_name_servers="10.0.0.2, 10.0.0.3")
    [found] = ec2.describe_dhcp_options(DhcpOptionsIds=[options])["DhcpOptions"]
    assert shown(found) == {"domain-name-servers": ["10.0.0.2", "10.0.0.3"]}


@pytest.mark.parametrize(
    ("code", "options"),
    [
        ("InvalidParameterValue", {"domain_nam": "x"}),
        ("InvalidParameterValue", {"domain_name": ["a", "b"]}),
        ("InvalidParameterValue", {"domain_name_servers": ["dns.example"]}),
        ("InvalidParameterValue", {"ntp_servers": [f"10.0.0.{number}" for number in range(5)]}),
        ("InvalidParameterValue", {"ntp_servers": []}),
        ("InvalidParameterValue", {"netbios_node_type": "3"}),
        ("UnsupportedOperation", {"ipv6_address_preferred_lease_time": "140"}),
    ],
)
def test_options_that_cannot_be_are_refused(ec2: Any, refused: Callable[..., str], code: str, options: dict[str, Any]) -> None:
    before = len(ec2.describe_dhcp_options()["DhcpOptions"])
    refused(code, ec2.create_dhcp_options, DhcpConfigurations=configurations(**options))
    assert len(ec2.describe_dhcp_options()["DhcpOptions"]) == before


def test_an_option_is_named_once(ec2: Any, refused: Callable[..., str]) -> None:
    twice = configurations(domain_name="a") + configurations(domain_name="b")
    refused("InvalidParameterValue", ec2.create_dhcp_options, DhcpConfigurations=twice)
    refused("MissingParameter", ec2.create_dhcp_options, DhcpConfigurations=[])


def test_a_vpc_gets_other_options_and_none(ec2: Any, refused: Callable[..., str]) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    options = make(ec2, domain_name="lab.example")

    def its() -> str:
        return ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"][0]["DhcpOptionsId"]

    ec2.associate_dhcp_options(DhcpOptionsId=options, VpcId=vpc)
    assert its() == options
    assert [each["VpcId"] for each in ec2.describe_vpcs(Filters=filters(dhcp_options_id=options))["Vpcs"]] == [vpc]
    refused("DependencyViolation", ec2.delete_dhcp_options, DhcpOptionsId=options)
    ec2.associate_dhcp_options(DhcpOptionsId="default", VpcId=vpc)
    assert its() == "default"
    ec2.delete_dhcp_options(DhcpOptionsId=options)
    refused("InvalidDhcpOptionID.NotFound", ec2.associate_dhcp_options, DhcpOptionsId=options, VpcId=vpc)
    refused("InvalidDhcpOptionID.NotFound", ec2.delete_dhcp_options, DhcpOptionsId=NOBODY)
    refused("InvalidDhcpOptionID.Malformed", ec2.delete_dhcp_options, DhcpOptionsId="dopt")
    refused("InvalidVpcID.NotFound", ec2.associate_dhcp_options, DhcpOptionsId="default", VpcId="vpc-00000000000000000")


def test_options_are_found_by_their_filters(ec2: Any) -> None:
    one = make(ec2, domain_name="one.example", ntp_servers=["10.9.9.9"])
    two = make(ec2, domain_name="two.example")

    def found(**wanted: str) -> list[str]:
        return sorted(each["DhcpOptionsId"] for each in ec2.describe_dhcp_options(Filters=filters(**wanted))["DhcpOptions"])

    assert found(key="ntp-servers", value="10.9.9.*") == found(dhcp_options_id=one) == [one]
    assert found(value="two.*") == [two]
    assert found(value="*o*.example") == sorted([one, two])
    assert {one, two} < set(found(owner_id="000000000000"))
