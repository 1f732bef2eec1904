"""A trained model as one GGUF file, which llama.cpp and the programs built on it load: weights, tokenizer and, of a
tuned model, the chat template.

Tensors and settings are those of the Transformers export, under llama.cpp's names. In a matrix of 8-bit integers
(q8_0) 32 neighbours of a row share a scale; what is no matrix, and the table of positions, stays fp32 either way, as
llama.cpp's own converter leaves it.

llama.cpp cuts text into words by one of the patterns compiled into it, and ours is none of them. PRE_TOKENIZER names
the nearest; docs/serving.md has how often its tokens are others, and what that costs.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sllm.card.facts import Facts, read_facts
from sllm.errors import UserError
from sllm.export.transformers import their_config, their_weights
from sllm.files import atomic_file
from sllm.model.shared import LanguageModel
from sllm.model.storage import load_pair
from sllm.origin import is_tuned
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import byte_level_name
from sllm.tokenizer.template import END_ID, JINJA, require_template

if TYPE_CHECKING:
    from gguf import GGUFWriter

TYPES = ("f16", "q8_0")
MAGIC = b"GGUF"

PRE_TOKENIZER = "llama-bpe"
"""Llama 3's: the pattern of cl100k, as ours, but without particles apart and with digits by threes."""

HOW_IT_READS = (
    "llama.cpp has no pattern that sets Korean particles apart or takes digits by twos: as measured, of a Korean "
    "prompt one token in twenty is another than in training, of an English one some numbers, and what follows "
    "is 0.1 % harder to predict. Token ids in place of text are read exactly (docs/serving.md)"
)


def export(
    model_path: Path | str, output: Path | str, tokenizer_path: Path | str | None = None, *, type: str = "f16"
) -> None:
    """Write the model as the file `output`; a GGUF file there is replaced. Equal models make equal bytes.

    Args:
        model_path: a directory such as runs/NAME/best or a checkpoint, or the model.safetensors in it.
        tokenizer_path: default, the tokenizer.json beside the model.
        type: of the matrices, one of TYPES.

    Raises:
        UserError: no model there, something other than a GGUF file at `output`, no place to write, or the package gguf
            is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise UserError("export --format gguf: needs the package gguf; `pip install 'sllm[gguf]'` brings it") from None
    output, model_path = Path(output), Path(model_path)
    check_output(output)
    model, tokenizer = load_pair(model_path, tokenizer_path, "cpu")
    tuned = is_tuned(model_path)
    if tuned:
        require_template(tokenizer)
    facts = read_facts(model_path.parent if model_path.is_file() else model_path)
    try:
        with atomic_file(output.resolve()) as file:
            logging.getLogger("gguf").setLevel(logging.WARNING)  # it tells what it writes where
            writer = gguf.GGUFWriter(file.name, model.config.family)
            _describe(writer, model, tokenizer, facts, type)
            _add_tokenizer(writer, tokenizer, tuned=tuned)
            for name, data, kind in tensors(model, type):
                writer.add_tensor(name, data, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror})") from error


def check_output(output: Path) -> None:
    """Raises UserError if a file there would be anybody's but a former export, or would not be known for what it is."""
    if output.suffix != ".gguf":
        raise UserError(f"{output}: programs know a GGUF file by its name; give one that ends in .gguf")
    try:
        if not output.exists():
            return
        if output.is_file():
            with output.open("rb") as file:
                if file.read(len(MAGIC)) == MAGIC:
                    return
    except OSError as error:
        raise UserError(f"{output}: {error.strerror}; give another name") from None
    raise UserError(f"{output}: exists and is not a GGUF file; give a new name")


def tensors(model: LanguageModel, type: str) -> Iterator[tuple[str, Any, Any]]:
    """Name, array and type of each tensor, as llama.cpp wants it."""
    import gguf

    family = model.config.family
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(arch, model.config.n_layers)
    matrices = gguf.GGMLQuantizationType[type.upper()]
    for theirs, tensor in their_weights(model).items():
        name = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        assert name is not None, theirs
        if family == "gpt2" and ".h." in theirs:
            tensor = tensor.t()  # of its linear layers, which Transformers has as (in, out)
        kind = matrices
        if tensor.dim() == 1 or name == "position_embd.weight":
            kind = gguf.GGMLQuantizationType.F32
        elif type == "q8_0" and tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = gguf.GGMLQuantizationType.F16  # rows that blocks do not fill
        yield name, gguf.quants.quantize(tensor.contiguous().numpy(), kind), kind


def _describe(writer: "GGUFWriter", model: LanguageModel, tokenizer: Tokenizer, facts: Facts, type: str) -> None:
    import gguf

    config, theirs = model.config, their_config(model, tokenizer)
    writer.add_type("model")
    writer.add_name(facts.name)
    writer.add_languages(sorted({corpus.language for corpus in facts.corpora}, reverse=True) or ["ko", "en"])
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{type.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(model.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_block_count(config.n_layers)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.kv_heads)
    if config.family == "gpt2":
        writer.add_layer_norm_eps(theirs["layer_norm_epsilon"])
    else:
        writer.add_key_length(config.head_width)
        writer.add_value_length(config.head_width)
        writer.add_layer_norm_rms_eps(theirs["rms_norm_eps"])
        writer.add_rope_freq_base(theirs["rope_theta"])


def _add_tokenizer(writer: "GGUFWriter", tokenizer: Tokenizer, *, tuned: bool) -> None:
    import gguf

    special = tokenizer.special_tokens
    names = [*special, *(byte_level_name(token) for token in tokenizer.token_bytes[len(special) :])]
    writer.add_tokenizer_model("gpt2")  # byte-level BPE, whatever the model
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(names)
    kinds = [gguf.TokenType.CONTROL] * len(special) + [gguf.TokenType.NORMAL] * (len(names) - len(special))
    writer.add_token_types(kinds)
    writer.add_token_merges([f"{names[a]} {names[b]}" for a, b in tokenizer.merges])
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_unk_token_id(tokenizer.unk_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    if tuned:
        writer.add_eot_token_id(END_ID)
        writer.add_chat_template(JINJA)
