"""Auto Scaling groups: made, described, resized, deleted."""

from collections.abc import Callable
from typing import Any

import pytest
from scaling import Groups, wait_for


def test_a_group_is_made_described_and_deleted(groups: Groups, autoscaling: Any) -> None:
    tags = [{"Key": "team", "Value": "web", "PropagateAtLaunch": True}, {"Key": "cost", "Value": "9", "PropagateAtLaunch": False}]
    name = groups.make(MinSize=1, MaxSize=5, DesiredCapacity=3, Tags=tags, HealthCheckGracePeriod=7, Context="c", DefaultInstanceWarmup=30)
    groups.wait_for(name, 3)
    group = groups.describe(name)
    assert group["AutoScalingGroupARN"].endswith(f":autoScalingGroupName/{name}")
    assert (group["MinSize"], group["MaxSize"], group["DesiredCapacity"], group["DefaultCooldown"]) == (1, 5, 3, 300)
    assert (group["HealthCheckType"], group["HealthCheckGracePeriod"], group["Context"], group["DefaultInstanceWarmup"]) == ("EC2", 7, "c", 30)
    assert group["LaunchTemplate"] == {"LaunchTemplateId": groups.template, "LaunchTemplateName": "web", "Version": "$Default"}
    assert group["TerminationPolicies"] == ["Default"] and group["SuspendedProcesses"] == [] and "Status" not in group
    assert group["AvailabilityZones"] == ["us-east-1a", "us-east-1b", "us-east-1c"]
    assert sorted(instance["AvailabilityZone"] for instance in group["Instances"]) == group["AvailabilityZones"]
    for instance in group["Instances"]:
        assert (instance["LifecycleState"], instance["HealthStatus"], instance["ProtectedFromScaleIn"]) == ("InService", "Healthy", False)
        assert instance["LaunchTemplate"]["Version"] == "1" and instance["InstanceType"] == "t3.micro"
        seen = groups.instance(instance["InstanceId"])
        its = {tag["Key"]: tag["Value"] for tag in seen["Tags"]}
        assert its["aws:autoscaling:groupName"] == name and its["team"] == "web" and "cost" not in its
        assert its["aws:ec2launchtemplate:version"] == "1"
    autoscaling.delete_auto_scaling_group(AutoScalingGroupName=name, ForceDelete=True)
    wait_for(lambda: groups.find(name) is None, "the group goes")
    ids = [instance["InstanceId"] for instance in group["Instances"]]
    assert {groups.instance(identity)["State"]["Name"] for identity in ids} <= {"shutting-down", "terminated"}


def test_a_group_that_has_instances_is_deleted_by_force_only(groups: Groups, autoscaling: Any, refused: Callable[..., str]) -> None:
    name = groups.make(MinSize=0, MaxSize=1, DesiredCapacity=1)
    groups.wait_for(name, 1)
    message = refused("ResourceInUse", autoscaling.delete_auto_scaling_group, AutoScalingGroupName=name)
    assert message.startswith("You cannot delete an AutoScalingGroup while there are instances")
    autoscaling.update_auto_scaling_group(AutoScalingGroupName=name, MinSize=0, MaxSize=0)
    groups.wait_for(name, 0)
    autoscaling.delete_auto_scaling_group(AutoScalingGroupName=name)
    assert groups.find(name) is None
    refused("ValidationError", autoscaling.delete_auto_scaling_group, AutoScalingGroupName=name)


def test_deletion_protection_is_asked(groups: Groups, autoscaling: Any, refused: Callable[..., str]) -> None:
    name = groups.make(DeletionProtection="prevent-all-deletion")
    refused("ValidationError", autoscaling.delete_auto_scaling_group, AutoScalingGroupName=name)
    autoscaling.update_auto_scaling_group(AutoScalingGroupName=name, DeletionProtection="prevent-force-deletion")
    refused("ValidationError", autoscaling.delete_auto_scaling_group, AutoScalingGroupName=name, ForceDelete=True)
    autoscaling.delete_auto_scaling_group(AutoScalingGroupName=name)


