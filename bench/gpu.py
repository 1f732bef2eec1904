"""What only a GPU can show, in one command: `python bench/gpu.py`. Six to seven minutes on one H100.

Is a step deterministic at the real shapes; does a training that was killed or stopped, at the worst moments too, that
skipped steps under fp16, or that went on on another number of ranks end in the same bits; what do exact sums cost; how
fast are training and decoding; how long does a checkpoint stall; where does a step's time go. Each check is a process
of its own and prints what it finds as it finds it. What fails is named, and the next check goes on. Writes
gpu-DATE.json and gpu-DATE.md, the prediction beside the measurement. Data are random tokens and the generator's text:
no network. On a CPU everything is tiny, to see that the script works.
"""

import argparse
import contextlib
import functools
import gc
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import yaml
from side_by_side import random_experiment, shape, take_turns

from jobs.launch.prepare import commit
from sllm.artifacts import Artifacts
from sllm.config import ModelConfig
from sllm.device import deterministic, device_name, synchronize
from sllm.distributed import World
from sllm.errors import UserError
from sllm.files import write_json, write_text
from sllm.inference.decode import prepare, recorder
from sllm.model.attention import FLASH_3, FLEX, causal_mask, flash_3
from sllm.model.families import make_model
from sllm.model.shared import visible
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory, checkpoint_path
from sllm.speed import bytes_of_a_step, measure_generation, timed
from sllm.stop import StopFlag
from sllm.tensors import checksums
from sllm.training.exact import GradientSum
from sllm.training.loop import Training
from sllm.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")

SECONDS = 480
"""That all checks together may take."""

BANDWIDTH = 3.35e12
"""Bytes a second that an H100's memory moves, by its data sheet."""

# What is expected, written down before it is measured: as measured on 2026-11-27, plus what has changed since.
PREDICTED = {
    "machine": "bf16 product 773 TFLOP/s, copy 2.95 TB/s",
    "speed default 16": "162,000 tokens/s, 43 %, with FlexAttention; 178,000, 47 %, with FlashAttention 3; 41 GB",
    "speed default dropout": "150,000 tokens/s, 40 %: flash attention, dropout 0.1",
    "speed small 16": "390,000 tokens/s, 35 %, with FlexAttention; 18 GB",
    "profile default": "of four micro-batches: products 348, attention 224 (Flex), compiled 210, loss 16, sums 11",
    "attention 64 own": "2.7 ms, 179 TFLOP/s, equal",
    "attention 64 conversations": "8–14 ms, 35–60 TFLOP/s, equal: the memory-efficient kernel, a mask for each head",
    "attention 64 FlexAttention": "2.3 ms, 206 TFLOP/s, equal",
    "attention 64 FlashAttention 3": "1.6 ms, 300 TFLOP/s, equal",
    "attention 128 FlashAttention 3": "1.4 ms, 350 TFLOP/s, equal",
    "checkpoint default": "training stands 0.1 s, durable after 9–10 s",
    "checkpoint small": "training stands 0.1 s, durable after 3 s",
    "speed modern 16": "135,000–160,000 tokens/s: as many FLOPs as default, heads of 128, no dropout, more norms",
    "Muon modern": "15–25 ms of kernels, 25–40 in all: 1 % of a step of 2^19 tokens",
    "AdamW default": "3 ms",
    "decoding default 1": "900–1,300 tokens/s: one CUDA graph of 320 kernels, 2 to 5 µs each",
    "decoding default 1 compiled": "1,100–1,600 tokens/s: a quarter of the kernels less",
    "decoding default 8": "7,000–10,000 tokens/s",
    "decoding default 32": "22,000–35,000 tokens/s",
    "decoding modern 1": "600–900 tokens/s: norms and rotations of heads are 20 kernels a layer more",
    "decoding modern 1 compiled": "1,000–1,500 tokens/s",
}

Report = Callable[..., None]
"""`report(name, passed, **figures)`: one line of the table; `passed` is None where there is nothing to pass."""


# --- training at the real shapes --------------------------------------------------------------------


MODERN = {"family": "qwen3", "tie_embeddings": False, "dropout": 0.0}
MUON = {"optimizer": "muon", "learning_rate": 0.01, "rates": {"embedding": 0.1, "head": 0.8, "vectors": 1e-3}}


