"""bench/gpu.py is used when a GPU is at hand for minutes: what it does there it must have done here."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sllm.tensors import Kind, header

ROOT = Path(__file__).parents[1]


def run_bench(output: Path, *arguments: str) -> list[dict[str, Any]]:
    """Its lines."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "gpu.py"), "--output", str(output), *arguments],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "COMMIT": "1234567", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    log = output / "gpu-tiny.log"
    assert done.returncode == 0, done.stdout + done.stderr + log.read_text("utf-8")[-3000:]
    found = json.loads((output / "gpu-tiny.json").read_text("utf-8"))
    assert found["commit"] == "1234567"
    lines: list[dict[str, Any]] = found["checks"]
    return lines


@pytest.mark.slow
def test_it_measures_on_a_cpu_what_is_tiny_and_writes_what_it_finds(tmp_path: Path) -> None:
    all_lines = run_bench(tmp_path, "--only", "default", "modern", "machine", "attention", "decoding")
    passed = [line["name"] for line in all_lines if line["passed"]]
    determinism = [
        "determinism default",
        "determinism default eager",
        "determinism default dropout",
        "determinism default fp16",
    ]
    assert passed == [*determinism, "determinism modern"]
    lines = {line["name"]: line for line in all_lines}
    assert lines["speed default 2"]["figures"]["tokens_per_second"] > 0
    assert lines["attention 32 own"]["figures"]["the same twice"]
    assert lines["attention 32 conversations"]["figures"]["the same twice"]
    sums = lines["exact sums default eager"]["figures"]
    assert sums["add ms"] > 0
    assert sums["convert ms"] > 0
    assert sums["sums GB"] > 0.02, "eight bytes for each of three million parameters"
    assert lines["decoding default 1"]["figures"]["tokens_per_second"] > 0
    assert lines["decoding default 1 compiled"]["figures"]["tokens_per_second"] > 0
    assert lines["decoding modern 1"]["figures"]["tokens_per_second"] > 0
    for name in ("AdamW default", "AdamW modern", "Muon modern"):
        assert min(lines[name]["figures"]["kernels ms"], lines[name]["figures"]["whole ms"]) > 0
    assert lines["checkpoint default"]["figures"]["gigabytes"] > 0.03, "three million parameters and their moments"
    rows = (tmp_path / "gpu-tiny.md").read_text("utf-8").splitlines()[4:]
    assert len(rows) == 2 + len(all_lines)
    assert rows[2].startswith("| determinism default | yes |  | seconds ")
    assert any(row.startswith("| machine |  | bf16 product 773 TFLOP/s") for row in rows), "the prediction beside it"


@pytest.mark.slow
def test_a_training_that_is_killed_and_skips_steps_ends_on_two_ranks_in_the_same_bits(tmp_path: Path) -> None:
    name = "fp16 killed, then two ranks"
    straight, killed, skipped = run_bench(tmp_path, "--only", "resume", "--courses", name)[1:]
    assert straight["name"] == "resume: fp16"
    assert killed["name"] == f"resume: {name}"
    assert killed["passed"]
    assert killed["figures"]["attempts from step"] == [0, 8]
    assert killed["figures"]["weights"] == straight["figures"]["weights"]
    assert skipped["passed"]
    steps = skipped["figures"]["steps"]
    assert steps[0] == 1
    assert steps[-1] > 8


@pytest.mark.slow
def test_qwen3_and_muon_killed_end_on_two_ranks_in_the_same_bits(tmp_path: Path) -> None:
    name = "modern killed, then two ranks"
    straight, killed = run_bench(tmp_path, "--only", "resume", "--courses", name)[1:]
    assert straight["name"] == "resume: modern"
    assert killed["passed"]
    assert killed["figures"]["attempts from step"] == [0, 8]
    assert killed["figures"]["weights"] == straight["figures"]["weights"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("gpu")


@pytest.fixture
def write(gpu: Any, tmp_path: Path) -> Callable[..., Path]:
    """A training of two attempts as it lies on disk."""

    def run(name: str, second_from: int = 14, loss: float = 2.5, weights: bytes = b"w", moments: bytes = b"m") -> Path:
        path = tmp_path / name
        final = path / "checkpoints" / f"step-{gpu.STEPS:08d}"
        final.mkdir(parents=True)
        (final / "model.safetensors").write_bytes(header({"a": Kind("U8", [1], 1)}) + weights)
        (final / "optimizer.safetensors").write_bytes(header({"m.a": Kind("U8", [1], 1)}) + moments)
        records: list[dict[str, Any]] = [{"kind": "start", "step": 0}]
        for step in range(1, gpu.STEPS + 1):
            records.append({"kind": "train", "step": step, "loss": loss if step == 20 else 3.0, "seconds": step})
            if step == second_from:
                records.append({"kind": "start", "step": step})
            if step % gpu.VALIDATED == 0:
                records.append({"kind": "validation", "step": step, "loss": 2.0})
        (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        return path

    return run


def test_a_training_passes_only_if_it_is_equal_to_the_last_bit(gpu: Any, write: Callable[..., Path]) -> None:
    straight, killed = write("straight"), gpu.COURSES["killed"]
    assert gpu.compare(write("same"), straight, killed)[0]
    for name, difference in {"loss": 2.5000000000000004, "weights": b"v", "moments": b"n"}.items():
        passed, figures = gpu.compare(write(name, **{name: difference}), straight, killed)
        assert not passed, name
        assert figures["first difference"] or figures["unequal"], name


def test_a_training_passes_only_if_it_was_interrupted_where_it_should_be(gpu: Any, write: Callable[..., Path]) -> None:
    straight, ended = write("straight"), write("ended", second_from=gpu.STEPS)
    assert not gpu.compare(ended, straight, gpu.COURSES["killed"])[0], "the last attempt found it at its end"
    in_validation = gpu.COURSES["stopped in validation"]
    assert gpu.compare(write("in", second_from=gpu.VALIDATED), straight, in_validation)[0]
    for step in (gpu.VALIDATED - 1, gpu.VALIDATED + 1):
        assert not gpu.compare(write(f"at {step}", second_from=step), straight, in_validation)[0]


def test_fp16_passes_only_if_it_skipped_steps_at_the_start_and_after_the_last_resume(gpu: Any, tmp_path: Path) -> None:
    def skipping(*steps: int) -> bool:
        records = [
            {"kind": "train", "step": step, **({"overflow": True} if step in steps else {})} for step in range(1, 31)
        ]
        records.insert(12, {"kind": "start", "step": 12})
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        return bool(gpu.skips(tmp_path)[0])

    assert skipping(1, 2, 20)
    assert not skipping(1, 2, 12)
    assert not skipping(3, 20)
    assert not skipping()
