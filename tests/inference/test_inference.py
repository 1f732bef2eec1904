"""Generation: each small function alone, then whole texts. Transformers' samplers are the oracle of ours."""

import codecs
import contextlib
import itertools
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sllm.config import ModelConfig
from sllm.errors import UserError
from sllm.export.transformers import gpt2_config, gpt2_weights
from sllm.files import read_json, write_json
from sllm.inference.chat import chat
from sllm.inference.decode import decode, new_cache, prefill, prepare
from sllm.inference.generator import TextGenerator, complete, continue_ids, next_tokens
from sllm.inference.sampling import Sampling, penalize_repetition, sample, utf8_table
from sllm.manifests import write_manifest
from sllm.model.gpt2 import GPT
from sllm.model.storage import load_pair, save_model
from sllm.tokenizer import Tokenizer

CONFIG = ModelConfig(d_model=32, n_layers=2, n_heads=2, d_ff=96, context_length=64, dropout=0.1)
GREEDY = Sampling(temperature=0)
CTRL_C = "\x03"
PROMPTS = ["한국어", "a", "The quick brown fox", "", "대한민국의 수도는"]


def random_model(seed: int = 0) -> GPT:
    """A model whose next token depends on the whole text: a fresh one would just repeat its last token."""
    torch.manual_seed(seed)
    model = GPT(CONFIG, Tokenizer([]).vocab_size)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.5 if "norm" not in name else 0.1))
    return model


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model as training leaves it, with its tokenizer."""
    Tokenizer([]).save(tmp_path / "t" / "tokenizer.json")
    save_model(tmp_path / "best", random_model(), tmp_path / "t" / "tokenizer.json")
    return tmp_path / "best"


@pytest.fixture
def generator(directory: Path) -> TextGenerator:
    return TextGenerator(directory, device="cpu")


# --- one step -------------------------------------------------------------------------------------


@torch.no_grad()
def test_prefill_and_decode_are_the_models_last_logits() -> None:
    model = random_model().eval()
    tokens = torch.randint(260, (3, 20))
    cache = new_cache(model, 3, 24)
    torch.testing.assert_close(prefill(model, tokens[:, :16], cache), model(tokens[:, :16])[:, -1], atol=1e-4, rtol=0)
    for i in range(16, 20):
        expected = model(tokens[:, : i + 1])[:, -1]
        torch.testing.assert_close(decode(model, tokens[:, i], cache, i), expected, atol=1e-4, rtol=0)


def drawn(logits: torch.Tensor, top_k: int | None, top_p: float, draws: int = 60) -> list[set[int]]:
    generator = torch.Generator().manual_seed(1)
    rows = [sample(logits, 1.0, top_k, top_p, generator) for _ in range(draws)]
    return [set(column) for column in torch.stack(rows, dim=1).tolist()]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.floats(0.05, 1.0))
def test_sampling_keeps_the_tokens_transformers_keeps(seed: int, top_k: int, top_p: float) -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed)) * 3
    expected = TopKLogitsWarper(top_k)(None, logits)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    allowed = [set(row.isfinite().nonzero().flatten().tolist()) for row in expected]
    for found, kept in zip(drawn(logits, top_k, top_p), allowed, strict=True):
        assert found <= kept


@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature"), [(None, 1.0, 1.0), (5, 1.0, 1.0), (None, 0.6, 0.7), (8, 0.8, 1.5)]
)
def test_sampling_frequencies_are_the_probabilities(top_k: int | None, top_p: float, temperature: float) -> None:
    logits = torch.randn(20, generator=torch.Generator().manual_seed(2)) * 2
    expected = logits[None] / temperature
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    draws = 20_000
    tokens = sample(logits.expand(draws, 20), temperature, top_k, top_p, torch.Generator().manual_seed(0))
    frequencies = torch.bincount(tokens, minlength=20) / draws
    torch.testing.assert_close(frequencies, expected.softmax(-1)[0], atol=0.015, rtol=0)


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.randn(4, 50)
    assert sample(logits, 0).tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    logits = torch.randn(3, 50)
    ids = torch.randint(50, (3, 12))
    seen = torch.zeros(3, 50, dtype=torch.bool).scatter(1, ids, True)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    torch.testing.assert_close(penalize_repetition(logits, seen, penalty), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.2},
        {"repetition_penalty": 0.0},
    ],
)
def test_values_without_meaning_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]


finite = st.floats(-(2.0**127), 2.0**127, width=32)
positive = st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False)


@given(
    rows=st.integers(1, 12).flatmap(lambda size: st.lists(st.lists(finite, min_size=size, max_size=size), min_size=1)),
    temperature=st.just(0.0) | positive,
    top_k=st.none() | st.integers(1, 10**30),
    top_p=st.floats(0, 1, exclude_min=True),
    penalty=positive,
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    masked=st.booleans(),
    data=st.data(),
)
def test_any_numbers_give_a_token(
    rows: list[list[float]],
    temperature: float,
    top_k: int | None,
    top_p: float,
    penalty: float,
    dtype: torch.dtype,
    masked: bool,
    data: st.DataObject,
) -> None:
    Sampling(temperature, top_k, top_p, penalty)
    logits = torch.tensor(rows).to(dtype)
    seen = torch.tensor(data.draw(st.lists(st.booleans(), min_size=logits.numel(), max_size=logits.numel())))
    logits = penalize_repetition(logits, seen.view_as(logits), penalty)
    if masked:
        logits[:, 1:] = -torch.inf
    tokens = sample(logits, temperature, top_k, top_p, torch.Generator().manual_seed(0))
    assert tokens.shape == (len(rows),)
    assert logits.gather(1, tokens[:, None]).isfinite().all()


@given(
    st.floats() | st.floats(0, 10),
    st.none() | st.integers() | st.integers(1, 5),
    st.floats() | st.floats(0.01, 1),
    st.floats() | st.floats(0.01, 10),
)
def test_numbers_are_refused_or_serve(temperature: float, top_k: int | None, top_p: float, penalty: float) -> None:
    logits = torch.tensor([[3.0, -2.0, 0.0, 1.0]])
    serves = (math.isfinite(temperature) and temperature >= 0 and (top_k is None or top_k > 0) and 0 < top_p <= 1) and (
        math.isfinite(penalty) and penalty > 0
    )
    with contextlib.nullcontext() if serves else pytest.raises(UserError):
        Sampling(temperature, top_k, top_p, penalty)
    if serves:
        penalized = penalize_repetition(logits, logits > 0, penalty)
        assert 0 <= sample(penalized, temperature, top_k, top_p).item() < 4


@pytest.mark.parametrize("temperature", [1e-38, 1e-45, 5e-324])
def test_the_smallest_temperatures_are_greedy(temperature: float) -> None:
    logits = torch.randn(4, 50)
    assert sample(logits, temperature).tolist() == logits.argmax(-1).tolist()


def test_the_smallest_top_p_keeps_the_likeliest() -> None:
    logits = torch.randn(4, 50)
    assert sample(logits, 1.0, top_p=1e-300).tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("seed", [-1, 2**64, -(10**30)])
def test_a_seed_has_64_bits(generator: TextGenerator, seed: int) -> None:
    for use in (generator.generate, generator.stream, lambda text, seed: talk(generator, [text], seed=seed)):
        with pytest.raises(UserError, match="seed"):
            list(use("a", seed=seed))
    assert generator.generate("a", 4, seed=2**64 - 1)
    assert talk(generator, ["a", "b"], seed=2**64 - 1)


# --- many steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_greedy_ids_are_those_of_transformers(penalty: float) -> None:
    model = random_model().eval()
    theirs = GPT2LMHeadModel(GPT2Config(**gpt2_config(model, Tokenizer([])))).eval()
    theirs.load_state_dict(gpt2_weights(model), strict=False)
    theirs.tie_weights()
    prompt = torch.randint(4, 260, (1, 10))
    expected = theirs.generate(
        prompt, max_new_tokens=40, do_sample=False, repetition_penalty=penalty, eos_token_id=None, pad_token_id=0
    )
    sampling = Sampling(temperature=0, repetition_penalty=penalty)
    tokens = [token.item() for token in next_tokens(model, prompt.tolist(), 40, sampling)]
    assert tokens == expected[0, 10:].tolist()
    assert len(set(tokens)) > 5


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_is_the_same_without_the_cache(generator: TextGenerator, penalty: float) -> None:
    arguments = {"max_length": 64, "temperature": 0, "repetition_penalty": penalty}
    cached = generator.generate(PROMPTS, **arguments)
    assert cached == generator.generate(PROMPTS, **arguments, use_cache=False)
    assert all(cached)


@pytest.mark.parametrize("max_length", [40, 64, 500])
@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_a_row_of_a_batch_is_what_it_is_alone(generator: TextGenerator, max_length: int, penalty: float) -> None:
    batch = generator.generate(PROMPTS, max_length, temperature=0, repetition_penalty=penalty)
    alone = [generator.generate(p, max_length, temperature=0, repetition_penalty=penalty)[0] for p in PROMPTS]
    assert batch == alone
    assert len(set(batch)) == len(batch)


def test_a_repeated_token_becomes_rarer() -> None:
    model = random_model().eval()

    def most_repeated(penalty: float) -> int:
        rows = continue_ids(model, [[2, 50]], [60], -1, Sampling(temperature=0, repetition_penalty=penalty))
        return Counter(rows[0]).most_common(1)[0][1]

    assert most_repeated(5.0) < most_repeated(1.0)


def test_ends_at_max_length_and_at_the_context() -> None:
    model = random_model().eval()
    rows = continue_ids(model, [[2], [2, 70, 71]], [3, 7], -1, GREEDY)
    assert [len(row) for row in rows] == [3, 7]


def test_max_length_counts_the_prompt_and_stops_at_the_context(generator: TextGenerator) -> None:
    lengths: list[int] = []
    tokenizer = generator.tokenizer
    for max_length in (30, 64, 1000):
        ids, limit = generator._prompt("abc", max_length)
        lengths.append(len(ids) + limit)
        assert len(tokenizer.encode("abc", bos=True)) == len(ids)
    assert lengths == [30, 64, 64]


def test_stops_at_eos_and_leaves_it_out() -> None:
    model = random_model().eval()
    free = continue_ids(model, [[2, 80], [2, 90, 91]], [30, 30], -1, GREEDY)
    eos = next(token for token in free[0][3:] if token not in free[0][:3])
    stopped = continue_ids(model, [[2, 80], [2, 90, 91]], [30, 30], eos, GREEDY)
    for before, after in zip(free, stopped, strict=True):
        assert after == list(itertools.takewhile(lambda token: token != eos, before))
    assert len(stopped[0]) < 30


def test_equal_seeds_equal_text_and_other_seeds_other_text(generator: TextGenerator) -> None:
    first = generator.generate(PROMPTS, seed=3, temperature=1.0)
    assert first == generator.generate(PROMPTS, seed=3, temperature=1.0)
    assert first != generator.generate(PROMPTS, seed=4, temperature=1.0)
    twins = generator.generate(["a", "a"], seed=3, temperature=1.0)
    assert twins[0] != twins[1]


@pytest.mark.parametrize("prompt", ["", "  ", "\n", "\x00", "\ud800", "abc \udcff"])
def test_any_prompt_is_continued(generator: TextGenerator, prompt: str) -> None:
    assert "\ufffd" not in generator.generate(prompt, 30, seed=1)[0]


@pytest.mark.parametrize("wrong", ["x" * 64, "x" * 200])
def test_a_prompt_without_room_is_a_user_error(generator: TextGenerator, wrong: str) -> None:
    with pytest.raises(UserError, match="context_length"):
        generator.generate(["fine", wrong])
    with pytest.raises(UserError, match="max_length"):
        generator.generate("abcdef", max_length=5)
    with pytest.raises(UserError, match="context_length"):
        generator.stream(wrong)


# --- whole characters -----------------------------------------------------------------------------

HALVES = [(4 + 0xEA, 4 + 0xB0), (4 + 0x80, 4 + 0xEA), (260, 261), (4 + ord("a"), 260), (4 + 0xED, 4 + 0x95)]
"""Tokens that end, begin or both in the middle of a character."""


def model_of_halves() -> tuple[GPT, Tokenizer]:
    tokenizer = Tokenizer(HALVES)
    torch.manual_seed(1)
    model = GPT(CONFIG, tokenizer.vocab_size).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.5 if "norm" not in name else 0.1))
    return model, tokenizer


def begins_a_text(tokenizer: Tokenizer, ids: list[int]) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(tokenizer.decode_bytes(ids))
        held_back, _ = decoder.getstate()
    except UnicodeDecodeError:
        return False
    return min(ids) >= 3 and "\ufffd" not in text and not (3 in ids and held_back) and held_back[:2] < b"\xed\xa0"


@pytest.mark.parametrize("use_cache", [True, False])
def test_only_tokens_that_make_text_are_chosen(use_cache: bool) -> None:
    """Every step takes the likeliest of the tokens that Python's decoder takes; each row has a state of its own."""
    model, tokenizer = model_of_halves()
    prompts = [tokenizer.encode(text, bos=True) for text in ("가", "a", "The")]
    utf8 = utf8_table(tokenizer, torch.device("cpu"))
    steps = torch.stack(list(next_tokens(model, prompts, 20, GREEDY, None, utf8, use_cache)), dim=1).tolist()
    cut = 0
    for prompt, found in zip(prompts, steps, strict=True):
        for i, token in enumerate(found):
            logits = model(torch.tensor([prompt + found[:i]]))[0, -1]
            before = found[:i][found[:i].index(3) + 1 :] if 3 in found[:i] else found[:i]
            order = logits.argsort(descending=True).tolist()
            assert token == next(t for t in order if begins_a_text(tokenizer, [*before, t]))
            cut += token != order[0]
    assert cut > 10, "the mask had something to do"


