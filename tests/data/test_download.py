"""The corpus: clean, counted, each document once and on one side; whole or not there."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from small_corpora import downloaded, experiment, over_files, sentences, write_jsonl

import sllm.data.minhash as minhash
import sllm.data.plan as plan
from sllm.artifacts import VERSIONS
from sllm.config import Experiment
from sllm.data.download import download_stage, store_of
from sllm.data.parts import Part, _remove_uncommitted
from sllm.data.shards import read_shard
from sllm.data.text import normalise
from sllm.errors import Stopped, UserError
from sllm.files import alone_with
from sllm.manifests import read_manifest
from sllm.stop import StopFlag


def corpus_texts(corpus: Path, source: str, split: str) -> list[str]:
    return [text for path in sorted((corpus / source).glob(f"{split}-*.zst")) for text in read_shard(path)]


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    korean, english = sentences(300, "ko"), sentences(200)
    repeated = [normalize("NFD", korean[7]), korean[9] + "\r\n", "짧다"]
    made = over_files(
        tmp_path / "input",
        {"ko": korean + repeated, "en": [*english, english[8], korean[8], "x" * 999]},
        min_characters=10,
    )
    corpus = tmp_path / "corpus"
    summary = download_stage(made, corpus, StopFlag())

    manifest = read_manifest(corpus, checksums=True)
    assert manifest["sources"] == summary["sources"]
    kept = {}
    for source, count, dropped in (
        ("ko", 300, {"too_short": ["짧다"], "duplicate": [korean[7], korean[9]]}),
        ("en", 200, {"language": [korean[8]], "repeated_characters": ["x" * 999], "duplicate": [english[8]]}),
    ):
        entry = summary["sources"][source]
        assert entry["language"] == source
        assert entry["documents"] == count
        assert Counter(entry["dropped"]) == Counter({reason: len(texts) for reason, texts in dropped.items()})
        sizes = {reason: sum(len(text.encode()) for text in texts) for reason, texts in dropped.items()}
        assert Counter(entry["lost"]) == Counter(sizes)
        for split in ("train", "validation"):
            texts = corpus_texts(corpus, source, split)
            assert entry[split]["documents"] == len(texts) > 0
            assert entry[split]["bytes"] == sum(len(text.encode()) for text in texts)
            kept[source, split] = texts
        assert entry["bytes"] == entry["train"]["bytes"] + entry["validation"]["bytes"]
    every = [text for texts in kept.values() for text in texts]
    assert len(every) == len(set(every)) == summary["documents"] == 500
    assert set(every) == {normalise(text) for text in korean + english}
    # Order is kept, so a reader can find a document again.
    order = {text: number for number, text in enumerate(korean)}
    assert kept["ko", "train"] == sorted(kept["ko", "train"], key=lambda text: order.get(text, 300))


def test_what_a_source_loses_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each that loses more than a tenth of its bytes; the first file is not the one to be named."""
    made = over_files(
        tmp_path,
        {"ko": sentences(200, "ko"), "ko-mixed": sentences(300, "ko")[190:], "en": [*sentences(200), "짧다"]},
        validation_fraction=0.2,
    )
    foreign = [f"Foreign {text} and so on." for text in sentences(40)]
    write_jsonl(tmp_path / "ko-mixed-2.jsonl", ["한글만 있는 글은 남습니다. 정말입니다.", *foreign, "짧다"])
    ko, mixed, en = made.data.sources
    mixed = mixed.model_copy(update={"paths": (*mixed.paths, str(tmp_path / "ko-mixed-2.jsonl"))})  # type: ignore[union-attr]
    made = made.model_copy(update={"data": made.data.model_copy(update={"sources": (ko, mixed, en)})})
    summary = download_stage(made, tmp_path / "corpus", StopFlag())
    lines = [line for line in capsys.readouterr().err.splitlines() if "is left out" in line]
    lost = summary["sources"]["ko-mixed"]["lost"]
    assert lost["language"] == sum(len(text.encode()) for text in foreign)
    share = sum(lost.values()) / (sum(lost.values()) + summary["sources"]["ko-mixed"]["bytes"])
    (line,) = [line for line in lines if "ko-mixed: " in line]
    assert f"{100 * share:.0f}% of its text is left out" in line
    assert line.index(" language") < line.index(" duplicate")  # what took most is first
    assert f"ko-mixed-2.jsonl row 2: {foreign[0][:40]}" in line
    assert "data.clean.min_hangul (0.2)" in line
    assert not [line for line in lines if " ko: " in line or line.startswith("ko: ") or "en: " in line]


