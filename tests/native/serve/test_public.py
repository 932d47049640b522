"""Public addresses of a range that the command line names, and their names on this machine. It runs no guest here."""

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guest import NIMBO
from server import TIMEOUT_S, Server
from traces import own_network


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


def ask(at: tuple[str, int], name: str) -> tuple[int, str | None]:
    """What a name server says of a name's address: its code, and the address."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = labels + b"\0" + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT_S)
        client.sendto(struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + question, at)
        answer = client.recv(512)
    number, flags, _, count, _, _ = struct.unpack(">6H", answer[:12])
    assert number == 7
    return flags & 15, socket.inet_ntoa(answer[-4:]) if count else None


def until(at: tuple[str, int], name: str, expected: tuple[int, str | None]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while (found := ask(at, name)) != expected:
        assert time.monotonic() < end, f"{name}: {found}"
        time.sleep(0.01)


REFUSED = 5, None


@pytest.mark.parametrize("simulates", [True, False])
def test_public_names_lead_to_public_addresses_on_this_machine(network: None, tmp_path: Path, simulates: bool) -> None:
    at = ("127.0.0.55", 53)
    chosen = ("--simulate", "--resolver", "127.0.0.55:53") if simulates else options(tmp_path)
    with Server(*chosen) as server:
        keys = {} if simulates else credentials(tmp_path / "state")
        for region, domain in [("us-east-1", "compute-1"), ("eu-west-1", "eu-west-1.compute")]:
            ec2 = server.client("ec2", region=region, **keys)
            subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
            interface = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
            address = ec2.allocate_address()
            name = f"ec2-{address['PublicIp'].replace('.', '-')}.{domain}.amazonaws.com"
            assert ask(at, name) == REFUSED
            ec2.associate_address(AllocationId=address["AllocationId"], NetworkInterfaceId=interface)
            until(at, name, (0, address["PublicIp"]))
            association = ec2.describe_addresses()["Addresses"][0]["AssociationId"]
            ec2.disassociate_address(AssociationId=association)
            until(at, name, REFUSED)
        assert ask(at, "example.org") == REFUSED


def credentials(state: Path) -> dict[str, str]:
    lines = (state / "credentials").read_text().splitlines()
    known = dict(line.split(" = ") for line in lines if " = " in line)
    return {"account": known["aws_access_key_id"], "secret": known["aws_secret_access_key"]}


def test_somebody_else_may_resolve_names_there(network: None, tmp_path: Path) -> None:
    told = tmp_path / "told"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.55", 53))
        with told.open("w") as stderr, Server(*options(tmp_path), stderr=stderr):
            pass
        assert "cannot resolve names for this machine" in told.read_text()
        assert "cannot resolve names for this machine" in fails(*options(tmp_path), "--resolver", "127.0.0.55:53")
        with told.open("w") as stderr, Server(*options(tmp_path), "--resolver", "none", stderr=stderr):
            pass
        assert "resolve" not in told.read_text()
    assert "is neither ADDRESS:PORT" in fails("--simulate", "--resolver", "nowhere")
