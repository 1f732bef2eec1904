"""The token files are what the tokenizer says, in the order of the corpus, however many processes made them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_corpora import downloaded, sentences
from waiting import PATIENCE

from sllm.config import Experiment
from sllm.data.pack import pack_stage
from sllm.data.shards import ShardWriter, read_shard
from sllm.errors import Stopped, UserError
from sllm.manifests import atomic_directory, read_manifest
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FIRST_BYTE, FIRST_MERGE

TEXTS = {"ko": sentences(60, "ko"), "en": sentences(80)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Path]:
    """Two sources; the training split of each in three shards (a few documents each: real ones hold megabytes)."""
    made, small = downloaded(tmp_path_factory.mktemp("corpus"), TEXTS, min_characters=5)
    sources = read_manifest(small)["sources"]
    many = small.with_name("many")
    with atomic_directory(many, kind="corpus", sources=sources) as directory:
        for source in sources:
            for split, cuts in (("train", 3), ("validation", 1)):
                texts = list(read_shard(small / source / f"{split}-00000-00000.jsonl.zst"))
                for number in range(cuts):
                    with ShardWriter(directory / source, split, megabytes=1) as writer:
                        for text in texts[number::cuts]:
                            writer.write(text)
                    for written in list((directory / source).glob(f"{split}-00000.*")):
                        written.rename(written.with_name(written.name.replace("00000", f"{cuts - number:05d}")))
    return made, many


def tokenizer_of(directory: Path, merges: list[tuple[int, int]]) -> Path:
    Tokenizer(merges).save(directory / "tokenizer.json")
    return directory / "tokenizer.json"


EVERY_PAIR = [(FIRST_BYTE + a, FIRST_BYTE + b) for a in range(256) for b in range(256)]


@pytest.mark.parametrize(
    ("merges", "dtype"),
    [
        ([], "<u2"),
        (EVERY_PAIR[: 65_536 - FIRST_MERGE], "<u2"),
        (EVERY_PAIR[: 65_537 - FIRST_MERGE], "<u4"),
    ],
    ids=["bytes", "65,536 ids", "65,537 ids"],
)
def test_token_files_hold_what_the_tokenizer_says(
    tmp_path: Path, corpus: tuple[Experiment, Path], merges: list[tuple[int, int]], dtype: str
) -> None:
    made, shards = corpus
    path = tokenizer_of(tmp_path, merges)
    summary = pack_stage(made, shards, path, tmp_path / "packed", StopFlag(), workers=1)
    tokenizer = Tokenizer.load(path)
    manifest = read_manifest(tmp_path / "packed", checksums=True)
    assert manifest["dtype"] == summary["dtype"] == dtype
    assert manifest["tokenizer"] == tokenizer.fingerprint
    assert manifest["vocab_size"] == FIRST_MERGE + len(merges)
    for source in TEXTS:
        assert manifest["sources"][source]["language"] == source
        for split in ("train", "validation"):
            texts = [text for shard in sorted((shards / source).glob(f"{split}-*.zst")) for text in read_shard(shard)]
            ids = [tokenizer.encode(text, bos=True, eos=True) for text in texts]
            packed = np.fromfile(tmp_path / "packed" / f"{source}.{split}.bin", dtype)
            starts = np.fromfile(tmp_path / "packed" / f"{source}.{split}.documents.bin", "<u8")
            assert packed.tolist() == [token for document in ids for token in document]
            assert starts.tolist() == [sum(map(len, ids[:i])) for i in range(len(ids))]
            entry = manifest["sources"][source][split]
            assert (entry["tokens"], entry["documents"]) == (len(packed), len(texts))
            assert entry["bytes"] == sum(len(text.encode()) for text in texts)
            assert sum(shard["documents"] for shard in entry["shards"]) == len(texts)
            assert summary["sources"][source][split]["tokens"] == len(packed)
    assert summary["train_tokens"] == sum(s["train"]["tokens"] for s in manifest["sources"].values())


def test_the_number_of_workers_changes_nothing(tmp_path: Path, corpus: tuple[Experiment, Path]) -> None:
    made, shards = corpus
    tokenizer = tokenizer_of(tmp_path, [])
    results = []
    for workers in (1, 2, 3):
        pack_stage(made, shards, tokenizer, tmp_path / f"{workers}", StopFlag(), workers=workers)
        results.append(read_manifest(tmp_path / f"{workers}", checksums=True))
    assert all(result == results[0] for result in results)
    names = {
        f"{source}.{split}{kind}.bin"
        for source in TEXTS
        for split in ("train", "validation")
        for kind in ("", ".documents")
    }
    assert {path.name for path in (tmp_path / "2").iterdir()} == names | {"manifest.json"}


def test_whole_packed_data_is_left_alone(tmp_path: Path, corpus: tuple[Experiment, Path]) -> None:
    made, shards = corpus
    tokenizer = tokenizer_of(tmp_path, [])
    first = pack_stage(made, shards, tokenizer, tmp_path / "packed", StopFlag(), workers=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").iterdir()}
    tokenizer.unlink()
    assert pack_stage(made, tmp_path / "gone", tokenizer, tmp_path / "packed", StopFlag()) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").iterdir()} == before


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_shard(tmp_path: Path, workers: int) -> None:
    made, shards = downloaded(tmp_path, TEXTS)
    path = shards / "en" / "train-00000-00000.jsonl.zst"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    tokenizer = tokenizer_of(tmp_path, [])
    with pytest.raises(UserError, match=r"train-00000-00000\.jsonl\.zst"):
        pack_stage(made, shards, tokenizer, tmp_path / "out" / "packed", StopFlag(), workers=workers)
    assert not (tmp_path / "out" / "packed").exists()


def test_no_corpus(tmp_path: Path, corpus: tuple[Experiment, Path]) -> None:
    made, _ = corpus
    with pytest.raises(UserError, match=r"corpus has no manifest\.json.*run `sllm download` again"):
        pack_stage(made, tmp_path / "corpus", tokenizer_of(tmp_path, []), tmp_path / "packed", StopFlag())


class StopAfter(StopFlag):
    """Asks to stop at the n-th look at it."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def check(self) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise Stopped("enough")


