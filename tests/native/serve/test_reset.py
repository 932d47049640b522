"""POST /_nimbo/reset, and what else is asked without a signature."""

from pathlib import Path

import pytest
from server import Server


@pytest.mark.parametrize("is_kept", [False, True])
def test_everything_is_as_in_the_beginning(tmp_path: Path, is_kept: bool) -> None:
    options = ("--simulate", "--state", str(tmp_path / "state")) if is_kept else ("--simulate",)
    with Server(*options) as server:
        places = [("us-east-1", "000000000000"), ("eu-west-1", "111111111111")]
        clients = [server.client("ec2", region=region, account=account) for region, account in places]
        for _ in range(2):
            for ec2 in clients:
                [image] = ec2.describe_images()["Images"]
                ec2.run_instances(ImageId=image["ImageId"], MinCount=50, MaxCount=50)
                ec2.create_key_pair(KeyName="one", KeyType="ed25519")
                ec2.create_vpc(CidrBlock="10.0.0.0/16")
            assert server.ask("GET", "/_nimbo/server")[1]["regions"] == ["eu-west-1", "us-east-1"]
            assert server.ask("POST", "/_nimbo/reset") == (200, {})
            assert server.ask("GET", "/_nimbo/server")[1]["regions"] == []
            for ec2 in clients:
                assert ec2.describe_instances()["Reservations"] == []
                assert ec2.describe_volumes()["Volumes"] == [] and ec2.describe_key_pairs()["KeyPairs"] == []
                [vpc] = ec2.describe_vpcs()["Vpcs"]
                assert vpc["IsDefault"]
                assert len(ec2.describe_images()["Images"]) == 1
        # What is made after it stays.
        made = clients[0].create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
        images = clients[0].describe_images()["Images"]
    if is_kept:
        with Server(*options) as server:
            ec2 = server.client("ec2")
            assert made in {vpc["VpcId"] for vpc in ec2.describe_vpcs()["Vpcs"]}
            assert ec2.describe_images()["Images"] == images
            assert ec2.describe_instances()["Reservations"] == []


def test_what_is_not_asked_as_it_should_be_is_refused() -> None:
    with Server("--simulate") as server:
        assert server.ask("GET", "/_nimbo/reset")[0] == 405
        assert server.ask("POST", "/_nimbo/server")[0] == 405
        assert server.ask("GET", "/_nimbo/nothing")[0] == 404
        assert server.ask("POST", "/_nimbo/reset", Origin="http://elsewhere.example")[0] == 403
        status, about = server.ask("GET", "/_nimbo/server")
        assert status == 200 and about["is_simulated"] and about["state"] is None
