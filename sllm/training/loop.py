"""The training loop: `train` is the whole story. `Training` holds what a run keeps; a step is the `Trainer`'s.

A fine-tuning is the same, with other data (of conversations, the answers are learnt) and other weights to begin with.
A resumed run goes on as if nothing had happened: bit for bit, on the same number of ranks and on any other.
"""

import contextlib
import gc
import logging
import time
from pathlib import Path
from typing import Any

import torch

from sllm.artifacts import Artifacts, differences, steps_before_the_end
from sllm.config import Experiment
from sllm.device import arithmetic, determinism, deterministic, device_name
from sllm.distributed import connect
from sllm.errors import UserError
from sllm.evaluation.loss import continuations, evaluate, replies
from sllm.files import fingerprint, make_directory, remove_leftovers
from sllm.model.storage import load_model
from sllm.origin import TOKENIZER
from sllm.progress import Bar, track
from sllm.run_directory import RunDirectory, checkpoint_path
from sllm.stop import StopFlag
from sllm.training.best import BestModel
from sllm.training.checkpoint import Checkpoints, restore
from sllm.training.metrics import Metrics, cut_back
from sllm.training.profile import profiled
from sllm.training.saver import Saver, Saving
from sllm.training.schedule import Schedule, seconds_between_failures
from sllm.training.trainer import TakenStep, Trainer, warm_up
from sllm.training.wandb_mirror import mirror_to_wandb

log = logging.getLogger(__name__)

COMPARE_EVERY = 100
"""Steps between comparisons of the ranks' weights, which are one pass over them; each checkpoint is preceded by one."""

RETRY_SECONDS = 1.0
"""How long to wait before metrics that the disk had no room for are written again."""

PRETRAIN = "pretrain"
"""The stage whose files are the run's own; those of a fine-tuning have a folder in it."""

FIRST_STEPS = 2
"""After them, what is there is there for good: Python's collector, which looks for what is not, shall pass it over."""


def train(
    experiment: Experiment, run: RunDirectory, artifacts: Artifacts, stop: StopFlag, stage: str = PRETRAIN
) -> dict[str, Any]:
    """Train to `max_steps`, or to the step at which a stop is requested; go on from the newest whole checkpoint.

    The stage is pretrain, or finetune, for which `experiment` is that of its `tuning()`. Every rank calls this. Returns
    a summary whose `outcome` is "finished" or "stopped".

    Raises:
        UserError: the data, the tokenizer or the checkpoints do not fit the experiment, or the loss diverged.
    """
    with connect() as world, contextlib.ExitStack() as stack:
        stack.enter_context(deterministic(world.device))
        packed = artifacts.packed if stage == PRETRAIN else artifacts.conversations
        trainer = stack.enter_context(contextlib.closing(Trainer(experiment, artifacts, world, packed)))
        training = Training(trainer, run, artifacts, stop, stage)
        stack.callback(gc.unfreeze)
        loading = time.perf_counter()
        training.resume()
        stack.callback(training.saver.close)
        if trainer.step < experiment.train.max_steps:
            warm_up(trainer)
            training.know_arithmetic()  # an attention may have been given up
        profile = experiment.train.profile
        if profile is not None and profile <= trainer.step:
            log.info("train.profile: step %d was taken before, and is not profiled", profile)
        training.start_recording(seconds=round(time.perf_counter() - loading, 3), device=device_name(world.device))
        if world.main:
            stack.enter_context(mirror_to_wandb(experiment, training.run))
        training.bar = stack.enter_context(track(stage, experiment.train.max_steps, "steps", start=trainer.step))
        while True:
            if training.asked_to_stop():
                training.save_last()
                return training.summary("stopped")
            if training.checkpoint_due():
                training.save()
            elif training.validation_due():
                training.validate()  # a stop that is asked for meanwhile leaves it to the resume
            elif trainer.step == experiment.train.max_steps:
                training.save_last()
                training.require_last()
                return training.summary("finished")
            else:
                training.take_step()


