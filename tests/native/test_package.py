"""The Debian package: what is in it, and that it comes and goes."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DPKG = ["dpkg", "--force-depends", "--force-script-chrootless", "--force-not-root"]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the program that is tested."""
    return Path(run(ROOT / "scripts/package", tmp_path_factory.mktemp("package")).strip())


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    """A folder in which packages can be installed, as if it were a machine's root."""
    for folder in ("var/lib/dpkg/info", "var/lib/dpkg/updates"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").touch()
    yield tmp_path


def files(machine: Path) -> set[str]:
    return {str(path.relative_to(machine)) for path in machine.rglob("*") if not path.is_dir() and "dpkg" not in path.parts}


def test_it_needs_no_compiler_and_no_library(package: Path) -> None:
    assert run("dpkg-deb", "--field", package, "Depends").strip() == "nftables"
    assert run("dpkg-deb", "--field", package, "Architecture").strip() == "amd64"


def test_the_same_program_gives_the_same_bytes(package: Path, tmp_path: Path) -> None:
    again = Path(run(ROOT / "scripts/package", tmp_path).strip())
    assert again.name == package.name and again.read_bytes() == package.read_bytes()


def test_what_is_installed_works_and_is_removed(package: Path, machine: Path) -> None:
    run(*DPKG, f"--root={machine}", "--install", package)
    there = files(machine)
    assert {"usr/bin/nimbo", "etc/default/nimbo", "lib/systemd/system/nimbo.service", "usr/share/doc/nimbo/copyright"} <= there
    assert run(machine / "usr/bin/nimbo", "--version") == run(os.environ["NIMBO"], "--version")
    assert "complete" in (machine / "usr/share/bash-completion/completions/nimbo").read_text()
    # It looks for the program where this machine would have it.
    unit = machine / "nimbo.service"
    installed = machine / "lib/systemd/system/nimbo.service"
    unit.write_text(installed.read_text().replace("/usr/bin/nimbo", str(machine / "usr/bin/nimbo")))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert verified.returncode == 0 and "nimbo.service" not in verified.stderr, verified.stderr
    unit.unlink()
    # What somebody has written stays when it is removed, and goes when nothing is to be left.
    run(*DPKG, f"--root={machine}", "--remove", "nimbo")
    assert files(machine) == {"etc/default/nimbo"}
    (machine / "var/lib/nimbo").mkdir()
    assert "stay in /var/lib/nimbo" in run(*DPKG, f"--root={machine}", "--purge", "nimbo")
    assert files(machine) == set() and (machine / "var/lib/nimbo").is_dir()
