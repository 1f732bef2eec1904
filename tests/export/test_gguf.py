"""A model as a GGUF file, read back: each tensor and each setting in the place where llama.cpp looks for it.

The names below are those that llama.cpp's own source asks for, not those of the package that wrote the file.
bench/llama_cpp.py does the same with llama.cpp itself, which has to be compiled."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from small_models import KINDS, each_kind, small_config
from test_transformers import MERGES, save_random_model
from transformers import AutoConfig, AutoModelForCausalLM

from sllm.errors import UserError
from sllm.export.gguf import TYPES, export
from sllm.export.transformers import their_config
from sllm.model.families import make_model
from sllm.model.storage import load_model, save_model
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import SPECIAL_TOKENS, byte_level_name
from sllm.tokenizer.template import JINJA

BLOCK = {
    "gpt2": {
        "attn_norm": "ln_1",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    },
    "qwen3": {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    },
}
AROUND = {
    "gpt2": {
        "token_embd": "transformer.wte",
        "position_embd": "transformer.wpe",
        "output_norm": "transformer.ln_f",
        "output": "lm_head",
    },
    "qwen3": {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"},
}
LAYERS = {"gpt2": "transformer.h", "qwen3": "model.layers"}


def values(path: Path) -> dict[str, Any]:
    """The settings in a file."""
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items() if "GGUF." not in name}


def weights(path: Path, family: str) -> dict[str, torch.Tensor]:
    """The tensors in a file under Transformers' names and as it lays them out."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        data = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        name, _, part = tensor.name.rpartition(".")
        if block := re.fullmatch(r"blk\.(\d+)\.(\w+)", name):
            theirs = f"{LAYERS[family]}.{block[1]}.{BLOCK[family][block[2]]}"
            data = data.t() if family == "gpt2" and data.dim() == 2 else data
        else:
            theirs = AROUND[family][name]
        found[f"{theirs}.{part}"] = data.float()
    return found


