"""Volumes whose servers end, and guests that have nothing else to boot from."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest import NIMBO, PATIENCE_S, Guest, running, wait_until

SMALL = ["--memory", "128M", "--no-network"]


class Server:
    """A process that serves a volume to microVMs, and can be ended and started again."""

    def __init__(self, volume: Path):
        self.path = volume.with_suffix(".sock")
        self.command = [NIMBO, "volume", "serve", str(volume), "--vhost-user", str(self.path)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE)
        assert self.process.stdout
        # It says so when guests can connect.
        assert self.process.stdout.readline()

    def end(self, by: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(by)
        self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def served(volume: Path) -> Iterator[Server]:
    server = Server(volume)
    try:
        yield server
    finally:
        server.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def volume(tmp_path_factory, tiny_image) -> Path:
    """A volume with the tiny image on it."""
    folder = tmp_path_factory.mktemp("served") / "web"
    subprocess.run([NIMBO, "volume", "import", str(folder), tiny_image, "--size", "1G"], check=True)
    return folder


def test_a_guest_lives_on_a_volume(volume):
    """Booted from its folder, rebooted, and booted again from a server; what it wrote is there each time."""
    with running("--disk", str(volume), *SMALL) as guest:
        guest.login()
        guest.run("echo kept > /root/file && sync")
        start = len(guest.console)
        guest.control("POST", "/v1/machine/reset")
        guest.wait_for(r"nimbo-init: ready in \d+ ms", after=start)
        guest.type("\n")
        assert guest.run("cat /root/file") == "kept"
        guest.run("echo again >> /root/file && sync")
        guest.control("POST", "/v1/machine/power-off")
        assert guest.wait_end() == 0
    data = volume.with_name("data")
    subprocess.run([NIMBO, "volume", "create", str(data), "--size", "1G"], check=True)
    with served(volume) as root, served(data) as other:
        disks = ["--disk", str(root.path), "--disk", str(other.path)]
        with running(*disks, *SMALL) as guest:
            guest.login()
            assert guest.run("cat /root/file").split() == ["kept", "again"]
            a_server_that_is_replaced(guest, root, other)
            a_server_that_is_killed(guest, other)


def a_server_that_is_replaced(guest: Guest, root: Server, other: Server) -> None:
    """Servers of the root and of another disk are ended in order while the guest writes, and others go on."""
    guest.run("head -c 4096000 /dev/urandom > /tmp/data && md5sum < /tmp/data > /tmp/sum")
    copy = "for n in $(seq 8); do dd if=/tmp/data of=/dev/vdb bs=4096 seek=$((n * 1000)) oflag=direct || exit 1; done"
    guest.run(f"( {copy} ) > /tmp/dd 2>&1 && echo well > /tmp/end || echo badly > /tmp/end &")
    for server, disk in [(other, "disk1"), (root, "disk0"), (other, "disk1")]:
        server.end()
        wait_until(lambda disk=disk: guest.device(disk)["state"] == "disconnected", "the guest's disk is disconnected")
        server.start()
        wait_until(lambda disk=disk: guest.device(disk)["state"] == "active", "the guest's disk is served again")
    wait_until(lambda: guest.run("cat /tmp/end 2>/dev/null || true"), "the end of dd")
    assert guest.run("cat /tmp/end") == "well", guest.run("cat /tmp/dd")
    for number in (1, 8):
        read = f"dd if=/dev/vdb bs=4096 skip={number * 1000} count=1000 iflag=direct 2>/dev/null | md5sum | cmp - /tmp/sum"
        guest.run(read)
    guest.run("echo 3 > /proc/sys/vm/drop_caches && cat /root/file && echo more >> /root/file && sync")


def a_server_that_is_killed(guest: Guest, other: Server) -> None:
    """Nothing in the guest waits for ever: what writes gets an error, and the file system can be unmounted."""
    guest.run("mke2fs -q -F /dev/vdb && mkdir -p /mnt && mount -t ext4 /dev/vdb /mnt && sync")
    guest.run("dd if=/dev/zero of=/dev/vdb bs=65536 seek=8000 oflag=direct > /tmp/dd 2>&1 ; echo $? > /tmp/status &")
    guest.run("sleep 1")
    other.end(signal.SIGKILL)
    wait_until(lambda: guest.device("disk1")["state"] == "needs_reset", "the device tells that it is broken")
    assert wait_until(lambda: guest.run("cat /tmp/status 2>/dev/null || true"), "the end of dd") != "0"
    assert "error" in guest.run("cat /tmp/dd")
    guest.run("umount /mnt")
    assert guest.run("cat /root/file").split() == ["kept", "again", "more"]
