"""The tokenizer stage: what it samples, writes and reports."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from disk import lay_out, moments

from sllm.config import Experiment
from sllm.data.embedded.generator import documents
from sllm.errors import Stopped, UserError
from sllm.files import read_json
from sllm.manifests import atomic_directory, read_manifest, sha256
from sllm.progress import report_to
from sllm.records import DROPPED_SUFFIX, shard_paths, sidecar
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer, report, training
from sllm.tokenizer.codec import FIRST_MERGE
from sllm.tokenizer.report import is_mixed, train_peer
from sllm.tokenizer.training import Sample, held_out, parse_document, tokenizer_stage, train
from sllm.workers import in_a_process

"""Words that no training document has, in two scripts."""


def experiment(**tokenizer: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "test",
            "data": {
                "sources": [
                    {"name": "korean", "kind": "embedded", "language": "ko"},
                    {"name": "english", "kind": "embedded", "language": "en"},
                ],
                "clean": {"contamination": False},
            },
            "tokenizer": {"vocab_size": 600, **tokenizer},
            "model": {"d_model": 32, "n_layers": 1, "n_heads": 2, "d_ff": 64, "context_length": 128},
            "train": {"max_steps": 2, "global_batch": 2, "micro_batch": 2},
        }
    )


def write_shard(path: Path, texts: list[str]) -> int:
    lines = [json.dumps({"text": text}, ensure_ascii=False).encode() for text in texts]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zstandard.compress(b"\n".join(lines) + b"\n"))
    return sum(len(text.encode()) for text in texts)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources in the layout of the download stage; validation documents hold words that training has not."""
    path = tmp_path_factory.mktemp("data") / "corpus"
    sources: dict[str, Any] = {}
    with atomic_directory(path, kind="corpus", sources=sources) as directory:
        for name, language, megabytes in (("korean", "ko", 0.4), ("english", "en", 0.2)):
            texts = list(documents(language, megabytes, seed=1))
            half = len(texts) // 2
            sizes = [
                write_shard(directory / name / "train-00000.jsonl.zst", texts[10:half]),
                write_shard(directory / name / "train-00001.jsonl.zst", texts[half:]),
                write_shard(
                    directory / name / "validation-00000.jsonl.zst", [*texts[:10], "뷁쉛🦜 GPU와 함께 걷는다 Zyzzyva"]
                ),
            ]
            sources[name] = {
                "language": language,
                "train": {"documents": len(texts) - 10, "bytes": sizes[0] + sizes[1], "shards": 2},
                "validation": {"documents": 11, "bytes": sizes[2], "shards": 1},
            }
    return path


@pytest.fixture
def _no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "PEER_BYTES", 0)


def peculiar_corpus(directory: Path, document: str) -> Path:
    """Ordinary text, and one document that is not."""
    path = directory / "corpus"
    sources: dict[str, Any] = {}
    with atomic_directory(path, kind="corpus", sources=sources) as made:
        texts = list(documents("ko", 0.05, seed=1))
        size = write_shard(made / "korean" / "train-00000.jsonl.zst", [*texts, document])
        validation = write_shard(made / "korean" / "validation-00000.jsonl.zst", texts[:5])
        sources["korean"] = {
            "language": "ko",
            "train": {"documents": len(texts) + 1, "bytes": size, "shards": 1},
            "validation": {"documents": 5, "bytes": validation, "shards": 1},
        }
    return path


def sample(corpus: Path, seed: int = 1, **tokenizer: Any) -> list[str]:
    return list(Sample(corpus, read_manifest(corpus), experiment(**tokenizer).tokenizer, seed).texts())


def language_bytes(texts: list[str]) -> tuple[int, int]:
    korean = [len(text.encode()) for text in texts if any("가" <= c <= "힣" for c in text)]
    return sum(korean), sum(len(text.encode()) for text in texts) - sum(korean)


