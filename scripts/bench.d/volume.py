"""A layered volume beside a raw file and a qcow2 overlay, all behind NBD. Called by scripts/bench volume.

In each round each of them is prepared, served on a Unix socket, and given the same by the same client (examples/nbd_bench.rs):
random reads of blocks that lie below the top, first writes to such blocks, both at depth 32, and single writes with a flush each. The peers
are served by qemu-nbd with direct I/O; `cached` is the raw file once more, through the page cache.

Snapshots are measured in process (examples/snapshot_bench.rs), beside restic's backup of a raw file of the same bytes with the same changes
to a repository on the same file system.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measure import Results  # noqa: E402

NIMBO = os.environ["NIMBO"]
EXAMPLES = Path(os.environ["NIMBO_EXAMPLES"])
BLOCK = 4096
PATIENCE_S = 30


def run(*command: str | Path) -> str:
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def disk_bytes(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_blocks * 512 for file in files)


@contextlib.contextmanager
def served(command: list[str], socket: Path) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not socket.exists():
            assert process.poll() is None, f"{command[0]} ended"
            assert time.monotonic() < deadline, f"{command[0]} does not listen"
            time.sleep(0.01)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        socket.unlink(missing_ok=True)


class Contestant:
    """What is served, in `folder`; `prepare` makes the next writes the first ones of their blocks where there is such a thing."""

    def __init__(self, name: str, folder: Path, base: Path):
        self.name, self.folder, self.socket = name, folder, folder / f"{name}.sock"
        self.written = folder / f"{name}.raw"
        shutil.copy(base, self.written)

    def prepare(self) -> None:
        pass

    def command(self) -> list[str]:
        cache = ["--cache=writeback", "--aio=io_uring"] if self.name == "cached" else ["--cache=none", "--aio=native"]
        image = ["--format=raw", str(self.written)]
        return ["qemu-nbd", "--persistent", "--shared=2", f"--socket={self.socket}", "--export-name=disk", *cache, *image]

    def measure(self, counts: argparse.Namespace, seed: int) -> dict[str, float]:
        self.prepare()
        # What the others have left to be written is not this one's.
        os.sync()
        before = disk_bytes(self.written)

        def work(what: str, count: int) -> float:
            return float(run(EXAMPLES / "nbd_bench", self.socket, "disk", what, str(count), str(seed)))

        with served(self.command(), self.socket):
            found = {"randread": counts.reads / work("read", counts.reads), "firstwrite": counts.writes / work("write", counts.writes)}
            os.sync()
            found["space"] = (disk_bytes(self.written) - before) / (counts.writes * BLOCK)
            found["flush"] = work("flush", counts.flushes) * 1e6
        return found


class Qcow2(Contestant):
    """An overlay that is new each time."""

    def __init__(self, name: str, folder: Path, base: Path):
        super().__init__(name, folder, base)
        self.base, self.written = self.written, folder / "overlay.qcow2"

    def prepare(self) -> None:
        self.written.unlink(missing_ok=True)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", self.base, "-F", "raw", self.written)

    def command(self) -> list[str]:
        return [word.replace("--format=raw", "--format=qcow2") for word in super().command()]


class Ours(Contestant):
    """A volume whose top is sealed before each round."""

    def __init__(self, name: str, folder: Path, base: Path):
        self.name, self.socket, self.written = name, folder / "ours.sock", folder / "volume"
        run(NIMBO, "volume", "import", self.written, base)

    def prepare(self) -> None:
        run(EXAMPLES / "nbd_bench", "seal", self.written)

    def command(self) -> list[str]:
        return [NIMBO, "volume", "serve", f"disk={self.written}", "--nbd", f"unix:{self.socket}"]

    def map_mib_per_tib(self, size_bytes: int) -> float:
        return json.loads(run(NIMBO, "volume", "info", self.written, "--json"))["map_bytes"] / size_bytes * (1 << 20)


# The metric, what it is of a contestant, and beside whom.
METRICS = [
    ("volume.randread_vs_raw", "randread", "raw"),
    ("volume.randread_vs_cached_raw", "randread", "cached"),
    ("volume.randread_vs_qcow2", "randread", "qcow2"),
    ("volume.firstwrite_vs_raw", "firstwrite", "raw"),
    ("volume.firstwrite_vs_cached_raw", "firstwrite", "cached"),
    ("volume.firstwrite_vs_qcow2", "firstwrite", "qcow2"),
    ("volume.space_factor", "space", "qcow2"),
    ("volume.flush_vs_raw", "flush", "raw"),
    ("volume.flush_vs_cached_raw", "flush", "cached"),
]


def measure_served(counts: argparse.Namespace) -> None:
    results = Results()
    with tempfile.TemporaryDirectory(dir=counts.folder) as name:
        folder = Path(name)
        size_bytes = counts.size_mib << 20
        base = folder / "base.raw"
        with base.open("wb") as file:
            for _ in range(counts.size_mib):
                file.write(os.urandom(1 << 20))
        contestants = [
            Contestant("raw", folder, base), Qcow2("qcow2", folder, base), Contestant("cached", folder, base), Ours("ours", folder, base),
        ]  # fmt: skip
        base.unlink()
        # The first round only warms up.
        for round_number in range(counts.rounds + 1):
            turn = round_number % len(contestants)
            order = contestants[turn:] + contestants[:turn]
            found = {contestant.name: contestant.measure(counts, round_number + 1) for contestant in order}
            if round_number == 0:
                results.add("volume.map_mib_per_tib", "ours", contestants[-1].map_mib_per_tib(size_bytes))
                continue
            for metric, what, peer in METRICS:
                results.add(metric, "ours", found["ours"][what])
                results.add(metric, "peer", found[peer][what])
    results.print()


class Snapshots:
    """A volume of 1 GiB and one of 64 GiB that begins with the same bytes, each with a store, and a raw file of those bytes with a restic repository."""

    def __init__(self, folder: Path):
        self.folder, self.raw, self.repository = folder, folder / "snapshot.raw", folder / "restic"
        self.environment = os.environ | {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(folder / "restic-cache")}
        with self.raw.open("wb") as file:
            for _ in range(1024):
                file.write(os.urandom(1 << 20))
        for gib in (1, 64):
            run(EXAMPLES / "snapshot_bench", "make", self.volume(gib), self.raw, str(gib), self.store(gib))
        self.restic("init")
        self.restic("backup", str(self.raw))

    def volume(self, gib: int) -> Path:
        return self.folder / f"snapshot-{gib}"

    def store(self, gib: int) -> Path:
        return self.folder / f"objects-{gib}"

    def restic(self, *command: str) -> float:
        started = time.monotonic()
        subprocess.run(["restic", "--quiet", "--repo", str(self.repository), *command], check=True, env=self.environment)
        return (time.monotonic() - started) * 1e3

    def snapshot(self, gib: int) -> float:
        return float(run(EXAMPLES / "snapshot_bench", "snapshot", self.volume(gib), self.store(gib)).split()[1])

    def measure(self, seed: int, results: Results, keep: bool) -> None:
        """10 MiB of changes to all, and then a snapshot of each in turn."""
        run(EXAMPLES / "snapshot_bench", "change", str(seed), self.raw, self.volume(1), self.volume(64))
        steps = {"small": lambda: self.snapshot(1), "large": lambda: self.snapshot(64), "restic": lambda: self.restic("backup", str(self.raw))}
        names = list(steps)
        took = {}
        for name in names[seed % 3 :] + names[: seed % 3]:
            # What the others have left to be written is not this one's.
            os.sync()
            took[name] = steps[name]()
        if keep:
            results.add("volume.snapshot_vs_restic", "ours", took["small"])
            results.add("volume.snapshot_vs_restic", "peer", took["restic"])
            results.add("volume.snapshot_64g_vs_1g", "ours", took["large"])
            results.add("volume.snapshot_64g_vs_1g", "peer", took["small"])

    def first_read(self, gib: int) -> float:
        """From the name of a snapshot of 1 GiB to the first bytes of a volume of so many GiB made from it, in ms."""
        name = next((self.store(1) / "snapshots").glob("*/*"))
        restored = self.folder / "restored"
        os.sync()
        took = run(EXAMPLES / "snapshot_bench", "restore", f"{name.parent.name}-{name.name}", str(gib), restored, self.store(1))
        shutil.rmtree(restored)
        return float(took)


def measure_snapshots(rounds: int, parent: str) -> None:
    results = Results()
    with tempfile.TemporaryDirectory(dir=parent) as name:
        snapshots = Snapshots(Path(name))
        # The first round only warms up.
        for round_number in range(rounds + 1):
            snapshots.measure(round_number + 1, results, round_number > 0)
        for round_number in range(rounds + 1):
            for metric, gib in [("1g", 1), ("1t", 1 << 10), ("64t", 64 << 10)]:
                took = snapshots.first_read(gib)
                if round_number > 0:
                    results.add(f"volume.restore_first_read_ms_{metric}", "ours", took)
    results.print()


def measure_engine(folder: str) -> None:
    """In one process and without NBD, beside a raw file that uses the page cache as well: medians as the program prints them."""
    *lines, cipher = run(EXAMPLES / "volume_bench", folder).splitlines()[1:]
    for line in lines:
        metric, ours, peer, ratio = line.split()
        print(f"volume.engine_{metric}", ours, peer, ratio, flush=True)
    print(cipher, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds after the one that warms up (7)")
    parser.add_argument("--size-mib", type=int, default=1024, help="size of the disks, a power of two (1024)")
    parser.add_argument("--reads", type=int, default=50_000, help="random reads in a round (50000)")
    parser.add_argument("--writes", type=int, default=20_000, help="first writes in a round (20000)")
    parser.add_argument("--flushes", type=int, default=500, help="flushes in a round (500)")
    parser.add_argument("--folder", default="/var/tmp", help="where the disks are (/var/tmp)")
    options = parser.parse_args()
    measure_served(options)
    measure_engine(options.folder)
    measure_snapshots(options.rounds, options.folder)


main()
