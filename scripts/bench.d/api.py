"""The API beside moto's server. Called by scripts/bench api.

Both are given the same signed requests, byte for byte, by the same client (src/aws/examples/replay.rs): DescribeInstances with 280 instances,
and RunInstances of one instance, which ours answers when it is on stable storage. Each is given as many connections as serve it best: moto one, for more only wait
in it, ours as `CONNECTIONS` has them.

What has no peer: a region of 10,000 instances, of which one is described by its id and one page by a filter, with the
time that it takes to be served again by a new process, and the memory that process has when it has answered.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

sys.path.insert(0, str(Path(__file__).parent))

from measure import Results  # noqa: E402

NIMBO = os.environ["NIMBO"]
MOTO = os.environ["NIMBO_MOTO"]
REPLAY = os.environ["NIMBO_REPLAY"]
REGION = "us-east-1"
KEY = "test"
PATIENCE_S = 60
LAUNCHED_AT_ONCE = 500
CONNECTIONS = {"ours": {"describe": 4, "run": 64}, "peer": {"describe": 1, "run": 1}}


class Server:
    """A server of EC2 at `address`, whose process is `process`."""

    def __init__(self, name: str, address: str, process: subprocess.Popen):
        self.name, self.address, self.process = name, address, process
        self.ec2 = boto3.client(
            "ec2", endpoint_url=f"http://{address}", region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key=KEY
        )

    def request(self, body: str) -> bytes:
        """A signed request, as it goes over the wire."""
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8", "Host": self.address}
        request = AWSRequest("POST", f"http://{self.address}/", data=body, headers=headers)
        SigV4Auth(Credentials(KEY, KEY), "ec2", REGION).add_auth(request)
        lines = [f"{name}: {value}" for name, value in request.headers.items()]
        head = "\r\n".join(["POST / HTTP/1.1", *lines, f"Content-Length: {len(body)}", "", ""])
        return (head + body).encode()

    def replay(self, body: str, connections: int, requests: int) -> dict[str, float]:
        command = [REPLAY, self.address, str(connections), str(requests)]
        answer = subprocess.run(command, input=self.request(body), stdout=subprocess.PIPE, check=True)
        return json.loads(answer.stdout)

    def image(self) -> str:
        return self.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]

    def launch(self, count: int) -> None:
        image = self.image()
        # A default subnet has some 4,000 addresses.
        subnets = itertools.cycle(subnet["SubnetId"] for subnet in self.ec2.describe_subnets()["Subnets"])
        while count > 0:
            some = min(count, LAUNCHED_AT_ONCE)
            self.ec2.run_instances(
                ImageId=image, InstanceType="t3.micro", SubnetId=next(subnets), MinCount=some, MaxCount=some
            )
            count -= some


@contextlib.contextmanager
def ended(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@contextlib.contextmanager
def ours(state: Path) -> Iterator[Server]:
    command = [NIMBO, "serve", "--simulate", "--state", str(state), "--listen", "127.0.0.1:0"]
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
        url = process.stdout.readline().strip()
        yield Server("ours", url.removeprefix("http://"), process)


@contextlib.contextmanager
def moto() -> Iterator[Server]:
    command = [MOTO, "--host", "127.0.0.1", "--port", "0"]
    with tempfile.TemporaryFile("w+") as log, ended(subprocess.Popen(command, stderr=log, stdout=log)) as process:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            log.seek(0)
            if found := re.search(r"Running on http://(\S+)", log.read()):
                break
            assert process.poll() is None and time.monotonic() < deadline, "moto does not listen"
            time.sleep(0.05)
        yield Server("peer", found[1], process)


def described(server: Server, requests: int) -> dict[str, float]:
    found = server.replay("Action=DescribeInstances&Version=2016-11-15", CONNECTIONS[server.name]["describe"], requests)
    # Ours has the Debian that it begins with; what is launched is the same.
    assert found["body_bytes"] > 280 * 1000, found
    return {"api.describe_280_rps": found["rps"]}


def accepted(server: Server, requests: int) -> dict[str, float]:
    body = f"Action=RunInstances&Version=2016-11-15&MinCount=1&MaxCount=1&InstanceType=t3.micro&ImageId={server.image()}"
    return {"api.run_accept_rps": server.replay(body, CONNECTIONS[server.name]["run"], requests)["rps"]}


def beside_moto(results: Results, folder: Path, arguments: argparse.Namespace) -> None:
    with ours(folder / "beside") as mine, moto() as peer:
        for server in (mine, peer):
            server.launch(280)
        results.alternate(
            arguments.rounds,
            {"ours": lambda: described(mine, arguments.requests), "peer": lambda: described(peer, arguments.peer_requests)},
        )
    # Launches make a server slower by and by, so each round has servers of its own.
    def launches(name: str, requests: int) -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=folder) as state, ours(Path(state)) if name == "ours" else moto() as server:
            return accepted(server, requests)

    results.alternate(
        arguments.rounds,
        {"ours": lambda: launches("ours", arguments.requests * 4), "peer": lambda: launches("peer", arguments.peer_requests * 4)},
    )


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def of_10k(results: Results, folder: Path, rounds: int) -> None:
    state = folder / "10k"
    with ours(state) as server:
        server.launch(10_000)
        pending = [{"Name": "instance-state-name", "Values": ["pending"]}]
        deadline = time.monotonic() + PATIENCE_S
        while server.ec2.describe_instances(Filters=pending)["Reservations"]:
            assert time.monotonic() < deadline, "not all instances run"
            time.sleep(0.1)
        pages = server.ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 1000})
        ids = [i["InstanceId"] for page in pages for r in page["Reservations"] for i in r["Instances"]]
    assert len(ids) == 10_000
    for number in range(rounds):
        started = time.monotonic()
        with ours(state) as server:
            by_id = f"Action=DescribeInstances&Version=2016-11-15&InstanceId.1={ids[number * 997 % 10_000]}"
            server.replay(by_id, 1, 1)
            results.add("api.start_10k_s", "ours", time.monotonic() - started)
            results.add("api.rss_10k_mib", "ours", resident_mib(server.process.pid))
            results.add("api.describe_id_10k_ms", "ours", server.replay(by_id, 1, 200)["median_ms"])
            page = (
                "Action=DescribeInstances&Version=2016-11-15&MaxResults=100"
                "&Filter.1.Name=instance-type&Filter.1.Value.1=t3.micro&Filter.2.Name=availability-zone&Filter.2.Value.1=us-east-1*"
            )
            results.add("api.filter_10k_ms", "ours", server.replay(page, 1, 100)["median_ms"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench api")
    parser.add_argument("--rounds", type=int, default=5)
    # Four times as many launches must fit into a default subnet.
    parser.add_argument("--requests", type=int, default=900, help="of ours, in each round")
    parser.add_argument("--peer-requests", type=int, default=20, help="of moto, in each round")
    arguments = parser.parse_args()
    results = Results()
    with tempfile.TemporaryDirectory(prefix="nimbo-bench-", dir=Path.cwd() / "target") as folder:
        beside_moto(results, Path(folder), arguments)
        of_10k(results, Path(folder), arguments.rounds)
    results.print()


if __name__ == "__main__":
    main()
