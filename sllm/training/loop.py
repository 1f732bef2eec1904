"""The training loop. `pretrain` is the whole story; `Trainer` holds what a step needs.

Everything about step s (its sequences, its dropout, its learning rate) is a function of the experiment and s, so a
resumed run goes on as if nothing had happened: bit for bit on the same number of ranks, and with the same samples in
the same order on any other.
"""

import contextlib
import logging
import math
import time
import warnings
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from sllm.artifacts import Artifacts, differences
from sllm.config import Experiment, check_world_size
from sllm.data.sampler import PackedData, Sampler
from sllm.device import autocast, determinism, deterministic, memory_bytes, peak_flops
from sllm.distributed import World, connect
from sllm.errors import UserError
from sllm.evaluation.validation import evaluate
from sllm.files import CorruptError, fingerprint, finite, make_directory, remove_leftovers
from sllm.inference.generator import complete
from sllm.manifests import read_manifest
from sllm.model.gpt2 import GPT
from sllm.model.size import flops_per_token
from sllm.model.storage import save_model
from sllm.progress import Bar, track
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer
from sllm.training.checkpoint import Checkpoints
from sllm.training.metrics import Metrics, cut_back
from sllm.training.optim import learning_rate, make_optimizer
from sllm.training.wandb_mirror import mirror_to_wandb

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""How long to wait before metrics that the disk had no room for are written again."""


def pretrain(experiment: Experiment, run: RunDirectory, artifacts: Artifacts, stop: StopFlag) -> dict[str, Any]:
    """Train to `max_steps`, or to the step at which a stop is requested; go on from the newest whole checkpoint.

    Every rank calls this. Returns a summary whose `outcome` is "finished" or "stopped".

    Raises:
        UserError: the data, the tokenizer or the checkpoints do not fit the experiment, or the loss diverged.
    """
    with connect() as world, contextlib.ExitStack() as stack:
        stack.enter_context(deterministic(world.device))
        trainer = stack.enter_context(contextlib.closing(Trainer(experiment, run, artifacts, world, stop)))
        loading = time.perf_counter()
        trainer.resume()
        if world.device.type == "cuda" and trainer.step < experiment.train.max_steps:
            trainer.check_determinism()
        trainer.start_recording(seconds=round(time.perf_counter() - loading, 3))
        if world.main:
            stack.enter_context(mirror_to_wandb(experiment, run))
        bar = stack.enter_context(track("pretrain", experiment.train.max_steps, "steps", start=trainer.step))
        while True:
            if trainer.asked_to_stop(bar):
                trainer.save()
                return trainer.summary("stopped")
            if trainer.validation_due():
                trainer.validate()  # a stop that is asked for meanwhile leaves it to the resume
            elif trainer.checkpoint_due():
                trainer.save()
            elif trainer.step == experiment.train.max_steps:
                return trainer.summary("finished")
            else:
                trainer.show(bar, trainer.train_step())


@dataclass(frozen=True)
class Best:
    """What the manifest of the best model says of it."""

    step: int
    loss: float
    trajectory: str
    """Fingerprint of the settings that it was trained under."""


class Trainer:
    """Model, optimizer, data and the step they stand at."""

    def __init__(
        self, experiment: Experiment, run: RunDirectory, artifacts: Artifacts, world: World, stop: StopFlag
    ) -> None:
        check_world_size(experiment.train, world.size)
        self.experiment, self.config = experiment, experiment.train
        self.run, self.world, self.stop = run, world, stop
        self.tokenizer_path = artifacts.tokenizer / "tokenizer.json"
        self.tokenizer = Tokenizer.load(self.tokenizer_path)
        self.data = PackedData.open(artifacts.packed, self.tokenizer.fingerprint)
        names = {source.name for source in self.data.sources}  # without the optional ones that could not be had
        weights = {source.name: source.weight for source in experiment.data.sources if source.name in names}
        self.sampler = Sampler(
            self.data,
            weights,
            experiment.model.context_length,
            experiment.seed,
            global_batch=experiment.train.global_batch,
        )
        self.trajectory = artifacts.keys["pretrain"]
        self.checkpoints = Checkpoints(run.checkpoints, self.config.checkpoint)

        torch.manual_seed(experiment.seed)
        self.model = GPT(experiment.model, self.tokenizer.vocab_size).to(world.device)
        self.model.activation_checkpointing = self.config.activation_checkpointing
        self.optimizer = make_optimizer(self.model, self.config)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.config.precision == "fp16")
        self.forward: torch.nn.Module = self.model
        if self.config.compile:
            # Block by block: identical blocks share one compilation, and DDP still overlaps gradients with backward.
            # Shapes are static: a graph that some other length made dynamic would draw other dropout.
            torch._dynamo.config.optimize_ddp = False  # it would cut a block at the borders of DDP's buckets
            torch._inductor.config.deterministic = True  # nothing that changes the result is chosen by timing it
            # PyTorch 2.11 takes from its cache on disk what was compiled under another precision's autocast.
            torch.compiler.config.cache_key_tag = self.config.precision
            for block in self.model.blocks:
                block.compile(dynamic=False)
        if world.size > 1:
            ids = [world.device.index] if world.device.type == "cuda" else None
            with warnings.catch_warnings():
                # Its new name, forward_sync_buffers, is unknown to the oldest torch that we support.
                warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
                self.forward = DistributedDataParallel(
                    self.forward,
                    device_ids=ids,
                    process_group=world.gradients,
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                )
        self.metrics: Metrics | None = None  # of rank 0
        self.step = 0
        self.saved = 0  # the last step that a checkpoint was tried at
        self.validated: dict[int, float | None] = {}  # step → validation loss, of this run so far
        self.best: Best | None = None  # what is on disk
        self.best_is_gone = False
        self.peak = peak_flops(world.device)

    def close(self) -> None:
        """Let go of DDP's C++ reducer before the process group ends.

        It shares the group: were it the last to hold it, it would destroy it under the interpreter's lock and join
        gloo's thread, which may itself be waiting for that lock. (Seen as a rank that never exits.)
        """
        if isinstance(self.forward, DistributedDataParallel):
            del self.forward.reducer, self.forward.logger

    # --- the step ---------------------------------------------------------------------------------

    def train_step(self) -> dict[str, Any]:
        """One optimizer step over one global batch. Records its figures; the loss is the mean over the batch."""
        started = time.perf_counter()
        data_seconds = 0.0
        step = self.step + 1
        self.model.train()
        rate = learning_rate(step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.world.device)
        micro_batches = self._micro_batches()
        for i, number in enumerate(micro_batches):
            waiting = time.perf_counter()
            tokens = self._tokens(number)
            data_seconds += time.perf_counter() - waiting
            with self._no_sync(unless=i == len(micro_batches) - 1):
                loss_sum += self._forward_backward(tokens, number)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        # A gradient that is not finite is the scaler's business under fp16: it skips the step and lowers its scale.
        self._check_finite(loss_sum if self.scaler.is_enabled() else loss_sum + norm, step)
        overflow = not math.isfinite(float(norm))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.step = step

        loss_mean = self.world.sum([loss_sum.item()])[0] / (len(micro_batches) * self.world.size)
        seconds = time.perf_counter() - started
        step_tokens = self.config.global_batch * self.experiment.model.context_length
        figures = {
            "tokens": step * step_tokens,
            "loss": loss_mean,
            "learning_rate": rate,
            "gradient_norm": finite(float(norm)),
            "seconds": round(seconds, 5),
            "tokens_per_second": round(step_tokens / seconds, 1),
            "data_wait": round(data_seconds / seconds, 5),
            "memory_bytes": memory_bytes(self.world.device),
        }
        if self.peak:
            flops = step_tokens * flops_per_token(self.experiment.model, self.tokenizer.vocab_size)
            figures["mfu"] = round(flops / seconds / (self.peak * self.world.size), 4)
        if overflow:
            figures["overflow"] = True
        if self.metrics:
            self.metrics.write("train", step, **figures)
        return figures

    def _forward_backward(self, tokens: torch.Tensor, micro_batch: int) -> torch.Tensor:
        """Add one micro-batch's gradient, divided by the number of this rank's in the step. Returns the loss."""
        self._seed(_dropout_seed(self.experiment.seed, self.step + 1, micro_batch))
        with autocast(self.world.device, self.config.precision):
            loss = self.forward(tokens[:, :-1], tokens[:, 1:])
            self.scaler.scale(loss / len(self._micro_batches())).backward()
        return loss.detach()

    def _seed(self, seed: int) -> None:
        """`torch.manual_seed` formats a traceback for each kind of device that is not in use: milliseconds, as much as
        a tiny step takes on a CPU."""
        if self.world.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

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

    # --- what is measured --------------------------------------------------------------------------

    def start_recording(self, **figures: Any) -> None:
        if self.world.main:
            self.metrics = Metrics(self.run.metrics)
            self.metrics.write("start", self.step, **figures)

    def asked_to_stop(self, bar: Bar) -> bool:
        """Whether any rank was asked to stop. Waits, all ranks together, while the metrics cannot be written."""
        while True:
            trouble = self.metrics.trouble if self.metrics else ""
            stop, waiting = self.world.sum([float(self.stop.requested), float(bool(trouble))])
            if waiting or "waiting" in bar.fields:
                bar.update(self.step, waiting=f"for room ({trouble})" if trouble else None)
            if stop or not waiting:
                return stop > 0
            time.sleep(RETRY_SECONDS)
            if self.metrics:
                self.metrics.flush()

    def show(self, bar: Bar, figures: dict[str, Any]) -> None:
        bar.update(
            self.step,
            loss=f"{figures['loss']:.3f}",
            lr=f"{figures['learning_rate']:.2e}",
            **{"tokens/s": f"{figures['tokens_per_second']:,.0f}"},
        )

    # --- validation -------------------------------------------------------------------------------

    def validation_due(self) -> bool:
        new = self.step not in self.validated or self.best_is_gone
        return self.step > 0 and self.experiment.validates_after(self.step) and new

    def validate(self) -> None:
        """Measure, show samples, keep the best model. Does nothing if a stop was requested before it was done."""
        started = time.perf_counter()
        config = self.experiment.validate_
        with torch.compiler.set_stance("force_eager"):  # every length but training's would be compiled
            result = evaluate(
                self.model,
                self.data,
                self.tokenizer,
                context_length=self.experiment.model.context_length,
                tokens_per_source=config.tokens,
                batch=config.batch,
                world=self.world,
                stop=self.stop,
                precision=self.config.precision,
            )
        if result is None:
            return
        loss = result["overall"]["loss"]
        known = self.step in self.validated  # and only measured again because the best model is gone
        self.validated[self.step] = loss
        self.best_is_gone = False
        self.best = self.world.from_main(lambda: self._keep_best(loss))
        if self.metrics and not known:
            # A sample changes no weight, so it may use what has no deterministic way, as the cumsum of GPUs.
            with torch.compiler.set_stance("force_eager"), determinism(False):
                continuations = complete(self.model, self.tokenizer, list(config.prompts), config.sample_tokens, seed=0)
            samples = [
                {"prompt": prompt, "continuation": text}
                for prompt, text in zip(config.prompts, continuations, strict=True)
            ]
            figures = {name: None if x is None else round(x, 6) for name, x in result["overall"].items()}
            self.metrics.write(
                "validation",
                self.step,
                **figures,
                languages=result["languages"],
                samples=samples,
                seconds=round(time.perf_counter() - started, 3),
            )
            self._log_validation(figures, samples)
        self.world.barrier()

    def _log_validation(self, figures: dict[str, Any], samples: list[dict[str, str]]) -> None:
        best = "the best so far" if self.best and self.best.step == self.step else "not the best"
        shown = {name: "not finite" if value is None else f"{value:.4f}" for name, value in figures.items()}
        log.info(
            "step %d: validation loss %s, %s bits per byte (%s)", self.step, shown["loss"], shown["bits_per_byte"], best
        )
        for sample in samples:
            log.info("step %d: sample %r → %r", self.step, sample["prompt"], sample["continuation"])

    def _keep_best(self, loss: float | None) -> "Best | None":
        """Write the model if it is better than the best one on disk. Returns which one is there then."""
        # One that this attempt has not seen whole, at its start or by writing it, may have the sizes and not the bytes.
        former = self._best_on_disk(checksums=self.best is None)
        if self.best and former is None:
            log.warning("%s is gone or damaged: the model of step %d takes its place", self.run.best, self.step)
        if loss is None or (former is not None and loss >= former.loss):
            return former
        about = Best(self.step, loss, fingerprint(self.trajectory))
        try:
            save_model(self.run.best, self.model, self.tokenizer_path, **asdict(about))
        except OSError as error:
            log.error("best model of step %d not saved: %s; the former one, if any, stays", self.step, error)
        return self._best_on_disk()

    def _best_on_disk(self, *, checksums: bool = False) -> "Best | None":
        """The best model so far, as its manifest tells: what could not be written, or was deleted, does not count."""
        try:
            manifest = read_manifest(self.run.best, checksums=checksums)
            best = Best(**{field.name: manifest[field.name] for field in fields(Best)})
        except (CorruptError, KeyError) as error:
            if self.run.best.exists():
                log.warning("the best model is passed over: %s", error)
            return None
        return best if best.trajectory == fingerprint(self.trajectory) else None

    # --- checkpoints ------------------------------------------------------------------------------

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        if self.world.main:
            make_directory(self.run.checkpoints)
            remove_leftovers(self.run.checkpoints)
            remove_leftovers(self.run.path)
        # Rank 0 decides: on a slow shared file system the ranks could see different directories.
        state = self.world.from_main(self.checkpoints.newest_whole)
        if state is not None:
            self._check_same_training(state)
            self.step = self.saved = state["step"]
            self.checkpoints.load(self.step, self.model, self.optimizer)
            self.scaler.load_state_dict(state["scaler"])
            log.info("resumed from the checkpoint of step %d", self.step)
        records = self.world.from_main(lambda: cut_back(self.run.metrics, self.step))
        self.validated = {record["step"]: record["loss"] for record in records if record["kind"] == "validation"}
        self.best = self.world.from_main(lambda: self._best_on_disk(checksums=True))
        self.best_is_gone = self.best is None
        if self.validated and self.best_is_gone:
            log.warning("%s is gone or damaged: the next validation writes it anew", self.run.best)

    def _check_same_training(self, state: dict[str, Any]) -> None:
        if state["trajectory"] == self.trajectory:
            return
        changed = differences(state["trajectory"], self.trajectory)
        raise UserError(
            f"{self.run.checkpoints}: step {state['step']} was trained with other settings ({'; '.join(changed)}): "
            f"take another name=…, or `sllm submit`, which sets the former training aside and starts anew"
        )

    def checkpoint_due(self) -> bool:
        due = self.step % self.config.checkpoint.every == 0 or self.step == self.config.max_steps
        return due and self.step > self.saved

    def save(self) -> None:
        """Commit a checkpoint on rank 0 while the others wait. A full disk costs this checkpoint, not the training."""
        if self.step <= self.saved:
            return
        self.saved = self.step
        if self.metrics:
            self._save(self.metrics)
        self.world.barrier()

    def _save(self, metrics: Metrics) -> None:
        started = time.perf_counter()
        state = {"trajectory": self.trajectory, "scaler": self.scaler.state_dict(), "world_size": self.world.size}
        try:
            if metrics.trouble:
                raise OSError(f"the metrics up to it are not written ({metrics.trouble})")
            metrics.sync()  # a resume from this step must find the steps before it
            self.checkpoints.save(self.step, self.model, self.optimizer, state)
        except OSError as error:
            log.error("checkpoint of step %d not saved: %s; the one before stays the newest", self.step, error)
            return
        seconds = round(time.perf_counter() - started, 3)
        metrics.write("checkpoint", self.step, seconds=seconds)
        log.info("step %d: checkpoint saved in %.1f s", self.step, seconds)
        self.checkpoints.prune(self.step)

    def summary(self, outcome: str) -> dict[str, Any]:
        return {
            "outcome": outcome,
            "step": self.step,
            "validation_loss": self.validated.get(self.step),
            "best_step": self.best.step if self.best else None,
            "best_validation_loss": self.best.loss if self.best else None,
        }


def _dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    return int(np.random.SeedSequence([seed, step, micro_batch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
