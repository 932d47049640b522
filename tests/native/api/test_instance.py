"""Instances: launched, stopped, started, rebooted, changed, terminated."""

import base64
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

TIMEOUT_S = 30


@pytest.fixture(scope="module")
def image(ec2: Any) -> str:
    found = ec2.describe_images(Owners=["amazon"], Filters=[{"Name": "name", "Values": ["debian-12-amd64-*"]}])["Images"]
    return found[0]["ImageId"]


@pytest.fixture
def launch(ec2: Any, image: str) -> Iterator[Callable[..., dict[str, Any]]]:
    launched: list[str] = []

    def one(**arguments: Any) -> dict[str, Any]:
        wanted = {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1, **arguments}
        instances = ec2.run_instances(**wanted)["Instances"]
        launched.extend(instance["InstanceId"] for instance in instances)
        return instances[0]

    yield one
    for instance in launched:
        ec2.modify_instance_attribute(InstanceId=instance, DisableApiTermination={"Value": False})
    if launched:
        ec2.terminate_instances(InstanceIds=launched)


def described(ec2: Any, instance: str) -> dict[str, Any]:
    return ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]


def wait(ec2: Any, state: str, *instances: str) -> None:
    waiter = ec2.get_waiter(f"instance_{state}")
    waiter.wait(InstanceIds=list(instances), WaiterConfig={"Delay": 0.05, "MaxAttempts": 20 * TIMEOUT_S})


