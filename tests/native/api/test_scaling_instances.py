"""Instances in Auto Scaling groups: replaced, standing by, coming and going, and what is told of it."""

import json
import re
from collections.abc import Callable
from typing import Any

from scaling import Groups, wait_for

TIME = r"At \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def running(groups: Groups, **changes: Any) -> tuple[str, list[str]]:
    """A group, and its instances in service."""
    count = changes.get("DesiredCapacity", 1)
    name = groups.make(**{"MaxSize": 4, "DesiredCapacity": 1} | changes)
    groups.wait_for(name, count)
    return name, [instance["InstanceId"] for instance in groups.describe(name)["Instances"]]


def told(groups: Groups, name: str, identity: str, what: str) -> dict[str, Any]:
    """The one activity of an instance that begins so."""
    [activity] = [it for it in groups.activities(name) if it["Description"] == f"{what}: {identity}"]
    return activity


def test_activities_tell_what_was_done_and_why(groups: Groups, autoscaling: Any, refused: Callable[..., str]) -> None:
    name, [identity] = running(groups)
    activity = told(groups, name, identity, "Launching a new EC2 instance")
    created = f"{TIME} a user request created an AutoScalingGroup changing the desired capacity from 0 to 1\\."
    started = f"{TIME} an instance was started in response to a difference between desired and actual capacity, increasing the capacity from 0 to 1\\."
    assert re.fullmatch(f"{created}  {started}", activity["Cause"]), activity["Cause"]
    assert (activity["StatusCode"], activity["Progress"], activity["AutoScalingGroupName"]) == ("Successful", 100, name)
    zone = groups.instance(identity)["Placement"]["AvailabilityZone"]
    assert json.loads(activity["Details"]) == {"Availability Zone": zone} and activity["EndTime"] >= activity["StartTime"]
    assert groups.instance(identity)["ClientToken"] == activity["ActivityId"]
    autoscaling.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=0)
    groups.wait_for(name, 0)
    activity = told(groups, name, identity, "Terminating EC2 instance")
    assert activity["Cause"].endswith(f"instance {identity} was selected for termination.")
    by_id = autoscaling.describe_scaling_activities(ActivityIds=[activity["ActivityId"]])["Activities"]
    assert by_id == [activity]
    pages = autoscaling.get_paginator("describe_scaling_activities").paginate(AutoScalingGroupName=name, PaginationConfig={"PageSize": 1})
    assert [page["Activities"][0]["ActivityId"] for page in pages] == [it["ActivityId"] for it in groups.activities(name)]
    refused("ValidationError", autoscaling.describe_scaling_activities, AutoScalingGroupName="nobody")


def test_an_instance_that_ends_is_replaced(groups: Groups, ec2: Any) -> None:
    name, ids = running(groups, DesiredCapacity=2)
    ec2.terminate_instances(InstanceIds=[ids[0]])
    wait_for(lambda: ids[0] not in str(groups.describe(name)["Instances"]), "the one that ended goes")
    groups.wait_for(name, 2)
    gone = told(groups, name, ids[0], "Terminating EC2 instance")
    check = "an instance was taken out of service in response to an EC2 health check indicating it has been terminated or stopped."
    assert re.fullmatch(f"{TIME} {check}", gone["Cause"])
    newest = groups.activities(name)[0]
    assert re.fullmatch(f"{TIME} an instance was launched in response to an unhealthy instance needing to be replaced\\.", newest["Cause"])


def test_an_instance_that_stops_is_terminated_and_replaced(groups: Groups, ec2: Any) -> None:
    name, [identity] = running(groups)
    ec2.stop_instances(InstanceIds=[identity])
    wait_for(lambda: groups.instance(identity)["State"]["Name"] == "terminated", "it is terminated")
    groups.wait_for(name, 1)


