"""nimbo beside QEMU's microvm. Called by scripts/bench boot."""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from guest import NIMBO, Guest, tap, wait_until  # noqa: E402
from measure import Results  # noqa: E402

MEMORY_MIB = 256
# Debian's QEMU ends where it cannot set the capabilities that the kernel told it of (MSR 0x10a), as on some AMD processors.
QEMU = [
    "qemu-system-x86_64", "-M", "microvm,acpi=on,rtc=on,pit=off,pic=off", "-accel", "kvm", "-cpu", "host,-arch-capabilities",
    "-m", str(MEMORY_MIB), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
]  # fmt: skip
# With its disk and interface on PCI: ioeventfd and MSI-X, as ours.
QEMU_PCI = [word.replace("microvm,", "microvm,pcie=on,") for word in QEMU]


def payload() -> bytes:
    """An ELF file entered by PVH that writes 'X' to the serial port and halts."""
    code = bytes([0x66, 0xBA, 0xF8, 0x03, 0xB0, ord("X"), 0xEE, 0xF4, 0xEB, 0xFD])
    note = struct.pack("<III", 4, 4, 18) + b"Xen\0" + struct.pack("<I", 0x100000)
    elf = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x100000, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    for kind, offset, address, size in [(1, 0x1000, 0x100000, len(code)), (4, 0x200, 0, len(note))]:
        elf += struct.pack("<IIQQQQQQ", kind, 7, offset, address, address, size, size, 4)
    return elf.ljust(0x200, b"\0") + note.ljust(0xE00, b"\0") + code