def shape_of(name: str) -> tuple[ModelConfig, int]:
    """That of `configs/<name>.yaml` without dropout, a tiny one on a CPU; `modern` has Qwen3's blocks, an output layer
    of its own and the parameters of `default` within its blocks."""
    like = "default" if name == "modern" else name
    model, vocab_size = shape(like) if GPU else (shape("mini")[0].model_copy(update={"context_length": 64}), 512)
    if name == "modern":
        heads = {"n_heads": model.d_model // 128, "n_kv_heads": model.d_model // 256}
        model = model.model_copy(update={**MODERN, **heads, "d_ff": 3 * model.d_model})
    return model.model_copy(update={"dropout": 0.0}), vocab_size


def trainer_of(name: str, place: Path, dropout: float = 0.0, **train: Any) -> Trainer:
    """A trainer of a shape over random tokens; of `modern` with Muon."""
    model, vocab_size = shape_of(name)
    model = model.model_copy(update={"dropout": dropout})
    train = {**(MUON if name == "modern" else {}), **train}
    micro_batch = train.setdefault("micro_batch", 16)
    tokens, train = 8_000_000 if GPU else 50_000, {"global_batch": 4 * micro_batch, **train}
    experiment = random_experiment(name, place, model, vocab_size, tokens, **train)
    return Trainer(experiment, Artifacts(experiment), World(0, 1, 0, DEVICE))


def try_determinism(trainer: Trainer, name: str, report: Report) -> None:
    started = time.perf_counter()
    try:
        trainer.check_determinism()
    except UserError as error:
        report(name, False, says=str(error))
    else:
        report(name, True, seconds=round(time.perf_counter() - started, 1))


def try_speed(trainer: Trainer, name: str, report: Report, steps: int = 3) -> float:
    """Steps of four micro-batches, as training takes them. Returns the seconds of one."""
    for _ in range(2):
        trainer.train_step()
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    taken = [trainer.train_step() for _ in range(steps)]
    figures = [trainer.read(step, step.mine()) for step in taken]
    middle = sorted(figures, key=lambda figure: figure["seconds"])[steps // 2]
    shown = {key: middle[key] for key in ("seconds", "tokens_per_second", "data_wait", "memory_bytes", "loss")}
    report(name, None, mfu=middle.get("mfu"), attention=trainer.attention or "PyTorch's own", **shown)
    return float(middle["seconds"])


def training(name: str, place: Path, report: Report, more: bool = False) -> None:
    """Determinism and speed of one shape, compiled, and what its parts take; `more`: eager and under fp16 too."""
    micro_batch = 16 if GPU else 2
    with deterministic(DEVICE):
        with skip_what_fails(name, report):
            trainer = trainer_of(name, place, micro_batch=micro_batch, precision="bf16", compile=GPU)
            try_determinism(trainer, f"determinism {name}", report)
            seconds = try_speed(trainer, f"speed {name} {micro_batch}", report)
            exact_sums(trainer, name, seconds, report)
            profile(trainer, name, report)
            stall(trainer, name, report)
            optimizers(trainer, name, seconds, report)
        if not more:
            return
        trainer = None  # type: ignore[assignment]  # its memory is the next one's
        clean()
        with skip_what_fails(f"{name} eager", report):
            trainer = trainer_of(name, place, micro_batch=micro_batch, precision="bf16", compile=False)
            try_determinism(trainer, f"determinism {name} eager", report)
        trainer = None  # type: ignore[assignment]
        clean()
        with skip_what_fails(f"{name} dropout", report):
            trainer = trainer_of(name, place, dropout=0.1, micro_batch=micro_batch, precision="bf16", compile=GPU)
            try_determinism(trainer, f"determinism {name} dropout", report)
            try_speed(trainer, f"speed {name} dropout", report, steps=1)
        trainer = None  # type: ignore[assignment]
        clean()
        with skip_what_fails(f"{name} fp16", report):
            trainer = trainer_of(name, place, micro_batch=micro_batch, precision="fp16", compile=GPU)
            try_determinism(trainer, f"determinism {name} fp16", report)


def exact_sums(trainer: Trainer, name: str, step_seconds: float, report: Report) -> None:
    """Milliseconds of adding one micro-batch's gradients as integers, and of making them floats again at the end of a
    step, beside what moving their bytes takes; and the shares of a micro-batch and of a step of four."""
    # Bytes an element: the largest is looked for (4), × (4 + 4), rounded (4 + 4), to int64 (4 + 8), added (8 + 8 + 8);
    # or the same without what lies between. Then zeroed (8), to fp32 (8 + 4) and divided (4 + 4).
    for way, moved in {"eager": 56, "compiled": 28}.items() if GPU else [("eager", 56)]:
        parameters = list(trainer.model.parameters())
        elements = sum(parameter.numel() for parameter in parameters)
        adding, converting = milliseconds_of_sums(GradientSum(parameters, 4, way == "compiled", None))
        figures = {
            "add ms": round(adding, 2),
            "add ms predicted": round(1000 * elements * moved / BANDWIDTH, 2),
            "convert ms": round(converting, 2),
            "convert ms predicted": round(1000 * elements * 28 / BANDWIDTH, 2),
            "of a micro-batch": round(adding / (1000 * step_seconds / 4), 4),
            "of a step": round((4 * adding + converting) / (1000 * step_seconds), 4),
            "sums GB": round(8 * elements / 1e9, 2),
        }
        report(f"exact sums {name} {way}", None, **figures)
        trainer.model.zero_grad()


def optimizers(trainer: Trainer, name: str, step_seconds: float, report: Report) -> None:
    """Milliseconds of each optimizer: of its kernels, and until they are done where nothing hides their launching;
    and the share of a step of 2¹⁹ tokens, which some steps of this one make."""
    tokens = trainer.experiment.train.global_batch * trainer.experiment.model.context_length
    for parameter in trainer.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    for optimizer in trainer.optimizers:
        whole = 1000 * median_seconds(optimizer.step)
        figures = {
            "kernels ms": round(milliseconds(optimizer.step), 2),
            "whole ms": round(whole, 2),
            "of a step of 2^19 tokens": round(whole / (1000 * step_seconds * 2**19 / tokens), 4),
        }
        report(f"{type(optimizer).__name__} {name}", None, **figures)
    trainer.model.zero_grad()


def milliseconds_of_sums(sums: GradientSum) -> tuple[float, float]:
    gradients = {parameter: torch.zeros_like(parameter) for parameter in sums.sums}  # of whatever value

    def add() -> None:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        sums.add()

    def convert() -> None:
        sums.begin(1.0)
        sums.finish()

    sums.begin(1.0)
    return milliseconds(add), milliseconds(convert)


def milliseconds(work: Callable[[], object]) -> float:
    """The median of some. On a GPU of the kernels alone: they wait in a queue, as they do in a step."""

    def queued() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(100_000_000)  # cycles: some 50 ms, in which the work is launched
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    if not GPU:
        return 1000 * median_seconds(work)
    return statistics.median([queued() for _ in range(6)][1:])


def profile(trainer: Trainer, name: str, report: Report) -> None:
    """Milliseconds of one step by kind of kernel, and the longest kernels."""
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if GPU else activity.CPU]) as seen:
        trainer.train_step()
        synchronize(DEVICE)
    spent = [
        (event.key, event.self_device_time_total if GPU else event.self_cpu_time_total, event.count)
        for event in seen.key_averages()
    ]
    kinds: dict[str, float] = {}
    for kernel, microseconds, _ in spent:
        kinds[kind_of(kernel)] = kinds.get(kind_of(kernel), 0) + microseconds / 1000
    by_time = sorted(kinds.items(), key=lambda item: -item[1])
    report(f"profile {name}", None, **{kind: round(ms, 1) for kind, ms in by_time if ms >= 0.05})
    for kernel, microseconds, count in sorted(spent, key=lambda item: -item[1])[:12]:
        report(f"kernel {name}", None, ms=round(microseconds / 1000, 2), calls=count, kernel=kernel[:100])


