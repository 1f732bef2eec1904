"""The order of training is a pure function of (seed, index), exact in its shares, and repeats nothing in an epoch."""

from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import cannot_run
from small_corpora import downloaded, sentences

from sllm.data.pack import pack_stage
from sllm.data.sampler import ROUNDS, PackedData, Sampler, permute, round_keys
from sllm.data.shards import read_shard
from sllm.errors import UserError
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FIRST_BYTE

# --- permutations ---------------------------------------------------------------------------------


def permutation(size: int, *identity: int | str) -> np.ndarray:
    keys = np.broadcast_to(round_keys(*identity), (size, ROUNDS))
    return permute(np.arange(size, dtype=np.uint64), np.full(size, size, np.uint64), keys)


@given(st.integers(1, 3000), st.integers(), st.integers())
def test_every_size_and_key_is_a_bijection(size: int, seed: int, epoch: int) -> None:
    assert sorted(permutation(size, seed, epoch).tolist()) == list(range(size))


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 0.999), st.integers(0, 3)), min_size=1, max_size=50))
def test_elements_of_different_permutations_do_not_mix(elements: list[tuple[int, float, int]]) -> None:
    sizes = np.array([size for size, _, _ in elements], np.uint64)
    positions = np.array([int(size * part) for size, part, _ in elements], np.uint64)
    keys = np.array([round_keys(key) for _, _, key in elements])
    together = permute(positions, sizes, keys)
    alone = [permutation(size, key)[int(size * part)] for size, part, key in elements]
    assert together.tolist() == alone


@given(st.integers(2**40, 2**53), st.data())
def test_huge_sizes(size: int, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True))
    sizes, keys = np.full(len(positions), size, np.uint64), np.broadcast_to(round_keys(size), (len(positions), ROUNDS))
    sent = permute(np.array(positions, np.uint64), sizes, keys).tolist()
    assert len(set(sent)) == len(positions)
    assert all(0 <= value < size for value in sent)


