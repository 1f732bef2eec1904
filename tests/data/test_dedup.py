"""One of each document in the corpus, and the figures say what remains."""

import random
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpora import over_files, sentences

from sllm.config import DataConfig
from sllm.data import dedup
from sllm.data.dedup import drop_duplicates
from sllm.data.download import download_stage
from sllm.data.minhash import BANDS, CHARACTERS, ROWS, band_keys
from sllm.data.shards import ShardWriter, read_shard
from sllm.data.text import normalise
from sllm.errors import Stopped
from sllm.records import sidecar
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
        removed = drop_duplicates(directory, names, CONFIG, directory / "tables", StopFlag())

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


@pytest.mark.parametrize("before", [0, dedup.EXAMPLE_CHARACTERS - 8, dedup.EXAMPLE_CHARACTERS])
def test_examples_of_what_is_dropped_show_no_personal_data(tmp_path: Path, before: int) -> None:
    """Also where the corpus keeps it, and where an example ends in the middle of a number."""
    text = ("가나 " * 67)[:before] + "010-1234-5678 900101-1234568 " + "이것은 전화번호와 주민번호다 " * 10
    made = over_files(
        tmp_path,
        {"ko": [text, text, *sentences(50, "ko")], "en": [text, *sentences(50)]},
        clean={"personal_data": False, "repetition": False},
    )
    summary = download_stage(made, tmp_path / "corpus", StopFlag())
    shown = [
        summary["sources"][source]["examples"][reason][0]["text"]
        for source, reason in (("ko", "duplicate"), ("en", "language"))
    ]
    for example in shown:
        assert example.startswith(text[:before].strip())
        assert not set("0123456789") & set(example)
        assert ("[PHONE_NUMBER]" in example) == (before == 0)


# --- nearly equal ---------------------------------------------------------------------------------


def folded(text: str) -> str:
    return "".join(c.lower() for c in text if c.isalnum())


def jaccard(first: str, second: str) -> float:
    """Of the sets of n-grams, as minhash.py means them."""
    texts = [folded(first), folded(second)]
    sets = [{text[i : i + CHARACTERS] for i in range(len(text) - CHARACTERS + 1)} for text in texts]
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


def test_texts_of_less_than_an_n_gram_are_alike_only_if_they_are_equal() -> None:
    keys = np.array([band_keys(text) for text in ("", "가", "나", "가나", "나가", "가나다라마바사", "가나다라마바아")])
    assert all(len(set(band)) == len(keys) for band in keys.T.tolist())


def changed(text: str, draw: random.Random, words: int) -> str:
    """Some of its words are others."""
    others = text.split()
    for place in draw.sample(range(len(others)), words):
        others[place] = f"바꾼말{draw.randrange(10**6)}"
    return " ".join(others)


def test_what_is_nearly_equal_is_dropped_and_what_is_equal_counts_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document that shares a key of any band with one before it: of those with a similarity of 0.8, nine of ten."""
    monkeypatch.setattr(dedup, "AT_A_TIME", 100)
    draw = random.Random(0)
    first = ["".join(draw.choices("가나다라마바사아자차카타파하 ", k=1000)) for _ in range(120)]
    near = [changed(text, draw, 6) for text in first]
    similar = [jaccard(*pair) for pair in zip(first, near, strict=True)]
    assert 0.78 < sum(similar) / len(similar) < 0.82
    # What is dropped already for another reason is no near duplicate, and hides none.
    shards = [("a/train", [*first[:60], *first[:10]]), ("b/train", [*first[60:], *near, *near[:20]])]
    names = write_corpus(tmp_path, shards)
    removed = drop_duplicates(
        tmp_path, names, CONFIG.model_copy(update={"near_duplicates": True}), tmp_path / "tables", StopFlag()
    )
    texts = [text for _, some in shards for text in some]
    keys = np.array([band_keys(text) for text in texts])
    equal = {i for i, text in enumerate(texts) if text in texts[:i]}
    alike = {i for i in range(len(texts)) if (keys[:i] == keys[i]).any()} - equal
    kept = [text for name in names for text in read_shard(tmp_path / name)]
    assert kept == [text for i, text in enumerate(texts) if i not in equal | alike]
    assert (removed["a"].reasons, removed["b"].reasons) == (
        {"duplicate": 10},
        {"duplicate": 20, "near_duplicate": len(alike)},
    )
    expected = [1 - (1 - similarity**8) ** 14 for similarity in similar]
    deviation = sum(p * (1 - p) for p in expected) ** 0.5
    assert abs(len(alike) - sum(expected)) < 4 * deviation


def test_what_was_hashed_before_a_stop_is_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = write_corpus(tmp_path, [("a/train", sentences(20 + n, "ko")) for n in range(3)])
    paths, near = [tmp_path / name for name in names], CONFIG.model_copy(update={"near_duplicates": True})
    hashed: list[Path] = []
    hash_of = dedup._band_keys
    monkeypatch.setattr(dedup, "_band_keys", lambda shard, *more: [hashed.append(shard), hash_of(shard, *more)][1])

    class StopInTheSecond(StopFlag):
        def check(self) -> None:
            if hashed[-1:] == paths[1:2]:
                raise Stopped("SIGTERM")

    with pytest.raises(Stopped):
        drop_duplicates(tmp_path, names, near, tmp_path / "tables", StopInTheSecond())
    assert hashed == paths[:2]
    removed = drop_duplicates(tmp_path, names, near, tmp_path / "tables", StopFlag())
    assert hashed == [*paths[:2], *paths[1:]]
    assert removed["a"].reasons == {"duplicate": 20 + 21}


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

    # The same again, over what is there, by several processes.
    corpus = tmp_path / "True" / "corpus"
    before = {path: path.read_bytes() for path in corpus.glob("*/*")}
    monkeypatch.setattr(dedup, "BYTES_WORTH_A_PROCESS", 1)
    names = [path.relative_to(corpus).as_posix() for path in sorted(corpus.glob("*/*.zst"))]
    for workers, at_a_time in ((2, 400), (3, 100)):
        monkeypatch.setattr(dedup, "AT_A_TIME", at_a_time)
        for path in corpus.glob("*/*.dropped"):
            path.unlink()
        again = drop_duplicates(corpus, names, made.data, tmp_path / f"tables-{workers}", StopFlag(), workers)
        assert again["ko2"].reasons["near_duplicate"] == summary["sources"]["ko2"]["dropped"]["near_duplicate"]
        assert {path: path.read_bytes() for path in corpus.glob("*/*")} == before
