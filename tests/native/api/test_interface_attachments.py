"""Network interfaces given to instances that run, and taken from them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server import Server

Refused = Callable[..., str]


def wait(ec2: Any, name: str, **arguments: Any) -> None:
    ec2.get_waiter(name).wait(WaiterConfig={"Delay": 0.05, "MaxAttempts": 400}, **arguments)


def launch(ec2: Any, **more: Any) -> dict[str, Any]:
    image = ec2.describe_images(Owners=["amazon"], Filters=[{"Name": "name", "Values": ["debian-12-amd64-*"]}])["Images"][0]["ImageId"]
    [made] = ec2.run_instances(ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1, **more)["Instances"]
    wait(ec2, "instance_running", InstanceIds=[made["InstanceId"]])
    return described(ec2, made["InstanceId"])


def described(ec2: Any, instance: str) -> dict[str, Any]:
    return ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]


@pytest.fixture
def instance(ec2: Any) -> Iterator[dict[str, Any]]:
    made = launch(ec2)
    yield made
    ec2.terminate_instances(InstanceIds=[made["InstanceId"]])


def make(ec2: Any, subnet: str) -> str:
    return ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]


def shown(ec2: Any, interface: str) -> dict[str, Any]:
    return ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])["NetworkInterfaces"][0]


def status(ec2: Any, interface: str) -> str | None:
    return shown(ec2, interface).get("Attachment", {}).get("Status")


def until(ec2: Any, interface: str, wanted: str | None) -> None:
    for _ in range(2000):
        if status(ec2, interface) == wanted:
            return
    raise AssertionError(f"it stays {status(ec2, interface)}")


def test_an_interface_is_attached_and_detached(ec2: Any, refused: Refused, instance: dict[str, Any]) -> None:
    id, owner = make(ec2, instance["SubnetId"]), instance["InstanceId"]
    attachment = ec2.attach_network_interface(NetworkInterfaceId=id, InstanceId=owner, DeviceIndex=1)["AttachmentId"]
    until(ec2, id, "attached")
    found = shown(ec2, id)
    assert (found["Status"], found["Attachment"]["AttachmentId"], found["Attachment"]["DeviceIndex"]) == ("in-use", attachment, 1)
    its = {each["NetworkInterfaceId"]: each["Attachment"]["Status"] for each in described(ec2, owner)["NetworkInterfaces"]}
    assert len(its) == 2 and its[id] == "attached"
    filters = [{"Name": "attachment.status", "Values": ["attached"]}, {"Name": "attachment.device-index", "Values": ["1"]}]
    assert [each["NetworkInterfaceId"] for each in ec2.describe_network_interfaces(Filters=filters)["NetworkInterfaces"]] == [id]
    refused("InvalidNetworkInterface.InUse", ec2.delete_network_interface, NetworkInterfaceId=id)
    ec2.detach_network_interface(AttachmentId=attachment)
    wait(ec2, "network_interface_available", NetworkInterfaceIds=[id])
    assert "Attachment" not in shown(ec2, id) and len(described(ec2, owner)["NetworkInterfaces"]) == 1
    refused("InvalidAttachmentID.NotFound", ec2.detach_network_interface, AttachmentId=attachment)
    ec2.delete_network_interface(NetworkInterfaceId=id)


def test_what_cannot_be_attached_or_detached_is_told(ec2: Any, refused: Refused, instance: dict[str, Any]) -> None:
    subnet, owner = instance["SubnetId"], instance["InstanceId"]
    [primary] = instance["NetworkInterfaces"]
    ids = [make(ec2, subnet) for _ in range(2)]
    attach = {"NetworkInterfaceId": ids[0], "InstanceId": owner}
    for index in (0, -1, 256):
        refused("InvalidParameterValue", ec2.attach_network_interface, **attach, DeviceIndex=index)
    refused("InvalidParameterValue", ec2.attach_network_interface, **attach, DeviceIndex=1, NetworkCardIndex=1)
    refused("OperationNotPermitted", ec2.detach_network_interface, AttachmentId=primary["Attachment"]["AttachmentId"], Force=True)
    others = ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
    elsewhere = make(ec2, next(each["SubnetId"] for each in others if each["SubnetId"] != subnet))
    refused("InvalidParameterCombination", ec2.attach_network_interface, NetworkInterfaceId=elsewhere, InstanceId=owner, DeviceIndex=1)
    attachment = ec2.attach_network_interface(**attach, DeviceIndex=1)["AttachmentId"]
    refused("InvalidNetworkInterface.InUse", ec2.attach_network_interface, **attach, DeviceIndex=2)
    refused("InvalidParameterValue", ec2.attach_network_interface, NetworkInterfaceId=ids[1], InstanceId=owner, DeviceIndex=1)
    # A t3.micro has two.
    refused("AttachmentLimitExceeded", ec2.attach_network_interface, NetworkInterfaceId=ids[1], InstanceId=owner, DeviceIndex=2)
    ec2.detach_network_interface(AttachmentId=attachment)
    until(ec2, ids[0], None)
    ec2.attach_network_interface(NetworkInterfaceId=ids[1], InstanceId=owner, DeviceIndex=1)
    ec2.terminate_instances(InstanceIds=[owner])
    wait(ec2, "instance_terminated", InstanceIds=[owner])
    # It was not made with the instance, and does not go with it.
    assert shown(ec2, ids[1])["Status"] == "available"
    refused("IncorrectInstanceState", ec2.attach_network_interface, **attach, DeviceIndex=1)
    for id in (*ids, elsewhere):
        ec2.delete_network_interface(NetworkInterfaceId=id)


def test_an_attachment_takes_its_time_and_outlives_the_server(tmp_path: Path, refused: Refused) -> None:
    # Plugging takes 0.4 s, unplugging 0.8 s.
    options = ["--simulate", "--state", str(tmp_path), "--delays=0.2"]
    server = Server(*options)
    ec2 = server.client("ec2")
    instance = launch(ec2)
    id, owner = make(ec2, instance["SubnetId"]), instance["InstanceId"]
    attachment = ec2.attach_network_interface(NetworkInterfaceId=id, InstanceId=owner, DeviceIndex=1)["AttachmentId"]
    assert (status(ec2, id), shown(ec2, id)["Status"]) == ("attaching", "in-use")
    server.kill()
    with Server(*options) as server:
        ec2 = server.client("ec2")
        until(ec2, id, "attached")
        ec2.detach_network_interface(AttachmentId=attachment)
        assert (status(ec2, id), shown(ec2, id)["Status"]) == ("detaching", "in-use")
        refused("IncorrectState", ec2.detach_network_interface, AttachmentId=attachment)
        ec2.detach_network_interface(AttachmentId=attachment, Force=True)
        wait(ec2, "network_interface_available", NetworkInterfaceIds=[id])
        # Stopped before it has it: it is started with it.
        ec2.attach_network_interface(NetworkInterfaceId=id, InstanceId=owner, DeviceIndex=1)
        ec2.stop_instances(InstanceIds=[owner])
        assert status(ec2, id) == "attaching"
        wait(ec2, "instance_stopped", InstanceIds=[owner])
        until(ec2, id, "attached")