def test_permutations_look_random() -> None:
    n = 10_000
    identity = np.arange(n)
    seen = []
    for key in range(20):
        order = permutation(n, "random", key).astype(np.int64)
        seen.append(order)
        # Standard deviation of a correlation of n independent pairs: 1/√n.
        assert abs(np.corrcoef(identity, order)[0, 1]) < 5 / n**0.5
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / n**0.5
        # Fixed points, and neighbours that stay neighbours, are Poisson with mean 1 and 2.
        assert (order == identity).sum() < 10
        assert (np.abs(np.diff(order)) == 1).sum() < 15
    # Where one position goes under many keys is uniform: χ² with 9 degrees of freedom stays below 40.
    first = np.array([permutation(10, "uniform", key)[0] for key in range(2_000)])
    counts = np.bincount(first.astype(np.int64), minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 40
    assert all((a != b).mean() > 0.99 for a, b in pairwise(seen))


# --- the order ------------------------------------------------------------------------------------


def sampler(
    windows: dict[str, int], weights: dict[str, float] | None = None, seed: int = 0, length: int = 8, **phased: Any
) -> Sampler:
    """A sampler over sources of so many windows; the order needs no token files."""
    sources = {
        name: {"language": "en", "train": {"tokens": count * length + 1 + number % length}}
        for number, (name, count) in enumerate(windows.items())
    }
    data = PackedData(Path("nowhere"), {"dtype": "<u2", "vocab_size": 260, "sources": sources})
    return Sampler(data, weights or dict.fromkeys(windows, 1.0), length, seed, **phased)


@st.composite
def phases(draw: st.DrawFn, windows: dict[str, int], last: int, most: int = 4) -> dict[str, Any]:
    """Up to `most` phases that begin before sample `last`; in each one source at least has a weight above 0."""
    batch = draw(st.sampled_from([batch for batch in (1, 8, 300) if batch <= sum(windows.values())]))
    steps = draw(st.lists(st.integers(1, max(1, last // batch)), max_size=most, unique=True))
    weights = st.fixed_dictionaries(dict.fromkeys(windows, st.just(0.0) | st.floats(0.1, 10)))
    return {"global_batch": batch, "phases": {step: draw(weights.filter(lambda w: any(w.values()))) for step in steps}}


def test_windows_of_trillions_of_tokens_take_no_memory_that_stays(tmp_path: Path) -> None:
    """The last of a file of 6 TB, which is one hole; a map of it would take a page of page tables for each."""
    tokens, length = 3 * 10**12, 2048
    last = (tokens - 1) // length - 1
    with (tmp_path / "web.train.bin").open("wb") as file:
        try:
            file.truncate(2 * tokens)
        except OSError as error:
            cannot_run(f"no file of 6 TB on this file system: {error}")
        file.seek(2 * last * length)
        file.write(np.arange(length + 1, dtype="<u2").tobytes())
    sources = {"web": {"language": "en", "train": {"tokens": tokens}}}
    data = PackedData(tmp_path, {"dtype": "<u2", "vocab_size": 260, "sources": sources})
    big = Sampler(data, {"web": 1.0}, length, seed=0)
    assert big.data.window("train", "web", last, length).tolist() == list(range(length + 1))
    samples = range(0, tokens // length, tokens // length // 500)
    assert len({big.locate(sample)[1] for sample in samples}) == len(samples)
    before = page_tables()
    for sample in samples:
        assert big.batch(sample, 1).shape == (1, length + 1)
    assert page_tables() - before < 500 * 1024  # of a map: 2 MB


def page_tables() -> int:
    """Bytes of this process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmPTE:")[1].split()[0])


names = st.sampled_from(["a", "b", "c", "d", "e"])
sizes = st.dictionaries(names, st.integers(1, 2000), min_size=1)


@given(st.integers(1, 5000), st.integers(0, 2**64), st.integers(0, 3))
def test_one_source_shows_each_window_once_an_epoch(size: int, seed: int, epoch: int) -> None:
    windows = sampler({"a": size}, seed=seed).windows(epoch * size, size)
    assert sorted(windows) == [("a", window) for window in range(size)]
    assert size < 20 or windows != sorted(windows)


@settings(max_examples=30)
@given(sizes, st.data())
def test_every_source_shows_each_window_once_in_each_of_its_epochs(
    windows: dict[str, int], data: st.DataObject
) -> None:
    weights = {name: data.draw(st.floats(0.1, 10)) for name in windows}
    order = sampler(windows, weights, **data.draw(phases(windows, 11_000))).windows(0, 12_000)
    for name, size in windows.items():
        mine = [window for source, window in order if source == name]
        whole = len(mine) // size
        for epoch in range(whole):
            assert sorted(mine[epoch * size : (epoch + 1) * size]) == list(range(size))
        assert len(set(mine[whole * size :])) == len(mine) - whole * size
        if whole >= 2 and size > 10:
            assert mine[:size] != mine[size : 2 * size]


@settings(max_examples=30)
@given(sizes, st.integers(0, 4000) | st.integers(0, 10**9), st.integers(1, 1500), st.data())
def test_the_order_does_not_depend_on_how_it_is_asked_for(
    windows: dict[str, int], start: int, count: int, data: st.DataObject
) -> None:
    phased = data.draw(phases(windows, start + count))
    whole = sampler(windows, seed=3, **phased).windows(start, count)
    assert len(whole) == count
    again = sampler(windows, seed=3, **phased)  # another process, or the same one after a resume
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=5)))
    pieces = [again.windows(start + a, b - a) for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
    assert [window for piece in pieces for window in piece] == whole
    i = data.draw(st.integers(0, count - 1))
    assert again.locate(start + i) == whole[i]


@settings(max_examples=50)
@given(
    st.dictionaries(st.integers(0, 99).map(str), st.tuples(st.integers(1, 10**7), st.floats(0.01, 100)), min_size=1),
    st.integers(1, 10**6),
)
def test_shares_are_exact(sources: dict[str, tuple[int, float]], block: int) -> None:
    windows = {name: size for name, (size, _) in sources.items()}
    mixed = sampler(windows, {name: weight for name, (_, weight) in sources.items()})
    total = sum(size * weight for size, weight in sources.values())
    before = mixed._phases[0].counts(block * mixed.block)
    assert sum(before) == block * mixed.block
    largest = max(size * weight for size, weight in sources.values())
    for count, (size, weight) in zip(before, sources.values(), strict=True):
        # All but the largest source are within one sample of their share, after however many steps.
        tolerance = len(sources) if size * weight > largest * (1 - 1e-9) else 1
        assert abs(count - block * mixed.block * (size * weight / total)) < tolerance + 1e-6 * count
    assert all(before <= mixed._phases[0].counts((block + 1) * mixed.block))


@settings(max_examples=30)
@given(sizes, st.data())
def test_a_phase_has_its_own_shares_and_changes_nothing_before_it(windows: dict[str, int], data: st.DataObject) -> None:
    phased = data.draw(phases(windows, 10_000))
    mixed, plain = sampler(windows, **phased), dict.fromkeys(windows, 1.0)
    weights = {0: plain, **{step * phased["global_batch"]: new for step, new in sorted(phased["phases"].items())}}
    for start, end in pairwise([*weights, 12_000]):
        blocks = range(start, end + 1, mixed.block)
        total = sum(size * weights[start][name] for name, size in windows.items())
        shares = {name: size * weights[start][name] / total for name, size in windows.items()}
        for whole in blocks:  # at the end of each block shares are exact but for rounding
            counts = Counter(source for source, _ in mixed.windows(start, whole - start))
            for name, share in shares.items():
                tolerance = len(windows) if share > max(shares.values()) - 1e-9 else 1
                assert abs(counts[name] - share * (whole - start)) < tolerance + 1e-6
        counts = Counter(source for source, _ in mixed.windows(start, end - start))
        for name, share in shares.items():  # the end cuts a block off, which leaves samples drawn from it: 6 σ
            assert abs(counts[name] - share * (end - start)) < len(windows) + 6 * (mixed.block * share / 4) ** 0.5
            assert counts[name] == 0 or share > 0
        earlier = {step: new for step, new in phased["phases"].items() if step * phased["global_batch"] < start}
        without = sampler(windows, global_batch=phased["global_batch"], phases=earlier)
        assert mixed.windows(0, start) == without.windows(0, start)


def test_a_source_that_was_left_out_goes_on_where_it_was() -> None:
    """And the others with what they have not shown: one epoch of all in three phases, every window once."""
    windows = {"a": 600, "b": 600}
    mixed = sampler(windows, phases={400: {"a": 0.0, "b": 1.0}, 600: {"a": 1.0, "b": 0.5}})
    shown = {name: [w for source, w in mixed.windows(0, 900) if source == name] for name in windows}
    assert [source for source, _ in mixed.windows(400, 200)] == ["b"] * 200
    assert all(len(set(mine)) == len(mine) for mine in shown.values())
    for name, mine in shown.items():
        alone = [w for source, w in sampler(windows).windows(0, 1024) if source == name]
        assert mine == alone[: len(mine)], "in the order of an epoch without phases"


def test_the_order_of_a_training_that_was_begun_stays() -> None:
    """Its digest, as it was before there were phases."""
    mixed = sampler({"a": 500, "b": 700, "c": 3}, {"a": 1.0, "b": 0.3, "c": 7.5}, seed=9)
    order = repr(mixed.windows(0, 5000) + mixed.windows(10**9, 100)).encode()
    assert sha256(order).hexdigest() == "047f80f8f4a92e0b4a81eb3e0a24328900b119883df29a4d6e09f7e108fa0c1a"


def test_weights_are_honoured_within_a_block_too() -> None:
    mixed = sampler({"ko": 3000, "en": 1000}, {"ko": 1.0, "en": 2.0})
    counts = Counter(source for source, _ in mixed.windows(0, 10 * mixed.block))
    assert counts == {"ko": 6 * mixed.block, "en": 4 * mixed.block}
    for start in range(0, 4 * mixed.block, 256):
        korean = sum(source == "ko" for source, _ in mixed.windows(start, 256))
        assert abs(korean - 0.6 * 256) < 5 * (256 * 0.6 * 0.4) ** 0.5


def test_seeds_and_epochs_differ_and_other_sources_do_not_matter() -> None:
    def shown(windows: dict[str, int], seed: int, name: str = "a") -> list[int]:
        return [window for source, window in sampler(windows, seed=seed).windows(0, 4096) if source == name][:500]

    assert shown({"a": 500}, 1) != shown({"a": 500}, 2)
    assert shown({"a": 500}, 1) == shown({"a": 500, "b": 700, "c": 3}, 1) == shown({"c": 3, "a": 500}, 1)
    assert shown({"a": 500, "b": 500}, 1) != shown({"a": 500, "b": 500}, 1, "b")

    def mixed(seed: int, block: int) -> list[str]:
        order = sampler({"a": 500, "b": 500}, seed=seed)
        return [source for source, _ in order.windows(block * order.block, order.block)]

    assert mixed(1, 0) != mixed(2, 0)
    assert mixed(1, 0) != mixed(1, 1)


def test_which_source_comes_when_differs_by_seed_and_block() -> None:
    def sources(seed: int, block: int) -> str:
        mixed = sampler({"a": 5000, "b": 5000}, seed=seed)
        return "".join(source for source, _ in mixed.windows(block * mixed.block, 64))

    assert len({sources(seed, block) for seed in (1, 2, 3) for block in (0, 1, 2)}) == 9


def test_sources_are_shuffled_apart() -> None:
    windows = sampler({"a": 500, "b": 500}).windows(0, 1000)
    assert [w for source, w in windows if source == "a"][:100] != [w for source, w in windows if source == "b"][:100]


# --- reading --------------------------------------------------------------------------------------

Packed = tuple[Path, Path, str]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """(packed data, its corpus, fingerprint of its tokenizer)"""
    root = tmp_path_factory.mktemp("packed")
    texts = {"ko": sentences(150, "ko"), "en": sentences(250)}
    made, corpus = downloaded(root, texts, min_characters=5)
    tokenizer = Tokenizer([(FIRST_BYTE + ord("c"), FIRST_BYTE + ord("a"))])
    tokenizer.save(root / "tokenizer.json")
    pack_stage(made, corpus, root / "tokenizer.json", root / "packed", StopFlag(), workers=1)
    return root / "packed", corpus, tokenizer.fingerprint


def test_batches_are_the_windows_of_the_token_files(packed: Packed) -> None:
    data = PackedData.open(packed[0], packed[2])
    mixed = Sampler(data, {"ko": 1.0, "en": 1.5}, context_length=16, seed=1)
    batch = mixed.batch(5, 300)
    assert batch.shape == (300, 17)
    assert batch.dtype == np.int64
    tokens = {name: np.fromfile(packed[0] / f"{name}.train.bin", "<u2") for name in ("ko", "en")}
    for row, (source, window) in zip(batch, mixed.windows(5, 300), strict=True):
        assert row.tolist() == tokens[source][window * 16 : window * 16 + 17].tolist()
    assert {source for source, _ in mixed.windows(5, 300)} == {"ko", "en"}


def test_an_epoch_of_batches_predicts_every_token_once(packed: Packed) -> None:
    data = PackedData.open(packed[0], None)
    length = 16
    mixed = Sampler(data, {"ko": 1.0, "en": 1.0}, length, seed=1)
    counts = [source.windows(length) for source in data.sources]
    wanted = {(source.name, w) for source, n in zip(data.sources, counts, strict=True) for w in range(n)}
    # Both sources end their first epoch within the block that holds the sample of that number.
    shown = mixed.windows(0, ceil(sum(counts) / mixed.block) * mixed.block)
    assert wanted <= set(shown)
    for source, count in zip(data.sources, counts, strict=True):
        assert count * length <= source.tokens("train") - 1 < (count + 1) * length


@settings(max_examples=30)
@given(context=st.integers(1, 6000), limit=st.integers(1, 20_000))
def test_validation_windows_predict_each_token_once(packed: Packed, context: int, limit: int) -> None:
    data = PackedData.open(packed[0], None)
    for source in ("ko", "en"):
        tokens = np.fromfile(packed[0] / f"{source}.validation.bin", "<u2")
        windows = data.validation_windows(source, context, limit)
        assert len(tokens) == data.source(source).tokens("validation")
        predicted = min(len(tokens) - 1, max(1, limit // context) * context)
        assert np.concatenate([window[1:] for window in windows]).tolist() == tokens[1 : predicted + 1].tolist()
        assert np.concatenate([window[:-1] for window in windows]).tolist() == tokens[:predicted].tolist()
        assert all(len(window) == context + 1 for window in windows[:-1])
        assert 2 <= len(windows[-1]) <= context + 1


@given(st.data())
def test_documents_are_found_by_their_tokens(packed: Packed, data: st.DataObject) -> None:
    opened = PackedData.open(packed[0], None)
    tokens = opened.tokens("train", "en")
    start = data.draw(st.integers(0, len(tokens) - 1))
    stop = data.draw(st.integers(start + 1, min(start + 300, len(tokens))))
    document = np.cumsum(np.asarray(tokens) == Tokenizer.bos_id) - 1  # of each token
    assert sorted(set(document[start:stop].tolist())) == list(opened.documents_of("en", start, stop))


def test_a_document_is_named_by_shard_and_line(packed: Packed) -> None:
    data = PackedData.open(packed[0], None)
    tokenizer = Tokenizer.load(packed[0].with_name("tokenizer.json"))
    tokens = data.tokens("validation", "ko")
    ends = np.flatnonzero(np.asarray(tokens) == Tokenizer.eos_id)
    assert len(ends) > 5
    for number, (start, end) in enumerate(zip([0, *(ends[:-1] + 1)], ends, strict=True)):
        assert list(data.documents_of("ko", start, end, "validation")) == [number]
        shard, line = data.document_name("ko", number, "validation").rsplit(":", 1)
        text = list(read_shard(packed[1] / shard))[int(line) - 1]
        assert tokenizer.decode(tokens[start : end + 1].tolist()) == text


def test_names_over_several_shards() -> None:
    shards = [{"name": f"a/train-0000{i}.jsonl.zst", "documents": n} for i, n in enumerate((2, 1, 3))]
    sources = {"a": {"language": "en", "train": {"tokens": 1, "shards": shards}}}
    data = PackedData(Path("nowhere"), {"dtype": "<u2", "vocab_size": 260, "sources": sources})
    assert [data.document_name("a", number)[12:] for number in range(6)] == [
        *("0.jsonl.zst:1", "0.jsonl.zst:2"),
        "1.jsonl.zst:1",
        *("2.jsonl.zst:1", "2.jsonl.zst:2", "2.jsonl.zst:3"),
    ]


# --- what does not fit ----------------------------------------------------------------------------


def test_another_tokenizer(packed: Packed) -> None:
    with pytest.raises(UserError, match=r"the tokenizer .* does not match the packed data.*run `sllm pack`"):
        PackedData.open(packed[0], Tokenizer([]).fingerprint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / "manifest.json").unlink(), r"has no manifest\.json.*run `sllm pack` again"),
        (
            lambda path: (path / "ko.train.bin").write_bytes(b"\0\0"),
            r"ko\.train\.bin has 2 bytes, .*run `sllm pack` again",
        ),
        (lambda path: (path / "en.train.documents.bin").unlink(), r"en\.train\.documents\.bin is missing"),
    ],
)
def test_damaged_data(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    made, corpus = downloaded(tmp_path, {"ko": sentences(60, "ko"), "en": sentences(60)})
    Tokenizer([]).save(tmp_path / "tokenizer.json")
    pack_stage(made, corpus, tmp_path / "tokenizer.json", tmp_path / "packed", StopFlag(), workers=1)
    change(tmp_path / "packed")
    with pytest.raises(UserError, match=message):
        PackedData.open(tmp_path / "packed", None)


def test_a_corpus_is_not_packed_data(packed: Packed) -> None:
    with pytest.raises(UserError, match="not packed data"):
        PackedData.open(packed[1], None)


def test_too_little_text(packed: Packed) -> None:
    data = PackedData.open(packed[0], None)
    weights = {"ko": 1.0, "en": 1.0}
    tokens = {source.name: source.tokens("train") for source in data.sources}
    short = min(tokens, key=lambda name: tokens[name])
    Sampler(data, weights, tokens[short] - 1, seed=0, global_batch=2)
    with pytest.raises(UserError, match=rf"{short} has {tokens[short]:,} training tokens.*needs {tokens[short] + 1:,}"):
        Sampler(data, weights, tokens[short], seed=0)
    windows = sum((count - 1) // 64 for count in tokens.values())
    Sampler(data, weights, 64, seed=0, global_batch=windows)
    with pytest.raises(UserError, match=rf"train\.global_batch: .*the corpus has {sum(tokens.values()):,}; add text"):
        Sampler(data, weights, 64, seed=0, global_batch=windows + 1)


def test_weights_must_name_the_sources(packed: Packed) -> None:
    with pytest.raises(ValueError, match="weights for ko; data of ko, en"):
        Sampler(PackedData.open(packed[0], None), {"ko": 1.0}, 16, seed=0)
    with pytest.raises(ValueError, match="weights for en; data of ko, en"):
        Sampler(PackedData.open(packed[0], None), {"ko": 1.0, "en": 1.0}, 16, seed=0, phases={3: {"en": 1.0}})
