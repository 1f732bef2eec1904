"""The step: model, optimizer and data, and the number of the step that they stand at.

Everything about step s (its sequences, its dropout, its learning rate) is a function of the experiment and s.
"""

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from sllm.artifacts import Artifacts
from sllm.config import Experiment, TrainConfig, check_world_size, phase_weights
from sllm.data.sampler import PackedData, Sampler
from sllm.device import Moment, autocast, memory_bytes, seed
from sllm.distributed import World
from sllm.errors import UserError
from sllm.files import finite
from sllm.model.attention import OWN, choose_attention, use_own
from sllm.model.families import make_model
from sllm.model.shared import LanguageModel
from sllm.origin import TOKENIZER
from sllm.stop import signals_blocked
from sllm.tokenizer import Tokenizer
from sllm.training.batches import Batch, Batches
from sllm.training.exact import GradientSum, RanksDifferError, digest
from sllm.training.metrics import mfu
from sllm.training.optim import learning_rate, make_optimizers, set_learning_rate

log = logging.getLogger(__name__)

SMALLEST_SCALE = 2.0**-16
"""Of fp16's losses. The scaler begins at 2¹⁶ and halves it at each overflow, for ever if nobody minds."""


class TakenStep(NamedTuple):
    """A step whose work is under way, on a GPU, or done."""

    step: int
    learning_rate: float
    figures: torch.Tensor
    """float64, on the host once `ended` has come: the loss of each micro-batch of all ranks, the largest element of its
    gradient, zero for those of other ranks, and the norm of their mean."""
    limit: float
    data_seconds: float
    began: Moment
    ended: Moment

    def mine(self) -> list[float]:
        """What is added over the ranks. Waits for the end of the step."""
        self.ended.wait()
        found: list[float] = self.figures[:-1].tolist()
        return found