def test_what_cannot_be_is_refused(groups: Groups, autoscaling: Any, refused: Callable[..., str]) -> None:
    create = autoscaling.create_auto_scaling_group
    wanted = groups.wanted("bad")

    def message(code: str = "ValidationError", **changes: Any) -> str:
        return refused(code, create, **{key: value for key, value in (wanted | changes).items() if value is not None})

    assert message(MinSize=3, MaxSize=2) == "Max bound, 2, must be greater than or equal to min bound, 3"
    assert message(MaxSize=2, DesiredCapacity=3) == "Desired capacity:3 must be between the specified min size:0 and max size:2"
    assert "'minSize'" in message(MinSize=-1)
    assert message(LaunchTemplate=None).startswith("Valid requests must contain either LaunchTemplate")
    assert message(AvailabilityZones=None) == "At least one Availability Zone or VPC Subnet is required."
    assert "us-east-1z" in message(AvailabilityZones=["us-east-1z"])
    assert "subnet-0123456789abcdef0" in message(AvailabilityZones=None, VPCZoneIdentifier="subnet-0123456789abcdef0")
    assert "lt-0123456789abcdef0" in message(LaunchTemplate={"LaunchTemplateId": "lt-0123456789abcdef0"})
    assert "either '$Default', '$Latest'" in message(LaunchTemplate={"LaunchTemplateId": groups.template, "Version": "first"})
    assert "specified version 9" in message(LaunchTemplate={"LaunchTemplateId": groups.template, "Version": "9"})
    assert "Nobody" in message(TerminationPolicies=["Nobody"])
    assert "maxInstanceLifetime" in message(MaxInstanceLifetime=60)
    assert "LUCK" in message(HealthCheckType="LUCK")
    assert "reserved" in message(Tags=[{"Key": "aws:x", "Value": "y"}])
    hook = {"LifecycleHookName": "hook", "LifecycleTransition": "autoscaling:EC2_INSTANCE_LAUNCHING", "HeartbeatTimeout": 5}
    assert "heartbeatTimeout" in message(LifecycleHookSpecificationList=[hook])
    for name, value in [
        ("TargetGroupARNs", ["arn:aws:elasticloadbalancing:us-east-1:000000000000:targetgroup/web/0123456789abcdef"]),
        ("HealthCheckType", "ELB"),
        ("MixedInstancesPolicy", {"LaunchTemplate": {"Overrides": [{"InstanceType": "t3.small"}]}}),
        ("LaunchConfigurationName", "old"),
    ]:
        assert name.lower() in message("UnsupportedOperation", **{name: value}).lower()
    name = groups.make()
    assert name in refused("AlreadyExists", create, **groups.wanted(name))
    missing = refused("ValidationError", autoscaling.update_auto_scaling_group, AutoScalingGroupName="nobody", MinSize=1)
    assert missing == "AutoScalingGroup name not found - AutoScalingGroup 'nobody' not found"


def test_a_template_that_cannot_be_launched_is_refused(groups: Groups, ec2: Any, autoscaling: Any, refused: Callable[..., str]) -> None:
    made = ec2.create_launch_template(LaunchTemplateName="broken", LaunchTemplateData={"InstanceType": "t3.micro", "ImageId": "ami-0123456789abcdef0"})
    wanted = groups.wanted("broken") | {"LaunchTemplate": {"LaunchTemplateName": "broken"}}
    before = len(ec2.describe_instances()["Reservations"])
    message = refused("ValidationError", autoscaling.create_auto_scaling_group, **wanted)
    assert message.startswith("You must use a valid fully-formed launch template.") and "ami-0123456789abcdef0" in message
    assert len(ec2.describe_instances()["Reservations"]) == before
    ec2.delete_launch_template(LaunchTemplateId=made["LaunchTemplate"]["LaunchTemplateId"])


def test_subnets_are_named_or_zones(groups: Groups, ec2: Any, autoscaling: Any, refused: Callable[..., str]) -> None:
    subnets = {subnet["AvailabilityZone"]: subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]}
    named = f"{subnets['us-east-1b']}, {subnets['us-east-1c']}"
    name = groups.make(AvailabilityZones=None, VPCZoneIdentifier=named, MaxSize=4, DesiredCapacity=4)
    groups.wait_for(name, 4)
    group = groups.describe(name)
    assert group["VPCZoneIdentifier"] == named.replace(" ", "") and group["AvailabilityZones"] == ["us-east-1b", "us-east-1c"]
    places = [groups.instance(instance["InstanceId"])["SubnetId"] for instance in group["Instances"]]
    assert sorted(places) == sorted(2 * [subnets["us-east-1b"], subnets["us-east-1c"]])
    both = groups.wanted("both") | {"VPCZoneIdentifier": named}
    assert "do not match" in refused("ValidationError", autoscaling.create_auto_scaling_group, **both)
    # It moves where it is to be, one more before one less.
    autoscaling.update_auto_scaling_group(AutoScalingGroupName=name, VPCZoneIdentifier=subnets["us-east-1a"])
    moved = lambda: {instance["AvailabilityZone"] for instance in groups.describe(name)["Instances"]} == {"us-east-1a"}
    wait_for(moved, "all move")
    groups.wait_for(name, 4)


