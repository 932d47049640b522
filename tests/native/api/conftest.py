"""nimbo serve --simulate, for tests of the API: a new one for each module, so that what one leaves is not in another's way."""

import os
import select
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

TIMEOUT_S = 30
ACCOUNT = "000000000000"
REGION = "us-east-1"


class Api:
    """A server, and clients of it."""

    def __init__(self) -> None:
        command = [os.environ["NIMBO"], "serve", "--simulate", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT_S)
        assert ready, "the server says nothing"
        assert self.process.stdout
        self.url = self.process.stdout.readline().strip()

    def client(self, service: str, *, region: str = REGION, account: str = ACCOUNT) -> Any:
        # Retries would hide what fails now and then.
        config = Config(retries={"total_max_attempts": 1})
        return boto3.client(
            service, endpoint_url=self.url, region_name=region, config=config, aws_access_key_id=account, aws_secret_access_key="test"
        )

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(TIMEOUT_S) == 0


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    api = Api()
    try:
        yield api
    finally:
        api.end()


@pytest.fixture(scope="module")
def ec2(api: Api) -> Any:
    return api.client("ec2")


@pytest.fixture
def refused() -> Callable[..., str]:
    """Calls what must be refused with `code`, and gives back the message."""

    def check(code: str, call: Callable[..., Any], **arguments: Any) -> str:
        with pytest.raises(ClientError) as caught:
            call(**arguments)
        error = caught.value.response["Error"]
        assert error["Code"] == code, error
        return error["Message"]

    return check
