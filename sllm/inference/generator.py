"""Generation: token by token with a key–value cache, from the single step up to a chat in a terminal.

From the inside out: `prefill` and `decode` run the model, `sample` chooses a token, `next_tokens` repeats the two,
`complete` continues texts with a model in memory, `TextGenerator` is the same for a model on disk, `chat` takes turns.

Shapes: B batch, T time, V vocabulary (see `sllm.model.gpt2`).
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sllm.artifacts import Artifacts
from sllm.config import load_experiment
from sllm.distributed import without_cudnn_attention
from sllm.errors import UserError
from sllm.files import RunDirectory
from sllm.model.gpt2 import GPT, LayerCache
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.characters import BETWEEN, BROKEN
from sllm.training.checkpoint import TOKENIZER, load_model

LARGEST_SEED = 2**64 - 1

# --- one step -------------------------------------------------------------------------------------


def new_cache(model: GPT, batch: int, capacity: int) -> list[LayerCache]:
    """Room for the keys and values of `capacity` positions, for every layer."""
    config = model.config
    shape = (batch, config.n_heads, capacity, config.d_model // config.n_heads)
    return [(model.positions.new_empty(shape), model.positions.new_empty(shape)) for _ in range(config.n_layers)]


def prefill(model: GPT, tokens: Tensor, cache: list[LayerCache] | None = None, padding: Tensor | None = None) -> Tensor:
    """Read the prompts (B, T), left-padded by `padding` (B,), into the cache; logits (B, V) of the token after them."""
    return model.logits(model.hidden(tokens, cache, 0, padding)[:, -1])


def decode(model: GPT, tokens: Tensor, cache: list[LayerCache], filled: int, padding: Tensor | None = None) -> Tensor:
    """Add one token a row (B,) to a cache that holds `filled` positions; logits (B, V) of the token after it."""
    return model.logits(model.hidden(tokens[:, None], cache, filled, padding)[:, -1])


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Raises UserError for values that mean nothing.

    temperature: the logits are divided by it; 0 takes the likeliest token (greedy).
    top_k: keep the k likeliest tokens; None keeps all.
    top_p: keep the likeliest tokens that together reach this probability (Holtzman et al. 2020); 1 keeps all.
    repetition_penalty: weakens tokens already in the text (Keskar et al. 2019, section 4.1); 1 does nothing.
    valid_utf8: only tokens that continue a text, and `<eos>` where a character is complete: never bytes that no UTF-8
        has, `<pad>`, `<unk>` or `<bos>`. False lets every token through, as other libraries do.
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    valid_utf8: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature: {self.temperature} is not a number from 0 up; 0 is greedy, 1 unchanged")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k: {self.top_k} keeps no token; use at least 1, or leave it out to keep all")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p: {self.top_p} is not a probability above 0; 1 keeps all tokens")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UserError(f"repetition_penalty: {self.repetition_penalty} is not above 0; 1 does nothing")


def _in_fp32(value: float) -> float:
    """A factor that fp32 can hold, and its inverse too. Beyond these bounds it chooses the same tokens as at them."""
    return min(max(value, 1e-37), 1e37)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits (B, V) with those of the `seen` tokens (B, V, bool) made smaller: divided if positive, else multiplied."""
    logits, penalty = logits.float(), _in_fp32(penalty)
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    bounds = torch.finfo(penalized.dtype)
    return torch.where(seen, penalized.clamp(bounds.min, bounds.max), logits)