class Trainer:
    """Takes one step after the other. Every rank has one; `step` is the last step taken."""

    def __init__(self, experiment: Experiment, artifacts: Artifacts, world: World, packed: Path | None = None) -> None:
        """`packed`: what it learns from, the text of the artifacts if nothing is said."""
        check_world_size(experiment.train, world.size)
        self.experiment, self.config, self.world = experiment, experiment.train, world
        self.step = 0
        self.copied: torch.cuda.Event | None = None  # until when a checkpoint needs the weights as they are
        self.tokenizer = Tokenizer.load(artifacts.tokenizer / TOKENIZER)
        self.data = PackedData.open(packed or artifacts.packed, self.tokenizer.fingerprint)
        names = {source.name for source in self.data.sources}  # without the optional ones that could not be had
        phases = {
            step: {name: weight for name, weight in weights.items() if name in names}
            for step, weights in phase_weights(experiment.data, self.config.max_steps).items()
        }
        length, batch = experiment.model.context_length, self.config.global_batch
        self.sampler = Sampler(self.data, phases[0], length, experiment.seed, global_batch=batch, phases=phases)
        self.batches = Batches(self.sampler, self.config.micro_batch, world.device)
        seed(world.device, experiment.seed)
        self.model = make_model(experiment.model, self.tokenizer.vocab_size, self.tokenizer.token_bytes).to(
            world.device
        )
        self.model.activation_checkpointing = self.config.activation_checkpointing
        # A mask of conversations only PyTorch's own choice knows.
        self.attention = OWN if self.conversations else choose_attention(self.model, self.config)
        self.optimizers = make_optimizers(self.model, self.config)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.config.precision == "fp16")
        micro_batches = self.config.global_batch // self.config.micro_batch
        self.gradients = GradientSum(self.model.parameters(), micro_batches, self.config.compile, world.gradients)
        self.forward = self._distributed(compile_parts(self.model, self.config, same_length=not self.conversations))

    @property
    def conversations(self) -> bool:
        return self.data.overlap == 0

    def _distributed(self, model: LanguageModel) -> torch.nn.Module:
        """What a step calls: the model, its gradients added over the ranks if there are several."""
        if self.world.size == 1:
            return model
        with warnings.catch_warnings():
            # Its new name, forward_sync_buffers, is unknown to the oldest torch that we support.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            distributed = DistributedDataParallel(
                model,
                device_ids=[self.world.device.index] if self.world.device.type == "cuda" else None,
                process_group=self.world.gradients,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )
        distributed.register_comm_hook(None, self.gradients.reduce)
        return distributed

    def close(self) -> None:
        """End the thread that reads ahead, and let go of DDP's C++ reducer before the process group ends.

        It shares the group: were it the last to hold it, it would destroy it under the interpreter's lock and join
        gloo's thread, which may itself be waiting for that lock. (Seen as a rank that never exits.)
        """
        self.batches.close()
        if isinstance(self.forward, DistributedDataParallel):
            del self.forward.reducer, self.forward.logger

    def train_step(self) -> "TakenStep":
        """One optimizer step over one global batch, whose figures `read` returns. A GPU is still at it then."""
        began = Moment(self.world.device)
        self.model.train()
        rate = learning_rate(self.step + 1, self.config)
        set_learning_rate(self.optimizers, rate, self.config)
        losses, largest, waited = self._accumulate()
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if self.copied is not None:
            self.copied.wait()
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        self.model.zero_grad()
        self.step += 1
        figures = torch.cat([losses, largest, norm.double().view(1)])
        if figures.is_cuda:
            figures = torch.empty_like(figures, device="cpu", pin_memory=True).copy_(figures, non_blocking=True)
        return TakenStep(self.step, rate, figures, self.gradients.limit, waited, began, Moment(self.world.device))

    def read(self, taken: "TakenStep", found: Sequence[float]) -> dict[str, Any]:
        """The figures of a step, given `taken.mine()` added over the ranks. The loss is the mean over the batch.

        Raises:
            UserError: on every rank, if a loss is not finite, or a gradient other than under fp16, where the scaler
                has skipped the step and lowered its scale.
        """
        half = len(found) // 2
        losses, largest = found[:half], found[half:]
        too_large = [number for number, norm in enumerate(largest) if not norm < taken.limit]
        self._check_finite(taken.step, [] if self.scaler.is_enabled() else too_large, losses)
        seconds = taken.ended.seconds_since(taken.began)
        step_tokens = self.config.global_batch * self.experiment.model.context_length
        speed = step_tokens / seconds
        share = mfu(speed / self.world.size, self.experiment.model, self.tokenizer.vocab_size, self.world.device)
        return {
            "tokens": taken.step * step_tokens,
            "loss": math.fsum(losses) / len(losses),
            "learning_rate": taken.learning_rate,
            "gradient_norm": finite(float(taken.figures[-1])),
            "seconds": round(seconds, 5),
            "tokens_per_second": round(speed, 1),
            "data_wait": round(taken.data_seconds / seconds, 5),
            "memory_bytes": memory_bytes(self.world.device),
            **({"mfu": round(share, 4)} if share is not None else {}),
            **({"overflow": True} if too_large else {}),
        }

    def _accumulate(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Leave the mean gradient of the global batch in the parameters, on every rank; NaN, if any of it overflowed.

        Returns, of each micro-batch of all ranks, the loss and the largest element of its gradient, float64 on the
        device and zero for those of the others; and the seconds that this rank waited for data.
        """
        data_seconds = 0.0
        mine, count = self._micro_batches(), self._answers()
        # Each stands in a place of its own: what is summed over the ranks is sums with zeros.
        losses, largest = torch.zeros(2, self.gradients.micro_batches, dtype=torch.float64, device=self.world.device)
        self.gradients.begin(self._scale())
        for number in mine:
            waiting = time.perf_counter()
            batch = self._batch(number)
            data_seconds += time.perf_counter() - waiting
            reducing = self.forward is not self.model and number == mine[-1]
            with self._no_sync(unless=reducing):
                losses[number] = self._forward_backward(batch, number, count)
            largest[number] = self.gradients.reduced() if reducing else self.gradients.add()
        if self.forward is self.model:
            self.gradients.finish()
        return losses, largest, data_seconds

    def _scale(self) -> float:
        scale = self.scaler.get_scale()
        if scale < SMALLEST_SCALE:
            raise UserError(
                f"step {self.step + 1}: the gradients overflow fp16 even times {scale:g}; lower train.learning_rate or "
                f"say train.precision=bf16; the last checkpoint is untouched"
            )
        return scale

    def _answers(self) -> float | None:
        """How many targets of the next step's global batch are learnt, over the number of its micro-batches: divided by
        that, the mean over the micro-batches is the mean over all of them. None where all targets are."""
        if not self.conversations:
            return None
        windows = self.sampler.windows(self._sample(0, self.step + 1), self.config.global_batch)
        total = sum(int(self.data.answers("train", source)[window]) for source, window in windows)
        return total * self.config.micro_batch / self.config.global_batch

    def _forward_backward(self, batch: Batch, micro_batch: int, count: float | None) -> torch.Tensor:
        """Add one micro-batch's gradient, times the scaler's scale. Returns the loss."""
        seed(self.world.device, _dropout_seed(self.experiment.seed, self.step + 1, micro_batch))
        with autocast(self.world.device, self.config.precision):
            loss = self.forward(*batch, count)
            self.scaler.scale(loss).backward()
        return loss.detach()

    def _micro_batches(self) -> range:
        """Numbers, within the global batch, of this rank's micro-batches.

        Dropout is seeded by this number, not by the rank, so the world size changes who computes what and no more.
        """
        return range(self.world.rank, self.config.global_batch // self.config.micro_batch, self.world.size)

    def _sample(self, micro_batch: int, step: int) -> int:
        """The number, in the whole training, of the first sample of a micro-batch of step `step`."""
        return (step - 1) * self.config.global_batch + micro_batch * self.config.micro_batch

    def _batch(self, micro_batch: int) -> Batch:
        """On the device, one of this rank's micro-batches of the next step."""
        mine = self._micro_batches()
        step, after = self.step + 1, micro_batch + mine.step
        following = self._sample(after, step) if after in mine else self._sample(mine[0], step + 1)
        return self.batches.take(self._sample(micro_batch, step), following)

    def _no_sync(self, *, unless: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients of all but the last micro-batch stay on the rank; the last one's backward adds all ranks'."""
        if unless or not isinstance(self.forward, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.forward.no_sync()

    def _check_finite(self, step: int, too_large: list[int], losses: Sequence[float]) -> None:
        """Stop if the loss or gradient of a micro-batch is not finite: name step, rank and documents."""
        documents: dict[int, set[str]] = {}
        for number in {*too_large, *(number for number, loss in enumerate(losses) if not math.isfinite(loss))}:
            documents.setdefault(number % self.world.size, set()).update(self._documents(number, step))
        if documents:
            told = [f"rank {rank}: documents {_first(sorted(documents[rank]))}" for rank in sorted(documents)]
            raise UserError(
                f"the loss or gradient of step {step} is not finite ({'; '.join(told)}); lower "
                f"train.learning_rate or look at these documents; the last checkpoint is untouched"
            )

    def _documents(self, micro_batch: int, step: int) -> list[str]:
        names, length = [], self.experiment.model.context_length
        stride = length + 1 - self.data.overlap
        for source, window in self.sampler.windows(self._sample(micro_batch, step), self.config.micro_batch):
            found = self.data.documents_of(source, window * stride, window * stride + length + 1)
            names += [self.data.document_name(source, document) for document in found]
        return names

    def check_ranks_agree(self) -> None:
        """Every rank computes the same weights from the same sums: one that has others has a fault, or had one.

        Raises:
            RanksDifferError: on every rank.
        """
        if self.world.size == 1:
            return
        weights = dict(self.model.named_parameters())
        found = self.world.gather(torch.stack([digest(weight) for weight in weights.values()]).tolist())
        for rank, digests in enumerate(found):
            if digests != found[0]:
                first = next(name for name, a, b in zip(weights, found[0], digests, strict=True) if a != b)
                raise RanksDifferError(
                    f"after step {self.step} rank {rank} has other weights than rank 0, in {first} first: an error of "
                    f"a GPU, of memory or of the network; in the last checkpoint all had the same"
                )

    def check_determinism(self) -> None:
        """Compute one micro-batch's gradients twice, as the next step would: a resume is exact only if they are equal.
        An attention that cannot be used here, or not so, is given up for PyTorch's own.

        Raises:
            UserError: on every rank, if they differ on any.
        """
        told = self._unequal()
        if told and self.attention:
            log.warning("%s cannot be used here, PyTorch's own attention is (%s)", self.attention, "; ".join(told))
            self.attention = use_own(self.model)
            told = self._unequal()
        if told:
            raise UserError(
                f"one micro-batch gave two gradients on {self.world.device} (PyTorch {torch.__version__}; "
                f"{'; '.join(told)}), so that no resume could be exact; say train.compile=false, or take another "
                f"PyTorch or GPU"
            )

    def _unequal(self) -> list[str]:
        """What the ranks say of a micro-batch whose gradients differ, or which an attention failed at."""
        try:
            names = self._gradients_that_differ()
            mine = f"{len(names)} of {len(self.gradients.sums)}, {names[0]} first" if names else None
        except Exception as error:
            if not self.attention:
                raise
            mine = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            self.model.zero_grad()
        return [f"rank {rank}: {report}" for rank, report in enumerate(self.world.gather(mine)) if report]

    def _gradients_that_differ(self) -> list[str]:
        number, count = self._micro_batches()[0], self._answers()
        batch = self._batch(number)
        gradients: list[list[torch.Tensor]] = []
        self.model.train()
        for _ in range(2):
            with self._no_sync(unless=False):
                self._forward_backward(batch, number, count)
            # Bits, since under fp16 a gradient may be NaN, which is equal to nothing.
            found = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            gradients.append([gradient.view(torch.int32).clone() for gradient in found])
            self.gradients.add()  # which compiles too, and leaves no gradient
        names = [name for name, _ in self.model.named_parameters()]
        return [name for name, *pair in zip(names, *gradients, strict=True) if not torch.equal(*pair)]


def warm_up(trainer: Trainer) -> None:
    """Compile, and see that a step gives the same bits twice, where either is in question.

    Compilers and Inductor's workers die of a signal to all processes of a job step, and the training with them or in
    wait for them: they are all started here, where they inherit a mask, and the signal is heard when they are done.
    """
    compiles = trainer.config.compile
    if not compiles and trainer.world.device.type == "cpu":
        return
    if compiles:
        log.info("compiling the model; a signal is heard after that")
    started = time.perf_counter()
    with signals_blocked():
        trainer.check_determinism()
    if compiles:
        log.info("compiled in %.0f s", time.perf_counter() - started)


def compile_parts(model: LanguageModel, config: TrainConfig, *, same_length: bool = True) -> LanguageModel:
    """`model`, which compiles in its first step if that is wanted: to be taken with signals blocked. Without the loss,
    unless the number of targets that are learnt is always the same."""
    if config.compile:
        # Block by block: identical blocks share one compilation, and DDP still overlaps gradients with backward.
        # What is around them is compiled by itself; eager are the look-up of embeddings and the products of the loss.
        # Shapes are static: a graph that some other length made dynamic would draw other dropout.
        torch._dynamo.config.optimize_ddp = False  # it would cut a block at the borders of DDP's buckets
        torch._inductor.config.deterministic = True  # nothing that changes the result is chosen by timing it
        # PyTorch 2.11 takes from its cache on disk what was compiled under another precision's autocast.
        torch.compiler.config.cache_key_tag = config.precision
        for part in (model.entry, *model.blocks):
            part.compile(fullgraph=True, dynamic=False)
        model.last_norm = torch.compile(model.last_norm, fullgraph=True, dynamic=False)  # type: ignore[method-assign]
        if same_length:
            model.differentiated = torch.compile(model.differentiated, fullgraph=True, dynamic=False)
    return model


def _first(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    return int(np.random.SeedSequence([seed, step, micro_batch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
