"""Public addresses of a range that the command line names. It runs no guest here."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guest import NIMBO
from host import own_network
from server import TIMEOUT_S, Server


@pytest.fixture
def network() -> Iterator[None]:
    with own_network():
        yield


def options(folder: Path) -> tuple[str, ...]:
    return ("--here", "--state", str(folder / "state"), "--run", str(folder / "run"))


def fails(*arguments: Any) -> str:
    command = [NIMBO, "serve", "--listen", "127.0.0.1:0", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode in (1, 2), done
    return done.stderr


def test_new_addresses_are_of_the_pool_and_old_ones_stay(tmp_path: Path) -> None:
    kept = ("--simulate", "--state", str(tmp_path))
    with Server(*kept, "--public-pool", "192.0.2.0/30") as server:
        ec2 = server.client("ec2")
        had = {ec2.allocate_address()["PublicIp"] for _ in range(2)}
        assert had == {"192.0.2.1", "192.0.2.2"}
        with pytest.raises(ec2.exceptions.ClientError, match="InsufficientAddressCapacity"):
            ec2.allocate_address()
        assert server.ask("POST", "/_nimbo/reset")[0] == 200
        assert ec2.allocate_address()["PublicIp"].startswith("192.0.2.")
        ec2.allocate_address()
    with Server(*kept) as server:
        ec2 = server.client("ec2")
        assert {address["PublicIp"] for address in ec2.describe_addresses()["Addresses"]} == had
        assert ec2.allocate_address()["PublicIp"].startswith("198.18.")
    assert "which nobody can have" in fails("--simulate", "--public-pool", "127.0.0.0/16")
    assert "is an address in 10.0.0.0/8" in fails("--simulate", "--public-pool", "10.1.0.0/8")


def test_a_pool_that_somebody_uses_is_refused(network: None, tmp_path: Path) -> None:
    told = fails(*options(tmp_path), "--public-pool", "198.51.100.0/24")
    assert "198.51.100.2 on lan0 is somebody's already" in told, told
    assert "198.51.100.1 on lan0" in fails(*options(tmp_path), "--public-pool", "198.51.100.1/32")
    assert "there are: " in fails(*options(tmp_path), "--lan-interface", "nowhere")
    warnings = tmp_path / "told"
    for lan, is_told in [((), True), (("--lan-interface", "lan0"), False)]:
        with warnings.open("w") as stderr, Server(*options(tmp_path), "--public-pool", "198.51.100.128/25", *lan, stderr=stderr):
            pass
        assert ("this machine reaches 198.51.100.0/24 by lan0" in warnings.read_text()) == is_told


def test_what_is_in_the_way_of_the_pool_is_found_by_the_doctor(network: None) -> None:
    check = [NIMBO, "doctor", "addresses"]
    found = subprocess.run(check, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert found.stdout.startswith("ok"), found
    subprocess.run(["ip", "route", "add", "198.18.0.0/30", "dev", "lan0"], check=True)
    found = subprocess.run(check, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert found.stdout.startswith("warning") and "198.18.0.0/30 is reached by lan0" in found.stdout, found