def until(check: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_an_instance_lives(ec2: Any, launch: Callable[..., dict[str, Any]]) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "web"}]}, {"ResourceType": "volume", "Tags": [{"Key": "of", "Value": "web"}]}]
    made = launch(TagSpecifications=tags, UserData="#!/bin/sh\necho hello\n")
    assert made["State"] == {"Code": 0, "Name": "pending"}
    instance = made["InstanceId"]
    wait(ec2, "running", instance)
    running = described(ec2, instance)
    assert running["Tags"] == [{"Key": "Name", "Value": "web"}]
    assert running["PrivateIpAddress"].startswith("172.31.")
    [disk] = running["BlockDeviceMappings"]
    assert disk["DeviceName"] == running["RootDeviceName"] and disk["Ebs"]["DeleteOnTermination"]
    volume = disk["Ebs"]["VolumeId"]
    assert ec2.describe_volumes(Filters=[{"Name": "tag:of", "Values": ["web"]}])["Volumes"][0]["VolumeId"] == volume
    ec2.stop_instances(InstanceIds=[instance])
    wait(ec2, "stopped", instance)
    stopped = described(ec2, instance)
    assert "PublicIpAddress" not in stopped
    assert stopped["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert stopped["PrivateIpAddress"] == running["PrivateIpAddress"]
    ec2.start_instances(InstanceIds=[instance])
    wait(ec2, "running", instance)
    again = described(ec2, instance)
    assert again["PublicIpAddress"] != running["PublicIpAddress"]
    ec2.reboot_instances(InstanceIds=[instance])
    assert described(ec2, instance)["PublicIpAddress"] == again["PublicIpAddress"]
    ec2.terminate_instances(InstanceIds=[instance])
    wait(ec2, "terminated", instance)
    gone = described(ec2, instance)
    assert gone["State"]["Name"] == "terminated" and gone["BlockDeviceMappings"] == [] and gone["NetworkInterfaces"] == []
    # Its disk and its interface went with it.
    until(lambda: not ec2.describe_volumes(Filters=[{"Name": "volume-id", "Values": [volume]}])["Volumes"], "the volume stays")
    assert not ec2.describe_network_interfaces(Filters=[{"Name": "attachment.instance-id", "Values": [instance]}])["NetworkInterfaces"]


def test_many_are_launched_together(ec2: Any, image: str, refused: Callable[..., str]) -> None:
    made = ec2.run_instances(ImageId=image, InstanceType="t3.nano", MinCount=2, MaxCount=25)
    ids = [instance["InstanceId"] for instance in made["Instances"]]
    assert [instance["AmiLaunchIndex"] for instance in made["Instances"]] == list(range(25))
    wait(ec2, "running", *ids)
    [reservation] = ec2.describe_instances(Filters=[{"Name": "reservation-id", "Values": [made["ReservationId"]]}])["Reservations"]
    assert len(reservation["Instances"]) == 25
    assert len({instance["PrivateIpAddress"] for instance in reservation["Instances"]}) == 25
    ec2.terminate_instances(InstanceIds=ids)
    refused("InvalidParameterCombination", ec2.run_instances, ImageId=image, MinCount=3, MaxCount=2)
    refused("InvalidParameterValue", ec2.run_instances, ImageId=image, MinCount=0, MaxCount=2)


def test_a_request_that_comes_twice_launches_once(ec2: Any, image: str, launch: Callable[..., dict[str, Any]], refused: Callable[..., str]) -> None:
    first, second = launch(ClientToken="once"), launch(ClientToken="once")
    assert first["InstanceId"] == second["InstanceId"]
    other = {"ImageId": image, "InstanceType": "t3.large", "MinCount": 1, "MaxCount": 1, "ClientToken": "once"}
    refused("IdempotentParameterMismatch", ec2.run_instances, **other)


def test_what_is_launched_with_nonsense_leaves_nothing(ec2: Any, image: str, refused: Callable[..., str]) -> None:

    def there() -> set[str]:
        volumes, interfaces = ec2.describe_volumes()["Volumes"], ec2.describe_network_interfaces()["NetworkInterfaces"]
        return {each["VolumeId"] for each in volumes} | {each["NetworkInterfaceId"] for each in interfaces}

    before = there()
    one = {"ImageId": image, "MinCount": 1, "MaxCount": 1}
    refused("InvalidAMIID.NotFound", ec2.run_instances, **{**one, "ImageId": "ami-00000000000000000"})
    refused("InvalidAMIID.Malformed", ec2.run_instances, **{**one, "ImageId": "debian"})
    refused("InvalidParameterValue", ec2.run_instances, **one, InstanceType="t3.huge")
    refused("InvalidKeyPair.NotFound", ec2.run_instances, **one, KeyName="nobody")
    refused("InvalidSubnetID.NotFound", ec2.run_instances, **one, SubnetId="subnet-00000000000000000")
    refused("InvalidGroup.NotFound", ec2.run_instances, **one, SecurityGroupIds=["sg-00000000000000000"])
    refused("InvalidGroup.NotFound", ec2.run_instances, **one, SecurityGroups=["nobody"])
    refused("InvalidParameterValue", ec2.run_instances, **one, UserData="x" * 16385)
    refused("UnsupportedOperation", ec2.run_instances, **one, IamInstanceProfile={"Name": "role"})
    # What others left may go meanwhile.
    assert there() <= before


def test_protection_protects(ec2: Any, launch: Callable[..., dict[str, Any]], refused: Callable[..., str]) -> None:
    instance = launch(DisableApiTermination=True, DisableApiStop=True)["InstanceId"]
    wait(ec2, "running", instance)
    refused("OperationNotPermitted", ec2.terminate_instances, InstanceIds=[instance])
    refused("OperationNotPermitted", ec2.stop_instances, InstanceIds=[instance])
    ec2.modify_instance_attribute(InstanceId=instance, DisableApiStop={"Value": False})
    ec2.stop_instances(InstanceIds=[instance])
    wait(ec2, "stopped", instance)


def test_attributes_are_changed_while_it_is_stopped(ec2: Any, launch: Callable[..., dict[str, Any]], refused: Callable[..., str]) -> None:
    instance = launch(UserData="first")["InstanceId"]
    wait(ec2, "running", instance)
    change = {"InstanceId": instance, "InstanceType": {"Value": "t3.small"}}
    refused("IncorrectInstanceState", ec2.modify_instance_attribute, **change)
    ec2.stop_instances(InstanceIds=[instance])
    wait(ec2, "stopped", instance)
    ec2.modify_instance_attribute(**change)
    ec2.modify_instance_attribute(InstanceId=instance, UserData={"Value": b"second"})
    ec2.modify_instance_attribute(InstanceId=instance, Attribute="instanceInitiatedShutdownBehavior", Value="terminate")

    def attribute(name: str) -> Any:
        return ec2.describe_instance_attribute(InstanceId=instance, Attribute=name)

    assert attribute("instanceType")["InstanceType"]["Value"] == "t3.small"
    assert base64.b64decode(attribute("userData")["UserData"]["Value"]) == b"second"
    assert attribute("instanceInitiatedShutdownBehavior")["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    refused("InvalidParameterValue", ec2.modify_instance_attribute, InstanceId=instance, InstanceType={"Value": "x9.large"})
    ec2.start_instances(InstanceIds=[instance])
    wait(ec2, "running", instance)
    assert described(ec2, instance)["InstanceType"] == "t3.small"


def test_disks_of_an_image_are_changed_and_others_added(ec2: Any, launch: Callable[..., dict[str, Any]]) -> None:
    root = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 20, "VolumeType": "gp3", "DeleteOnTermination": False}}
    data = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 5, "Encrypted": True}}
    instance = launch(BlockDeviceMappings=[root, data])["InstanceId"]
    wait(ec2, "running", instance)
    mappings = {mapping["DeviceName"]: mapping["Ebs"] for mapping in described(ec2, instance)["BlockDeviceMappings"]}
    assert sorted(mappings) == ["/dev/sdf", "/dev/xvda"]
    volumes = {volume["VolumeId"]: volume for volume in ec2.describe_volumes(VolumeIds=[ebs["VolumeId"] for ebs in mappings.values()])["Volumes"]}
    first, second = (volumes[mappings[device]["VolumeId"]] for device in ("/dev/xvda", "/dev/sdf"))
    assert (first["Size"], first["VolumeType"], first["Encrypted"]) == (20, "gp3", False)
    assert (second["Size"], second["Encrypted"]) == (5, True)
    ec2.terminate_instances(InstanceIds=[instance])
    wait(ec2, "terminated", instance)
    [left] = ec2.describe_volumes(VolumeIds=[first["VolumeId"]])["Volumes"]
    assert left["State"] == "available"


