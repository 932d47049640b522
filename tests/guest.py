"""A guest under `nimbo run`, as a user has it: its console, its control socket, its published ports."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

NIMBO = os.environ.get("NIMBO", "nimbo")
# An emulated machine does in seconds what hardware does in milliseconds.
PATIENCE_S = 120.0
# What a kernel writes when the lab's emulated processor delivers an event at the first instruction of the system call entry, where
# interrupts are masked and the stack is still the user's. Nothing that runs a guest can cause that, so nothing else is taken for it.
EMULATOR_FAULT = re.compile(r"double fault(?:(?!RIP:)(?s:.))*RIP: 0010:entry_SYSCALL_64\+0x0/")


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> object:
    """What `condition` returns once that is true; fails when it is not for `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Thread:
    """A thread of the microVM's process, as it was when it was looked at."""

    def __init__(self, folder: Path):
        lines = (folder / "status").read_text().splitlines()
        self.status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.name = self.status["Name"]


class Guest:
    """One `nimbo run` process. Its console is collected from the first byte on."""

    def __init__(self, *arguments: str, folder: Path, command: list[str] | None = None):
        """`command` is another program that runs a guest with its console on the standard streams."""
        self.control_path = folder / "control"
        self._command = command or [NIMBO, "run", "--control", str(self.control_path), *arguments]
        self._more = threading.Condition()
        self._commands = 0
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._text = bytearray()
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def _collect(self) -> None:
        assert self.process.stdout
        while piece := os.read(self.process.stdout.fileno(), 65536):
            with self._more:
                self._text += piece
                self._more.notify_all()

    @property
    def console(self) -> str:
        with self._more:
            return self._text.decode(errors="replace")

    def wait_for(self, pattern: str, *, seconds: float = PATIENCE_S, after: int = 0) -> re.Match[str]:
        """The first match of `pattern` on the console behind its character `after`."""
        deadline = time.monotonic() + seconds
        expression = re.compile(pattern)
        while True:
            text = self.console
            if found := expression.search(text, after):
                return found
            if self.process.poll() is not None:
                # What it printed last may still be on its way to us.
                self._reader.join(5)
                if found := expression.search(self.console, after):
                    return found
                raise AssertionError(f"the guest ended before /{pattern}/ came:\n{text[-3000:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"/{pattern}/ did not come in {seconds:.0f} s: {self._standing()}\n{text[-3000:]}")
            with self._more:
                self._more.wait(0.5)

    def wait_for_boot(self, pattern: str, *, seconds: float = PATIENCE_S) -> re.Match[str]:
        """As `wait_for`, of what the guest prints when its boot is through; in the lab a guest that the emulator broke is booted once more."""
        if os.environ.get("NIMBO_LAB") != "1":
            return self.wait_for(pattern, seconds=seconds)
        found = self.wait_for(f"{pattern}|{EMULATOR_FAULT.pattern}", seconds=seconds)
        if not EMULATOR_FAULT.fullmatch(found[0]):
            return found
        print(f"the emulator broke the guest, which is booted once more; its console:\n{self.console[-3000:]}", flush=True)
        self.end()
        self._start()
        return self.wait_for(pattern, seconds=seconds)

    def type(self, text: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def run(self, command: str, *, seconds: float = PATIENCE_S) -> str:
        """Runs a command in the shell on the console and returns what it printed; fails when it fails.

        Others write to the console too, such as the kernel: what the command prints is marked line by line.
        """
        self._commands += 1
        mark = f"out {os.getpid()}-{self._commands}:"
        start = len(self.console)
        # The mark is written apart, so that the echo of the line does not match it.
        marked = f"sed 's/^/ou''t {mark.removeprefix('out ')}/'"
        self.type(f"{{ {{ {command}\n}} 2>&1; printf '\\nstatus %d\\n' $?; }} | {marked}\n")
        end = self.wait_for(rf"{mark}status (\d+)\r?\n", seconds=seconds, after=start)
        lines = re.findall(rf"{mark}(.*?)\r?\n", end.string[start : end.start()])
        output, status = "\n".join(lines).strip(), int(end[1])
        assert status == 0, f"{command}: exit status {status}: {output}"
        return output

    def login(self) -> None:
        """Wakes the shell on the console of a tiny guest."""
        self.wait_for_boot(r"nimbo-init: ready in \d+ ms")
        self.type("\n")
        self.run("true")

    def control(self, method: str, path: str, body: object = None, fds: tuple[int, ...] = ()) -> object:
        """One request to the control socket."""
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: vm\r\nConnection: close\r\n"
        if content or method in ("POST", "PUT"):
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(str(self.control_path))
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            connection.sendmsg([head.encode() + b"\r\n" + content], rights)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        assert answer, f"{method} {path}: no answer; the console ends with: {self.console[-500:]}"
        status_line, _, rest = answer.partition(b"\r\n")
        text = rest.partition(b"\r\n\r\n")[2]
        status = int(status_line.split()[1])
        assert status < 400, f"{method} {path}: {status}: {text.decode()}"
        return json.loads(text) if text else None

    def _standing(self) -> str:
        """What the machine and its CPUs do, for the message of a test that waits in vain."""
        if not self.control_path.exists():
            return "it has no control socket"
        state, before = (self.control("GET", f"/v1/{what}") for what in ("machine", "counters"))
        time.sleep(1)
        after = self.control("GET", "/v1/counters")
        return f"{state}, CPUs {before['vcpus']} and a second later {after['vcpus']}"

    @property
    def machine_process(self) -> Path:
        """The folder in /proc of the microVM's process, which is the child of `nimbo run`."""
        run = self.process.pid
        children = Path(f"/proc/{run}/task/{run}/children").read_text().split()
        assert len(children) == 1, children
        return Path("/proc") / children[0]

    def threads(self) -> list[Thread]:
        return [Thread(folder) for folder in (self.machine_process / "task").iterdir()]

    def device(self, identity: str) -> dict | None:
        devices = self.control("GET", "/v1/devices")["devices"]
        return next((device for device in devices if device["id"] == identity), None)

    def wait_end(self, seconds: float = PATIENCE_S) -> int:
        """The exit status of `nimbo run`."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the guest did not end in {seconds:.0f} s: {self._standing()}\n{self.console[-3000:]}"
            ) from None
        self._reader.join(5)
        return status

    def end(self) -> None:
        """Ends it, in whatever state it is: the first signal asks the guest, the second one does not."""
        deadline = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < deadline:
            self.process.send_signal(signal.SIGTERM)
            # Two signals at once are one.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)
        self.process.kill()
        self.process.wait()
        self._reader.join(5)


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[Guest]:
    """A guest that has ended when the block is left."""
    with tempfile.TemporaryDirectory(prefix="nimbo-test-") as folder:
        guest = Guest(*arguments, folder=Path(folder))
        try:
            yield guest
        finally:
            guest.end()


def fetch(port: int, path: str = "/", seconds: float = 10, host: str = "127.0.0.1") -> str | None:
    """A page, by default at a published port; None while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=seconds) as answer:
            return answer.read().decode()
    except OSError:
        return None


class tap:
    """A tap of this name, with one queue, for as long as the block runs."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> int:
        set_interface, set_header_size = 0x400454CA, 0x400454D8
        tap_type, no_information, virtio_header = 0x0002, 0x1000, 0x4000
        self.descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        flags = tap_type | no_information | virtio_header
        fcntl.ioctl(self.descriptor, set_interface, struct.pack("16sH22x", self.name.encode(), flags))
        fcntl.ioctl(self.descriptor, set_header_size, struct.pack("i", 12))
        return self.descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)
