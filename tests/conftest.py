"""What tests are given: the programs and images, which scripts/test has built."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def built(name: str) -> str:
    path = os.environ.get(name)
    assert path, f"{name} is not set: run these tests by scripts/test"
    return path


@pytest.fixture(scope="session")
def tiny_image() -> str:
    return built("NIMBO_IMAGE_TINY")


@pytest.fixture(scope="session")
def debian_image() -> str:
    return built("NIMBO_IMAGE_DEBIAN")
