"""The stage: conversations of files, cleaned, encoded, in windows that hold each once."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
from hub import Hub, add_dataset, hub
from small_conversations import EN, KO, TOKENIZER, made_up, over, over_sources, write_rows
from waiting import PATIENCE

from sllm.config import Experiment
from sllm.data import dedup
from sllm.data.conversations.line import from_line
from sllm.data.conversations.stage import conversations_stage
from sllm.data.masks import answers
from sllm.data.sampler import PackedData
from sllm.data.shards import read_shard
from sllm.errors import Stopped, UserError
from sllm.manifests import read_manifest
from sllm.records import shard_paths
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FORMER_SPECIAL_TOKENS
from sllm.tokenizer.template import conversation_ids

__all__ = ["hub"]

TALKS = {"ko": [KO, *made_up(60, "ko")], "en": [EN, *made_up(150)]}
CONTEXT = 1024


def run(made: Experiment, directory: Path, stop: StopFlag | None = None, **options: Any) -> dict[str, Any]:
    if not (directory / "tokenizer.json").exists():
        TOKENIZER.save(directory / "tokenizer.json")
    places = directory / "corpus", directory / "tokenizer.json", directory / "packed"
    return conversations_stage(made, *places, stop or StopFlag(), **options)


def corpus_of(directory: Path, source: str, split: str) -> list[Any]:
    manifest = read_manifest(directory / "corpus")
    shards = shard_paths(directory / "corpus", manifest, source, split)
    return [from_line(text) for shard in shards for text in read_shard(shard)]


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("done")
    return directory, run(over(directory / "input", TALKS, CONTEXT), directory)


def test_windows_hold_each_conversation_once(done: tuple[Path, dict[str, Any]]) -> None:
    directory, summary = done
    packed = PackedData.open(directory / "packed", TOKENIZER.fingerprint)
    assert packed.overlap == 0
    for source in ("ko", "en"):
        for split in ("train", "validation"):
            figures = summary["sources"][source][split]
            stored = packed.tokens(split, source)  # type: ignore[arg-type]
            windows = stored.reshape(-1, (CONTEXT + 1))
            starts = np.fromfile(directory / "packed" / f"{source}.{split}.documents.bin", "<u8").tolist()
            origins = np.fromfile(directory / "packed" / f"{source}.{split}.origins.bin", "<u8").tolist()
            talks = corpus_of(directory, source, split)
            assert sorted(origins) == list(range(len(talks)))
            assert starts == sorted(set(starts)) == np.flatnonzero(stored == TOKENIZER.bos_id).tolist()
            size = used = replies = 0
            for number, (start, origin) in enumerate(zip(starts, origins, strict=True)):
                ids = conversation_ids(TOKENIZER, talks[origin])
                assert stored[start : start + len(ids)].tolist() == ids
                assert start // (CONTEXT + 1) == (start + len(ids) - 1) // (CONTEXT + 1)
                said = [message["content"] for message in talks[origin] if message["role"] == "assistant"]
                replies += len(said)
                size, used = size + len("".join(said).encode()), used + len(ids)
                name, _, line = packed.document_name(source, number, split).partition(":")  # type: ignore[arg-type]
                assert from_line(list(read_shard(directory / "corpus" / name))[int(line) - 1]) == talks[origin]
            assert (stored == TOKENIZER.pad_id).sum() == stored.size - used == figures["filler"]
            assert packed.answers(split, source).tolist() == answers(windows).sum(axis=-1).tolist()  # type: ignore[arg-type]
            assert packed.answers(split, source).sum() == size - merged(stored) + replies  # type: ignore[arg-type]
            assert figures | {"bytes": size, "windows": len(windows), "documents": len(talks)} == figures
    assert KO in corpus_of(directory, "ko", "train") + corpus_of(directory, "ko", "validation")
    assert summary["train_windows"] == sum(summary["sources"][name]["train"]["windows"] for name in ("ko", "en"))


def merged(tokens: np.ndarray) -> int:
    """How many bytes of answers more than tokens there are: of the two merges only `th` and `e ` hold two."""
    windows = tokens.reshape(-1, (CONTEXT + 1))
    return int((windows[:, 1:][answers(windows)] >= TOKENIZER.vocab_size - 2).sum())


def test_it_is_the_same_for_any_number_of_processes(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    directory, summary = done
    again = run(over(directory / "input", TALKS, CONTEXT), tmp_path, workers=2)
    assert again == summary
    assert files_of(tmp_path / "packed") == files_of(directory / "packed")


def test_what_is_whole_is_left_as_it_is(done: tuple[Path, dict[str, Any]]) -> None:
    directory, summary = done
    before = {path: path.stat().st_mtime_ns for path in (directory / "packed").iterdir()}
    assert run(over(directory / "input", TALKS, CONTEXT), directory) == summary
    assert {path: path.stat().st_mtime_ns for path in (directory / "packed").iterdir()} == before
    assert not (directory / "packed.partial").exists()


class StopAt(StopFlag):
    """Asks to stop the n-th time that it is looked at."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    def check(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stopped("SIGTERM")


