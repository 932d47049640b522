"""The lab host as a QEMU process: its initramfs, its command line, its control socket.

Nothing here keeps state between calls; host.py does.
"""

import json
import shlex
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

# What the initramfs needs to reach the machine's root file system. Everything else comes from there.
BOOT_MODULES = ["virtio_pci", "9pnet_virtio", "9p", "overlay"]

# Quiet, because each line on an emulated serial port costs; the two clocks and the mitigations, because
# under emulation they cost time and protect nothing.
KERNEL_ARGUMENTS = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off tsc=reliable no_timer_check nokaslr"


class LabError(Exception):
    """Something that the user must know; the text says what and what to do."""


def initramfs(kernel: Path, init: Path, settings: dict[str, str]) -> bytes:
    """A cpio archive (newc) of busybox, `init`, the boot modules in load order, and lab.conf."""
    release = kernel_release(kernel)
    modules = boot_modules(kernel, release)
    folders = ["bin", "dev", "proc", "sys", "root", "lower", "upper", "modules"]
    conf = "".join(f"{key}={shlex.quote(value)}\n" for key, value in settings.items())
    archive = [cpio_entry(name, stat.S_IFDIR | 0o755) for name in folders]
    archive += [
        cpio_entry("bin/busybox", stat.S_IFREG | 0o755, Path("/bin/busybox").read_bytes()),
        cpio_entry("init", stat.S_IFREG | 0o755, init.read_bytes()),
        cpio_entry("lab.conf", stat.S_IFREG | 0o600, conf.encode()),
        cpio_entry("modules/order", stat.S_IFREG | 0o644, "".join(f"{m.name}\n" for m in modules).encode()),
    ]
    archive += [cpio_entry(f"modules/{m.name}", stat.S_IFREG | 0o644, m.read_bytes()) for m in modules]
    archive.append(cpio_entry("TRAILER!!!", 0))
    return b"".join(archive)


def cpio_entry(name: str, mode: int, data: bytes = b"") -> bytes:
    """One file in the format of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst."""
    encoded = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, four device numbers, length of the name, checksum
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return padded(header + encoded) + padded(data)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def kernel_release(kernel: Path) -> str:
    return next((kernel / "lib/modules").iterdir()).name


def boot_modules(kernel: Path, release: str) -> list[Path]:
    """The boot modules and what they depend on, in an order that insmod can load."""
    command = ["modprobe", "--dirname", str(kernel), "--set-version", release, "--show-depends", "--all"]
    shown = subprocess.run([*command, *BOOT_MODULES], check=True, capture_output=True, text=True).stdout
    # "insmod PATH [options]", or "builtin NAME"
    paths = [line.split()[1] for line in shown.splitlines() if line.startswith("insmod ")]
    return [Path(path) for path in dict.fromkeys(paths)]


def qemu_command(
    *, kernel: Path, initrd: Path, checkout: Path, state: Path, cpus: int, memory: str, agent: tuple[int, int]
) -> list[str]:
    """The lab host's command line; `agent` is (port on the machine's loopback, port in the host).

    The host has one processor more than the `cpus` that commands run on: the first runs no guest (start says why).
    """
    release = kernel_release(kernel)

    def share(tag: str, path: Path, options: str = "") -> list[str]:
        # security_model=none: what root in the host writes belongs to whoever runs the lab.
        local = f"local,id={tag},path={comma(path)},security_model=none,multidevs=remap{options}"
        return ["-fsdev", local, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]

    return [
        "qemu-system-x86_64", "-name", "nimbo-lab", "-daemonize", "-pidfile", str(state / "pid"),
        "-machine", "pc", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "EPYC,svm=on,npt=on",
        "-smp", str(1 + cpus), "-m", memory,
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-kernel", str(kernel / f"boot/vmlinuz-{release}"), "-initrd", str(initrd), "-append", KERNEL_ARGUMENTS,
        *share("machine", Path("/"), ",readonly=on"),
        *share("checkout", checkout),
        "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{agent[0]}-:{agent[1]}",
        "-device", "virtio-net-pci,netdev=net,romfile=",
        "-device", "virtio-rng-pci",
        "-chardev", f"file,id=console,path={comma(state / 'console.log')}", "-serial", "chardev:console",
        "-chardev", f"file,id=heartbeat,path={comma(state / 'heartbeat')}", "-serial", "chardev:heartbeat",
        "-qmp", f"unix:{comma(state / 'qmp')},server=on,wait=off",
    ]  # fmt: skip


def comma(path: Path) -> str:
    """A path as QEMU's option parser wants it."""
    return str(path).replace(",", ",,")


class Qmp:
    """QEMU's control protocol on its socket, one command at a time."""

    def __init__(self, path: Path, timeout_s: float = 10) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        self._socket.connect(str(path))
        self._lines = self._replies()
        next(self._lines)
        self.execute("qmp_capabilities")

    def __enter__(self) -> "Qmp":
        return self

    def __exit__(self, *_) -> None:
        self._socket.close()

    def _replies(self) -> Iterator[dict]:
        with self._socket.makefile("r") as lines:
            for line in lines:
                yield json.loads(line)

    def execute(self, command: str, **arguments):
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        for reply in self._lines:
            if "error" in reply:
                raise LabError(f"QEMU refused {command}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]
        raise ConnectionError(f"QEMU ended during {command}")