def test_what_is_said_to_be_unhealthy_is_replaced(groups: Groups, autoscaling: Any, refused: Callable[..., str]) -> None:
    name, [identity] = running(groups, HealthCheckGracePeriod=600)
    said = {"InstanceId": identity, "HealthStatus": "Unhealthy"}
    autoscaling.set_instance_health(**said)
    assert groups.states(name) == ["InService"], "the grace period is respected"
    autoscaling.set_instance_health(InstanceId=identity, HealthStatus="Healthy")
    autoscaling.set_instance_health(**said, ShouldRespectGracePeriod=False)
    wait_for(lambda: identity not in str(groups.describe(name)["Instances"]), "it goes")
    groups.wait_for(name, 1)
    assert "in response to a user health-check." in told(groups, name, identity, "Terminating EC2 instance")["Cause"]
    refused("ValidationError", autoscaling.set_instance_health, InstanceId=identity, HealthStatus="Unhealthy")
    refused("ValidationError", autoscaling.set_instance_health, InstanceId=groups.describe(name)["Instances"][0]["InstanceId"], HealthStatus="Fine")


def test_members_are_told_of_across_groups(groups: Groups, autoscaling: Any) -> None:
    name, ids = running(groups, DesiredCapacity=3)
    seen = autoscaling.describe_auto_scaling_instances(InstanceIds=[*ids, "i-0123456789abcdef0"])["AutoScalingInstances"]
    assert sorted(it["InstanceId"] for it in seen) == sorted(ids)
    assert {(it["AutoScalingGroupName"], it["LifecycleState"], it["HealthStatus"]) for it in seen} == {(name, "InService", "HEALTHY")}
    pages = autoscaling.get_paginator("describe_auto_scaling_instances").paginate(InstanceIds=ids, PaginationConfig={"PageSize": 2})
    assert [len(page["AutoScalingInstances"]) for page in pages] == [2, 1]


def test_who_is_protected_stays_when_the_group_shrinks(groups: Groups, autoscaling: Any, refused: Callable[..., str]) -> None:
    name, ids = running(groups, DesiredCapacity=2, NewInstancesProtectedFromScaleIn=True)
    protect = autoscaling.set_instance_protection
    autoscaling.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=0)
    assert groups.states(name) == ["InService", "InService"]
    protect(AutoScalingGroupName=name, InstanceIds=[ids[0]], ProtectedFromScaleIn=False)
    groups.wait_for(name, 1)
    assert groups.describe(name)["Instances"][0]["InstanceId"] == ids[1]
    wrong = {"AutoScalingGroupName": name, "InstanceIds": ["i-0123456789abcdef0"], "ProtectedFromScaleIn": True}
    assert refused("ValidationError", protect, **wrong) == f"The instance i-0123456789abcdef0 is not part of Auto Scaling group {name}."


def test_an_instance_is_terminated_with_or_without_replacement(groups: Groups, autoscaling: Any, refused: Callable[..., str]) -> None:
    name, ids = running(groups, MinSize=1, DesiredCapacity=2)
    terminate = autoscaling.terminate_instance_in_auto_scaling_group
    activity = terminate(InstanceId=ids[0], ShouldDecrementDesiredCapacity=True)["Activity"]
    assert activity["StatusCode"] == "InProgress" and activity["Description"] == f"Terminating EC2 instance: {ids[0]}"
    sentence = f"instance {ids[0]} was taken out of service in response to a user request, shrinking the capacity from 2 to 1."
    assert re.fullmatch(f"{TIME} {sentence}", activity["Cause"])
    groups.wait_for(name, 1)
    assert groups.describe(name)["DesiredCapacity"] == 1
    message = refused("ValidationError", terminate, InstanceId=ids[1], ShouldDecrementDesiredCapacity=True)
    assert message.startswith("Currently, desiredSize equals minSize (1).")
    terminate(InstanceId=ids[1], ShouldDecrementDesiredCapacity=False)
    wait_for(lambda: ids[1] not in str(groups.describe(name)["Instances"]), "it goes")
    groups.wait_for(name, 1)
    refused("ValidationError", terminate, InstanceId="i-0123456789abcdef0", ShouldDecrementDesiredCapacity=False)


