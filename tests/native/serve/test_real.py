"""nimbo serve without --simulate: whom it lets in, and what it keeps. It runs no guest here."""

import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from server import TIMEOUT_S, Server, exported, nimbo


def options(folder: Path) -> tuple[str, ...]:
    return ("--here", "--state", str(folder / "state"), "--run", str(folder / "run"), "--region", "eu-central-1")


def refused(code: str, *keys: str, server: Server) -> None:
    with pytest.raises(ClientError) as caught:
        server.identity(*keys)
    assert caught.value.response["Error"]["Code"] == code


def test_the_first_start_makes_keys_and_no_others_are_taken(tmp_path: Path) -> None:
    file, told = tmp_path / "state" / "credentials", tmp_path / "told"
    with told.open("w") as stderr, Server(*options(tmp_path), stderr=stderr) as server:
        assert f"made access keys for the account 000000000000: {file}" in told.read_text()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        before = file.read_bytes()
        found = exported("--state", str(tmp_path / "state"))
        keys = found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"]
        assert server.identity(*keys) == "000000000000"
        assert (found["AWS_ENDPOINT_URL"], found["AWS_REGION"]) == (server.url, "eu-central-1")
        for guessed in ("test", "000000000000", "111122223333"):
            refused("InvalidClientTokenId", guessed, "test", server=server)
        refused("SignatureDoesNotMatch", keys[0], "test", server=server)
        # The server says where its keys are; who may read them may use them.
        assert exported("--endpoint", server.url, "--state", "/nonexistent")["AWS_ACCESS_KEY_ID"] == keys[0]
        status = nimbo("status", "--state", str(tmp_path / "state"))
        assert status.returncode == 0 and "simulated" not in status.stdout, status.stderr
        assert server.ask("POST", "/_nimbo/reset")[0] == 403
        assert "Only a server that simulates" in server.ask("POST", "/_nimbo/reset")[1]["error"]["message"]
        server.client("ec2", account=keys[0], secret=keys[1]).create_key_pair(KeyName="kept")
        # A section that is gone is a key that is gone.
        assert nimbo("account", "add", "111122223333", "--state", str(tmp_path / "state")).returncode == 0
        more = exported("--state", str(tmp_path / "state"), "--profile", "111122223333")
        other = more["AWS_ACCESS_KEY_ID"], more["AWS_SECRET_ACCESS_KEY"]
        assert server.identity(*other) == "111122223333"
        file.write_bytes(before)
        until_refused(server, other)
    with told.open("w") as stderr, Server(*options(tmp_path), stderr=stderr) as server:
        assert file.read_bytes() == before and "made access keys" not in told.read_text()
        pairs = server.client("ec2", region="us-east-1", account=keys[0], secret=keys[1]).describe_key_pairs()["KeyPairs"]
        assert [pair["KeyName"] for pair in pairs] == ["kept"]


def until_refused(server: Server, keys: tuple[str, str]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        try:
            server.identity(*keys)
        except ClientError as error:
            assert error.response["Error"]["Code"] == "InvalidClientTokenId"
            return
        time.sleep(0.05)
    raise AssertionError("a key that was taken back is still good")


def test_keys_that_may_not_be_read_are_told_clearly(tmp_path: Path) -> None:
    with Server(*options(tmp_path), stderr=subprocess.DEVNULL) as server:
        (tmp_path / "state" / "credentials").unlink()
        told = nimbo("env", "--endpoint", server.url)
        assert (told.returncode, told.stdout) == (1, "")
        assert "access keys cannot be read: ask as the user that it runs as" in told.stderr, told.stderr


def test_a_folder_is_of_a_simulation_or_not(tmp_path: Path) -> None:
    def fails(*arguments: Any) -> str:
        done = subprocess.run([os.environ["NIMBO"], "serve", "--listen", "127.0.0.1:0", *arguments], capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == 1
        return done.stderr

    with Server(*options(tmp_path), stderr=subprocess.DEVNULL):
        pass
    assert "is not simulated: name another folder" in fails("--simulate", "--state", str(tmp_path / "state"))
    with Server("--simulate", "--state", str(tmp_path / "simulated")):
        pass
    assert "was simulated: name another folder" in fails("--here", "--state", str(tmp_path / "simulated"), "--run", str(tmp_path / "run"))
