"""Debian's own update-grub, after a second kernel came: which of the two `nimbo run` takes from the disk."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT_OFFSET = 1 << 20
PROBE = Path(__file__).parents[2] / "images/debian/grub-probe"


def run(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def update_grub(root: Path, uuid: str) -> None:
    """As the image's recipe does it: a stand-in answers what the root file system lies on."""
    probe = root / "usr/sbin/grub-probe"
    probe.unlink()
    probe.write_text(PROBE.read_text().replace("@UUID@", uuid).replace("@PARTUUID@", uuid))
    probe.chmod(0o755)
    by_uuid = root / "dev/disk/by-uuid"
    by_uuid.mkdir(parents=True)
    (by_uuid / uuid).touch()
    run("chroot", root, "update-grub")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Gone after the test, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="nimbo-test-") as folder:
        yield Path(folder)


def test_the_newer_of_two_kernels_is_booted(debian_image: str, folder: Path) -> None:
    root, disk = folder / "root", folder / "disk.raw"
    root.mkdir()
    run("debugfs", "-R", f"rdump / {root}", f"{debian_image}?offset={ROOT_OFFSET}")
    boot = root / "boot"
    (old,) = boot.glob("vmlinuz-*")
    new = boot / re.sub(r"-\d+-cloud", "-999-cloud", old.name)
    uuid = re.search(r"--set=root ([0-9a-f-]{36})", (boot / "grub/grub.cfg").read_text())[1]
    for name in ["vmlinuz", "config", "initrd.img"]:
        shutil.copy(boot / old.name.replace("vmlinuz", name), boot / new.name.replace("vmlinuz", name))
    update_grub(root, uuid)

    # What is no kernel is told with its first bytes, so it needs no boot to see which file was taken.
    old.write_text("old one.")
    new.write_text("new one.")
    (folder / "tree").mkdir()
    boot.rename(folder / "tree/boot")
    shutil.rmtree(root)
    run("mke2fs", "-q", "-t", "ext4", "-U", uuid, "-d", folder / "tree", disk, "128M")
    command = [os.environ["NIMBO"], "run", "--here", "--no-network", "--image", str(disk)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done
    first_bytes = ", ".join(f"{byte:02x}" for byte in b"new one.")
    assert f"it begins with [{first_bytes}]" in done.stderr
