"""From the hub to a corpus: however often it is stopped or killed on the way, the same comes out, byte for byte."""

import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub import Fault, Handler, Hub, add_dataset, cut, fails, reset, serving, truncated, use
from huggingface_hub import constants
from rich.console import Console
from small_corpora import experiment

import sllm.data.download as download
import sllm.data.hub
import sllm.data.plan as plan
import sllm.data.sources
from jobs.corpus import show_corpus
from sllm.artifacts import Artifacts
from sllm.config import Experiment, load_experiment, write_experiment
from sllm.data.check import check_corpus
from sllm.data.shards import read_shard
from sllm.errors import Stopped, UserError
from sllm.files import read_json
from sllm.manifests import read_manifest
from sllm.records import shard_paths
from sllm.stop import StopFlag

NO_RULES = {"repetition": False, "boilerplate": False, "personal_data": False, "min_hangul": 0.0, "min_latin": 0.0}


def documents(seed: int, count: int, size: int) -> list[str]:
    """Of about `size` bytes each, no two alike."""
    draw = random.Random(seed)
    return [f"{seed}-{number} {draw.randbytes(draw.randrange(size)).hex()}" for number in range(count)]


FILES = [documents(seed, count, 80_000) for seed, count in enumerate((18, 24, 8, 22))]
BOOKS = documents(7, 30, 10_000)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("served") / "hub"
    add_dataset(root, "us/web", {"ko": {"train": FILES}, "en": {"train": [["not asked for"]]}}, rows=4)
    add_dataset(root, "us/books", {"default": {"train": [[*BOOKS, None, FILES[2][5]]]}}, "TEXT")
    with serving(root) as running, pytest.MonkeyPatch.context() as patch:
        use(running.url, root.parent / "hf", patch)
        # Parts of two files and three shards each; faults and stops are met in the middle of them.
        patch.setattr(plan, "PART_BYTES", 2_000_000)
        patch.setattr(sllm.data.sources, "PARQUET_ROWS", 4)
        patch.setattr(sllm.data.hub, "BLOCK", 1 << 16)
        patch.setattr(sllm.data.hub, "FIRST_WAIT", 1e-6)
        patch.setattr(time, "sleep", lambda _: None)
        yield running


@pytest.fixture
def hub(served: Hub) -> Hub:
    served.faults = []
    served.requests.clear()
    return served


@pytest.fixture(scope="module")
def planned(served: Hub) -> Experiment:
    """An experiment with two sources of the hub: four files, which are two parts, and one."""
    return experiment(
        [
            {"kind": "hub", "name": "web", "language": "en", "dataset": "us/web", "config": "ko"},
            {"kind": "hub", "name": "books", "language": "en", "dataset": "us/books", "text_field": "TEXT"},
        ],
        shard_megabytes=1,
        clean=NO_RULES,
    )


@pytest.fixture
def made(hub: Hub, planned: Experiment, tmp_path: Path) -> Experiment:
    return planned.model_copy(update={"data_directory": str(tmp_path / "data")})


