"""A trained model as a Transformers directory: a `GPT2LMHeadModel` with our weights and, as positions, our sinusoid.

Writing needs no Transformers. Where it is installed, the written directory is loaded with it and its logits are
compared with ours before anything appears at the output.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sllm.errors import UserError
from sllm.files import MANIFEST, CorruptError, atomic_directory, read_json, write_json
from sllm.inference import load_pair
from sllm.model import GPT, Block
from sllm.tokenizer import Tokenizer

FORMAT = "transformers-gpt2"

# Both compute in fp32 but add in different orders; logits are of the order of 1 to 10.
TOLERANCE = 1e-3


def export(model_path: Path | str, output: Path | str, tokenizer_path: Path | str | None = None) -> float | None:
    """Write the model as a directory that `AutoModelForCausalLM` and `AutoTokenizer` load. A former export is replaced.

    Args:
        model_path: a directory such as runs/NAME/best or a checkpoint, or the model.safetensors in it.
        tokenizer_path: default, the tokenizer.json beside the model.

    Returns:
        The largest difference between Transformers' logits and ours; None if Transformers is not installed.

    Raises:
        UserError: no model there, or something other than an export at `output`.
    """
    output = Path(output)
    model, tokenizer = load_pair(model_path, tokenizer_path, "cpu")
    _refuse_other_files(output)
    difference = None
    with atomic_directory(output, format=FORMAT) as directory:
        save_file(gpt2_weights(model), directory / "model.safetensors", metadata={"format": "pt"})
        write_json(directory / "config.json", gpt2_config(model, tokenizer))
        write_json(directory / "generation_config.json", _generation_config(tokenizer))
        tokenizer.save(directory / "tokenizer.json")
        write_json(directory / "tokenizer_config.json", _tokenizer_config(model))
        if importlib.util.find_spec("transformers"):
            difference = logit_difference(model, directory)
            assert difference < TOLERANCE, f"Transformers' logits differ from ours by {difference}"
    return difference


def gpt2_weights(model: GPT) -> dict[str, Tensor]:
    """Our tensors under GPT-2's names. GPT-2 stores the weights of its linear layers (in, out), we (out, in)."""
    weights = {"transformer.wte.weight": model.embedding.weight, "transformer.wpe.weight": model.positions}
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
    weights["transformer.ln_f.weight"] = model.final_norm.weight
    weights["transformer.ln_f.bias"] = model.final_norm.bias
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in weights.items()}


def gpt2_config(model: GPT, tokenizer: Tokenizer) -> dict[str, Any]:
    config = model.config
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.d_ff,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": model.final_norm.eps,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }


def _generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
    }


def _tokenizer_config(model: GPT) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.context_length,
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        # A special token written in the text is text, as in training.
        "split_special_tokens": True,
    }


@torch.inference_mode()
def logit_difference(model: GPT, directory: Path) -> float:
    """The largest absolute difference between our logits and Transformers', on random tokens over the whole context."""
    from transformers import GPT2LMHeadModel

    theirs = GPT2LMHeadModel.from_pretrained(directory, local_files_only=True).eval()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.vocab_size, (2, model.config.context_length), generator=generator)
    return (theirs(tokens).logits - model(tokens)).abs().max().item()


def _refuse_other_files(output: Path) -> None:
    """`atomic_directory` replaces what is there, so be sure that it is an export or nothing."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    try:
        if read_json(output / MANIFEST).get("format") == FORMAT:
            return
    except (OSError, CorruptError, AttributeError):
        pass
    raise UserError(f"{output}: exists and is not a former export; give a new directory")
