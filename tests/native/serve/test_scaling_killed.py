"""nimbo serve with a state folder, killed while groups grow, shrink and replace: nobody is lost, doubled or left over."""

import random
import time
from pathlib import Path
from typing import Any

from scaling import Groups, wait_for
from server import Server

ROUNDS = 8
COUNT_MAX = 12


class Region:
    """A server that is killed and started again, and a group."""

    def __init__(self, folder: Path) -> None:
        # As slow as a twentieth of AWS: a kill comes in the middle of things.
        self.options = ("--simulate", "--state", str(folder), "--delays=0.05")
        self.start()
        self.groups = Groups(self.ec2, self.autoscaling)
        self.name = self.groups.make(MaxSize=COUNT_MAX, DesiredCapacity=4)

    def start(self) -> None:
        self.server = Server(*self.options)
        self.ec2, self.autoscaling = self.server.client("ec2"), self.server.client("autoscaling")

    def kill(self) -> None:
        self.server.kill()
        self.start()
        self.groups.ec2, self.groups.autoscaling = self.ec2, self.autoscaling

    def live(self) -> set[str]:
        """The group's instances, as EC2 has them."""
        named = [{"Name": "tag:aws:autoscaling:groupName", "Values": [self.name]}]
        named.append({"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped", "shutting-down"]})
        reservations = self.ec2.describe_instances(Filters=named)["Reservations"]
        return {instance["InstanceId"] for each in reservations for instance in each["Instances"]}

    def members(self) -> set[str]:
        return {instance["InstanceId"] for instance in self.groups.describe(self.name)["Instances"]}


def disturb(region: Region, chance: random.Random) -> int:
    """Does some things to the group; gives back how many are desired then."""
    desired = chance.randint(0, COUNT_MAX)
    region.autoscaling.set_desired_capacity(AutoScalingGroupName=region.name, DesiredCapacity=desired)
    members = sorted(region.members())
    for identity in chance.sample(members, k=min(2, len(members))):
        region.ec2.terminate_instances(InstanceIds=[identity])
    time.sleep(chance.uniform(0, 0.5))
    return desired


def all_told(region: Region) -> list[dict[str, Any]]:
    pages = region.autoscaling.get_paginator("describe_scaling_activities").paginate(AutoScalingGroupName=region.name)
    return [activity for page in pages for activity in page["Activities"]]


def test_a_group_is_whole_whenever_its_server_is_killed(tmp_path: Path) -> None:
    chance = random.Random(7)
    region = Region(tmp_path / "state")
    try:
        for _ in range(ROUNDS):
            desired = disturb(region, chance)
            region.kill()
            # As of any moment: whoever is launched for the group is in it.
            assert region.live() <= region.members()
            if chance.random() < 0.5:
                continue
            region.groups.wait_for(region.name, desired)
        region.groups.wait_for(region.name, desired)
        assert region.live() == region.members() and len(region.members()) == desired
        wait_for(lambda: all("EndTime" in activity for activity in all_told(region)), "all activities end")
        launched = [activity["Description"] for activity in all_told(region) if activity["Description"].startswith("Launching")]
        assert len(set(launched)) == len(launched), "one activity for each launch"
    finally:
        region.server.kill()
