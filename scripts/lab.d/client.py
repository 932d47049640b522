"""Runs one command in the lab host from the machine's side: input, output, signals, exit status, watchdog."""

import os
import select
import selectors
import signal
import socket
import termios
import tty
from contextlib import contextmanager

from channel import EXIT, SIGNAL, SIZE, STDERR, STDIN, STDOUT, Frames, Request, frame, number_frame, numbers
from host import Heartbeat, Running
from machine import LabError

CHUNK = 65536
FORWARDED = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


class HostLost(Exception):
    """The host stalled or ended under the command."""

    def __init__(self, why: str, input_read: bool) -> None:
        super().__init__(why)
        # Input that was passed on is gone: the command cannot be repeated with it.
        self.input_read = input_read


class OutputClosed(Exception):
    """Nobody reads the command's output any more."""


class Client:
    """One command on one connection."""

    def __init__(self, running: Running, request: Request, heartbeat: Heartbeat, stall_s: float) -> None:
        self._running = running
        self._request = request
        self._heartbeat = heartbeat
        self._stall_s = stall_s
        self._input_read = False

    def run(self) -> int:
        """The command's exit status, as a shell gives it."""
        address = ("127.0.0.1", self._running.port)
        try:
            with socket.create_connection(address, timeout=self._stall_s) as self._agent:
                self._agent.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._agent.sendall(self._request.encode())
                with caught_signals() as signals, raw_terminal(self._request.terminal is not None):
                    return self._converse(signals)
        except OSError as error:
            raise HostLost(f"the connection to the lab host broke ({error})", self._input_read) from error

    def _converse(self, signals: socket.socket) -> int:
        frames = Frames()
        poll = selectors.PollSelector()
        poll.register(self._agent, selectors.EVENT_READ, self._agent)
        poll.register(signals, selectors.EVENT_READ, signals)
        poll.register(0, selectors.EVENT_READ)
        while True:
            for key, _ in poll.select(timeout=1):
                if key.data is signals:
                    for number in signals.recv(64):
                        self._pass_signal(number)
                elif key.data is self._agent:
                    data = self._agent.recv(CHUNK)
                    if not data:
                        raise HostLost("the lab host ended", self._input_read)
                    frames.feed(data)
                elif not self._pass_input():
                    poll.unregister(0)
            for kind, payload in frames:
                if kind == EXIT:
                    return numbers(payload)[0]
                write_all({STDOUT: 1, STDERR: 2}[kind], payload)
            if self._heartbeat.still_s() > self._stall_s:
                raise HostLost(f"the lab host has stalled: no heartbeat for {self._stall_s:.0f} s", self._input_read)

    def _pass_signal(self, number: int) -> None:
        if number == signal.SIGWINCH:
            if self._request.terminal:
                self._agent.sendall(number_frame(SIZE, *termios.tcgetwinsize(1)))
        else:
            self._agent.sendall(number_frame(SIGNAL, number))

    def _pass_input(self) -> bool:
        data = os.read(0, CHUNK)
        self._input_read |= bool(data) and not self._request.terminal
        self._agent.sendall(frame(STDIN, data))
        return bool(data)


def write_all(fd: int, data: bytes) -> None:
    try:
        while data:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:  # somebody who shares our output made it so
                select.select([], [fd], [])
    except BrokenPipeError as error:
        raise OutputClosed from error
    except OSError as error:
        raise LabError(f"the command's output cannot be written: {error.strerror}") from error


@contextmanager
def caught_signals():
    """A socket that gives the number of each signal that the command is to get, while it runs."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    caught = [*FORWARDED, signal.SIGWINCH]
    before = {number: signal.signal(number, lambda *_: None) for number in caught}
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        with ours, theirs:
            yield ours
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def raw_terminal(wanted: bool):
    """Keys, Ctrl-C among them, go to the terminal in the lab as they are."""
    if not wanted:
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSAFLUSH, before)
