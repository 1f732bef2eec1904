"""What a run directory is given before the first stage starts."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import jobs.prepare
from jobs.prepare import snapshot_code
from sllm.files import RunDirectory, read_manifest

SOURCE = "from numba import njit\n\n\n@njit(cache=True)\ndef double(x):\n    return 2 * x\n"


def compiled_anew(root: Path) -> bool:
    """Call the compiled function below `root`, as a process that starts there would; whether it had to be compiled."""
    spec: Any = importlib.util.spec_from_file_location("double", root / "sllm" / "tokenizer" / "double.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.double(21) == 42
    return not module.double.stats.cache_hits


def test_what_numba_compiled_for_one_run_serves_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "checkout"
    source = tree / "sllm" / "tokenizer" / "double.py"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE)
    monkeypatch.setattr(jobs.prepare, "TREE", tree)
    runs = [RunDirectory(tmp_path / "runs" / name) for name in "abcd"]

    snapshot_code(runs[0])
    assert compiled_anew(runs[0].code)
    snapshot_code(runs[1])
    assert not compiled_anew(runs[1].code)
    for run in runs[:2]:
        read_manifest(run.code, checksums=True)

    source.write_text(SOURCE.replace("2 * x", "x + x"))
    snapshot_code(runs[2])
    assert compiled_anew(runs[2].code)
    source.write_text(SOURCE.replace("2 * x", "x + x + 0"))
    assert compiled_anew(tree)
    snapshot_code(runs[3])
    assert not compiled_anew(runs[3].code)
