"""The commands that reach into a guest, on an instance of a region."""

import fcntl
import os
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest import PATIENCE_S, wait_until
from region import Instance
from server import nimbo
from test_region import image, instance, key, region  # noqa: F401


def options(instance: Instance) -> list[str]:  # noqa: F811
    return [instance.id, "--state", str(instance.region.state)]


def test_ssh_runs_a_command_and_gives_back_its_status(instance, key):  # noqa: F811
    instance.run("true")
    command = [os.environ["NIMBO"], "ssh", *options(instance), "--identity", str(key), "--", "echo hello; exit 7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (7, "hello\n"), done.stderr


def test_logs_are_what_the_guest_wrote(instance):  # noqa: F811
    instance.run("echo written > /dev/ttyS0")
    wait_until(lambda: "written" in nimbo("logs", *options(instance)).stdout, "what the guest wrote")


@pytest.fixture
def console(instance) -> Iterator[subprocess.Popen]:  # noqa: F811
    run = instance.region.folder / "run"
    command = [os.environ["NIMBO"], "console", *options(instance), "--run", str(run)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_console_shows_what_the_guest_writes_and_is_left(instance, console):  # noqa: F811
    instance.run("echo now-on-the-console > /dev/ttyS0")
    seen, end = b"", time.monotonic() + PATIENCE_S
    while b"now-on-the-console" not in seen:
        ready, _, _ = select.select([console.stdout], [], [], max(end - time.monotonic(), 0))
        assert ready, seen
        seen += os.read(console.stdout.fileno(), 1 << 16)
    console.send_signal(signal.SIGTERM)
    assert console.wait(PATIENCE_S) == 0
    assert instance.seen()["State"]["Name"] == "running"


@pytest.fixture
def typed(instance) -> Iterator[tuple[subprocess.Popen, int]]:  # noqa: F811
    """The console on a terminal, and what is typed at and seen on that."""
    run = instance.region.folder / "run"
    command = [os.environ["NIMBO"], "console", *options(instance), "--run", str(run)]
    ours, its = os.openpty()

    def control() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, start_new_session=True, preexec_fn=control)
    os.close(its)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def see(terminal: int, wanted: bytes) -> None:
    """Waits until that is on the terminal."""
    seen, end = b"", time.monotonic() + PATIENCE_S
    while wanted not in seen:
        ready, _, _ = select.select([terminal], [], [], max(end - time.monotonic(), 0))
        assert ready, seen
        seen += os.read(terminal, 1 << 16)


def test_what_is_typed_at_the_console_reaches_a_shell_and_a_key_leaves_it(instance, typed):  # noqa: F811
    process, terminal = typed
    see(terminal, b"press Ctrl-] to leave")
    os.write(terminal, b"\r")
    see(terminal, b"# ")
    # The shell's answer, and not the echo of what was typed.
    os.write(terminal, b"echo typed-$((40 + 2))\r")
    see(terminal, b"typed-42")
    # Ctrl-C is the guest's, and ends nothing but what runs there.
    os.write(terminal, b"sleep 1000\r")
    see(terminal, b"sleep 1000")
    wait_until(lambda: "sleep 1000" in instance.run("ps"), "what was typed runs")
    os.write(terminal, b"\x03echo after-$((40 + 3))\r")
    see(terminal, b"after-43")
    os.write(terminal, b"\x1d")
    see(terminal, b"left the console")
    assert process.wait(PATIENCE_S) == 0
    assert instance.seen()["State"]["Name"] == "running"


def test_status_counts_it(instance, tmp_path: Path):  # noqa: F811
    told = nimbo("status", "--state", str(instance.region.state)).stdout
    assert instance.id in told and "1 running" in told
