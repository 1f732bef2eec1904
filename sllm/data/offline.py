"""No network: for the length of a `with` block, the Hugging Face libraries ask nobody."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "HF_HUB_OFFLINE"


@contextmanager
def offline() -> Iterator[None]:
    """Let neither this process nor those it starts ask the hub. Afterwards everything is as it was, also for `datasets`
    that was first imported meanwhile: these libraries read the variable once, when they are imported."""
    from huggingface_hub import constants, utils

    in_environment, in_hub = os.environ.get(VARIABLE), constants.HF_HUB_OFFLINE
    in_datasets = getattr(sys.modules.get("datasets.config"), VARIABLE, in_hub)

    def tell(hub: bool, datasets: bool) -> None:
        constants.HF_HUB_OFFLINE = hub
        if forget_sessions := getattr(utils, "reset_sessions", None):
            forget_sessions()  # before huggingface_hub 1.0 a session was offline, or not, for good
        if module := sys.modules.get("datasets.config"):
            setattr(module, VARIABLE, datasets)

    os.environ[VARIABLE] = "1"
    tell(True, True)
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if in_environment is not None:
            os.environ[VARIABLE] = in_environment
        tell(in_hub, in_datasets)