def test_instances_stand_by_and_come_back(groups: Groups, autoscaling: Any, refused: Callable[..., str]) -> None:
    name, ids = running(groups, MinSize=1, DesiredCapacity=2)
    of = {"AutoScalingGroupName": name, "InstanceIds": [ids[0]]}
    refused("ValidationError", autoscaling.exit_standby, **of)
    [activity] = autoscaling.enter_standby(**of, ShouldDecrementDesiredCapacity=True)["Activities"]
    assert activity["Description"] == f"Moving EC2 instance to Standby: {ids[0]}"
    assert activity["Cause"].endswith(f"instance {ids[0]} was moved to standby in response to a user request, shrinking the capacity from 2 to 1.")
    assert sorted(groups.states(name)) == ["InService", "Standby"]
    other = {"AutoScalingGroupName": name, "InstanceIds": [ids[1]], "ShouldDecrementDesiredCapacity": True}
    message = refused("ValidationError", autoscaling.enter_standby, **other)
    sizes = f"AutoScalingGroup {name} has min-size=1, max-size=4, and desired-size=1."
    assert message == f"{sizes} To place into standby 1 instance, please update the AutoScalingGroup sizes appropriately."
    [activity] = autoscaling.exit_standby(**of)["Activities"]
    assert activity["Description"] == f"Moving EC2 instance out of Standby: {ids[0]}" and activity["StatusCode"] == "PreInService"
    assert activity["Cause"].endswith("was moved out of standby in response to a user request, increasing the capacity from 1 to 2.")
    groups.wait_for(name, 2)
    # Without a smaller size it is replaced, and there is one more when it is back.
    autoscaling.enter_standby(**of, ShouldDecrementDesiredCapacity=False)
    wait_for(lambda: sorted(groups.states(name)) == ["InService", "InService", "Standby"], "it is replaced")
    autoscaling.exit_standby(**of)
    groups.wait_for(name, 3)


def test_instances_leave_and_join(groups: Groups, ec2: Any, autoscaling: Any, refused: Callable[..., str]) -> None:
    name, ids = running(groups, DesiredCapacity=2, Tags=[{"Key": "team", "Value": "web", "PropagateAtLaunch": True}])
    of = {"AutoScalingGroupName": name, "InstanceIds": [ids[0]]}
    # Whoever joins does so where there may be too many already.
    autoscaling.suspend_processes(AutoScalingGroupName=name, ScalingProcesses=["AZRebalance"])
    [activity] = autoscaling.detach_instances(**of, ShouldDecrementDesiredCapacity=True)["Activities"]
    assert activity["Description"] == f"Detaching EC2 instance: {ids[0]}"
    assert activity["Cause"].endswith(f"instance {ids[0]} was detached in response to a user request, shrinking the capacity from 2 to 1.")
    groups.wait_for(name, 1)
    seen = groups.instance(ids[0])
    assert seen["State"]["Name"] == "running" and "aws:autoscaling:groupName" not in str(seen["Tags"])
    refused("ValidationError", autoscaling.detach_instances, **of, ShouldDecrementDesiredCapacity=True)
    alone = ec2.run_instances(ImageId=groups.image, InstanceType="t3.micro", MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[alone], WaiterConfig={"Delay": 1})
    autoscaling.attach_instances(AutoScalingGroupName=name, InstanceIds=[alone, ids[0]])
    groups.wait_for(name, 3)
    tags = {tag["Key"]: tag["Value"] for tag in groups.instance(alone)["Tags"]}
    assert tags == {"aws:autoscaling:groupName": name, "team": "web"}
    assert f"already part of AutoScalingGroup:{name}" in refused("ValidationError", autoscaling.attach_instances, **of)
    nobody = {"AutoScalingGroupName": name, "InstanceIds": ["i-0123456789abcdef0"]}
    refused("ValidationError", autoscaling.attach_instances, **nobody)


LAUNCHING, TERMINATING = "autoscaling:EC2_INSTANCE_LAUNCHING", "autoscaling:EC2_INSTANCE_TERMINATING"


