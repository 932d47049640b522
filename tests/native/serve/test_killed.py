"""nimbo serve with a state folder, killed at random moments under load: what it said is done, and nothing is done by halves."""

import collections
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from server import Server

WORKERS = 3
ROUNDS = 12
SETTLE_S = 30
TYPES = ("t3.nano", "t3.micro", "m5.large")


@dataclass
class Launch:
    """A request to launch, and what was told of it."""

    token: str
    count: int
    kind: str
    ids: list[str] | None = None


@dataclass
class Facts:
    """What one worker asked for. Of what was asked for last nobody may know whether it is done; `doubt` names it."""

    launches: dict[str, Launch] = field(default_factory=dict)
    volumes: dict[str, str | None] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)
    terminated: set[str] = field(default_factory=set)
    tags: dict[str, int] = field(default_factory=dict)
    doubt: tuple[str, Any] | None = None

    def live(self) -> list[str]:
        return [id for launch in self.launches.values() for id in launch.ids or [] if id not in self.terminated]


class Worker:
    """Asks for one thing after the other until the server is gone."""

    def __init__(self, name: str, ec2: Any, image: str, chance: random.Random) -> None:
        self.name, self.ec2, self.image, self.chance = name, ec2, image, chance
        self.facts = Facts()
        self.number = 0
        self.error: BaseException | None = None

    def work(self) -> None:
        try:
            while True:
                self.chance.choice([self.launch, self.launch, self.volume, self.tag, self.plug, self.stop, self.terminate, self.delete])()
                self.facts.doubt = None
        except BotoCoreError:
            pass  # The server is gone.
        except BaseException as error:  # noqa: BLE001
            self.error = error

    def token(self) -> str:
        self.number += 1
        return f"{self.name}-{self.number}"

    def launch(self) -> None:
        launch = Launch(self.token(), self.chance.randint(1, 3), self.chance.choice(TYPES))
        self.facts.launches[launch.token] = launch
        self.ask(launch)

    def ask(self, launch: Launch) -> None:
        tags = [{"ResourceType": kind, "Tags": [{"Key": "Name", "Value": launch.token}]} for kind in ("instance", "volume")]
        try:
            made = self.ec2.run_instances(
                ImageId=self.image,
                InstanceType=launch.kind,
                MinCount=launch.count,
                MaxCount=launch.count,
                ClientToken=launch.token,
                TagSpecifications=tags,
            )
        except ClientError as error:
            kind, about = self.facts.doubt or ("", None)
            over = self.facts.terminated | ({about} if kind == "terminate" else set())
            if error.response["Error"]["Code"] != "IdempotentInstanceTerminated" or not set(launch.ids or [None]) <= over:
                raise
            return
        ids = [instance["InstanceId"] for instance in made["Instances"]]
        assert launch.ids in (None, ids), "the same token launches others"
        launch.ids = ids

    def volume(self) -> None:
        token = self.token()
        self.facts.volumes[token] = None
        self.ask_volume(token)

    def ask_volume(self, token: str) -> None:
        id = self.ec2.create_volume(AvailabilityZone="us-east-1b", Size=3, ClientToken=token)["VolumeId"]
        assert self.facts.volumes[token] in (None, id), "the same token makes another volume"
        self.facts.volumes[token] = id

    def pick(self, among: list[str]) -> str | None:
        return self.chance.choice(among) if among else None

    def tag(self) -> None:
        if id := self.pick(self.facts.live()):
            value = self.facts.tags.get(id, 0) + 1
            self.facts.doubt = ("tag", (id, value))
            self.ec2.create_tags(Resources=[id], Tags=[{"Key": "n", "Value": str(value)}])
            self.facts.tags[id] = value

    def plug(self) -> None:
        """Gives an instance a second interface, or takes it away."""
        id = self.pick([id for id in self.facts.live() if id not in self.facts.stopped])
        [found] = self.ec2.describe_instances(InstanceIds=[id])["Reservations"][0]["Instances"] if id else [None]
        if not found or found["State"]["Name"] != "running":
            return
        second = [each["Attachment"] for each in found["NetworkInterfaces"] if each["Attachment"]["DeviceIndex"] == 1]
        if not second:
            made = self.ec2.create_network_interface(SubnetId=found["SubnetId"])["NetworkInterface"]["NetworkInterfaceId"]
            self.ec2.attach_network_interface(NetworkInterfaceId=made, InstanceId=id, DeviceIndex=1)
        elif second[0]["Status"] != "detaching":
            self.ec2.detach_network_interface(AttachmentId=second[0]["AttachmentId"])

    def stop(self) -> None:
        if id := self.pick([id for id in self.facts.live() if id not in self.facts.stopped]):
            [found] = self.ec2.describe_instances(InstanceIds=[id])["Reservations"][0]["Instances"]
            if found["State"]["Name"] == "running":
                self.facts.doubt = ("stop", id)
                self.ec2.stop_instances(InstanceIds=[id])
                self.facts.stopped.add(id)

    def terminate(self) -> None:
        if id := self.pick(self.facts.live()):
            self.facts.doubt = ("terminate", id)
            self.ec2.terminate_instances(InstanceIds=[id])
            self.facts.terminated.add(id)

    def delete(self) -> None:
        if id := self.pick([id for id in self.facts.volumes.values() if id and id not in self.facts.deleted]):
            [found] = self.ec2.describe_volumes(VolumeIds=[id])["Volumes"]
            if found["State"] == "available":
                self.facts.doubt = ("delete", id)
                self.ec2.delete_volume(VolumeId=id)
                self.facts.deleted.add(id)


