"""What tests do about guests that the lab's emulator breaks, with programs that only print."""

from pathlib import Path

import pytest
from guest import Guest

FAULT = """[   41.2] traps: PANIC: double fault, error_code: 0x0
[   41.2] CPU: 1 PID: 412 Comm: systemd-udevd Not tainted
[   41.2] RIP: 0010:{}
[   41.2] RSP: 002b:00007ffd93b1a2c8 EFLAGS: 00010006"""
OF_EMULATOR = FAULT.format("entry_SYSCALL_64+0x0/0x29")
OTHERS = [
    FAULT.format("entry_SYSCALL_64+0x1e/0x29"),
    FAULT.format("exc_page_fault+0x0/0x160") + "\n[   41.3] RIP: 0010:entry_SYSCALL_64+0x0/0x29",
    "[   41.2] general protection fault\n[   41.2] RIP: 0010:entry_SYSCALL_64+0x0/0x29",
]


def guest(folder: Path, message: str, faults: int) -> Guest:
    """One that prints the message instead of getting ready, so many times."""
    (folder / "message").write_text(message)
    script = f'cd {folder}; echo . >> boots; [ $(wc -l < boots) -gt {faults} ] && echo ready in 5 ms || cat message'
    return Guest(folder=folder, command=["sh", "-c", script])


def boots(folder: Path) -> int:
    return len((folder / "boots").read_text().splitlines())


def test_a_guest_that_the_emulator_broke_is_booted_once_more(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NIMBO_LAB", "1")
    assert guest(tmp_path, OF_EMULATOR, 1).wait_for_boot(r"ready in (\d+) ms")[1] == "5"
    assert boots(tmp_path) == 2
    assert "booted once more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lab", "message", "faults", "expected"),
    [("1", OF_EMULATOR, 2, 2), ("", OF_EMULATOR, 1, 1), *(("1", message, 1, 1) for message in OTHERS)],
)
def test_no_other_end_of_a_guest_is_overlooked(tmp_path, monkeypatch, lab, message, faults, expected):
    monkeypatch.setenv("NIMBO_LAB", lab)
    with pytest.raises(AssertionError, match="ended before"):
        guest(tmp_path, message, faults).wait_for_boot("ready")
    assert boots(tmp_path) == expected