class Training:
    """A trainer, and what its run keeps of it: metrics, validation losses, the best model, checkpoints."""

    def __init__(
        self, trainer: Trainer, run: RunDirectory, artifacts: Artifacts, stop: StopFlag, stage: str = PRETRAIN
    ) -> None:
        self.trainer, self.whole_run, self.run, self.stop = trainer, run, run.training(stage), stop
        self.experiment, self.world = trainer.experiment, trainer.world
        self.trajectory, self.tuning = artifacts.keys[stage], stage != PRETRAIN
        run = self.run
        self.metrics: Metrics | None = None  # of rank 0
        self.bar: Bar | None = None
        self.unread: list[TakenStep] = []  # steps whose figures are not known yet
        self.validated: dict[int, float | None] = {}  # step → validation loss, of this run so far
        mine = fingerprint(self.trajectory)
        self.best = BestModel(run.best, artifacts.tokenizer / TOKENIZER, mine, tuned=self.tuning)
        self.best_is_gone = False
        # Where the decay starts: from there on the training can be made longer or shorter.
        self.branch = steps_before_the_end(self.trajectory)
        checkpoint = self.experiment.train.checkpoint
        self.checkpoints = Checkpoints(run.checkpoints, checkpoint, keep=self.branch, tuned=self.tuning)
        self.origin: str | None = None  # train.init_from, as long as no step was saved since
        self.taken = 0  # steps of this attempt
        self.saved = 0  # the last step that a checkpoint was tried at
        self.clock_says_save = False
        self.know_arithmetic()

    @property
    def step(self) -> int:
        return self.trainer.step

    def know_arithmetic(self) -> None:
        mine = arithmetic(self.world.device) + (f", {self.trainer.attention}" if self.trainer.attention else "")
        self.arithmetic = sorted(set(self.world.gather(mine)))

    def summary(self, outcome: str) -> dict[str, Any]:
        best = self.best.known
        return {
            "outcome": outcome,
            "step": self.step,
            "validation_loss": self.validated.get(self.step),
            "best_step": best.step if best else None,
            "best_validation_loss": best.loss if best else None,
        }

    # --- what is measured -------------------------------------------------------------------------

    def start_recording(self, **figures: Any) -> None:
        if self.world.main:
            self.metrics = Metrics(self.run.metrics)
        self.record("start", **figures, **({"init_from": self.origin} if self.origin else {}))

    def record(self, kind: str, **figures: Any) -> None:
        if self.metrics:
            self.metrics.write(kind, self.step, **figures)

    def take_step(self) -> None:
        with contextlib.ExitStack() as stack:
            if self.world.main and self.step + 1 == self.experiment.train.profile:
                stack.enter_context(profiled(checkpoint_path(self.run.profile, self.step + 1), self.world.device))
            self.unread.append(self.trainer.train_step())
        if self.step % COMPARE_EVERY == 0:
            self.settle()
            self.trainer.check_ranks_agree()
        self.taken += 1
        if self.taken == FIRST_STEPS:
            if self.saver.snapshot:
                self.saver.snapshot.allocate(self.trainer.model, self.trainer.optimizers)
            gc.collect()
            gc.freeze()

    def asked_to_stop(self) -> bool:
        """Whether any rank was asked to stop: what the ranks agree on once a step, at which they also tell each other
        the figures of the step before the last. The last is still computed, on a GPU.

        Waits, all ranks together, while the metrics cannot be written; and goes on with the checkpoint that is being
        written, once all ranks have done their part of it.
        """
        while True:
            trouble = self.metrics.trouble if self.metrics else ""
            due = self.world.main and self.schedule.due()
            flags = self.stop.requested, bool(trouble), not self.saver.ready, due
            stop, waiting, writing, self.clock_says_save = self._agree(self.unread[:-1], *flags)
            if not writing:
                self.saver.advance()
            if self.bar and (waiting or "waiting" in self.bar.fields):
                self.bar.update(self.bar.completed, waiting=f"for room ({trouble})" if trouble else None)
            if stop or not waiting:
                return stop
            time.sleep(RETRY_SECONDS)
            if self.metrics:
                self.metrics.flush()

    def settle(self) -> None:
        """Wait for the steps that were taken, and record them."""
        if self.unread:
            self._agree(self.unread)

    def _agree(self, steps: list[TakenStep], *flags: bool) -> list[bool]:
        """Which of the flags any rank has raised. Records the steps."""
        found = self.world.sum([*map(float, flags), *(figure for taken in steps for figure in taken.mine())])
        figures = found[len(flags) :]
        self.unread = self.unread[len(steps) :]
        for taken in steps:
            of_step, figures = figures[: len(taken.figures) - 1], figures[len(taken.figures) - 1 :]
            self._record_step(taken.step, self.trainer.read(taken, of_step))
        return [flag > 0 for flag in found[: len(flags)]]

    def _record_step(self, step: int, figures: dict[str, Any]) -> None:
        if self.metrics:
            self.metrics.write("train", step, **figures)
        if self.bar:
            shown = {"tokens/s": f"{figures['tokens_per_second']:,.0f}"}
            self.bar.update(step, loss=f"{figures['loss']:.3f}", lr=f"{figures['learning_rate']:.2e}", **shown)

    # --- validation -------------------------------------------------------------------------------

    def validation_due(self) -> bool:
        new = self.step not in self.validated or self.best_is_gone
        return self.step > 0 and self.experiment.validates_after(self.step) and new

    def validate(self) -> None:
        """Measure, keep the best model, show samples. Does nothing if a stop was requested before it was measured."""
        self.settle()
        started = time.perf_counter()
        result = self._measure()
        if result is None:
            return
        known = self.step in self.validated  # and only measured again because the best model is gone
        self._keep_best(result)
        if self.metrics and not known:
            self._tell(result, self._samples(), started)
        self.world.barrier()

    def _measure(self) -> dict[str, Any] | None:
        config = self.experiment.validate_
        with torch.compiler.set_stance("force_eager"):  # every length but training's would be compiled
            return evaluate(
                self.trainer.model,
                self.trainer.data,
                self.trainer.tokenizer,
                tokens_per_source=config.tokens,
                batch=config.batch,
                world=self.world,
                stop=self.stop,
                precision=self.experiment.train.precision,
            )

    def _keep_best(self, result: dict[str, Any]) -> None:
        loss = self.validated[self.step] = result["overall"]["loss"]
        self.best_is_gone = False
        known, saving = self.best.known, self.saver.saving
        if saving and saving.step == self.step and loss is not None and (known is None or loss < known.loss):
            self.saver.finish()  # the best model is a link to it
        checkpoint = self.checkpoints.path(self.step)
        self.best.known = self.world.from_main(
            lambda: self.best.keep(self.step, loss, self.trainer.model, checkpoint, result)
        )

    def _samples(self) -> list[dict[str, str]]:
        config = self.experiment.validate_
        # A sample changes no weight, so it may use what has no deterministic way, as the cumsum of GPUs.
        with torch.compiler.set_stance("force_eager"), determinism(False):
            go_on = replies if self.tuning else continuations
            return go_on(self.trainer.model, self.trainer.tokenizer, config.prompts, config.sample_tokens)

    def _tell(self, result: dict[str, Any], samples: list[dict[str, str]], started: float) -> None:
        figures = {name: None if x is None else round(x, 6) for name, x in result["overall"].items()}
        seconds = round(time.perf_counter() - started, 3)
        self.record("validation", **figures, languages=result["languages"], samples=samples, seconds=seconds)
        best = "the best so far" if self.best.known and self.best.known.step == self.step else "not the best"
        shown = {name: "not finite" if value is None else f"{value:.4f}" for name, value in figures.items()}
        log.info(
            "step %d: validation loss %s, %s bits per byte (%s)", self.step, shown["loss"], shown["bits_per_byte"], best
        )
        for sample in samples:
            log.info("step %d: sample %r → %r", self.step, sample["prompt"], sample["continuation"])

    # --- checkpoints ------------------------------------------------------------------------------

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        if self.world.main:
            make_directory(self.run.path)
            make_directory(self.run.checkpoints)
            remove_leftovers(self.run.checkpoints)
            remove_leftovers(self.run.path)
        # Rank 0 decides, and sends what it has read: ranks on other nodes may see other files, or not these yet.
        found = self.checkpoints.newest_whole() if self.world.main else None
        state = self.world.from_main(lambda: found and found.state)
        if state is not None:
            self._check_same_training(state)
            self.trainer.step = self.saved = state["step"]
            weights = self.world.tensors_from_main(found.weights if found else {})
            optimizer = self.world.tensors_from_main(found.optimizer if found else {})
            where = self.checkpoints.path(self.step)
            restore(self.trainer.model, self.trainer.optimizers, weights, optimizer, where)
            if state["scaler"]:  # else it begins
                self.trainer.scaler.load_state_dict(state["scaler"])
            self.origin = state.get("init_from")
            log.info("resumed from the checkpoint of step %d%s", self.step, f", {self.origin}" if self.origin else "")
        elif self.tuning:
            self._begin_with(self.whole_run.best)
        elif self.trajectory["train"].get("init_from"):
            raise UserError(
                f"{self.run.checkpoints}: no whole checkpoint, and this training starts from a model: delete what is "
                f"left there, and `sllm submit` copies the model again"
            )
        before = state.get("arithmetic", self.arithmetic) if state else self.arithmetic
        if len(kinds := {*before, *self.arithmetic}) > 1:
            log.warning("a resume is exact on processors of one kind only, not on: %s", "; ".join(sorted(kinds)))
        self.saver = Saver(self.checkpoints, self.world, self._sync, self._saved)
        failures = (
            seconds_between_failures(self.whole_run.ledger, self.best.trajectory, self.step) if self.world.main else 0.0
        )
        self.schedule = Schedule(self.experiment.train.checkpoint, failures)
        records = self.world.from_main(lambda: cut_back(self.run.metrics, self.step))
        self.validated = {record["step"]: record["loss"] for record in records if record["kind"] == "validation"}
        self.best.known = self.world.from_main(lambda: self.best.on_disk(checksums=True))
        self.best_is_gone = self.best.known is None
        if self.validated and self.best_is_gone and not self.origin:
            log.warning(
                "%s is gone or damaged, or of a training of another length: the next validation writes it anew",
                self.run.best,
            )

    def _begin_with(self, best: Path) -> None:
        """The weights of a model, on every rank."""
        weights = load_model(best).state_dict() if self.world.main else {}
        weights = self.world.tensors_from_main(weights)
        restore(self.trainer.model, self.trainer.optimizers, weights, {}, best)

    def _check_same_training(self, state: dict[str, Any]) -> None:
        if state["trajectory"] == self.trajectory:
            return
        changed = differences(state["trajectory"], self.trajectory)
        raise UserError(
            f"{self.run.checkpoints}: step {state['step']} was trained with other settings ({'; '.join(changed)}): "
            f"take another name=…, or `sllm submit`, which sets the former training aside and starts anew"
        )

    def checkpoint_due(self) -> bool:
        config, last = self.experiment.train.checkpoint, self.experiment.train.max_steps
        if isinstance(config.every, int):
            due = self.step % config.every == 0
        else:  # a validated step, so that the best model is a link; by the clock, when the one before is written
            kept = config.keep_every is not None and self.step % config.keep_every == 0
            due = kept or self.experiment.validates_after(self.step) or (self.clock_says_save and not self.saver.saving)
        return (due or self.step in (self.branch, last)) and self.step > self.saved

    def save(self, *, last: bool = False) -> None:
        """Begin a checkpoint, which is written while the training goes on. A full disk costs it, not the training. The
        `last` one takes the place of an older one that is still being written."""
        self.settle()
        began = time.perf_counter()
        if last:
            self.saver.cancel()
        self.trainer.check_ranks_agree()
        self.saved = self.step
        state = {
            "trajectory": self.trajectory,
            "scaler": self.trainer.scaler.state_dict(),
            "world_size": self.world.size,
            "arithmetic": self.arithmetic,
        }
        self.saver.start(self.step, self.trainer.model, self.trainer.optimizers, state, began)
        self.trainer.copied = self.saver.snapshot.copied if self.saver.snapshot else None
        self.schedule.began()

    def save_last(self) -> None:
        """Before the training ends here."""
        if self.step > self.saved:
            self.save(last=True)
        self.saver.finish()

    def require_last(self) -> None:
        """Raises UserError, on every rank, if the checkpoint of this step, which was the last, could not be saved."""
        if not self.world.from_main(self.checkpoints.path(self.step).is_dir):
            raise UserError(
                f"{self.run.checkpoints}: the checkpoint of the last step, {self.step}, could not be saved (the log "
                f"says why); make room there and submit again: the steps since the one before are then taken anew"
            )

    def _sync(self) -> None:
        assert self.metrics
        if self.metrics.trouble:
            raise OSError(f"the metrics up to it are not written ({self.metrics.trouble})")
        self.metrics.sync()

    def _saved(self, saving: Saving) -> None:
        assert self.metrics
        seconds, stall = round(saving.seconds, 3), round(saving.stall, 3)
        self.schedule.saved(stall, seconds)
        self.metrics.write("checkpoint", saving.step, seconds=seconds, stall=stall)
        log.info("step %d: checkpoint saved in %.1f s, training stood for %.2f s", saving.step, seconds, stall)