def test_a_template_with_interfaces_is_launched_in_the_groups_subnets(groups: Groups, ec2: Any) -> None:
    interface = {"DeviceIndex": 0, "AssociatePublicIpAddress": False}
    data = {"InstanceType": "t3.micro", "ImageId": groups.image, "NetworkInterfaces": [interface]}
    made = ec2.create_launch_template(LaunchTemplateName="inner", LaunchTemplateData=data)["LaunchTemplate"]["LaunchTemplateId"]
    name = groups.make(LaunchTemplate={"LaunchTemplateId": made}, AvailabilityZones=["us-east-1c"], DesiredCapacity=1)
    groups.wait_for(name, 1)
    seen = groups.instance(groups.describe(name)["Instances"][0]["InstanceId"])
    assert seen["Placement"]["AvailabilityZone"] == "us-east-1c" and "PublicIpAddress" not in seen


def test_versions_of_templates_are_followed(groups: Groups, ec2: Any, autoscaling: Any) -> None:
    data = {"InstanceType": "t3.micro", "ImageId": groups.image}
    made = ec2.create_launch_template(LaunchTemplateName="many", LaunchTemplateData=data)["LaunchTemplate"]["LaunchTemplateId"]
    name = groups.make(LaunchTemplate={"LaunchTemplateId": made, "Version": "$Latest"}, MaxSize=3, DesiredCapacity=1)
    groups.wait_for(name, 1)
    ec2.create_launch_template_version(LaunchTemplateId=made, SourceVersion="1", LaunchTemplateData={"InstanceType": "t3.small"})
    autoscaling.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=2)
    groups.wait_for(name, 2)
    types = lambda: sorted((it["InstanceType"], it["LaunchTemplate"]["Version"]) for it in groups.describe(name)["Instances"])
    assert types() == [("t3.micro", "1"), ("t3.small", "2")]
    autoscaling.update_auto_scaling_group(AutoScalingGroupName=name, LaunchTemplate={"LaunchTemplateName": "many", "Version": "1"})
    assert groups.describe(name)["LaunchTemplate"]["Version"] == "1"
    # The oldest version goes first.
    autoscaling.update_auto_scaling_group(AutoScalingGroupName=name, MaxSize=1)
    groups.wait_for(name, 1)
    assert types() == [("t3.small", "2")]


def test_sizes_follow_bounds_and_keep_within_them(groups: Groups, autoscaling: Any, refused: Callable[..., str]) -> None:
    name = groups.make(MaxSize=3, DesiredCapacity=1)
    update, desire = autoscaling.update_auto_scaling_group, autoscaling.set_desired_capacity
    update(AutoScalingGroupName=name, MinSize=2)
    groups.wait_for(name, 2)
    assert refused("ValidationError", desire, AutoScalingGroupName=name, DesiredCapacity=4) == (
        "New SetDesiredCapacity value 4 is above max value 3 for the AutoScalingGroup."
    )
    assert "below min value 2" in refused("ValidationError", desire, AutoScalingGroupName=name, DesiredCapacity=1)
    refused("ValidationError", update, AutoScalingGroupName=name, DesiredCapacity=9)
    groups.wait_for(name, 2)
    # Something was done a moment ago.
    refused("ScalingActivityInProgress", desire, AutoScalingGroupName=name, DesiredCapacity=3, HonorCooldown=True)
    update(AutoScalingGroupName=name, DefaultCooldown=0)
    desire(AutoScalingGroupName=name, DesiredCapacity=3, HonorCooldown=True)
    groups.wait_for(name, 3)
    causes = [activity["Cause"] for activity in groups.activities(name)]
    assert "a user request explicitly set group desired capacity changing the desired capacity from 2 to 3" in causes[0]
    constraints = "a user request update of AutoScalingGroup constraints to min: 2, max: 3, desired: 2 changing the desired capacity from 1 to 2"
    assert constraints in causes[1]


