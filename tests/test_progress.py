"""Progress in a batch log and in the file that `sllm status` reads."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disk import moments
from rich.console import Console
from rich.text import Text

from sllm import progress
from sllm.files import read_json
from sllm.progress import TIME_FORMAT, Bar, line_interval, progress_row, report_to, track


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    report_to(tmp_path / "progress.json")
    yield tmp_path / "progress.json"
    report_to(None)


def test_a_line_says_when_and_how_far(capsys: pytest.CaptureFixture[str]) -> None:
    with track("pretrain", 1000, "steps", start=100) as bar:
        bar.update(120, loss="3.214", lr="6.00e-04", waiting="for room")
        bar.update(250, loss="3.114", waiting=None)
    line = capsys.readouterr().err
    time.strptime(line[:19], TIME_FORMAT)
    figures = r" pretrain  25%  250/1,000 steps  loss 3\.114  lr 6\.00e-04  \d+:\d\d left\n"
    assert re.fullmatch(figures, line[19:])


def test_a_log_grows_slowly() -> None:
    week = 7 * 24 * 3600
    elapsed, lines = 0.0, 0
    while elapsed < week:
        elapsed += line_interval(elapsed)
        lines += 1
    assert 10_000 < lines < 11_000
    assert line_interval(10) < 10  # and at first one need not wait for it


def test_a_full_disk_does_not_hide_that_the_work_waits(mount_disk: Callable[..., Path]) -> None:
    disk = mount_disk("1m")
    report_to(disk / "progress.json")
    try:
        bar = Bar("pretrain", 100, "steps", 0)
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
        bar.update(10, waiting="for room")
        bar.close()
        assert read_json(disk / "progress.json")["fields"] == {"waiting": "for room"}
        size = (disk / "progress.json").stat().st_size
        bar.fields = {}
        bar.close()
        assert read_json(disk / "progress.json")["fields"] == {}
        assert (disk / "progress.json").stat().st_size == size, "a reader may see the end of the longer record"
    finally:
        report_to(None)


def test_the_file_has_the_figures(file: Path) -> None:
    with track("pack", 10, "bytes") as bar:
        bar.update(10, source="a")
    record = read_json(file)
    assert (record["completed"], record["total"], record["fields"]) == (10, 10, {"source": "a"})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which a test lets pass."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_follows_from_what_was_done_since_the_resume(clock: list[float]) -> None:
    with track("pretrain", 1000, "steps", start=900) as bar:
        assert bar.seconds_left is None
        clock[0] += 10
        bar.update(920)
        assert bar.seconds_left == 40


def test_the_file_is_whole_and_new_while_the_work_goes_on(file: Path, clock: list[float]) -> None:
    seen = []

    def work() -> None:
        with track("pack", 4, "shards") as bar:
            for _ in range(4):
                clock[0] += 1
                bar.advance()
                seen.append(read_json(file)["completed"])

    for moment in moments(file.parent, work):
        assert "progress.json" not in moment.killed or json.loads(moment.killed["progress.json"] or b"")
    assert seen == [1, 2, 3, 4]


def test_other_ranks_than_the_first_show_nothing(
    tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    report_to(tmp_path / "progress.json", silent=True)
    try:
        with track("pretrain", 10, "steps") as bar:
            clock[0] += 100
            bar.advance()
            bar.say("something")
    finally:
        report_to(None)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


def test_a_bar_ends_at_its_end() -> None:
    row = progress_row(Text("sync  "), 12, 10, "0:01 elapsed", Console(width=80).options).plain
    assert "100%" in row
    assert len(row) <= 80
