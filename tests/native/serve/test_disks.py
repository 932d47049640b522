"""Volumes, snapshots and images of nimbo serve on this machine: real ones, which no guest has."""

import configparser
import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server import TIMEOUT_S, Server

GIB = 1 << 30
WAITER = {"Delay": 0.1, "MaxAttempts": 10 * TIMEOUT_S}


class Region:
    """A server with its folders, which is started again as often as one likes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        self.start()

    def start(self, *options: str) -> None:
        self.server = Server("--here", "--state", str(self.state), "--run", str(self.folder / "run"), *options)
        self.ec2 = self.client("us-east-1")

    def client(self, region: str) -> Any:
        keys = configparser.ConfigParser()
        keys.read(self.state / "credentials")
        default = keys["default"]
        return self.server.client("ec2", region=region, account=default["aws_access_key_id"], secret=default["aws_secret_access_key"])

    def kill(self) -> None:
        self.server.process.send_signal(signal.SIGKILL)
        self.server.kill()

    def nimbo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return subprocess.run([os.environ["NIMBO"], *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, env=environment)

    def imported(self, image: Path, name: str) -> str:
        outcome = self.nimbo("image", "import", str(image), "--name", name, "--state", str(self.state))
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout.strip()

    def volume(self, **arguments: Any) -> str:
        volume = self.ec2.create_volume(AvailabilityZone="us-east-1a", VolumeType="gp3", **arguments)["VolumeId"]
        self.ec2.get_waiter("volume_available").wait(VolumeIds=[volume], WaiterConfig=WAITER)
        return volume

    def exported(self, volume: str, target: Path) -> bool:
        """Whether a volume that nobody has could be copied."""
        places = ["--objects", str(self.state / "objects"), "--keys", str(self.state / "keys/volumes")]
        return self.nimbo("volume", "export", str(self.state / "volumes" / volume), str(target), *places).returncode == 0

    def read(self, volume: str) -> bytes:
        """What it begins with, as soon as nobody fetches what it lacks."""
        target = self.folder / f"{volume}.raw"
        until(lambda: self.exported(volume, target), volume)
        with target.open("rb") as file:
            begin = file.read(16)
        target.unlink()
        return begin

    def left(self) -> list[str]:
        folders = [self.state / name for name in ("volumes", "snapshots", "copies")]
        return [path.name for folder in folders for path in folder.iterdir()]


def until(check: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    region = Region(tmp_path)
    try:
        yield region
    finally:
        region.kill()
        # Volumes are served by processes that outlive the server: this one has no guests, and the next server ends them.
        region.start()
        until(lambda: not list((tmp_path / "run/volumes").glob("*.sock")), "processes of volumes")
        region.server.end()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.write(b"the image's disk" + os.urandom(8 << 20))
        file.truncate(64 << 20)
    yield image
    # What pytest keeps of a test is small then.
    image.unlink()


def test_an_image_is_imported_and_its_disk_is_a_volumes(region: Region, disk: Path) -> None:
    image = region.imported(disk, "web server")
    [shown] = region.ec2.describe_images(Owners=["self"])["Images"]
    assert (shown["ImageId"], shown["Name"], shown["State"]) == (image, "web server", "available")
    [mapping] = shown["BlockDeviceMappings"]
    assert (mapping["DeviceName"], mapping["Ebs"]["VolumeSize"]) == (shown["RootDeviceName"], 1)
    plain = region.volume(SnapshotId=mapping["Ebs"]["SnapshotId"])
    encrypted = region.volume(SnapshotId=mapping["Ebs"]["SnapshotId"], Encrypted=True)
    assert region.read(plain) == region.read(encrypted) == b"the image's disk"
    again = region.nimbo("image", "import", str(disk), "--name", "web server", "--state", str(region.state))
    assert again.returncode == 1 and f"{image} is called" in again.stderr, again.stderr
    region.ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)
    for volume in (plain, encrypted):
        region.ec2.delete_volume(VolumeId=volume)
    until(lambda: region.left() == [], "what is left")
    until(lambda: not [path for path in (region.state / "objects").rglob("*-*") if path.is_file()], "objects")


def test_nothing_is_left_of_an_import_that_fails_or_is_stopped(region: Region, disk: Path) -> None:
    missing = region.nimbo("image", "import", str(disk.with_name("missing")), "--state", str(region.state))
    assert missing.returncode == 1 and "missing" in missing.stderr
    refused = region.nimbo("image", "import", str(disk), "--name", "no;name", "--state", str(region.state))
    assert refused.returncode == 1 and "InvalidAMIName.Malformed" in refused.stderr, refused.stderr
    with disk.open("r+b") as file:
        for _ in range(256):
            file.write(os.urandom(1 << 20))
    command = [os.environ["NIMBO"], "image", "import", str(disk), "--name", "stopped", "--state", str(region.state)]
    stopped = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until(lambda: region.ec2.describe_volumes()["Volumes"] != [], "the import's volume")
    stopped.send_signal(signal.SIGINT)
    _, said = stopped.communicate(timeout=TIMEOUT_S)
    assert stopped.returncode == 1 and "stopped" in said, said
    assert region.ec2.describe_images(Owners=["self"])["Images"] == []
    until(lambda: region.left() == [] and region.ec2.describe_volumes()["Volumes"] == [], "what is left")


def test_a_simulation_imports_nothing(tmp_path: Path, disk: Path) -> None:
    with Server("--simulate", "--state", str(tmp_path / "simulated")) as server:
        command = [os.environ["NIMBO"], "image", "import", str(disk), "--endpoint", server.url]
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert outcome.returncode == 1 and "is a simulation" in outcome.stderr, outcome.stderr


def test_volumes_are_modified_and_copied_between_regions_with_what_they_hold(region: Region, disk: Path) -> None:
    image = region.imported(disk, "origin")
    [shown] = region.ec2.describe_images(ImageIds=[image])["Images"]
    source = shown["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    there = region.client("eu-west-1")
    copies = [there.copy_snapshot(SourceRegion="us-east-1", SourceSnapshotId=source, Encrypted=encrypted)["SnapshotId"] for encrypted in (False, True)]
    there.get_waiter("snapshot_completed").wait(SnapshotIds=copies, WaiterConfig=WAITER)
    for copy, encrypted in zip(copies, (False, True), strict=True):
        volume = there.create_volume(AvailabilityZone="eu-west-1a", SnapshotId=copy)["VolumeId"]
        there.get_waiter("volume_available").wait(VolumeIds=[volume], WaiterConfig=WAITER)
        [seen] = there.describe_volumes(VolumeIds=[volume])["Volumes"]
        assert seen["Encrypted"] == encrypted
        assert region.read(volume) == b"the image's disk"
    volume = region.volume(SnapshotId=source)
    region.ec2.modify_volume(VolumeId=volume, Size=5, VolumeType="io2", Iops=1000)

    def is_modified() -> bool:
        [modification] = region.ec2.describe_volumes_modifications(VolumeIds=[volume])["VolumesModifications"]
        assert modification["ModificationState"] != "failed", modification
        return modification["ModificationState"] == "completed"

    until(is_modified, "the modification")
    target = region.folder / "modified.raw"
    until(lambda: region.exported(volume, target), volume)
    assert target.stat().st_size == 5 * GIB


@pytest.mark.parametrize("seed", range(int(os.environ.get("NIMBO_KILL_ROUNDS", "4"))))
def test_a_server_that_is_killed_goes_on_with_what_it_was_about(region: Region, disk: Path, seed: int) -> None:
    chance = random.Random(seed)
    image = region.imported(disk, "origin")
    [shown] = region.ec2.describe_images(ImageIds=[image])["Images"]
    source = shown["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    volumes: list[str] = []
    snapshots: list[str] = []
    for _ in range(3):
        for _ in range(chance.randrange(1, 4)):
            options: dict[str, Any] = {"SnapshotId": source} if chance.random() < 0.7 else {"Size": 1}
            made = region.ec2.create_volume(AvailabilityZone="us-east-1a", VolumeType="gp3", Encrypted=chance.random() < 0.3, **options)
            volumes.append(made["VolumeId"])
        for volume in chance.sample(volumes, min(2, len(volumes))):
            [seen] = region.ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
            if seen["State"] == "available":
                snapshots.append(region.ec2.create_snapshot(VolumeId=volume)["SnapshotId"])
        time.sleep(chance.random() / 4)
        region.kill()
        region.start()
    region.ec2.get_waiter("volume_available").wait(VolumeIds=volumes, WaiterConfig=WAITER)
    if snapshots:
        region.ec2.get_waiter("snapshot_completed").wait(SnapshotIds=snapshots, WaiterConfig=WAITER)
    for volume in volumes:
        [seen] = region.ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
        assert region.read(volume) == (b"the image's disk" if seen["SnapshotId"] else bytes(16)), seen
    region.ec2.deregister_image(ImageId=image)
    for snapshot in [*snapshots, source]:
        region.ec2.delete_snapshot(SnapshotId=snapshot)
    for volume in volumes:
        region.ec2.delete_volume(VolumeId=volume)
    until(lambda: region.left() == [], "what is left")


class Killer(threading.Thread):
    """Kills processes that serve volumes of a server, any of them at any time, until it is left."""

    def __init__(self, state: Path, chance: random.Random) -> None:
        super().__init__()
        self.state, self.chance, self.count, self.is_over = state, chance, 0, threading.Event()

    def __enter__(self) -> "Killer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self.join()

    def processes(self) -> Iterator[int]:
        mark = f"={self.state}/volumes/".encode()
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            # Between two looks it may have ended.
            with contextlib.suppress(OSError):
                command = process.read_bytes()
                if b"\0volume\0serve\0" in command and mark in command:
                    yield int(process.parent.name)

    def run(self) -> None:
        while not self.is_over.wait(self.chance.uniform(0.001, 0.1)):
            processes = list(self.processes())
            if processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.chance.choice(processes), signal.SIGKILL)
                    self.count += 1


@pytest.mark.parametrize("seed", range(int(os.environ.get("NIMBO_KILL_ROUNDS", "2"))))
def test_what_a_volumes_process_dies_in_the_middle_of_is_done_by_the_next(region: Region, disk: Path, seed: int) -> None:
    chance = random.Random(seed)
    image = region.imported(disk, "origin")
    [shown] = region.ec2.describe_images(ImageIds=[image])["Images"]
    source = shown["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    volumes = [region.volume(SnapshotId=source, Encrypted=chance.random() < 0.5) for _ in range(3)]
    snapshots: list[str] = []

    def pending(volume: str) -> int:
        filters = [{"Name": "volume-id", "Values": [volume]}, {"Name": "status", "Values": ["pending"]}]
        return len(region.ec2.describe_snapshots(OwnerIds=["self"], Filters=filters)["Snapshots"])

    with Killer(region.state, chance) as killer:
        for volume in volumes:
            region.ec2.modify_volume(VolumeId=volume, Size=2)

        def has_killed_enough() -> bool:
            volume = chance.choice(volumes)
            if pending(volume) < 4:
                snapshots.append(region.ec2.create_snapshot(VolumeId=volume)["SnapshotId"])
            return killer.count >= 20

        until(has_killed_enough, "processes to kill")
    region.ec2.get_waiter("snapshot_completed").wait(SnapshotIds=snapshots, WaiterConfig=WAITER)

    def is_modified(volume: str) -> bool:
        [modification] = region.ec2.describe_volumes_modifications(VolumeIds=[volume])["VolumesModifications"]
        assert modification["ModificationState"] != "failed", modification
        return modification["ModificationState"] == "completed"

    for volume in volumes:
        until(lambda volume=volume: is_modified(volume), "a modification")
    for snapshot in chance.sample(snapshots, min(4, len(snapshots))):
        volume = region.volume(SnapshotId=snapshot)
        assert region.read(volume) == b"the image's disk"
        volumes.append(volume)
    region.ec2.deregister_image(ImageId=image)
    for snapshot in [*snapshots, source]:
        region.ec2.delete_snapshot(SnapshotId=snapshot)
    for volume in volumes:
        region.ec2.delete_volume(VolumeId=volume)
    until(lambda: region.left() == [], "what is left")


def test_snapshots_are_kept_where_the_server_is_told_and_stay_there(region: Region, disk: Path) -> None:
    region.imported(disk, "origin")
    elsewhere = region.folder / "elsewhere"
    command = [os.environ["NIMBO"], "serve", "--here", "--listen", "127.0.0.1:0", "--state", str(region.state), "--objects", str(elsewhere)]
    region.server.end()
    refused = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert refused.returncode == 1 and "1 snapshots are in" in refused.stderr and not elsewhere.exists(), refused.stderr
    region.start()
    [image] = region.ec2.describe_images(Owners=["self"])["Images"]
    region.ec2.deregister_image(ImageId=image["ImageId"], DeleteAssociatedSnapshots=True)
    until(lambda: region.left() == [], "what is left")
    region.server.end()
    region.start("--objects", str(elsewhere))
    region.imported(disk, "another")
    assert [path for path in (elsewhere / "snapshots").rglob("*") if path.is_file()]
    # From now on that goes without saying.
    region.server.end()
    region.start()
    [image] = region.ec2.describe_images(Owners=["self"])["Images"]
    volume = region.volume(SnapshotId=image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"])
    region.ec2.delete_volume(VolumeId=volume)
