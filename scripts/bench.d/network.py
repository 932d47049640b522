"""A VPC with its whole policy beside a plain bridge without any. Called by scripts/bench network.

Three networks stand side by side, each with a client and a server in namespaces of their own: a bridge, a VPC of 10 interfaces and 50 rules, and one
of 1,000 and 5,000 (src/network/examples/fabric_bench.rs). In a VPC the two are in different subnets, so ACLs look at every packet as well. In
each round iperf3 sends by TCP through each for as long; every frame is up to 9,001 bytes, or 64 KiB where the kernel leaves segments whole.

The processor's time is all that the machine spent meanwhile, senders and receivers included, so run nothing else. Then rules of a group are changed,
one at a time, in the larger VPC, and its client asks for metadata, each time by a connection of its own.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measure import Results  # noqa: E402

EXAMPLES = Path(os.environ["NIMBO_EXAMPLES"])
MTU = 9001
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PATIENCE_S = 60


def run(*command: str | Path) -> str:
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def busy_s() -> float:
    """What the processors have worked since the machine's start."""
    user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system + irq + softirq) / TICKS_PER_S


class Bridge:
    """Client and server at the ends of two pairs of interfaces that a bridge joins, in a namespace of its own."""

    def __init__(self) -> None:
        prefix = f"nimbo-bench-{os.getpid()}"
        self.names = [f"{prefix}-{end}" for end in ("bridge", "client", "server")]
        self.server_address = "10.0.0.2"

    def __enter__(self) -> "Bridge":
        bridge, *ends = self.names
        for name in self.names:
            run("ip", "netns", "add", name)
        run("ip", "-n", bridge, "link", "add", "br0", "mtu", str(MTU), "type", "bridge")
        run("ip", "-n", bridge, "link", "set", "br0", "up")
        for number, end in enumerate(ends, 1):
            run("ip", "-n", end, "link", "add", "eth0", "mtu", str(MTU), "type", "veth", "peer", "name", f"port{number}", "netns", bridge)
            run("ip", "-n", bridge, "link", "set", f"port{number}", "mtu", str(MTU), "master", "br0", "up")
            run("ip", "-n", end, "addr", "add", f"10.0.0.{number}/24", "dev", "eth0")
            run("ip", "-n", end, "link", "set", "eth0", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            run("ip", "netns", "del", name)

    def pins(self) -> list[Path]:
        return [Path("/run/netns") / name for name in self.names[1:]]


class Vpc:
    """Ends, and is removed, with the program that made it."""

    def __init__(self, folder: Path, interfaces: int, rules: int):
        folder.mkdir()
        self.folder = folder
        self.server_address = "10.0.128.10"
        command = [EXAMPLES / "fabric_bench", folder, str(interfaces), str(rules)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Vpc":
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", f"the VPC is not ready: {line!r}"
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(PATIENCE_S) == 0

    def pins(self) -> list[Path]:
        return [self.folder / "client", self.folder / "server"]

    def change_ms(self) -> float:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline()) / 1000


def inside(pin: Path, *command: str) -> list[str]:
    return ["nsenter", f"--net={pin}", *command]


@contextlib.contextmanager
def listening(network: Bridge | Vpc) -> Iterator[None]:
    process = subprocess.Popen(inside(network.pins()[1], "iperf3", "--server"), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while ":5201" not in run(*inside(network.pins()[1], "ss", "--listening", "--tcp", "--numeric")):
            assert time.monotonic() < deadline, "iperf3 does not listen"
            time.sleep(0.01)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def measure(network: Bridge | Vpc, seconds: int) -> dict[str, float]:
    """In Gbit/s, and nanoseconds of processors for each KiB."""
    before = busy_s()
    client = inside(network.pins()[0], "iperf3", "--client", network.server_address, "--time", str(seconds), "--json")
    end = json.loads(run(*client))["end"]
    worked = busy_s() - before
    received = end["sum_received"]
    return {"throughput": received["bits_per_second"] / 1e9, "cpu": worked * 1e9 / (received["bytes"] / 1024)}


# The metric, what it is of, of whom, and beside whom.
METRICS = [
    ("network.throughput_vs_bridge", "throughput", "ten", "bridge"),
    ("network.cpu_per_byte_vs_bridge", "cpu", "ten", "bridge"),
    ("network.throughput_1000_vs_10", "throughput", "thousand", "ten"),
    ("network.cpu_per_byte_1000_vs_10", "cpu", "thousand", "ten"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds after the one that warms up (7)")
    parser.add_argument("--seconds", type=int, default=3, help="how long each sends in a round (3)")
    parser.add_argument("--requests", type=int, default=1000, help="requests for metadata (1000)")
    parser.add_argument("--changes", type=int, default=30, help="rules that are changed (30)")
    options = parser.parse_args()
    results = Results()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        large = Vpc(folder / "thousand", 1000, 5000)
        networks: dict[str, Bridge | Vpc] = {"bridge": Bridge(), "ten": Vpc(folder / "ten", 10, 50), "thousand": large}
        for network in networks.values():
            stack.enter_context(network)
        for network in networks.values():
            stack.enter_context(listening(network))
        # The first round only warms up.
        for round_number in range(options.rounds + 1):
            turn = round_number % len(networks)
            order = list(networks)[turn:] + list(networks)[:turn]
            found = {name: measure(networks[name], options.seconds) for name in order}
            for metric, what, ours, peer in METRICS if round_number else []:
                results.add(metric, "ours", found[ours][what])
                results.add(metric, "peer", found[peer][what])
        for number in range(options.changes + 1):
            took = large.change_ms()
            if number:
                results.add("network.rule_change_1000_ms", "ours", took)
        ask = inside(large.pins()[0], sys.executable, str(Path(__file__).with_name("metadata.py")), str(options.requests))
        for took in run(*ask).split():
            results.add("network.metadata_1000_ms", "ours", float(took))
    results.print()


main()
