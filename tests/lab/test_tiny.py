"""A tiny guest: booted once, then everything that can be done to it while it runs."""

import hashlib
import os
import re
import subprocess
import tempfile

import pytest
from guest import PATIENCE_S, fetch, free_port, running, tap, wait_until

USER_DATA = """#!/bin/sh
mkdir -p /www
echo "user-data ran on $(hostname)" > /www/index.html
echo once >> /root/runs
busybox httpd -p 80 -h /www
"""

def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="module")
def guest(tiny_image):
    port = free_port()
    before = digest(tiny_image)
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as user_data:
        user_data.write(USER_DATA)
        user_data.flush()
        arguments = ["--image", tiny_image, "--cpus", "2", "--memory", "256M", "--size", "256M"]
        arguments += ["--user-data", user_data.name, "--publish", f"127.0.0.1:{port}:80", "--hostname", "tiny-test"]
        with running(*arguments) as guest:
            guest.port = port
            guest.login()
            yield guest
    assert digest(tiny_image) == before, "the image changed"


def test_user_data_is_seen_from_outside(guest):
    page = wait_until(lambda: fetch(guest.port), "the page of user-data")
    assert "user-data ran on tiny-test" in page


def test_both_cpus_run(guest):
    assert guest.run("grep -c ^processor /proc/cpuinfo") == "2"
    assert guest.run("cat /sys/devices/system/cpu/online") == "0-1"
    # Each of them gets interrupts of its own.
    local_timers = guest.run("grep LOC: /proc/interrupts").split()
    assert all(int(count) > 0 for count in local_timers[1:3])


def test_each_cpu_has_a_pair_of_queues_of_its_own(guest):
    def times_woken() -> dict[str, int]:
        tasks = {task.name: task for task in guest.threads() if task.name.startswith("net0-q")}
        return {name: task.status["voluntary_ctxt_switches"] for name, task in tasks.items()}

    assert guest.run("ls /sys/class/net/eth0/queues").split() == ["rx-0", "rx-1", "tx-0", "tx-1"]
    for cpu, worker in enumerate(["net0-q0", "net0-q1"]):
        before = times_woken()
        # A sender's frames go to the queue of the CPU that it runs on.
        guest.run(f"taskset {1 << cpu} ping -c 2 -W 5 169.254.169.254")
        assert int(times_woken()[worker]) > int(before[worker]), f"{worker} slept"


def test_a_large_page_comes_whole(guest):
    guest.run("dd if=/dev/zero bs=1M count=2 2>/dev/null | tr '\\0' x > /www/large")
    # The host spreads what it sends over the queues, by connection.
    for _ in range(8):
        page = fetch(guest.port, "/large", seconds=PATIENCE_S)
        assert page is not None and len(page) == 2 << 20 and set(page) == {"x"}


def test_the_machine_says_ec2_and_keeps_time(guest):
    uuid = guest.run("cat /sys/class/dmi/id/product_uuid")
    assert uuid.startswith("ec2") and uuid == guest.run("cat /sys/class/dmi/id/product_serial")
    assert guest.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource") == "kvm-clock"
    assert abs(int(guest.run("date +%s")) - int(subprocess.check_output(["date", "+%s"]))) < 30


def test_metadata_is_there(guest):
    instance = guest.run("wget -q -O - http://169.254.169.254/2009-04-04/meta-data/instance-id")
    assert re.fullmatch(r"i-[0-9a-f]{17}", instance)
    assert guest.control("GET", "/v1/machine")["id"] == instance


def test_the_root_file_system_fills_the_larger_disk(guest):
    kib = int(guest.run("df -k / | tail -n 1").split()[1])
    assert kib > 180 * 1024