def kind_of(kernel: str) -> str:
    names = {
        "flex attention": ("triton_tem",),  # the one template that Triton is given
        "compiled": ("triton",),  # first: the name of a fused kernel tells all that was fused
        "attention": ("flash", "fmha", "sdpa", "attention", "cudnn"),
        "matrix products": ("gemm", "cutlass", "nvjet", "cublas", "mm", "xmma", "splitk"),
        "optimizer": ("multi_tensor", "fusedadam", "adam"),
        "copies": ("memcpy", "memset", "copy"),
        "loss": ("softmax", "nll", "cross_entropy"),
        "norms": ("layer_norm", "norm"),
        "dropout": ("dropout",),
    }
    return next((kind for kind, parts in names.items() if any(part in kernel.lower() for part in parts)), "other")


def stall(trainer: Trainer, name: str, report: Report) -> None:
    """How long training stands still for a checkpoint, until when that is durable, and how long a resume reads,
    verifies and loads it."""
    run = RunDirectory(trainer.experiment.run_path)
    kept = Training(trainer, run, Artifacts(trainer.experiment), StopFlag())
    kept.resume()
    kept.start_recording()
    kept.save_last()  # which allocates
    step = timed(trainer.train_step, DEVICE)
    began = time.perf_counter()
    longer = timed(lambda: (kept.save(), trainer.train_step()), DEVICE) - step  # type: ignore[func-returns-value]
    kept.saver.finish()
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in kept.checkpoints.path(kept.saved).iterdir())
    loading = timed(Training(trainer, run, Artifacts(trainer.experiment), StopFlag()).resume, DEVICE)
    figures = {"stall": longer, "seconds": seconds, "gigabytes": size / 1e9, "resume": loading}
    report(f"checkpoint {name}", None, **{name: round(value, 2) for name, value in figures.items()})


