"""The step: model, optimizer and data, and the number of the step that they stand at.

Everything about step s (its sequences, its dropout, its learning rate) is a function of the experiment and s.
"""

import contextlib
import math
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from sllm.artifacts import Artifacts
from sllm.config import Experiment, TrainConfig, check_world_size
from sllm.data.sampler import PackedData, Sampler
from sllm.device import autocast, memory_bytes, seed
from sllm.distributed import World
from sllm.errors import UserError
from sllm.files import finite
from sllm.model.gpt2 import GPT
from sllm.model.storage import TOKENIZER
from sllm.tokenizer import Tokenizer
from sllm.training.metrics import mfu
from sllm.training.optim import learning_rate, make_optimizer


class Trainer:
    """Takes one step after the other. Every rank has one; `step` is the last step taken."""

    def __init__(self, experiment: Experiment, artifacts: Artifacts, world: World) -> None:
        check_world_size(experiment.train, world.size)
        self.experiment, self.config, self.world = experiment, experiment.train, world
        self.step = 0
        self.tokenizer = Tokenizer.load(artifacts.tokenizer / TOKENIZER)
        self.data = PackedData.open(artifacts.packed, self.tokenizer.fingerprint)
        names = {source.name for source in self.data.sources}  # without the optional ones that could not be had
        weights = {source.name: source.weight for source in experiment.data.sources if source.name in names}
        length, batch = experiment.model.context_length, self.config.global_batch
        self.sampler = Sampler(self.data, weights, length, experiment.seed, global_batch=batch)
        seed(world.device, experiment.seed)
        self.model = GPT(experiment.model, self.tokenizer.vocab_size).to(world.device)
        self.model.activation_checkpointing = self.config.activation_checkpointing
        self.optimizer = make_optimizer(self.model, self.config)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.config.precision == "fp16")
        self.forward = _forward(self.model, self.config, world)

    def close(self) -> None:
        """Let go of DDP's C++ reducer before the process group ends.

        It shares the group: were it the last to hold it, it would destroy it under the interpreter's lock and join
        gloo's thread, which may itself be waiting for that lock. (Seen as a rank that never exits.)
        """
        if isinstance(self.forward, DistributedDataParallel):
            del self.forward.reducer, self.forward.logger

    def train_step(self) -> dict[str, Any]:
        """One optimizer step over one global batch. Returns its figures; the loss is the mean over the batch."""
        started = time.perf_counter()
        step = self.step + 1
        self.model.train()
        rate = learning_rate(step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss_sum, data_seconds = self._accumulate()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        # A gradient that is not finite is the scaler's business under fp16: it skips the step and lowers its scale.
        self._check_finite(loss_sum if self.scaler.is_enabled() else loss_sum + norm, step)
        overflow = not math.isfinite(float(norm))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.step = step

        loss = self.world.sum([loss_sum.item()])[0] / (len(self._micro_batches()) * self.world.size)
        seconds = time.perf_counter() - started
        step_tokens = self.config.global_batch * self.experiment.model.context_length
        speed = step_tokens / seconds
        share = mfu(speed / self.world.size, self.experiment.model, self.tokenizer.vocab_size, self.world.device)
        return {
            "tokens": step * step_tokens,
            "loss": loss,
            "learning_rate": rate,
            "gradient_norm": finite(float(norm)),
            "seconds": round(seconds, 5),
            "tokens_per_second": round(speed, 1),
            "data_wait": round(data_seconds / seconds, 5),
            "memory_bytes": memory_bytes(self.world.device),
            **({"mfu": round(share, 4)} if share is not None else {}),
            **({"overflow": True} if overflow else {}),
        }

    def _accumulate(self) -> tuple[torch.Tensor, float]:
        """Add up the gradients of this rank's micro-batches. Returns the sum of their losses, and the seconds that the
        data took."""
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.world.device)
        data_seconds = 0.0
        micro_batches = self._micro_batches()
        for number in micro_batches:
            waiting = time.perf_counter()
            tokens = self._tokens(number)
            data_seconds += time.perf_counter() - waiting
            with self._no_sync(unless=number == micro_batches[-1]):
                loss_sum += self._forward_backward(tokens, number)
        return loss_sum, data_seconds

    def _forward_backward(self, tokens: torch.Tensor, micro_batch: int) -> torch.Tensor:
        """Add one micro-batch's gradient, divided by the number of this rank's in the step. Returns the loss."""
        seed(self.world.device, _dropout_seed(self.experiment.seed, self.step + 1, micro_batch))
        with autocast(self.world.device, self.config.precision):
            loss = self.forward(tokens[:, :-1], tokens[:, 1:])
            self.scaler.scale(loss / len(self._micro_batches())).backward()
        return loss.detach()

    def _micro_batches(self) -> range:
        """Numbers, within the global batch, of this rank's micro-batches.

        Dropout is seeded by this number, not by the rank, so the world size changes who computes what and no more.
        """
        return range(self.world.rank, self.config.global_batch // self.config.micro_batch, self.world.size)

    def _tokens(self, micro_batch: int) -> torch.Tensor:
        """Token ids (micro_batch, context_length + 1) on the device."""
        start = self.step * self.config.global_batch + micro_batch * self.config.micro_batch
        tokens = torch.from_numpy(self.sampler.batch(start, self.config.micro_batch))
        if self.world.device.type == "cuda":
            return tokens.pin_memory().to(self.world.device, non_blocking=True)
        return tokens

    def _no_sync(self, *, unless: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients of all but the last micro-batch stay on the rank; the last one's backward averages the sum."""
        if unless or not isinstance(self.forward, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.forward.no_sync()

    def _check_finite(self, value: torch.Tensor, step: int) -> None:
        """Stop, on every rank, if any rank's loss or gradient is not finite: name step, rank and documents."""
        finite = math.isfinite(value.item())
        if not self.world.any(not finite):
            return
        mine = None if finite else f"rank {self.world.rank}: documents {', '.join(self._documents())}"
        raise UserError(
            f"the loss or gradient of step {step} is not finite ({self._reports(mine)}); lower train.learning_rate or "
            f"look at these documents; the last checkpoint is untouched"
        )

    def _reports(self, mine: str | None) -> str:
        """What the ranks have to say; those with nothing to say give None."""
        return "; ".join(report for report in self.world.gather(mine) if report)

    def _documents(self) -> list[str]:
        names = []
        for number in self._micro_batches():
            start = self.step * self.config.global_batch + number * self.config.micro_batch
            for source, window in self.sampler.windows(start, self.config.micro_batch):
                length = self.experiment.model.context_length
                found = self.data.documents_of(source, window * length, (window + 1) * length + 1)
                names += [self.data.document_name(source, document) for document in found]
        return sorted(set(names))

    def check_determinism(self) -> None:
        """Compute one micro-batch's gradients twice, as the next step would: a resume is exact only if they are equal.

        Raises:
            UserError: on every rank, if they differ on any.
        """
        number = self._micro_batches()[0]
        tokens = self._tokens(number)
        gradients: list[list[torch.Tensor]] = []
        self.model.train()
        for _ in range(2):
            with self._no_sync(unless=False):
                self._forward_backward(tokens, number)
            # Bits, since under fp16 a gradient may be NaN, which is equal to nothing.
            found = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            gradients.append([gradient.view(torch.int32).clone() for gradient in found])
            self.optimizer.zero_grad()
        names = [name for name, _ in self.model.named_parameters()]
        differ = [name for name, *pair in zip(names, *gradients, strict=True) if not torch.equal(*pair)]
        if not self.world.any(bool(differ)):
            return
        mine = f"rank {self.world.rank}: {len(differ)} of {len(names)}, {differ[0]} first" if differ else None
        raise UserError(
            f"one micro-batch gave two gradients on {self.world.device} (PyTorch {torch.__version__}; "
            f"{self._reports(mine)}), so that no resume could be exact; say train.compile=false, or take another "
            f"PyTorch or GPU"
        )


def _forward(model: GPT, config: TrainConfig, world: World) -> torch.nn.Module:
    """What a step calls: the model, its blocks compiled, its gradients averaged over the ranks."""
    if config.compile:
        # Block by block: identical blocks share one compilation, and DDP still overlaps gradients with backward.
        # Shapes are static: a graph that some other length made dynamic would draw other dropout.
        torch._dynamo.config.optimize_ddp = False  # it would cut a block at the borders of DDP's buckets
        torch._inductor.config.deterministic = True  # nothing that changes the result is chosen by timing it
        # PyTorch 2.11 takes from its cache on disk what was compiled under another precision's autocast.
        torch.compiler.config.cache_key_tag = config.precision
        for block in model.blocks:
            block.compile(dynamic=False)
    if world.size == 1:
        return model
    with warnings.catch_warnings():
        # Its new name, forward_sync_buffers, is unknown to the oldest torch that we support.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        return DistributedDataParallel(
            model,
            device_ids=[world.device.index] if world.device.type == "cuda" else None,
            process_group=world.gradients,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )


def _dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    return int(np.random.SeedSequence([seed, step, micro_batch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
