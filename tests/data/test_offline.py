"""Stages after the download ask nobody, and leave the process as it was."""

import os
import subprocess
import sys

import datasets
import pytest
from hub import Hub, hub
from huggingface_hub import HfApi, constants, errors

from sllm.data.offline import offline

__all__ = ["hub"]

FIRST_IMPORT = """
from sllm.data.offline import offline
with offline():
    import datasets
    from huggingface_hub import constants
    assert constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE
print(constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
"""


@pytest.mark.parametrize("before", [None, "0", "1"])
def test_nobody_is_asked_meanwhile_and_all_is_as_before(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    (hub.root / "us/one").mkdir(parents=True)
    HfApi().dataset_info("us/one")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    if before is not None:
        monkeypatch.setenv("HF_HUB_OFFLINE", before)
    asked = hub.requests.total()
    with pytest.raises(KeyError, match="of the stage"), offline():
        with pytest.raises(errors.OfflineModeIsEnabled):
            HfApi().dataset_info("us/one")
        told = subprocess.run([sys.executable, "-c", "import os; print(os.environ['HF_HUB_OFFLINE'])"], stdout=-1)
        assert told.stdout == b"1\n"
        raise KeyError("an error of the stage")
    assert hub.requests.total() == asked
    assert os.environ.get("HF_HUB_OFFLINE") == before
    assert (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, False)
    HfApi().dataset_info("us/one")
    assert hub.requests.total() > asked


@pytest.mark.parametrize("before", ["", "1"])
def test_libraries_that_are_first_imported_meanwhile(before: str) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": before}
    done = subprocess.run([sys.executable, "-c", FIRST_IMPORT], env=environment, capture_output=True, text=True)
    assert done.stdout == f"{bool(before)} {bool(before)}\n", done.stderr
