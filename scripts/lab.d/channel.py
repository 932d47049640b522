"""The channel between scripts/lab and the agent in the lab host: one TCP connection for each command.

The client sends one line of JSON, a Request; then both send frames:

    kind (1 byte) | length (4 bytes, big-endian) | payload

    STDIN   client → agent  bytes for the command; an empty one is end of file
    SIGNAL  client → agent  a signal number, for the command's process group
    SIZE    client → agent  rows and columns of the terminal
    STDOUT  agent → client  bytes that the command wrote
    STDERR  agent → client  the same
    EXIT    agent → client  the command's exit status as a shell gives it; the last frame

An agent that closes the connection without EXIT died or did not accept the token. A client that closes it
early hangs up: the command gets SIGHUP, and SIGKILL when that does not end it.
"""

import json
import struct
from dataclasses import asdict, dataclass

STDIN, SIGNAL, SIZE, STDOUT, STDERR, EXIT = range(6)
AGENT_PORT = 7100
# What the agent writes to the heartbeat's serial port when it accepts connections.
READY = b"R"
HEADER = struct.Struct(">BI")


@dataclass
class Request:
    token: str
    argv: list[str]
    cwd: str
    env: dict[str, str]
    # (rows, columns) when the command is to have a terminal
    terminal: tuple[int, int] | None

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> "Request":
        return cls(**json.loads(line))


def frame(kind: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


def number_frame(kind: int, *numbers: int) -> bytes:
    return frame(kind, struct.pack(f">{len(numbers)}H", *numbers))


def numbers(payload: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(payload) // 2}H", payload)


class Frames:
    """Takes received bytes in any pieces and gives whole frames."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> None:
        self._pending += data

    def __iter__(self):
        return self

    def __next__(self) -> tuple[int, bytes]:
        if len(self._pending) < HEADER.size:
            raise StopIteration
        kind, length = HEADER.unpack_from(self._pending)
        end = HEADER.size + length
        if len(self._pending) < end:
            raise StopIteration
        payload = bytes(self._pending[HEADER.size : end])
        del self._pending[:end]
        return kind, payload
