"""One page that shows a run."""

import html
from pathlib import Path

from sllm.files import atomic_file, make_directory
from sllm.run_directory import RunDirectory


def write_report(run: RunDirectory) -> Path:
    """Write `report/index.html` in the run directory. Returns its path."""
    make_directory(run.report)
    page = run.report / "index.html"
    with atomic_file(page) as file:
        file.write(f"<!doctype html><title>{html.escape(run.name)}</title>".encode())
    return page