def utf8_table(tokenizer: Tokenizer, device: torch.device) -> Tensor:
    """States of a UTF-8 decoder after each token, by the state before it: (states, V) uint8, see `next_tokens`."""
    columns = torch.frombuffer(bytearray(b"".join(tokenizer.utf8_states)), dtype=torch.uint8)
    return columns.view(tokenizer.vocab_size, -1).t().contiguous().to(device)


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Token ids (B,) drawn from logits (B, V); the arguments are those of `Sampling`."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float()
    # The likeliest becomes 0 before the division, which then cannot make an infinite one.
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / _in_fp32(temperature)
    if top_k is not None and top_k < logits.shape[-1]:
        kept, tokens = logits.topk(top_k)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, tokens, kept)
    probabilities = logits.softmax(dim=-1)
    if top_p < 1:
        ordered, tokens = probabilities.sort(dim=-1, descending=True)
        left_out = ordered.cumsum(dim=-1) - ordered >= top_p  # by the probability of all likelier tokens
        left_out[..., 0] = False
        probabilities = torch.zeros_like(ordered).scatter(-1, tokens, ordered.masked_fill(left_out, 0))
    return torch.multinomial(probabilities, num_samples=1, generator=generator).squeeze(-1)


# --- many steps -----------------------------------------------------------------------------------


@torch.inference_mode()
def next_tokens(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    steps: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    utf8: Tensor | None = None,
    use_cache: bool = True,
) -> Iterator[Tensor]:
    """The next token of every prompt (B,), `steps` times; it stays on the model's device and never waits for it.

    Prompts may differ in length: each row is computed as if it were alone. A row that has come to its end is
    still continued; the caller cuts it. A model knows no bytes, so `sampling.valid_utf8` is for the caller, who gives
    `utf8`, the `utf8_table` of the tokenizer, or None for any token. The prompts end with whole characters.
    """
    device = model.positions.device
    longest = max(len(prompt) for prompt in prompts)
    gaps = [longest - len(prompt) for prompt in prompts]
    tokens = torch.tensor([[0] * gap + list(prompt) for gap, prompt in zip(gaps, prompts, strict=True)], device=device)
    padding = torch.tensor(gaps, device=device) if any(gaps) else None
    seen = None
    if sampling.repetition_penalty != 1:
        seen = torch.zeros(len(prompts), model.vocab_size, dtype=torch.bool, device=device)
        for row, prompt in enumerate(prompts):
            seen[row, list(prompt)] = True
    state = torch.full((len(prompts),), BETWEEN, dtype=torch.long, device=device)

    cache = new_cache(model, len(prompts), longest + steps) if use_cache else None
    logits = prefill(model, tokens, cache, padding)
    for filled in range(longest, longest + steps):
        if seen is not None:
            logits = penalize_repetition(logits, seen, sampling.repetition_penalty)
        if utf8 is not None:
            logits = logits.masked_fill(utf8[state] == BROKEN, -torch.inf)
        token = sample(logits, sampling.temperature, sampling.top_k, sampling.top_p, generator)
        yield token
        if filled + 1 == longest + steps:
            return
        if seen is not None:
            seen.scatter_(1, token[:, None], True)
        if utf8 is not None:
            state = utf8[state, token].long()
        if cache is not None:
            logits = decode(model, token, cache, filled, padding)
        else:
            tokens = torch.cat([tokens, token[:, None]], dim=1)
            logits = prefill(model, tokens, None, padding)


def continue_ids(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    eos_id: int,
    sampling: Sampling,
    generator: torch.Generator | None = None,
    utf8: Tensor | None = None,
    use_cache: bool = True,
) -> list[list[int]]:
    """New token ids of each prompt: up to its limit, or to the `<eos>` before it, which is left out."""
    # Reading the flag waits for the GPU; a few tokens too many cost less. A CPU has nothing to wait for.
    interval = 16 if model.positions.device.type == "cuda" else 1
    limit = torch.tensor(limits, device=model.positions.device)
    done = limit <= 0
    columns = []
    for token in next_tokens(model, prompts, max(limits), sampling, generator, utf8, use_cache):
        columns.append(token)
        done = done | (token == eos_id) | (len(columns) >= limit)
        if len(columns) % interval == 0 and bool(done.all()):
            break
    rows = torch.stack(columns, dim=1).tolist()
    rows = [row[:most] for row, most in zip(rows, limits, strict=True)]
    return [row[: row.index(eos_id)] if eos_id in row else row for row in rows]


