"""Packets captured as guests send and get them, and links made worse while they are used."""

import contextlib
import ipaddress
import re
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from guest import NIMBO, PATIENCE_S, Guest, fetch, free_port, running, wait_until
from test_region import image, instance, key, region  # noqa: F401

METADATA = "169.254.169.254"


class Packet(NamedTuple):
    """An IPv4 packet of a capture."""

    interface: str
    out: bool
    seconds: float
    protocol: int
    destination: str
    payload: bytes


def packets(file: bytes) -> list[Packet]:
    """What IPv4 packets are in a pcapng file."""
    names, found, at = [], [], 0
    while at < len(file):
        kind, length = struct.unpack_from("<II", file, at)
        assert struct.unpack_from("<I", file, at + length - 4) == (length,)
        body = file[at + 8 : at + length - 4]
        if kind == 1:
            code, size = struct.unpack_from("<HH", body, 8)
            assert code == 2, "the first option is the name"
            names.append(body[12 : 12 + size].decode())
        elif kind == 6:
            interface, high, low, kept, _ = struct.unpack_from("<IIIII", body)
            frame = body[20 : 20 + kept]
            flags = struct.unpack_from("<HHI", body, 20 + kept + -kept % 4)[2]
            if frame[12:14] == b"\x08\x00":
                header = (frame[14] & 15) * 4
                destination = str(ipaddress.ip_address(frame[30:34]))
                seconds = (high << 32 | low) / 1e9
                found.append(Packet(names[interface], flags == 2, seconds, frame[23], destination, frame[14 + header :]))
        at += length
    return found