def test_a_stopped_pack_goes_on_where_it_was(tmp_path: Path, corpus: tuple[Experiment, Path]) -> None:
    made, shards = corpus
    tokenizer = tokenizer_of(tmp_path, [])
    pack_stage(made, shards, tokenizer, tmp_path / "straight", StopFlag(), workers=1)
    largest, documents = 35, 140
    attempts = 0
    while not (tmp_path / "packed").exists():
        attempts += 1
        assert attempts <= documents // (40 - largest)
        try:
            pack_stage(made, shards, tokenizer, tmp_path / "packed", StopAfter(40), workers=1)
        except Stopped:
            # What a crash of the machine leaves: bytes and half a line that no journal answers for.
            for path in (tmp_path / "packed.partial").glob("files/*.bin"):
                with path.open("ab") as file:
                    file.write(b"torn")
            with (tmp_path / "packed.partial" / "joined.jsonl").open("ab") as file:
                file.write(b'{"name": "en/tr')
    assert attempts > 2
    whole = read_manifest(tmp_path / "packed", checksums=True)
    assert whole == read_manifest(tmp_path / "straight", checksums=True)
    assert not (tmp_path / "packed.partial").exists()


def test_a_job_array_shares_the_work(tmp_path: Path, corpus: tuple[Experiment, Path]) -> None:
    made, shards = corpus
    tokenizer = tokenizer_of(tmp_path, [])
    pack_stage(made, shards, tokenizer, tmp_path / "straight", StopFlag(), workers=1)
    done = [
        pack_stage(made, shards, tokenizer, tmp_path / "packed", StopFlag(), workers=1, share=(task, 3))["shards"]
        for task in range(3)
    ]
    assert sum(done) == 8
    pack_stage(made, shards, tokenizer, tmp_path / "packed", StopAfter(0), workers=1)  # nothing is left to encode
    assert read_manifest(tmp_path / "packed") == read_manifest(tmp_path / "straight")