def test_writes_a_tokenizer_and_a_report(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = tokenizer_stage(experiment(), corpus, tmp_path / "out", StopFlag())
    read_manifest(tmp_path / "out", checksums=True)
    tokenizer = Tokenizer.load(tmp_path / "out" / "tokenizer.json")
    assert tokenizer.vocab_size == 600 == summary["vocab_size"]
    assert tokenizer.fingerprint == summary["fingerprint"]
    written = read_json(tmp_path / "out" / "report.json")
    assert written["summary"] == summary
    trained = sum(source["train"]["bytes"] for source in read_manifest(corpus)["sources"].values())
    assert summary["bytes"] == trained

    # The figures, computed once more in the plain way.
    path = corpus / "korean" / "validation-00000.jsonl.zst"
    texts = [json.loads(line)["text"] for line in zstandard.decompress(path.read_bytes()).splitlines()]
    ids = [i for text in texts for i in tokenizer.encode(text)]
    figures = written["held_out"]["ko"]
    assert figures["bytes_per_token"] == sum(len(text.encode()) for text in texts) / len(ids)
    assert figures["tokens_per_word"] == len(ids) / sum(len(text.split()) for text in texts)
    partial = sum("\ufffd" in tokenizer.decode([i]) for i in ids)
    assert partial > 0
    assert figures["partial_character_share"] == partial / len(ids)
    assert figures["vocabulary_used"] == len(set(ids)) / 584
    assert written["held_out"]["mixed"]["documents"] >= 2
    assert max(map(len, tokenizer.token_bytes)) == max(len(token.encode()) for token in written["longest_tokens"])
    assert written["frequent_tokens"]["ko"][0]["count"] == max(map(ids.count, set(ids)))

    # The peer learns the same from the same, but for the order of ties.
    for name, figures in written["tokenizers"].items():
        assert figures["bytes_per_token"] == pytest.approx(written["held_out"][name]["bytes_per_token"], rel=0.02)
    printed = capsys.readouterr().out
    assert f"{figures['bytes_per_token']:.3f}" in printed


@pytest.mark.usefixtures("_no_peer")
def test_the_second_time_nothing_is_done(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = tokenizer_stage(experiment(), corpus, output, StopFlag())
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert tokenizer_stage(experiment(), corpus, output, StopFlag()) == first
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before


@pytest.mark.usefixtures("_no_peer")
def test_the_same_bytes_every_time(corpus: Path, tmp_path: Path) -> None:
    config = experiment(sample_bytes=300_000)
    digests = set()
    for name in ("a", "b"):
        tokenizer_stage(config, corpus, tmp_path / name, StopFlag())
        digests.add(sha256(tmp_path / name / "tokenizer.json"))
    assert len(digests) == 1


def test_the_sample_is_a_function_of_the_seed(corpus: Path) -> None:
    texts = sample(corpus, seed=1, sample_bytes=150_000)
    assert texts == sample(corpus, seed=1, sample_bytes=150_000)
    assert texts != sample(corpus, seed=2, sample_bytes=150_000)
    assert len(set(texts)) == len(texts)
    assert sum(language_bytes(texts)) == pytest.approx(150_000, rel=0.25)
    assert len(sample(corpus)) == sum(s["train"]["documents"] for s in read_manifest(corpus)["sources"].values())


def test_of_a_large_source_some_shards_are_read(tmp_path: Path) -> None:
    sources: dict[str, Any] = {}
    with atomic_directory(tmp_path / "corpus", kind="corpus", sources=sources) as directory:
        for name, shards in (("korean", 200), ("english", 20)):
            # Of different lengths, as the last shard of a file is.
            texts = [[f"{name} {i} {k} " + "안녕 world " * 10 for k in range(20 + i % 60)] for i in range(shards)]
            size = sum(write_shard(directory / name / f"train-{i:05d}.jsonl.zst", texts[i]) for i in range(shards))
            language = {"korean": "ko", "english": "en"}[name]
            sources[name] = {"language": language, "train": {"documents": 1, "bytes": size, "shards": shards}}
    total = sum(source["train"]["bytes"] for source in sources.values())
    for share in (0.01, 0.05):
        texts = sample(tmp_path / "corpus", sample_bytes=int(share * total), language_weights={})
        read = {name: len({t.split()[1] for t in texts if t.startswith(name)}) for name in sources}
        assert sum(len(text.encode()) for text in texts) == pytest.approx(share * total, rel=0.25)
        assert read["english"] > 10 or share < 0.05  # all of a small source
        assert 20 < read["korean"] <= 200 * share * 8 + 32
    shards = {int(text.split()[1]) for text in texts if text.startswith("korean")}
    assert len([shard for shard in shards if shard < 100]) == pytest.approx(len(shards) / 2, rel=0.2)


def test_dropped_documents_are_neither_learnt_nor_measured(corpus: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(corpus, tmp_path / "corpus")
    whole, measured = sample(corpus), held_out(corpus, read_manifest(corpus))["en"]
    dropped = [0, 2]
    for split in ("train", "validation"):
        shard = copy / "english" / f"{split}-00000.jsonl.zst"
        sidecar(shard, DROPPED_SUFFIX).write_bytes(np.array(dropped, "<u4").tobytes())
    start = read_manifest(corpus)["sources"]["korean"]["train"]["documents"]  # which come first
    assert sample(copy) == [text for i, text in enumerate(whole) if i - start not in dropped]
    left = held_out(copy, read_manifest(copy))["en"]
    assert left == [text for i, text in enumerate(measured) if i not in dropped]
    assert len(left) == len(measured) - 2 > 0


def test_a_line_with_two_scripts_is_found_whatever_its_length() -> None:
    """In time that grows with the length: with its square, these lines would take hours."""
    for korean, latin in (("가", "ab"), ("가" * 1_000_000, "GPU"), ("힣", "a" * 1_000_000)):
        assert is_mixed(f"{korean}, {latin}")
        assert is_mixed(f"{latin} {korean}.")
        assert not is_mixed(korean)
        assert not is_mixed(latin)
    assert is_mixed("ㅋㅋ okay")
    assert is_mixed("한글 naïf")
    assert not is_mixed("가 a 나 b")


def test_sources_of_one_language_share_what_is_measured(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(corpus)
    alone = held_out(corpus, manifest)
    manifest["sources"]["english"]["language"] = "ko"
    monkeypatch.setattr(training, "HELD_OUT_BYTES", sum(len(text.encode()) for text in alone["ko"]))
    together = held_out(corpus, manifest)["ko"]
    for language in ("ko", "en"):
        assert 0 < len([text for text in together if text in alone[language]]) < len(alone[language])


@pytest.mark.parametrize("sample_bytes", [200_000_000, 200_000])
def test_languages_stand_in_the_ratio_of_their_weights(corpus: Path, sample_bytes: int) -> None:
    natural = language_bytes(sample(corpus))
    korean, english = language_bytes(sample(corpus, sample_bytes=sample_bytes, language_weights={"en": 2.0}))
    assert english / korean == pytest.approx(2 * natural[1] / natural[0], rel=0.25)
    assert korean + english <= min(1.25 * sample_bytes, sum(natural))


@pytest.mark.usefixtures("_no_peer")
def test_what_was_pruned_is_reported(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer_stage(experiment(max_words=2000, vocab_size=300), corpus, tmp_path / "out", StopFlag())
    written = read_json(tmp_path / "out" / "report.json")
    pruned = written["pruned"]
    assert pruned["words_seen_less_than"] > 1
    assert pruned["distinct_words"] + 2000 >= written["summary"]["distinct_words"] > 2000
    assert f"seen less than {pruned['words_seen_less_than']} times" in " ".join(capsys.readouterr().out.split())


def test_the_smallest_vocabulary() -> None:
    assert train(["text"], experiment(vocab_size=FIRST_MERGE).tokenizer.vocab_size).merges == ()
    with pytest.raises(ValueError, match="greater than or equal to 272"):
        experiment(vocab_size=FIRST_MERGE - 1)


def test_too_large_a_vocabulary(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size: 1,000,000 .* use at most \d+") as raised:
        tokenizer_stage(experiment(vocab_size=1_000_000), corpus, tmp_path / "out", StopFlag())
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sllm download"):
        tokenizer_stage(experiment(), tmp_path / "corpus", tmp_path / "out", StopFlag())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", [b'{"text": "\xff"}', b"{", b'{"other": 1}', b"[]", b'{"text": 5}'])
def test_a_damaged_line_is_named(line: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train-00000\.jsonl\.zst:7: "):
        parse_document(tmp_path / "train-00000.jsonl.zst", 7, line)


class StopAfter(StopFlag):
    """Asks to stop at the n-th look at it."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def requested(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.mark.usefixtures("_no_peer")
def test_a_stop_at_any_time_leaves_nothing(corpus: Path, tmp_path: Path) -> None:
    many = 10**9
    patient = StopAfter(many)
    tokenizer_stage(experiment(), corpus, tmp_path / "whole", patient)
    looks = many - patient.looks
    assert looks > 3
    for after in range(looks):
        with pytest.raises(Stopped):
            tokenizer_stage(experiment(), corpus, tmp_path / "stopped" / "out", StopAfter(after))
        assert not list(tmp_path.glob("stopped/*"))


@pytest.mark.usefixtures("_no_peer")
def test_a_kill_at_any_time_leaves_nothing_half_written(corpus: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    found = moments(root, lambda: tokenizer_stage(experiment(), corpus, root / "out", StopFlag()))
    whole = []
    for number, moment in enumerate(found):
        for state in moment.states:
            left = lay_out(state, tmp_path / f"{number}-{len(whole)}")
            whole.append((left / "out").exists())
            if whole[-1]:
                read_manifest(left / "out", checksums=True)
                assert Tokenizer.load(left / "out" / "tokenizer.json").vocab_size == 600
    assert not whole[0]
    assert whole[-1]


def test_a_signal_ends_the_stage_and_leaves_nothing(corpus: Path, tmp_path: Path) -> None:
    """In a process of its own, while it works."""
    code = f"""
import sys
from pathlib import Path
from test_tokenizer_stage import experiment
from sllm.errors import Stopped
from sllm.stop import stop_on_signals
from sllm.tokenizer import training
with stop_on_signals() as stop:
    real = training.learn
    def learn(*arguments, **options):
        print("learning", flush=True)
        sys.stdin.read()
        found = real(*arguments, **options)
        print("learnt", flush=True)
        return found
    training.learn = learn
    try:
        training.tokenizer_stage(experiment(), Path({str(corpus)!r}), Path({str(tmp_path)!r}) / "out", stop)
    except Stopped as stopped:
        sys.exit(f"stopped: {{stopped}}")
"""
    folders = [Path(__file__).parent, Path(__file__).parents[1], Path(__file__).parents[2]]
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": ":".join(map(str, folders))},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "learning\n"
        process.send_signal(signal.SIGTERM)
        more, told = process.communicate()
    assert more == "", "it learnt to the end"
    assert told.splitlines()[-1] == "stopped: SIGTERM"
    assert list(tmp_path.iterdir()) == []


def test_the_peer_learns_what_we_learn(corpus: Path) -> None:
    """But for ties: the bytes of most tokens are the same."""
    texts = sample(corpus)
    ours = train(texts, 800)
    peer = train_peer(texts, 800, ours.pattern)
    assert peer.vocab_size == 800
    assert len(set(ours.token_bytes) & set(peer.token_bytes)) > 700


def test_shards_are_of_one_source_and_split(corpus: Path) -> None:
    found = shard_paths(corpus, read_manifest(corpus), "korean", "train")
    assert [path.name for path in found] == ["train-00000.jsonl.zst", "train-00001.jsonl.zst"]


HANGUL = "".join(chr(0xAC00 + i * 7919 % 11172) for i in range(200_000))


@pytest.mark.parametrize("document", [" " * 200_000 + "x", HANGUL], ids=["spaces", "Hangul"])
def test_the_peer_gets_a_bound(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One long word takes the peer minutes or hours; the stage goes on without it, and says so."""
    monkeypatch.setattr(report, "PEER_SECONDS", 3.0)
    made = peculiar_corpus(tmp_path, document)
    tokenizer_stage(experiment(vocab_size=300), made, tmp_path / "out", StopFlag())
    written = read_json(tmp_path / "out" / "report.json")
    assert written["tokenizers"] is None
    assert written["without_tokenizers"] == "took longer than 3 s"
    assert "without the figures of `tokenizers`, which took longer" in " ".join(capsys.readouterr().out.split())


def test_who_waits_for_the_peer_is_told(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def peer(*_: Any, **__: Any) -> Any:
        told.append(read_json(tmp_path / "progress.json")["description"])
        raise RuntimeError("enough")

    monkeypatch.setattr(report, "in_a_process", peer)
    report_to(tmp_path / "progress.json")
    try:
        tokenizer_stage(experiment(vocab_size=300), corpus, tmp_path / "out", StopFlag())
    finally:
        report_to(None)
    assert told == ["comparing with tokenizers"]


class StopAtAChild(StopFlag):
    """Asks to stop once there is a process of ours."""

    @property
    def requested(self) -> bool:
        return bool(multiprocessing.active_children())


def test_a_stop_ends_the_peer(tmp_path: Path) -> None:
    made = peculiar_corpus(tmp_path, HANGUL)
    stop = StopAtAChild()
    stop.set(signal.SIGTERM)
    with pytest.raises(Stopped):
        tokenizer_stage(experiment(vocab_size=300), made, tmp_path / "out", stop)
    assert multiprocessing.active_children() == []
    assert not (tmp_path / "out").exists()


def fails() -> None:
    raise BaseException("panic\nat the disco")


def test_what_a_process_of_its_own_may_come_to() -> None:
    assert in_a_process(sorted, [3, 1], seconds=60, stop=StopFlag()) == [1, 3]
    for function, arguments, seconds, message in (
        (fails, (), 60, "^BaseException: panic$"),
        (os.abort, (), 60, "exit code -6"),
        (time.sleep, (600,), 1, "longer than 1 s"),
    ):
        with pytest.raises(RuntimeError, match=message):
            in_a_process(function, *arguments, seconds=seconds, stop=StopFlag())
    assert multiprocessing.active_children() == []