def nimbo(*arguments: str) -> str:
    done = subprocess.run([NIMBO, *arguments], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def capturing(*arguments: str, is_begun) -> Iterator[subprocess.Popen]:
    """A capture that has begun, and has ended when the block is left: its process with what it printed."""
    process = subprocess.Popen([NIMBO, "capture", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: process.poll() is not None or is_begun(), "the capture begins")
        yield process
        process.send_signal(signal.SIGINT)
        process.output, process.said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, process.said
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def guest(tiny_image) -> Iterator[Guest]:
    port = free_port()
    with running("--image", tiny_image, "--cpus", "2", "--memory", "256M", "--publish", f"127.0.0.1:{port}:80") as guest:
        guest.port = port
        guest.login()
        guest.run("mkdir -p /www && echo page > /www/index.html && busybox httpd -p 80 -h /www")
        yield guest


def interface(guest: Guest) -> dict:
    [interface] = guest.control("GET", "/v1/interfaces")["interfaces"]
    return interface


def captured(guest: Guest, *arguments: str) -> contextlib.AbstractContextManager[subprocess.Popen]:
    return capturing("--control", str(guest.control_path), *arguments, is_begun=lambda: interface(guest)["captures"])


def impair(guest: Guest, *arguments: str) -> str:
    return nimbo("impair", "--control", str(guest.control_path), *arguments)


def fastest_ms(guest: Guest) -> float:
    """Of a few pings."""
    told = guest.run(f"ping -c 3 -W 10 {METADATA}")
    return float(re.search(r"min/avg/max = ([0-9.]+)/", told)[1])


def test_a_file_has_the_packets_of_a_ping_and_tcpdump_reads_it(guest, tmp_path):
    file = tmp_path / "ping.pcapng"
    with captured(guest, "--write", str(file), "--filter", f"icmp and host {METADATA}") as capture:
        guest.run(f"ping -c 3 -W 10 {METADATA}")
    found = packets(file.read_bytes())
    # Type 8 is a request, 0 its answer.
    assert [(packet.out, packet.payload[0]) for packet in found] == 3 * [(True, 8), (False, 0)]
    assert [struct.unpack_from(">H", packet.payload, 6)[0] for packet in found] == [0, 0, 1, 1, 2, 2]
    assert sorted(packet.seconds for packet in found) == [packet.seconds for packet in found]
    assert abs(found[-1].seconds - time.time()) < PATIENCE_S
    assert "6 packets captured" in capture.said and "lost" not in capture.said
    read = subprocess.run(["tcpdump", "-n", "-r", file], capture_output=True, text=True, check=True)
    assert read.stdout.count("ICMP echo request") == 3 and read.stdout.count("ICMP echo reply") == 3
    assert interface(guest)["captures"] == []


def test_packets_are_told_in_lines_and_streamed(guest):
    with captured(guest, "--filter", "dst port 80 and out") as capture:
        guest.run(f"wget -qO- http://{METADATA}/latest/ || true")
    assert re.match(rf"\d\d:\d\d:\d\d\.\d{{6}} out \S+:\d+ > {METADATA}:80 tcp SYN, \d+ bytes\n", capture.output)
    stream = f"{NIMBO} capture --control {guest.control_path} --filter icmp --count 2 -w - | tcpdump -n -r - -c 2"
    with subprocess.Popen(["sh", "-c", stream], stdout=subprocess.PIPE, text=True) as piped:
        wait_until(lambda: interface(guest)["captures"], "the capture begins")
        guest.run(f"ping -c 1 -W 10 {METADATA}")
        assert "ICMP echo reply" in piped.communicate(timeout=PATIENCE_S)[0]


def test_an_impaired_link_is_slow_until_it_is_good_again(guest):
    told = impair(guest, "--latency", "300ms")
    assert re.search(r"^net0 .*both +--latency 300ms$", told, re.MULTILINE)
    assert fastest_ms(guest) >= 600
    counters = next(device for device in guest.control("GET", "/v1/counters")["devices"] if device["id"] == "net0")["counters"]
    assert counters["transmit"]["delayed"] >= 3 and counters["receive"]["delayed"] >= 3
    impair(guest, "--clear", "--direction", "in")
    assert 300 <= fastest_ms(guest) < 600
    impair(guest, "--clear")
    assert fastest_ms(guest) < 300
    assert impair(guest, "--list") == ""


def test_what_is_lost_does_not_come_and_a_rate_is_kept(guest):
    impair(guest, "--loss", "100%", "--direction", "out")
    guest.run(f"! ping -c 2 -W 1 {METADATA}")
    impair(guest, "--clear")
    guest.run("dd if=/dev/zero bs=1000 count=500 2>/dev/null | tr '\\0' x > /www/large")
    impair(guest, "--rate", "1mbit", "--direction", "out")
    start = time.monotonic()
    page = fetch(guest.port, "/large", seconds=PATIENCE_S)
    assert page is not None and len(page) == 500_000 and set(page) == {"x"}
    assert time.monotonic() - start >= 4
    impair(guest, "--clear")


def test_interfaces_of_a_region_are_found_and_impaired_beyond_its_server(region, instance, tmp_path):  # noqa: F811
    place = ["--state", str(region.state), "--run", str(region.folder / "run")]
    eni = instance.seen()["NetworkInterfaces"][0]["NetworkInterfaceId"]
    control = Guest.control
    guest = type("Control", (), {"control_path": region.folder / "run/instances" / instance.id / "control"})()
    file = tmp_path / "web.pcapng"
    is_begun = lambda: control(guest, "GET", "/v1/interfaces")["interfaces"][0]["captures"]  # noqa: E731
    with capturing(eni, *place, "-w", str(file), "--snaplen", "60", "--filter", "tcp", is_begun=is_begun):
        assert instance.run(f"wget -qO- http://{METADATA}/latest/meta-data/instance-id") == instance.id
    web = [packet for packet in packets(file.read_bytes()) if packet.out and packet.destination == METADATA]
    assert web and {packet.interface for packet in web} == {eni}
    assert all(struct.unpack_from(">H", packet.payload, 2) == (80,) for packet in web)

    nimbo("impair", instance.id, *place, "--latency", "200ms", "--jitter", "50ms", "--seed", "7")
    region.kill()
    region.start()
    listed = nimbo("impair", "--list", *place)
    assert re.search(rf"^{eni} +{instance.id} +both +--latency 200ms --jitter 50ms --seed 7$", listed, re.MULTILINE)
    # A connection, and a request in it, are two round trips.
    page = f"http://{METADATA}/latest/meta-data/instance-id"
    before, after = map(float, instance.run(f"cut -d' ' -f1 /proc/uptime; wget -qO- {page} >&2; cut -d' ' -f1 /proc/uptime").split())
    assert after - before >= 2 * 0.3
    nimbo("impair", "--clear", "--all", *place)
    assert nimbo("impair", "--list", *place) == ""
    stopped = subprocess.run([NIMBO, "capture", "eni-00000000000000000", *place], capture_output=True, text=True)
    assert stopped.returncode == 1 and "there is no network interface eni-00000000000000000" in stopped.stderr