@pytest.mark.parametrize("other", ["tokenizer", "corpus"])
def test_what_other_input_left_is_not_taken(tmp_path: Path, other: str) -> None:
    """Shards of the same names, encoded by an earlier call."""
    merges = [(FIRST_BYTE + first, FIRST_BYTE + second) for first, second in (b"at", b"he", b"in")]
    made, shards = downloaded(tmp_path / "one", TEXTS)
    _, fewer = downloaded(tmp_path / "two", {name: texts[:50] for name, texts in TEXTS.items()})
    inputs = {
        "straight": (shards, merges),
        "tokenizer": (shards, []),
        "corpus": (fewer, merges),
    }
    for name, left, share in (("straight", "straight", None), ("packed", other, (0, 1)), ("packed", "straight", None)):
        corpus, learnt = inputs[left]
        tokenizer = tokenizer_of(tmp_path, learnt)
        pack_stage(made, corpus, tokenizer, tmp_path / name, StopFlag(), workers=1, share=share)
    assert read_manifest(tmp_path / "packed") == read_manifest(tmp_path / "straight")


SCRIPT = """
import sys
from pathlib import Path
from sllm.data.pack import pack_stage
from sllm.config import load_experiment
from sllm.errors import Stopped
from sllm.stop import stop_on_signals

if __name__ == "__main__":
    config, corpus, tokenizer, output = map(Path, sys.argv[1:])
    with stop_on_signals() as stop:
        try:
            pack_stage(load_experiment(config), corpus, tokenizer, output, stop, workers=2)
        except Stopped as stopped:
            sys.exit(f"stopped by {stopped}")
"""


@pytest.fixture
def long_pack(tmp_path: Path) -> subprocess.Popen:
    """A process that packs for tens of seconds with two workers, caught while both are at work."""
    from sllm.config import write_experiment

    texts = {name: [text * 2000 for text in texts] for name, texts in TEXTS.items()}
    made, shards = downloaded(tmp_path, texts, clean={"repetition": False})
    (tmp_path / "config.yaml").write_text(write_experiment(made), encoding="utf-8")
    (tmp_path / "main.py").write_text(SCRIPT, encoding="utf-8")
    arguments = ["main.py", "config.yaml", str(shards), str(tokenizer_of(tmp_path, [])), "out/packed"]
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE
    while len([p for p in tmp_path.glob("out/packed.partial/parts/.*.tokens.*") if p.stat().st_size > 0]) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def living(group: int) -> list[int]:
    """Processes of a process group that are not zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(process_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def wait_until_gone(group: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while living(group):
        assert time.monotonic() < deadline, living(group)
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_to_every_process_stops_cleanly(
    tmp_path: Path, long_pack: subprocess.Popen, number: signal.Signals
) -> None:
    os.killpg(long_pack.pid, number)
    _, errors = long_pack.communicate()
    assert long_pack.returncode == 1
    assert f"stopped by {number.name}" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out" / "packed").exists()
    wait_until_gone(long_pack.pid)


def test_workers_end_when_the_parent_is_killed(tmp_path: Path, long_pack: subprocess.Popen) -> None:
    assert len(living(long_pack.pid)) >= 3
    long_pack.kill()
    long_pack.wait()
    wait_until_gone(long_pack.pid)
    assert not (tmp_path / "out" / "packed").exists()


def test_a_document_that_cannot_be_encoded_is_named(tmp_path: Path, corpus: tuple[Experiment, Path]) -> None:
    made, _ = corpus
    pattern = r"\s+(?!\S)|\s+|\S+"  # as another tokenizer.json may have it; tiktoken gives up on it
    Tokenizer([], pattern).save(tmp_path / "tokenizer.json")
    shards = tmp_path / "corpus"
    with atomic_directory(shards, kind="corpus", sources={"ko": {"language": "ko", **SIZES}}) as directory:
        for split in ("train", "validation"):
            with ShardWriter(directory / "ko", split, megabytes=2) as writer:
                for text in ("가", " " * 1_100_000, "나"):
                    writer.write(text)
    with pytest.raises(
        UserError, match=r"ko/train-\S+: document 2, of 1,100,000 characters, cannot be encoded .*source ko"
    ):
        pack_stage(made, shards, tmp_path / "tokenizer.json", tmp_path / "packed", StopFlag(), workers=1)
    assert not (tmp_path / "packed").exists()


SIZES = {split: {"bytes": 1_100_006, "documents": 3} for split in ("train", "validation")}
