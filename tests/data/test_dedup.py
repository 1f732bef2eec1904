"""One of each document in the corpus, and the figures say what remains."""

import random
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
from sllm.data.minhash import BANDS, CHARACTERS, ROWS, band_keys
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


# --- nearly equal ---------------------------------------------------------------------------------


def folded(text: str) -> str:
    return "".join(c.lower() for c in text if c.isalnum())


def jaccard(first: str, second: str) -> float:
    """Of the sets of n-grams, as minhash.py means them."""
    sets = [{folded(t)[i : i + CHARACTERS] for i in range(len(folded(t)) - CHARACTERS + 1)} for t in (first, second)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_bands_meet_as_often_as_they_should() -> None:
    draw = random.Random(0)
    expected, variance, met = 0.0, 0.0, 0
    for number, texts in enumerate(zip(sentences(600, "ko"), sentences(600), strict=True)):
        words = " ".join(texts).split()
        other = [word if draw.random() > number % 6 / 30 else f"{draw.random()}" for word in words]
        similarity = jaccard(" ".join(words), " ".join(other))
        probability = 1 - (1 - similarity**ROWS) ** BANDS
        expected, variance = expected + probability, variance + probability * (1 - probability)
        met += bool((band_keys(" ".join(words)) == band_keys(" ".join(other))).any())
    assert 200 < expected < 500, "the texts are neither all alike nor all unlike"
    assert abs(met - expected) < 5 * variance**0.5


@given(st.text(st.characters(max_codepoint=0xFFFF), max_size=40))
def test_case_space_and_punctuation_make_no_difference(text: str) -> None:
    spaced = " ".join(text.replace("", " ")) + "!?"
    assert band_keys(spaced).tolist() == band_keys(folded(text)).tolist()


def test_nothing_in_train_is_nearly_in_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    korean = sentences(300, "ko")
    variants = [text.replace(" ", "  ").replace(".", "…") for text in korean]  # another text, for the split too
    texts = {"ko": korean, "ko2": [*variants, *sentences(340, "ko")[300:]]}
    sides = {}
    for near in (False, True):
        made = over_files(tmp_path / str(near), texts, near_duplicates=near)
        summary = download_stage(made, tmp_path / str(near) / "corpus", StopFlag())
        for split in ("train", "validation"):
            paths = sorted((tmp_path / str(near) / "corpus").glob(f"*/{split}-*.zst"))
            sides[near, split] = {folded(text) for path in paths for text in read_shard(path)}
            assert sum(entry[split]["documents"] for entry in summary["sources"].values()) >= len(sides[near, split])
    assert sides[False, "train"] & sides[False, "validation"], "the variants are on both sides"
    assert not sides[True, "train"] & sides[True, "validation"]
    assert sides[True, "train"] | sides[True, "validation"] == {folded(text) for text in sentences(340, "ko")}
    assert (
        summary["sources"]["ko2"]["dropped"]["near_duplicate"] + summary["sources"]["ko"]["dropped"]["near_duplicate"]
        == 300
    )
    assert summary["sources"]["ko2"]["examples"]["near_duplicate"]

    # The same again, over what is there, by two processes.
    corpus = tmp_path / "True" / "corpus"
    before = {path: path.read_bytes() for path in corpus.glob("*/*")}
    monkeypatch.setattr(dedup, "BYTES_WORTH_A_PROCESS", 1)
    names = [path.relative_to(corpus).as_posix() for path in sorted(corpus.glob("*/*.zst"))]
    again = drop_duplicates(corpus, names, made.data, StopFlag(), workers=2)
    assert again["ko2"].reasons["near_duplicate"] == summary["sources"]["ko2"]["dropped"]["near_duplicate"]
    assert {path: path.read_bytes() for path in corpus.glob("*/*")} == before
