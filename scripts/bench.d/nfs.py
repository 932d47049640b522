"""A file server beside nfs-ganesha with its VFS back end, over NFSv4.1. Called by scripts/bench nfs.

Both run all the time, on the same processor, of one folder each on the same disk; our load generator asks each of them in turn, on the other
processor. Processor time is the server's own, user's and kernel's.
"""

import argparse
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measure import Results  # noqa: E402

NIMBO, LOAD = os.environ["NIMBO"], os.environ["NFS_LOAD"]
GANESHA = Path(__file__).parent / "nfs.d" / "ganesha.conf"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PATIENCE_S = 30
SERVER_CPU, LOAD_CPU = "0", "1"
# As many connections as keep a server busy, and one.
BUSY, ALONE = 4, 1


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


@contextlib.contextmanager
def running(*command: str | Path) -> Iterator[int]:
    process = subprocess.Popen(["taskset", "-c", SERVER_CPU, *map(str, command)], stdout=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_S)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        assert time.monotonic() < deadline, f"nobody listens at {port}"
        time.sleep(0.05)


def load(pid: int, port: int, path: str, kind: str, seconds: int, connections: int) -> tuple[float, float]:
    """How much was answered for a second of the server's processor time, and the 99th percentile of the times in microseconds."""
    command = ["taskset", "-c", LOAD_CPU, LOAD, f"127.0.0.1:{port}", path, kind, str(seconds), str(connections)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == "ready\n"
        before = cpu_s(pid)
        process.stdin.write("\n")
        process.stdin.flush()
        count, _, _, p99_us = process.stdout.readline().split()
        spent_s = cpu_s(pid) - before
    return int(count) / spent_s, float(p99_us)


def measure(pid: int, port: int, path: str, seconds: int) -> dict[str, float]:
    mixed, _ = load(pid, port, path, "mixed", seconds, BUSY)
    read, _ = load(pid, port, path, "read", seconds, BUSY)
    write, _ = load(pid, port, path, "write", seconds, BUSY)
    _, p99_us = load(pid, port, path, "mixed", seconds, ALONE)
    return {
        "nfs.mixed_ops_per_cpu_s": mixed,
        "nfs.read_mib_per_cpu_s": read,
        "nfs.write_mib_per_cpu_s": write,
        "nfs.p99_qd1_us": p99_us,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench nfs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each load in each round")
    arguments = parser.parse_args()
    results = Results()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        places = {}
        for name in ("ours", "peer"):
            for part in ("files", "state"):
                (folder / name / part).mkdir(parents=True)
            places[name] = (folder / name / "files", folder / name / "state", free_port())
        files, state, port = places["ours"]
        ours = stack.enter_context(running(NIMBO, "nfs", "--export", files, "--state", state, "--listen", f"127.0.0.1:{port}"))
        files, state, peer_port = places["peer"]
        values = {"FILES": files, "STATE": state, "PORT": peer_port}
        text = re.sub(r"\b(FILES|STATE|PORT)\b", lambda word: str(values[word[0]]), GANESHA.read_text())
        (folder / "ganesha.conf").write_text(text)
        command = ["ganesha.nfsd", "-F", "-f", folder / "ganesha.conf", "-L", folder / "ganesha.log", "-p", folder / "ganesha.pid"]
        peer = stack.enter_context(running(*command))
        wait_for(port)
        wait_for(peer_port)
        results.alternate(
            arguments.rounds,
            {
                "ours": lambda: measure(ours, port, "/", arguments.seconds),
                "peer": lambda: measure(peer, peer_port, "/export", arguments.seconds),
            },
        )
    results.print()


if __name__ == "__main__":
    main()
