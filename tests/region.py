"""A region of real instances: a server that can be killed and started again, and what it runs."""

import configparser
import contextlib
import re
import subprocess
from pathlib import Path
from typing import Any

from guest import NIMBO, PATIENCE_S, wait_until
from server import Server

DELAY = {"Delay": 1, "MaxAttempts": int(PATIENCE_S)}


class Region:
    """A server with a state of its own, which can be killed and started again."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.options = ("--state", str(self.state), "--run", str(folder / "run"), *options)
        self.start()
        self.let_in(22)

    def start(self) -> None:
        self.server = Server(*self.options)
        known = configparser.ConfigParser()
        known.read(self.state / "credentials")
        keys = known[known.sections()[0] if known.sections() else "default"]
        self.keys = keys["aws_access_key_id"], keys["aws_secret_access_key"]
        self.ec2 = self.server.client("ec2", account=self.keys[0], secret=self.keys[1])

    def kill(self) -> None:
        self.server.kill()

    def down(self, *options: str) -> subprocess.CompletedProcess[str]:
        """What nimbo down says."""
        command = [NIMBO, "down", "--state", str(self.state), "--run", str(self.folder / "run"), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S)

    def __enter__(self) -> "Region":
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the server and all that outlives it."""
        with contextlib.suppress(Exception):
            self.kill()
        done = self.down("--force")
        assert done.returncode == 0, done.stderr

    def group(self) -> str:
        """The default group of the default VPC."""
        named = [{"Name": "group-name", "Values": ["default"]}]
        return self.ec2.describe_security_groups(Filters=named)["SecurityGroups"][0]["GroupId"]

    def let_in(self, port: int) -> None:
        """Has the default group let connections in from everywhere."""
        self.ec2.authorize_security_group_ingress(
            GroupId=self.group(), IpProtocol="tcp", FromPort=port, ToPort=port, CidrIp="0.0.0.0/0"
        )

    def wait(self, waiter: str, **arguments: Any) -> None:
        self.ec2.get_waiter(waiter).wait(WaiterConfig=DELAY, **arguments)

    def instance(self, identity: str) -> dict[str, Any]:
        return self.ec2.describe_instances(InstanceIds=[identity])["Reservations"][0]["Instances"][0]

    def processes(self) -> dict[str, int]:
        """The processes of all microVMs, by their instances."""
        names = (self.folder / "run/instances").glob("*/process.json")
        return {name.parent.name: int(re.search(r'"pid":(\d+)', name.read_text()).group(1)) for name in names}

    def image(self, file: str) -> str:
        command = [NIMBO, "image", "import", file, "--name", "tiny", "--state", str(self.state)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Instance:
    """An instance that is logged in to at its public address."""

    def __init__(self, region: Region, identity: str, key: Path) -> None:
        self.region, self.id, self.key = region, identity, key

    def seen(self) -> dict[str, Any]:
        return self.region.instance(self.id)

    def boot(self) -> str:
        """The id of the guest's boot."""
        return self.run("cat /proc/sys/kernel/random/boot_id")

    def host_key(self) -> str:
        """The key that the guest's SSH server shows."""
        found = subprocess.run(
            ["ssh-keyscan", "-t", "ed25519", self.seen()["PublicIpAddress"]], capture_output=True, text=True, timeout=PATIENCE_S
        )
        return found.stdout.split(maxsplit=1)[1]

    def try_to_run(self, command: str) -> subprocess.CompletedProcess[str]:
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=5", "-o", "BatchMode=yes"]
        # An address that moves takes no session along: this one ends then, and the next reaches who has the address.
        options += ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
        address = self.seen()["PublicIpAddress"]
        return subprocess.run(["ssh", "-i", str(self.key), *options, f"root@{address}", command], capture_output=True, text=True, timeout=PATIENCE_S)

    def run(self, command: str) -> str:
        """What a command prints, as soon as the guest lets anybody in."""
        said = []

        def answer() -> str | None:
            done = self.try_to_run(command)
            said.append(done.stderr)
            return f"{done.stdout} " if done.returncode == 0 else None

        try:
            return str(wait_until(answer, command)).strip()
        except AssertionError:
            raise AssertionError(f"{command}: {said[-1]}; console: {self.console()[-2000:]}") from None

    def console(self) -> str:
        log = self.region.folder / "run/consoles" / f"{self.id}.log"
        return log.read_text(errors="replace") if log.exists() else ""