def milliseconds_to(pattern: bytes, command: list[str]) -> tuple[float, subprocess.Popen]:
    """From the start of the process to `pattern` in its output. The process still runs."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    output = b""
    while pattern not in output:
        piece = os.read(process.stdout.fileno(), 4096)
        assert piece, f"{command[0]} ended before {pattern!r}: {output!r}"
        output += piece
    return (time.monotonic() - started) * 1000, process


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


@contextlib.contextmanager
def stopped_guests() -> Iterator[Callable[[subprocess.Popen], None]]:
    """A function that stops a guest where it is, to be ended after all others.

    An emulated processor is slow to write to memory where the code of an earlier guest was, whoever writes. Memory that
    is not given back is not used again.
    """
    stopped: list[subprocess.Popen] = []

    def stop(process: subprocess.Popen) -> None:
        for identity in [*children(process), process.pid]:
            os.kill(identity, signal.SIGSTOP)
        stopped.append(process)

    try:
        yield stop
    finally:
        for process in stopped:
            end(process)


def overhead_mib(process_id: int) -> float:
    """Private memory of a process beyond the mappings that are the guest's RAM."""
    private = 0
    mapping_kib = 0
    for line in Path(f"/proc/{process_id}/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            mapping_kib = (int(found[2], 16) - int(found[1], 16)) >> 10
        elif line.startswith("Private_") and mapping_kib < MEMORY_MIB << 9:
            private += int(line.split()[1])
    return private / 1024


def children(process: subprocess.Popen) -> list[int]:
    """The first is the process of the microVM, if it is nimbo run's."""
    return [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def measure_payload(rounds: int) -> None:
    results = Results()
    with tempfile.NamedTemporaryFile(suffix=".elf") as kernel:
        kernel.write(payload())
        kernel.flush()
        ours_command = [NIMBO, "run", "--here", "--no-network", "--memory", f"{MEMORY_MIB}M", "--kernel", kernel.name]

        def ours() -> dict[str, float]:
            elapsed, process = milliseconds_to(b"X", ours_command)
            memory = overhead_mib(children(process)[0])
            end(process)
            return {"boot.payload_ms": elapsed, "boot.payload_overhead_mib": memory}

        def peer() -> dict[str, float]:
            elapsed, process = milliseconds_to(b"X", [*QEMU, "-kernel", kernel.name])
            memory = overhead_mib(process.pid)
            end(process)
            return {"boot.payload_ms": elapsed, "boot.payload_overhead_mib": memory}

        results.alternate(rounds, {"ours": ours, "peer": peer})
        results.print()


class BootFiles:
    """What the image's boot loader configuration names, taken out of it for the peer."""

    def __init__(self, image: str, folder: Path):
        start = json.loads(subprocess.check_output(["sfdisk", "--json", image]))["partitiontable"]["partitions"][0]["start"]
        partition = f"{image}?offset={start * 512}"
        entries = self.debugfs(partition, "ls -p /boot/loader/entries").decode()
        entry = next(part for part in entries.split("/") if part.endswith(".conf"))
        keys = {}
        for line in self.debugfs(partition, f"cat /boot/loader/entries/{entry}").decode().splitlines():
            key, _, value = line.partition(" ")
            keys[key] = value.strip()
        self.folder = folder
        self.kernel, self.initrd = folder / "vmlinux", folder / "initrd"
        self.kernel.write_bytes(self.debugfs(partition, f"cat {keys['linux']}"))
        self.initrd.write_bytes(self.debugfs(partition, f"cat {keys['initrd']}"))
        self.command_line = keys["options"]

    @staticmethod
    def debugfs(partition: str, request: str) -> bytes:
        return subprocess.run(["debugfs", "-R", request, partition], check=True, capture_output=True).stdout


def measure_boot(rounds: int, image: str, files: BootFiles) -> None:
    results = Results()
    ours_command = [in_memory(NIMBO, files.folder), "run", "--here", "--no-network", "--memory", f"{MEMORY_MIB}M", "--image", image]
    # QEMU takes our lock on an image for that of somebody who does not share it, so it gets an image of its own.
    peer_image = shutil.copy(image, files.folder / "peer.raw")
    peer_command = [
        *QEMU, "-kernel", str(files.kernel), "-initrd", str(files.initrd), "-append", files.command_line,
        "-drive", f"if=none,id=root,format=raw,snapshot=on,file={peer_image}", "-device", "virtio-blk-device,drive=root",
    ]  # fmt: skip

    def overhead(command: list[str], process_of: Callable[[subprocess.Popen], int]) -> float:
        _, process = milliseconds_to(b"nimbo-init: up", command)
        memory = overhead_mib(process_of(process))
        end(process)
        return memory

    # Alone: what several processes share of their program would count for none of them.
    results.add("boot.overhead_mib", "ours", overhead(ours_command, lambda process: children(process)[0]))
    results.add("boot.overhead_mib", "peer", overhead(peer_command, lambda process: process.pid))

    def timed(command: list[str], stop: Callable[[subprocess.Popen], None]) -> dict[str, float]:
        elapsed, process = milliseconds_to(b"nimbo-init: up", command)
        stop(process)
        return {"boot.init_ms": elapsed}

    with stopped_guests() as stop:
        results.alternate(rounds, {"ours": lambda: timed(ours_command, stop), "peer": lambda: timed(peer_command, stop)})
    results.print()


DATA_BYTES = 256 << 20
SECONDS = 3
FIO = f"fio --name=x --filename=/dev/vdb --direct=1 --ioengine=libaio --time_based --runtime={SECONDS} --minimal"


class Subject:
    """A guest with a second disk, and an interface at the end of a tap; `number` keeps two of them apart."""

    def __init__(self, number: int):
        self.tap = f"nimbobench{number}"
        self.host, self.address = (f"198.51.100.{4 * number + host}" for host in (1, 2))
        self.mac = f"02:00:00:00:00:0{number}"
        self.guest: Guest

    def connect(self) -> None:
        wait_until(lambda: "eth0" in self.guest.run("ls /sys/class/net"), "the interface")
        subprocess.run(["ip", "addr", "add", f"{self.host}/30", "dev", self.tap], check=True)
        subprocess.run(["ip", "link", "set", self.tap, "up"], check=True)
        self.guest.run(f"ip addr add {self.address}/30 dev eth0; ip link set eth0 up")


@contextlib.contextmanager
def our_guest(image: str, data: str) -> Iterator[Subject]:
    subject = Subject(1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--here", "--no-network", "--memory", "512M", "--image", image, "--disk", data]
        subject.guest = Guest(*arguments, folder=Path(folder))
        try:
            subject.guest.login()
            with tap(subject.tap) as descriptor:
                spec = {"id": "bench", "mac": subject.mac}
                subject.guest.control("POST", "/v1/interfaces", spec, fds=(descriptor,))
                subject.connect()
                yield subject
        finally:
            subject.guest.end()


@contextlib.contextmanager
def peer_guest(image: str, data: str, files: BootFiles) -> Iterator[Subject]:
    subject = Subject(2)
    command = [
        *QEMU_PCI, "-m", "512", "-kernel", str(files.kernel), "-initrd", str(files.initrd), "-append", files.command_line,
        "-drive", f"if=none,id=root,format=raw,snapshot=on,file={image}",
        "-device", "virtio-blk-pci,drive=root",
        "-object", "iothread,id=disk",
        "-drive", f"if=none,id=data,format=raw,aio=io_uring,file={data}",
        "-device", "virtio-blk-pci,drive=data,iothread=disk",
        "-netdev", f"tap,id=net,ifname={subject.tap},script=no,downscript=no,vhost=off",
        "-device", f"virtio-net-pci,netdev=net,mac={subject.mac}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        subject.guest = Guest(folder=Path(folder), command=command)
        try:
            subject.guest.login()
            subject.connect()
            yield subject
        finally:
            subject.guest.end()


def random_reads(subject: Subject) -> dict[str, float]:
    return {"boot.blk_randread_iops": fio(subject.guest, "--rw=randread --bs=4k --iodepth=32")[1]}


def sequential_reads(subject: Subject) -> dict[str, float]:
    return {"boot.blk_seqread_mibs": fio(subject.guest, "--rw=read --bs=1M --iodepth=4")[0]}


def sending(subject: Subject) -> dict[str, float]:
    return {"boot.net_mbits": iperf3(subject, "")}


def receiving(subject: Subject) -> dict[str, float]:
    return {"boot.net_receive_mbits": iperf3(subject, "--reverse")}


def iperf3(subject: Subject, direction: str) -> float:
    """Megabits per second."""
    server = subprocess.Popen(["iperf3", "--server", "--bind", subject.host], stdout=subprocess.DEVNULL)
    try:
        client = f"iperf3 --client {subject.host} --time {SECONDS} --format m {direction}"
        summary = subject.guest.run(f"{client} | grep receiver")
        return float(re.search(r"([0-9.]+) Mbits/sec", summary)[1])
    finally:
        end(server)


def fio(guest: Guest, options: str) -> tuple[float, float]:
    """MiB and operations per second that were read: fields 7 and 8 of fio's terse output, version 3."""
    kib, operations = guest.run(f"{FIO} {options} | tail -n 1 | cut -d';' -f7,8").split(";")
    return float(kib) / 1024, float(operations)


def in_memory(file: str, folder: Path) -> str:
    """A copy in the folder for temporary files. In the lab that is memory, and a checkout is not even cached there."""
    return shutil.copy(file, folder)


@contextlib.contextmanager
def ext4(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system as people keep disks on, in memory.

    The folder for temporary files itself will not do: a tmpfs makes io_uring hand each read to threads of the kernel's own, which
    run where the lab lets no command run, so that whoever uses it so gets a processor more.
    """
    device, mounted = folder / "ext4", folder / "mounted"
    with device.open("wb") as file:
        file.truncate(size_bytes)
    mounted.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(device)], check=True)
    subprocess.run(["mount", "-o", "loop", str(device), str(mounted)], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def measure_linux(rounds: int, device_boots: int, device_rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = in_memory(os.environ["NIMBO_IMAGE_BENCH"], Path(folder))
        files = BootFiles(image, Path(folder))
        measure_boot(rounds, image, files)
        peer_image = shutil.copy(image, f"{image}.peer")
        results = Results()
        with ext4(Path(folder), 4 * DATA_BYTES) as disks:
            data, peer_data = disks / "data.raw", disks / "data.raw.peer"
            for file in (data, peer_data):
                file.write_bytes(os.urandom(1 << 20) * (DATA_BYTES >> 20))
            # Where its memory lies makes a guest faster or slower by a tenth, as long as it runs: so there are several of each.
            for _ in range(device_boots):
                # Both run all the time and are idle when it is the other's turn, so that neither's memory changes.
                with our_guest(image, str(data)) as ours, peer_guest(peer_image, str(peer_data), files) as peer:
                    # One after the other as near as can be: what a host can do changes within a minute.
                    for measure in (random_reads, sequential_reads, sending, receiving):
                        results.alternate(device_rounds, {"ours": partial(measure, ours), "peer": partial(measure, peer)})
        results.print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["payload", "linux"])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of boots (5)")
    parser.add_argument("--device-boots", type=int, default=5, help="guests in which disk and network are measured (5)")
    parser.add_argument("--device-rounds", type=int, default=4, help="rounds in each of them (4)")
    options = parser.parse_args()
    if options.part == "payload":
        measure_payload(options.rounds * 4)
    else:
        measure_linux(options.rounds, options.device_boots, options.device_rounds)


main()
