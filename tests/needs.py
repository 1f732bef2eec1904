"""What a test needs and a machine may lack: nothing is skipped in CI."""

import os
from typing import NoReturn

import pytest


def cannot_run(reason: str) -> NoReturn:
    """Skip the test that runs, saying what it lacks; in CI, which must have it, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
