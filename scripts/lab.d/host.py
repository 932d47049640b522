"""The lab host of a checkout: started once, shared by every command, watched through its heartbeat.

State is one folder, `nimbo-lab/HASH` under $XDG_RUNTIME_DIR or /run, where HASH stands for the checkout:

    lock          held while the host is started or ended
    state.json    what the running host is: a Running
    pid qmp       QEMU's process id and control socket
    heartbeat     READY, and two bytes a second while all of the host's processors run processes
    console.log   what the host's kernel and init printed
    taken-down    the token of the last host that was taken down on purpose
    forwards.json pairs of ports, forwarded again after a restart

A host is known by its token, a secret made at each start: whoever finds another token in state.json than
the one it worked with knows that somebody else has started the host again.
"""

import fcntl
import hashlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from channel import AGENT_PORT, READY
from machine import LabError, Qmp, initramfs, qemu_command

CPUS = 2
MEMORY = "6G"
BOOT_TIMEOUT_S = 120
# A start may stall or find its port taken: try again.
ATTEMPTS = 3


@dataclass
class Running:
    """A started host."""

    token: str
    port: int
    cpus: int
    memory: str
    boot_s: float


class Heartbeat:
    """Tells how long the heartbeat has been still, as seen by this watcher.

    By the watcher's own monotonic clock and not by the file's time, so that a machine that was suspended
    does not take its own absence for a stall.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beats = -1
        self._changed = time.monotonic()

    def still_s(self) -> float:
        try:
            beats = self._path.stat().st_size
        except FileNotFoundError:
            beats = 0
        if beats != self._beats:
            self._beats = beats
            self._changed = time.monotonic()
        return time.monotonic() - self._changed


class Host:
    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        runtime = os.environ.get("XDG_RUNTIME_DIR") or ("/run" if os.geteuid() == 0 else None)
        if not runtime:
            raise LabError("XDG_RUNTIME_DIR is not set: set it to a folder that only you can enter")
        name = hashlib.sha256(os.fsencode(checkout)).hexdigest()[:12]
        self.state = Path(runtime) / "nimbo-lab" / name
        self._kernel = checkout / ".cache/lab/kernel"
        self._forwards = self.state / "forwards.json"
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def locked(self):
        with open(self.state / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def running(self) -> Running | None:
        """The host that runs now, if its process does."""
        try:
            running = Running(**json.loads((self.state / "state.json").read_text()))
        except FileNotFoundError:
            return None
        return running if self._process() else None

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(self.state / "heartbeat")

    def ensure_up(self, cpus: int | None, memory: str | None, say) -> Running:
        """The running host, started if there is none. What is None does not matter to the caller."""
        with self.locked():
            if running := self.running():
                if cpus not in (None, running.cpus) or memory not in (None, running.memory):
                    say(f"uses the host that is up, of another size: {running.cpus} processors, {running.memory}")
                return running
            self._require_packages()
            for attempt in range(1, ATTEMPTS + 1):
                say("starting the lab host (a machine emulated by QEMU)")
                try:
                    running = self._start(cpus or CPUS, memory or MEMORY)
                    break
                except LabError as error:
                    self._end()
                    if attempt == ATTEMPTS:
                        raise
                    say(f"{error}; trying again")
            for ports in self._read_forwards():
                try:
                    self._add_forward(*ports)
                except LabError as error:
                    say(str(error))
            return running

    def end_lost(self, lost: Running) -> None:
        """End what is left of `lost`, unless somebody else did already and started the next."""
        with self.locked():
            running = self.running()
            if running and running.token == lost.token:
                self._end()

    def down(self) -> bool:
        """End the host; False when none ran."""
        with self.locked():
            running = self.running()
            if running:
                (self.state / "taken-down").write_text(running.token)
            self._end()
            self._forwards.unlink(missing_ok=True)
            return running is not None

    def was_taken_down(self, lost: Running) -> bool:
        """Whether somebody ended `lost` on purpose, so that what ran there is not to be repeated."""
        with self.locked():
            try:
                return (self.state / "taken-down").read_text() == lost.token
            except FileNotFoundError:
                return False

    def forward(self, port: int, lab_port: int) -> None:
        """Make the machine's 127.0.0.1:port reach 127.0.0.1:lab_port in the host, until it is taken down."""
        with self.locked():
            forwards = self._read_forwards()
            if [port, lab_port] not in forwards:
                self._add_forward(port, lab_port)
                self._forwards.write_text(json.dumps([*forwards, [port, lab_port]]))

    def _read_forwards(self) -> list[list[int]]:
        try:
            return json.loads(self._forwards.read_text())
        except FileNotFoundError:
            return []

    def _add_forward(self, port: int, lab_port: int) -> None:
        # QEMU has no QMP command for it, only this one of its human monitor, which answers errors as text.
        line = f"hostfwd_add net tcp:127.0.0.1:{port}-:{lab_port}"
        with self.qmp() as qmp:
            answer = qmp.execute("human-monitor-command", **{"command-line": line}).strip()
        if answer:
            raise LabError(f"port {port} cannot be forwarded to the lab: {answer}")

    def _require_packages(self) -> None:
        programs = ["qemu-system-x86_64", "busybox", "modprobe"]
        if not all(map(shutil.which, programs)) or not (self._kernel / "complete").exists():
            raise LabError("packages that the lab needs are missing: run scripts/deps")

    def _start(self, cpus: int, memory: str) -> Running:
        self._end()
        started = time.monotonic()
        token = secrets.token_hex(16)
        settings = {"token": token, "checkout": str(self.checkout), "kernel": str(self._kernel)}
        initrd = self.state / "initrd"
        initrd.touch(mode=0o600)
        initrd.write_bytes(initramfs(self._kernel, self.checkout / "scripts/lab.d/init", settings))
        port = unused_port()
        command = qemu_command(
            kernel=self._kernel, initrd=initrd, checkout=self.checkout, state=self.state,
            cpus=cpus, memory=memory, agent=(port, AGENT_PORT),
        )  # fmt: skip
        qemu = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/")
        if qemu.returncode != 0:
            raise LabError(f"QEMU did not start: {qemu.stderr.strip()}")
        with waiting("the lab host starts"):
            self._await_agent()
        boot_s = round(time.monotonic() - started, 1)
        running = Running(token=token, port=port, cpus=cpus, memory=memory, boot_s=boot_s)
        draft = self.state / "state.json.new"
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(asdict(running)))
        draft.rename(self.state / "state.json")
        return running

    def _await_agent(self) -> None:
        """Wait until the agent says on the heartbeat's port that it listens.

        A connection would not tell: QEMU accepts it at once and tries to pass it on every few seconds.
        """
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while READY not in (self.state / "heartbeat").read_bytes():
            if not self._process():
                raise LabError(f"the lab host ended while it started:\n{self.console_tail()}")
            if time.monotonic() > deadline:
                raise LabError(f"the lab host did not start in {BOOT_TIMEOUT_S} s:\n{self.console_tail()}")
            time.sleep(0.05)

    def console_tail(self, lines: int = 15) -> str:
        try:
            text = (self.state / "console.log").read_text(errors="replace")
        except FileNotFoundError:
            return "(no console output)"
        return "\n".join(text.splitlines()[-lines:])

    def _process(self) -> int | None:
        """QEMU's process id, if it lives and is ours: a number in an old file may be somebody else's."""
        try:
            pid = int((self.state / "pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if os.fsencode(self.state / "pid") in command.split(b"\0") else None

    def _end(self) -> None:
        """Kill QEMU: its host has no state worth an orderly end."""
        if pid := self._process():
            watch = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(watch, signal.SIGKILL)
                select.select([watch], [], [])
            except ProcessLookupError:
                pass
            finally:
                os.close(watch)
        for name in ("state.json", "pid", "qmp", "heartbeat", "initrd"):
            (self.state / name).unlink(missing_ok=True)

    def qmp(self) -> Qmp:
        return Qmp(self.state / "qmp")


@contextmanager
def waiting(what: str):
    """On a terminal, a line that counts the seconds."""
    over = threading.Event()

    def count() -> None:
        started = time.monotonic()
        while not over.wait(0.5):
            print(f"\rlab: {what} ... {time.monotonic() - started:.0f} s", end="", file=sys.stderr, flush=True)
        print("\r\033[K", end="", file=sys.stderr, flush=True)

    counter = threading.Thread(target=count)
    if sys.stderr.isatty():
        counter.start()
    try:
        yield
    finally:
        over.set()
        if counter.is_alive():
            counter.join()


def unused_port() -> int:
    """A port that nobody listens on. Another process may take it first: then QEMU says so and we try again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
