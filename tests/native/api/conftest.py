"""nimbo serve --simulate, for tests of the API: a new one for each module, so that what one leaves is not in another's way."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from scaling import Groups
from server import Server


@pytest.fixture(scope="module")
def api() -> Iterator[Server]:
    with Server("--simulate") as server:
        yield server


@pytest.fixture(scope="module")
def ec2(api: Server) -> Any:
    return api.client("ec2")


@pytest.fixture(scope="module")
def autoscaling(api: Server) -> Any:
    return api.client("autoscaling")


@pytest.fixture(scope="module")
def groups(ec2: Any, autoscaling: Any) -> Groups:
    return Groups(ec2, autoscaling)


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
