"""How well models predict any text: ours, and Transformers models on disk, read the same way, so that models of
different tokenizers compare by bits per byte.

The rule: a document is brought to the form that training sees (`sllm.data.text.normalise`) and stands alone. A window
is a model's first token (`<bos>`; of one that has none its `<eos>`, as lm-eval does) and as much text as its context
holds. A document that is longer is read in windows that overlap by half a context; each predicts what none before it
has, so every token, and with it every byte, is predicted exactly once, from half a context before it at least or from
all that there is. What ends a document is not predicted.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from torch import Tensor

from sllm.data.find import text_files
from sllm.data.sources import read_file
from sllm.data.text import normalise
from sllm.errors import UserError
from sllm.evaluation.loss import LOGITS_AT_ONCE, figures
from sllm.model.shared import LanguageModel
from sllm.model.storage import load_pair
from sllm.origin import is_theirs
from sllm.progress import Bar, track
from sllm.tokenizer import Tokenizer

POOL = 64
"""Batches of windows that are sorted by length together, so that those of one batch are nearly equally long."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.*")

Window = tuple[list[int], int]
"""Its tokens, and how many of them, the last ones, it predicts."""


@dataclass(frozen=True)
class Reader:
    """A model with its tokenizer, as far as reading a text needs them."""

    name: str
    first: int
    """The token that every window begins with."""
    context: int
    """Tokens that it can read."""
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    logits: Callable[[Tensor, Tensor, Tensor], Iterator[Tensor]]
    """Of token ids (B, T), of which of them are no padding, and of where a next token is asked for, both (B, T) bool:
    the logits (n, V) of those places in their order, some at a time."""


def evaluate_texts(
    models: Sequence["Path | str | Reader"],
    paths: Sequence[Path | str],
    *,
    text_field: str = "text",
    context: int | None = None,
    batch: int = 8,
) -> dict[str, Any]:
    """Measure models on texts, on the GPU if there is one, in fp32.

    Args:
        models: directories such as runs/NAME/best, a checkpoint, or with a Transformers model. Of those only
            safetensors are read, no code in them runs, and nobody is asked for anything on the network. Or a `Reader`.
        paths: files that a source of kind files could name (.txt, .jsonl, .jsonl.zst, .parquet), patterns, or folders,
            of which all such files are read.
        text_field: key (jsonl) or column (parquet) that holds the text.
        context: tokens of a window, at most; default, each model's own context.
        batch: windows in a forward pass.

    Returns:
        `{"files", "documents", "bytes", "empty", "models": [figures]}`, in the order of `models`. Figures: model, loss
        (nats per token), perplexity (per token), bits_per_byte, accuracy (share of tokens that were the likeliest),
        tokens, bytes, context, and changed: how many documents the tokenizer does not give back as they were. A figure
        that is not finite is None.

    Raises:
        UserError: no text, files or a model that cannot be read, or a context that a model has not.
    """
    problems = [told for model in models if not isinstance(model, Reader) if (told := _missing(Path(model)))]
    if problems:
        raise UserError("\n".join(problems))
    files = text_files(list(map(str, paths)))
    documents, empty, size = 0, 0, 0
    for text in _texts(files, text_field):  # all that is wrong with them is told before a model is loaded
        documents, empty, size = documents + bool(text), empty + (not text), size + len(text.encode())
    if not documents:
        raise UserError(f"no text: {_count(len(files), 'file')} with {_count(empty, 'empty document')}")
    found = []
    with track("evaluate", size * len(models), "bytes") as bar:
        for model in models:
            reader = model if isinstance(model, Reader) else load(Path(model))
            most = reader.context if context is None else context
            if not 2 <= most <= reader.context:
                raise UserError(
                    f"context: {most}, but {reader.name} reads 2 to {reader.context} tokens; use one of these"
                )
            row = _measure(reader, filter(None, _texts(files, text_field)), most, batch, bar)
            found.append({"model": reader.name, **row, "context": most})
            del reader  # before the next one is loaded
    return {"files": len(files), "documents": documents, "bytes": size, "empty": empty, "models": found}