def until(is_so: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SETTLE_S
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def instances(ec2: Any) -> dict[str, dict]:
    pages = ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 1000})
    return {instance["InstanceId"]: instance for page in pages for each in page["Reservations"] for instance in each["Instances"]}


def check_told(worker: Worker) -> None:
    """Everything that was answered is so; what was not is done as a whole or not at all."""
    facts, found = worker.facts, instances(worker.ec2)
    by_token = collections.Counter(instance["ClientToken"] for instance in found.values())
    doubt, about = facts.doubt or ("", None)
    again = worker.chance.sample(list(facts.launches.values()), min(3, len(facts.launches)))
    for launch in facts.launches.values():
        is_told = launch.ids is not None
        assert by_token[launch.token] in ({launch.count} if is_told else {0, launch.count}), f"{launch} is done by halves"
        if is_told and launch not in again:
            continue
        before = sorted(id for id, instance in found.items() if instance["ClientToken"] == launch.token)
        worker.ask(launch)
        assert sorted(launch.ids) == before or not before, "what was there is launched again"
    for id in facts.live():
        instance = found.get(id) or instances(worker.ec2)[id]
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        known = facts.tags.get(id)
        allowed = {known and str(known)} | ({str(about[1])} if doubt == "tag" and about[0] == id else set())
        assert tags.get("n") in allowed, f"{id} has the tag {tags.get('n')}, not {allowed}"
        if tags.get("n"):
            facts.tags[id] = int(tags["n"])
        state = instance["State"]["Name"]
        if doubt == "terminate" and about == id and state in ("shutting-down", "terminated"):
            facts.terminated.add(id)
        elif (doubt == "stop" and about == id and state in ("stopping", "stopped")) or id in facts.stopped:
            assert state in ("stopping", "stopped"), f"{id} was stopped, and is {state}"
            facts.stopped.add(id)
        else:
            assert state in ("pending", "running"), f"{id} is {state}"
    for id in facts.terminated:
        assert found[id]["State"]["Name"] in ("shutting-down", "terminated")
    there = {volume["VolumeId"]: volume["State"] for volume in worker.ec2.describe_volumes()["Volumes"]}
    for id in facts.volumes.values():
        if doubt == "delete" and about == id and there.get(id) in (None, "deleting"):
            facts.deleted.add(id)
        assert id is None or (there.get(id) in (None, "deleting")) == (id in facts.deleted), f"{id} is {there.get(id)}"
    for token in [token for token, id in facts.volumes.items() if id is None]:
        worker.ask_volume(token)
    facts.doubt = None


