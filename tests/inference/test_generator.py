"""Whole texts: greedy ones are those of Transformers; whole characters, streams and limits."""

import codecs
import itertools
from collections import Counter
from pathlib import Path

import pytest
import torch
from small_models import CONFIG, GREEDY, PROMPTS, VOCAB_SIZE, Scripted, each_kind, random_model, talk
from transformers import AutoConfig, AutoModelForCausalLM

from sllm.errors import UserError
from sllm.export.transformers import their_config, their_weights
from sllm.inference.generator import TextGenerator, complete, continue_ids, next_tokens
from sllm.inference.sampling import Sampling, utf8_table
from sllm.model.families import make_model
from sllm.model.shared import LanguageModel
from sllm.model.storage import save_model
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FIRST_BYTE, FIRST_MERGE


@each_kind
@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_greedy_ids_are_those_of_transformers(penalty: float, kind: str) -> None:
    model = random_model(seed=7, kind=kind).eval()
    prompt = torch.randint(FIRST_BYTE, VOCAB_SIZE, (1, 10))
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**their_config(model, Tokenizer([])))).eval()
    theirs.load_state_dict(their_weights(model), strict=False)
    theirs.tie_weights()
    expected = theirs.generate(
        prompt, max_new_tokens=40, do_sample=False, repetition_penalty=penalty, eos_token_id=None, pad_token_id=0
    )
    sampling = Sampling(temperature=0, repetition_penalty=penalty)
    tokens = [token.item() for token in next_tokens(model, prompt.tolist(), 40, sampling)]
    assert tokens == expected[0, 10:].tolist()
    assert len(set(tokens)) > 5


@pytest.mark.parametrize("kind", ["qwen3", "qwen3 untied, grouped"])
def test_a_qwen3_continues_texts_as_gpt2_does(kind: str, tmp_path: Path) -> None:
    """The same in a batch and alone; streamed, and with weights in bf16."""
    Tokenizer([]).save(tmp_path / "tokenizer.json")
    save_model(tmp_path / "best", random_model(kind=kind), tmp_path / "tokenizer.json")
    generator = TextGenerator(tmp_path / "best", device="cpu")
    texts = generator.generate(PROMPTS, 64, temperature=0)
    assert len(set(texts)) == len(PROMPTS)
    assert texts == [generator.generate(prompt, 64, temperature=0)[0] for prompt in PROMPTS]
    assert texts[0] == "".join(generator.stream(PROMPTS[0], 64, temperature=0))
    assert all(TextGenerator(tmp_path / "best", device="cpu", dtype="bf16").generate(PROMPTS, 64, temperature=0))


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
        rows = continue_ids(model, [[2, 50]], [60], [], Sampling(temperature=0, repetition_penalty=penalty))
        return Counter(rows[0]).most_common(1)[0][1]

    assert most_repeated(5.0) < most_repeated(1.0)


def test_ends_at_max_length_and_at_the_context() -> None:
    model = random_model().eval()
    rows = continue_ids(model, [[2], [2, 70, 71]], [3, 7], [], GREEDY)
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
    free = continue_ids(model, [[2, 80], [2, 90, 91]], [30, 30], [], GREEDY)
    eos = next(token for token in free[0][3:] if token not in free[0][:3])
    stopped = continue_ids(model, [[2, 80], [2, 90, 91]], [30, 30], [eos], GREEDY)
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

EA, B0, X80, A, ED, X95 = (FIRST_BYTE + byte for byte in (0xEA, 0xB0, 0x80, ord("a"), 0xED, 0x95))
HALVES = [(EA, B0), (X80, EA), (FIRST_MERGE, FIRST_MERGE + 1), (A, FIRST_MERGE), (ED, X95)]
"""Tokens that end, begin or both in the middle of a character."""


def model_of_halves() -> tuple[LanguageModel, Tokenizer]:
    tokenizer = Tokenizer(HALVES)
    torch.manual_seed(1)
    model = make_model(CONFIG, tokenizer.vocab_size).eval()
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
    if any(i < FIRST_BYTE and i != tokenizer.eos_id for i in ids) or (tokenizer.eos_id in ids and held_back):
        return False
    # A surrogate cannot come, though the decoder waits for its third byte.
    return "\ufffd" not in text and not b"\xed\xa0" <= held_back[:2] < b"\xee"


