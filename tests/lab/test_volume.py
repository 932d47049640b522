"""Volumes as the disks of guests: what was flushed is there whatever ends, and several may use one."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from guest import NIMBO, PATIENCE_S, Guest, running, wait_until

SMALL = ["--memory", "128M", "--no-network"]


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("volumes") / "data"
    subprocess.run([NIMBO, "volume", "create", str(folder), "--size", "1G"], check=True)
    return folder


@contextmanager
def served(volume: Path, *options: str) -> Iterator[Path]:
    """The socket of a process that serves the volume to microVMs."""
    path = volume.with_suffix(".socket")
    command = [NIMBO, "volume", "serve", str(volume), "--vhost-user", str(path), *options]
    process = subprocess.Popen(command)
    try:
        wait_until(path.exists, "the socket")
        yield path
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def attach(guest: Guest, identity: str, path: Path) -> str:
    """Plugs the disk behind a socket in, and returns its name in the guest."""
    before = set(guest.run("ls /sys/block").split())
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        guest.control("POST", "/v1/disks", {"id": identity}, fds=(connection.fileno(),))
    return wait_until(lambda: set(guest.run("ls /sys/block").split()) - before, "the disk in the guest").pop()


def detach(guest: Guest, identity: str) -> None:
    guest.control("DELETE", f"/v1/disks/{identity}")
    wait_until(lambda: guest.device(identity) is None, "the guest lets go of the disk")


def test_a_guest_that_is_killed_finds_its_files(tiny_image, volume):
    with running("--image", tiny_image, "--disk", str(volume), *SMALL) as guest:
        guest.login()
        assert guest.run("cat /sys/block/vdb/size") == str(2**30 // 512)
        assert guest.run("cat /sys/block/vdb/serial") == "data"
        guest.run("mke2fs -F /dev/vdb && mkdir -p /mnt && mount -t ext4 /dev/vdb /mnt")
        guest.run("head -c 3000000 /dev/urandom > /mnt/file && md5sum /mnt/file > /mnt/sum && sync && sync")
        guest.run("head -c 9000000 /dev/zero > /mnt/lost")
        process = int(guest.machine_process.name)
        os.kill(process, signal.SIGKILL)
        guest.wait_end()
    checked = subprocess.run([NIMBO, "volume", "check", str(volume)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    with served(volume) as path, running("--image", tiny_image, "--share-memory", *SMALL) as guest:
        guest.login()
        disk = attach(guest, "data", path)
        guest.run(f"mkdir -p /mnt && mount -t ext4 /dev/{disk} /mnt && md5sum -c /mnt/sum")
        guest.run("umount /mnt")
        detach(guest, "data")
        two_attachments(guest, path)
        a_large_volume_from_a_snapshot(guest, volume.parent)
        backends_that_die(guest, volume)


def two_attachments(guest: Guest, path: Path) -> None:
    """One volume twice in a guest, as in two guests: what one writes, the other reads."""
    one, other = attach(guest, "one", path), attach(guest, "other", path)
    for number in (3, 4):
        # In whole blocks at the end, past each disk's cache.
        guest.run(f"yes {number} | head -c 4096 > /tmp/block")
        guest.run(f"dd if=/tmp/block of=/dev/{one} bs=4096 seek=262000 oflag=direct 2>/dev/null")
        guest.run(f"dd if=/dev/{other} of=/tmp/read bs=4096 skip=262000 count=1 iflag=direct 2>/dev/null")
        guest.run("cmp /tmp/block /tmp/read")
    detach(guest, "one")
    detach(guest, "other")


def a_large_volume_from_a_snapshot(guest: Guest, folder: Path) -> None:
    """What a snapshot of 1 TiB holds can be read as soon as there is a volume of it, and nothing else is fetched."""
    image, objects = folder / "large.raw", ["--objects", str(folder / "objects")]
    with image.open("wb") as file:
        file.truncate(2**25)
    content = folder / "content"
    content.mkdir()
    (content / "file").write_bytes(b"from the snapshot\n")
    subprocess.run(["mkfs.ext4", "-q", "-d", str(content), "-O", "^has_journal", str(image)], check=True)
    subprocess.run([NIMBO, "volume", "import", str(folder / "large"), str(image), "--size", "1T"], check=True)
    image.unlink()
    snapshot = [NIMBO, "volume", "snapshot", str(folder / "large"), *objects]
    name = subprocess.run(snapshot, check=True, capture_output=True, text=True).stdout.strip()
    restored = folder / "restored"
    subprocess.run([NIMBO, "volume", "restore", name, str(restored), *objects], check=True)
    with served(restored, *objects) as path:
        disk = attach(guest, "restored", path)
        assert guest.run(f"cat /sys/block/{disk}/size") == str(2**40 // 512)
        read = f"mount -t ext4 -o ro /dev/{disk} /mnt && cat /mnt/file && umount /mnt"
        assert guest.run(read) == "from the snapshot"
        detach(guest, "restored")


def backends_that_die(guest: Guest, volume: Path) -> None:
    """What the guest does with the disk ends with errors, it can be unplugged in either way, and the volume attached again."""
    other = volume.with_name("other")
    subprocess.run([NIMBO, "volume", "create", str(other), "--size", "1G"], check=True)
    a_backend_that_dies(guest, other, "dying", "")
    a_backend_that_dies(guest, other, "torn", "?force=true")
    with served(other) as path:
        disk = attach(guest, "again", path)
        guest.run(f"dd if=/dev/{disk} of=/dev/null bs=4096 count=10")
        detach(guest, "again")


def a_backend_that_dies(guest: Guest, volume: Path, identity: str, removal: str) -> None:
    path = volume.with_suffix(".dying")
    command = [NIMBO, "volume", "serve", str(volume), "--vhost-user", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout and process.stdout.readline()
        disk = attach(guest, identity, path)
        write = f"dd if=/dev/zero of=/dev/{disk} bs=65536"
        guest.run(f"rm -f /tmp/status; {{ {write}; echo $? > /tmp/status; }} 2>/tmp/dd &")
        sectors_written = f"awk '{{ print $7 }}' /sys/block/{disk}/stat"
        wait_until(lambda: guest.run(sectors_written) != "0", "the guest writes")
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: guest.device(identity)["state"] == "needs_reset", "the device tells that it is broken")
    guest.control("DELETE", f"/v1/disks/{identity}{removal}")
    wait_until(lambda: guest.device(identity) is None, "the broken disk is gone")
    assert wait_until(lambda: guest.run("cat /tmp/status 2>/dev/null || true"), "the end of dd") != "0"
    wait_until(lambda: disk not in guest.run("ls /sys/block").split(), "the guest let go of the disk")
