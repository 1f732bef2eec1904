"""A model to the hub: a stand-in for it on loopback gets what a user would find there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub import use
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st
from model_hub import TOKEN, ModelHub, serving
from small_models import small_config
from transformers import AutoModelForCausalLM

from sllm.data.offline import offline
from sllm.errors import UserError
from sllm.export.push import check_name, push
from sllm.export.transformers import export
from sllm.model.families import make_model
from sllm.model.storage import load_model, save_model
from sllm.tokenizer import Tokenizer

FILES = {
    *("README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"),
    "tokenizer_config.json",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    with serving() as running:
        use(running.url, tmp_path / "hf", monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its server is not stood in for
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    Tokenizer([]).save(directory / "tokenizer.json")
    torch.manual_seed(0)
    save_model(directory / "best", make_model(small_config(), Tokenizer([]).vocab_size), directory / "tokenizer.json")
    return directory / "best"


def test_a_model_of_ours_arrives_as_an_export_with_its_card(model: Path, hub: ModelHub, tmp_path: Path) -> None:
    assert push(model, "me/small-model") == f"{hub.url}/me/small-model"
    files = hub.repositories["me/small-model"]
    assert files.keys() == FILES
    assert not hub.private["me/small-model"]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, load_model(model)(tokens), atol=1e-4, rtol=0)
    text = files["README.md"].decode()
    assert ModelCard(text).data.to_dict()["library_name"] == "transformers"
    assert 'from_pretrained("me/small-model")' in text


def test_an_export_arrives_as_it_is_and_again(model: Path, hub: ModelHub, tmp_path: Path) -> None:
    export(model, tmp_path / "exported")
    card = tmp_path / "exported" / "README.md"
    card.write_text("---\nlicense: mit\n---\nmine", encoding="utf-8")
    (tmp_path / "exported" / ".secret").write_text("of an editor", encoding="utf-8")
    push(tmp_path / "exported", "me/mine", private=True)
    files = hub.repositories["me/mine"]
    assert files.keys() == FILES
    assert files["README.md"] == card.read_bytes()
    assert files["model.safetensors"] == (tmp_path / "exported" / "model.safetensors").read_bytes()
    assert hub.private["me/mine"]
    card.write_text("---\nlicense: mit\n---\nmine, again", encoding="utf-8")
    push(tmp_path / "exported", "me/mine", private=True)
    assert hub.repositories["me/mine"]["README.md"] == card.read_bytes()


def test_what_is_to_be_private_never_becomes_public(model: Path, hub: ModelHub) -> None:
    push(model, "me/open")
    hub.repositories["me/open"].clear()
    with pytest.raises(UserError, match="is there already, and public"):
        push(model, "me/open", private=True)
    assert hub.repositories["me/open"] == {}


def problem(model: Path, name: str = "me/it") -> str:
    with pytest.raises(UserError) as found:
        push(model, name)
    assert "\n" not in str(found.value)
    assert TOKEN not in str(found.value)
    return str(found.value)


def test_without_a_token_or_with_a_wrong_one(model: Path, hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = TOKEN[:-1] + "x"
    monkeypatch.setenv("HF_TOKEN", wrong)
    told = problem(model)
    assert "does not take the token; log in with `hf auth login`" in told
    assert wrong not in told
    monkeypatch.delenv("HF_TOKEN")
    assert "nobody is logged in to the hub here; log in with `hf auth login`" in problem(model)
    assert hub.repositories == {}


def test_a_token_that_http_cannot_carry_is_not_shown(
    model: Path, hub: ModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abc\x0bsecret")
    assert "secret" not in problem(model)


@pytest.mark.parametrize(
    ("part", "status", "message"),
    [
        ("/api/repos/create", 403, "the token may not write there; take a name of your own"),
        ("/commit/", 403, "the token may not write there"),
        ("/preupload/", 404, "answers 404"),
        ("/api/validate-yaml", 400, "refused|[Ii]nvalid metadata"),
        ("whoami", 401, "does not take the token"),
    ],
)
def test_what_the_hub_refuses_is_one_line(model: Path, hub: ModelHub, part: str, status: int, message: str) -> None:
    hub.refuse[part] = status
    assert re.search(message, problem(model))


def test_without_a_network(model: Path, hub: ModelHub) -> None:
    hub.server.shutdown()
    hub.server.server_close()
    assert "could not be reached" in problem(model)
    with offline():
        assert "HF_HUB_OFFLINE is set" in problem(model)


def test_names_are_looked_at_before_anything_else(hub: ModelHub, tmp_path: Path) -> None:
    for name, close in {
        "small": "OWNER/small",
        "me/a/b": "me/a",
        "me/my model": "me/my-model",
        "https://huggingface.co/me/small": "me/small",
        "me/a--b": "me/a-b",
        "me/-a": "me/a",
        "나/모델": "OWNER/NAME",
        "me/small.git": "me/small",
        "me/" + "x" * 94: "me/" + "x" * 47,
        "": "OWNER/NAME",
    }.items():
        told = problem(tmp_path / "no model", name)
        assert told.startswith(f"{name}: not a name on the hub")
        assert told.endswith(f"; {close}, say"), told
    assert hub.requests == []


@given(st.text("aB1-._/ 한", max_size=12))
def test_names_are_those_that_the_client_takes(name: str) -> None:
    try:
        check_name(name)
    except UserError as error:
        close = str(error).rpartition("; ")[2].removesuffix(", say")
        check_name(close)  # what is offered is one
    else:
        validate_repo_id(name)
