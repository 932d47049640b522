"""Tests of scripts/lab, on a lab host of their own."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "scripts/lab.d"))

from channel import STDERR, STDOUT, Frames, frame  # noqa: E402
from host import Heartbeat, Host, unused_port  # noqa: E402
from machine import cpio_entry  # noqa: E402


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment in which scripts/lab has a state folder, so a host, that nobody else uses."""
    runtime = tmp_path_factory.mktemp("runtime")
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
    yield environment
    subprocess.run([CHECKOUT / "scripts/lab", "down"], env=environment, check=True)


@pytest.fixture
def lab(environment):
    def run(*arguments: str, **options) -> subprocess.CompletedProcess:
        command = [CHECKOUT / "scripts/lab", "--memory", "1G", *arguments]
        options = {"stdin": subprocess.DEVNULL, "timeout": 300, **options}
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=CHECKOUT, **options)

    return run


@pytest.fixture
def start(environment):
    """Start a command and leave it running; end it with the test."""
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        command = [CHECKOUT / "scripts/lab", "--memory", "1G", *arguments]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=CHECKOUT)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def host(environment, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", environment["XDG_RUNTIME_DIR"])
    return Host(CHECKOUT)


def wait_until(condition, timeout_s: float = 120):
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.1)
    return result


def test_it_is_another_machine_with_kvm_and_the_same_files(lab):
    shown = lab("sh", "-c", "test -c /dev/kvm && cat /sys/module/kvm_amd/parameters/npt && pwd && uname -n")
    assert shown.stdout.split() == ["Y", str(CHECKOUT), "lab"]


def test_a_vm_is_held_so_that_others_rewrite_no_code_of_the_kernel(lab):
    assert "anon_inode:kvm-vcpu:0" in lab("ls", "-l", "/proc/1/fd").stdout


@pytest.mark.parametrize("script, status", [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137)])
def test_the_exit_status_is_the_commands(lab, script, status):
    assert lab("sh", "-c", script).returncode == status


def test_a_command_that_is_not_there_is_named(lab):
    result = lab("no-such-command")
    assert result.returncode == 127
    assert "no-such-command" in result.stderr


def test_output_and_errors_stay_apart(lab):
    result = lab("sh", "-c", "echo out; echo err >&2")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


def test_input_passes_whole_to_its_end(lab):
    text = "".join(f"line {n}\n" for n in range(200_000))
    assert lab("cat", stdin=None, input=text).stdout == text


def test_output_that_nobody_reads_ends_the_command_and_not_the_host(lab, host, environment):
    lab("true")
    running = host.running()
    pipeline = f"{CHECKOUT}/scripts/lab sh -c 'while echo y; do :; done' | head -n 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", pipeline], env=environment, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (141, "y\n")
    assert host.running() == running


def test_a_closed_input_is_an_empty_one(lab, environment):
    lab("true")
    command = f"{CHECKOUT}/scripts/lab cat <&-"
    result = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_standard_streams_have_their_names(lab):
    result = lab("sh", "-c", "cat /dev/stdin >/dev/stderr; echo out >/dev/stdout", stdin=None, input="in\n")
    assert (result.returncode, result.stdout, result.stderr) == (0, "out\n", "in\n")


def test_a_child_that_lives_on_does_not_hold_the_command(lab):
    assert lab("sh", "-c", "sleep 100 & echo done", timeout=30).stdout == "done\n"


def test_the_next_command_starts_within_two_seconds(lab):
    lab("true")
    before = time.monotonic()
    lab("true")
    assert time.monotonic() - before < 2


def test_files_changed_on_the_machine_are_seen_changed(lab, tmp_path):
    file = tmp_path / "file"
    assert lab("cat", str(file)).returncode != 0
    for text in ("first", "the second"):
        file.write_text(text)
        assert lab("cat", str(file)).stdout == text


def test_only_the_checkout_is_written_through(lab, tmp_path):
    outside, inside = tmp_path / "file", CHECKOUT / ".cache/lab/test-write"
    try:
        assert lab("sh", "-c", f"echo a >{outside} && echo b >{inside}").returncode == 0
        assert not outside.exists()
        assert inside.read_text() == "b\n"
    finally:
        inside.unlink(missing_ok=True)


