"""A trained model as a Transformers directory: a `GPT2LMHeadModel` with our weights and, as positions, our sinusoid,
or a `Qwen3ForCausalLM`.

Writing needs no Transformers. Where it is installed, the written directory is loaded with it and its logits are
compared with ours, and its text with ours, before anything appears at the output.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from sllm.card.facts import read_facts
from sllm.card.text import card
from sllm.errors import UserError
from sllm.files import utf8_bytes, write_json, write_text
from sllm.inference.generator import continue_ids
from sllm.inference.sampling import Sampling
from sllm.manifests import CARD, atomic_directory, check_replaceable
from sllm.model.gpt2 import Block
from sllm.model.qwen3 import EPS, ROPE_BASE
from sllm.model.shared import LanguageModel, normed
from sllm.model.storage import load_pair
from sllm.origin import is_tuned
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.template import ENDS, JINJA, conversation_ids, require_template

FORMAT = "transformers"
FORMER_FORMAT = "transformers-gpt2"

OLDEST = "4.51.3"
"""Of Transformers: the first release that loads a Qwen3, and asks for no other package to do so."""

# Both compute in fp32 but add in different orders; logits are of the order of 1 to 10.
TOLERANCE = 1e-3

CHECKED_PROMPTS = ("대한민국", "The")
CHECKED_CONVERSATIONS = (
    [{"role": "user", "content": "대한민국의 수도는 어디야?"}],
    [
        {"role": "system", "content": " Answer briefly.\n"},
        {"role": "user", "content": "\n 안녕! 👋🏽 "},
        {"role": "assistant", "content": "Hello 🇰🇷\r\n\n- 하나\t\n"},
        {"role": "user", "content": "<end> {{ 1 }} |> 왜?\n"},
    ],
)
"""With white space at the ends, which a template may lose, and signs that are its own."""
CHECKED_TOKENS = 32


def export(
    model_path: Path | str,
    output: Path | str,
    tokenizer_path: Path | str | None = None,
    *,
    hub_id: str | None = None,
) -> float | None:
    """Write the model, and its card, as a directory that `AutoModelForCausalLM` and `AutoTokenizer` load. A former
    export is replaced.

    Args:
        model_path: a directory such as runs/NAME/best or a checkpoint, or the model.safetensors in it.
        tokenizer_path: default, the tokenizer.json beside the model.
        hub_id: owner/name by which the card calls it; default, the name of its run.

    Returns:
        The largest difference between Transformers' logits and ours; None if Transformers is not installed.

    Raises:
        UserError: no model there, other files than those of an export at `output`, no place to write, or a Transformers
            that is too old to know the model.
    """
    output, model_path = Path(output), Path(model_path)
    model_directory = model_path.parent if model_path.is_file() else model_path
    check_replaceable(output, FORMAT, FORMER_FORMAT)
    model, tokenizer = load_pair(model_path, tokenizer_path, "cpu")
    tuned = is_tuned(model_path)
    if tuned:
        require_template(tokenizer)
    installed = importlib.util.find_spec("transformers") is not None
    if installed:
        _check_version(model)
    difference = None
    try:
        text = card(read_facts(model_directory), exported=True, hub_id=hub_id)
        with atomic_directory(
            output.resolve(), format=FORMAT, card=hashlib.sha256(utf8_bytes(text)).hexdigest()
        ) as directory:
            save_file(their_weights(model), directory / "model.safetensors", metadata={"format": "pt"})
            write_json(directory / "config.json", their_config(model, tokenizer))
            write_json(directory / "generation_config.json", generation_config(tokenizer, tuned))
            tokenizer.save(directory / "tokenizer.json")
            write_json(directory / "tokenizer_config.json", _tokenizer_config(model, tokenizer, tuned))
            write_text(directory / CARD, text)
            if installed:
                difference = compare(model, tokenizer, directory, tuned)
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is None:  # Transformers', not the disk's
            raise
        raise UserError(f"{output}: cannot be written ({getattr(error, 'strerror', error)})") from error
    return difference


def _check_version(model: LanguageModel) -> None:
    from transformers import CONFIG_MAPPING, __version__

    family = model.config.family
    if family not in CONFIG_MAPPING:
        raise UserError(
            f"transformers {__version__} does not know {family}, so the export cannot be checked: "
            f"install {OLDEST} or later, or uninstall it"
        )


def their_weights(model: LanguageModel) -> dict[str, Tensor]:
    """Our tensors under the names that Transformers has for them."""
    weights = {"gpt2": _gpt2_weights, "qwen3": _qwen3_weights}[model.config.family](model)
    if model.head is not None:
        weights["lm_head.weight"] = model.head.weight
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in weights.items()}


def their_config(model: LanguageModel, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        **{"gpt2": _gpt2_config, "qwen3": _qwen3_config}[model.config.family](model),
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.config.tie_embeddings,
        "torch_dtype": "float32",
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }


def _table(model: LanguageModel) -> Tensor:
    """Of embeddings as the blocks see them: theirs are not normed as they are looked up."""
    table = model.embedding.weight.detach()
    return table if model.head is None else normed(table)


def _gpt2_weights(model: LanguageModel) -> dict[str, Tensor]:
    """GPT-2 stores the weights of its linear layers (in, out), we (out, in)."""
    weights = {"transformer.wte.weight": _table(model), "transformer.wpe.weight": model.positions}
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        layers: dict[str, nn.Linear | nn.LayerNorm] = {
            "ln_1": block.attention_norm,
            "attn.c_attn": block.attention.qkv,
            "attn.c_proj": block.attention.out,
            "ln_2": block.feed_forward_norm,
            "mlp.c_fc": block.expand,
            "mlp.c_proj": block.contract,
        }
        for name, layer in layers.items():
            weights[f"transformer.h.{i}.{name}.weight"] = (
                layer.weight.t() if isinstance(layer, nn.Linear) else layer.weight
            )
            weights[f"transformer.h.{i}.{name}.bias"] = layer.bias
    assert isinstance(model.final_norm, nn.LayerNorm)
    weights["transformer.ln_f.weight"] = model.final_norm.weight
    weights["transformer.ln_f.bias"] = model.final_norm.bias
    return weights


def _qwen3_weights(model: LanguageModel) -> dict[str, Tensor]:
    names = {
        "attention_norm": "input_layernorm",
        "attention.q": "self_attn.q_proj",
        "attention.k": "self_attn.k_proj",
        "attention.v": "self_attn.v_proj",
        "attention.out": "self_attn.o_proj",
        "attention.q_norm": "self_attn.q_norm",
        "attention.k_norm": "self_attn.k_norm",
        "feed_forward_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "expand": "mlp.up_proj",
        "contract": "mlp.down_proj",
    }
    weights = {"model.embed_tokens.weight": _table(model)}
    for i, block in enumerate(model.blocks):
        for ours, theirs in names.items():
            weights[f"model.layers.{i}.{theirs}.weight"] = block.get_parameter(f"{ours}.weight")
    weights["model.norm.weight"] = model.final_norm.get_parameter("weight")
    return weights


def _gpt2_config(model: LanguageModel) -> dict[str, Any]:
    config = model.config
    assert isinstance(model.final_norm, nn.LayerNorm)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_positions": config.context_length,
        "n_ctx": config.context_length,  # the name by which llama.cpp asks
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.d_ff,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": model.final_norm.eps,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
    }


def _qwen3_config(model: LanguageModel) -> dict[str, Any]:
    config = model.config
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": EPS,
        # Told though they are Transformers' defaults: others, vLLM among them, have defaults of their own.
        "rope_theta": ROPE_BASE,
        "rope_scaling": None,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": config.n_layers,
    }


def generation_config(tokenizer: Tokenizer, tuned: bool) -> dict[str, Any]:
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": list(ENDS) if tuned else tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
    }


def _tokenizer_config(model: LanguageModel, tokenizer: Tokenizer, tuned: bool) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.context_length,
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "additional_special_tokens": list(tokenizer.special_tokens[4:]),
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        # A special token written in the text is text, as in training. But whoever reads a conversation makes one text
        # of it, in which they are tokens: there the template refuses a text that holds one.
        "split_special_tokens": not tuned,
        **({"chat_template": JINJA} if tuned else {}),
        # What tokenizer.json does; some programs look only here.
        "add_bos_token": True,
        "add_eos_token": False,
        # Never token_type_ids, which GPT-2 would add to the embeddings.
        "model_input_names": ["input_ids", "attention_mask"],
    }


@torch.inference_mode()
def compare(model: LanguageModel, tokenizer: Tokenizer, directory: Path, tuned: bool) -> float:
    """The largest absolute difference between our logits and Transformers', on random tokens over the whole context.

    Raises AssertionError if it is more than rounding, or if Transformers reads the same prompt otherwise, or the same
    conversation of a tuned model, or goes on otherwise, taking the likeliest tokens.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    theirs = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True).eval()
    their_tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.vocab_size, (2, model.config.context_length), generator=generator)
    difference = (theirs(tokens).logits - model(tokens)).abs().max().item()
    assert difference < TOLERANCE, f"Transformers' logits differ from ours by {difference}"

    read: list[tuple[Any, list[int], Any]] = [
        (prompt, tokenizer.encode(prompt, bos=True), their_tokenizer(prompt).input_ids) for prompt in CHECKED_PROMPTS
    ]
    for messages in CHECKED_CONVERSATIONS if tuned else ():
        their_ids: Any = their_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        read.append((messages, conversation_ids(tokenizer, messages), their_ids))
    greedy = Sampling(temperature=0, valid_utf8=False)
    for prompt, ids, their_ids in read:
        assert their_ids == ids, f"Transformers reads {prompt!r} as {their_ids}"
        new_tokens = min(CHECKED_TOKENS, model.config.context_length - len(ids))
        if new_tokens < 1:
            continue
        inputs = torch.tensor([ids])
        found = theirs.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=new_tokens,
            do_sample=False,
            temperature=1.0,
            top_p=1.0,
        )
        ends = ENDS if tuned else [tokenizer.eos_id]
        [ours] = continue_ids(model, [ids], [new_tokens], ends, greedy)
        text, expected = their_tokenizer.decode(found[0, len(ids) :], skip_special_tokens=True), tokenizer.decode(ours)
        # Where two tokens are equally likely, rounding chooses.
        assert text == expected or _below_likeliest(model, found, len(ids)) < TOLERANCE, (
            f"from {prompt!r} Transformers goes on with {text!r}, we with {expected!r}: texts differ"
        )
    return difference


def _below_likeliest(model: LanguageModel, ids: Tensor, start: int) -> float:
    """How far the logits of the tokens from `start` on in ids (1, T) are, at most, below those of the likeliest."""
    logits = model(ids[:, :-1])[0, start - 1 :]
    return (logits.amax(dim=-1) - logits.gather(-1, ids[0, start:, None])[:, 0]).max().item()
