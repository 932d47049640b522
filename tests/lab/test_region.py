"""A region of real instances, driven by boto3: launched, stopped, changed, rebooted, ended, and its server killed in the middle."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest import wait_until
from region import Instance, Region

USER_DATA = """#!/bin/sh
echo "first boot of $(hostname)" > /root/user-data
"""
SECOND_USER_DATA = USER_DATA.replace("first boot", "second instance")


@pytest.fixture(scope="module")
def region(tmp_path_factory) -> Iterator[Region]:
    with Region(tmp_path_factory.mktemp("region")) as region:
        yield region


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
    boot = instance.boot()
    region.ec2.reboot_instances(InstanceIds=[instance.id])
    wait_until(lambda: instance.boot() != boot, "another boot")
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


@contextlib.contextmanager
def another(region: Region, image: str, key: Path) -> Iterator[Instance]:
    """A second instance, for as long as the block runs."""
    launched = region.ec2.run_instances(
        ImageId=image, InstanceType="t3.nano", MinCount=1, MaxCount=1, KeyName="test", UserData=SECOND_USER_DATA
    )
    second = Instance(region, launched["Instances"][0]["InstanceId"], key)
    try:
        region.wait("instance_running", InstanceIds=[second.id])
        yield second
    finally:
        region.ec2.terminate_instances(InstanceIds=[second.id])
        region.wait("instance_terminated", InstanceIds=[second.id])


@pytest.fixture
def data_disk(region, instance) -> Iterator[str]:
    """A second disk of the instance, with something on it."""
    zone = instance.seen()["Placement"]["AvailabilityZone"]
    volume = region.ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
    region.wait("volume_available", VolumeIds=[volume])
    region.ec2.attach_volume(VolumeId=volume, InstanceId=instance.id, Device="/dev/sdf")
    wait_until(lambda: instance.try_to_run("test -e /sys/block/vdb").returncode == 0, "a second disk")
    instance.run("echo on the second disk | dd of=/dev/vdb conv=fsync")
    yield volume
    region.ec2.detach_volume(VolumeId=volume)
    region.wait("volume_available", VolumeIds=[volume])
    region.ec2.delete_volume(VolumeId=volume)


def test_an_image_of_a_running_instance_has_what_its_guest_had_in_memory(region, instance, data_disk, key):
    # The guest shuts down for it: nobody has to write down for it what it has in memory.
    instance.run("echo not yet > /root/unsynced-for-image")
    before, boot = instance.seen(), instance.boot()
    image = region.ec2.create_image(InstanceId=instance.id, Name="rebooted")["ImageId"]

    def is_available() -> bool:
        now = instance.seen()
        assert (now["State"]["Name"], now["PublicIpAddress"]) == ("running", before["PublicIpAddress"])
        return region.ec2.describe_images(ImageIds=[image])["Images"][0]["State"] == "available"

    wait_until(is_available, "the image")
    # Its guest is back.
    assert instance.boot() != boot
    assert instance.run("cat /root/unsynced-for-image") == "not yet"
    mappings = region.ec2.describe_images(ImageIds=[image])["Images"][0]["BlockDeviceMappings"]
    assert sorted(mapping["DeviceName"] for mapping in mappings) == ["/dev/sdf", "/dev/xvda"]
    with another(region, image, key) as second:
        assert second.run("cat /root/unsynced-for-image") == "not yet"
        assert second.run("head -c 18 /dev/vdb") == "on the second disk"
        # All else is its own.
        wait_until(lambda: second.run("cat /root/user-data").startswith("second instance of ip-"), "its own user data")
        assert second.run("cat /root/user-data").endswith(second.run("hostname"))
        assert second.run("hostname") != instance.run("hostname")
        assert second.run("cat /sys/class/dmi/id/board_asset_tag") == second.id
        assert second.host_key() != instance.host_key()
        volumes = {mapping["Ebs"]["VolumeId"] for mapping in second.seen()["BlockDeviceMappings"]}
        assert len(volumes) == 2 and data_disk not in volumes
    assert instance.run("cat /root/user-data").startswith("first boot of ip-")


def test_an_image_without_a_reboot_is_as_after_a_power_cut(region, instance, key):
    instance.run("echo written > /root/synced && sync")
    boot = instance.boot()
    image = region.ec2.create_image(InstanceId=instance.id, Name="quiet", NoReboot=True)["ImageId"]
    region.wait("image_available", ImageIds=[image])
    assert instance.boot() == boot
    with another(region, image, key) as second:
        assert second.run("cat /root/synced") == "written"


def test_an_image_is_made_though_the_server_is_killed_meanwhile(region, instance):
    boot = instance.boot()
    image = region.ec2.create_image(InstanceId=instance.id, Name="killed")["ImageId"]
    # The guest is about to shut down, or has; the next server finds it wherever it is.
    region.kill()
    region.start()
    region.wait("image_available", ImageIds=[image])
    assert instance.boot() != boot
    assert instance.seen()["State"]["Name"] == "running"


def test_a_server_that_is_killed_disturbs_nothing(region, instance):
    processes = region.processes()
    boot = instance.boot()
    region.kill()
    region.start()
    assert region.processes() == processes
    assert instance.seen()["State"]["Name"] == "running"
    assert instance.boot() == boot
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
    process = region.processes()[identity]
    region.ec2.terminate_instances(InstanceIds=[identity])
    # A guest that is booting hears no power button, and would be waited for.
    os.kill(process, signal.SIGKILL)
    region.wait("instance_terminated", InstanceIds=[identity])


def test_nothing_is_left_of_what_was_terminated(region, instance):
    volume = instance.seen()["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    region.ec2.terminate_instances(InstanceIds=[instance.id])
    region.wait("instance_terminated", InstanceIds=[instance.id])
    region.wait("volume_deleted", VolumeIds=[volume])
    wait_until(lambda: not (region.state / "volumes" / volume).exists(), "the volume's end")
    assert not region.processes()
    assert not list((region.folder / "run/instances").iterdir())
    wait_until(lambda: not list((region.folder / "run/netns").iterdir()), "the end of its VPC's network")
    assert "nimbo" not in subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