def test_embedded_text(tmp_path: Path) -> None:
    sources = [
        {"name": name, "kind": "embedded", "language": language, "megabytes": 0.1}
        for name, language in (("ko", "ko"), ("en", "en"))
    ]
    summary = download_stage(experiment(sources), tmp_path / "corpus", StopFlag())
    for entry in summary["sources"].values():
        assert 0.08e6 < entry["bytes"] < 0.13e6
        assert sum(entry["lost"].values()) < 0.02 * entry["bytes"]
    hangul = sum("가" <= c <= "힣" for text in corpus_texts(tmp_path / "corpus", "ko", "train") for c in text)
    assert hangul > 5_000


def test_the_same_bytes_again(tmp_path: Path) -> None:
    texts = {"ko": sentences(100, "ko"), "en": sentences(100)}
    first, second = (downloaded(tmp_path / name, texts)[1] for name in "ab")
    assert read_manifest(first) == read_manifest(second)


def test_a_job_array_shares_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By parts, of one source too: reading, cleaning and the hashing for near duplicates. As many tasks as there are
    give the same bytes, and the call after them has nothing left but to compare."""
    monkeypatch.setattr(plan, "PART_BYTES", 1)  # each file a part
    texts = sentences(400, "ko")
    texts[300:340] = [text.replace(" ", "  ").replace(".", "…") for text in texts[:40]]
    files = [str(write_jsonl(tmp_path / f"{i}.jsonl", texts[100 * i : 100 * i + 100])) for i in range(4)]
    en = str(write_jsonl(tmp_path / "en.jsonl", sentences(100)))
    ko = {"name": "ko", "kind": "files", "language": "ko", "paths": files}
    made = experiment([ko, {**ko, "name": "en", "language": "en", "paths": [en]}], near_duplicates=True)
    straight = download_stage(made, tmp_path / "straight" / "corpus", StopFlag(), workers=1)
    assert straight["sources"]["ko"]["dropped"]["near_duplicate"] == 40
    for tasks, missing in ((1, [[]]), (2, [["ko"], []]), (3, [["ko", "en"], ["ko"], []])):
        corpus = tmp_path / str(tasks) / "corpus"
        alive = store_of(made.data.sources[0], made, corpus) / ".train-00003-00000.jsonl.zst.other-1.tmp"
        alive.parent.mkdir(parents=True)
        alive.touch()  # as if another task wrote it
        for task, left in zip(reversed(range(tasks)), missing, strict=True):
            shared = download_stage(made, corpus, StopFlag(), workers=1, share=(task, tasks))
            assert shared == {"missing": left}
            assert alive.exists() == (task > 4 % tasks)  # the last part of five is of another task
        assert not corpus.exists()
        with monkeypatch.context() as patch:
            patch.setattr(minhash, "band_keys", None)
            assert download_stage(made, corpus, StopFlag(), workers=1) == straight
        assert read_manifest(corpus, checksums=True) == read_manifest(tmp_path / "straight" / "corpus")
        assert {path.name for path in corpus.parent.iterdir()} == {"corpus", "sources", ".corpus.alone"}


def test_a_part_is_brought_by_one_process_at_a_time(tmp_path: Path) -> None:
    """What another one writes meanwhile is not taken for what a kill left."""
    made = over_files(tmp_path / "input", {"en": sentences(100)})
    corpus, stop = tmp_path / "corpus", StopFlag(deadline=time.time() + 1)
    store = store_of(made.data.sources[0], made, corpus)
    store.mkdir(parents=True)
    being_written = [store / ".train-00000-00000.jsonl.zst.other-1.tmp", store / "train-00000-00000.jsonl.zst"]
    with alone_with(store / "part-00000.jsonl", stop.check):
        for path in being_written:
            path.touch()
        with pytest.raises(Stopped):
            download_stage(made, corpus, stop, workers=1)
        assert all(path.exists() for path in being_written)
    download_stage(made, corpus, StopFlag(), workers=1)
    assert not being_written[0].exists()
    assert len(corpus_texts(corpus, "en", "train")) + len(corpus_texts(corpus, "en", "validation")) == 100


def test_a_whole_corpus_is_left_alone(tmp_path: Path) -> None:
    made, corpus = downloaded(tmp_path, {"en": sentences(100)})
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    Path(made.data.sources[0].paths[0]).unlink()  # type: ignore[union-attr]
    again = download_stage(made, corpus, StopFlag())
    assert again["documents"] == 100
    assert again["sources"] == read_manifest(corpus)["sources"]
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_a_damaged_corpus_is_made_again(tmp_path: Path) -> None:
    made, corpus = downloaded(tmp_path, {"en": sentences(100)})
    whole = read_manifest(corpus, checksums=True)
    (corpus / "en" / "train-00000-00000.jsonl.zst").unlink()
    download_stage(made, corpus, StopFlag())
    assert read_manifest(corpus, checksums=True) == whole


RECORDS = {
    "en": [
        *({"text": text, "other": f"Other {text}"} for text in sentences(80)),
        *(
            {"text": f"{name} said so: write to {name}@example.org at once.", "other": "짧다"}
            for name in ("Tom", "Ann")
        ),
        {"text": " ".join(sentences(40)), "other": None},
        {"text": "x" * 999, "other": None},
        {"text": "The end.", "other": None},
        *({"text": text, "other": None} for text in sentences(100, "ko")[60:]),
    ],
    "ko": [
        *({"text": text} for text in sentences(60, "ko")),
        {"text": "저녁에 바다와 산이 보이는 마을에서 책을 읽었다.\n무단 전재 및 재배포 금지"},
        {"text": "Only a little 한글 is in this text, and it is one of the longer ones."},
    ],
}

CHANGES: dict[str, dict[str, Any]] = {
    "min_characters": {"min_characters": 100},
    "max_characters": {"max_characters": 100},
    "min_hangul": {"clean": {"min_hangul": 0.01}},
    "min_latin": {"clean": {"min_latin": 0.0}},
    "repetition": {"clean": {"repetition": False}},
    "boilerplate": {"clean": {"boilerplate": False}},
    "personal_data": {"clean": {"personal_data": False}},
    "validation_fraction": {"validation_fraction": 0.3},
    "text_field": {"en": {"text_field": "other"}},
    "language": {"en": {"language": "ko"}},
    "megabytes": {"made": {"megabytes": 0.04}},
    "seed": {},
    "a file": {},
}


def test_other_settings_in_the_same_data_directory_give_what_a_fresh_one_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a source has on disk is used again, but only where it is what would be made now."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # most of the time of so many small corpora
    paths = {name: tmp_path / f"{name}.jsonl" for name in RECORDS}

    def write(name: str, records: list[dict[str, Any]]) -> None:
        paths[name].write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")

    def manifest(directory: Path, change: str) -> dict[str, Any]:
        changes = dict(CHANGES.get(change, {}))
        sources: list[dict[str, Any]] = [
            {"kind": "files", "name": name, "language": name, "paths": [str(paths[name])]} for name in RECORDS
        ]
        sources.append({"kind": "embedded", "name": "made", "language": "en", "megabytes": 0.03})
        sources = [source | changes.pop(source["name"], {}) for source in sources]
        made = experiment(sources, **changes).model_copy(update={"seed": 7 if change == "seed" else 1})
        download_stage(made, directory / change, StopFlag(), workers=1)
        return read_manifest(directory / change)

    for name, records in RECORDS.items():
        write(name, records)
    base = manifest(tmp_path / "shared", "as it was")
    for number, change in enumerate(CHANGES):
        if change == "a file":
            write("en", [{"text": f"Now {text}"} for text in sentences(80)])
        found = manifest(tmp_path / "shared", change)
        assert found == manifest(tmp_path / f"fresh {number}", change), change
        assert found != base, change


def test_a_shard_that_is_cut_short_or_gone_is_no_part_of_a_corpus(tmp_path: Path) -> None:
    made, corpus = downloaded(tmp_path, {"en": sentences(100)})
    whole = read_manifest(corpus)
    shutil.rmtree(corpus)
    store = store_of(made.data.sources[0], made, corpus)
    files = sorted(store.glob("*-*-*"))
    assert len(files) == 4  # of two splits a shard and its digests
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        for _ in range(2):
            with pytest.raises(UserError, match=rf"{path} is gone or damaged; .* --source en --force` gets it anew"):
                download_stage(made, corpus, StopFlag())
            assert not corpus.exists()
            path.unlink(missing_ok=True)
        path.write_bytes(content)
    download_stage(made, corpus, StopFlag())
    assert read_manifest(corpus) == whole


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"en": sentences(50), "ko": []}, r"ko: no document is left to train on \(its files hold none\)"),
        ({"en": ["a", "b"]}, r"en: no document is left .* \(2 too short\); .* data\.min_characters \(20\)"),
        ({"en": sentences(50), "en2": sentences(50)}, r"en2: no document is left .* \(50 duplicate\)"),
    ],
)
def test_an_empty_corpus(tmp_path: Path, texts: dict[str, list[str]], message: str) -> None:
    made = over_files(tmp_path / "input", texts)
    with pytest.raises(UserError, match=message):
        download_stage(made, tmp_path / "out" / "corpus", StopFlag())
    assert not list((tmp_path / "out").glob("[!.]*/manifest.json"))


def test_no_validation_document_says_which_fraction_has_one(tmp_path: Path) -> None:
    texts = {"en": sentences(30)}
    with pytest.raises(UserError, match="none of its 30 documents falls to validation") as caught:
        download_stage(over_files(tmp_path, texts, validation_fraction=1e-6), tmp_path / "corpus", StopFlag())
    found = re.search(r"set data\.validation_fraction to ([0-9.]+) or more", str(caught.value))
    assert found is not None
    enough = over_files(tmp_path, texts, validation_fraction=float(found[1]))
    summary = download_stage(enough, tmp_path / "corpus", StopFlag())
    assert summary["sources"]["en"]["validation"]["documents"] == 1


def test_a_single_document_cannot_be_both(tmp_path: Path) -> None:
    sides = set()
    for number in range(20):
        made = over_files(tmp_path, {"en": sentences(number + 1)[-1:]}, validation_fraction=0.4)
        with pytest.raises(UserError, match=r"falls to validation.*add text$|fall to validation; add text") as caught:
            download_stage(made, tmp_path / "corpus", StopFlag())
        sides.add("all 1" in str(caught.value))
    assert sides == {True, False}


def test_bad_input_leaves_nothing(tmp_path: Path) -> None:
    made = over_files(tmp_path / "input", {"en": sentences(100), "ko": sentences(100, "ko")})
    with (tmp_path / "input" / "ko.jsonl").open("ab") as file:
        file.write(b'{"text": "\xb0\xa1"}\n')
    with pytest.raises(UserError, match=r"ko\.jsonl:101: not valid UTF-8"):
        download_stage(made, tmp_path / "out" / "corpus", StopFlag())
    assert not list((tmp_path / "out").glob("[!.]*/manifest.json"))


def test_every_path_is_checked_before_the_work(tmp_path: Path) -> None:
    made = over_files(tmp_path, {"ko": sentences(10, "ko"), "en": sentences(10)})
    (tmp_path / "ko.jsonl").write_bytes(b"\xff")  # would be reported first if it were read
    (tmp_path / "en.jsonl").unlink()
    with pytest.raises(UserError, match="en: no file matches"):
        download_stage(made, tmp_path / "corpus", StopFlag())


class Meanwhile(StopFlag):
    """Does something before a certain document is read."""

    def __init__(self, documents: int, action: Callable[[], object]) -> None:
        super().__init__()
        self.left, self.action = documents, action

    def check(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.action()


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    made = over_files(tmp_path / "input", {"en": sentences(300)})
    path = tmp_path / "input" / "en.jsonl"
    whole = path.read_bytes()
    more = Meanwhile(100, lambda: path.write_bytes(whole + whole))
    with pytest.raises(UserError, match=r"en: .*/en\.jsonl has changed while it was read; run the same command again"):
        download_stage(made, tmp_path / "out" / "corpus", more)
    assert not (tmp_path / "out" / "corpus").exists()
    path.write_bytes(whole)
    assert download_stage(made, tmp_path / "out" / "corpus", StopFlag())["documents"] == 300


def test_a_file_that_vanishes_before_it_is_read_is_named(tmp_path: Path) -> None:
    for name in "ab":
        write_jsonl(tmp_path / "input" / f"{name}.jsonl", sentences(100))
    files = {"name": "en", "kind": "files", "language": "en", "paths": [str(tmp_path / "input" / "*.jsonl")]}
    purge = Meanwhile(50, lambda: shutil.rmtree(tmp_path / "input"))
    with pytest.raises(UserError, match=r"/input/b\.jsonl: No such file or directory"):
        download_stage(experiment([files]), tmp_path / "out" / "corpus", purge)
    assert not (tmp_path / "out" / "corpus").exists()


def test_a_local_file_is_gone_on_with_in_its_middle(tmp_path: Path) -> None:
    draw = random.Random(1)
    texts = [f"{number} {draw.randbytes(25_000).hex()}" for number in range(50)]
    rules = {"repetition": False, "min_latin": 0.0, "personal_data": False}
    made = over_files(tmp_path, {"en": texts}, shard_megabytes=1, clean=rules)

    def stop() -> None:
        raise Stopped("SIGTERM")

    with pytest.raises(Stopped):
        download_stage(made, tmp_path / "stopped" / "corpus", Meanwhile(45, stop), workers=1)
    assert list((tmp_path / "stopped" / "sources").rglob("*.zst"))
    for name in ("stopped", "straight"):
        download_stage(made, tmp_path / name / "corpus", StopFlag(), workers=1)
    assert read_manifest(tmp_path / "stopped" / "corpus") == read_manifest(tmp_path / "straight" / "corpus")


def test_shards_without_a_line_in_the_journal_go_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = over_files(tmp_path, {"en": sentences(1)})
    store = tmp_path / "store"
    store.mkdir()
    part = Part(made.data.sources[0], 7, ("a",), (), None, store, made.data, 1)
    committed = ["train-00007-00000", "validation-00007-00000", "validation-00007-00001"]
    not_committed = ["train-00007-00001", "train-00007-00002", "validation-00007-00002"]
    for stem in [*committed, "train-00008-00001", *not_committed]:
        (store / f"{stem}.jsonl.zst").touch()
        (store / f"{stem}.digests").touch()
    (store / "train-00007-00002.jsonl.zst").unlink()  # its digests come before it
    with monkeypatch.context() as context:
        context.setattr(Path, "glob", None)  # of a store with a million files, for each of thousands of parts
        _remove_uncommitted(part, [{"shards": {"train": 1, "validation": 2}}])
    assert {path.name.split(".")[0] for path in store.iterdir()} == {*committed, "train-00008-00001"}


def test_another_version_of_the_readers_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = over_files(tmp_path, {"en": sentences(1)})
    store = store_of(made.data.sources[0], made, tmp_path / "corpus")
    monkeypatch.setitem(VERSIONS, "download", VERSIONS["download"] + 1)
    assert store_of(made.data.sources[0], made, tmp_path / "corpus") != store


def test_weights_make_no_other_shards(tmp_path: Path) -> None:
    made = over_files(tmp_path, {"en": sentences(1), "ko": sentences(1, "ko")})
    store = store_of(made.data.sources[0], made, tmp_path / "corpus")
    values = made.to_dict()
    values["data"]["sources"][0]["weight"] = 2.0
    values["data"]["phases"] = [{"from": 0.5, "weights": {"en": 3.0}}]
    values["train"]["max_steps"] = 100
    weighted = Experiment.model_validate(values)
    assert store_of(weighted.data.sources[0], weighted, tmp_path / "corpus") == store


def test_a_stop_leaves_nothing(tmp_path: Path) -> None:
    made = over_files(tmp_path / "input", {"en": sentences(100)})
    stop = StopFlag()
    stop.set(signal.SIGTERM)
    with pytest.raises(Stopped):
        download_stage(made, tmp_path / "out" / "corpus", stop)
    assert not list((tmp_path / "out").glob("[!.]*/manifest.json"))


def test_a_kill_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "input" / "en.jsonl", sentences(100))
    script = (
        "import sys, time; from pathlib import Path; from small_corpora import over_files, sentences\n"
        "import sllm.data.download as d; from sllm.stop import StopFlag\n"
        "class Slow(StopFlag):\n"
        "    def check(self):\n"
        "        print('document', flush=True); time.sleep(0.02)\n"
        "root = Path(sys.argv[1])\n"
        "d.download_stage(over_files(root / 'input', {'en': sentences(1000)}), root / 'out' / 'corpus', Slow())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent,
        env={"PYTHONPATH": f"{Path(__file__).parents[2]}:{Path(__file__).parent}"},
    )
    assert process.stdout is not None
    for _ in range(20):
        assert process.stdout.readline() == b"document\n"
    process.kill()
    process.wait()
    assert not (tmp_path / "out" / "corpus").exists()
    made = over_files(tmp_path / "input", {"en": sentences(1000)})
    assert download_stage(made, tmp_path / "out" / "corpus", StopFlag())["documents"] == 1000
