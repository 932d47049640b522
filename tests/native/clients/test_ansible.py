"""Ansible with its collection amazon.aws, as they are."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server import Server

PLAYBOOKS = Path(__file__).parent / "ansible"
# From scripts/deps.
INSTALLED = Path(__file__).parents[3] / ".cache/ansible"
TIMEOUT_S = 300


class Ansible:
    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.environment = environment | {
            "ANSIBLE_HOME": str(home),
            "ANSIBLE_COLLECTIONS_PATH": str(INSTALLED / "collections"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_SHOW_TASK_PATH_ON_FAILURE": "true",
        }

    def run(self, command: str, *arguments: str) -> str:
        words = [str(INSTALLED / "bin" / command), *arguments]
        done = subprocess.run(words, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def play(self, name: str, **variables: Any) -> list[str]:
        """Plays a playbook, and tells which of its tasks changed something."""
        interpreter = INSTALLED / "bin/python"
        variables = {"ansible_python_interpreter": str(interpreter), **variables}
        told = self.run("ansible-playbook", "-i", "localhost,", str(PLAYBOOKS / name), "-e", json.dumps(variables))
        changed, task = [], ""
        for line in told.splitlines():
            if line.startswith("TASK ["):
                task = line.partition("[")[2].partition("]")[0]
            elif line.startswith("changed:"):
                changed.append(task)
        return changed


@pytest.fixture
def ansible(tmp_path: Path, environment: dict[str, str]) -> Ansible:
    return Ansible(tmp_path, environment)


def test_what_ansible_makes_is_there_stays_changes_and_goes(
    region: Server, ansible: Ansible, public_key: str, everything: Callable[[Any], dict[str, set[str]]]
) -> None:
    ec2 = region.client("ec2")
    before = everything(ec2)
    wanted = {"public_key": public_key, "workers": 2, "data_gib": 8, "stage": "trial"}

    assert "web server" in ansible.play("site.yml", **wanted)
    inventory = json.loads(ansible.run("ansible-inventory", "-i", str(PLAYBOOKS / "aws_ec2.yml"), "--list"))
    assert inventory["role_web"]["hosts"] == ["play-web"]
    assert len(inventory["role_worker"]["hosts"]) == 1, inventory

    # All that is as it was wanted stays as it is.
    changed = ansible.play("site.yml", **wanted | {"workers": 1, "data_gib": 12, "stage": "live"})
    assert changed == ["workers", "volume", "tags"]

    assert "network" in ansible.play("gone.yml")
    assert everything(ec2) == before