# --- a training that is stopped and killed ------------------------------------------------------------

STEPS, VALIDATED, SAVED = 30, 15, 8
"""So many steps; a validation and a checkpoint every so many."""

Event = Callable[[Callable[..., "Attempt"]], None]
"""What happens to a training before its last attempt: it gets `start`, which starts an attempt."""


def nothing(start: Callable[..., "Attempt"]) -> None:
    """A training that goes straight to its end."""


def killed(start: Callable[..., "Attempt"], steps: tuple[int, ...] = (4, 12, 20), fresh: int = 3) -> None:
    """By kill -9, at so many steps; the first attempts as on another node, where nothing is compiled yet."""
    for number, step in enumerate(steps if GPU else steps[1:2]):
        with contextlib.ExitStack() as stack:
            attempt = start(**(stack.enter_context(empty_cache()) if number < fresh else {}))
            attempt.until(lambda s=step, a=attempt: a.steps() >= s)  # type: ignore[misc]
            attempt.signal(signal.SIGKILL)
            attempt.wait()


@contextlib.contextmanager
def empty_cache() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        yield {"TORCHINDUCTOR_CACHE_DIR": cache}


def stopped_at(start: Callable[..., "Attempt"], step: int) -> None:
    attempt = start()
    attempt.until(lambda: attempt.steps() >= step)
    attempt.signal(signal.SIGTERM)
    attempt.wait()


def stopped_in_compilation(start: Callable[..., "Attempt"]) -> None:
    """With an empty cache, and the signal to every process of the group, compilers among them."""
    with empty_cache() as environment:
        attempt = start(**environment)
        cache = Path(environment["TORCHINDUCTOR_CACHE_DIR"])
        attempt.until(lambda: any(cache.iterdir()) if GPU else attempt.steps() >= 1)
        attempt.signal(signal.SIGTERM)
        attempt.wait()


def stopped_in_validation(start: Callable[..., "Attempt"]) -> None:
    attempt = start()
    attempt.until(lambda: attempt.steps() >= VALIDATED)
    time.sleep(0.05)
    attempt.signal(signal.SIGTERM)
    attempt.wait()


@dataclass(frozen=True)
class Course:
    """A training of the resume check: what happens to it, and the training that it must equal to the last bit."""

    event: Event = nothing
    ranks: tuple[int, ...] = (1,)
    """Of its attempts; those after the last have as many as it."""
    like: str = "straight"
    train: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    @property
    def fp16(self) -> bool:
        return self.train.get("precision") == "fp16"


FP16 = {"precision": "fp16"}
GROUPED = {**MODERN, "n_kv_heads": 1}
COURSES = {
    "straight": Course(),
    "killed": Course(killed),
    "stopped in a step": Course(functools.partial(stopped_at, step=4)),
    "stopped in compilation": Course(stopped_in_compilation),
    "stopped in validation": Course(stopped_in_validation),
    "stopped before validation": Course(functools.partial(stopped_at, step=VALIDATED - 1)),
    "stopped after validation": Course(functools.partial(stopped_at, step=VALIDATED + 1)),
    "two ranks": Course(ranks=(2,)),
    "three ranks": Course(ranks=(3,)),
    "ranks 2, 1, 3, 2": Course(functools.partial(killed, steps=(10, 18, 25), fresh=0), ranks=(2, 1, 3, 2)),
    "fp16": Course(like="fp16", train=FP16),
    # What it compiles itself, and then what bf16 and fp16 have left in the cache: no attempt may take the other's.
    "fp16 killed, then two ranks": Course(functools.partial(killed, fresh=1), (1, 2), like="fp16", train=FP16),
    "modern": Course(like="modern", train=MUON, model=GROUPED),
    "modern killed, then two ranks": Course(
        functools.partial(killed, fresh=1), (1, 2), like="modern", train=MUON, model=GROUPED
    ),
}