@pytest.fixture(scope="module", params=KINDS)
def model_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(request.param, tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("type", TYPES)
def test_transformers_computes_our_logits_from_its_tensors(type: str, model_path: Path, tmp_path: Path) -> None:
    export(model_path, tmp_path / "model.gguf", type=type)
    ours = load_model(model_path)
    config = their_config(ours, Tokenizer(MERGES))
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).eval()
    found = weights(tmp_path / "model.gguf", ours.config.family)
    if ours.head is None:
        found["lm_head.weight"] = found[next(iter(found))]
    theirs.load_state_dict(found)
    tokens = torch.randint(ours.vocab_size, (3, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, expected = theirs(tokens).logits, ours(tokens)
    # f16 has 11 bits, a scale for 32 numbers of 8 bits leaves about 7.
    assert (logits - expected).std() < {"f16": 0.002, "q8_0": 0.03}[type] * expected.std()


@pytest.mark.parametrize("type", TYPES)
def test_what_is_no_matrix_stays_as_it_is(type: str, model_path: Path, tmp_path: Path) -> None:
    export(model_path, tmp_path / "model.gguf", type=type)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    flat = {name for name in kinds if name.endswith((".bias", "norm.weight", "position_embd.weight"))}
    assert {kinds[name] for name in flat} == {"F32"}
    assert {kinds[name] for name in kinds.keys() - flat} == {type.upper()}


def test_rows_that_blocks_do_not_fill_are_f16(tmp_path: Path) -> None:
    Tokenizer(MERGES).save(tmp_path / "tokenizer.json")
    config = small_config("qwen3").model_copy(update={"d_ff": 72})
    save_model(tmp_path / "m", make_model(config, Tokenizer(MERGES).vocab_size), tmp_path / "tokenizer.json")
    export(tmp_path / "m", tmp_path / "model.gguf", type="q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


@each_kind
def test_its_settings(kind: str, tmp_path: Path) -> None:
    export(save_random_model(kind, tmp_path), tmp_path / "model.gguf")
    config = small_config(kind)
    found = values(tmp_path / "model.gguf")
    family = found["general.architecture"]
    assert family == config.family
    prefix = f"{family}."
    expected = {
        "vocab_size": len(SPECIAL_TOKENS) + 256 + len(MERGES),
        "context_length": 64,
        "embedding_length": 32,
        "feed_forward_length": 96,
        "block_count": 2,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.kv_heads,
    }
    if family == "gpt2":
        expected["attention.layer_norm_epsilon"] = pytest.approx(1e-5)
    else:
        expected["attention.layer_norm_rms_epsilon"] = pytest.approx(1e-6)
        expected["attention.key_length"] = expected["attention.value_length"] = 32 // config.n_heads
        expected["rope.freq_base"] = 10_000
    assert {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)} == expected
    assert found["general.file_type"] == 1
    assert found["general.languages"] == ["ko", "en"]


def test_its_tokenizer(tmp_path: Path) -> None:
    path = save_random_model("qwen3", tmp_path)
    export(path, tmp_path / "model.gguf")
    ours = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    prefix = "tokenizer."
    found = {name.removeprefix(prefix): v for name, v in values(tmp_path / "model.gguf").items() if prefix in name}
    ids = {name: i for i, name in enumerate(found.pop("ggml.tokens"))}
    assert ids == ours["vocab"]
    assert found.pop("ggml.token_type") == [3] * len(SPECIAL_TOKENS) + [1] * (256 + len(MERGES))
    assert [merge.split(" ") for merge in found.pop("ggml.merges")] == ours["merges"]
    assert byte_level_name(b" the") in ids
    assert found == {
        "ggml.model": "gpt2",
        "ggml.pre": "llama-bpe",
        "ggml.bos_token_id": 2,
        "ggml.eos_token_id": 3,
        "ggml.unknown_token_id": 1,
        "ggml.padding_token_id": 0,
        "ggml.add_bos_token": True,
        "ggml.add_eos_token": False,
    }


def test_a_tuned_model_comes_with_its_template_and_the_end_of_a_turn(tmp_path: Path) -> None:
    path = save_random_model("gpt2", tmp_path)
    save_model(tmp_path / "tuned", load_model(path), path / "tokenizer.json", tuned=True)
    export(tmp_path / "tuned", tmp_path / "model.gguf")
    found = values(tmp_path / "model.gguf")
    assert found["tokenizer.chat_template"] == JINJA
    assert found["tokenizer.ggml.tokens"][found["tokenizer.ggml.eot_token_id"]] == "<|end|>"
    assert found["tokenizer.ggml.eos_token_id"] == 3


def test_equal_models_make_equal_bytes_and_a_former_file_is_replaced(tmp_path: Path) -> None:
    path = save_random_model("qwen3", tmp_path)
    (tmp_path / "b.gguf").write_bytes(b"GGUF of old")
    (tmp_path / "link.gguf").symlink_to("b.gguf")
    export(path, tmp_path / "a.gguf")
    export(path, tmp_path / "link.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert (tmp_path / "link.gguf").is_symlink()


def test_what_is_no_gguf_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_random_model("gpt2", tmp_path)
    (tmp_path / "thesis.gguf").write_text("years of work", encoding="utf-8")
    (tmp_path / "folder.gguf").mkdir()
    for name, told in {
        "thesis.gguf": "exists and is not a GGUF file",
        "folder.gguf": "exists and is not a GGUF file",
        "model": "give one that ends in .gguf",
        "x" * 300 + ".gguf": "File name too long",
        "thesis.gguf/model.gguf": "cannot be written",
        "/proc/model.gguf": "cannot be written",
    }.items():
        with pytest.raises(UserError, match=told):
            export(path, tmp_path / name)
    assert (tmp_path / "thesis.gguf").read_text(encoding="utf-8") == "years of work"
    with pytest.raises(UserError, match="no model here"):
        export(tmp_path / "none", tmp_path / "model.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"needs the package gguf; `pip install 'sllm\[gguf\]'` brings it"):
        export(path, tmp_path / "model.gguf")
    assert not [file for file in tmp_path.iterdir() if "model.gguf" in file.name]


def test_what_is_written_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle of the tensors: the former file stays, and nothing beside it."""
    path = save_random_model("gpt2", tmp_path)
    export(path, tmp_path / "model.gguf")
    before = (tmp_path / "model.gguf").read_bytes()

    def full(self: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(UserError, match=r"cannot be written .No space left on device"):
        export(path, tmp_path / "model.gguf", type="q8_0")
    assert (tmp_path / "model.gguf").read_bytes() == before
    assert not [file for file in tmp_path.iterdir() if file.suffix not in (".gguf", ".json", "")]