@pytest.mark.parametrize("seed", range(5))
def test_a_text_has_no_broken_character(generator: TextGenerator, seed: int) -> None:
    arguments = {"temperature": 3.0, "top_p": 1.0, "seed": seed}
    texts = [
        *generator.generate(PROMPTS, 64, **arguments),
        "".join(generator.stream("가", 64, **arguments)),
        *complete(generator.model, generator.tokenizer, PROMPTS, 30, sampling=Sampling(3.0, top_p=1.0), seed=seed),
        talk(generator, PROMPTS, seed=seed, sampling=Sampling(3.0, top_p=1.0)),
    ]
    assert not any("\ufffd" in text for text in texts)
    assert "\ufffd" in "".join(generator.generate(PROMPTS, 64, **arguments, valid_utf8=False))


# --- streaming and chat ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_is_the_generated_text(generator: TextGenerator, seed: int) -> None:
    pieces = list(generator.stream("한국", seed=seed, temperature=1.0))
    assert "".join(pieces) == generator.generate("한국", seed=seed, temperature=1.0)[0]
    assert all(pieces)


class Scripted(TextGenerator):
    """A generator whose model 'says' a given text, byte by byte: a deterministic language model."""

    def __init__(self, text: str) -> None:
        self.tokenizer = Tokenizer([])
        self.model = random_model().eval()
        self.said = self.tokenizer.encode(text, eos=True)
        self.asked: list[list[int]] = []
        self.rooms: list[int] = []

    def stream_ids(self, ids: list[int], new_tokens: int, *_: object) -> Iterator[str]:
        self.asked.append(ids)
        self.rooms.append(new_tokens)
        decoder = self.tokenizer.stream_decoder()
        for token in self.said[:new_tokens]:
            if piece := decoder.feed(token):
                yield piece