def resume(place: Path, report: Report, names: list[str]) -> None:
    """One training straight, and others, of these names, that are stopped and killed or computed by other ranks."""
    started = time.perf_counter()
    signal.signal(signal.SIGTERM, Attempt.end_all)
    data = write_experiment(place, "data")
    cli("submit", data, "--until", "pack", "--on", "here", log=data.with_suffix(".log"))
    report("data prepared", True, seconds=round(time.perf_counter() - started, 1))
    while not (place / "go").exists():  # the real shapes have the GPU to themselves
        time.sleep(0.2)
    wanted = {*names, *(COURSES[name].like for name in names)}
    courses = {name: course for name, course in COURSES.items() if name in wanted}
    runs: dict[str, Future[Path]] = {}
    with ThreadPoolExecutor(len(courses) if GPU else 2) as pool:
        for name, course in courses.items():
            after = runs.get("straight") if course.fp16 else None  # fp16 finds the cache that bf16 has filled
            runs[name] = pool.submit(take, place, name, course, after)
        for name, course in courses.items():
            with skip_what_fails(f"resume: {name}", report):
                run, former = runs[name].result(), runs[course.like].result()
                if name == course.like:
                    report(f"resume: {name}", None, weights=weights_of(run))
                else:
                    report(f"resume: {name}", *compare(run, former, course))
    for name, course in courses.items():
        if course.fp16 and name != course.like:
            with skip_what_fails("fp16: skipped steps", report):
                report("fp16: skipped steps", *skips(runs[name].result()))


def take(place: Path, name: str, course: Course, after: Future[Path] | None) -> Path:
    """Its run directory, once it has ended."""
    if after:
        after.result()
    experiment = write_experiment(place, name, course.model, **course.train)
    shutil.copytree(
        place / "runs" / "data" / "stages", place / "runs" / experiment.stem / "stages"
    )  # its data are done
    ranks = itertools.chain(course.ranks, itertools.repeat(course.ranks[-1]))
    course.event(lambda **environment: Attempt(experiment, next(ranks), **environment))
    attempt = Attempt(experiment, next(ranks))
    if any(codes := attempt.wait()):
        raise RuntimeError(f"{name}: exit {codes}: {tail(attempt.log)}")
    return attempt.run


def write_experiment(place: Path, name: str, model: Mapping[str, Any] = MappingProxyType({}), **train: Any) -> Path:
    size = {"d_model": 512, "n_layers": 8, "n_heads": 8, "d_ff": 2048, "context_length": 1024}
    tiny = {"d_model": 32, "n_layers": 2, "n_heads": 2, "d_ff": 64, "context_length": 64}
    values = {
        "name": re.sub(r"\W+", "-", name),
        "runs_directory": str(place / "runs"),
        "data_directory": str(place / "data"),
        "data": {
            "sources": [
                {"name": f"sample-{language}", "kind": "embedded", "language": language, "megabytes": 4 if GPU else 0.3}
                for language in ("ko", "en")
            ],
            "validation_fraction": 0.1,
            "clean": {"contamination": False},
        },
        "tokenizer": {"vocab_size": 4096 if GPU else 300},
        "model": {**(size if GPU else tiny), "dropout": 0.1, **model},
        "train": {
            "max_steps": STEPS,
            "global_batch": 24,  # six micro-batches, for one, two or three ranks
            "micro_batch": 4,
            "warmup_steps": 5,
            "learning_rate": 1e-3,
            "precision": "bf16",
            "compile": GPU,
            "checkpoint": {"every": SAVED},
            **train,
        },
        "validate": {"every": VALIDATED, "tokens": 200_000 if GPU else 20_000, "prompts": ["오늘", "In the"]},
        "wandb": {"mode": "disabled"},
    }
    path = place / f"{values['name']}.yaml"
    write_text(path, yaml.safe_dump(values, allow_unicode=True))
    return path


def cli(command: str, experiment: Path, *more: str, log: Path) -> None:
    with log.open("a", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, "-m", "jobs.cli", command, experiment, *more], stdout=file, stderr=file)
    if done.returncode:
        raise RuntimeError(f"sllm {command}: exit {done.returncode}: {tail(log)}")


def tail(log: Path) -> str:
    return log.read_text("utf-8")[-400:]


