"""A load balancer beside nginx and HAProxy: HTTP/1.1 on both sides, and from clients over TLS and in HTTP/2, too. Called by scripts/bench balancer.

All three run all the time, on one thread each and on the same processor, before the same nginx, which serves files; wrk, and for HTTP/2 h2load, asks each of them in turn, on
the other processor with that nginx. The peer in each round is the better of the two. Processor time is the balancer's own, user's and kernel's.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measure import Results  # noqa: E402

NIMBO = os.environ["NIMBO"]
CONFIGURATIONS = Path(__file__).parent / "balancer.d"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PATIENCE_S = 20
BALANCER_CPU, OTHER_CPU = "0", "1"
SMALL_BYTES, LARGE_BYTES = 100, 64 << 10
IDLE_CONNECTIONS = 10_000
CHANGES_PER_S = 10
# Of one connection at the same time.
STREAMS = 10


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def connect(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def wait_for(address: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            connect(address).close()
            return
        assert time.monotonic() < deadline, f"nobody listens at {address}"
        time.sleep(0.05)


@contextlib.contextmanager
def running(cpu: str, *command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["taskset", "-c", cpu, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_S)


def configured(folder: Path, name: str, **values: str) -> Path:
    """A configuration of the repository's with addresses and folders written in."""
    text = (CONFIGURATIONS / name).read_text()
    for word, value in {"PID": str(folder / f"{name}.pid"), "FOLDER": str(folder), **values}.items():
        text = re.sub(rf"\b{word}\b", value, text)
    file = folder / name
    file.write_text(text)
    return file


def make_certificate(folder: Path) -> dict[str, str]:
    """A certificate and its key, each in a file and both in one."""
    chain, key = folder / "certificate.pem", folder / "key.pem"
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(["openssl", "req", "-x509", *made, "-keyout", key, "-out", chain], check=True, stderr=subprocess.DEVNULL)
    (folder / "both.pem").write_text(chain.read_text() + key.read_text())
    return {"chain": str(chain), "key": str(key)}


def secured(config: dict, listen: str, certificate: dict[str, str]) -> dict:
    """The same over TLS, too."""
    listener = {**config["listeners"][0], "address": listen, "protocol": "HTTPS", "certificates": [certificate]}
    return {**config, "listeners": [*config["listeners"], {**listener, "security_policy": "ELBSecurityPolicy-TLS13-1-3-2021-06"}]}


def ours(origin: str, listen: str, rules: int = 0, targets: int = 1) -> dict:
    """A configuration with so many rules that do not fit, and so many targets, which are all the same one."""
    host, port = origin.split(":")
    # Several addresses of loopback are several targets.
    places = [{"id": f"target-{place}", "ip": f"127.0.0.{place + 1}" if targets > 1 else host, "port": int(port)} for place in range(targets)]
    forward = {"forward": {"target_groups": [{"name": "targets"}]}}
    rule = lambda place: {  # noqa: E731
        "priority": place + 1,
        "conditions": [{"host_header": [f"host-{place}.example"]}, {"path_pattern": [f"/path-{place}/*"]}],
        "action": forward,
    }
    listener = {"address": listen, "default_action": forward, "rules": [rule(place) for place in range(rules)]}
    return {"listeners": [listener], "target_groups": {"targets": {"targets": places}}}