def test_a_disk_is_plugged_written_and_unplugged(guest):
    mark = "written by the guest"
    with tempfile.TemporaryFile() as disk:
        disk.truncate(32 << 20)
        guest.control("POST", "/v1/disks", {"id": "data", "serial": "vol0123"}, fds=(disk.fileno(),))
        wait_until(lambda: "vdb" in guest.run("ls /dev"), "the disk in the guest")
        assert guest.run("cat /sys/block/vdb/serial") == "vol0123"
        assert guest.run("cat /sys/block/vdb/size") == str((32 << 20) // 512)
        guest.run(f"echo '{mark}' | dd of=/dev/vdb bs=512 conv=sync,fsync 2>/dev/null")
        disk.seek(0)
        assert disk.read(len(mark)).decode() == mark
        assert guest.device("data")["state"] == "active"
        guest.control("DELETE", "/v1/disks/data")
        wait_until(lambda: guest.device("data") is None, "the guest to let go of the disk")
        assert "vdb" not in guest.run("ls /dev")


def test_an_interface_is_plugged_and_unplugged(guest):
    name = f"nt{os.getpid() % 100000}"
    before = set(guest.run("ls /sys/class/net").split())
    with tap(name) as descriptor:
        spec = {"id": "second", "mac": "02:00:00:00:00:02"}
        guest.control("POST", "/v1/interfaces", spec, fds=(descriptor,))
        added = wait_until(
            lambda: set(guest.run("ls /sys/class/net").split()) - before, "the interface in the guest"
        )
        (interface,) = added
        assert guest.run(f"cat /sys/class/net/{interface}/address") == "02:00:00:00:00:02"
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        subprocess.run(["ip", "addr", "add", "198.51.100.1/30", "dev", name], check=True)
        guest.run(f"ip link set {interface} up; ip addr add 198.51.100.2/30 dev {interface}")
        assert wait_until(lambda: fetch(80, host="198.51.100.2"), "the page through the new interface")
        counters = guest.control("GET", "/v1/counters")["devices"]
        assert "second" in [device["id"] for device in counters]
        guest.control("DELETE", "/v1/interfaces/second")
        wait_until(lambda: guest.device("second") is None, "the guest to let go of the interface")
    assert set(guest.run("ls /sys/class/net").split()) == before


def test_the_balloon_takes_memory_and_gives_it_back(guest):
    def free_bytes() -> int:
        return int(guest.run("grep MemFree /proc/meminfo").split()[1]) << 10

    def inflated() -> int:
        return guest.control("GET", "/v1/balloon")["actual_bytes"]

    before = free_bytes()
    taken = 64 << 20
    guest.control("PUT", "/v1/balloon", {"target_bytes": taken})
    wait_until(lambda: inflated() == taken, "the guest to give memory up")
    # Other programs take and give some meanwhile.
    assert before - free_bytes() > taken * 3 // 4
    guest.control("PUT", "/v1/balloon", {"target_bytes": 0})
    wait_until(lambda: inflated() == 0, "the guest to take it back")
    assert before - free_bytes() < taken // 4


def test_memory_that_the_guest_frees_is_the_hosts_again(guest):
    def resident() -> int:
        return guest.control("GET", "/v1/counters")["process"]["resident_bytes"]

    used = 64 << 20
    guest.run(f"mount -t tmpfs none /mnt && dd if=/dev/urandom of=/mnt/file bs=1M count={used >> 20} 2>/dev/null")
    before = resident()
    guest.run("umount /mnt")
    # It reports what has been free for two seconds, in pieces of 2 MiB or more: a little stays.
    wait_until(lambda: before - resident() > used * 3 // 4, "the host to have the memory back")


def test_randomness_comes_from_the_host(guest):
    assert guest.run("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
    first, second = (guest.run("dd if=/dev/hwrng bs=16 count=1 2>/dev/null | hexdump -e '16/1 \"%02x\"'") for _ in "ab")
    assert len(first) == 32 and first != second


def test_a_paused_guest_stands_still_and_goes_on(guest):
    guest.control("POST", "/v1/machine/pause", {})
    assert guest.control("GET", "/v1/machine")["state"] == "paused"
    length = len(guest.console)
    guest.type("echo pau''sed\n")
    assert fetch(guest.port, seconds=2) is None
    assert "paused" not in guest.console[length:]
    guest.control("POST", "/v1/machine/resume", {})
    guest.wait_for("paused", after=length)
    assert wait_until(lambda: fetch(guest.port), "the page after the pause")


def test_counters_grow(guest):
    before = guest.control("GET", "/v1/counters")
    guest.run("dd if=/dev/vda of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null || cat /bin/busybox > /dev/null")
    after = guest.control("GET", "/v1/counters")
    assert all(now["cpu_ns"] > then["cpu_ns"] for then, now in zip(before["vcpus"], after["vcpus"]))
    assert after["process"]["resident_bytes"]


def test_a_reboot_runs_user_data_no_second_time(guest):
    start = len(guest.console)
    guest.type("reboot\n")
    guest.wait_for(r"nimbo-init: up", after=start)
    guest.wait_for(r"nimbo-init: ready in \d+ ms", after=start)
    guest.type("\n")
    assert guest.run("cat /root/runs") == "once"


def test_a_kernel_upgrade_in_the_guest_is_what_it_boots_next(guest):
    assert "upgraded" not in guest.run("cat /proc/cmdline")
    # As a package of a kernel does it: new files, a new entry with a higher version, and the old kernel removed.
    guest.run("cp /boot/vmlinux-* /boot/vmlinux-9.9 && rm /boot/vmlinux-*-amd64")
    guest.run(
        "cd /boot/loader/entries && sed -e 's/^version .*/version 9.9/' -e 's/vmlinux-.*/vmlinux-9.9/'"
        " -e '/^options /s/$/ upgraded/' tiny-*-amd64.conf > tiny-9.9.conf; cd /; sync"
    )
    start = len(guest.console)
    guest.type("reboot\n")
    guest.wait_for(r"nimbo-init: ready in \d+ ms", after=start)
    guest.type("\n")
    assert guest.run("cat /proc/cmdline").split()[-1] == "upgraded"
    assert guest.run("ls /boot/vmlinux-*") == "/boot/vmlinux-9.9"


def test_the_power_button_ends_it_cleanly(guest):
    guest.control("POST", "/v1/machine/power-button", {})
    assert guest.wait_end() == 0
    assert "the guest powered off" in guest.console


def test_the_kernel_of_a_guest_with_many_cpus_finds_them_all(tiny_image):
    with running("--image", tiny_image, "--cpus", "8", "--memory", "512M", "--no-network") as guest:
        guest.login()
        assert guest.run("cat /sys/devices/system/cpu/online", seconds=2 * PATIENCE_S) == "0-7"
        guest.type("poweroff\n")
        assert guest.wait_end() == 0


def without_network(image: str, command_line: str):
    return running(
        "--image", image, "--cmdline", f"console=ttyS0 quiet {command_line}", "--memory", "128M", "--no-network"
    )


def test_a_guest_that_finds_no_root_reboots_where_it_is_told_to(tiny_image):
    with without_network(tiny_image, "root=LABEL=none rootwait=0 nimbo.panic=reboot") as guest:
        fault = "cannot go on: the root device LABEL=none did not appear in 0 s; there is .*/dev/vda1"
        first = guest.wait_for(fault)
        guest.wait_for("nimbo-init: up", after=first.end())
        guest.wait_for(fault, after=first.end())


def test_a_guest_that_finds_no_root_has_no_shell_either_and_powers_off(tiny_image):
    with without_network(tiny_image, "root=LABEL=none rootwait=0") as guest:
        guest.wait_for("no shell: /bin/sh")
        assert guest.wait_end() == 0


def test_a_guest_that_finds_no_init_gives_a_shell_and_powers_off_after_it(tiny_image):
    with without_network(tiny_image, "root=/dev/vda1 ro init=/sbin/none") as guest:
        guest.wait_for("cannot go on: the root has no init: looked for /sbin/none")
        guest.wait_for("/ # ")
        assert guest.run("busybox stat -f -c %T /") == "ext2/ext3"
        guest.type("exit\n")
        assert guest.wait_end() == 0