def test_an_interrupt_reaches_the_command_and_its_answer_comes_back(start):
    process = start("sh", "-c", "trap 'echo caught; exit 42' INT; echo ready; while :; do sleep 0.1; done")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "caught\n"
    assert process.wait(timeout=30) == 42


def test_a_killed_client_takes_its_command_with_it(lab, start):
    process = start("sh", "-c", "echo ready; exec sleep 4711")
    assert process.stdout.readline() == "ready\n"
    process.kill()
    wait_until(lambda: lab("pgrep", "--full", "^sleep 4711").returncode == 1)


def test_a_forwarded_port_reaches_the_host(lab, start):
    port = unused_port()
    server = start("/usr/bin/python3", "-m", "http.server", "8099", "--bind", "127.0.0.1", "--directory", str(CHECKOUT))
    wait_until(lambda: lab("curl", "-so", "/dev/null", "localhost:8099/Cargo.toml").returncode == 0)
    assert lab("forward", str(port), "8099").returncode == 0
    assert lab("forward", str(port), "8099").returncode == 0, "it is there already"
    taken = lab("forward", str(port), "8098")
    assert taken.returncode == 125
    assert f"port {port} cannot be forwarded" in taken.stderr
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET /Cargo.toml HTTP/1.0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.0 200")
    assert server.poll() is None


def test_a_stalled_host_is_started_again_and_the_command_repeated(lab, start, host):
    lab("true")
    process = start("--stall", "5", "sh", "-c", "echo started; sleep 8; echo finished")
    assert process.stdout.readline() == "started\n"
    stalled = host.running()
    with host.qmp() as qmp:
        qmp.execute("stop")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert out == "started\nfinished\n"
    assert "the lab host has stalled: no heartbeat for 5 s; starting it again and repeating the command" in err
    assert host.running().token != stalled.token


def test_a_command_that_read_input_is_not_repeated(lab, start, host):
    lab("true")
    process = start("--stall", "5", "sh", "-c", "read line; echo $line; sleep 100")
    process.stdin.write("word\n")
    process.stdin.flush()
    assert process.stdout.readline() == "word\n"
    with host.qmp() as qmp:
        qmp.execute("stop")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 125
    assert "cannot be repeated" in err


def test_taking_the_host_down_ends_a_command_for_good(lab, start):
    process = start("sh", "-c", "echo ready; sleep 100")
    assert process.stdout.readline() == "ready\n"
    assert lab("down").returncode == 0
    _, err = process.communicate(timeout=30)
    assert process.returncode == 125
    assert "was taken down" in err
    assert lab("status").returncode == 1


def test_a_busy_host_has_not_stalled(lab):
    lab("true")
    # Thirty seconds of eight processes that only compute, under a limit a third of the usual one.
    busy = "for i in 1 2 3 4 5 6 7 8; do timeout 30 sh -c 'while :; do :; done' & done; wait; echo finished"
    result = lab("--stall", "30", "sh", "-c", busy)
    assert (result.stdout, result.stderr) == ("finished\n", "")


def test_a_heartbeat_is_still_only_while_nothing_is_added(tmp_path):
    file = tmp_path / "heartbeat"
    heartbeat = Heartbeat(file)
    heartbeat.still_s()
    time.sleep(0.2)
    assert heartbeat.still_s() >= 0.2
    file.write_bytes(b".")
    assert heartbeat.still_s() < 0.2


def test_frames_survive_being_cut_anywhere():
    sent = [(STDOUT, b"hello"), (STDERR, b""), (STDOUT, b"x" * 1000)]
    stream = b"".join(frame(kind, payload) for kind, payload in sent)
    for cut in range(len(stream) + 1):
        frames = Frames()
        frames.feed(stream[:cut])
        received = list(frames)
        frames.feed(stream[cut:])
        assert received + list(frames) == sent


def test_a_cpio_archive_unpacks_to_what_went_in(tmp_path):
    archive = cpio_entry("folder", 0o040755) + cpio_entry("folder/file", 0o100640, b"text") + cpio_entry("TRAILER!!!", 0)
    subprocess.run(["cpio", "--extract", "--quiet"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "folder/file").read_bytes() == b"text"
    assert (tmp_path / "folder/file").stat().st_mode == 0o100640
