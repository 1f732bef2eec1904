"""Who may read what a run has written: those whom the umask lets."""

from pathlib import Path
from typing import Any

from conftest import UMASK

from sllm.files import read_json


def test_everything_follows_the_umask(finished: Any, place: Path) -> None:
    """What `sllm export` writes too: tests/export/test_transformers.py."""
    modes = read_json(place / "modes.json")
    written = {Path(path).name for path in modes}
    assert {"model.safetensors", "optimizer-2-of-2.safetensors", "done.json", "ledger.jsonl", ".lock"} <= written
    wanted = {True: oct(0o777 & ~UMASK), False: oct(0o666 & ~UMASK)}
    assert {path: mode for path, mode in modes.items() if mode != wanted[(place / path).is_dir()]} == {}
