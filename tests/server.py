"""nimbo serve, for tests that speak to it, and clients of it."""

import json
import os
import select
import subprocess
import urllib.request
from typing import Any
from urllib.error import HTTPError

import boto3
from botocore.config import Config

TIMEOUT_S = 30
ACCOUNT = "000000000000"
REGION = "us-east-1"


class Server:
    """A server in a process of its own. Its address is told when it answers."""

    def __init__(self, *options: str, listen: str = "127.0.0.1:0", **process: Any) -> None:
        command = [os.environ["NIMBO"], "serve", "--listen", listen, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **process)
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT_S)
        self.url = self.process.stdout.readline().strip() if ready else ""
        if not self.url:
            self.kill()
            raise AssertionError(f"{command} says nothing")

    @property
    def address(self) -> str:
        return self.url.partition("//")[2]

    def client(self, service: str, *, region: str = REGION, account: str = ACCOUNT, secret: str = "test", **more: Any) -> Any:
        # Retries would hide what fails now and then.
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S)
        return boto3.client(
            service, endpoint_url=self.url, region_name=region, config=config, aws_access_key_id=account, aws_secret_access_key=secret, **more
        )

    def identity(self, access_key: str, secret: str) -> str:
        """The account that the keys are of."""
        return self.client("sts", account=access_key, secret=secret).get_caller_identity()["Account"]

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, dict]:
        """What is answered to a request that is not signed."""
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                return response.status, json.load(response)
        except HTTPError as error:
            return error.code, json.load(error)

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(TIMEOUT_S) == 0
        self.process.stdout.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        self.process.stdout.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None and self.process.poll() is None:
            self.end()
        else:
            self.kill()


def nimbo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command, with nothing of AWS's in its environment but what is named."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run([os.environ["NIMBO"], *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, env=kept | environment)


def exported(*arguments: str) -> dict[str, str]:
    """What a shell has after eval "$(nimbo env)"."""
    script = 'eval "$("$@")" && env -0'
    command = ["bash", "-c", script, "-", os.environ["NIMBO"], "env", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line.startswith("AWS_"))