def processes(process: subprocess.Popen[bytes]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [process.pid, *map(int, children)]


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    fields = (Path(f"/proc/{identity}/stat").read_text().rsplit(")", 1)[1].split() for identity in processes(process))
    return sum(int(user) + int(system) for user, system in (field[11:13] for field in fields)) / TICKS_PER_S


class Wrk:
    """What wrk says of a run."""

    def __init__(self, url: str, connections: int, seconds: int):
        command = ["taskset", "-c", OTHER_CPU, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        self.requests = int(re.search(r"(\d+) requests in", said)[1])
        number, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", said).groups()
        self.p99_ms = float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]
        wrong = re.findall(r"(?:Non-2xx or 3xx responses: (\d+)|connect (\d+), read (\d+), write (\d+), timeout (\d+))", said)
        self.failed = sum(int(count) for counts in wrong for count in counts if count)


class H2load:
    """What h2load says of a run in HTTP/2."""

    def __init__(self, url: str, connections: int, seconds: int):
        command = ["taskset", "-c", OTHER_CPU, "h2load", "-t1", f"-c{connections}", f"-m{STREAMS}", f"-D{seconds}", "--warm-up-time=0", url]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        self.requests, self.failed = (int(re.search(rf"(\d+) {word}", said)[1]) for word in ("succeeded", "failed"))
        assert "Application protocol: h2" in said, said


class Contestant:
    def __init__(self, process: subprocess.Popen[bytes], address: str, secured: str):
        self.process, self.address, self.secured = process, address, secured

    def measure(self, suffix: str, path: str, connections: int, seconds: int) -> dict[str, float]:
        before = cpu_s(self.process)
        if suffix.startswith("h2"):
            run = H2load(f"https://{self.secured}/{path}", connections, seconds)
        else:
            url = f"https://{self.secured}" if suffix.startswith("tls") else f"http://{self.address}"
            run = Wrk(f"{url}/{path}", connections, seconds)
        assert run.failed == 0, f"{run.failed} requests failed"
        spent = {f"balancer.cpu_{suffix}_us": (cpu_s(self.process) - before) * 1e6 / run.requests}
        return spent if isinstance(run, H2load) else {**spent, f"balancer.p99_{suffix}_ms": run.p99_ms}


def better(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    return {metric: min(first[metric], second[metric]) for metric in first}


def idle_mib(address: str, process: subprocess.Popen[bytes]) -> float:
    """What a balancer has in memory with so many connections that have each asked once."""
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            stream = stack.enter_context(connect(address))
            stream.sendall(b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n")
            received = b""
            while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < SMALL_BYTES:
                received += stream.recv(4096)
        kib = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]
        return int(kib) / 1024


def churn(contestant: Contestant, config: dict, file: Path, requests: int) -> tuple[int, int, int]:
    """So many requests at least while targets come and go: how many failed, how many there were, and how many changes."""
    targets = config["target_groups"]["targets"]["targets"]
    address = contestant.address
    done = failed = changes = 0
    while done < requests:
        with subprocess.Popen([sys.executable, __file__, "--wrk", address], stdout=subprocess.PIPE, text=True) as asking:
            while asking.poll() is None:
                changes += 1
                some = [target for place, target in enumerate(targets) if (place + changes) % 3]
                file.write_text(json.dumps({**config, "target_groups": {"targets": {"targets": some}}}))
                contestant.process.send_signal(signal.SIGHUP)
                time.sleep(1 / CHANGES_PER_S)
            assert asking.stdout
            count, wrong = map(int, asking.stdout.read().split())
        done, failed = done + count, failed + wrong
    return failed, done, changes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each run of wrk (3)")
    parser.add_argument("--requests", type=int, default=1_000_000, help="while targets come and go (1,000,000)")
    parser.add_argument("--wrk", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.wrk:
        run = Wrk(f"http://{options.wrk}/small", 64, 10)
        print(run.requests, run.failed)
        return
    with tempfile.TemporaryDirectory(prefix="nimbo-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "small").write_bytes(os.urandom(SMALL_BYTES))
        (folder / "large").write_bytes(os.urandom(LARGE_BYTES))
        port = free_address().split(":")[1]
        origin = f"127.0.0.1:{port}"
        # It listens on all addresses of loopback.
        start = lambda cpu, *command: stack.enter_context(running(cpu, *command))  # noqa: E731
        start(OTHER_CPU, "nginx", "-c", configured(folder, "origin.conf", ORIGIN=port))
        names = ("nginx", "haproxy", "plain", "secured", "rules")
        addresses, secured_addresses = ({name: free_address() for name in names} for _ in range(2))
        certificate = make_certificate(folder)
        configurations = {
            "plain": ours(origin, addresses["plain"]),
            "secured": secured(ours(origin, addresses["secured"]), secured_addresses["secured"], certificate),
            "rules": ours(origin, addresses["rules"], 100, 50),
        }
        for which, configuration in configurations.items():
            (folder / f"{which}.json").write_text(json.dumps(configuration))
        serve = lambda which: start(BALANCER_CPU, NIMBO, "balancer", "--workers", "1", "--config", folder / f"{which}.json")  # noqa: E731
        nginx = configured(folder, "nginx.conf", LISTEN=addresses["nginx"], SECURED=secured_addresses["nginx"], ORIGIN=origin)
        haproxy = configured(folder, "haproxy.cfg", LISTEN=addresses["haproxy"], SECURED=secured_addresses["haproxy"], ORIGIN=origin)
        started = {
            "nginx": start(BALANCER_CPU, "nginx", "-c", nginx),
            "haproxy": start(BALANCER_CPU, "haproxy", "-db", "-f", haproxy),
            "plain": serve("plain"),
            "secured": serve("secured"),
            "rules": serve("rules"),
        }
        for address in [origin, *addresses.values()]:
            wait_for(address)
        by = {which: Contestant(process, addresses[which], secured_addresses[which]) for which, process in started.items()}
        runs = [
            ("c16", "small", 16),
            ("c64", "small", 64),
            ("c1024", "small", 1024),
            ("large_c64", "large", 64),
            ("tls", "small", 64),
            ("tls_large", "large", 64),
            ("h2", "small", 16),
            ("h2_large", "large", 16),
        ]
        for suffix, path, connections in runs:
            results = Results()
            run = (suffix, path, connections, options.seconds)
            peers = lambda run=run: better(by["nginx"].measure(*run), by["haproxy"].measure(*run))  # noqa: E731
            own = by["secured" if suffix.startswith(("tls", "h2")) else "plain"]
            results.alternate(options.rounds, {"ours": lambda own=own, run=run: own.measure(*run), "peer": peers})
            results.print()
        results = Results()
        rules = lambda which: {"balancer.rules100_us": by[which].measure("c64", "small", 64, options.seconds)["balancer.cpu_c64_us"]}  # noqa: E731
        results.alternate(options.rounds, {"ours": lambda: rules("rules"), "peer": lambda: rules("plain")})
        results.print()
        results = Results()
        results.add("balancer.idle10k_mib", "ours", idle_mib(addresses["plain"], started["plain"]))
        failed, requests, changes = churn(by["rules"], configurations["rules"], folder / "rules.json", options.requests)
        results.add("balancer.churn_failed", "ours", failed)
        results.print()
        print(f"# {requests} requests, {changes} changes")


main()
