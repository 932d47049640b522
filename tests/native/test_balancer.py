"""A load balancer from a file, with real clients and targets."""

import http.server
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NIMBO = os.environ["NIMBO"]
TIMEOUT_S = 30


class Target(http.server.BaseHTTPRequestHandler):
    """Answers with its own name and what it was told of the client."""

    protocol_version = "HTTP/1.1"
    name = ""

    def do_GET(self) -> None:
        answer = {"name": self.name, "path": self.path, "forwarded": self.headers.get("X-Forwarded-For"), "trace": self.headers.get("X-Amzn-Trace-Id")}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[str, int]]:
    servers = {name: http.server.ThreadingHTTPServer(("127.0.0.1", 0), type(name, (Target,), {"name": name})) for name in ("one", "two")}
    for server in servers.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {name: server.server_port for name, server in servers.items()}
    for server in servers.values():
        server.shutdown()
        server.server_close()


def config(targets: dict[str, int], address: str = "127.0.0.1:0") -> dict[str, Any]:
    group = {"targets": [{"id": name, "ip": "127.0.0.1", "port": port} for name, port in targets.items()]}
    forward = {"forward": {"target_groups": [{"name": "all"}]}}
    return {"listeners": [{"address": address, "default_action": forward}], "target_groups": {"all": group}}


def free_address() -> str:
    with http.server.HTTPServer(("127.0.0.1", 0), Target) as server:
        return f"127.0.0.1:{server.server_port}"


@contextmanager
def balancer(file: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen([NIMBO, "balancer", "--config", str(file), "--workers", "2", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield process, process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0


def curl(*arguments: str) -> str:
    return subprocess.run(["curl", "-sS", "-m", str(TIMEOUT_S), *arguments], check=True, capture_output=True, text=True).stdout


def test_requests_take_turns_and_a_changed_file_takes_effect(targets: dict[str, int], tmp_path: Path) -> None:
    file, address = tmp_path / "balancer.json", free_address()
    file.write_text(json.dumps(config(targets, address)))
    with balancer(file) as (process, url):
        assert url == f"http://{address}"
        answers, deadline = [], time.monotonic() + TIMEOUT_S
        # As long as one of them has passed its first check, and the other not, the first has all requests.
        while {answer["name"] for answer in answers} != {"one", "two"}:
            assert time.monotonic() < deadline, answers
            answers.append(json.loads(curl(f"{url}/a?b")))
        assert all(answer["path"] == "/a?b" and answer["forwarded"] == "127.0.0.1" for answer in answers)
        assert len({answer["trace"] for answer in answers}) == len(answers)
        changed = config({"one": targets["one"]}, address)
        redirect = {"priority": 1, "conditions": [{"path_pattern": ["/old"]}], "action": {"redirect": {"path": "/new", "status": 302}}}
        changed["listeners"][0]["rules"] = [redirect]
        file.write_text(json.dumps(changed))
        process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + TIMEOUT_S
        while "Location" not in (headers := curl("-D", "-", "-o", "/dev/null", f"{url}/old")):
            assert time.monotonic() < deadline
        assert f"Location: {url}/new" in headers
        assert {json.loads(curl(url))["name"] for _ in range(6)} == {"one"}
        # What is wrong changes nothing, and says where it is.
        changed["listeners"][0]["rules"][0]["priority"] = 0
        file.write_text(json.dumps(changed))
        process.send_signal(signal.SIGHUP)
        assert process.stderr
        said = process.stderr.readline() + process.stderr.readline() + process.stderr.readline()
        assert "listeners[0].rules[0]" in said and "priority" in said, said
        assert json.loads(curl(url))["name"] == "one"


def test_it_tells_how_it_stands(targets: dict[str, int], tmp_path: Path) -> None:
    file, socket = tmp_path / "balancer.json", tmp_path / "control"
    file.write_text(json.dumps(config({**targets, "none": 1}, free_address())))

    def status() -> dict[str, Any]:
        return json.loads(curl("--unix-socket", str(socket), "http://localhost/v1/status"))

    with balancer(file, "--control", str(socket)) as (_, url):
        deadline = time.monotonic() + TIMEOUT_S
        while sorted(target["state"] for target in status()["target_groups"]["all"]["targets"]) != ["healthy", "healthy", "initial"]:
            assert time.monotonic() < deadline
        before = status()["metrics"]
        for _ in range(7):
            curl(url)
        told = status()
        assert told["metrics"]["RequestCount"] - before["RequestCount"] == 7
        assert told["metrics"]["HTTPCode_Target_2XX_Count"] - before["HTTPCode_Target_2XX_Count"] == 7
        group = told["target_groups"]["all"]
        assert group["metrics"]["RequestCount"] == 7 and group["metrics"]["HealthyHostCount"] == 2
        assert [target["reason"] for target in group["targets"] if target["id"] == "none"] == ["Elb.InitialHealthChecking"]
        assert told["listeners"] == [{"address": url.removeprefix("http://"), "protocol": "HTTP"}]
        assert "there is /v1/status" in curl("--unix-socket", str(socket), "http://localhost/")
    assert not socket.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"listener": []}, "unknown field `listener`"),
        ({"target_groups": {}}, "all"),
        ({"listeners": []}, "no listeners"),
        ({"attributes": {"idle_timeout_s": 0}}, "idle_timeout_s"),
        ({"listeners": [{"address": "127.0.0.1:1", "protocol": "HTTPS", "default_action": {"fixed_response": {"status": 200}}}]}, "HTTPS needs one"),
        ({"listeners": [{"address": "192.0.2.1:1", "default_action": {"fixed_response": {"status": 200}}}]}, "192.0.2.1:1"),
    ],
)
def test_what_cannot_be_served_is_told(change: dict[str, Any], words: str, targets: dict[str, int], tmp_path: Path) -> None:
    file = tmp_path / "balancer.json"
    file.write_text(json.dumps({**config(targets, free_address()), **change}))
    outcome = subprocess.run([NIMBO, "balancer", "--config", str(file)], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert words in outcome.stderr, outcome.stderr
