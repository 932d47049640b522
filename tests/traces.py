"""What a region leaves in the machine that it runs on, for tests that compare."""

import ctypes
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guest import wait_until

CLONE_NEWNET = 0x40000000
# Counters of others, and what a listing says of itself.
VOLATILE = re.compile(r"packets \d+ bytes \d+|# handle \d+")


@contextmanager
def own_network() -> Iterator[None]:
    """A network of this thread's own, and of what it starts, with an interface to an outside where nobody is."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            for command in [
                "link set lo up",
                "link add lan0 type veth peer name elsewhere",
                "addr add 198.51.100.2/24 dev lan0",
                "link set elsewhere up",
                "link set lan0 up",
                "route add default via 198.51.100.1",
            ]:
                subprocess.run(["ip", *command.split()], check=True)
            # Until it has a carrier, listings say so.
            wait_until(lambda: " UP " in told("ip", "-br", "link", "show", "lan0"), "the interface is up")
            yield
        finally:
            assert libc.setns(before, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(before)


def own_address() -> str:
    """The address by which this machine reaches an outside."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.connect(("192.0.2.1", 9))
        return nobody.getsockname()[0]


def told(*command: str) -> str:
    return VOLATILE.sub("", subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def traces(folder: Path) -> dict[str, object]:
    """All that a region with its files in a folder has in this machine while it runs."""
    about = str(folder).encode()
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)]
    return {
        "links": told("ip", "-br", "link"),
        "addresses": told("ip", "-br", "addr"),
        "routes": told("ip", "-4", "route", "show", "table", "all"),
        "proxies": told("ip", "neigh", "show", "proxy"),
        "rules": told("nft", "list", "ruleset"),
        "settings": {str(path): path.read_text() for path in sorted(Path("/proc/sys/net/ipv4/conf").glob("*/forwarding"))},
        "sockets": told("ss", "-Hlntu"),
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line],
        "processes": [line for line in lines if about in line],
        "files": (folder / "run").exists() or (folder / "state/server.json").exists(),
    }


def readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False
