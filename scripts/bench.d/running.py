"""RunInstances to `running` beside the bare start of the same guest. Called by scripts/bench api, where stock kernels boot.

Ours: from a request to a real `nimbo serve` until DescribeInstances says `running`, which it must not before the guest does: a volume made from
the image's snapshot, the process that serves it, a network with its metadata, and the microVM. The peer: `nimbo run` of the same image, with the same processors
and memory, from the start of its process until its control socket says that the guest has started.

Requests are signed before the clock starts, and sent by a client that does nothing else: to sign one takes an emulated processor longer than to
answer it.
"""

import argparse
import contextlib
import http.client
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from botocore.auth import SigV4Auth  # noqa: E402
from botocore.awsrequest import AWSRequest  # noqa: E402
from botocore.credentials import Credentials  # noqa: E402
from guest import PATIENCE_S, Guest, wait_until  # noqa: E402
from measure import Results  # noqa: E402
from region import Region  # noqa: E402
from server import REGION  # noqa: E402

IMAGE = os.environ["NIMBO_IMAGE_TINY"]
TYPE, CPUS, MEMORY = "t3.nano", "2", "512M"
# Between two questions whether it runs.
LOOK_S = 0.005


class Client:
    """One connection to a region's server."""

    def __init__(self, region: Region):
        self.region, self.address = region, region.server.address
        self.connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_S)
        self.connection.connect()

    def signed(self, body: str) -> dict[str, str]:
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8", "Host": self.address}
        request = AWSRequest("POST", f"http://{self.address}/", data=body, headers=headers)
        SigV4Auth(Credentials(*self.region.keys), "ec2", REGION).add_auth(request)
        return dict(request.headers.items())

    def send(self, body: str, headers: dict[str, str]) -> str:
        self.connection.request("POST", "/", body=body, headers=headers)
        answer = self.connection.getresponse()
        text = answer.read().decode()
        assert answer.status == 200, text
        return text


def launched(region: Region, image: str) -> dict[str, float]:
    """One instance, which is ended again."""
    client = Client(region)
    launch = f"Action=RunInstances&Version=2016-11-15&MinCount=1&MaxCount=1&InstanceType={TYPE}&ImageId={image}"
    describe = (
        "Action=DescribeInstances&Version=2016-11-15"
        "&Filter.1.Name=instance-state-name&Filter.1.Value.1=running&Filter.1.Value.2=shutting-down"
    )
    launch_headers, describe_headers = client.signed(launch), client.signed(describe)
    started = time.monotonic()
    identity = re.search(r"<instanceId>(i-\w+)</instanceId>", client.send(launch, launch_headers))[1]
    while identity not in client.send(describe, describe_headers):
        assert time.monotonic() - started < PATIENCE_S, f"{identity} does not run"
        time.sleep(LOOK_S)
    elapsed = time.monotonic() - started
    assert region.instance(identity)["State"]["Name"] == "running"
    # What its process has told of the guest's first instruction.
    assert (region.folder / "run/instances" / identity / "started").exists(), f"{identity} was said to run before it did"
    process = region.processes()[identity]
    region.ec2.terminate_instances(InstanceIds=[identity])
    # A guest that is booting hears no power button.
    os.kill(process, signal.SIGKILL)
    region.wait("instance_terminated", InstanceIds=[identity])
    return {"api.run_to_running_ms": elapsed * 1000}


def has_started(guest: Guest) -> bool:
    """Once somebody listens there, that is told as soon as it is so."""
    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
        return any(event["event"] == "started" for event in guest.control("GET", "/v1/events?after=0&wait_ms=60000")["events"])
    return False


def bare() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="nimbo-bench-") as folder:
        started = time.monotonic()
        guest = Guest("--here", "--cpus", CPUS, "--memory", MEMORY, "--image", IMAGE, folder=Path(folder))
        try:
            wait_until(lambda: has_started(guest), "the guest's start")
            elapsed = time.monotonic() - started
        finally:
            guest.process.kill()
            guest.end()
    return {"api.run_to_running_ms": elapsed * 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    results = Results()
    with tempfile.TemporaryDirectory(prefix="nimbo-bench-") as folder, Region(Path(folder)) as region:
        image = region.image(IMAGE)
        region.wait("image_available", ImageIds=[image])
        results.alternate(rounds, {"ours": lambda: launched(region, image), "peer": bare})
    results.print()


main()
