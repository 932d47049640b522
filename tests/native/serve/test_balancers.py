"""Load balancers of a region, as processes in its networks, on this machine. No guest runs: targets are servers in the VPC's own namespace."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from guest import NIMBO
from server import TIMEOUT_S, Server
from test_public import ask, credentials
from traces import own_network

QUICK = {"Delay": 1, "MaxAttempts": 60}
RESOLVER = ("127.0.0.55", 53)

# Answers all requests with who it is, and who has asked.
TARGET = """
import http.server, json, sys
address, name = sys.argv[1:]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = json.dumps({"name": name, "peer": self.client_address[0], "forwarded": self.headers.get("X-Forwarded-For")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer((address, 8000), Handler).serve_forever()
"""


class Region:
    """A server whose host is this machine, in a network of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.options = ("--here", "--state", str(folder / "state"), "--run", str(folder / "run"))
        self.start()
        vpc = self.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        self.vpc = vpc
        subnets = self.ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
        self.subnets = [subnet["SubnetId"] for subnet in subnets[:2]]
        # The routers' addresses, which are in the VPC's namespace.
        self.routers = [subnet["CidrBlock"].split("/")[0].removesuffix("0") + "1" for subnet in subnets[:2]]
        self.group = self.ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]

    def start(self) -> None:
        self.server = Server(*self.options)
        keys = credentials(self.folder / "state")
        self.ec2, self.elb = (self.server.client(service, **keys) for service in ("ec2", "elbv2"))

    def let_in(self, is_let_in: bool) -> None:
        call = self.ec2.authorize_security_group_ingress if is_let_in else self.ec2.revoke_security_group_ingress
        call(GroupId=self.group, IpProtocol="tcp", FromPort=80, ToPort=80, CidrIp="0.0.0.0/0")

    def process(self) -> int | None:
        """That of the load balancer."""
        for path in (self.folder / "run/balancers").glob("elb-*"):
            if path.suffix == ".log":
                continue
            with socket.socket(socket.AF_UNIX) as control:
                try:
                    control.connect(str(path))
                except OSError:
                    continue
                return int.from_bytes(control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
        return None

    @contextmanager
    def target(self, address: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
        inside = ["nsenter", f"--net={self.folder}/run/netns/{self.vpc}", sys.executable, "-c", TARGET, address, name]
        process = subprocess.Popen(inside)
        try:
            yield process
        finally:
            process.kill()
            process.wait(TIMEOUT_S)


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    with own_network():
        region = Region(tmp_path)
        try:
            yield region
        finally:
            if region.server.process.poll() is None:
                region.server.kill()
            command = [NIMBO, "down", "--force", "--state", str(tmp_path / "state"), "--run", str(tmp_path / "run")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
            assert done.returncode == 0, done.stderr
            assert not (tmp_path / "run").exists(), list((tmp_path / "run").rglob("*"))


def get(address: str, path: str = "/") -> str | None:
    """The body of an answer with status 200; none, if there is none within a second."""
    done = subprocess.run(["curl", "-sS", "--fail", "-m", "1", f"http://{address}{path}"], capture_output=True, text=True, timeout=TIMEOUT_S)
    return done.stdout if done.returncode == 0 else None


def until(what: str, is_so: Callable[[], Any]) -> Any:
    end = time.monotonic() + 2 * TIMEOUT_S
    while not (found := is_so()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
    return found


def test_one_serves_what_is_asked_of_its_public_address(region: Region) -> None:
    region.let_in(True)
    shop = region.elb.create_load_balancer(Name="shop", Subnets=region.subnets)["LoadBalancers"][0]
    arn = shop["LoadBalancerArn"]
    region.elb.get_waiter("load_balancer_available").wait(LoadBalancerArns=[arn], WaiterConfig=QUICK)
    checks = {"HealthCheckIntervalSeconds": 5, "HealthCheckTimeoutSeconds": 2}
    web = region.elb.create_target_group(Name="web", Protocol="HTTP", Port=8000, VpcId=region.vpc, TargetType="ip", **checks)
    group = web["TargetGroups"][0]["TargetGroupArn"]
    targets = [{"Id": address} for address in region.routers]
    with region.target(region.routers[0], "one"), region.target(region.routers[1], "two") as two:
        region.elb.register_targets(TargetGroupArn=group, Targets=targets)
        forward = [{"Type": "forward", "TargetGroupArn": group}]
        listener = region.elb.create_listener(LoadBalancerArn=arn, Protocol="HTTP", Port=80, DefaultActions=forward)["Listeners"][0]
        fixed = [{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "200", "MessageBody": "own"}}]
        path = [{"Field": "path-pattern", "Values": ["/own"]}]
        region.elb.create_rule(ListenerArn=listener["ListenerArn"], Priority=1, Conditions=path, Actions=fixed)
        region.elb.get_waiter("target_in_service").wait(TargetGroupArn=group, Targets=targets, WaiterConfig=QUICK)

        # By its name, at an address of each zone.
        addresses = {until("the name is resolved", lambda: ask(RESOLVER, shop["DNSName"])[1])}
        interfaces = region.ec2.describe_network_interfaces(Filters=[{"Name": "requester-id", "Values": ["amazon-elb"]}])["NetworkInterfaces"]
        public = {interface["Association"]["PublicIp"]: interface["PrivateIpAddress"] for interface in interfaces}
        assert addresses <= set(public) and len(public) == 2
        address = addresses.pop()
        assert until("it answers", lambda: get(address, "/own")) == "own"
        answers = [json.loads(get(at) or "{}") for at in list(public) * 4]
        assert {answer["name"] for answer in answers} == {"one", "two"}
        assert {answer["peer"] for answer in answers} <= set(public.values())
        assert all(re.fullmatch(r"198\.51\.100\.2", answer["forwarded"]) for answer in answers), answers

        # Its security group holds.
        region.let_in(False)
        assert get(address) is None
        region.let_in(True)
        assert until("it is let in again", lambda: get(address))

        # The server's end is nothing to it, nor its own end for long.
        before = region.process()
        region.server.kill()
        assert get(address, "/own") == "own"
        region.start()
        region.elb.get_waiter("target_in_service").wait(TargetGroupArn=group, Targets=targets, WaiterConfig=QUICK)
        assert region.process() == before is not None
        os.kill(before, signal.SIGKILL)
        assert until("it is there again", lambda: get(address, "/own")) == "own"
        assert region.process() != before
        region.elb.get_waiter("target_in_service").wait(TargetGroupArn=group, Targets=targets, WaiterConfig=QUICK)

        # One that fails its checks gets nothing.
        two.kill()

        def found() -> dict[str, str]:
            described = region.elb.describe_target_health(TargetGroupArn=group)["TargetHealthDescriptions"]
            return {one["Target"]["Id"]: one["TargetHealth"]["State"] for one in described}

        until("it is unhealthy", lambda: found() == dict(zip(region.routers, ["healthy", "unhealthy"], strict=True)))
        assert {json.loads(get(address) or "{}").get("name") for _ in range(10)} == {"one"}

    region.elb.delete_load_balancer(LoadBalancerArn=arn)
    until("its process is gone", lambda: region.process() is None)
    assert get(address, "/own") is None
    until("its name is gone", lambda: ask(RESOLVER, shop["DNSName"])[1] is None)
