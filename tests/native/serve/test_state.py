"""The state folder of nimbo serve."""

import os
import resource
import stat
import subprocess
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError
from server import TIMEOUT_S, Server


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_has_one_server_and_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "state"
    with Server("--simulate", "--state", str(folder)) as server:
        command = [os.environ["NIMBO"], "serve", "--simulate", "--state", str(folder), "--listen", "127.0.0.1:0"]
        second = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert second.returncode == 1
        assert f"in use by process {server.process.pid}" in second.stderr, second.stderr
        assert mode(folder) == 0o700
        assert {mode(path) for path in folder.iterdir()} == {0o600}


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    with Server("--simulate", cwd=tmp_path) as server:
        server.client("ec2").create_key_pair(KeyName="one")
    with Server("--simulate", cwd=tmp_path) as server:
        assert server.client("ec2").describe_key_pairs()["KeyPairs"] == []
    assert list(tmp_path.iterdir()) == []


def test_a_server_whose_disk_is_full_ends_and_has_all_that_it_told(tmp_path: Path) -> None:
    options, told = ("--simulate", "--state", str(tmp_path / "state")), tmp_path / "told"

    def no_large_files() -> None:
        # The signal that comes with it is ignored, as Python does.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    made = []
    with told.open("w") as stderr:
        server = Server(*options, stderr=stderr, preexec_fn=no_large_files, restore_signals=False)
        try:
            ec2 = server.client("ec2")
            for number in range(2000):
                name = f"{number} {'x' * 200}"
                ec2.create_key_pair(KeyName=name, KeyType="ed25519")
                made.append(name)
            raise AssertionError("the disk is never full")
        except (BotoCoreError, ClientError):
            assert server.process.wait(TIMEOUT_S) == 1
        finally:
            server.kill()
    assert "the control plane's store failed" in told.read_text()
    with Server(*options) as server:
        found = {pair["KeyName"] for pair in server.client("ec2").describe_key_pairs()["KeyPairs"]}
        assert set(made) <= found and len(found) <= len(made) + 1
