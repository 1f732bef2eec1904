"""What the tests of compiled training share: code that Inductor compiles for the CPU, half a minute of g++."""

import shutil
from typing import Any

import pytest
import ranks
import yaml
from needs import cannot_run


@pytest.fixture(scope="session")
def signalled(prepared: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> ranks.Signalled:
    """Of a training of six steps with dropout; the last windows of its validation are short."""
    if shutil.which("g++") is None:
        cannot_run("needs g++")
    directory = tmp_path_factory.mktemp("compiled") / "signalled"
    directory.mkdir()
    sizes = {"max_steps": 6, "global_batch": 12, "micro_batch": 1, "checkpoint": {"every": 3}}
    values = {
        **prepared,
        "name": directory.name,
        "runs_directory": str(directory.parent),
        "train": {**prepared["train"], "compile": True, **sizes},
        "validate": {**prepared["validate"], "every": 3, "tokens": 1 << 20},
    }
    config = directory / "experiment.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    return ranks.signal_compilation(config, directory.parent / "cache")
