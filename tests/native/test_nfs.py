"""A folder as a network file system, with Linux's own client."""

import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from linux_client import OPTIONS, LinuxClient

NIMBO = os.environ["NIMBO"]
TIMEOUT_S = 120


class Server:
    """`nimbo nfs` of a folder, which can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.files, self.state = folder / "files", folder / "state"
        self.files.mkdir()
        self.files.chmod(0o755)
        self.port = 0
        self.start()

    def start(self) -> None:
        command = [NIMBO, "nfs", "--export", self.files, "--state", self.state, "--listen", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.port = int(self.process.stdout.readline().rpartition(":")[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=TIMEOUT_S)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=TIMEOUT_S) == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.end()


@contextmanager
def linux(server: Server, name: str, script: str, options: str = OPTIONS) -> Iterator[LinuxClient]:
    folder = server.files.parent / name
    folder.mkdir()
    client = LinuxClient(folder, server.port, script, options)
    try:
        yield client
    finally:
        client.end()


def wait_for(condition: Path, what: LinuxClient) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition.exists():
        assert time.monotonic() < deadline, what.output()
        time.sleep(0.05)


def test_linux_mounts_it_and_does_what_one_does_with_files(server: Server) -> None:
    (server.files / "from-the-host").write_text("hello\n")
    script = """
    grep -q 'vers=4.1,rsize=1048576,wsize=1048576' /proc/mounts
    test "$(cat from-the-host)" = hello
    echo one > a; echo two >> a; test "$(cat a)" = $'one\\ntwo'
    mv a b; test ! -e a; ln b c; test "$(stat -c %h b)" = 2; ln -s b l; test "$(readlink l)" = b; cat l
    chown 1000:100 b; chmod 4751 b; touch -d @1000 b; test "$(stat -c '%a %u %g %Y' b)" = '4751 1000 100 1000'
    truncate -s 1G sparse; test "$(stat -c '%s' sparse)" = 1073741824; test "$(stat -c %b sparse)" = 0; rm sparse
    mkdir -p deep/er; cp -r /etc/apt deep/er/; diff -r /etc/apt deep/er/apt
    mkdir many; (cd many; for i in $(seq 300); do : > f$i; done); test "$(ls many | wc -l)" = 300
    mkfifo pipe; test -p pipe
    flock b true
    head -c 20000000 /dev/urandom > big; sync big; cp big copy; echo 3 > /proc/sys/vm/drop_caches; cmp big copy
    exec 5<>open; rm open; echo unnamed >&5; cat /proc/self/fd/5; exec 5>&-
    test "$(ls -a | grep -c nfs0)" = 0
    df . | grep -q 10.0.2.2
    rm -r deep many pipe copy
    """
    with linux(server, "one", script) as client:
        client.wait(TIMEOUT_S)
    names = {path.name for path in server.files.iterdir()}
    assert names == {"from-the-host", "b", "c", "l", "big"}
    assert (server.files / "b").stat().st_uid == 1000


def test_a_client_that_asks_for_no_version_gets_4_1(server: Server) -> None:
    with linux(server, "one", "grep nfs4 /proc/mounts; echo hello > a", options="defaults") as client:
        assert "vers=4.1,rsize=1048576,wsize=1048576" in client.wait(TIMEOUT_S)


def test_users_are_themselves(server: Server) -> None:
    (server.files / "private").write_text("secret")
    (server.files / "private").chmod(0o600)
    script = """
    as() { setpriv --reuid "$1" --regid "$1" --clear-groups -- bash -c "$2"; }
    fails as 1000 'cat private'
    fails as 1000 'touch mine'
    mkdir shared; chmod 1777 shared
    as 1000 'echo mine > shared/mine'
    fails as 2000 'rm -f shared/mine'
    fails as 2000 'echo x >> shared/mine'
    as 2000 'cat shared/mine'
    fails setpriv --reuid 3000 --regid 3000 --groups 1000 -- bash -c 'echo x >> shared/mine'
    as 1000 'chmod 664 shared/mine'
    setpriv --reuid 3000 --regid 3000 --groups 1000 -- bash -c 'echo x >> shared/mine'
    """
    with linux(server, "one", script) as client:
        client.wait(TIMEOUT_S)
    mine = server.files / "shared" / "mine"
    assert (mine.read_text(), mine.stat().st_uid) == ("mine\nx\n", 1000)


def test_a_server_that_is_killed_and_started_again_loses_nothing(server: Server) -> None:
    writer = """
    exec 9> lock; flock -n 9
    for i in $(seq 200); do
        echo "$i" >> lines; sync lines
        : > "mark-$i"
        [ -e stop ] && break
    done
    while [ ! -e checked ]; do sleep 0.1; done
    flock -u 9
    """
    with ExitStack() as stack:
        one = stack.enter_context(linux(server, "one", writer))
        for mark in ("mark-5", "mark-40", "mark-80"):
            wait_for(server.files / mark, one)
            server.kill()
            server.start()
        wait_for(server.files / "mark-90", one)
        # The lock that was taken before is still its own: another client does not get it.
        two = stack.enter_context(linux(server, "two", "fails flock -n lock true; : > checked; flock -w 60 lock true"))
        wait_for(server.files / "mark-200", one)
        one.wait(TIMEOUT_S)
        two.wait(TIMEOUT_S)
    assert (server.files / "lines").read_text().split() == [str(number) for number in range(1, 201)]


def test_what_one_has_closed_the_other_opens_as_it_is(server: Server) -> None:
    for name in ("value", "seen"):
        (server.files / name).touch()
    one = """
    for i in $(seq 20); do
        echo "$i" > value
        until [ "$(cat seen)" = "$i" ]; do sleep 0.02; done
    done
    """
    two = """
    for i in $(seq 20); do
        until [ "$(cat value)" = "$i" ]; do sleep 0.02; done
        echo "$i" > seen
    done
    """
    with linux(server, "one", one) as first, linux(server, "two", two) as second:
        first.wait(TIMEOUT_S)
        second.wait(TIMEOUT_S)


def words(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def call(connection: socket.socket, *operation: bytes) -> bytes:
    """The result of a compound of one operation, by AUTH_NONE."""
    record = words(1, 0, 2, 100003, 4, 1, 0, 0, 0, 0) + words(0, 1, 1) + b"".join(operation)
    connection.sendall(words(1 << 31 | len(record)) + record)
    (mark,) = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))
    answer = connection.recv(mark & 0x7FFFFFFF, socket.MSG_WAITALL)
    # After the head of RPC's, the status, the tag, the count, and the operation with its own status.
    assert answer[24:28] == words(0), answer
    return answer[44:]


def test_a_thousand_idle_clients_take_little_memory(server: Server) -> None:
    channel = words(0, 1 << 20, 1 << 20, 4096, 16, 64, 0)
    with ExitStack() as stack:
        for number in range(1000):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S))
            result = call(connection, words(42), bytes(8), words(4, number), words(0, 0, 0))
            call(connection, words(43), result[:12], words(0), channel, channel, words(1 << 30, 1, 0))
        status = Path(f"/proc/{server.process.pid}/status").read_text()
    resident_kib = int(status.partition("VmRSS:")[2].split()[0])
    assert resident_kib < 128 << 10, f"{resident_kib} KiB"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--export", "{folder}/none"], "none"),
        (["--export", "{folder}/file"], "file"),
        (["--export", "{folder}", "--state", "{folder}/state"], "clients could change it"),
        (["--export", "{folder}", "--state", "{folder}/file"], "file"),
        (["--export", "{folder}", "--state", "{folder}-state", "--listen", "192.0.2.1:2049"], "192.0.2.1:2049"),
    ],
)
def test_what_cannot_be_served_is_told(arguments: list[str], said: str, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "file").write_text("")
    command = [NIMBO, "nfs", *(argument.format(folder=folder) for argument in arguments)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert outcome.returncode == 1
    assert said in outcome.stderr, outcome.stderr
