"""One of each document in the corpus, and the figures say what remains."""

from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpora import over_files, sentences

from sllm.config import DataConfig
from sllm.data import dedup
from sllm.data.clean import normalise
from sllm.data.dedup import drop_duplicates
from sllm.data.download import download_stage
from sllm.data.shards import ShardWriter, read_shard
from sllm.files import sidecar
from sllm.stop import StopFlag

CONFIG = DataConfig.model_validate({"sources": [{"name": "a", "kind": "embedded", "language": "ko"}]})

texts = st.lists(st.integers(0, 12).map("문서 {}".format), max_size=8)
corpora = st.lists(st.tuples(st.sampled_from(["a/train", "b/train", "a/validation", "b/validation"]), texts))


def write_corpus(directory: Path, shards: list[tuple[str, list[str]]]) -> list[str]:
    names = []
    for number, (group, documents) in enumerate(shards):
        if documents:
            source, split = group.split("/")
            (directory / source).mkdir(parents=True, exist_ok=True)
            with ShardWriter(directory / source, f"{split}-{number}", 1) as writer:
                for text in documents:
                    writer.write(text)
            names.append(f"{source}/{split}-{number}-00000.jsonl.zst")
    return names


@settings(max_examples=30)
@given(corpora, st.integers(1, 5))
def test_the_first_of_equal_documents_stays(
    tmp_path_factory: pytest.TempPathFactory, shards: list[tuple[str, list[str]]], at_a_time: int
) -> None:
    directory = tmp_path_factory.mktemp("corpus")
    names = write_corpus(directory, shards)
    written = {name: list(read_shard(directory / name)) for name in names}
    for name in names[:1]:  # of an earlier run over other shards
        sidecar(directory / name, ".dropped").write_bytes(bytes(4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "AT_A_TIME", at_a_time)
        removed = drop_duplicates(directory, names, CONFIG, StopFlag())

    seen: set[str] = set()
    for name in sorted(names, key=lambda name: "train" in name):
        kept = [text for i, text in enumerate(written[name]) if text not in seen and text not in written[name][:i]]
        assert list(read_shard(directory / name)) == kept
        seen.update(kept)
    for source, entry in removed.items():
        for split in ("train", "validation"):
            mine = [name for name in names if name.startswith(f"{source}/{split}")]
            gone = [text for name in mine for text in written[name]]
            left = [text for name in mine for text in read_shard(directory / name)]
            assert entry.documents[split] == len(gone) - len(left)
            assert entry.bytes[split] == len("".join(gone).encode()) - len("".join(left).encode())
        assert entry.reasons["duplicate"] == entry.documents.total()


def test_a_document_in_two_unicode_forms_stays_once(tmp_path: Path) -> None:
    korean = sentences(200, "ko")
    twice = [normalize("NFD", text) for text in sentences(250, "ko")]
    made = over_files(tmp_path, {"ko": korean, "ko2": twice}, min_characters=5)
    summary = download_stage(made, tmp_path / "corpus", StopFlag())
    assert summary["sources"]["ko2"]["dropped"]["duplicate"] == 200
    kept = [text for path in sorted((tmp_path / "corpus").glob("*/*.zst")) for text in read_shard(path)]
    assert sorted(kept) == sorted(map(normalise, sentences(250, "ko")))