def check_whole(ec2: Any, workers: list[Worker]) -> None:
    """Whatever was under way comes to an end, and then everything fits together."""

    def is_settled() -> bool:
        volumes = {volume["State"] for volume in ec2.describe_volumes()["Volumes"]}
        states = {each["State"]["Name"] for each in instances(ec2).values()}
        attachments = {each["Attachment"]["Status"] for each in ec2.describe_network_interfaces()["NetworkInterfaces"] if "Attachment" in each}
        return states <= {"running", "stopped", "terminated"} and volumes <= {"available", "in-use"} and attachments <= {"attached"}

    until(is_settled, "something stays under way")
    found = instances(ec2)
    live = {id for id, instance in found.items() if instance["State"]["Name"] != "terminated"}
    assert live == {id for worker in workers for id in worker.facts.live()}
    volumes = ec2.describe_volumes()["Volumes"]
    attached = {volume["Attachments"][0]["InstanceId"]: volume for volume in volumes if volume["Attachments"]}
    alone = {volume["VolumeId"] for volume in volumes if not volume["Attachments"]}
    assert set(attached) == live
    assert all(volume["Attachments"][0]["State"] == "attached" for volume in attached.values())
    assert alone == {id for worker in workers for id in worker.facts.volumes.values()} - {id for worker in workers for id in worker.facts.deleted}
    for id in live:
        assert [mapping["Ebs"]["VolumeId"] for mapping in found[id]["BlockDeviceMappings"]] == [attached[id]["VolumeId"]]
    interfaces = ec2.describe_network_interfaces()["NetworkInterfaces"]
    attachments = [interface["Attachment"] for interface in interfaces if "Attachment" in interface]
    places = collections.Counter((attachment["InstanceId"], attachment["DeviceIndex"]) for attachment in attachments)
    assert {id for id, index in places if index == 0} == live == {id for id, _ in places}
    assert set(places.values()) <= {1}


def test_a_server_that_is_killed_knows_all_that_it_told(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    options = ("--simulate", "--state", str(tmp_path / "state"))
    server = Server(*options)
    try:
        ec2 = server.client("ec2")
        image = ec2.describe_images()["Images"][0]["ImageId"]
        workers = [Worker(f"w{number}", server.client("ec2"), image, random.Random(chance.random())) for number in range(WORKERS)]
        back_s = []
        for _ in range(ROUNDS):
            threads = [threading.Thread(target=worker.work) for worker in workers]
            for thread in threads:
                thread.start()
            time.sleep(chance.uniform(0.01, 0.5))  # The moment is what is random here.
            server.kill()
            for thread in threads:
                thread.join(SETTLE_S)
            started = time.monotonic()
            server = Server(*options, listen=server.address)
            ec2.describe_regions()
            back_s.append(time.monotonic() - started)
            for worker in workers:
                assert worker.error is None, worker.error
                check_told(worker)
            check_whole(ec2, workers)
        asked = sum(worker.number for worker in workers)
        print(f"{ROUNDS} rounds, {asked} resources asked for; back after {min(back_s):.3f} to {max(back_s):.3f} s")
        assert asked > ROUNDS
        assert sorted(back_s)[ROUNDS // 2] < 1
    finally:
        if server.process.poll() is None:
            server.kill()


def test_a_simulated_host_runs_what_ran(tmp_path: Path) -> None:
    options = ("--simulate", "--state", str(tmp_path))
    with Server(*options) as server:
        ec2 = server.client("ec2")
        image = ec2.describe_images()["Images"][0]["ImageId"]
        [instance] = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1)["Instances"]
        id = instance["InstanceId"]
        until(lambda: instances(ec2)[id]["State"]["Name"] == "running", "it does not run")
        until(lambda: instances(ec2)[id]["BlockDeviceMappings"][0]["Ebs"]["Status"] == "attached", "it has no disk")
        before = instances(ec2)[id]
    with Server(*options) as server:
        ec2 = server.client("ec2")
        assert instances(ec2)[id] == before
        # What the host has of it can be taken away and given back.
        volume = before["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
        ec2.create_snapshot(VolumeId=volume)
        ec2.stop_instances(InstanceIds=[id])
        until(lambda: instances(ec2)[id]["State"]["Name"] == "stopped", "it does not stop")
        ec2.detach_volume(VolumeId=volume)
        until(lambda: ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["State"] == "available", "it stays attached")
        ec2.delete_volume(VolumeId=volume)
        until(lambda: not ec2.describe_volumes()["Volumes"], "it stays")