def test_only_tokens_that_make_text_are_chosen() -> None:
    """Every step takes the likeliest of the tokens that Python's decoder takes; each row has a state of its own."""
    model, tokenizer = model_of_halves()
    prompts = [tokenizer.encode(text, bos=True) for text in ("가", "a", "The")]
    utf8 = utf8_table(tokenizer, torch.device("cpu"))
    steps = torch.stack(list(next_tokens(model, prompts, 20, GREEDY, None, utf8)), dim=1).tolist()
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


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_is_the_generated_text(generator: TextGenerator, seed: int) -> None:
    pieces = list(generator.stream("한국", seed=seed, temperature=1.0))
    assert "".join(pieces) == generator.generate("한국", seed=seed, temperature=1.0)[0]
    assert all(pieces)


def test_two_streams_at_once_are_what_each_is_alone(generator: TextGenerator) -> None:
    prompts = ["한국", "The quick"]
    alone = [list(generator.stream(prompt, seed=2)) for prompt in prompts]
    both = list(itertools.zip_longest(*(generator.stream(prompt, seed=2) for prompt in prompts)))
    assert [[piece for piece in pieces if piece] for pieces in zip(*both, strict=True)] == alone
    assert "".join(alone[0]) != "".join(alone[1])
    assert list(generator.stream(prompts[0], seed=2)) == alone[0]


def test_what_was_recorded_serves_again(generator: TextGenerator) -> None:
    list(generator.stream("한국"))
    kept = generator._kept
    talk(generator, PROMPTS, sampling=Sampling())
    assert generator._kept is kept
    generator.generate(PROMPTS)
    assert generator._kept is not kept


def test_hangul_streams_in_whole_characters() -> None:
    """Each syllable is three tokens here; it appears when the third has come."""
    pieces = list(Scripted("안녕하세요, 세계!").stream("가"))
    assert pieces == list("안녕하세요, 세계!")


def test_a_character_cut_in_two_is_left_out(generator: TextGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    hangul = generator.tokenizer.encode("한국")
    steps = [torch.tensor([token]) for token in [*hangul, *hangul[:2]]]
    monkeypatch.setattr("sllm.inference.generator.next_tokens", lambda *_, **__: iter(steps))
    assert generator.generate("a", 10) == ["한국"]
    assert list(generator.stream("a", 10)) == ["한", "국"]


# --- a model in memory ----------------------------------------------------------------------------


def test_complete_leaves_a_training_as_it_was() -> None:
    model = random_model().train()
    state = torch.get_rng_state()
    texts = complete(model, Tokenizer([]), ["가", "The"], 12, seed=0)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert len(texts) == 2
    assert texts == complete(model, Tokenizer([]), ["가", "The"], 12, seed=0)
    model(torch.randint(VOCAB_SIZE, (1, 9)), torch.randint(VOCAB_SIZE, (1, 9))).backward()
    assert model.embedding.weight.grad is not None


def test_complete_cuts_only_what_is_too_long() -> None:
    model, tokenizer = random_model().eval(), Tokenizer([])

    def asked(text: str, new_tokens: int) -> str:
        [found] = complete(model, tokenizer, [text], new_tokens, sampling=GREEDY)
        return found

    def continued(text: str, new_tokens: int) -> str:
        ids = tokenizer.encode(text, bos=True)
        utf8 = utf8_table(tokenizer, torch.device("cpu"))
        [row] = continue_ids(model, [ids], [new_tokens], [tokenizer.eos_id], GREEDY, utf8=utf8)
        return "".join(map(tokenizer.stream_decoder().feed, row))

    long = "abcdefghij" * 20
    assert asked(long[-44:], 1000) == continued(long[-44:], 19)
    assert asked(long[-62:], 20) == continued(long[-62:], 1)
    assert asked(long, 20) == continued(long[-47:], 16), "the newest, after <bos>, and a quarter for the rest"
    assert asked(long, 5) == continued(long[-58:], 5)
    assert complete(model, tokenizer, [], 5) == []


def test_every_prompt_that_is_too_long_is_named(generator: TextGenerator) -> None:
    with pytest.raises(UserError) as caught:
        generator.generate(["x" * 100, "fine", "y" * 100])
    assert [line[:9] for line in str(caught.value).split("\n")] == ["prompt 'x", "prompt 'y"]