def test_it_goes_on_wherever_it_was_stopped(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    directory, summary = done
    made, step = over(directory / "input", TALKS, CONTEXT), 0
    while True:
        step += 61
        stop = StopAt(step)
        try:
            found = run(made, tmp_path, stop, workers=1)
        except Stopped:
            assert not (tmp_path / "packed").exists()
            continue
        break
    assert step > 3 * 61
    assert found == summary
    assert files_of(tmp_path / "packed") == files_of(directory / "packed")


KILLED = """
import sys
from pathlib import Path
from test_conversations import run
from sllm.config import Experiment
from sllm.files import read_json
run(Experiment.model_validate(read_json(Path(sys.argv[1]))), Path(sys.argv[2]))
"""


def test_a_kill_costs_nothing(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    directory, summary = done
    made = over(directory / "input", TALKS, CONTEXT)
    (tmp_path / "experiment.json").write_text(made.model_dump_json(by_alias=True), encoding="utf-8")
    TOKENIZER.save(tmp_path / "tokenizer.json")
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    command = [sys.executable, "-c", KILLED, str(tmp_path / "experiment.json"), str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
    end = time.monotonic() + PATIENCE
    while process.poll() is None and not (tmp_path / "packed.partial" / "parts").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run(made, tmp_path) == summary
    assert files_of(tmp_path / "packed") == files_of(directory / "packed")


@pytest.mark.parametrize("name", ["corpus", "packed"])
def test_what_a_kill_left_of_a_directory_goes_with_the_next_call(tmp_path: Path, name: str) -> None:
    left, others = (tmp_path / f".{of}.node7-123.tmp" / "en" for of in (name, "fedcba"))
    for directory in (left, others):
        directory.mkdir(parents=True)
        (directory / "train-00000-00000.jsonl.zst").touch()
    run(over(tmp_path / "input", {"en": made_up(40)}, CONTEXT), tmp_path)
    assert list(tmp_path.glob(".*.tmp")) == [others.parent], "which another run may be writing"


# --- what is left out -----------------------------------------------------------------------------


def test_what_was_dropped_is_counted_by_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = [
        {"role": "user", "content": "Tell me more."},
        {"role": "assistant", "content": " ".join(map(str, range(400)))},
    ]
    said = ["Hello there.", "Good morning."]
    bad = [
        [{"role": "assistant", "content": said[0]}],
        [{"role": "user", "content": said[0]}, {"role": "assistant", "content": ""}],
        [{"role": "user", "content": "What is <|end|>?"}, {"role": "assistant", "content": said[1]}],
        "no list",
    ]
    talks = made_up(80)
    summary = run(over(tmp_path / "input", {"en": [*talks, *bad, talks[3], long]}, CONTEXT), tmp_path)
    dropped = {reason: count for reason, count in summary["sources"]["en"]["dropped"].items() if count}
    once = dict.fromkeys(("roles", "empty_turn", "special_token", "no_conversation", "duplicate", "too_long"), 1)
    assert dropped == once
    assert read_manifest(tmp_path / "packed")["sources"]["en"]["dropped"] == summary["sources"]["en"]["dropped"]
    assert sum(summary["sources"]["en"][split]["documents"] for split in ("train", "validation")) == 80
    told = capsys.readouterr().err
    length = len(conversation_ids(TOKENIZER, long))
    assert f"they have more than 1,025 tokens (model.context_length 1,024 and one), the longest {length:,}\n" in told
    assert "en: 1 of " in told


def test_a_conversation_as_long_as_a_window_stays(tmp_path: Path) -> None:
    talks = made_up(40)
    longest = max(len(conversation_ids(TOKENIZER, talk)) for talk in talks)
    summary = run(over(tmp_path / "input", {"en": talks}, context=longest - 1), tmp_path)
    assert summary["sources"]["en"]["dropped"]["too_long"] == 0
    assert summary["train_filler"] > 0


def test_none_fits(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        run(over(tmp_path / "input", {"en": made_up(40)}, context=32), tmp_path)
    assert str(error.value).startswith("finetune.data.sources: en: each of its ")
    assert "for training has more than 33 tokens (model.context_length 32 and one); the shortest has" in str(
        error.value
    )
    assert not (tmp_path / "packed").exists()


def test_near_duplicates_are_found_by_what_is_said(tmp_path: Path) -> None:
    # Short, and alike in nothing but their form: the keys of JSON do not count.
    talks = [
        [{"role": "user", "content": f"{letter}?"}, {"role": "assistant", "content": f"{letter.upper()}."}]
        for letter in ascii_lowercase
    ]
    base = made_up(60, turns=3)
    near = [[*talk[:-1], {"role": "assistant", "content": f"{talk[-1]['content']} So."}] for talk in base[:5]]
    summary = run(
        over(tmp_path / "input", {"en": [*talks, *base, *near]}, near_duplicates=True, context=1024), tmp_path
    )
    assert summary["sources"]["en"]["dropped"]["near_duplicate"] == 5
    example = read_manifest(tmp_path / "corpus")["sources"]["en"]["examples"]["near_duplicate"][0]["text"]
    assert not example.startswith("[{")
    assert dedup.EXAMPLES == 3


def test_what_is_wrong_with_a_source_names_its_setting(tmp_path: Path) -> None:
    source = {"kind": "files", "name": "talk", "language": "ko"}
    with pytest.raises(UserError, match=r"^finetune\.data\.sources: talk: no file matches .*/none\.jsonl; correct its"):
        run(over_sources([{**source, "paths": [str(tmp_path / "none.jsonl")]}]), tmp_path)
    path = write_rows(tmp_path / "text.jsonl", [{"text": "글", "id": 3}])
    with pytest.raises(UserError, match=r"^/.*/text\.jsonl:1: no conversation: its keys are text, id, and those of"):
        run(over_sources([{**source, "paths": [str(path)]}]), tmp_path)
    bad = write_rows(tmp_path / "bad.jsonl", [{"messages": KO[2:]}])
    with pytest.raises(UserError) as error:
        run(over_sources([{**source, "paths": [str(bad)]}]), tmp_path)
    assert str(error.value) == (
        "finetune.data.sources: talk: no conversation is left to train on (1 roles); correct the conversations "
        "(docs/finetune.md)"
    )
    other = [KO[2:], [*KO[:-1], {"role": "assistant", "content": ""}], [{"role": "user", "content": "Who?"}, EN[1]]]
    bad = write_rows(tmp_path / "bad.jsonl", [{"messages": talk} for talk in other])
    with pytest.raises(UserError) as error:
        run(over_sources([{**source, "paths": [str(bad)]}]), tmp_path)
    assert str(error.value).endswith(
        "talk: no conversation is left to train on (1 language, 1 roles, 1 empty turn); correct the conversations "
        "(docs/finetune.md), or add conversations, or change finetune.data.min_characters (1) or the rules in "
        "finetune.data.clean"
    )
    with pytest.raises(UserError, match=r"\(2 language\); add conversations, or change finetune\.data\.min_char"):
        run(over(tmp_path / "input", {"ko": made_up(2)}), tmp_path)
    with pytest.raises(UserError, match=r": 1 conversations fall|its 1 conversations falls? .*add conversations$"):
        run(over(tmp_path / "input", {"en": made_up(1)}), tmp_path)


def test_a_shard_that_is_gone_is_told_with_what_to_remove(tmp_path: Path) -> None:
    made = over(tmp_path / "input", {"en": made_up(40)}, context=1024)
    run(made, tmp_path)
    for name in ("corpus", "packed"):
        shutil.rmtree(tmp_path / name)
    (store,) = (tmp_path / "sources").glob("en-*")
    (store / "train-00000-00000.jsonl.zst").unlink()
    with pytest.raises(UserError) as error:
        run(made, tmp_path)
    assert str(error.value).endswith("is gone or damaged; `sllm download CONFIG --source en --force` gets it anew")


def test_a_tokenizer_of_an_early_version_is_told_before_anything_is_brought(tmp_path: Path) -> None:
    Tokenizer([], special_tokens=FORMER_SPECIAL_TOKENS).save(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="has no <\\|system\\|>"):
        run(over(tmp_path / "input", {"en": made_up(40)}), tmp_path)
    assert not (tmp_path / "sources").exists()


def test_files_read_as_text_and_as_conversations_are_kept_apart(tmp_path: Path) -> None:
    from sllm.data.download import store_of

    made = over(tmp_path / "input", {"en": made_up(5)})
    assert made.finetune
    source, corpus = made.finetune.data.sources[0], tmp_path / "corpus"
    tuning = made.tuning()
    # The same settings, of text.
    values = {name: getattr(tuning.data, name) for name in type(made.data).model_fields}
    as_text = tuning.model_copy(update={"data": type(made.data)(**values)})
    assert store_of(source, as_text, corpus) != store_of(source, tuning, corpus)


def test_much_that_is_lost_is_told_with_the_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [[{"role": "assistant", "content": f"{number} {'Hello there. ' * 20}"}] for number in range(20)]
    run(over(tmp_path / "input", {"en": [*made_up(40), *bad]}, context=1024), tmp_path)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "of its text is left out" in line]
    assert "%) roles. No model is taught by these: put them right in the source. First roles: " in line
    assert "input/en.jsonl row 41: assistant: 0 Hello there." in line
    foreign = [*made_up(40, "ko"), *made_up(40, "en")]
    run(over(tmp_path / "more", {"en": foreign}, context=1024), (tmp_path / "more"))
    assert "A smaller finetune.data.clean.min_latin (0.8) keeps what is of another language" in capsys.readouterr().err


# --- other kinds of sources -----------------------------------------------------------------------


def test_conversations_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    talks = made_up(120)
    add_dataset(hub.root, "us/talks", {"default": {"train": [talks[:70], talks[70:]]}}, "messages", rows=20)
    add_dataset(hub.root, "us/texts", {"default": {"train": [["글"]]}})
    source = {"kind": "hub", "name": "en", "language": "en", "dataset": "us/talks"}
    summary = run(over_sources([source], context=1024), tmp_path)
    assert summary["train_documents"] + summary["validation_documents"] == 120
    assert read_manifest(tmp_path / "corpus")["sources"]["en"]["revision"] == hub.commit("us/talks")
    found = [talk for split in ("train", "validation") for talk in corpus_of(tmp_path, "en", split)]
    assert sorted(map(str, found)) == sorted(map(str, talks))
    with pytest.raises(UserError) as error:
        run(over_sources([{**source, "dataset": "us/texts"}]), tmp_path / "texts")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("finetune.data.sources: en: hf://datasets/us/texts@")
    assert "no conversation: its keys are id, text, and those" in str(error.value)


@pytest.mark.parametrize("language", ["ko", "en"])
def test_conversations_that_we_make_up_ourselves(tmp_path: Path, language: str) -> None:
    source = {"kind": "embedded", "name": "talk", "language": language, "megabytes": 0.02}
    summary = run(over_sources([source], context=512), tmp_path)
    dropped = {reason for reason, count in summary["sources"]["talk"]["dropped"].items() if count}
    assert dropped <= {"duplicate"}
    assert summary["train_documents"] > 40