def seeded(seed: int | None, device: torch.device) -> torch.Generator:
    """A generator of its own, so that sampling never disturbs the random numbers of a training. None: a new seed."""
    check_seed(seed)
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def check_seed(seed: int | None) -> None:
    """Raises UserError for a number that cannot be one."""
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed: not a number from 0 to {LARGEST_SEED}; leave it out for a new one each time")


def complete(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    new_tokens: int,
    *,
    sampling: Sampling | None = None,
    seed: int | None = None,
) -> list[str]:
    """Continuations of at most `new_tokens` tokens by a model in memory, in training or not.

    A continuation is shorter where the context ends before it, and a prompt that is longer than the context loses its
    beginning (see `_fit`).
    """
    if not prompts:
        return []
    sampling = sampling or Sampling()
    length, device = model.config.context_length, model.positions.device
    encoded = [tokenizer.encode(prompt, bos=True) for prompt in prompts]
    ids, limits = zip(*(_fit(tokenizer, row, length, new_tokens) for row in encoded), strict=True)
    utf8 = utf8_table(tokenizer, device) if sampling.valid_utf8 else None
    generator = seeded(seed, device)
    training = model.training
    model.eval()
    try:
        rows = continue_ids(model, ids, limits, tokenizer.eos_id, sampling, generator, utf8)
    finally:
        model.train(training)
    return [_text(tokenizer, row) for row in rows]


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of generated ids, without a last character that the limit cut in two."""
    decoder = tokenizer.stream_decoder()
    return "".join([decoder.feed(token) for token in ids])


def _room(context_length: int, new_tokens: int) -> int:
    """Tokens that are kept free for a continuation before anything is cut for it: a quarter of the context."""
    return max(1, min(new_tokens, context_length // 4))


def _fit(tokenizer: Tokenizer, ids: list[int], context_length: int, new_tokens: int) -> tuple[list[int], int]:
    """What the model reads of token ids that begin with `<bos>`, and how many tokens may follow, at least one.

    As long as they fit, nothing is cut: it is the continuation that becomes shorter. Of more than that the newest are
    read, after `<bos>` and from a whole character on.
    """
    if len(ids) < context_length:
        return ids, min(new_tokens, context_length - len(ids))
    room = _room(context_length, new_tokens)
    first = len(ids) - (context_length - 1 - room)
    while first < len(ids) and tokenizer.token_bytes[ids[first]][0] & 0xC0 == 0x80:
        first += 1
    return [*ids[:1], *ids[first:]], room


# --- a model on disk ------------------------------------------------------------------------------

Dtype = Literal["fp32", "bf16"]


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
        self.model = prepare(model, dtype)

    @functools.cached_property
    def _utf8(self) -> Tensor:
        return utf8_table(self.tokenizer, self.model.positions.device)

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
        use_cache: bool = True,
    ) -> list[str]:
        """Continuations, without the prompts, one for each prompt.

        Args:
            prompt: one text or several, of any lengths; each is continued as it would be alone. When sampling, the
                rows draw from one stream of random numbers: give a prompt twice to get two continuations.
            max_length: tokens of a prompt and its continuation together, at most; never more than the model's
                context_length, where every continuation ends.
            temperature, top_k, top_p, repetition_penalty, valid_utf8: see `Sampling`.
            seed: equal seeds give equal text; None takes a new one.
            use_cache: False reads the whole text again for each token; slow, equal, for comparison.

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
        utf8 = self._utf8 if valid_utf8 else None
        rows = continue_ids(self.model, ids, limits, self.tokenizer.eos_id, sampling, generator, utf8, use_cache)
        return [_text(self.tokenizer, row) for row in rows]

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

    def stream_ids(self, ids: Sequence[int], new_tokens: int, sampling: Sampling, seed: int | None) -> Iterator[str]:
        """The text that follows token ids, piece by piece; a character cut in two by the end is left out."""
        decoder = self.tokenizer.stream_decoder()
        generator = seeded(seed, self.model.positions.device)
        utf8 = self._utf8 if sampling.valid_utf8 else None
        for token in next_tokens(self.model, [ids], new_tokens, sampling, generator, utf8):
            if token.item() == self.tokenizer.eos_id:
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


