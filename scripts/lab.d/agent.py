"""The lab host's first process after its start: accepts connections, runs one command for each.

Each connection is served by a process of its own, so a command shares nothing with another, and this
one only accepts and reaps. It runs with the machine's own Python and nothing else.
"""

import fcntl
import hmac
import os
import queue
import selectors
import signal
import socket
import subprocess
import sys
import termios
import threading

from channel import AGENT_PORT, EXIT, READY, SIGNAL, SIZE, STDERR, STDIN, STDOUT
from channel import Frames, Request, frame, number_frame, numbers

CHUNK = 65536
HANGUP_GRACE_S = 5

# linux/kvm.h
KVM_CREATE_VM = 0xAE01
KVM_CREATE_IRQCHIP = 0xAE60
KVM_CREATE_VCPU = 0xAE41


def main() -> None:
    with open("/run/lab.conf") as conf:
        settings = dict(line.rstrip("\n").split("=", 1) for line in conf)
    signal.signal(signal.SIGCHLD, reap)
    hold_a_vm()
    with socket.create_server(("", AGENT_PORT), backlog=128) as listener:
        with open("/dev/ttyS1", "wb") as heartbeat:
            heartbeat.write(READY)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                try:
                    serve(connection, settings["token"])
                except OSError as error:
                    print(f"lab agent: {error}", file=sys.stderr, flush=True)
                os._exit(0)
            connection.close()


def hold_a_vm() -> None:
    """Keep one VM and its vCPU for as long as the host is up, without running it.

    KVM rewrites instructions of the scheduler and of the local APIC when the first VM comes and when the last
    one goes: they are jump labels. QEMU before 8.1 may translate such an instruction while another processor
    rewrites it, and then executes the breakpoint that stood there in between for ever: the host stalls. With
    a VM that stays, nothing is rewritten when others come and go.
    """
    kvm = os.open("/dev/kvm", os.O_RDWR)
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    fcntl.ioctl(vm, KVM_CREATE_IRQCHIP)
    fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)


def reap(_signal, _frame) -> None:
    """Collect every child that ended: ours, and the orphans that a first process inherits."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def serve(connection: socket.socket, token: str) -> None:
    with connection.makefile("rb", buffering=0) as lines:
        request = Request.decode(lines.readline(1 << 24))
    if not hmac.compare_digest(request.token, token):
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    forget_unused_files()
    try:
        session = Session(connection, request)
    except OSError as error:
        # As a shell answers: 127 for what is not there, 126 for what does not execute.
        connection.sendall(frame(STDERR, f"lab: {error.filename or request.argv[0]}: {error.strerror}\n".encode()))
        connection.sendall(number_frame(EXIT, 127 if isinstance(error, FileNotFoundError) else 126))
        return
    session.run()


def forget_unused_files() -> None:
    """Have the kernel ask the machine again for every file that is not open, since it may have changed there.

    Twice: the overlay's entries hold those of the share below it, and the share's turn may come first.
    """
    for _ in range(2):
        with open("/proc/sys/vm/drop_caches", "w") as drop:
            drop.write("2")


class Session:
    """A running command and its connection.

    One loop moves output, signals and the exit; only input has a thread, because a command may leave it
    unread. What waits there is not bounded, so that a signal sent behind it still arrives.
    """

    def __init__(self, connection: socket.socket, request: Request) -> None:
        self._connection = connection
        self._frames = Frames()
        self._input: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._terminal: int | None = None
        if request.terminal:
            self._start_on_terminal(request)
        else:
            self._start_on_pipes(request)
        threading.Thread(target=self._write_input, daemon=True).start()

    def _start_on_terminal(self, request: Request) -> None:
        self._terminal, theirs = os.openpty()
        termios.tcsetwinsize(theirs, request.terminal)
        self._process = subprocess.Popen(
            request.argv, cwd=request.cwd, env=request.env, stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._stdin = self._terminal
        self._outputs = {self._terminal: STDOUT}

    def _start_on_pipes(self, request: Request) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            request.argv, cwd=request.cwd, env=request.env, stdin=pipe, stdout=pipe, stderr=pipe,
            start_new_session=True,
        )
        self._stdin = self._process.stdin.fileno()
        self._outputs = {self._process.stdout.fileno(): STDOUT, self._process.stderr.fileno(): STDERR}

    def run(self) -> None:
        exited = os.pidfd_open(self._process.pid)
        poll = selectors.PollSelector()
        for source in (self._connection, exited, *self._outputs):
            poll.register(source, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in poll.select()}
            self._forward(poll, ready)
            if self._connection.fileno() in ready and not self._receive():
                return self._hang_up()
            if exited in ready:
                break
        # What was written before the exit still counts. A child that lives on and holds the pipe does not
        # keep the command from being over.
        poll.unregister(self._connection)
        poll.unregister(exited)
        while self._outputs and (ready := {key.fd for key, _ in poll.select(timeout=0)}):
            self._forward(poll, ready)
        status = self._process.wait()
        self._connection.sendall(number_frame(EXIT, status if status >= 0 else 128 - status))

    def _forward(self, poll: selectors.BaseSelector, ready: set[int]) -> None:
        """Send a piece from each output that has one; forget the ones that ended."""
        for fd in self._outputs.keys() & ready:
            try:
                data = os.read(fd, CHUNK)
            except OSError:  # EIO: nobody holds the other side of the terminal any more
                data = b""
            if data:
                self._connection.sendall(frame(self._outputs[fd], data))
            else:
                poll.unregister(fd)
                del self._outputs[fd]

    def _receive(self) -> bool:
        """Take what the client sent; False when it hung up."""
        try:
            data = self._connection.recv(CHUNK)
        except ConnectionError:
            return False
        self._frames.feed(data)
        for kind, payload in self._frames:
            if kind == STDIN:
                self._input.put(payload)
            elif kind == SIGNAL:
                self._signal(numbers(payload)[0])
            elif kind == SIZE and self._terminal is not None:
                termios.tcsetwinsize(self._terminal, numbers(payload))
        return bool(data)

    def _write_input(self) -> None:
        try:
            while data := self._input.get():
                while data:
                    data = data[os.write(self._stdin, data) :]
        except OSError:
            return  # the command closed its input or ended
        if self._terminal is None:
            self._process.stdin.close()

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def _hang_up(self) -> None:
        self._signal(signal.SIGHUP)
        try:
            self._process.wait(HANGUP_GRACE_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)


if __name__ == "__main__":
    main()
