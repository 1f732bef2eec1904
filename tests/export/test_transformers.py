"""A model as a Transformers directory, read back by Transformers itself."""

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import KINDS, small_config
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from sllm.config import ModelConfig
from sllm.errors import UserError
from sllm.export.transformers import export, generation_config
from sllm.inference.decode import prefill
from sllm.inference.generator import TextGenerator
from sllm.manifests import read_manifest, write_manifest
from sllm.model.families import make_model
from sllm.model.storage import load_model, save_model
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FIRST_BYTE, FIRST_MERGE, FORMER_SPECIAL_TOKENS, SPECIAL_TOKENS

T, H, E, SPACE, EA, B0 = (FIRST_BYTE + byte for byte in (*b"the ", 0xEA, 0xB0))
MERGES = [(T, H), (FIRST_MERGE, E), (EA, B0), (SPACE, FIRST_MERGE + 1)]


def save_random_model(kind: str, directory: Path) -> Path:
    """A model in which every tensor matters, as training leaves it."""
    tokenizer = Tokenizer(MERGES)
    tokenizer.save(directory / "tokenizer.json")
    torch.manual_seed(0)
    model = make_model(small_config(kind), tokenizer.vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    save_model(directory / "best", model, directory / "tokenizer.json")
    return directory / "best"


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of each kind, and its export."""
    directory = tmp_path_factory.mktemp("model")
    model_path = save_random_model(request.param, directory)
    difference = export(model_path, directory / "hf")
    assert difference is not None
    assert difference < 1e-4
    return model_path, directory / "hf"


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model("gpt2", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def exported(model_path: Path) -> Path:
    export(model_path, model_path.parent / "hf")
    return model_path.parent / "hf"


@pytest.fixture(scope="module")
def their_tokenizer(exported: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(exported)


def test_the_logits_are_ours(both: tuple[Path, Path]) -> None:
    ours, theirs = load_model(both[0]), AutoModelForCausalLM.from_pretrained(both[1]).eval()
    assert type(theirs).__module__.startswith(f"transformers.models.{ours.config.family}.")
    tokens = torch.randint(ours.vocab_size, (3, 64))
    with torch.no_grad():
        found, expected = theirs(tokens).logits, ours(tokens)
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("prompt", ["the 가", "", "<bos>", "대한"])
def test_a_greedy_text_is_ours(prompt: str, both: tuple[Path, Path]) -> None:
    """Their tokenizer, model and generate as anybody calls them, against our TextGenerator, from prompt to text."""
    model_path, exported = both
    their_tokenizer, theirs = (each.from_pretrained(exported) for each in (AutoTokenizer, AutoModelForCausalLM))
    inputs = their_tokenizer(prompt, return_tensors="pt")
    assert inputs.input_ids[0, 0] == 2
    out = theirs.eval().generate(**inputs, max_length=60, do_sample=False)[0, inputs.input_ids.shape[1] :]
    ours = TextGenerator(model_path, device="cpu").generate(prompt, 60, temperature=0, valid_utf8=False)
    # They write U+FFFD for a character that the limit cut in two, we leave it out.
    assert their_tokenizer.decode(out, skip_special_tokens=True).rstrip("\ufffd") == ours[0].rstrip("\ufffd")
    assert len(ours[0]) > 5


def test_a_padded_batch_is_read_as_ours(both: tuple[Path, Path]) -> None:
    """A model that counts positions from the padding, or looks at it, finds other logits."""
    ours, theirs = load_model(both[0]), AutoModelForCausalLM.from_pretrained(both[1]).eval()
    batch = AutoTokenizer.from_pretrained(both[1])(["the 가", "대한민국의 수도는"], padding=True, return_tensors="pt")
    begins = (1 - batch.attention_mask).sum(dim=1, keepdim=True)
    assert begins[0, 0] > 0
    with torch.no_grad():
        found = theirs.generate(
            **batch, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        torch.testing.assert_close(found.logits[0], prefill(ours, batch.input_ids, begins=begins), atol=1e-4, rtol=0)


def test_a_context_longer_than_their_sliding_window(tmp_path: Path) -> None:
    """Qwen3's configuration has a window of 4,096 tokens unless told otherwise, and not every reader asks whether it is
    used."""
    Tokenizer([]).save(tmp_path / "tokenizer.json")
    config = ModelConfig(family="qwen3", d_model=8, n_layers=1, n_heads=1, d_ff=8, context_length=4200)
    model = make_model(config, Tokenizer([]).vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    save_model(tmp_path / "best", model, tmp_path / "tokenizer.json")
    export(tmp_path / "best", tmp_path / "hf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tokens = torch.randint(model.vocab_size, (1, 4200))
    mask = torch.ones_like(tokens)
    mask[:, 0] = 0  # so that a mask is made
    with torch.no_grad():
        found = theirs(tokens, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(0)).logits[:, 1:]
        expected = model.logits(model.hidden(tokens, begins=torch.tensor([[1]]))[:, 1:])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@settings(max_examples=200, deadline=None)
@given(
    text=st.text()
    | st.text(alphabet="the 가각<bos>")
    | st.lists(st.sampled_from(["the", *SPECIAL_TOKENS])).map("".join)
)
def test_the_tokenizer_is_ours(text: str, their_tokenizer: PreTrainedTokenizerBase) -> None:
    ours = Tokenizer(MERGES)
    ids = ours.encode(text)
    assert their_tokenizer(text, add_special_tokens=False).input_ids == ids
    assert their_tokenizer(text).input_ids == [2, *ids]
    assert their_tokenizer.decode(ids) == ours.decode(ids)


def test_special_tokens_keep_their_names(their_tokenizer: PreTrainedTokenizerBase) -> None:
    names = ("pad_token", "unk_token", "bos_token", "eos_token")
    assert [getattr(their_tokenizer, name) for name in names] == ["<pad>", "<unk>", "<bos>", "<eos>"]
    assert [getattr(their_tokenizer, f"{name}_id") for name in names] == [0, 1, 2, 3]
    assert their_tokenizer.model_max_length == 64
    written = Tokenizer(MERGES).encode("<eos>", bos=True)
    assert their_tokenizer("<eos>").input_ids == written, "written in a text, it is text"


@pytest.mark.parametrize("special_tokens", [SPECIAL_TOKENS, FORMER_SPECIAL_TOKENS])
def test_its_tokenizer_knows_all_special_tokens(special_tokens: tuple[str, ...], tmp_path: Path) -> None:
    ours = Tokenizer([], special_tokens=special_tokens)
    ours.save(tmp_path / "tokenizer.json")
    model = make_model(ModelConfig(d_model=8, n_layers=1, n_heads=1, d_ff=8, context_length=8), ours.vocab_size)
    save_model(tmp_path / "best", model, tmp_path / "tokenizer.json")
    export(tmp_path / "best", tmp_path / "hf")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    every = [*range(len(special_tokens))]
    assert theirs.convert_tokens_to_ids(list(special_tokens)) == every
    assert sorted(theirs.all_special_ids) == every
    assert theirs.decode([*every, *ours.encode("the")], skip_special_tokens=True) == "the"
    text = "<|user|>".join(["a", *SPECIAL_TOKENS])
    assert theirs(text).input_ids == ours.encode(text, bos=True), "written in a text, they are text"
    allowed = theirs(text, split_special_tokens=False, add_special_tokens=False).input_ids
    assert allowed == ours.encode(text, allowed_special=set(special_tokens))


def test_a_batch_and_a_pair(exported: Path, their_tokenizer: PreTrainedTokenizerBase) -> None:
    ours = Tokenizer(MERGES)
    batch = their_tokenizer(["the", "가나"], padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}, "GPT-2 would add token_type_ids to the embeddings"
    first, second = ours.encode("the", bos=True), ours.encode("가나", bos=True)
    assert batch.input_ids == [[0] * (len(second) - len(first)) + first, second]
    assert their_tokenizer("the", "가나").input_ids == [*first, *second]
    assert json.loads((exported / "tokenizer_config.json").read_text("utf-8"))["model_input_names"] == list(batch)


def test_its_generation_config_knows_the_special_tokens(exported: Path) -> None:
    config = AutoModelForCausalLM.from_pretrained(exported).generation_config
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 2, 3)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_its_files_follow_the_umask(mask: int, mode: int, model_path: Path, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        export(model_path, tmp_path / "hf")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "hf").iterdir()} == {mode}


def test_a_former_export_is_replaced_as_a_whole(model_path: Path, tmp_path: Path) -> None:
    export(model_path, tmp_path / "hf")
    former = (tmp_path / "hf").stat().st_ino
    (tmp_path / "link").symlink_to("hf")
    export(model_path, tmp_path / "link")
    assert (tmp_path / "hf").stat().st_ino != former
    read_manifest(tmp_path / "hf", checksums=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "link"]
    assert (tmp_path / "link").is_symlink()


def test_an_export_of_an_earlier_version_is_replaced(model_path: Path, tmp_path: Path) -> None:
    export(model_path, tmp_path / "hf")
    (tmp_path / "hf" / "README.md").unlink()  # which none had
    write_manifest(tmp_path / "hf", format="transformers-gpt2")
    export(model_path, tmp_path / "hf")
    assert read_manifest(tmp_path / "hf")["format"] == "transformers"


def test_a_transformers_that_does_not_know_the_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As 4.50 does not."""
    monkeypatch.delitem(CONFIG_MAPPING._mapping, "qwen3")
    model_path = save_random_model("qwen3", tmp_path / "model")
    with pytest.raises(UserError, match=r"does not know qwen3, .* install 4\.51\.3 or later"):
        export(model_path, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_other_files_are_not_replaced(model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    for output in (tmp_path, tmp_path / "thesis.txt", model_path):
        with pytest.raises(UserError, match="not a former export"):
            export(model_path, output)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    load_model(model_path)


@pytest.mark.parametrize("name", ["README.md", ".git/HEAD"])
def test_a_file_laid_into_an_export_stays(name: str, model_path: Path, tmp_path: Path) -> None:
    export(model_path, tmp_path / "hf")
    (tmp_path / "hf" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "hf" / name).write_text("by hand", encoding="utf-8")
    with pytest.raises(UserError, match=f"holds files that no export wrote .{name}"):
        export(model_path, tmp_path / "hf")
    assert (tmp_path / "hf" / name).read_text(encoding="utf-8") == "by hand"


def test_places_where_nothing_can_be_written(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount_disk: Callable[[str], Path]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    disk = mount_disk("16k")
    full = disk / "hf"
    for output in ("x" * 300, "file/hf", "loop", "/proc/hf", disk, full):
        with pytest.raises(UserError, match=r"give another directory|cannot be written") as caught:
            export(model_path, output)
        assert str(caught.value).startswith(f"{output}: ")
    assert not list(disk.iterdir())
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match="the directory you are in"):
        export(model_path, ".")


def test_nothing_appears_when_the_model_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model here"):
        export(tmp_path / "none", tmp_path / "hf")
    assert not list(tmp_path.iterdir())


def test_nothing_appears_when_the_logits_differ(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sllm.export.transformers.TOLERANCE", 0.0)
    with pytest.raises(AssertionError, match="differ"):
        export(model_path, tmp_path / "hf")
    assert not list(tmp_path.iterdir())


def test_nothing_appears_when_their_text_is_another(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, config = Tokenizer._document, generation_config
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "_document", lambda self: {**document(self), "post_processor": None})
        with pytest.raises(AssertionError, match="Transformers reads"):
            export(model_path, tmp_path / "hf")
    monkeypatch.setattr(
        "sllm.export.transformers.generation_config",
        lambda *arguments: {**config(*arguments), "suppress_tokens": [*range(4, 200)]},
    )
    with pytest.raises(AssertionError, match="texts differ"):
        export(model_path, tmp_path / "hf")
    assert not list(tmp_path.iterdir())


def test_equally_likely_tokens_are_no_difference(tmp_path: Path) -> None:
    """A model without any preference."""
    Tokenizer(MERGES).save(tmp_path / "tokenizer.json")
    model = make_model(ModelConfig(d_model=8, n_layers=1, n_heads=1, d_ff=8, context_length=8), FIRST_MERGE + 4)
    with torch.no_grad():
        model.embedding.weight.zero_()
    save_model(tmp_path / "best", model, tmp_path / "tokenizer.json")
    assert export(tmp_path / "best", tmp_path / "hf") == 0


def test_transformers_is_not_needed(
    model_path: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert export(model_path, tmp_path / "hf") is None
    for file in exported.iterdir():
        assert (tmp_path / "hf" / file.name).read_bytes() == file.read_bytes()