def test_groups_are_listed_in_pages_and_filtered(groups: Groups, autoscaling: Any, refused: Callable[..., str]) -> None:
    names = [groups.make(Tags=[{"Key": "page", "Value": f"v{number}"}]) for number in range(5)]
    pages = autoscaling.get_paginator("describe_auto_scaling_groups")
    only = [{"Name": "tag-key", "Values": ["page"]}]
    found = [page["AutoScalingGroups"] for page in pages.paginate(Filters=only, PaginationConfig={"PageSize": 2})]
    assert [len(page) for page in found] == [2, 2, 1]
    assert sorted(group["AutoScalingGroupName"] for page in found for group in page) == sorted(names)
    by_value = autoscaling.describe_auto_scaling_groups(Filters=[{"Name": "tag:page", "Values": ["v3"]}])["AutoScalingGroups"]
    assert [group["AutoScalingGroupName"] for group in by_value] == [names[3]]
    some = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[names[1], "nobody"], IncludeInstances=False)["AutoScalingGroups"]
    assert [group["AutoScalingGroupName"] for group in some] == [names[1]]
    refused("ValidationError", autoscaling.describe_auto_scaling_groups, MaxRecords=101)
    refused("InvalidNextToken", autoscaling.describe_auto_scaling_groups, NextToken="x")
    refused("ValidationError", autoscaling.describe_auto_scaling_groups, Filters=[{"Name": "colour", "Values": ["red"]}])


def test_tags_are_put_taken_off_and_listed(groups: Groups, autoscaling: Any, refused: Callable[..., str]) -> None:
    name = groups.make(Tags=[{"Key": "a", "Value": "1"}])
    of = {"ResourceId": name, "ResourceType": "auto-scaling-group"}
    autoscaling.create_or_update_tags(Tags=[of | {"Key": "a", "Value": "2", "PropagateAtLaunch": True}, of | {"Key": "b", "Value": ""}])
    listed = autoscaling.describe_tags(Filters=[{"Name": "auto-scaling-group", "Values": [name]}])["Tags"]
    assert listed == [
        of | {"Key": "a", "Value": "2", "PropagateAtLaunch": True},
        of | {"Key": "b", "Value": "", "PropagateAtLaunch": False},
    ]
    assert groups.describe(name)["Tags"] == listed
    autoscaling.delete_tags(Tags=[of | {"Key": "b"}])
    only = [{"Name": "auto-scaling-group", "Values": [name]}, {"Name": "key", "Values": ["b"]}]
    assert autoscaling.describe_tags(Filters=only)["Tags"] == []
    refused("ValidationError", autoscaling.create_or_update_tags, Tags=[of | {"ResourceId": "nobody", "Key": "a"}])
    refused("ValidationError", autoscaling.create_or_update_tags, Tags=[of | {"Key": "aws:a"}])
    refused("ValidationError", autoscaling.create_or_update_tags, Tags=[of | {"ResourceType": "instance", "Key": "a"}])


def test_processes_are_suspended_and_resumed(groups: Groups, autoscaling: Any, refused: Callable[..., str]) -> None:
    name = groups.make(MaxSize=2)
    autoscaling.suspend_processes(AutoScalingGroupName=name, ScalingProcesses=["Launch"])
    assert groups.describe(name)["SuspendedProcesses"] == [{"ProcessName": "Launch", "SuspensionReason": "User suspended"}]
    autoscaling.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=1)
    assert groups.describe(name)["Instances"] == []
    autoscaling.resume_processes(AutoScalingGroupName=name, ScalingProcesses=["Launch"])
    groups.wait_for(name, 1)
    autoscaling.suspend_processes(AutoScalingGroupName=name)
    known = [process["ProcessName"] for process in autoscaling.describe_scaling_process_types()["Processes"]]
    assert [process["ProcessName"] for process in groups.describe(name)["SuspendedProcesses"]] == known and "AZRebalance" in known
    autoscaling.resume_processes(AutoScalingGroupName=name)
    assert groups.describe(name)["SuspendedProcesses"] == []
    assert "Sleep" in refused("ValidationError", autoscaling.suspend_processes, AutoScalingGroupName=name, ScalingProcesses=["Sleep"])


def test_words_are_told(autoscaling: Any) -> None:
    assert "OldestLaunchTemplate" in autoscaling.describe_termination_policy_types()["TerminationPolicyTypes"]
    hooks = autoscaling.describe_lifecycle_hook_types()["LifecycleHookTypes"]
    assert sorted(hooks) == ["autoscaling:EC2_INSTANCE_LAUNCHING", "autoscaling:EC2_INSTANCE_TERMINATING"]


@pytest.mark.parametrize("operation", ["create_launch_configuration", "put_warm_pool"])
def test_operations_that_are_not_served_say_so(autoscaling: Any, operation: str, refused: Callable[..., str]) -> None:
    arguments = {"AutoScalingGroupName": "x"} if "pool" in operation else {"LaunchConfigurationName": "x"}
    assert "nimbo does not serve" in refused("UnsupportedOperation", getattr(autoscaling, operation), **arguments)