def _texts(files: Iterable[Path], text_field: str) -> Iterator[str]:
    for file in files:
        yield from map(normalise, read_file(file, text_field))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


# --- reading --------------------------------------------------------------------------------------


def windows(ids: Sequence[int], first: int, context: int) -> Iterator[Window]:
    """A document's windows: each at most `first` and `context` tokens, of which the last is predicted, not read.

    >>> list(windows([1, 2, 3, 4, 5, 6], 0, 4))
    [([0, 1, 2, 3, 4], 4), ([0, 3, 4, 5, 6], 2)]
    """
    done = 0
    while done < len(ids):
        end = min(len(ids), done + context // 2 if done else context)
        yield [first, *ids[max(0, end - context) : end]], end - done
        done = end


@torch.inference_mode()
def _measure(reader: Reader, documents: Iterable[str], context: int, batch: int, bar: Bar) -> dict[str, Any]:
    sums = torch.zeros(4, dtype=torch.float64)  # nats, tokens, bytes, right guesses
    pool: list[Window] = []
    waiting = changed = 0

    def read_pool() -> None:
        nonlocal sums
        pool.sort(key=lambda window: len(window[0]))
        for i in range(0, len(pool), batch):
            sums += _sums(reader, pool[i : i + batch])
        bar.advance(waiting)
        pool.clear()

    for text in documents:
        ids = reader.encode(text)
        changed += reader.decode(ids) != text
        pool += windows(ids, reader.first, context)
        size = len(text.encode())
        waiting, sums[2] = waiting + size, sums[2] + size
        if len(pool) >= batch * POOL:
            read_pool()
            waiting = 0
    read_pool()
    return {**figures(sums.numpy()), "changed": changed}


def _sums(reader: Reader, batch: Sequence[Window]) -> Tensor:
    """Nats, tokens, 0 and right guesses, (4,) float64. Bytes are counted by the text, not by its tokens: those of a
    foreign tokenizer nobody knows."""
    longest = max(len(tokens) for tokens, _ in batch)
    tokens = torch.full((len(batch), longest), reader.first)
    real, asked = torch.zeros(2, len(batch), longest - 1, dtype=torch.bool)
    for row, (ids, new) in enumerate(batch):
        tokens[row, : len(ids)] = torch.tensor(ids)
        real[row, : len(ids) - 1] = True
        asked[row, len(ids) - 1 - new : len(ids) - 1] = True
    targets = tokens[:, 1:][asked]
    nats = right = at = 0.0
    for logits in reader.logits(tokens[:, :-1], real, asked):  # padded at the end, which no token before it sees
        some = targets[int(at) : int(at) + len(logits)].to(logits.device)
        nats += F.cross_entropy(logits, some, reduction="none").double().sum().item()
        right += (logits.argmax(dim=-1) == some).sum().item()
        at += len(logits)
    assert at == len(targets)
    return torch.tensor([nats, at, 0.0, right], dtype=torch.float64)


# --- models ---------------------------------------------------------------------------------------


def load(path: Path) -> Reader:
    """A model on disk, ours or Transformers'. Raises UserError if it cannot be read."""
    directory = path.parent if path.is_file() else path
    if is_theirs(directory):
        return _theirs(directory)
    return ours(*load_pair(path, None, "cpu"), name=str(path))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def ours(model: LanguageModel, tokenizer: Tokenizer, name: str = "") -> Reader:
    device = _device()
    model.to(device).eval()
    rows = max(1, LOGITS_AT_ONCE // model.vocab_size)

    def logits(tokens: Tensor, real: Tensor, asked: Tensor) -> Iterator[Tensor]:
        hidden = model.hidden(tokens.to(device))[asked.to(device)]
        yield from (model.logits(some).float() for some in hidden.split(rows))

    return Reader(name, tokenizer.bos_id, model.config.context_length, tokenizer.encode, tokenizer.decode, logits)


def _missing(path: Path) -> str:
    """What a Transformers model lacks of its files, as a look into its folder tells; empty if nothing."""
    directory = path.parent if path.is_file() else path
    if not is_theirs(directory):
        return ""
    if not any(directory.glob("*.safetensors")):
        return f"{directory}: no weights in safetensors, and a pickle could run anything; convert them"
    if not any(file for name in TOKENIZER_FILES for file in directory.glob(name)):
        return f"{directory}: no tokenizer beside the model (tokenizer.json); put the one it was trained with"
    return ""


def _theirs(directory: Path) -> Reader:
    """A Transformers model, and its tokenizer.

    Raises:
        UserError: Transformers is not installed or does not know it, or a part is missing or would run code.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError:
        raise UserError(f"{directory}: a Transformers model; pip install transformers, and try again") from None
    if told := _missing(directory):
        raise UserError(told)
    logging.disable_progress_bar()
    try:
        with _only_errors(logging):
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False, use_safetensors=True
            )
    except Exception as error:  # every kind, by what a file is like; with many lines
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{directory}: Transformers cannot load it ({reason[:200]})") from None
    device = _device()
    model = model.float().to(device).eval()  # in what type the weights were stored is no matter
    first = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), None)
    if first is None:
        raise UserError(f"{directory}: its tokenizer has neither a first nor a last token, so nothing precedes a text")
    size = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > size:
        raise UserError(
            f"{directory}: its tokenizer has {len(tokenizer):,} tokens, the model {size:,}; one is another's"
        )

    def encode(text: str) -> list[int]:
        # A special token that is written in a text is text, as it is for ours.
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
        return list(ids)

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def logits(tokens: Tensor, real: Tensor, asked: Tensor) -> Iterator[Tensor]:
        rows = max(1, LOGITS_AT_ONCE // (tokens.shape[1] * size))
        for ids, mask, places in zip(tokens.split(rows), real.split(rows), asked.split(rows), strict=True):
            found = model(input_ids=ids.to(device), attention_mask=mask.long().to(device), use_cache=False).logits
            yield found[places.to(device)].float()

    context = _their_context(model.config, tokenizer, directory)
    return Reader(str(directory), first, context, encode, decode, logits)


def _their_context(config: Any, tokenizer: Any, directory: Path) -> int:
    told = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
    known = [length for length in (*told, tokenizer.model_max_length) if isinstance(length, int) and length < 1 << 30]
    if not known:
        raise UserError(f"{directory}: neither config.json nor its tokenizer tells its context; set model_max_length")
    return known[0]


@contextlib.contextmanager
def _only_errors(logging: Any) -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


# --- the table ------------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> Table:
    """For people; below it the rule, and what keeps figures from being compared."""
    text = f"{_count(results['documents'], 'document')}, {results['bytes']:,} bytes of UTF-8"
    found = Table(title=f"{text}, in {_count(results['files'], 'file')}", caption="\n".join(_notes(results)))
    for heading in ("model", "bits/byte", "perplexity", "accuracy", "tokens", "bytes/token", "context"):
        found.add_column(
            heading, justify="left" if heading == "model" else "right", overflow="fold", no_wrap=heading != "model"
        )
    formats = {"bits_per_byte": ".4f", "perplexity": ",.2f", "accuracy": ".2%", "tokens": ","}
    for row in results["models"]:
        values = [(row[figure], style) for figure, style in formats.items()]
        cells = ["not finite" if value is None else format(value, style) for value, style in values]
        found.add_row(Text(row["model"]), *cells, f"{row['bytes'] / row['tokens']:.2f}", f"{row['context']:,}")
    return found


def _notes(results: dict[str, Any]) -> Iterator[str]:
    yield (
        "Each document stands alone after the model's first token; one longer than the context is read in windows that "
        "overlap by half: every byte is predicted once. Bits per byte compare between tokenizers; perplexity and "
        "accuracy are per token, and do not."
    )
    if results["empty"]:
        yield f"{_count(results['empty'], 'empty document')} left out"
    for row in results["models"]:
        if row["changed"]:
            yield (
                f"{escape(row['model'])}: its tokenizer does not give back {row['changed']:,} of the documents as they "
                f"were, so its bits per byte may be too low"
            )
