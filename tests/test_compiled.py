"""Compiled code where neither the package nor HOME can be written, as in a container."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOBODY = 12345
"""A user that no password file knows."""

CODE = """
import numpy as np
from sllm.tokenizer import merges, words
print(words.pack(np.frombuffer(b"ab", np.uint8), 0, 2), *words.pack.stats.cache_hits.values())
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """The package, which nobody may write to."""
    shutil.copytree(ROOT / "sllm", tmp_path / "code" / "sllm", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*(tmp_path / "code").rglob("*"), tmp_path / "code"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return tmp_path / "code"


def run(code: Path, temporary: Path) -> list[str]:
    """What CODE prints, as a user without a HOME; root, whom no file mode stops, becomes somebody else."""
    command = [sys.executable, "-c", CODE]
    if os.getuid() == 0:
        reads_all = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        command = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", *reads_all, *command]
    environment = {"PYTHONPATH": str(code), "TMPDIR": str(temporary), "HOME": "/proc/nowhere"}
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def user() -> int:
    return NOBODY if os.getuid() == 0 else os.getuid()


def test_a_private_temporary_cache(code: Path, tmp_path: Path, user: int) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    temporary.chmod(0o777)
    assert run(code, temporary)[0] == "25185"
    cache = temporary / f"sllm-{user}"
    assert cache.stat().st_mode & 0o777 == 0o700
    assert list(cache.rglob("*.nbi"))
    assert run(code, temporary)[1] == "1"  # the second time it is read


def test_a_cache_that_others_can_write_is_not_read(code: Path, tmp_path: Path, user: int) -> None:
    temporary = tmp_path / "tmp"
    (temporary / f"sllm-{user}").mkdir(parents=True)
    (temporary / f"sllm-{user}").chmod(0o777)
    assert run(code, temporary)[0] == "25185"
    assert list((temporary / f"sllm-{user}").iterdir()) == []