def test_disks_that_cannot_be_are_refused(launch: Callable[..., dict[str, Any]], refused: Callable[..., str]) -> None:
    def mapped(code: str, *mappings: dict[str, Any]) -> str:
        return refused(code, launch, BlockDeviceMappings=list(mappings))

    data = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 5}}
    message = mapped("InvalidBlockDeviceMapping", data, {**data, "Ebs": {"VolumeSize": 6}})
    assert message == "The device '/dev/sdf' is used in more than one block-device mapping"
    assert "more than one" in mapped("InvalidBlockDeviceMapping", data, {"DeviceName": "/dev/sdf", "NoDevice": ""})
    assert "'/dev/sdf'" in mapped("InvalidBlockDeviceMapping", {"DeviceName": "/dev/sdf"})
    assert "/dev/nvme1n1" in mapped("InvalidParameterValue", {**data, "DeviceName": "/dev/nvme1n1"})
    assert "root" in mapped("InvalidParameterValue", {"DeviceName": "/dev/xvda", "NoDevice": ""})
    assert "VirtualName" in mapped("UnsupportedOperation", {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"})
    assert "size" in mapped("MissingParameter", {"DeviceName": "/dev/sdf", "Ebs": {"VolumeType": "gp3"}})
    mapped("InvalidParameterValue", {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": -1}})
    mapped("InvalidSnapshot.NotFound", {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "snap-0123456789abcdef0"}})


def test_interfaces_are_as_the_request_says(ec2: Any, launch: Callable[..., dict[str, Any]], refused: Callable[..., str]) -> None:
    vpc = ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.20.1.0/24", AvailabilityZone="us-east-1b")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="web", Description="web", VpcId=vpc)["GroupId"]
    kept = ec2.create_network_interface(SubnetId=subnet, Description="kept")["NetworkInterface"]["NetworkInterfaceId"]
    wanted = [
        {"DeviceIndex": 0, "SubnetId": subnet, "PrivateIpAddress": "10.20.1.77", "Groups": [group], "AssociatePublicIpAddress": True},
        {"DeviceIndex": 1, "NetworkInterfaceId": kept},
    ]
    instance = launch(NetworkInterfaces=wanted)["InstanceId"]
    wait(ec2, "running", instance)
    found = described(ec2, instance)
    assert found["PrivateIpAddress"] == "10.20.1.77" and found["PublicIpAddress"]
    assert found["Placement"]["AvailabilityZone"] == "us-east-1b"
    assert [each["GroupId"] for each in found["SecurityGroups"]] == [group]
    assert [each["Attachment"]["DeviceIndex"] for each in found["NetworkInterfaces"]] == [0, 1]
    refused("InvalidNetworkInterface.InUse", launch, NetworkInterfaces=[{"DeviceIndex": 0, "NetworkInterfaceId": kept}])
    taken = [{"DeviceIndex": 0, "SubnetId": subnet, "PrivateIpAddress": "10.20.1.77"}]
    refused("InvalidIPAddress.InUse", launch, NetworkInterfaces=taken)
    ec2.terminate_instances(InstanceIds=[instance])
    wait(ec2, "terminated", instance)
    [interface] = ec2.describe_network_interfaces(NetworkInterfaceIds=[kept])["NetworkInterfaces"]
    assert interface["Status"] == "available"


def test_a_launch_template_says_what_the_request_does_not(ec2: Any, image: str, refused: Callable[..., str]) -> None:
    data = {"ImageId": image, "InstanceType": "t3.nano", "UserData": base64.b64encode(b"first").decode(), "MetadataOptions": {"HttpTokens": "required"}}
    template = ec2.create_launch_template(LaunchTemplateName="web", LaunchTemplateData=data)["LaunchTemplate"]
    more = {"LaunchTemplateName": "web", "SourceVersion": "1", "LaunchTemplateData": {"InstanceType": "t3.small"}}
    assert ec2.create_launch_template_version(**more)["LaunchTemplateVersion"]["VersionNumber"] == 2
    kinds = {}
    for version in ("$Default", "$Latest", "1", "2"):
        named = {"LaunchTemplateId": template["LaunchTemplateId"], "Version": version}
        [instance] = ec2.run_instances(LaunchTemplate=named, MinCount=1, MaxCount=1)["Instances"]
        origin = {tag["Key"].removeprefix("aws:ec2launchtemplate:"): tag["Value"] for tag in instance["Tags"]}
        assert origin == {"id": template["LaunchTemplateId"], "version": {"$Default": "1", "$Latest": "2"}.get(version, version)}
        kinds[version] = instance["InstanceType"]
        assert instance["MetadataOptions"]["HttpTokens"] == "required"
        ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    assert kinds == {"$Default": "t3.nano", "$Latest": "t3.small", "1": "t3.nano", "2": "t3.small"}
    [instance] = ec2.run_instances(LaunchTemplate={"LaunchTemplateName": "web"}, InstanceType="t3.large", MinCount=1, MaxCount=1)["Instances"]
    assert instance["InstanceType"] == "t3.large"
    ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    versions = ec2.describe_launch_template_versions(LaunchTemplateName="web")["LaunchTemplateVersions"]
    assert [version["LaunchTemplateData"]["InstanceType"] for version in versions] == ["t3.nano", "t3.small"]
    refused("InvalidLaunchTemplateName.AlreadyExistsException", ec2.create_launch_template, LaunchTemplateName="web", LaunchTemplateData=data)
    ec2.modify_launch_template(LaunchTemplateName="web", DefaultVersion="2")
    deleted = ec2.delete_launch_template_versions(LaunchTemplateName="web", Versions=["1", "2", "7"])
    assert [each["VersionNumber"] for each in deleted["SuccessfullyDeletedLaunchTemplateVersions"]] == [1]
    assert len(deleted["UnsuccessfullyDeletedLaunchTemplateVersions"]) == 2
    ec2.delete_launch_template(LaunchTemplateName="web")
    refused("InvalidLaunchTemplateName.NotFoundException", ec2.run_instances, LaunchTemplate={"LaunchTemplateName": "web"}, MinCount=1, MaxCount=1)


def test_tags_that_aws_puts_stay(ec2: Any, image: str, refused: Callable[..., str]) -> None:
    template = {"LaunchTemplateName": "tagged", "LaunchTemplateData": {"ImageId": image, "InstanceType": "t3.nano"}}
    ec2.create_launch_template(**template)
    own = [{"Key": f"key-{number}", "Value": "mine"} for number in range(50)]
    tags = [{"ResourceType": "instance", "Tags": own}]
    made = ec2.run_instances(LaunchTemplate={"LaunchTemplateName": "tagged"}, MinCount=1, MaxCount=1, TagSpecifications=tags)
    instance = made["Instances"][0]["InstanceId"]
    refused("TagLimitExceeded", ec2.create_tags, Resources=[instance], Tags=[{"Key": "one more", "Value": ""}])
    refused("InvalidParameterValue", ec2.delete_tags, Resources=[instance], Tags=[{"Key": "aws:ec2launchtemplate:id"}])
    ec2.delete_tags(Resources=[instance])
    assert {tag["Key"] for tag in described(ec2, instance)["Tags"]} == {"aws:ec2launchtemplate:id", "aws:ec2launchtemplate:version"}
    ec2.terminate_instances(InstanceIds=[instance])
    ec2.delete_launch_template(LaunchTemplateName="tagged")


def test_an_empty_zone_is_none(launch: Callable[..., dict[str, Any]]) -> None:
    assert launch(Placement={"AvailabilityZone": "", "GroupName": ""})["Placement"]["AvailabilityZone"] == "us-east-1a"


def test_types_are_described_by_what_they_have(ec2: Any, refused: Callable[..., str]) -> None:
    [micro] = ec2.describe_instance_types(InstanceTypes=["t3.micro"])["InstanceTypes"]
    assert (micro["VCpuInfo"]["DefaultVCpus"], micro["MemoryInfo"]["SizeInMiB"]) == (2, 1024)
    found = ec2.describe_instance_types(Filters=[{"Name": "vcpu-info.default-vcpus", "Values": ["32"]}, {"Name": "instance-type", "Values": ["m*"]}])["InstanceTypes"]
    assert {each["InstanceType"] for each in found} == {"m5.8xlarge", "m6i.8xlarge", "m7i.8xlarge"}
    refused("InvalidInstanceType", ec2.describe_instance_types, InstanceTypes=["t3.huge"])
    offerings = ec2.describe_instance_type_offerings(LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": ["t3.micro"]}])
    assert sorted(each["Location"] for each in offerings["InstanceTypeOfferings"]) == ["us-east-1a", "us-east-1b", "us-east-1c"]


def test_status_monitoring_credits_and_metadata_options(ec2: Any, launch: Callable[..., dict[str, Any]], refused: Callable[..., str]) -> None:
    instance = launch(CreditSpecification={"CpuCredits": "standard"})["InstanceId"]
    waiter = ec2.get_waiter("instance_status_ok")
    waiter.wait(InstanceIds=[instance], WaiterConfig={"Delay": 0.05, "MaxAttempts": 600})
    assert ec2.monitor_instances(InstanceIds=[instance])["InstanceMonitorings"][0]["Monitoring"]["State"] == "enabled"
    [credit] = ec2.describe_instance_credit_specifications(InstanceIds=[instance])["InstanceCreditSpecifications"]
    assert credit["CpuCredits"] == "standard"
    ec2.modify_instance_credit_specification(InstanceCreditSpecifications=[{"InstanceId": instance, "CpuCredits": "unlimited"}])
    [credit] = ec2.describe_instance_credit_specifications(InstanceIds=[instance])["InstanceCreditSpecifications"]
    assert credit["CpuCredits"] == "unlimited"
    options = ec2.modify_instance_metadata_options(InstanceId=instance, HttpTokens="required", HttpPutResponseHopLimit=3)["InstanceMetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 3)
    refused("InvalidParameterValue", ec2.modify_instance_metadata_options, InstanceId=instance, HttpPutResponseHopLimit=65)


def test_an_account_says_what_credits_new_instances_of_a_family_have(
    api: Any, ec2: Any, launch: Callable[..., dict[str, Any]], refused: Callable[..., str]
) -> None:
    def default(ec2: Any, family: str) -> str:
        return ec2.get_default_credit_specification(InstanceFamily=family)["InstanceFamilyCreditSpecification"]["CpuCredits"]

    def credits(instance: dict[str, Any]) -> str:
        ids = [instance["InstanceId"]]
        return ec2.describe_instance_credit_specifications(InstanceIds=ids)["InstanceCreditSpecifications"][0]["CpuCredits"]

    assert [default(ec2, family) for family in ("t2", "t3", "t3a")] == ["standard", "unlimited", "unlimited"]
    before = launch(InstanceType="t3.micro")
    told = ec2.modify_default_credit_specification(InstanceFamily="t3", CpuCredits="standard")
    assert told["InstanceFamilyCreditSpecification"] == {"InstanceFamily": "t3", "CpuCredits": "standard"}
    assert [default(ec2, family) for family in ("t2", "t3", "t3a")] == ["standard", "standard", "unlimited"]
    assert default(api.client("ec2", account="111111111111"), "t3") == default(api.client("ec2", region="eu-west-1"), "t3") == "unlimited"
    assert credits(before) == "unlimited"
    assert credits(launch(InstanceType="t3.micro")) == "standard"
    assert credits(launch(InstanceType="t3a.micro")) == "unlimited"
    assert credits(launch(InstanceType="t3.micro", CreditSpecification={"CpuCredits": "unlimited"})) == "unlimited"
    ec2.modify_default_credit_specification(InstanceFamily="t3", CpuCredits="unlimited")
    assert credits(launch(InstanceType="t3.micro")) == "unlimited"
    refused("InvalidParameterValue", ec2.modify_default_credit_specification, InstanceFamily="t3", CpuCredits="many")
    refused("InvalidParameterValue", ec2.get_default_credit_specification, InstanceFamily="m5")
    refused("UnsupportedOperation", ec2.get_default_credit_specification, InstanceFamily="t4g")