class Attempt:
    """One `sllm train` in process groups of its own, as one rank or as several that share the device."""

    all: ClassVar[list["Attempt"]] = []

    @classmethod
    def end_all(cls, number: int, _: object) -> None:
        """A handler: end what was started, then this process."""
        for attempt in cls.all:
            attempt.signal(signal.SIGKILL)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def __init__(self, experiment: Path, ranks: int = 1, **environment: str) -> None:
        self.log = experiment.with_suffix(".log")
        self.run = experiment.parent / "runs" / experiment.stem
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.all.append(self)
        for rank in range(ranks):
            variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
            several = {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in variables.items()}}
            command = [sys.executable, __file__, "--train", str(experiment)]
            with self.log.open("a", encoding="utf-8") as file:
                self.processes.append(
                    subprocess.Popen(
                        command,
                        stdout=file,
                        stderr=file,
                        start_new_session=True,
                        env={**os.environ, **(several if ranks > 1 else {}), **environment},
                    )
                )

    def signal(self, number: signal.Signals) -> None:
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def wait(self, seconds: float = 180) -> list[int]:
        deadline = time.monotonic() + seconds
        try:
            return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes]
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            raise RuntimeError(f"{self.log.stem} did not end within {seconds} s: {tail(self.log)}") from None

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for it; an attempt that ends before is an error."""
        while not happened():
            if any(process.poll() is not None for process in self.processes):
                raise RuntimeError(f"{self.log.stem} ended too early: {tail(self.log)}")
            time.sleep(0.005)

    def steps(self, kind: str = "train") -> int:
        return max((record["step"] for record in metrics(self.run) if record["kind"] == kind), default=0)


def compare(run: Path, straight: Path, course: Course) -> tuple[bool, dict[str, Any]]:
    """Whether what should happen to it did, and losses, norms and the final weights and optimizer are equal to the last
    bit; how they differ, if not."""
    mine, theirs = records(run), records(straight)
    differ = [f"{a} against {b}" for a, b in zip(mine, theirs, strict=False) if a != b]
    tensors, others = checksums(final(run, ".")), checksums(final(straight, "."))
    unequal = [name for name in tensors | others if tensors.get(name) != others.get(name)][:3]
    happened = course.event is nothing or (len(starts(run)) > 1 and starts(run)[-1] < STEPS)
    if course.event is stopped_in_validation:  # which the next attempt then begins with
        kinds = [record["kind"] for record in metrics(run)]
        happened = starts(run)[-1] == VALIDATED and "validation" not in kinds[: kinds.index("start", 1)]
    equal = not differ and not unequal and len(mine) == len(theirs)
    figures = {
        "attempts from step": starts(run),
        "records": len(mine),
        "first difference": differ[:1],
        "unequal": unequal,
    }
    return happened and equal, {"happened": None if happened else "no", **figures, "weights": weights_of(run)}


def skips(run: Path) -> tuple[bool, dict[str, Any]]:
    """Whether fp16 skipped steps at the start, and again after the last resume."""
    steps = [record["step"] for record in metrics(run) if record.get("overflow")]
    return 1 in steps and steps[-1] > starts(run)[-1], {"steps": steps}


def metrics(run: Path) -> list[dict[str, Any]]:
    return read_jsonl(RunDirectory(run).metrics)


def starts(run: Path) -> list[int]:
    """The steps that its attempts began at."""
    return [record["step"] for record in metrics(run) if record["kind"] == "start"]


def final(run: Path, name: str) -> Path:
    return checkpoint_path(RunDirectory(run).checkpoints, STEPS) / name


def weights_of(run: Path) -> str:
    """A digest of the last weights: one and the same wherever nothing depends on what has happened."""
    return hashlib.sha256(final(run, "model.safetensors").read_bytes()).hexdigest()[:12]


def records(run: Path) -> list[tuple[Any, ...]]:
    """What a training says of itself, but for the time it took."""
    names = ("kind", "step", "loss", "gradient_norm", "learning_rate", "overflow")
    found = [record for record in metrics(run) if record["kind"] in ("train", "validation")]
    return [tuple(record.get(name) for name in names) for record in found]


def train_sharing_the_device(experiment: str) -> None:
    """`sllm train`, where several ranks may have one GPU: gloo takes what NCCL refuses. And with a scale for fp16 that
    is too high at first, and soon again, so that steps are skipped: the default one would skip none of thirty."""
    from unittest.mock import patch

    import torch.distributed as dist

    from jobs.cli import app

    gloo = functools.partial(dist.new_group, backend="gloo")
    with (
        patch("sllm.distributed.problems", lambda found, wanted: []),
        patch("torch.distributed.new_group", lambda backend, timeout: gloo(timeout=timeout)),
        patch("torch.amp.GradScaler", functools.partial(torch.amp.GradScaler, init_scale=2.0**20, growth_interval=2)),
    ):
        app(["train", experiment])


# --- the parts ------------------------------------------------------------------------------------------


def machine(place: Path, report: Report) -> None:
    """What the device does at most: the roof of all other figures."""
    size = 8192 if GPU else 256
    a, b = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    seconds = median_seconds(lambda: a @ b)
    big = torch.empty((1 << 30) if GPU else (1 << 20), dtype=torch.uint8, device=DEVICE)
    other = torch.empty_like(big)
    copying = median_seconds(lambda: other.copy_(big))
    figures = {"TFLOP/s": round(2 * size**3 / seconds / 1e12, 1), "TB/s": round(2 * big.numel() / copying / 1e12, 2)}
    report("machine", None, **figures)


def attention(place: Path, report: Report) -> None:
    """Each back end alone: forward and backward of a layer of `default`'s micro-batch, and whether it is so twice."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.flex_attention import flex_attention

    batch, length, width = (16, 2048, 1024) if GPU else (1, 64, 64)
    own = functools.partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True)
    for head in (64, 128) if GPU else (32,):
        q, k, v, gradient = (
            torch.randn(batch, width // head, length, head, device=DEVICE, dtype=torch.bfloat16) for _ in range(4)
        )

        def try_one(name: str, compute: Callable[..., torch.Tensor], head: int, *tensors: torch.Tensor) -> None:
            leaves, by = [tensor.requires_grad_() for tensor in tensors[:3]], tensors[3]

            def both() -> tuple[torch.Tensor, ...]:
                return torch.autograd.grad(compute(*leaves), leaves, by)

            with skip_what_fails(f"attention {head} {name}", report):
                same = all(torch.equal(*pair) for pair in zip(both(), both(), strict=True))
                ms = milliseconds(both)
                flops = 3.5 * 4 * batch * length**2 * width / 2
                figures = {"ms": round(ms, 2), "TFLOP/s": round(flops / ms / 1e9), "the same twice": same}
                report(f"attention {head} {name}", None, **figures)

        with deterministic(DEVICE):
            try_one("own", own, head, q, k, v, gradient)
            begins = (torch.arange(length, device=DEVICE) // 300 * 300).expand(batch, -1)
            each = visible(q.transpose(1, 2).flatten(2), None, begins, length)
            apart = functools.partial(torch.nn.functional.scaled_dot_product_attention, attn_mask=each)
            try_one("conversations", apart, head, q, k, v, gradient)
            if not GPU:
                continue
            mask = causal_mask(length, DEVICE)
            flex = torch.compile(functools.partial(flex_attention, block_mask=mask), fullgraph=True, dynamic=False)
            try_one(FLEX, flex, head, q, k, v, gradient)
            if flash_3():
                try_one(FLASH_3, own, head, q, k, v, gradient)
                torch.nn.attention.restore_flash_attention_impl(_raise_warn=False)
        torch.backends.cuda.enable_cudnn_sdp(True)
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            try_one("cuDNN", own, head, q, k, v, gradient)
        torch.backends.cuda.enable_cudnn_sdp(False)


def decoding(place: Path, report: Report) -> None:
    """Greedy decoding in bf16, and the share of what the memory allows; at last with a step that is compiled."""
    prompt, new = (128, 120) if GPU else (16, 8)
    fused = {"coordinate_descent_tuning": True}  # a product of one row becomes a kernel that Inductor fuses with others

    def compiled(step: Callable[[], None]) -> Callable[[], None]:
        return recorder(DEVICE)(torch.compile(lambda: step(), fullgraph=True, options=fused))

    for name in ("default", "modern"):
        config, vocab_size = shape_of(name)
        model = prepare(make_model(config, vocab_size).to(DEVICE).eval(), "bf16")
        ways = [(1, None), (8, None), (32, None), (1, compiled)] if GPU else [(1, None), (1, compiled)]
        for batch, record in ways if name == "default" or GPU else ways[:1]:
            what = f"decoding {name} {batch}{' compiled' if record else ''}"
            with skip_what_fails(what, report):
                found = measure_generation(model, batch, prompt, new, 2, record=record)
                speed = found["decode_tokens_per_second"]
                figures = {"tokens_per_second": round(speed), "token_p50_ms": round(found["token_p50_ms"], 2)}
                figures["first_token_ms"] = round(found["first_token_ms"], 1)
                share = bytes_of_a_step(model, batch, prompt + new // 2) * speed / batch / BANDWIDTH if GPU else None
                report(what, None, **figures, bandwidth=share and round(share, 3))
        del model
        clean()


def median_seconds(work: Callable[[], object]) -> float:
    for _ in range(3):
        work()
    return statistics.median(take_turns([work], 10 if GPU else 1, DEVICE))


def clean() -> None:
    gc.collect()
    torch._dynamo.reset()
    if GPU:
        torch.cuda.empty_cache()


@contextlib.contextmanager
def skip_what_fails(name: str, report: Report) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        report(name, False, says=f"{type(error).__name__}: {str(error)[:600]}")


# --- all of them ------------------------------------------------------------------------------------------

CHECKS: dict[str, tuple[int, Callable[..., None]]] = {
    "resume": (400, resume),  # beside the first: it waits until that is done
    "default": (150, functools.partial(training, "default", more=True)),
    "modern": (100, functools.partial(training, "modern")),
    "small": (80, functools.partial(training, "small")),
    "machine": (30, machine),
    "attention": (60, attention),
    "decoding": (200, decoding),
}
"""The longest that each may take, in seconds."""


class Results:
    """The lines so far, on the screen and in two files."""

    def __init__(self, output: Path) -> None:
        self.lock = threading.Lock()
        self.started = time.monotonic()
        stem = f"gpu-{datetime.now(UTC):%Y-%m-%d}" if GPU else "gpu-tiny"
        output.mkdir(parents=True, exist_ok=True)
        self.log = output / f"{stem}.log"
        self.json, self.table = output / f"{stem}.json", output / f"{stem}.md"
        about = {"device": device_name(DEVICE), "torch": torch.__version__, "cuda": torch.version.cuda}
        self.about: dict[str, Any] = {
            **about,
            "python": sys.version.split()[0],
            "commit": os.environ.get("COMMIT") or commit(),
        }
        self.lines: list[dict[str, Any]] = []

    def seconds_left(self) -> float:
        return SECONDS - (time.monotonic() - self.started)

    def add(self, line: dict[str, Any]) -> None:
        with self.lock:
            line["at"] = round(time.monotonic() - self.started, 1)
            line["predicted"] = PREDICTED.get(line["name"])
            self.lines.append(line)
            print(f"{line['at']:6.1f} s  {' | '.join(self.cells(line))}", flush=True)
            write_json(self.json, {**self.about, "checks": self.lines})
            rows = ["| check | passed | predicted | measured |", "| --- | --- | --- | --- |"]
            rows += [f"| {' | '.join(self.cells(line))} |" for line in self.lines]
            title = f"# {self.about['device']}, torch {self.about['torch']}\n\n`python bench/gpu.py`"
            write_text(self.table, "\n".join([title, "", *rows]) + "\n")

    @staticmethod
    def cells(line: dict[str, Any]) -> list[str]:
        passed = {True: "yes", False: "**no**", None: ""}[line["passed"]]
        figures = {name: value for name, value in line["figures"].items() if value not in (None, [], "")}
        measured = ", ".join(f"{name} {value}" for name, value in figures.items())
        return [line["name"], passed, line["predicted"] or "", measured.replace("|", "\\|").replace("\n", " ")]


def run_check(name: str, place: Path, results: Results, courses: list[str]) -> None:
    """One check in a process of its own; each line of its standard output is a result."""
    # On a CPU it is only seen to work, however busy the machine is.
    limit = min(CHECKS[name][0], results.seconds_left()) if GPU else 3600
    with results.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, "--check", name, "--place", place, "--courses", *courses],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
    timer = threading.Timer(max(0, limit), lambda: os.killpg(process.pid, signal.SIGTERM))
    timer.start()
    assert process.stdout
    for text in process.stdout:
        try:
            results.add(json.loads(text))
        except ValueError:
            print(text, end="")
    timer.cancel()
    if process.wait():
        how = "took too long" if process.returncode == -signal.SIGTERM else f"exit {process.returncode}"
        results.add({"name": name, "passed": False, "figures": {"says": f"{how}; at most {limit:.0f} s"}})


def report(name: str, passed: bool | None, /, *more: dict[str, Any], **figures: Any) -> None:
    for part in more:
        figures.update(part)
    print(json.dumps({"name": name, "passed": passed, "figures": figures}, ensure_ascii=False), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--courses", nargs="+", choices=COURSES, default=list(COURSES), help="of the check resume")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--check", choices=CHECKS, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train_sharing_the_device(arguments.train)
    elif arguments.check:
        more = {"names": arguments.courses} if arguments.check == "resume" else {}
        CHECKS[arguments.check][1](arguments.place / arguments.check, report, **more)
    else:
        sys.exit(run_all(arguments.only, arguments.courses, arguments.output))


def run_all(names: list[str], courses: list[str], output: Path) -> int:
    """Exit code 1 if a check did not pass."""
    results = Results(output)
    with tempfile.TemporaryDirectory(prefix="sllm-gpu-") as directory, ThreadPoolExecutor(1) as beside:
        place = Path(directory)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(place / "inductor"))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        for name in names:
            (place / name).mkdir()
        # Its data are made on the CPU while the first check has the GPU; its trainings run beside one another, alone.
        trainings = beside.submit(run_check, "resume", place, results, courses) if "resume" in names else None
        rest = [name for name in names if name != "resume"]
        for i, check in enumerate([*rest, None]):
            if i == min(1, len(rest)) and trainings:
                (place / "resume" / "go").touch()
                trainings.result()
            if check:
                run_check(check, place, results, courses)
    failed = [line["name"] for line in results.lines if line["passed"] is False]
    print(f"{results.json}: {len(results.lines)} lines, not passed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    main()
