"""A region of real instances, driven by boto3: launched, stopped, changed, rebooted, ended, and its server killed in the middle."""

import configparser
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guest import NIMBO, PATIENCE_S, wait_until
from server import Server

USER_DATA = """#!/bin/sh
echo "first boot of $(hostname)" > /root/user-data
"""
DELAY = {"Delay": 1, "MaxAttempts": int(PATIENCE_S)}


class Region:
    """A server with a state of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.start()

    def start(self) -> None:
        self.server = Server("--state", str(self.state), "--run", str(self.folder / "run"))
        known = configparser.ConfigParser()
        known.read(self.state / "credentials")
        keys = known[known.sections()[0] if known.sections() else "default"]
        self.ec2 = self.server.client("ec2", account=keys["aws_access_key_id"], secret=keys["aws_secret_access_key"])

    def kill(self) -> None:
        self.server.kill()

    def wait(self, waiter: str, **arguments: Any) -> None:
        self.ec2.get_waiter(waiter).wait(WaiterConfig=DELAY, **arguments)

    def instance(self, identity: str) -> dict[str, Any]:
        return self.ec2.describe_instances(InstanceIds=[identity])["Reservations"][0]["Instances"][0]

    def processes(self) -> dict[str, int]:
        """The processes of all microVMs, by their instances."""
        names = (self.folder / "run/instances").glob("*/process.json")
        return {name.parent.name: int(re.search(r'"pid":(\d+)', name.read_text()).group(1)) for name in names}

    def volume_servers(self) -> list[int]:
        """The processes that serve its volumes."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if words[1:3] == [b"volume", b"serve"] and any(bytes(self.state) in word for word in words):
                    found.append(int(process.name))
        return found

    def image(self, file: str) -> str:
        command = [NIMBO, "image", "import", file, "--name", "tiny", "--state", str(self.state)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Instance:
    """An instance that is logged in to at its private address."""

    def __init__(self, region: Region, identity: str, key: Path) -> None:
        self.region, self.id, self.key = region, identity, key

    def seen(self) -> dict[str, Any]:
        return self.region.instance(self.id)

    def try_to_run(self, command: str) -> subprocess.CompletedProcess[str]:
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=5", "-o", "BatchMode=yes"]
        address = self.seen()["PrivateIpAddress"]
        return subprocess.run(["ssh", "-i", str(self.key), *options, f"root@{address}", command], capture_output=True, text=True, timeout=PATIENCE_S)

    def run(self, command: str) -> str:
        """What a command prints, as soon as the guest lets anybody in."""
        said = []

        def answer() -> str | None:
            done = self.try_to_run(command)
            said.append(done.stderr)
            return f"{done.stdout} " if done.returncode == 0 else None

        try:
            return str(wait_until(answer, command)).strip()
        except AssertionError:
            raise AssertionError(f"{command}: {said[-1]}; console: {self.console()[-2000:]}") from None

    def console(self) -> str:
        log = self.region.folder / "run/consoles" / f"{self.id}.log"
        return log.read_text(errors="replace") if log.exists() else ""


@pytest.fixture(scope="module")
def region(tmp_path_factory) -> Iterator[Region]:
    region = Region(tmp_path_factory.mktemp("region"))
    try:
        yield region
    finally:
        with contextlib.suppress(Exception):
            region.kill()
        for process in [*region.processes().values(), *region.volume_servers()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@pytest.fixture(scope="module")
def key(region, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "key"
    path.touch(0o600)
    path.write_text(region.ec2.create_key_pair(KeyName="test", KeyType="ed25519")["KeyMaterial"])
    return path


@pytest.fixture(scope="module")
def image(region, tiny_image) -> str:
    return region.image(tiny_image)


@pytest.fixture(scope="module")
def instance(region, key, image) -> Instance:
    before = time.monotonic()
    launched = region.ec2.run_instances(
        ImageId=image,
        InstanceType="t3.nano",
        MinCount=1,
        MaxCount=1,
        KeyName="test",
        UserData=USER_DATA,
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "web"}]}],
    )
    instance = Instance(region, launched["Instances"][0]["InstanceId"], key)
    region.wait("instance_running", InstanceIds=[instance.id])
    print(f"running after {time.monotonic() - before:.1f} s")
    return instance


def test_user_data_and_the_key_are_the_instances_own(instance):
    seen = instance.seen()
    assert instance.run("cat /root/user-data").startswith("first boot of ip-")
    name = instance.run("hostname")
    assert name == seen["PrivateDnsName"].partition(".")[0] or name == seen["PrivateDnsName"]
    assert instance.run("ip -4 -o addr show eth0").split()[3].partition("/")[0] == seen["PrivateIpAddress"]
    assert instance.run("cat /sys/class/dmi/id/board_asset_tag") == instance.id
    fetch = "wget -qO- http://169.254.169.254/latest/meta-data/"
    assert instance.run(f"{fetch}instance-id") == instance.id
    assert instance.run(f"{fetch}placement/availability-zone") == seen["Placement"]["AvailabilityZone"]


def test_its_volume_is_attached_and_named(region, instance):
    seen = instance.seen()["BlockDeviceMappings"]
    assert [(device["DeviceName"], device["Ebs"]["Status"]) for device in seen] == [("/dev/xvda", "attached")]
    volume = seen[0]["Ebs"]["VolumeId"]
    assert instance.run("cat /sys/block/vda/serial") == volume.replace("-", "")


