"""What a local submit shows: on terminals of any width, on such that know no cursor, and in pipes."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from jobs import ledger
from jobs.pipeline import STAGES, Step, up_to
from jobs.status.view import View, view
from sllm.files import write_json
from sllm.records import append_jsonl
from sllm.run_directory import RunDirectory

PROGRESS = {
    "description": "pretrain",
    "completed": 120,
    "total": 480,
    "unit": "steps",
    "fields": {"loss": "3.213", "tokens/s": "9,400"},
    "seconds_left": 93.0,
    "time": 1.0,
}


CHAIN = {stage.name: stage for stage in up_to()}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A training that stands at step 120 of 480, after a validation and a checkpoint."""
    run = RunDirectory(tmp_path / "한국어")
    write_json(run.progress("pretrain"), PROGRESS)
    append_jsonl(run.metrics, {"kind": "validation", "step": 120, "loss": 3.4021})
    append_jsonl(run.metrics, {"kind": "checkpoint", "step": 100, "seconds": 0.1})
    return run


def running(run: RunDirectory, console: Console) -> View:
    shown = View(
        run,
        [Step(stage, () if name == "pack" else ("not done yet",)) for name, stage in CHAIN.items()],
        console,
        live=True,
    )
    shown.start(STAGES["pretrain"])
    return shown


def lines_of(shown: View, console: Console) -> list[str]:
    with console.capture() as captured:
        console.print(shown)
    return captured.get().rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [60, 80, 100, 120])
@pytest.mark.parametrize("file", [Terminal(), io.TextIOWrapper(io.BytesIO(), encoding="latin-1")])
def test_a_row_a_stage_that_fits(run: RunDirectory, width: int, file: Any) -> None:
    console = Console(width=width, file=file, color_system=None)
    lines = lines_of(running(run, console), console)
    assert all(cell_len(line) <= width for line in lines)
    rows, below = lines[: len(CHAIN)], lines[len(CHAIN) :]
    assert [row.split()[1] for row in rows] == list(CHAIN)
    assert rows[3].endswith(" 25%  0:00 elapsed, 1:33 left")
    assert [row.split(maxsplit=2)[2] for row in rows if "pretrain" not in row] == [
        "done before" if name == "pack" else "waiting" for name in CHAIN if name != "pretrain"
    ]
    assert "".join(rows + below).count("pretrain") == 1
    for phrase in ("120/480 steps", "loss 3.213", "validation loss 3.402 at step 120", "checkpoint at step 100"):
        assert sum(phrase in line for line in below) == 1
    if file.encoding == "latin-1":
        "\n".join(lines).encode("ascii")


def test_what_was_stopped_has_not_failed(run: RunDirectory) -> None:
    console = Console(width=60, file=Terminal(), color_system=None)
    shown = running(run, console)
    shown.end(STAGES["pretrain"], {"ended": ledger.STOPPED})
    assert lines_of(shown, console)[3] == "■ pretrain   stopped after 0:00  checkpoint at step 100"
    shown.end(STAGES["pretrain"], {"ended": ledger.CRASH})
    assert lines_of(shown, console)[3] == "✗ pretrain   crash after 0:00  checkpoint at step 100"
    shown.end(STAGES["pretrain"], {"ended": ledger.FINISHED})
    assert lines_of(shown, console)[3] == "✓ pretrain   0:00  validation loss 3.402 at step 120"


@pytest.mark.parametrize("where", ["pipe", "dumb terminal"])
def test_plain_lines_where_no_cursor_moves(run: RunDirectory, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "dumb terminal":
        monkeypatch.setenv("TERM", "dumb")
    file = io.StringIO() if where == "pipe" else Terminal()
    monkeypatch.setattr("jobs.status.view.LINE_SECONDS", 0.0)
    with view(run, [Step(stage, ("not done yet",)) for stage in CHAIN.values()], Console(file=file)) as shown:
        shown.start(STAGES["pretrain"])
        shown.refresh()
        shown.end(STAGES["pretrain"], {"ended": ledger.FINISHED})
    text = file.getvalue()
    assert "\x1b" not in text
    assert text.split("\n") == [
        f"pretrain: started, log in {run.log('pretrain')}",
        "pretrain: 120/480 steps  loss 3.213  tokens/s 9,400  validation loss 3.402 at step 120  "
        "checkpoint at step 100  0:00 elapsed, 1:33 left",
        "pretrain: finished after 0:00  validation loss 3.402 at step 120  checkpoint at step 100",
        "",
    ]


def test_a_resume_that_cuts_the_metrics_back(run: RunDirectory) -> None:
    console = Console(width=120, file=Terminal(), color_system=None)
    shown = running(run, console)
    assert "checkpoint at step 100" in "".join(lines_of(shown, console))
    other = run.metrics.with_suffix(".new")
    other.write_text(json.dumps({"kind": "checkpoint", "step": 80, "seconds": 0.1}) + "\n", encoding="utf-8")
    other.replace(run.metrics)
    text = "".join(lines_of(shown, console))
    assert "checkpoint at step 80" in text
    assert "validation loss" not in text
