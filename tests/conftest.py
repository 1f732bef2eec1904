"""Fixtures that several tests share."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from needs import cannot_run

# On a loaded machine one example may take long; no test asserts a time.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# Who begins with `nohup` or `&` in a script ignores these, and so would all that tests start and stop by them.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


# Of this process and of what it starts, as jobs have one: on how many threads share a sum its bits depend, and how many
# there would be depends on the machine. PyTorch reads it as it is imported.
os.environ["OMP_NUM_THREADS"] = "1"
# Which the command line sets for what it starts.
os.environ["PYTHONUTF8"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the tests, one of them begins with the file that takes longest, most of it waiting."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path != Path(__file__).parent / "slurm" / "test_chain.py")


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """What a test, or what it tests, leaves behind in the environment is another test's fault by chance."""
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    os.environ.clear()
    os.environ.update(before)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    # pytest's own, torch.compile's own, and scikit-learn's, which comes with lm-eval, when it is imported
    changed -= {"PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"}
    changed -= {"HF_XET_HIGH_PERFORMANCE"}  # lm-eval's
    assert not changed, f"left behind in the environment: {sorted(changed)}"


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a file system of its own, of a size such as `8m`."""
    disk = tmp_path / "disk"

    def mount(size: str, at: Path = disk) -> Path:
        nonlocal disk
        disk = at
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            cannot_run(f"needs the right to mount a small file system: {mounted.stderr.strip()}")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny experiment, as plain values, whose corpus, tokenizer and packed tokens exist."""
    from sllm.artifacts import Artifacts
    from sllm.config import Experiment
    from sllm.data.download import download_stage
    from sllm.data.pack import pack_stage
    from sllm.stop import StopFlag
    from sllm.tokenizer.training import tokenizer_stage

    directory = tmp_path_factory.mktemp("prepared")
    values: dict[str, Any] = {
        "name": "tiny",
        "seed": 5,
        "runs_directory": str(directory / "runs"),
        "data_directory": str(directory / "data"),
        "data": {
            "sources": [
                {"name": "sample-korean", "kind": "embedded", "language": "ko", "megabytes": 0.2},
                {"name": "sample-english", "kind": "embedded", "language": "en", "megabytes": 0.2, "weight": 1.5},
            ],
            "validation_fraction": 0.1,
            "clean": {"contamination": False},
        },
        "tokenizer": {"vocab_size": 512},
        "model": {"d_model": 32, "n_layers": 2, "n_heads": 2, "d_ff": 64, "context_length": 32, "dropout": 0.1},
        "train": {
            "max_steps": 40,
            "global_batch": 8,
            "micro_batch": 2,
            "learning_rate": 5e-3,
            "min_learning_rate": 5e-4,
            "warmup_steps": 2,
            "precision": "fp32",
            "checkpoint": {"every": 4, "keep_last": 2, "keep_every": 20},
        },
        "validate": {
            "every": 15,
            "tokens": 2048,
            "final_tokens": 4096,
            "prompts": ["한국", "The"],
            "sample_tokens": 8,
        },
        "benchmark": {
            "batches": [1, 2],
            "prompt_tokens": 8,
            "new_tokens": 8,
            "train_steps": 2,
            "repeats": 1,
            "tasks": [],
        },
        "wandb": {"mode": "disabled"},
    }
    experiment = Experiment.model_validate(values)
    artifacts, stop = Artifacts(experiment), StopFlag()
    download_stage(experiment, artifacts.corpus, stop)
    tokenizer_stage(experiment, artifacts.corpus, artifacts.tokenizer, stop)
    pack_stage(experiment, artifacts.corpus, artifacts.tokenizer / "tokenizer.json", artifacts.packed, stop)
    return values
