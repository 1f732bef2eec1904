"""The compiled trainer against the plain one."""

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from bpe_oracle import oracle_merges, oracle_words
from hypothesis import given
from hypothesis import strategies as st
from texts import any_text, runs

import sllm.tokenizer.merges as merges_module
from sllm.data.embedded.generator import documents
from sllm.errors import Stopped, UserError
from sllm.records import read_zstd_lines
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FIRST_BYTE, FIRST_MERGE
from sllm.tokenizer.merges import learn_merges
from sllm.tokenizer.training import learn, train
from sllm.tokenizer.words import count_words


def learnt(texts: list[str], n_merges: int, **options: int) -> list[tuple[int, int]]:
    return [pair for found in learn_merges(count_words(texts), n_merges, **options) for pair in found]


@given(st.lists(st.one_of(any_text, runs), max_size=6), st.integers(0, 60))
def test_adversarial_texts(texts: list[str], n_merges: int) -> None:
    assert learnt(texts, n_merges) == oracle_merges(oracle_words(texts), n_merges)


@given(st.lists(runs, min_size=1, max_size=6), st.integers(1, 500))
def test_a_floor_changes_nothing(texts: list[str], floor: int) -> None:
    assert learnt(texts, 40, floor=floor) == oracle_merges(oracle_words(texts), 40)


def test_a_run_of_one_character() -> None:
    """`aaaaa` holds the pair four times; joined from left to right, the smallest of equals is then (first merge, a)."""
    a = FIRST_BYTE + ord("a")
    assert learnt(["aaaaa"], 10) == [(a, a), (FIRST_MERGE, a), (FIRST_MERGE, FIRST_MERGE + 1)]


def test_ties_go_to_the_smallest_ids() -> None:
    b = FIRST_BYTE + ord("b")
    assert learnt(["bc bd", "ca"], 3)[:2] == [(FIRST_BYTE + ord(" "), b), (b, b + 1)]


def test_bytes_that_are_not_utf8_are_replaced_on_reading(tmp_path: Path) -> None:
    """Texts are strings: whoever reads a file decides with `errors` what becomes of other bytes."""
    path = tmp_path / "mixed.txt"
    path.write_bytes("한글 ".encode() * 5 + b"\xff\xfe\x80 \xed\xa0\x80 " * 5 + "끝".encode("euc-kr"))
    for errors in ("replace", "surrogateescape"):
        texts = [path.read_text(encoding="utf-8", errors=errors)]
        assert learnt(texts, 20) == oracle_merges(oracle_words(texts), 20)


def test_real_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated prose; enough merges that lists fill up and the index is built anew."""
    texts = [*documents("ko", 0.1, seed=4), *documents("en", 0.1, seed=4)]
    builds = []
    build_index = merges_module.build_index
    monkeypatch.setattr(merges_module, "build_index", lambda *a: builds.append(1) or build_index(*a))
    expected = oracle_merges(oracle_words(texts), 700)
    assert learnt(texts, 700) == expected
    assert learnt(texts, 700, floor=2000) == expected
    assert len(builds) > 4


def test_order_of_texts_does_not_matter() -> None:
    texts = [*documents("ko", 0.2, seed=5), *documents("en", 0.2, seed=5)]
    expected = learnt(texts, 500)
    random.Random(0).shuffle(texts)
    assert learnt(texts, 500) == expected


def test_exactly_vocab_size_ids() -> None:
    texts = list(documents("ko", 0.1, seed=6))
    for vocab_size in (FIRST_MERGE, FIRST_MERGE + 1, 400):
        assert train(texts, vocab_size).vocab_size == vocab_size
    # A smaller vocabulary is the beginning of a larger one.
    assert train(texts, 400).merges[:100] == train(texts, FIRST_MERGE + 100).merges


def test_too_little_text() -> None:
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size: 1,000 .* at most 275"):
        train(["aaaaa"], 1000)
    assert train(["aaaaa"], 275).token_bytes[FIRST_MERGE:] == [b"aa", b"aaa", b"aaaaa"]
    with pytest.raises(UserError, match="at most 272"):
        train([], 300)


def test_no_two_tokens_hold_the_same_bytes() -> None:
    """What makes encoding by bytes (tiktoken) and by pairs (tokenizers) the same."""
    tokens = train(documents("en", 0.3, seed=7), 2000).token_bytes[FIRST_BYTE:]
    assert max(Counter(tokens).values()) == 1


def test_stops() -> None:
    stop = StopFlag()
    words = count_words(documents("en", 0.1, seed=8))
    stop.set(15)
    with pytest.raises(Stopped):
        learn(words, 400, stop=stop)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.corpus
def test_a_whole_corpus() -> None:
    """4,000 merges of real text."""
    paths = sorted(Path(os.environ["SLLM_CORPUS"]).glob("*.jsonl.zst"))
    words = count_words(json.loads(line)["text"] for path in paths for line in read_zstd_lines(path))
    merges = oracle_merges(Counter(dict(words)), 4000)
    assert Tokenizer(merges).fingerprint == learn(words, FIRST_MERGE + 4000).fingerprint
