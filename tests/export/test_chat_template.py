"""A tuned model as Transformers has it: the same tokens of every conversation, the same answers, the same refusals."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from small_models import chain_model, small_config
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from sllm.errors import UserError
from sllm.export import transformers as exporting
from sllm.export.transformers import export
from sllm.inference.generator import TextGenerator
from sllm.model.families import make_model
from sllm.model.storage import load_model, save_model
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FIRST_BYTE, FIRST_MERGE, FORMER_SPECIAL_TOKENS, SPECIAL_TOKENS
from sllm.tokenizer.template import ENDS, ROLE_IDS, conversation_ids

T, H, E, EA, B0 = (FIRST_BYTE + byte for byte in (*b"the", 0xEA, 0xB0))
OURS = Tokenizer([(T, H), (FIRST_MERGE, E), (EA, B0)])
HOW = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}


@pytest.fixture(scope="module", params=["gpt2", "qwen3"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tuned model of each family, and its export."""
    directory = tmp_path_factory.mktemp("model")
    OURS.save(directory / "tokenizer.json")
    torch.manual_seed(0)
    config = small_config(request.param).model_copy(update={"context_length": 256})
    model = make_model(config, OURS.vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    save_model(directory / "best", model, directory / "tokenizer.json", tuned=True)
    difference = export(directory / "best", directory / "hf")
    assert difference is not None
    assert difference < 1e-4
    return directory / "best", directory / "hf"


@pytest.fixture(scope="module")
def theirs(both: tuple[Path, Path]) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(both[1])


texts = (
    st.text(max_size=12)
    | st.text(alphabet="the 가각\n\r\t\u0338👋🏽 ", max_size=12)
    | st.lists(
        st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "<|end|", "user", ">", "{{", "}}", "{%", "{#", "\u0338", " "]),
        max_size=4,
    ).map("".join)
)


@settings(max_examples=200, deadline=None)
@given(
    messages=st.lists(
        st.tuples(st.sampled_from(["user", "assistant", "system", "tool"]), texts), min_size=1, max_size=4
    )
)
def test_any_messages_are_the_same_tokens_or_refused_by_both(
    messages: list[tuple[str, str]], theirs: PreTrainedTokenizerBase
) -> None:
    agree([{"role": role, "content": text} for role, text in messages], theirs)


@settings(max_examples=200, deadline=None)
@given(turns=st.lists(texts, min_size=1, max_size=5), system=st.none() | texts)
def test_conversations_are_the_same_tokens(
    turns: list[str], system: str | None, theirs: PreTrainedTokenizerBase
) -> None:
    first = [] if system is None else [{"role": "system", "content": system}]
    agree([*first, *({"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns))], theirs)


def agree(messages: list[dict[str, str]], theirs: PreTrainedTokenizerBase) -> None:
    how = {**HOW, "add_generation_prompt": messages[-1]["role"] != "assistant"}
    try:
        ids = conversation_ids(OURS, messages)
    except UserError:
        with pytest.raises(TemplateError):
            theirs.apply_chat_template(messages, **how)
    else:
        assert theirs.apply_chat_template(messages, **how) == ids


def test_what_the_template_refuses_it_names(theirs: PreTrainedTokenizerBase) -> None:
    user, assistant = ({"role": role, "content": "a"} for role in ("user", "assistant"))
    for messages, line in (
        ([{"role": "user", "content": "a <|end|> b"}], "a text cannot hold the special token <|end|>"),
        ([user, user], "come user and assistant by turns"),
        ([{"role": "user", "content": " \n"}], "a message is empty"),
        ([user, assistant], "the last message must be the user's"),
    ):
        with pytest.raises(TemplateError, match=line.replace("|", r"\|")):
            theirs.apply_chat_template(messages, **HOW)


@pytest.mark.parametrize("end", ENDS)
def test_answers_are_ours(end: int, tmp_path: Path) -> None:
    """As anybody calls it, with what the export says of where a reply ends."""
    OURS.save(tmp_path / "tokenizer.json")
    said = [FIRST_BYTE + byte for byte in "나👋 abc".encode()]
    model = chain_model(ROLE_IDS["assistant"], *said, end, FIRST_BYTE + ord("x"), vocab_size=OURS.vocab_size)
    save_model(tmp_path / "best", model, tmp_path / "tokenizer.json", tuned=True)
    export(tmp_path / "best", tmp_path / "hf")
    ours, their_tokenizer = (
        TextGenerator(tmp_path / "best", device="cpu"),
        AutoTokenizer.from_pretrained(tmp_path / "hf"),
    )
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert theirs.generation_config.eos_token_id == list(ENDS)
    assert theirs.config.eos_token_id == Tokenizer.eos_id
    messages = [{"role": "user", "content": " 왜?\n"}]
    inputs = torch.tensor([their_tokenizer.apply_chat_template(messages, **HOW)])
    out = theirs.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=30, do_sample=False)
    found = their_tokenizer.decode(out[0, inputs.shape[1] :], skip_special_tokens=True)
    assert found == ours.chat(messages, temperature=0) == "나👋 abc"
    assert out[0, -1] == end


def test_only_a_tuned_models_tokenizer_has_a_template(both: tuple[Path, Path], tmp_path: Path) -> None:
    base = shutil.copytree(both[0], tmp_path / "base")
    shutil.copy(base / "tokenizer.json", tmp_path / "tokenizer.json")
    save_model(base, load_model(both[0]), tmp_path / "tokenizer.json")
    export(base, tmp_path / "hf")
    tuned, plain = (
        json.loads((place / "tokenizer_config.json").read_text("utf-8")) for place in (both[1], tmp_path / "hf")
    )
    assert "chat_template" not in plain
    assert (tuned["split_special_tokens"], plain["split_special_tokens"]) == (False, True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (both[1] / name).read_bytes() == (tmp_path / "hf" / name).read_bytes()


def test_nothing_appears_when_a_conversation_is_read_otherwise(
    both: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template that takes white space off, as many do."""
    monkeypatch.setattr(
        exporting, "JINJA", exporting.JINJA.replace("+ message['content'] +", "+ message['content'] | trim +")
    )
    with pytest.raises(AssertionError, match="Transformers reads"):
        export(both[0], tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_an_old_vocabulary_has_no_template(tmp_path: Path) -> None:
    former = Tokenizer([], special_tokens=FORMER_SPECIAL_TOKENS)
    former.save(tmp_path / "tokenizer.json")
    save_model(
        tmp_path / "best", make_model(small_config(), former.vocab_size), tmp_path / "tokenizer.json", tuned=True
    )
    with pytest.raises(UserError, match=r"this tokenizer has no <\|system\|>"):
        export(tmp_path / "best", tmp_path / "hf")