def test_hooks_are_waited_for_until_they_are_completed(groups: Groups, autoscaling: Any, refused: Callable[..., str]) -> None:
    name = groups.make(MaxSize=2)
    hook = {"AutoScalingGroupName": name, "LifecycleHookName": "in"}
    autoscaling.put_lifecycle_hook(**hook, LifecycleTransition=LAUNCHING, HeartbeatTimeout=60, NotificationMetadata="x")
    autoscaling.put_lifecycle_hook(**hook, DefaultResult="CONTINUE")
    autoscaling.put_lifecycle_hook(AutoScalingGroupName=name, LifecycleHookName="out", LifecycleTransition=TERMINATING)
    [seen] = autoscaling.describe_lifecycle_hooks(AutoScalingGroupName=name, LifecycleHookNames=["in"])["LifecycleHooks"]
    assert seen == hook | {
        "LifecycleTransition": LAUNCHING,
        "HeartbeatTimeout": 60,
        "GlobalTimeout": 6000,
        "DefaultResult": "CONTINUE",
        "NotificationMetadata": "x",
    }
    autoscaling.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=1)
    identity = groups.wait_for_state(name, "Pending:Wait")
    activity = groups.activities(name)[0]
    assert (activity["StatusCode"], "EndTime" in activity) == ("MidLifecycleAction", False)
    autoscaling.record_lifecycle_action_heartbeat(**hook, InstanceId=identity)
    autoscaling.complete_lifecycle_action(**hook, LifecycleActionResult="CONTINUE", InstanceId=identity)
    groups.wait_for(name, 1)
    late = {**hook, "LifecycleActionResult": "CONTINUE", "InstanceId": identity}
    assert refused("ValidationError", autoscaling.complete_lifecycle_action, **late) == f"No active Lifecycle Action found with instance ID {identity}"
    autoscaling.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=0)
    assert groups.wait_for_state(name, "Terminating:Wait") == identity
    assert groups.instance(identity)["State"]["Name"] == "running"
    autoscaling.delete_lifecycle_hook(AutoScalingGroupName=name, LifecycleHookName="out")
    groups.wait_for(name, 0)
    refused("ValidationError", autoscaling.delete_lifecycle_hook, AutoScalingGroupName=name, LifecycleHookName="out")
    refused("ValidationError", autoscaling.put_lifecycle_hook, AutoScalingGroupName=name, LifecycleHookName="new")
    refused("ValidationError", autoscaling.put_lifecycle_hook, **hook, LifecycleTransition="autoscaling:LUNCH")
    nobody = {"LifecycleActionToken": "01234567-89ab-4def-8123-456789abcdef", "LifecycleActionResult": "CONTINUE"}
    assert "with token 01234567" in refused("ValidationError", autoscaling.complete_lifecycle_action, **hook, **nobody)


def test_what_a_hook_abandons_is_terminated(groups: Groups, autoscaling: Any) -> None:
    specification = {"LifecycleHookName": "in", "LifecycleTransition": LAUNCHING}
    name = groups.make(MaxSize=2, DesiredCapacity=1, LifecycleHookSpecificationList=[specification])
    identity = groups.wait_for_state(name, "Pending:Wait")
    result = {"LifecycleActionResult": "ABANDON", "InstanceId": identity}
    autoscaling.complete_lifecycle_action(AutoScalingGroupName=name, LifecycleHookName="in", **result)
    wait_for(lambda: identity not in str(groups.describe(name)["Instances"]), "it goes")
    activity = told(groups, name, identity, "Launching a new EC2 instance")
    assert activity["StatusCode"] == "Cancelled" and "was abandoned" in activity["StatusMessage"]
    autoscaling.delete_auto_scaling_group(AutoScalingGroupName=name, ForceDelete=True)


def test_launches_that_fail_tell_why(groups: Groups, ec2: Any, autoscaling: Any) -> None:
    data = {"InstanceType": "t3.micro", "ImageId": groups.image}
    made = ec2.create_launch_template(LaunchTemplateName="short-lived", LaunchTemplateData=data)["LaunchTemplate"]["LaunchTemplateId"]
    name = groups.make(LaunchTemplate={"LaunchTemplateId": made}, AvailabilityZones=["us-east-1a"])
    ec2.delete_launch_template(LaunchTemplateId=made)
    autoscaling.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=1)
    wait_for(lambda: bool(groups.activities(name)), "it is told")
    activity = groups.activities(name)[0]
    message = f"The specified launch template, with template ID {made}, does not exist. Launching EC2 instance failed."
    assert (activity["StatusCode"], activity["StatusMessage"]) == ("Failed", message)
    assert activity["Description"] == f"Launching a new EC2 instance.  Status Reason: {message}"
    autoscaling.update_auto_scaling_group(AutoScalingGroupName=name, LaunchTemplate={"LaunchTemplateId": groups.template})
    groups.wait_for(name, 1)