@pytest.fixture(scope="module")
def straight(planned: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus as it comes without any fault or stop."""
    corpus = tmp_path_factory.mktemp("straight") / "corpus"
    download.download_stage(planned, corpus, StopFlag(), workers=1)
    return corpus


def texts_of(corpus: Path) -> Counter[str]:
    manifest = read_manifest(corpus, checksums=True)
    return Counter(
        text
        for source in manifest["sources"]
        for split in ("train", "validation")
        for path in shard_paths(corpus, manifest, source, split)
        for text in read_shard(path)
    )


class StopAfter(StopFlag):
    """Stops when it has been asked so often."""

    def __init__(self, documents: int) -> None:
        super().__init__()
        self.left = documents

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stopped("SIGTERM")


def in_the_middle(corpus: Path) -> dict[Path, str]:
    """The journals of parts that are begun and not at their end."""
    journals = {path: path.read_text(encoding="utf-8") for path in (corpus.parent / "sources").glob("*/part-*.jsonl")}
    return {path: text for path, text in journals.items() if not json.loads(text.splitlines()[-1])["end"]}


def test_every_document_once(served: Hub, straight: Path) -> None:
    assert texts_of(straight) == Counter(text for file in [*FILES, BOOKS] for text in file)
    manifest = read_manifest(straight)
    web, books = manifest["sources"]["web"], manifest["sources"]["books"]
    assert web["documents"] == 72
    assert web["revision"] == served.commit("us/web")
    assert (books["dropped"]["duplicate"], books["dropped"]["too_short"]) == (1, 1)
    assert web["dropped"]["duplicate"] == 0
    shards = shard_paths(straight, manifest, "web", "train")
    assert len(shards) >= 6
    assert all(path.stat().st_size < 1_100_000 for path in shards)


def test_stopped_at_any_document_it_goes_on_from_the_last_shard(
    hub: Hub, made: Experiment, straight: Path, tmp_path: Path
) -> None:
    """A document that came twice would be dropped as a duplicate, which the manifest counts."""
    draw = random.Random(1)
    faults: list[Fault] = [fails(503, Retry_After="0"), cut, reset, truncated]
    corpus = tmp_path / "corpus"

    class StopAfterShard(StopFlag):
        """Stops some documents after the next shard within a part."""

        def __init__(self) -> None:
            super().__init__()
            self.before, self.left = in_the_middle(corpus), draw.randrange(12)

        def check(self) -> None:
            self.left -= bool(in_the_middle(corpus).items() - self.before.items())
            if self.left < 0:
                raise Stopped("SIGTERM")

    stops = 0
    while True:
        # The client tries six times before we hear of it.
        hub.faults = [lambda *_: False] * draw.randrange(20) + [draw.choice(faults)] * 6
        try:
            download.download_stage(made, corpus, StopAfterShard(), workers=1)
            break
        except Stopped:
            stops += 1
    assert stops > 3
    assert read_manifest(corpus) == read_manifest(straight)


SCRIPT = """
import sys
from pathlib import Path
import sllm.data.download as download
import sllm.data.plan as plan
import sllm.data.hub
import sllm.data.sources
from sllm.config import load_experiment
from sllm.errors import Stopped
from sllm.stop import stop_on_signals
plan.PART_BYTES = 2_000_000  # in its workers too
sllm.data.sources.PARQUET_ROWS = 4
sllm.data.hub.BLOCK = 1 << 16
if __name__ == "__main__":
    try:
        with stop_on_signals() as stop:
            download.download_stage(load_experiment(Path(sys.argv[1])), Path(sys.argv[2]), stop, workers=2)
    except Stopped:
        sys.exit(3)
"""


def test_killed_in_the_middle_of_a_part_it_goes_on_from_the_last_shard(
    hub: Hub, made: Experiment, straight: Path, tmp_path: Path
) -> None:
    (tmp_path / "made.yaml").write_text(write_experiment(made), encoding="utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    corpus = tmp_path / "often" / "corpus"

    def attempt(number: signal.Signals | None) -> int:
        """Run it; send the signal to all its processes, as Slurm does, before an answer after another shard."""
        arguments = [sys.executable, "script.py", "made.yaml", str(corpus)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        before = in_the_middle(corpus)
        process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, start_new_session=True)

        def end(_: Handler, __: bytes) -> bool:
            if in_the_middle(corpus).items() - before.items():
                os.killpg(process.pid, number)  # type: ignore[arg-type]
                hub.faults = []
            return False

        hub.faults = [end] * 1000 if number else []
        return process.wait()

    assert attempt(signal.SIGKILL) == -signal.SIGKILL
    assert in_the_middle(corpus)
    assert attempt(signal.SIGTERM) == 3
    assert not corpus.exists()
    assert attempt(None) == 0
    assert read_manifest(corpus) == read_manifest(straight)
    assert not list((tmp_path / "often").rglob("*.tmp"))


def test_a_shard_without_its_journal_line_is_not_counted(made: Experiment, straight: Path, tmp_path: Path) -> None:
    """A kill came between the two."""
    with pytest.raises(Stopped):
        download.download_stage(made, tmp_path / "corpus", StopAfter(96), workers=1)
    (journal,) = in_the_middle(tmp_path / "corpus")
    for path in (journal, journal.with_name("part-00000.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[:-1]), encoding="utf-8")
    download.download_stage(made, tmp_path / "corpus", StopFlag(), workers=1)
    assert read_manifest(tmp_path / "corpus") == read_manifest(straight)


def test_a_source_is_shared_by_corpora_and_brought_alone(hub: Hub, made: Experiment, tmp_path: Path) -> None:
    only = download.download_stage(made, tmp_path / "a", StopFlag(), workers=1, only=["books"])
    assert only["missing"] == ["web"]
    assert not (tmp_path / "a").exists()
    download.download_stage(made, tmp_path / "a", StopFlag(), workers=1)
    more = made.data.sources[0].model_copy(update={"name": "more", "config": "en", "weight": 3.0})
    before = Counter(hub.requests)
    both = made.data.model_copy(update={"sources": (*made.data.sources, more), "near_duplicates": False})
    with pytest.raises(UserError, match="more: no document is left to train on"):
        download.download_stage(made.model_copy(update={"data": both}), tmp_path / "b", StopFlag(), workers=1)
    asked = {path for path in hub.requests - before if path.endswith(".parquet")}
    assert all("/en/" in path for path in asked)


def test_a_limit_takes_beginnings_spread_over_the_files(
    made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PART_BYTES", 400_000)
    small = made.model_copy(update={"data": made.data.model_copy(update={"limit_megabytes": 1})})
    summary = download.download_stage(small, tmp_path / "corpus", StopFlag(), workers=1)
    firsts = {text.partition(" ")[0] for text in texts_of(tmp_path / "corpus")} & {f"{file}-0" for file in range(4)}
    assert firsts == {"0-0", "2-0"}
    assert 1_000_000 <= summary["sources"]["web"]["bytes"] < 1_320_000
    monkeypatch.setattr(plan, "PART_BYTES", 2_000_000)  # one part, of several shards
    more = made.model_copy(update={"data": made.data.model_copy(update={"limit_megabytes": 2})})
    summary = download.download_stage(more, tmp_path / "more", StopFlag(), workers=1, only=["web"])
    assert 2_000_000 <= summary["sources"]["web"]["bytes"] < 2_160_000


def test_what_has_changed_since_is_not_mixed(hub: Hub, made: Experiment, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        download.download_stage(made, tmp_path / "corpus", StopAfter(50), workers=1)
    store = download.store_of(made.data.sources[0], made, tmp_path / "corpus")
    journal = store / "part-00000.jsonl"
    line = json.loads(journal.read_text(encoding="utf-8").splitlines()[0])
    journal.write_text(json.dumps({**line, "last": "0" * 16, "end": False}) + "\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"web: hf://.*train-0000[01].* has changed since the download began; .*--force"
    ):
        download.download_stage(made, tmp_path / "corpus", StopFlag(), workers=1)


def test_too_little_room_is_told_before_the_work(
    hub: Hub, made: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(UserError, match=r"1.0 MB are free, the corpora still need about .* MB \(web .*, books .*\)"):
        download.download_stage(made, tmp_path / "corpus", StopFlag(), workers=1)
    assert not list((tmp_path / "sources").rglob("*.zst"))


@pytest.fixture
def small_disk(mount_disk: Callable[[str], Path]) -> Path:
    """A file system of its own, of 2 MB."""
    return mount_disk("2m")


def test_a_full_disk_ends_it_at_the_last_shard(
    made: Experiment, straight: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(straight)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)  # as with a quota, which no one is told of
    with pytest.raises(OSError, match="No space left on device") as error:
        download.download_stage(made, small_disk / "corpus", StopFlag(), workers=1)
    assert str(error.value.filename).startswith(str(small_disk))
    assert not list(small_disk.rglob("*.tmp"))
    written = {path: path.stat().st_mtime_ns for path in (small_disk / "sources").rglob("*.zst")}
    assert written
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    download.download_stage(made, small_disk / "corpus", StopFlag(), workers=1)
    assert read_manifest(small_disk / "corpus") == read_manifest(straight)
    now = {path: path.stat().st_mtime_ns for path in (small_disk / "sources").rglob("*.zst")}
    assert len(written.items() & now.items()) >= len(written) - 2  # but for those that were not committed


def test_every_source_that_cannot_be_had_is_told_and_optional_ones_are_left_out(
    made: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web, books = made.data.sources
    talk = {"kind": "aihub", "name": "talk", "folder": str(tmp_path / "none"), "optional": True}
    wrong = experiment(
        [web.model_dump() | {"config": "fr"}, books.model_dump() | {"text_field": "text"}, {**talk, "optional": False}]
    )
    with pytest.raises(UserError) as caught:
        download.download_stage(wrong, tmp_path / "wrong", StopFlag(), workers=1)
    lines = str(caught.value).split("\n")
    assert [line.split(":")[1].strip() for line in lines] == ["web", "books", "talk"]
    assert "https://aihub.or.kr" in lines[2]
    left = experiment([web.model_dump(), talk], clean=NO_RULES)
    summary = download.download_stage(left, tmp_path / "left", StopFlag(), workers=1)
    assert list(summary["sources"]) == ["web"]
    assert "https://aihub.or.kr" in read_manifest(tmp_path / "left")["skipped"]["talk"]
    assert "going on without talk" in capsys.readouterr().err


def test_check_data_finds_what_is_missing_or_broken(made: Experiment, tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    path.write_text(write_experiment(made), encoding="utf-8")
    made = load_experiment(path)
    corpus = Artifacts(made).corpus

    def report() -> tuple[int, str]:
        console = Console(width=250, record=True, file=io.StringIO())
        return show_corpus(made, console, samples=True), console.export_text()

    code, text = report()
    assert code == 1
    assert "the corpus is not there yet; `sllm download CONFIG` brings it" in text
    download.download_stage(made, corpus, StopFlag(), workers=1)
    code, text = report()
    assert code == 0
    web, books = check_corpus(made, corpus, StopFlag())
    assert (web.documents, books.documents) == (72, 30)
    assert web.share == 1.0
    assert len(web.samples) == 3
    assert "whole shards" not in text
    assert "1 too short" in text
    shard = next((corpus / "web").glob("train-00001-*.zst"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.unlink()  # it is a link to the one that the next download would take
    shard.write_bytes(content)
    next((corpus / "books").glob("train-*.zst")).unlink()
    code, text = report()
    assert code == 1
    assert f"web: {shard} does not match its checksum" in text
    assert "books: " in text
    assert " is missing" in text
    assert "`sllm download CONFIG --source web --force` gets it anew" in text


def test_offline_nothing_is_asked_for(made: Experiment, hub: Hub, tmp_path: Path, monkeypatch: Any) -> None:
    """What is on disk needs no hub; what is not says why it cannot be had."""
    download.download_stage(made, tmp_path / "corpus", StopFlag(), workers=1)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    shutil.rmtree(tmp_path / "corpus")
    download.download_stage(made, tmp_path / "corpus", StopFlag(), workers=1)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        download.download_stage(made, tmp_path / "elsewhere" / "corpus", StopFlag(), workers=1)
    assert not hub.requests


@pytest.fixture
def unreachable(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process cannot reach."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{bound.getsockname()[1]}")
        yield hub


def test_a_hub_that_cannot_be_reached_is_told_once_for_all(
    made: Experiment, unreachable: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web, books = made.data.sources
    missing = {"kind": "files", "name": "mine", "language": "en", "paths": [str(tmp_path / "*.jsonl")]}
    with pytest.raises(UserError) as caught:
        download.download_stage(experiment([web.model_dump(), books.model_dump(), missing]), tmp_path / "a", StopFlag())
    files, reason = str(caught.value).split("\n")
    assert files.startswith("data.sources: mine: no file matches")
    assert re.match(r"data\.sources: web, books: http://.*: given up after 8 failures in a row \(.*refused\)", reason)
    assert re.match(r"http://.*refused; try 1 of 8, the next in 0 s\n", capsys.readouterr().err)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in FILES[0]), encoding="utf-8")
    optional = {**web.model_dump(), "optional": True}
    download.download_stage(experiment([optional, missing], clean=NO_RULES), tmp_path / "b", StopFlag())
    manifest = read_manifest(tmp_path / "b")
    assert list(manifest["sources"]) == ["mine"]
    assert "given up after 8 failures" in manifest["skipped"]["web"]
    assert "going on without web: http://" in capsys.readouterr().err
    assert not unreachable.requests


def test_the_command_tells_at_once_that_the_hub_is_silent_and_can_be_stopped(made: Experiment, tmp_path: Path) -> None:
    path = tmp_path / "made.yaml"
    path.write_text(write_experiment(made), encoding="utf-8")
    command = [sys.executable, "-c", "from jobs.cli import main; main()", "download", str(path)]
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        line = process.stderr.readline()
        assert re.match(rf"{endpoint}: (no answer for 1\.5 s|timed out); try 1 of 8, the next in \d s\n", line)
        progress = read_json(tmp_path / "runs" / made.name / "stages" / "download" / "progress.json")
        assert list(progress["fields"].values()) == [line.rstrip("\n")]
        process.terminate()
        output, _ = process.communicate()
    assert "outcome stopped (SIGTERM)" in output
    assert process.returncode == 0


def test_a_worker_that_waits_for_the_hub_is_ended_by_a_stop(made: Experiment, hub: Hub, tmp_path: Path) -> None:
    """The client would go on for more than a minute, and never look up."""
    begun = threading.Event()

    def hang(handler: Handler, _: bytes) -> bool:
        begun.set()
        over.wait()
        return True

    class StopOnceBegun(StopFlag):
        def check(self) -> None:
            if begun.is_set():
                raise Stopped("SIGTERM")

    over = threading.Event()
    hub.faults = [hang] * 100
    only = made.model_copy(update={"data": made.data.model_copy(update={"sources": made.data.sources[1:]})})
    try:
        with pytest.raises(Stopped):
            download.download_stage(only, tmp_path / "corpus", StopOnceBegun())
    finally:
        over.set()
