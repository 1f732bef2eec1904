"""Text from a model: `next_tokens` repeats a step, `complete` continues texts with a model
in memory, `TextGenerator` is the same for a model on disk.

Shapes: B batch (see `sllm.model.shared`).
"""

import contextlib
import itertools
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sllm.errors import UserError
from sllm.inference.context import fit, fit_conversation
from sllm.inference.decode import Decoder, Dtype, eval_mode, prepare, recorder
from sllm.inference.sampling import Sampling, check_seed, seeded, utf8_table
from sllm.model.shared import LanguageModel
from sllm.model.storage import load_pair
from sllm.origin import is_tuned
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.template import ENDS, Message

REPLY_TOKENS = 256
"""Of a reply in a conversation, at most, where nobody said."""


@torch.inference_mode()
def next_tokens(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    steps: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    utf8: Tensor | None = None,
    decoder: Decoder | None = None,
) -> Iterator[Tensor]:
    """The next token of every prompt (B,), `steps` times, on the CPU.

    Prompts may differ in length: each row is computed as if it were alone. A row that has come to its end is
    still continued; the caller cuts it. A model knows no bytes, so `sampling.valid_utf8` is for the caller, who gives
    `utf8`, the `utf8_table` of the tokenizer, or None for any token. The prompts end with whole characters. `decoder`:
    one of these rows, sampling and `utf8` that is not in use, where the same is done several times.
    """
    if decoder is None:
        decoder = Decoder(model, len(prompts), max(map(len, prompts)) + steps, sampling, utf8)
    decoder.begin(prompts, generator)
    for last in [False] * (steps - 1) + [True]:
        token = decoder.choice.token.to("cpu", non_blocking=True, copy=True)
        if decoder.choice.token.is_cuda:  # which takes the next step while this token is on its way to its reader
            here = torch.cuda.current_stream().record_event()
            if not last:
                decoder.advance()
            here.synchronize()
            yield token
        else:
            yield token
            if not last:
                decoder.advance()


def continue_ids(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    ends: Sequence[int],
    sampling: Sampling,
    generator: torch.Generator | None = None,
    utf8: Tensor | None = None,
    decoder: Decoder | None = None,
) -> list[list[int]]:
    """New token ids of each prompt: up to its limit, or to the first of the tokens `ends` before it, which is left
    out."""
    limit, last = torch.tensor(limits), torch.tensor(ends)
    done = limit <= 0
    columns = []
    for token in next_tokens(model, prompts, max(limits), sampling, generator, utf8, decoder):
        columns.append(token)
        done = done | torch.isin(token, last) | (len(columns) >= limit)
        if bool(done.all()):
            break
    rows = torch.stack(columns, dim=1).tolist()
    rows = [row[:most] for row, most in zip(rows, limits, strict=True)]
    return [list(itertools.takewhile(lambda token: token not in ends, row)) for row in rows]


def complete(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    new_tokens: int,
    *,
    sampling: Sampling | None = None,
    seed: int | None = None,
) -> list[str]:
    """Continuations of at most `new_tokens` tokens by a model in memory, in training or not.

    A continuation is shorter where the context ends before it, and a prompt that is longer than the context loses its
    beginning (see `fit`).
    """
    if not prompts:
        return []
    sampling = sampling or Sampling()
    length, device = model.config.context_length, model.positions.device
    encoded = [tokenizer.encode(prompt, bos=True) for prompt in prompts]
    ids, limits = zip(*(fit(tokenizer, row, length, new_tokens) for row in encoded), strict=True)
    utf8 = utf8_table(tokenizer, device) if sampling.valid_utf8 else None
    generator = seeded(seed, device)
    with eval_mode(model):
        rows = continue_ids(model, ids, limits, [tokenizer.eos_id], sampling, generator, utf8)
    return [text_of(tokenizer, row) for row in rows]