def test_hangul_streams_in_whole_characters() -> None:
    """Each syllable is three tokens here; it appears when the third has come."""
    pieces = list(Scripted("안녕하세요, 세계!").stream("가"))
    assert pieces == list("안녕하세요, 세계!")


def test_a_character_cut_in_two_is_left_out(generator: TextGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    hangul = generator.tokenizer.encode("한국")
    steps = [torch.tensor([token]) for token in [*hangul, *hangul[:2]]]
    monkeypatch.setattr("sllm.inference.generator.next_tokens", lambda *_: iter(steps))
    assert generator.generate("a", 10) == ["한국"]
    assert list(generator.stream("a", 10)) == ["한", "국"]


def talk(generator: TextGenerator, lines: list[str], **arguments: Any) -> str:
    """What the chat writes; what it tells goes to `told`."""
    script = iter(lines)
    written: list[str] = []

    def read(_: str) -> str:
        line = next(script, None)
        if line is None:
            raise EOFError
        if line == CTRL_C:
            raise KeyboardInterrupt
        return line

    chat(generator, read=read, write=written.append, **{"tell": lambda _: None, **arguments})
    return "".join(written)


def test_chat_continues_a_growing_transcript() -> None:
    generator = Scripted("\n 좋다.\n더 말하지 않는다")
    assert talk(generator, ["날씨가", "그래서"], reply_tokens=30) == " 좋다.\n 좋다.\n\n"
    assert generator.asked == [
        generator.tokenizer.encode("날씨가", bos=True),
        generator.tokenizer.encode("날씨가 좋다.\n그래서", bos=True),
    ]


@pytest.mark.parametrize("reply_tokens", [1, 20, 64, 100_000])
def test_chat_reads_the_line_whatever_the_room(reply_tokens: int) -> None:
    """64 tokens of context. The reply gets shorter before a line does, and old lines go before that."""
    generator = Scripted("b\n")
    lines = ["0" * 20, "1" * 20, "2" * 45, "3" * 62]
    talk(generator, lines, reply_tokens=reply_tokens)
    bos, kept = {ids[0] for ids in generator.asked}, [generator.tokenizer.decode(ids) for ids in generator.asked]
    assert bos == {2}
    assert kept == [lines[0], f"{lines[0]}b\n{lines[1]}", lines[2], lines[3]]
    assert generator.rooms == [min(reply_tokens, 64 - len(ids)) for ids in generator.asked]
    assert generator.rooms[-1] == 1


def test_chat_reads_the_end_of_a_line_that_is_longer_than_the_context() -> None:
    generator, told = Scripted("b\n"), []
    talk(generator, ["가나다" * 30 + "라", "end"], reply_tokens=64, tell=told.append)
    first, second = generator.asked
    assert first[0] == 2
    assert generator.tokenizer.decode(first) == ("가나다" * 30 + "라")[-15:], (
        "whole characters, a quarter for the reply"
    )
    assert generator.rooms == [16, 60]
    assert generator.tokenizer.decode(second) == "end"
    assert [line for line in told if "64 tokens" in line] == told[1:]


def test_two_lines_get_two_answers(generator: TextGenerator) -> None:
    """Where the room for a reply is the whole context, as with the 128 of `smoke`."""
    assert len({talk(generator, [line], reply_tokens=64, seed=1) for line in ("민수", "Anna", "")}) == 3


def test_each_turn_of_a_chat_draws_anew_and_a_seed_repeats_all(generator: TextGenerator) -> None:
    written = talk(generator, ["민수", "/new", "민수"], seed=1)
    first, second, *_ = written.split("\n")
    assert first != second
    assert talk(generator, ["민수", "/new", "민수"], seed=1) == written


def test_chat_commands() -> None:
    generator, told = Scripted("b\n"), []
    lines = ["a", "/new", "c", "/help", "/help me", " /", "/usr/bin", "/quit", "never"]
    assert talk(generator, lines, tell=told.append) == "b\n" * 3
    assert [generator.tokenizer.decode(ids) for ids in generator.asked] == ["a", "c", "cb\n/usr/bin"]
    greeting, _, helped, unknown, alone = told
    assert "/help" in greeting
    assert all(command in helped for command in ("/new", "/help", "/quit", "Ctrl-C"))
    assert unknown.startswith("/help me: no such command")
    assert alone.startswith("/: no such command")


def test_ctrl_c_ends_a_reply_and_not_the_chat() -> None:
    class Interrupted(Scripted):
        def stream_ids(self, *arguments: Any) -> Iterator[str]:
            for i, piece in enumerate(super().stream_ids(*arguments)):
                if i == 2:
                    raise KeyboardInterrupt
                yield piece

    generator, told = Interrupted("안녕하세요\n"), []
    assert talk(generator, ["a", CTRL_C, "b"], tell=told.append) == "안녕\n\n안녕\n\n"
    assert generator.tokenizer.decode(generator.asked[1]) == "a안녕\nb", "what was said stays"
    assert "Ctrl-D" in told[-1]


def test_chat_with_a_real_model_fills_the_context(generator: TextGenerator) -> None:
    text = talk(generator, ["가나다라마바사"] * 4, reply_tokens=40, seed=1)
    assert text.count("\n") >= 4


# --- a model in memory, a model on disk -----------------------------------------------------------


def test_complete_leaves_a_training_as_it_was() -> None:
    model = random_model().train()
    state = torch.get_rng_state()
    texts = complete(model, Tokenizer([]), ["가", "The"], 12, seed=0)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert len(texts) == 2
    assert texts == complete(model, Tokenizer([]), ["가", "The"], 12, seed=0)
    model(torch.randint(260, (1, 9)), torch.randint(260, (1, 9))).backward()
    assert model.embedding.weight.grad is not None


def test_complete_cuts_only_what_is_too_long() -> None:
    model, tokenizer = random_model().eval(), Tokenizer([])

    def asked(text: str, new_tokens: int) -> str:
        [found] = complete(model, tokenizer, [text], new_tokens, sampling=GREEDY)
        return found

    def continued(text: str, new_tokens: int) -> str:
        ids = tokenizer.encode(text, bos=True)
        utf8 = utf8_table(tokenizer, torch.device("cpu"))
        [row] = continue_ids(model, [ids], [new_tokens], tokenizer.eos_id, GREEDY, utf8=utf8)
        return "".join(map(tokenizer.stream_decoder().feed, row))

    long = "abcdefghij" * 20
    assert asked(long[-44:], 1000) == continued(long[-44:], 19)
    assert asked(long[-62:], 20) == continued(long[-62:], 1)
    assert asked(long, 20) == continued(long[-47:], 16), "the newest, after <bos>, and a quarter for the rest"
    assert asked(long, 5) == continued(long[-58:], 5)
    assert complete(model, tokenizer, [], 5) == []


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_bf16_weights_are_close_to_fp32(rows: int) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(260, (rows, 1))
    exact = GPT(CONFIG, 260).eval()
    rounded = prepare(GPT(CONFIG, 260), "bf16")
    rounded.load_state_dict(exact.state_dict())
    with torch.no_grad():
        expected, found = exact(tokens), rounded(tokens).float()
    assert not torch.equal(expected, found)
    torch.testing.assert_close(found, expected, atol=0.02 * expected.std().item(), rtol=0.02)


def test_preparing_for_fp32_changes_no_value() -> None:
    model, tokens = random_model().eval(), torch.randint(260, (3, 20))
    with torch.no_grad():
        before = model(tokens)
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        after = prepare(model, "fp32")(tokens)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def test_bf16_generates(directory: Path) -> None:
    texts = TextGenerator(directory, device="cpu", dtype="bf16").generate(PROMPTS, 40, temperature=0)
    assert len(texts) == len(PROMPTS)
    assert all(texts)


def test_paths_to_the_model(directory: Path, tmp_path: Path) -> None:
    wanted = TextGenerator(directory, device="cpu").generate("a", temperature=0)
    for path in (directory / "model.safetensors", str(directory)):
        assert TextGenerator(path, device="cpu").generate("a", temperature=0) == wanted
    for tokenizer in (tmp_path / "t", tmp_path / "t" / "tokenizer.json"):
        assert TextGenerator(directory, tokenizer, device="cpu").generate("a", temperature=0) == wanted


def test_a_tokenizer_of_another_model_is_refused(directory: Path, tmp_path: Path) -> None:
    Tokenizer([(100, 101)]).save(tmp_path / "other.json")
    with pytest.raises(UserError, match="261 tokens"):
        load_pair(directory, tmp_path / "other.json", "cpu")
    with pytest.raises(UserError, match="no such file"):
        TextGenerator(directory, tmp_path / "missing.json", device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU"):
            TextGenerator(directory, device="cuda")
    with pytest.raises(UserError, match="no model here"):
        TextGenerator(tmp_path, device="cpu")


def test_a_checkpoint_takes_the_tokenizer_of_its_run(directory: Path, tmp_path: Path) -> None:
    wanted = TextGenerator(directory, device="cpu").generate("a", temperature=0)
    (tmp_path / "config.yaml").write_text("name: run\n", encoding="utf-8")
    checkpoint = shutil.copytree(directory, tmp_path / "checkpoints" / "step-00000001")
    (checkpoint / "tokenizer.json").unlink()
    write_manifest(checkpoint)
    assert TextGenerator(checkpoint, device="cpu").generate("a", temperature=0) == wanted


def test_weights_that_are_not_numbers_are_named(directory: Path, tmp_path: Path) -> None:
    model = random_model()
    with torch.no_grad():
        model.final_norm.bias[0] = torch.nan
    save_model(tmp_path / "diverged", model, directory / "tokenizer.json")
    with pytest.raises(UserError, match="diverged: its weights are not numbers"):
        TextGenerator(tmp_path / "diverged", device="cpu")


def test_weights_that_do_not_fit_their_description_are_named(directory: Path, tmp_path: Path) -> None:
    other = shutil.copytree(directory, tmp_path / "other")
    about = read_json(other / "config.json")
    deeper = {**about["model"], "n_layers": about["model"]["n_layers"] + 1}
    write_json(other / "config.json", {**about, "model": deeper})
    write_manifest(other)
    with pytest.raises(UserError, match=r"made by another architecture \(.* is missing, .*, 12 tensors differ\)"):
        TextGenerator(other, device="cpu")


def test_every_prompt_that_is_too_long_is_named(generator: TextGenerator) -> None:
    with pytest.raises(UserError) as caught:
        generator.generate(["x" * 100, "fine", "y" * 100])
    assert [line[:9] for line in str(caught.value).split("\n")] == ["prompt 'x", "prompt 'y"]
