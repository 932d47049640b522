"""--delays: states that take their time, as AWS's do."""

import os
import subprocess
import time
from typing import Any

from server import TIMEOUT_S, Server

FACTOR = 0.05


def state(ec2: Any, id: str) -> str:
    return ec2.describe_instances(InstanceIds=[id])["Reservations"][0]["Instances"][0]["State"]["Name"]


def seconds_in(ec2: Any, id: str, transitional: str, final: str) -> float:
    """How long an instance is in a state that it is in now."""
    started = time.monotonic()
    assert state(ec2, id) == transitional
    while (now := state(ec2, id)) != final:
        assert now == transitional and time.monotonic() < started + TIMEOUT_S
        time.sleep(0.01)
    return time.monotonic() - started


def test_states_take_as_long_as_told_and_a_restart_does_not_stop_them(tmp_path: Any) -> None:
    options = ("--simulate", "--state", str(tmp_path), f"--delays={FACTOR}")
    with Server(*options) as server:
        ec2 = server.client("ec2")
        image = ec2.describe_images()["Images"][0]["ImageId"]
        [made] = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"]
        id = made["InstanceId"]
        # A bit less, for what the calls before took.
        assert seconds_in(ec2, id, "pending", "running") > 5 * FACTOR * 0.5
        volume = ec2.create_volume(AvailabilityZone=made["Placement"]["AvailabilityZone"], Size=1)
        assert volume["State"] == "creating"
        ec2.get_waiter("volume_available").wait(VolumeIds=[volume["VolumeId"]], WaiterConfig={"Delay": 0.05, "MaxAttempts": 200})
        assert ec2.attach_volume(VolumeId=volume["VolumeId"], InstanceId=id, Device="/dev/sdf")["State"] == "attaching"
        ec2.get_waiter("volume_in_use").wait(VolumeIds=[volume["VolumeId"]], WaiterConfig={"Delay": 0.05, "MaxAttempts": 200})
        ec2.stop_instances(InstanceIds=[id])
        assert state(ec2, id) == "stopping"
    with Server(*options) as server:
        ec2 = server.client("ec2")
        ec2.get_waiter("instance_stopped").wait(InstanceIds=[id], WaiterConfig={"Delay": 0.05, "MaxAttempts": 200})
        ec2.start_instances(InstanceIds=[id])
        seconds_in(ec2, id, "pending", "running")
        ec2.terminate_instances(InstanceIds=[id])
        assert seconds_in(ec2, id, "shutting-down", "terminated") > 20 * FACTOR * 0.5


def test_a_factor_is_a_number() -> None:
    for wrong in ("x", "-1", "nan", "1e9"):
        command = [os.environ["NIMBO"], "serve", "--simulate", f"--delays={wrong}"]
        assert subprocess.run(command, capture_output=True, timeout=TIMEOUT_S).returncode == 2
