"""How a stage writes what it measured."""

import io
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sllm.files import write_json, write_text


def write_results(directory: Path, results: dict[str, Any], *report: Table) -> None:
    """Write results.json and, for people, results.txt, which is also printed."""
    console = Console(file=io.StringIO(), width=110)
    console.print(*report, sep="\n", markup=False)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    write_json(directory / "results.json", results)
    write_text(directory / "results.txt", text)
    print(text, flush=True)
