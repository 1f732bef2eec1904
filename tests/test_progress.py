"""Progress in a batch log and in the file that `sllm status` reads."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sllm.files import read_json
from sllm.progress import TIME_FORMAT, Bar, line_interval, report_to, track


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
    finally:
        report_to(None)


def test_the_file_has_the_figures(file: Path) -> None:
    with track("pack", 10, "bytes") as bar:
        bar.update(10, source="a")
    record = read_json(file)
    assert (record["completed"], record["total"], record["fields"]) == (10, 10, {"source": "a"})
