"""What is done to the disk of a guest that is writing to it: a larger size, and a snapshot, which a second guest mounts."""

import json
import subprocess
from pathlib import Path

from guest import NIMBO, Guest, running, wait_until

SMALL = ["--memory", "128M", "--no-network"]

# Numbered files, each with its checksum. /tmp/acknowledged has the last that sync(1) said is on the disk.
LOAD = """
number=0
while number=$((number + 1)); do
    head -c 300000 /dev/urandom > /mnt/$number
    (cd /mnt && md5sum $number > $number.sum)
    sync && echo $number > /tmp/acknowledged
done
"""


def volume(*arguments: str) -> str:
    ended = subprocess.run([NIMBO, "volume", *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, f"{arguments}: {ended.stdout}{ended.stderr}"
    return ended.stdout.strip()


def acknowledged(guest: Guest) -> int:
    return int(guest.run("cat /tmp/acknowledged 2>/dev/null || echo 0"))


def check_file_system(disk: Path, image: Path) -> None:
    """Without a repair: its journal was replayed by whoever mounted it."""
    volume("export", str(disk), str(image))
    checked = subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    image.unlink()


def test_a_snapshot_under_load_mounts_clean_in_a_second_guest(tiny_image, tmp_path):
    image, disk, then = tmp_path / "disk.raw", tmp_path / "disk", tmp_path / "then"
    objects = ["--objects", str(tmp_path / "objects")]
    with image.open("wb") as file:
        file.truncate(2**28)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    volume("import", str(disk), str(image))
    image.unlink()
    with running("--image", tiny_image, "--disk", str(disk), *SMALL) as guest:
        guest.login()
        guest.run("mkdir -p /mnt && mount -t ext4 /dev/vdb /mnt")
        guest.run(f"({LOAD}) > /dev/null 2>&1 &")
        wait_until(lambda: acknowledged(guest) >= 2, "the guest writes")

        volume("modify", str(disk), "--size", "1G")
        assert json.loads(volume("info", str(disk), "--json"))["size_bytes"] == 2**30
        wait_until(lambda: guest.run("cat /sys/block/vdb/size") == str(2**30 // 512), "the guest sees the new size")

        before = acknowledged(guest)
        name = volume("snapshot", str(disk), *objects)
        after = acknowledged(guest)
        wait_until(lambda: acknowledged(guest) > after, "the guest goes on writing")

    volume("restore", name, str(then), *objects)
    with running("--image", tiny_image, "--disk", str(then), *objects, *SMALL) as guest:
        guest.login()
        guest.run("mkdir -p /mnt && mount -t ext4 /dev/vdb /mnt")
        sums = guest.run(f"cd /mnt && for n in $(seq 1 {before}); do md5sum -c $n.sum; done")
        assert sums.count(": OK") == before, sums
        # Of one moment: what was written after it is not there.
        assert guest.run(f"ls /mnt | grep -c '^{after + 2}$' || true") == "0"
        guest.run("umount /mnt && ! dmesg | grep -E 'EXT4-fs (error|warning)'")
    volume("fill", str(then), *objects)
    check_file_system(then, image)
    check_file_system(disk, image)
