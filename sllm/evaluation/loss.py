"""How good a model in memory is, on any number of ranks: loss, perplexity, bits per byte and next-token accuracy,
overall, by language and by source; and how it goes on from prompts.

Loss is nats per token and depends on the tokenizer; bits per byte does not, so it compares models of different
vocabularies: all nats over ln 2, divided by the UTF-8 bytes of the predicted text. Predicting <bos> and <eos> counts
in the nats and in the tokens, and has no bytes. Of conversations what the assistant says is predicted, and `<|end|>`
after it; all else is given.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sllm.data.masks import answers, beginnings
from sllm.data.sampler import PackedData
from sllm.device import Precision, autocast
from sllm.distributed import World
from sllm.errors import UserError
from sllm.files import finite
from sllm.inference.decode import eval_mode
from sllm.inference.generator import complete, continue_ids, text_of
from sllm.inference.sampling import Sampling, utf8_table
from sllm.model.shared import LanguageModel
from sllm.progress import Bar
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.template import ENDS, USER, conversation_ids

# Logits are made for as many tokens at a time as fill this many fp32 values (64 MB): with a large vocabulary those of
# a whole batch would take more memory than the model.
LOGITS_AT_ONCE = 1 << 24


def evaluate(
    model: LanguageModel,
    data: PackedData,
    tokenizer: Tokenizer,
    *,
    tokens_per_source: int,
    batch: int,
    world: World,
    stop: StopFlag,
    precision: Precision = "fp32",
    bar: Bar | None = None,
) -> dict[str, Any] | None:
    """Measure `model` on the validation split; every rank calls this and gets the same result.

    Each token is predicted once, from the tokens before it in its window. Where windows do not overlap, they are of
    conversations: each answer is predicted from its own conversation up to there.

    Args:
        tokens_per_source: read this much of each source, from its start, rounded down to whole windows.
        batch: windows in a forward pass.

    Returns:
        `{"overall": figures, "languages": {language: figures}, "sources": {name: figures}}`, or None if any rank
        was asked to stop. Figures: loss (nats per token), perplexity, bits_per_byte, accuracy, tokens, bytes; overall
        also unigram_entropy (nats), the loss of a model that knows how often each token occurs here and no more. A
        figure that is not finite is None.

    Raises:
        UserError: the data has no validation tokens.
    """
    batches = _batches(data, model.config.context_length, tokens_per_source, batch)
    token_bytes = torch.tensor([len(token) for token in tokenizer.token_bytes], device=world.device)
    counts = torch.zeros(tokenizer.vocab_size, dtype=torch.float64, device=world.device)
    # A row a batch, and zeros in those of other ranks: the sums are the same on any number of ranks.
    sums = torch.zeros(len(batches), 4, dtype=torch.float64, device=world.device)
    # Every rank goes round equally often, since each round is an agreement.
    with eval_mode(model), torch.inference_mode(), autocast(world.device, precision):
        for first in range(0, len(batches), world.size):
            if world.any(stop.requested):
                return None
            if first + world.rank < len(batches):
                windows = np.stack(batches[first + world.rank][1]).astype(np.int64)
                hidden, targets = _predictions(model, windows, conversations=data.overlap == 0)
                sums[first + world.rank] = _sums(model, hidden, targets, token_bytes)
                counts += torch.bincount(targets, minlength=len(counts))
            if bar:
                bar.advance(sum(_targets(some) for _, some in batches[first : first + world.size]))
    table = np.zeros((len(data.sources), 4))
    rows = np.array(world.sum(sums.flatten().tolist())).reshape(-1, 4)
    np.add.at(table, [source for source, _ in batches], rows)
    return _results(data, table, np.array(world.sum(counts.tolist())))


def predicted_tokens(data: PackedData, context_length: int, tokens_per_source: int) -> int:
    """How many tokens `evaluate` predicts."""
    return sum(_targets(windows) for _, windows in _batches(data, context_length, tokens_per_source, 1))


def _batches(
    data: PackedData, context_length: int, tokens_per_source: int, size: int
) -> list[tuple[int, list[np.ndarray]]]:
    """(source number, windows of one length) in a fixed order."""
    batches = []
    for number, source in enumerate(data.sources):
        if source.tokens("validation") < 2:
            continue
        windows = data.validation_windows(source.name, context_length, tokens_per_source)
        whole = [window for window in windows if len(window) == context_length + 1]
        batches += [(number, whole[i : i + size]) for i in range(0, len(whole), size)]
        batches += [(number, [window]) for window in windows[len(whole) :]]
    if not batches:
        raise UserError(f"{data.directory}: no validation tokens; raise data.validation_fraction or add text")
    return batches


def _targets(windows: Iterable[np.ndarray]) -> int:
    return sum(len(window) - 1 for window in windows)


def _predictions(model: LanguageModel, windows: np.ndarray, *, conversations: bool) -> tuple[Tensor, Tensor]:
    """Last-layer states (N, C), and the tokens (N,) that follow them, of windows (B, T + 1): all, or of conversations
    those of answers."""
    device = model.positions.device
    tokens = torch.from_numpy(windows).to(device)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    if not conversations:
        return model.hidden(inputs).flatten(0, 1), targets.flatten()
    begins = torch.from_numpy(beginnings(windows[:, :-1])).to(device)
    learnt = torch.from_numpy(answers(windows)).to(device)
    return model.hidden(inputs, begins=begins)[learnt], targets[learnt]


def _sums(model: LanguageModel, hidden: Tensor, targets: Tensor, token_bytes: Tensor) -> Tensor:
    """(4,) float64: nats, tokens, bytes and right guesses over N states (N, C) and the tokens after them."""
    nats = torch.zeros((), dtype=torch.float64, device=hidden.device)
    right = torch.zeros((), dtype=torch.float64, device=hidden.device)
    rows = max(1, LOGITS_AT_ONCE // model.vocab_size)
    for some_hidden, some_targets in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = model.logits(some_hidden).float()
        nats += F.cross_entropy(logits, some_targets, reduction="none").double().sum()
        right += (logits.argmax(dim=-1) == some_targets).sum()
    count = torch.full_like(nats, len(targets))
    return torch.stack([nats, count, token_bytes[targets].sum().double(), right])


def _results(data: PackedData, table: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    frequency = counts[counts > 0] / counts.sum()
    languages = sorted({source.language for source in data.sources})
    by_language = {
        language: table[[source.language == language for source in data.sources]].sum(axis=0) for language in languages
    }
    return {
        "overall": {
            **figures(table.sum(axis=0)),
            "unigram_entropy": float(-(frequency * np.log(frequency)).sum()),
        },
        "languages": {language: figures(row) for language, row in by_language.items() if row[1]},
        "sources": {source.name: figures(row) for source, row in zip(data.sources, table, strict=True) if row[1]},
    }


def figures(sums: np.ndarray) -> dict[str, float | None]:
    """None: not finite (a model that overflows), or, of bits per byte, no bytes."""
    nats, tokens, text_bytes, right = sums.tolist()
    loss = nats / tokens
    return {
        "loss": finite(loss),
        "perplexity": math.exp(min(loss, 700.0)) if math.isfinite(loss) else None,  # above 700 it is no longer a float
        "bits_per_byte": finite(nats / math.log(2) / text_bytes) if text_bytes else None,
        "accuracy": right / tokens,
        "tokens": int(tokens),
        "bytes": int(text_bytes),
    }


def continuations(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str], new_tokens: int
) -> list[dict[str, str]]:
    """How the model goes on, the same each time: `[{"prompt": …, "continuation": …}]`."""
    texts = complete(model, tokenizer, prompts, new_tokens, seed=0)
    return [{"prompt": prompt, "continuation": text} for prompt, text in zip(prompts, texts, strict=True)]


def replies(
    model: LanguageModel, tokenizer: Tokenizer, questions: Sequence[str], new_tokens: int
) -> list[dict[str, str]]:
    """What the model answers to each question, a conversation of its own, in at most `new_tokens` of the likeliest
    tokens: `[{"prompt": …, "continuation": …}]`. An answer is empty where the context has no room for one.

    Raises:
        UserError: a question that the template does not take.
    """
    length, device = model.config.context_length, model.positions.device
    asked = [conversation_ids(tokenizer, [{"role": USER, "content": question}]) for question in questions]
    texts = [""] * len(asked)
    if some := [number for number, ids in enumerate(asked) if len(ids) < length]:
        limits = [min(new_tokens, length - len(asked[number])) for number in some]
        utf8 = utf8_table(tokenizer, device, ENDS)
        with eval_mode(model):
            rows = continue_ids(model, [asked[n] for n in some], limits, ENDS, Sampling(temperature=0), utf8=utf8)
        for number, row in zip(some, rows, strict=True):
            texts[number] = text_of(tokenizer, row)
    return [{"prompt": question, "continuation": text} for question, text in zip(questions, texts, strict=True)]
