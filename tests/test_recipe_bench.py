"""bench/recipe.py trains variants of model and training on the same text."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import write_texts

ROOT = Path(__file__).parents[1]


def test_variants_are_trained_on_the_same_text_and_never_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    bench = importlib.import_module("recipe")
    monkeypatch.setattr(bench, "CONTEXT", 16)
    for language, path in write_texts(tmp_path / "texts", documents=2000).items():
        path.rename(path.with_name(f"{language}-words.jsonl"))
    output = tmp_path / "recipe.json"
    small = ["--steps", "40", "--width", "32", "--layers", "1", "--vocab-size", "300", "--held-out", "64"]
    command = ["recipe.py", str(tmp_path / "texts"), *small, "--work", str(tmp_path / "work"), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [*command, "--variants", "seed", "gpt2, muon", "qwen3"])

    def figures() -> dict[str, list[dict[str, Any]]]:
        bench.main()
        rows = json.loads(output.read_text("utf-8"))["rows"]
        return {row["variant"]: row["runs"] for row in rows if row["equal"] == "steps"}

    found = figures()
    assert {name: len(runs) for name, runs in found.items()} == {"seed": 2, "gpt2, muon": 1, "qwen3": 2}
    for language in ("ko", "en"):
        bits = {name: runs[0]["languages"][language]["bits_per_byte"] for name, runs in found.items()}
        assert len(set(bits.values())) == 3, "each variant is a training of its own"
        sizes = {run["languages"][language]["bytes"] for runs in found.values() for run in runs}
        assert len(sizes) == 1, "all are scored on the same text"
    assert figures() == found, "what was trained is kept, with its times"
