"""Terraform and its AWS provider, as they are.

Neither is in a package registry: what is tried is the `terraform` on PATH with the provider that it finds by itself, or in the folder
that NIMBO_TERRAFORM_PLUGINS names, which is laid out as Terraform's file system mirrors are.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server import Server

CONFIGURATION = Path(__file__).parent / "terraform"
TIMEOUT_S = 300


class Terraform:
    def __init__(self, folder: Path, environment: dict[str, str], public_key: str) -> None:
        self.folder = folder
        self.environment = environment | {
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "CHECKPOINT_DISABLE": "1",
            "TF_VAR_public_key": public_key,
            # Where there is no registry, that is to be known soon.
            "TF_REGISTRY_CLIENT_TIMEOUT": "5",
            "TF_REGISTRY_DISCOVERY_RETRY": "0",
        }

    def run(self, *arguments: str, status: int = 0) -> str:
        command = ["terraform", *arguments, "-no-color"]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S
        )
        assert done.returncode == status, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def apply(self, **variables: Any) -> str:
        return self.run("apply", "-auto-approve", "-parallelism=50", *self.variables(variables))

    def has_nothing_to_do(self, **variables: Any) -> None:
        """That a plan is empty: what the region tells is what the configuration says."""
        self.run("plan", "-detailed-exitcode", "-parallelism=50", *self.variables(variables))

    def outputs(self) -> dict[str, Any]:
        told = json.loads(self.run("output", "-json"))
        return {name: output["value"] for name, output in told.items()}

    @staticmethod
    def variables(variables: dict[str, Any]) -> list[str]:
        return [f"-var={name}={json.dumps(value) if isinstance(value, list) else value}" for name, value in variables.items()]


@pytest.fixture
def terraform(tmp_path: Path, environment: dict[str, str], public_key: str) -> Terraform:
    if not shutil.which("terraform"):
        pytest.skip("there is no terraform on PATH")
    folder = tmp_path / "shop"
    shutil.copytree(CONFIGURATION, folder)
    if plugins := os.environ.get("NIMBO_TERRAFORM_PLUGINS"):
        config = tmp_path / "terraform.rc"
        config.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{plugins}"\n  }}\n}}\n')
        environment = environment | {"TF_CLI_CONFIG_FILE": str(config)}
    terraform = Terraform(folder, environment, public_key)
    try:
        terraform.run("init")
    except AssertionError as error:
        # Anything else that is wrong is wrong here.
        if "Failed to query available provider packages" not in str(error):
            raise
        pytest.skip("terraform finds no provider hashicorp/aws: NIMBO_TERRAFORM_PLUGINS can name a folder with it")
    return terraform


def test_what_terraform_makes_is_there_stays_changes_and_goes(
    region: Server, terraform: Terraform, everything: Callable[[Any], dict[str, set[str]]]
) -> None:
    ec2 = region.client("ec2")
    before = everything(ec2)

    terraform.apply()
    told = terraform.outputs()
    assert (told["account"], told["region"]) == ("000000000000", "us-east-1")
    web = told["web"]
    assert (web["vpcs"], web["subnets"], web["found"], web["offered_in"]) == (3, 2, [web["id"]], 3)
    assert "echo hello" in web["user_data"] and web["memory_mib"] == 2048
    instance = described(ec2, web["id"])
    assert instance["State"]["Name"] == "running" and instance["PublicIpAddress"] == web["public_ip"]
    terraform.has_nothing_to_do()

    changes = {"stage": "live", "instance_type": "t3.small", "data_gib": 16, "ports": [443, 8443]}
    assert "0 destroyed" not in terraform.apply(**changes)
    instance = described(ec2, web["id"])
    assert instance["InstanceType"] == "t3.small" and {"Key": "Stage", "Value": "live"} in instance["Tags"]
    terraform.has_nothing_to_do(**changes)

    terraform.run("destroy", "-auto-approve", "-parallelism=50", "-refresh=false")
    assert everything(ec2) == before


def described(ec2: Any, instance: str) -> dict[str, Any]:
    return ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