def test_a_stop_a_new_type_and_a_start_keep_data_and_change_the_public_address(region, instance):
    instance.run("echo kept > /root/kept && sync")
    before = instance.seen()
    region.ec2.stop_instances(InstanceIds=[instance.id])
    region.wait("instance_stopped", InstanceIds=[instance.id])
    assert instance.id not in region.processes()
    assert "PublicIpAddress" not in instance.seen()
    region.ec2.modify_instance_attribute(InstanceId=instance.id, InstanceType={"Value": "t3.micro"})
    region.ec2.start_instances(InstanceIds=[instance.id])
    region.wait("instance_running", InstanceIds=[instance.id])
    after = instance.seen()
    assert after["PrivateIpAddress"] == before["PrivateIpAddress"]
    assert after["PublicIpAddress"] != before["PublicIpAddress"]
    assert instance.run("cat /root/kept") == "kept"
    # 1 GiB, of which the kernel takes some.
    assert int(instance.run("grep MemTotal /proc/meminfo").split()[1]) > 900_000


def test_a_reboot_keeps_the_process_the_addresses_and_what_was_written(region, instance):
    # The guest shuts down: nobody has to write down for it what it has in memory.
    instance.run("echo not yet > /root/unsynced")
    before, processes = instance.seen(), region.processes()
    boot = instance.run("cat /proc/sys/kernel/random/boot_id")
    region.ec2.reboot_instances(InstanceIds=[instance.id])
    wait_until(lambda: instance.run("cat /proc/sys/kernel/random/boot_id") != boot, "another boot")
    after = instance.seen()
    assert (after["PublicIpAddress"], after["State"]["Name"]) == (before["PublicIpAddress"], "running")
    assert region.processes() == processes
    assert instance.run("cat /root/unsynced") == "not yet"


def test_a_volume_is_plugged_into_the_running_guest_and_unplugged(region, instance):
    zone = instance.seen()["Placement"]["AvailabilityZone"]
    volume = region.ec2.create_volume(AvailabilityZone=zone, Size=2)["VolumeId"]
    region.wait("volume_available", VolumeIds=[volume])
    region.ec2.attach_volume(VolumeId=volume, InstanceId=instance.id, Device="/dev/sdf")
    region.wait("volume_in_use", VolumeIds=[volume])
    wait_until(lambda: instance.try_to_run("cat /sys/block/vdb/size").stdout.strip() == str(2 << 21), "a second disk")
    instance.run("echo data | dd of=/dev/vdb conv=fsync")
    region.ec2.detach_volume(VolumeId=volume)
    region.wait("volume_available", VolumeIds=[volume])
    wait_until(lambda: instance.try_to_run("test ! -e /sys/block/vdb").returncode == 0, "the disk's end")
    region.ec2.delete_volume(VolumeId=volume)


def test_a_server_that_is_killed_disturbs_nothing(region, instance):
    processes = region.processes()
    boot = instance.run("cat /proc/sys/kernel/random/boot_id")
    region.kill()
    region.start()
    assert region.processes() == processes
    assert instance.seen()["State"]["Name"] == "running"
    assert instance.run("cat /proc/sys/kernel/random/boot_id") == boot
    # Who answers in its network is there again.
    assert instance.run("wget -qO- http://169.254.169.254/latest/meta-data/instance-id") == instance.id
    assert instance.run("nslookup $(hostname) >/dev/null && echo found") == "found"


def test_a_process_that_is_killed_stops_its_instance_and_says_so(region, instance):
    instance.run("sync")
    os.kill(region.processes()[instance.id], signal.SIGKILL)
    region.wait("instance_stopped", InstanceIds=[instance.id])
    reason = instance.seen()["StateReason"]
    assert reason["Code"] == "Server.InternalError" and "process" in reason["Message"], reason
    region.ec2.start_instances(InstanceIds=[instance.id])
    region.wait("instance_running", InstanceIds=[instance.id])
    assert instance.run("cat /root/kept") == "kept"


def test_a_guest_that_powers_off_while_nobody_looks_is_found_stopped(region, instance):
    # It has a second to say so, and then nobody is there.
    instance.run("sync; (sleep 2; poweroff) >/dev/null 2>&1 &")
    region.kill()
    process = region.processes()[instance.id]
    wait_until(lambda: not is_running(process), "the process's end")
    region.start()
    region.wait("instance_stopped", InstanceIds=[instance.id])
    assert instance.seen()["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    region.ec2.start_instances(InstanceIds=[instance.id])
    region.wait("instance_running", InstanceIds=[instance.id])


def is_running(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_server_killed_while_it_starts_an_instance_starts_it_all_the_same(region, image):
    launched = region.ec2.run_instances(ImageId=image, InstanceType="t3.nano", MinCount=1, MaxCount=1)
    identity = launched["Instances"][0]["InstanceId"]
    region.kill()
    region.start()
    region.wait("instance_running", InstanceIds=[identity])
    region.ec2.terminate_instances(InstanceIds=[identity])
    region.wait("instance_terminated", InstanceIds=[identity])


def test_nothing_is_left_of_what_was_terminated(region, instance):
    volume = instance.seen()["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    region.ec2.terminate_instances(InstanceIds=[instance.id])
    region.wait("instance_terminated", InstanceIds=[instance.id])
    region.wait("volume_deleted", VolumeIds=[volume])
    wait_until(lambda: not (region.state / "volumes" / volume).exists(), "the volume's end")
    assert not region.processes()
    for folder in ["instances", "netns"]:
        assert not list((region.folder / "run" / folder).iterdir())
    assert "nimbo" not in subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