def text_of(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of generated ids, without a last character that the limit cut in two."""
    decoder = tokenizer.stream_decoder()
    return "".join([decoder.feed(token) for token in ids])


# --- a model on disk ------------------------------------------------------------------------------


class TextGenerator:
    """Continues text with a trained model.

    Args:
        model_path: a directory such as runs/NAME/best or a checkpoint, or the model.safetensors in it.
        tokenizer_path: default, the tokenizer.json beside the model.
        device: default, the GPU if there is one.
        dtype: of the weights; default bf16 on a GPU that has it, else fp32.

    Raises:
        UserError: no model or tokenizer there, they do not belong together, or there is no such device.

    >>> generator = TextGenerator("runs/default/best")  # doctest: +SKIP
    >>> generator.generate(["대한민국의 수도는", "The capital of Korea is"], max_length=64)  # doctest: +SKIP
    """

    def __init__(
        self,
        model_path: Path | str,
        tokenizer_path: Path | str | None = None,
        device: torch.device | str | None = None,
        dtype: Dtype | None = None,
    ) -> None:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UserError(f"device: {device}, but this machine has no GPU that PyTorch can use; leave it out")
        if dtype is None:
            dtype = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
        model, self.tokenizer = load_pair(model_path, tokenizer_path, device)
        self.tuned = is_tuned(Path(model_path))
        """Whether the model has learnt conversations."""
        self.model = prepare(model, dtype)
        self._kept: Decoder | None = None
        self._tables: dict[tuple[int, ...], Tensor] = {}

    @contextlib.contextmanager
    def _decoder(self, rows: int, capacity: int, sampling: Sampling, ends: tuple[int, ...] = ()) -> Iterator[Decoder]:
        """The one that was used last, with what it has recorded, if it serves and nobody else has it. `ends`: see
        `utf8_table`."""
        device = self.model.positions.device
        if sampling.valid_utf8 and ends not in self._tables:
            self._tables[ends] = utf8_table(self.tokenizer, device, ends)
        utf8 = self._tables[ends] if sampling.valid_utf8 else None
        decoder, self._kept = self._kept, None
        wanted = (rows, sampling, id(utf8))
        if (
            not decoder
            or decoder.capacity < capacity
            or wanted != (decoder.rows, decoder.choice.sampling, id(decoder.choice.utf8))
        ):
            decoder = Decoder(self.model, rows, capacity, sampling, utf8, recorder(device))
        try:
            yield decoder
        finally:
            self._kept = decoder

    def generate(
        self,
        prompt: str | Sequence[str],
        max_length: int = 256,
        *,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float = 0.95,
        repetition_penalty: float = 1.0,
        valid_utf8: bool = True,
        seed: int | None = None,
    ) -> list[str]:
        """Continuations, without the prompts, one for each prompt.

        Args:
            prompt: one text or several, of any lengths; each is continued as it would be alone. When sampling, the
                rows draw from one stream of random numbers: give a prompt twice to get two continuations.
            max_length: tokens of a prompt and its continuation together, at most; never more than the model's
                context_length, where every continuation ends.
            temperature, top_k, top_p, repetition_penalty, valid_utf8: see `Sampling`.
            seed: equal seeds give equal text; None takes a new one.

        Raises:
            UserError: a prompt that leaves no room for a token, or a value without meaning.
        """
        sampling = Sampling(temperature, top_k, top_p, repetition_penalty, valid_utf8)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            return []
        encoded, problems = [], []
        for text in prompts:
            try:
                encoded.append(self._prompt(text, max_length))
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError("\n".join(problems))
        ids, limits = zip(*encoded, strict=True)
        generator = seeded(seed, self.model.positions.device)
        with self._decoder(len(ids), max(map(len, ids)) + max(limits), sampling) as decoder:
            rows = continue_ids(self.model, ids, limits, [self.tokenizer.eos_id], sampling, generator, decoder=decoder)
        return [text_of(self.tokenizer, row) for row in rows]

    def stream(
        self,
        prompt: str,
        max_length: int = 256,
        *,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float = 0.95,
        repetition_penalty: float = 1.0,
        valid_utf8: bool = True,
        seed: int | None = None,
    ) -> Iterator[str]:
        """The same continuation as `generate` of one prompt, piece by piece, never with half a character."""
        sampling = Sampling(temperature, top_k, top_p, repetition_penalty, valid_utf8)
        ids, limit = self._prompt(prompt, max_length)
        return self.stream_ids(ids, limit, sampling, seed)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        reply_tokens: int = REPLY_TOKENS,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float = 0.95,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
    ) -> str:
        """What a tuned model answers to messages, the last of which is the user's.

        Args:
            messages: `{"role": …, "content": …}`: one of "system" or none, then "user" and "assistant" by turns. Of a
                conversation that leaves less than a quarter of the context for the reply, the oldest exchanges are not
                read; the system message always is.
            reply_tokens: of the reply, at most; it ends before that where the model ends it, or the context does.
            temperature, top_k, top_p, repetition_penalty: see `Sampling`.
            seed: equal seeds give equal replies; None takes a new one.

        Raises:
            UserError: a base model, messages that are none (roles out of order, an empty one, a special token in a
                text), a last one that is longer than the context, or a value without meaning.

        >>> generator = TextGenerator("runs/default/finetune/best")  # doctest: +SKIP
        >>> generator.chat([{"role": "user", "content": "대한민국의 수도는 어디야?"}])  # doctest: +SKIP
        """
        return "".join(
            self.stream_chat(
                messages,
                reply_tokens=reply_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                repetition_penalty=repetition_penalty,
                seed=seed,
            )
        )

    def stream_chat(
        self,
        messages: Sequence[Message],
        *,
        reply_tokens: int = REPLY_TOKENS,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float = 0.95,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
    ) -> Generator[str]:
        """The same reply as `chat`'s, piece by piece, never with half a character."""
        sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
        check_seed(seed)
        if not self.tuned:
            raise UserError(
                "a base model, which has learnt text and no conversations: it goes on with what you begin "
                "(`sllm generate`, TextGenerator.generate); stage finetune makes one that answers"
            )
        ids, limit = fit_conversation(self.tokenizer, messages, self.model.config.context_length, reply_tokens)
        return self.stream_ids(ids, limit, sampling, seed, ENDS)

    def stream_ids(
        self, ids: Sequence[int], new_tokens: int, sampling: Sampling, seed: int | None, ends: tuple[int, ...] = ()
    ) -> Generator[str]:
        """The text that follows token ids up to `<eos>` or one of the tokens `ends`, piece by piece; a character cut
        in two by the limit is left out."""
        decoder = self.tokenizer.stream_decoder()
        generator = seeded(seed, self.model.positions.device)
        # A chat's texts become longer: room for all of them, so that they share what is recorded.
        with self._decoder(1, self.model.config.context_length, sampling, ends) as steps:
            for token in next_tokens(self.model, [ids], new_tokens, sampling, generator, decoder=steps):
                if token.item() in (self.tokenizer.eos_id, *ends):
                    return
                if piece := decoder.feed(int(token.item())):
                    yield piece

    def _prompt(self, text: str, max_length: int) -> tuple[list[int], int]:
        """Token ids of a prompt and how many may follow."""
        ids = self.tokenizer.encode(text, bos=True)
        most = min(max_length, self.model.config.context_length)
        if len(ids) >= most:
            start = text if len(text) <= 24 else f"{text[:24]}…"
            raise UserError(
                f"prompt {start!r}: {len(ids)} tokens (with <bos>), and max_length is {max_length}, the model's "
                f"context_length {self.model.config.context_length}: no room to go on; shorten it"
                + (" or raise max_length" if max_length < self.model.config.context_length else "")
            )
        return ids, most - len(ids)
