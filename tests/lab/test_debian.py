"""The Debian image: a full system, cloud-init and all, as its vendor would ship it, with every device in use."""

import os
import re
import socket
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest import PATIENCE_S, Guest, fetch, free_port, running, wait_until

MARK = "written by cloud-init"

# Python in the guest: a service that gives back what it gets, and a client of the host's.
VSOCK_PY = """
import os, socket, sys

HOST = 2

def receive_all(stream):
    return b"".join(iter(lambda: stream.recv(65536), b""))

def serve(port):
    listener = socket.socket(socket.AF_VSOCK)
    listener.bind((socket.VMADDR_CID_ANY, port))
    listener.listen()
    while True:
        stream, _ = listener.accept()
        stream.sendall(receive_all(stream))
        stream.close()

def ask(port, length):
    data = os.urandom(length)
    stream = socket.socket(socket.AF_VSOCK)
    try:
        stream.connect((HOST, port))
    except OSError as error:
        return type(error).__name__
    stream.sendall(data)
    stream.shutdown(socket.SHUT_WR)
    return "same" if receive_all(stream) == data else "different"

if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    print(ask(int(sys.argv[2]), int(sys.argv[3])), flush=True)
"""

GUEST_PORT, HOST_PORT, NOBODYS_PORT = 5000, 5001, 5002

USER_DATA = f"""#cloud-config
write_files:
  - path: /var/www/html/index.html
    content: |
      {MARK}
  - path: /root/vsock.py
    content: |
{textwrap.indent(VSOCK_PY, "      ")}
runcmd:
  - [sh, -c, "cloud-init query instance_id > /var/www/html/instance"]
  - [systemd-run, --unit, vsock, python3, /root/vsock.py, serve, "{GUEST_PORT}"]
  - [sh, -c, "python3 /root/vsock.py ask {HOST_PORT} 3000 > /var/www/html/vsock-small"]
  - [sh, -c, "python3 /root/vsock.py ask {HOST_PORT} 3000000 > /var/www/html/vsock-large"]
  - [sh, -c, "python3 /root/vsock.py ask {NOBODYS_PORT} 1 > /var/www/html/vsock-refused"]
  - [sh, -c, "cat /sys/class/misc/hw_random/rng_current > /var/www/html/rng; head -c 16 /dev/hwrng | wc -c >> /var/www/html/rng"]
"""


def receive_all(stream: socket.socket) -> bytes:
    return b"".join(iter(lambda: stream.recv(65536), b""))


class Echo:
    """Gives back what it gets, at a Unix socket."""

    def __init__(self, path: Path):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            stream, _ = self.listener.accept()
            with stream:
                stream.sendall(receive_all(stream))


@pytest.fixture(scope="module")
def vsock() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nimbo-test-") as folder:
        path = Path(folder) / "vsock"
        Echo(Path(f"{path}_{HOST_PORT}"))
        yield path


@pytest.fixture(scope="module")
def guest(debian_image: str, vsock: Path) -> Iterator[Guest]:
    port = free_port()
    with tempfile.NamedTemporaryFile("w") as user_data:
        user_data.write(USER_DATA)
        user_data.flush()
        arguments = ["--image", debian_image, "--cpus", "2", "--memory", "1G", "--vsock", str(vsock)]
        arguments += ["--user-data", user_data.name, "--publish", f"127.0.0.1:{port}:80"]
        with running(*arguments) as guest:
            guest.port = port
            finished = guest.wait_for_boot(r"Cloud-init v\. \S+ finished at .* Datasource (\S+)\s", seconds=600)
            assert finished[1].startswith("DataSourceEc2")
            yield guest


def test_user_data_ran(guest: Guest) -> None:
    assert MARK in wait_until(lambda: fetch(guest.port), "nginx")
    identity = wait_until(lambda: fetch(guest.port, "/instance"), "what runcmd wrote")
    assert identity.strip() == guest.control("GET", "/v1/machine")["id"]


def connect(vsock: Path, port: int) -> tuple[socket.socket, bytes]:
    """A connection to the guest's port, and the line that answers."""
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(PATIENCE_S)
    stream.connect(str(vsock))
    stream.sendall(f"CONNECT {port}\n".encode())
    line = b""
    while not line.endswith(b"\n") and (byte := stream.recv(1)):
        line += byte
    return stream, line


@pytest.mark.parametrize("length", [3_000, 3_000_000])
def test_the_host_reaches_a_service_of_the_guest(guest: Guest, vsock: Path, length: int) -> None:
    stream, line = connect(vsock, GUEST_PORT)
    with stream:
        assert re.fullmatch(rb"OK \d+\n", line)
        data = os.urandom(length)
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
        assert receive_all(stream) == data


def test_the_guest_reaches_a_service_of_the_host(guest: Guest) -> None:
    assert fetch(guest.port, "/vsock-small") == "same\n"
    assert fetch(guest.port, "/vsock-large") == "same\n"


def test_a_port_at_which_nobody_listens_is_refused_on_either_side(guest: Guest, vsock: Path) -> None:
    assert fetch(guest.port, "/vsock-refused") == "ConnectionResetError\n"
    stream, line = connect(vsock, NOBODYS_PORT)
    with stream:
        assert line == b""


def test_the_console_asks_who_is_there(guest: Guest) -> None:
    guest.wait_for(r"login:")
    start = len(guest.console)
    guest.type("nobody\n")
    guest.wait_for("Password:", after=start)


def test_every_device_works_inside_the_jail(guest: Guest) -> None:
    """All of the above went through devices of a process that can do nothing else."""
    assert fetch(guest.port, "/rng").split() == ["virtio_rng.0", "16"]
    target = 64 << 20
    guest.control("PUT", "/v1/balloon", {"target_bytes": target})
    wait_until(lambda: guest.control("GET", "/v1/balloon")["actual_bytes"] == target, "the guest to give memory up")
    guest.control("PUT", "/v1/balloon", {"target_bytes": 0})

    devices = guest.control("GET", "/v1/devices")["devices"]
    assert {device["kind"] for device in devices} == {"block", "net", "rng", "balloon", "vsock"}
    assert {device["state"] for device in devices} == {"active"}

    threads = guest.threads()
    workers = {"disk0-q0", "disk0-q1", "net0-q0", "net0-q1", "rng", "balloon", "vsock", "cpu0", "cpu1"}
    assert workers < {thread.name for thread in threads}
    user = threads[0].status["Uid"].split()[0]
    for thread in threads:
        status = thread.status
        assert status["Seccomp"] == "2", thread.name
        assert status["NoNewPrivs"] == "1", thread.name
        # A user that nobody else is, with no other group, and no way back.
        assert int(user) >= 0x60000000
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {user}, thread.name
        assert status["Groups"] == "", thread.name
        for capabilities in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]:
            assert int(status[capabilities], 16) == 0, (thread.name, capabilities)
    process = guest.machine_process
    assert os.listdir(process / "root") == [] == os.listdir(process / "cwd")
    for namespace in ["mnt", "net", "ipc", "uts"]:
        assert os.readlink(process / "ns" / namespace) != os.readlink(f"/proc/self/ns/{namespace}")


def test_the_power_button_ends_it_cleanly(guest: Guest, vsock: Path) -> None:
    guest.control("POST", "/v1/machine/power-button", {})
    assert guest.wait_end(seconds=240) == 0
    assert "the jail lacks" not in guest.console
    assert not vsock.exists()
