"""One step of a model with its key–value cache, in shapes that stay the same so that a GPU can record it, and the
layout of the weights that makes it fast.

Shapes: B batch, T time, V vocabulary (see `sllm.model.shared`).
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sllm.device import without_cudnn_attention
from sllm.inference.sampling import Choice, Sampling
from sllm.model.shared import LanguageModel, LayerCache

Dtype = Literal["fp32", "bf16"]

Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Makes of a step one that does the same again."""

BUCKETS = {"cpu": 16, "cuda": 128}
"""A step attends to as many places as are filled, rounded up to a multiple of this: what a place costs that is read for
nothing, against what it costs to record a step."""


def new_cache(model: LanguageModel, batch: int, capacity: int) -> list[LayerCache]:
    """Room for the keys and values of `capacity` positions, for every layer; finite, since nothing times NaN is NaN."""
    config = model.config
    shape = (batch, config.kv_heads, capacity, config.head_width)
    return [(model.positions.new_zeros(shape), model.positions.new_zeros(shape)) for _ in range(config.n_layers)]


def prefill(
    model: LanguageModel, tokens: Tensor, cache: list[LayerCache] | None = None, begins: Tensor | None = None
) -> Tensor:
    """Read the prompts (B, T), filled up to where each `begins` (B, 1), into the cache; logits (B, V) of the token
    after them."""
    return model.logits(model.hidden(tokens, cache, None, begins)[:, -1])


def decode(
    model: LanguageModel, tokens: Tensor, cache: list[LayerCache], at: Tensor, begins: Tensor | None = None
) -> Tensor:
    """Add one token a row (B,) to the cache, `at` (1,) the same place for all; logits (B, V) of the token after it."""
    return model.logits(model.hidden(tokens[:, None], cache, at, begins)[:, -1])


class Decoder:
    """A batch of texts that a model goes on with, one token a row in each step.

    A step reads and writes tensors that stay where they are, and has the same shapes until the next bucket of lengths
    begins, so that it can be recorded.

    Args:
        capacity: how long the texts may become.
        utf8: see `Choice`.
        record: see `recorder`; for a model whose weights stay where they are.
    """

    def __init__(
        self,
        model: LanguageModel,
        rows: int,
        capacity: int,
        sampling: Sampling,
        utf8: Tensor | None = None,
        record: Record = lambda step: step,
    ) -> None:
        device = model.positions.device
        self.model = model
        self.rows = rows
        self._bucket = BUCKETS[device.type]
        self.capacity = self._rounded_up(capacity)
        self.choice = Choice(sampling, rows, model.vocab_size, device, utf8)
        self._cache = new_cache(model, rows, self.capacity)
        self._at = torch.zeros(1, dtype=torch.long, device=device)
        self._begins = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._record = record
        self._steps: dict[tuple[int, bool], Callable[[], None]] = {}

    def _rounded_up(self, length: int) -> int:
        return -(-length // self._bucket) * self._bucket

    def begin(self, prompts: Sequence[Sequence[int]], generator: torch.Generator | None) -> None:
        """Read prompts of any lengths, and choose the token after each; nothing is left of what was there before."""
        self._generator = generator
        self._filled = max(len(prompt) for prompt in prompts)
        gaps = [self._filled - len(prompt) for prompt in prompts]
        rows = [[0] * gap + list(prompt) for gap, prompt in zip(gaps, prompts, strict=True)]
        self._ragged = any(gaps)
        self._begins.copy_(torch.tensor(gaps)[:, None])
        self._at.fill_(self._filled)
        self.choice.begin(prompts)
        self.choice.draw(generator)
        tokens = torch.tensor(rows, device=self._at.device)
        self.choice(prefill(self.model, tokens, self._cache, self._begins if self._ragged else None))

    def advance(self) -> None:
        """Add the tokens that were chosen last, and choose those after them."""
        self._filled += 1
        kind = (self._rounded_up(self._filled), self._ragged)
        if kind not in self._steps:
            self._steps[kind] = self._record(functools.partial(self._step, *kind))
        self.choice.draw(self._generator)
        self._steps[kind]()

    def _step(self, length: int, ragged: bool) -> None:
        """What is recorded: the arguments alone decide what is done, and in which shapes."""
        cache = [(keys[:, :, :length], values[:, :, :length]) for keys, values in self._cache]
        begins = self._begins if ragged else None
        self.choice(decode(self.model, self.choice.token, cache, self._at, begins))
        self._at += 1


def recorder(device: torch.device) -> Record:
    """On a GPU a step becomes a CUDA graph, hundreds of kernels launched as one; on a CPU it stays as it is."""
    if device.type != "cuda":
        return lambda step: step
    pool = torch.cuda.graph_pool_handle()  # one for all: what is in it lives no longer than a step
    return lambda step: _Recorded(step, pool)


class _Recorded:
    """A step that is taken as it is the first time, which loads its kernels, and is recorded the second."""

    def __init__(self, step: Callable[[], None], pool: Any) -> None:
        self._step, self._pool = step, pool
        self._loaded = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if not self._loaded:
            self._step()
            self._loaded = True
            return
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on with their own work.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                self._step()
            self._graph = graph
        self._graph.replay()


@contextlib.contextmanager
def eval_mode(model: LanguageModel) -> Iterator[None]:
    """Without dropout while the block runs, in training or not."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def prepare(model: LanguageModel, dtype: Dtype) -> LanguageModel:
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
        layers: list[nn.Linear | nn.Embedding] = [each for each in model.modules() if isinstance(each, nn.Linear)]
        if model.head is None:  # else the table is only looked up, a row at a time
            layers.append(model.embedding)
        for layer in layers:
            if layer.weight.shape[0] > layer.weight.shape[1]:
                layer.weight.data = layer.weight.data.t().contiguous().t()
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
        product = F.linear(x.to(torch.bfloat16), self.weight).float()
        return product if self.bias is None else product + self.bias


@functools.cache
def _has_bf16_matrices() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