def load_pair(
    model_path: Path | str, tokenizer_path: Path | str | None, device: torch.device | str
) -> tuple[GPT, Tokenizer]:
    """A model and its tokenizer (default: the one beside the model, or for a checkpoint that of its run).

    Raises:
        UserError: one is missing or damaged, or they have different vocabularies.
    """
    model_path = Path(model_path)
    model = load_model(model_path, device)
    directory = model_path.parent if model_path.is_file() else model_path
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise UserError(f"{directory}: its weights are not numbers any more; take one from before its loss became nan")
    tokenizer_path = Path(tokenizer_path or _tokenizer_of(directory))
    if tokenizer_path.is_dir():
        tokenizer_path = tokenizer_path / TOKENIZER
    tokenizer = Tokenizer.load(tokenizer_path)
    if tokenizer.vocab_size != model.vocab_size:
        raise UserError(
            f"{tokenizer_path}: {tokenizer.vocab_size:,} tokens, the model in {directory} has {model.vocab_size:,}; "
            f"give the tokenizer it was trained with"
        )
    return model, tokenizer


def _tokenizer_of(directory: Path) -> Path:
    """The tokenizer of a model: beside it or, since a checkpoint has none, that of its run."""
    run = RunDirectory.above(directory)
    if (directory / TOKENIZER).is_file() or run is None:
        return directory / TOKENIZER
    if (run.best / TOKENIZER).is_file():
        return run.best / TOKENIZER
    return Artifacts(load_experiment(run.config)).tokenizer / TOKENIZER


def prepare(model: GPT, dtype: Dtype) -> GPT:
    """Lay the weights out, in place, for decoding on the device where they are; the model can no longer be trained.

    A decode step reads every weight once for one token a row, so it is as fast as the weights can be read. On a CPU
    it pays to choose their form for that:

    * fp32: a layer wider at its output than at its input is stored by columns: the matrix product then runs along
      the output (measured on two Zen 3 cores: 19–24 instead of 12–15 GB/s; no difference to the result's meaning).
    * bf16: weights only. Activations and the cache stay fp32, which is faster there and more exact.
    """
    model.eval().requires_grad_(False)
    without_cudnn_attention(model.positions.device)
    if model.positions.device.type != "cpu":
        return model.to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    if dtype == "bf16":
        for block in list(model.modules()):
            for name, layer in list(block.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(block, name, HalfLinear(layer))
        model.embedding.to(torch.bfloat16)
    else:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding) and module.weight.shape[0] > module.weight.shape[1]:
                module.weight.data = module.weight.data.t().contiguous().t()
    return model


