"""A Linux client of a file server, without a virtual machine: User-Mode Linux, whose root is this machine's, read-only, and whose network is
slirp's, in which this machine's loopback is 10.0.2.2."""

import os
import subprocess
import tempfile
import time
from pathlib import Path

UML = Path(__file__).parents[1] / ".cache" / "uml"
MOUNT = "/run/mnt"
# What AWS recommends for EFS.
OPTIONS = "nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2"

# The first process. What it says comes on the console; its last line is how the script ended.
INIT = """#!/bin/bash
exec </dev/null >/dev/console 2>&1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs -o mode=755 tmp /run; mkdir {mount}
ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2
# Servers know clients by it.
hostname {name}
modprobe --dirname {uml} nfsv4
libraries={uml}/usr/lib/x86_64-linux-gnu:{uml}/lib/x86_64-linux-gnu
LD_LIBRARY_PATH=$libraries {uml}/sbin/mount.nfs4 10.0.2.2:/ {mount} -o {options},port={port} || {{ echo "STATUS cannot mount"; poweroff -f; }}
cd {mount}
# What must not work, which `!` would not notice.
fails() {{ if "$@"; then echo "this worked: $*"; exit 1; fi; }}
( set -e
{script}
)
status=$?
cd /
umount {mount} || status="cannot unmount"
echo "STATUS $status"
/bin/busybox poweroff -f
"""


class LinuxClient:
    """Runs a script of bash in the mounted folder, as root, with `set -e`. What must not work has `fails` before it."""

    def __init__(self, folder: Path, port: int, script: str, options: str = OPTIONS) -> None:
        assert (UML / "complete").exists(), "there is no User-Mode Linux: run scripts/deps"
        init = folder / "init"
        init.write_text(INIT.format(name=folder.name, mount=MOUNT, uml=UML, port=port, options=options, script=script))
        init.chmod(0o755)
        # Its memory is a file there.
        self.memory = tempfile.TemporaryDirectory(dir="/dev/shm")
        slirp = UML / "usr/bin/slirp-fullbolt"
        kernel = ["mem=256M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={init}", "quiet"]
        devices = [f"eth0=slirp,,{slirp}", "con=null", "con0=null,fd:1", f"umid={folder.name}-{os.getpid()}", f"uml_dir={self.memory.name}"]
        self.console = (folder / "console").open("w+")
        self.process = subprocess.Popen(
            [UML / "usr/bin/linux.uml", *kernel, *devices],
            stdin=subprocess.DEVNULL,
            stdout=self.console,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": self.memory.name},
            start_new_session=True,
        )

    def output(self) -> str:
        self.console.seek(0)
        return self.console.read()

    def wait(self, timeout_s: float) -> str:
        """What the script said, if it has ended well."""
        deadline = time.monotonic() + timeout_s
        while "STATUS " not in (said := self.output()):
            assert time.monotonic() < deadline, said
            assert self.process.poll() is None, said
            time.sleep(0.1)
        assert "STATUS 0" in said, said
        return said

    def end(self) -> None:
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait()
        self.console.close()
        self.memory.cleanup()
