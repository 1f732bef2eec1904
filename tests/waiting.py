"""Waiting for an event, not for a clock: the bound is for what never comes, on a machine however busy."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 1800.0
"""Seconds, for anything that takes a few where there is nothing else to do."""


def wait(condition: Callable[[], Any], what: str = "this") -> Any:
    """Poll until `condition()` is true; its value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.1)
    return value