class HalfLinear(nn.Module):
    """A linear layer of fp32 vectors with weights in bf16."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.to(torch.bfloat16), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        # Without bf16 instructions PyTorch multiplies a few bf16 vectors fast and matrices very slowly (five times
        # slower at 64 rows than widening the weights first); from 5 rows on it pays to widen.
        if x.shape[:-1].numel() > 4 and not _has_bf16_matrices():
            return F.linear(x, self.weight.float(), self.bias)
        return F.linear(x.to(torch.bfloat16), self.weight).float() + self.bias


@functools.cache
def _has_bf16_matrices() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


# --- chat -----------------------------------------------------------------------------------------

GREETING = """\
A base model: begin a text, in Korean or English, and it goes on. Commands: /help
대화가 아니라 글을 배운 모델입니다. 글을 시작하면 이어서 씁니다. 명령어: /help"""

HELP = """\
Enter   after a line, or alone: the model goes on · 모델이 글을 이어 씁니다
/new    forget this text, begin another · 지금까지의 글을 잊고 새로 시작합니다
/help   this list · 이 도움말
/quit   end, as Ctrl-D does · 끝냅니다 (Ctrl-D도 같습니다)
Ctrl-C  stop this reply · 지금 나오는 글을 멈춥니다"""

NEW = "Another text · 새 글"
NO_COMMAND = "{}: no such command, see /help · 없는 명령어입니다. /help를 보세요."
HOW_TO_END = "/quit or Ctrl-D ends · 끝내려면 /quit 또는 Ctrl-D"
LINE_CUT = "Longer than the model can read ({} tokens): it saw the end · 너무 길어서 끝부분만 읽었습니다."


def _show(text: str) -> None:
    print(text, end="", flush=True)


def _tell(text: str) -> None:
    """Say something that is no part of the text."""
    print(text, file=sys.stderr, flush=True)


def chat(
    generator: TextGenerator,
    *,
    read: Callable[[str], str] = input,
    write: Callable[[str], object] = _show,
    tell: Callable[[str], object] = _tell,
    reply_tokens: int = 128,
    sampling: Sampling | None = None,
    seed: int | None = None,
) -> None:
    """Write a text together with the model, turn by turn: you begin a paragraph, it goes on.

    The model has learnt text, not dialogue: it sees the whole transcript, as plain paragraphs, and continues the line
    you just wrote until a line end, `<eos>`, `reply_tokens` or the end of the context. When the transcript leaves less
    than a quarter of the context for a reply, its oldest turns are forgotten; the line just written is cut only if it
    is longer than the context. `/new`, `/help` and `/quit` are commands; Ctrl-C ends a reply, Ctrl-D the chat.

    Args:
        read: asks for a line, given a prompt; EOFError ends the chat.
        write: shows a piece of the reply.
        tell: shows a line that is no part of the text: the greeting, answers to commands.
    """
    check_seed(seed)
    sampling = sampling or Sampling()
    turns: list[str] = []
    turn = 0
    tell(GREETING)
    while True:
        try:
            line = read("> ")
        except EOFError:
            write("\n")
            return
        except KeyboardInterrupt:
            write("\n")
            tell(HOW_TO_END)
            continue
        command = line.strip()
        if command.startswith("/") and "/" not in command[1:]:  # /usr/bin is text
            if command == "/quit":
                return
            if command == "/new":
                turns = []
            tell({"/new": NEW, "/help": HELP}.get(command, NO_COMMAND.format(command)))
            continue
        turns.append(line)
        turn_seed = None if seed is None else (seed + turn) % (LARGEST_SEED + 1)
        try:
            ids, room = _fit_turns(generator, turns, reply_tokens, tell)
            with contextlib.closing(_reply(generator, ids, room, sampling, turn_seed)) as reply:
                for piece in reply:
                    turns[-1] += piece
                    write(piece)
        except KeyboardInterrupt:
            pass  # what was said so far stays in the transcript
        turns[-1] += "\n"
        write("\n")
        turn += 1


def _fit_turns(
    generator: TextGenerator, turns: list[str], reply_tokens: int, tell: Callable[[str], object]
) -> tuple[list[int], int]:
    """Token ids of the transcript and how many may follow; turns for which there is no room are removed."""
    length = generator.model.config.context_length
    while True:
        ids = generator.tokenizer.encode("".join(turns), bos=True)
        if len(turns) == 1 or len(ids) <= length - _room(length, reply_tokens):
            break
        del turns[0]
    if len(ids) >= length:
        tell(LINE_CUT.format(length))
    return _fit(generator.tokenizer, ids, length, reply_tokens)


def _reply(
    generator: TextGenerator, ids: list[int], new_tokens: int, sampling: Sampling, seed: int | None
) -> Generator[str]:
    """Pieces of the reply, up to the first line end that follows any text."""
    said = False
    for piece in generator.stream_ids(ids, new_tokens, sampling, seed):
        before, line_end, _ = (piece if said else piece.lstrip("\r\n")).partition("\n")
        if before:
            said = True
            yield before
        if said and line_end:
            return
