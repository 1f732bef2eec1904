"""The hand-written splitter against the pattern, and the word table against a Counter."""

import random
import tempfile
from pathlib import Path

import pytest
import regex
from bpe_oracle import oracle_words
from hypothesis import given
from hypothesis import strategies as st
from texts import any_text, well_formed

import sllm.tokenizer.words as words_module
from sllm.data.embedded.generator import documents
from sllm.errors import Stopped
from sllm.stop import StopFlag
from sllm.tokenizer.codec import LONG_PARTICLES, SHORT_PARTICLES, SPLIT_PATTERN
from sllm.tokenizer.words import character_classes, count_words, particle_keys, word_end


def split(text: str) -> list[str]:
    import numpy as np

    data = text.encode("utf-8")
    buffer = np.frombuffer(data + b"\xff", np.uint8)
    found, start = [], 0
    while start < len(data):
        end = word_end(buffer, start, character_classes(), particle_keys())
        found.append(data[start:end].decode("utf-8"))
        start = end
    return found


@given(well_formed)
def test_splits_as_the_pattern(text: str) -> None:
    assert split(text) == regex.findall(SPLIT_PATTERN, text)


def test_splits_whole_documents_as_the_pattern() -> None:
    for language in ("ko", "en"):
        for text in documents(language, 0.2, seed=1):
            assert split(text) == regex.findall(SPLIT_PATTERN, text)


@given(
    st.lists(
        st.sampled_from(
            [*LONG_PARTICLES, *SHORT_PARTICLES, "학", "학교", "서", "GPU", "ㅋ", "漢", "é", " ", ".", "1", "\n"]
        ),
        max_size=24,
    )
)
def test_particles_stand_apart(parts: list[str]) -> None:
    text = "".join(parts)
    assert split(text) == regex.findall(SPLIT_PATTERN, text)


def test_a_word_and_its_particle() -> None:
    assert split("학교에서 나는 책을") == ["학교", "에서", " 나", "는", " 책", "을"]
    assert split("에서는 에서는 만들었다 GPU를") == ["에서는", " 에서는", " 만들었다", " GPU를"]
    assert split("가" * 15 + "는 " + "가" * 16 + "는") == ["가" * 15, "는", " " + "가" * 16 + "는"]


@given(st.lists(any_text, max_size=5))
def test_counts(texts: list[str]) -> None:
    words = count_words(texts)
    assert dict(words) == oracle_words(texts)
    assert words.documents == len(texts)
    assert (words.min_count, words.dropped_words, words.dropped_bytes) == (1, 0, 0)


def test_the_table_grows_and_keeps_long_words() -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefgh", k=rng.choice([2, 7, 8, 9, 22, 23, 24, 25, 400]))) for _ in range(80_000)]
    texts += [*texts[:1000], "x" * 3_000_000]
    assert dict(count_words(texts)) == oracle_words(texts)


@pytest.mark.parametrize("batch_bytes", [1, 1000, 1 << 20])
def test_chunks_and_order_do_not_matter(batch_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*documents("ko", 0.1, seed=2), *documents("en", 0.1, seed=2)]
    monkeypatch.setattr(words_module, "BATCH_BYTES", batch_bytes)
    random.Random(batch_bytes).shuffle(texts)
    words = count_words(texts)
    assert dict(words) == oracle_words(texts)
    assert words.text_bytes == sum(len(text.encode("utf-8")) for text in texts)


@pytest.mark.parametrize("max_words", [100, 700])
def test_more_words_than_the_budget(max_words: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept are the words seen at least `min_count` times, the smallest number for which they fit."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    texts = [*documents("ko", 0.1, seed=3), *documents("en", 0.1, seed=3), "뷁" * 40]
    every = oracle_words(texts)
    assert len(every) > 2 * max_words
    words = count_words(texts, max_words=max_words)
    kept = dict(words)
    assert kept == {word: n for word, n in every.items() if n >= words.min_count}
    assert len(kept) <= max_words < sum(n >= words.min_count - 1 for n in every.values())
    assert words.dropped_words == len(every) - len(kept)
    assert words.dropped_bytes == sum(len(word) * n for word, n in every.items() if n < words.min_count)
    assert dict(count_words(reversed(texts), max_words=max_words)) == kept
    assert list(tmp_path.iterdir()) == []


def test_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stop = StopFlag()

    def texts():  # type: ignore[no-untyped-def]
        for i in range(1_000_000):
            if i == 500_000:
                stop.set(15)
            yield "a stop is honoured while words are counted"

    with pytest.raises(Stopped):
        count_words(texts(), stop=stop)
    assert list(tmp_path.iterdir()) == []
