"""Access keys, and what nimbo env says of them."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from server import ACCOUNT, TIMEOUT_S, Server, exported, nimbo

# Where no other server is looked for.
NOWHERE = ("--state", "/nonexistent")


def test_the_environment_is_that_of_the_server_that_runs(tmp_path: Path) -> None:
    with Server("--simulate", "--region", "eu-west-1", "--account", "123456789012") as server:
        found = exported("--endpoint", server.url, *NOWHERE)
        assert found["AWS_ENDPOINT_URL"] == server.url
        assert found["AWS_REGION"] == found["AWS_DEFAULT_REGION"] == "eu-west-1"
        assert server.identity(found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"]) == "123456789012"
        assert exported("--endpoint", server.url, "--region", "us-west-2", *NOWHERE)["AWS_REGION"] == "us-west-2"
        # Any region works, whichever is the server's own.
        assert len(server.client("ec2", region="ap-south-1").describe_vpcs()["Vpcs"]) == 1
    folder = tmp_path / "it's a folder"
    with Server("--simulate", "--state", str(folder)) as server:
        assert exported("--state", str(folder))["AWS_ENDPOINT_URL"] == server.url


def test_without_a_server_it_says_how_to_start_one(tmp_path: Path) -> None:
    with Server("--simulate", "--state", str(tmp_path)) as server:
        url = server.url
    assert sorted(path.name for path in tmp_path.iterdir()) == ["simulated", "store.redb"]
    told = nimbo("env", "--endpoint", url, *NOWHERE)
    assert (told.returncode, told.stdout) == (1, "")
    assert "start one (nimbo serve --simulate)" in told.stderr, told.stderr


def test_an_account_is_added_while_the_server_runs_and_removed(tmp_path: Path) -> None:
    with Server("--simulate", "--state", str(tmp_path)) as server:
        added = nimbo("account", "add", "111122223333", "--name", "ci", "--state", str(tmp_path))
        assert added.returncode == 0, added.stderr
        file = tmp_path / "credentials"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        found = exported("--state", str(tmp_path), "--profile", "ci")
        access_key, secret = found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"]
        assert access_key.startswith("AKIA") and len(secret) == 40
        assert server.identity(access_key, secret) == "111122223333"
        assert server.identity("test", "test") == ACCOUNT
        with pytest.raises(ClientError) as caught:
            server.identity(access_key, "test")
        assert caught.value.response["Error"]["Code"] == "SignatureDoesNotMatch"
        # AWS's clients read the file as it is.
        environment = {**found, "AWS_SHARED_CREDENTIALS_FILE": str(file), "AWS_PROFILE": "ci"}
        script = "import boto3; print(boto3.client('sts').get_caller_identity()['Account'])"
        del environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
        done = subprocess.run(["/usr/bin/python3", "-c", script], env={**os.environ, **environment}, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.stdout.strip() == "111122223333", done.stderr
        again = nimbo("account", "add", "111122223333", "--name", "ci", "--state", str(tmp_path))
        assert again.returncode == 1 and "has a section [ci]" in again.stderr
        wrong = nimbo("env", "--state", str(tmp_path), "--profile", "nobody")
        assert wrong.returncode == 1 and "no section [nobody]" in wrong.stderr
