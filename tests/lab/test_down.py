"""nimbo down with guests that run: they shut down in order, nothing of them is left but what their volumes hold, and they start again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from region import Instance, Region
from traces import own_network, traces


@pytest.fixture
def network() -> Iterator[None]:
    with own_network():
        yield


def test_guests_shut_down_and_start_again(network: None, tmp_path: Path, tiny_image: str) -> None:
    before = traces(tmp_path)
    with Region(tmp_path) as region:
        key = tmp_path / "key"
        key.touch(0o600)
        key.write_text(region.ec2.create_key_pair(KeyName="test", KeyType="ed25519")["KeyMaterial"])
        launched = region.ec2.run_instances(
            ImageId=region.image(tiny_image), InstanceType="t3.nano", MinCount=1, MaxCount=1, KeyName="test"
        )
        instance = Instance(region, launched["Instances"][0]["InstanceId"], key)
        region.wait("instance_running", InstanceIds=[instance.id])
        # The guest shuts down: nobody has to write down for it what it has in memory.
        instance.run("echo not yet > /root/unsynced")
        address = region.ec2.allocate_address()["AllocationId"]
        region.ec2.associate_address(AllocationId=address, InstanceId=instance.id)
        elastic = instance.seen()["PublicIpAddress"]
        region.kill()
        done = region.down()
        assert done.returncode == 0, done.stderr
        assert traces(tmp_path) == before
        region.start()
        seen = instance.seen()
        assert (seen["State"]["Name"], seen["StateReason"]["Code"]) == ("stopped", "Server.ScheduledStop")
        assert seen["PublicIpAddress"] == elastic
        region.ec2.start_instances(InstanceIds=[instance.id])
        region.wait("instance_running", InstanceIds=[instance.id])
        assert instance.run("cat /root/unsynced") == "not yet"
        # Its server ends, too, and the guest with it.
        done = region.down()
        assert done.returncode == 0 and "ending the server" in done.stdout, done.stderr
        assert traces(tmp_path) == before
