"""bench/gpu.py is used when a GPU is at hand for minutes: what it does there it must have done here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_it_measures_on_a_cpu_what_is_tiny_and_writes_what_it_finds(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), "--output", str(tmp_path)]
    done = subprocess.run(
        [*command, "--only", "default", "machine", "attention", "decoding"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "COMMIT": "1234567"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu-tiny.json").read_text("utf-8"))
    assert found["commit"] == "1234567"
    lines = {line["name"]: line for line in found["checks"]}
    determinism = ["determinism default", "determinism default eager", "determinism default fp16"]
    passed = [name for name, line in lines.items() if line["passed"]]
    assert passed == [*determinism, "attention 16 flash deterministic"]
    assert lines["speed default 2"]["figures"]["tokens_per_second"] > 0
    assert lines["decoding mini 1"]["figures"]["tokens_per_second"] > 0
    assert lines["checkpoint default"]["figures"]["gigabytes"] > 0.03, "three million parameters and their moments"
    rows = (tmp_path / "gpu-tiny.md").read_text("utf-8").splitlines()[4:]
    assert len(rows) == 2 + len(found["checks"])
    assert rows[2].startswith("| determinism default | yes | equal | ")
