"""Auto Scaling groups, for tests that make some."""

import time
from collections.abc import Callable
from typing import Any

TIMEOUT_S = 30


def wait_for(is_so: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.02)


class Groups:
    """Makes groups, each with a name of its own, of one template."""

    def __init__(self, ec2: Any, autoscaling: Any) -> None:
        self.ec2, self.autoscaling = ec2, autoscaling
        self.image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        data = {"ImageId": self.image, "InstanceType": "t3.micro"}
        self.template = ec2.create_launch_template(LaunchTemplateName="web", LaunchTemplateData=data)["LaunchTemplate"]["LaunchTemplateId"]
        self.made: list[str] = []

    def wanted(self, name: str) -> dict[str, Any]:
        zones = ["us-east-1a", "us-east-1b", "us-east-1c"]
        template = {"LaunchTemplateId": self.template}
        return {"AutoScalingGroupName": name, "LaunchTemplate": template, "MinSize": 0, "MaxSize": 1, "AvailabilityZones": zones}

    def make(self, **changes: Any) -> str:
        name = f"group-{len(self.made)}"
        wanted = {key: value for key, value in (self.wanted(name) | changes).items() if value is not None}
        self.autoscaling.create_auto_scaling_group(**wanted)
        self.made.append(name)
        return name

    def find(self, name: str) -> dict[str, Any] | None:
        found = self.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
        return found[0] if found else None

    def describe(self, name: str) -> dict[str, Any]:
        found = self.find(name)
        assert found, name
        return found

    def states(self, name: str) -> list[str]:
        return [instance["LifecycleState"] for instance in self.describe(name)["Instances"]]

    def wait_for(self, name: str, count: int) -> None:
        """Until so many are in service, and nobody else is there."""
        wait_for(lambda: self.states(name) == count * ["InService"], f"{count} in service in {name}")

    def wait_for_state(self, name: str, state: str) -> str:
        """The first instance that is in a state."""

        def there() -> list[str]:
            return [it["InstanceId"] for it in self.describe(name)["Instances"] if it["LifecycleState"] == state]

        wait_for(lambda: bool(there()), f"{state} in {name}")
        return there()[0]

    def activities(self, name: str) -> list[dict[str, Any]]:
        """The newest first."""
        return self.autoscaling.describe_scaling_activities(AutoScalingGroupName=name)["Activities"]

    def instance(self, identity: str) -> dict[str, Any]:
        return self.ec2.describe_instances(InstanceIds=[identity])["Reservations"][0]["Instances"][0]
