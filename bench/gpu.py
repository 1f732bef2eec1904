"""What only a GPU can show, in one command: `python bench/gpu.py`. Some minutes on one H100.

Is a step deterministic at the real shapes; does a training that was killed or stopped, at the worst moments too, end in
the same bits; how fast are training, attention and decoding; how long does a checkpoint stall; where does a step's time
go. Each check is a process of its own and prints what it finds as it finds it. What fails is named, and the next check
goes on. Writes gpu-DATE.json and gpu-DATE.md, the prediction beside the measurement. Data are random tokens and the
generator's text: no network. On a CPU everything is tiny, to see that the script works.
"""

import argparse
import contextlib
import functools
import gc
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from side_by_side import shape, take_turns
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from jobs.launch.prepare import commit
from sllm.artifacts import Artifacts
from sllm.config import Experiment, validate
from sllm.data.pack import POSITION_DTYPE, documents_file, token_dtype, token_file
from sllm.device import deterministic, device_name, synchronize
from sllm.distributed import World
from sllm.errors import UserError
from sllm.files import write_json, write_text
from sllm.inference.decode import prepare
from sllm.manifests import atomic_directory
from sllm.model.gpt2 import GPT
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory
from sllm.speed import measure_generation, timed
from sllm.tokenizer import Tokenizer
from sllm.training.checkpoint import Checkpoints, restore
from sllm.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")

# By arithmetic on what each operation moves, before a GPU had run this: an H100, `default`, 16 × 2,048 tokens.
PREDICTED = {
    "machine": "bf16 product 798 TFLOP/s, copy 3.0 TB/s",
    "determinism default": "equal",
    "determinism small": "equal",
    "speed default 16": "33 % of the peak, 52 GB",
    "checkpoint default": "7–12 s",
    "decoding default 1": "250–400 tokens/s",
    "attention 64 flash deterministic": "166 TFLOP/s forward and backward (published for head width 128)",
    "attention 64 cudnn": "470 TFLOP/s (published for head width 128)",
}

Report = Callable[..., None]
"""`report(name, passed, **figures)`: one line of the table; `passed` is None where there is nothing to pass."""


# --- training at the real shapes --------------------------------------------------------------------


def trainer_of(name: str, place: Path, **train: Any) -> Trainer:
    """A trainer of `configs/<name>.yaml` (a tiny one on a CPU) over random tokens."""
    model, vocab_size = shape(name) if GPU else (shape("mini")[0].model_copy(update={"context_length": 64}), 512)
    micro_batch = train.setdefault("micro_batch", 16)
    values = {
        "name": name,
        "runs_directory": str(place / "runs"),
        "data_directory": str(place / "data"),
        "data": {"sources": [{"name": "random", "kind": "embedded", "language": "en", "megabytes": 1}]},
        "tokenizer": {"vocab_size": vocab_size},
        "model": model.model_dump(),
        "train": {"max_steps": 1000, "global_batch": 4 * micro_batch, "warmup_steps": 10, **train},
    }
    experiment = validate(Experiment, values, name)
    artifacts = Artifacts(experiment)
    if not artifacts.packed.exists():
        write_random_tokens(artifacts, vocab_size, 8_000_000 if GPU else 50_000)
    return Trainer(experiment, artifacts, World(0, 1, 0, DEVICE))


def write_random_tokens(artifacts: Artifacts, vocab_size: int, tokens: int) -> None:
    """What the tokenizer and pack stages would leave, of no meaning at all."""
    tokenizer = Tokenizer([(4 + i // 256, 4 + i % 256) for i in range(vocab_size - 260)])
    artifacts.tokenizer.mkdir(parents=True)
    tokenizer.save(artifacts.tokenizer / "tokenizer.json")
    draw = np.random.default_rng(0)
    about = {"kind": "packed", "dtype": token_dtype(vocab_size), "vocab_size": vocab_size}
    artifacts.packed.parent.mkdir(parents=True, exist_ok=True)
    source: dict[str, Any] = {"language": "en"}
    for split, count in {"train": tokens, "validation": 10_000}.items():
        source[split] = {"tokens": count, "documents": 1, "bytes": count, "shards": []}
    with atomic_directory(artifacts.packed, **about, tokenizer=tokenizer.fingerprint, sources={"random": source}) as to:
        for split in ("train", "validation"):
            ids = draw.integers(4, vocab_size, source[split]["tokens"])
            ids.astype(token_dtype(vocab_size)).tofile(token_file(to, "random", split))
            np.zeros(1, POSITION_DTYPE).tofile(documents_file(to, "random", split))


def try_determinism(trainer: Trainer, name: str, report: Report) -> None:
    started = time.perf_counter()
    try:
        trainer.check_determinism()
    except UserError as error:
        report(name, False, says=str(error))
    else:
        report(name, True, seconds=round(time.perf_counter() - started, 1))


def try_speed(trainer: Trainer, name: str, report: Report, steps: int = 3) -> None:
    """Steps of four micro-batches, as training takes them."""
    for _ in range(2):
        trainer.train_step()
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    figures = [trainer.train_step() for _ in range(steps)]
    middle = sorted(figures, key=lambda figure: figure["seconds"])[steps // 2]
    shown = {key: middle[key] for key in ("seconds", "tokens_per_second", "data_wait", "memory_bytes", "loss")}
    report(name, None, mfu=middle.get("mfu"), **shown)


def training(name: str, place: Path, report: Report) -> None:
    """Determinism and speed of one shape, by micro-batch; the trainer at 16 is that of the profile and the save too."""
    with deterministic(DEVICE):
        for micro_batch in (16, 8) if GPU and name == "default" else (16, 32) if GPU else (2,):
            with skip_what_fails(f"{name} {micro_batch}", report):
                trainer = trainer_of(name, place, micro_batch=micro_batch, precision="bf16", compile=GPU)
                if micro_batch in (2, 16):
                    try_determinism(trainer, f"determinism {name}", report)
                try_speed(trainer, f"speed {name} {micro_batch}", report)
                if micro_batch in (2, 16):
                    profile(trainer, name, report)
                    stall(trainer, name, report)
            trainer = None  # type: ignore[assignment]  # its memory is the next one's
            clean()
        with skip_what_fails(f"{name} eager", report):
            trainer = trainer_of(name, place, micro_batch=16 if GPU else 2, precision="bf16", compile=False)
            try_determinism(trainer, f"determinism {name} eager", report)
            try_speed(trainer, f"speed {name} eager", report, steps=1)
        trainer = None  # type: ignore[assignment]
        clean()
        with skip_what_fails(f"{name} fp16", report):
            trainer = trainer_of(name, place, micro_batch=16 if GPU else 2, precision="fp16", compile=GPU)
            try_determinism(trainer, f"determinism {name} fp16", report)


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
    """How long training stands still for a checkpoint."""
    run = RunDirectory(trainer.experiment.run_path)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(run.checkpoints, trainer.config.checkpoint)
    state = {"trajectory": {}, "scaler": {}, "world_size": 1}
    seconds = timed(lambda: checkpoints.save(trainer.step, trainer.model, trainer.optimizer, state), DEVICE)
    directory = checkpoints.path(trainer.step)
    size = sum(path.stat().st_size for path in directory.iterdir())
    found = checkpoints.newest_whole()
    assert found
    tensors = (found.weights, found.optimizer, directory)
    loading = timed(lambda: restore(trainer.model, trainer.optimizer, *tensors), DEVICE)
    figures = {"seconds": round(seconds, 2), "gigabytes": round(size / 1e9, 2), "load": round(loading, 2)}
    report(f"checkpoint {name}", None, **figures)
    shutil.rmtree(directory)


# --- a training that is stopped and killed ------------------------------------------------------------

STEPS, EVERY = 30, 15


def resume(place: Path, report: Report) -> None:
    """The real chain over the generator's text; then one training straight, and others that are stopped and killed."""
    started = time.perf_counter()
    prepared(place, "straight")
    report("data prepared", True, seconds=round(time.perf_counter() - started, 1))
    go_on = (place / "go").exists
    while not go_on():  # the real shapes have the GPU to themselves
        time.sleep(0.2)
    events: dict[str, Event] = {
        "killed": killed,
        "stopped in a step": functools.partial(stopped_at, step=5),
        "stopped in compilation": stopped_in_compilation,
        "stopped in validation": stopped_in_validation,
        "stopped before validation": functools.partial(stopped_at, step=EVERY - 1),
        "stopped after validation": functools.partial(stopped_at, step=EVERY + 1),
    }
    with ThreadPoolExecutor(12 if GPU else 2) as pool:
        straight = pool.submit(straight_run, place, "straight")
        fp16: dict[str, Any] = {"precision": "fp16"}
        chain = pool.submit(whole_chain, place)
        half = pool.submit(straight_run, place, "fp16", **fp16)
        two = pool.submit(straight_run, place, "two-ranks", ranks=2)
        runs = {pool.submit(endure, place, name, event): (name, straight) for name, event in events.items()}
        runs[pool.submit(endure, place, "fp16 killed", killed, **fp16)] = ("fp16 killed", half)
        runs[pool.submit(endure, place, "two ranks killed", killed, ranks=2)] = ("two ranks killed", two)
        for future, (name, former) in runs.items():
            with skip_what_fails(name, report):
                report(f"resume: {name}", *compare(future.result(), former.result()))
        with skip_what_fails("fp16", report):
            skipped = sum(bool(record.get("overflow")) for record in read_jsonl(half.result() / "metrics.jsonl"))
            report("fp16: skipped steps", None, steps=skipped)
        with skip_what_fails("chain", report):
            report("chain: smoke", True, **chain.result())
        with skip_what_fails("ranks", report):
            _, figures = compare(two.result(), straight.result())
            report("two ranks against one", None, **figures)


def write_experiment(place: Path, name: str, **train: Any) -> Path:
    size = {"d_model": 512, "n_layers": 8, "n_heads": 8, "d_ff": 2048, "context_length": 1024}
    tiny = {"d_model": 32, "n_layers": 2, "n_heads": 2, "d_ff": 64, "context_length": 64}
    values = {
        "name": name.replace(" ", "-"),
        "runs_directory": str(place / "runs"),
        "data_directory": str(place / "data"),
        "data": {
            "sources": [
                {"name": f"sample-{language}", "kind": "embedded", "language": language, "megabytes": 4 if GPU else 0.3}
                for language in ("ko", "en")
            ],
            "validation_fraction": 0.1,
        },
        "tokenizer": {"vocab_size": 4096 if GPU else 300},
        "model": {**(size if GPU else tiny), "dropout": 0.1},
        "train": {
            "max_steps": STEPS,
            "global_batch": 16,
            "micro_batch": 4,
            "warmup_steps": 5,
            "learning_rate": 1e-3,
            "precision": "bf16",
            "compile": GPU,
            "checkpoint": {"every": 10},
            **train,
        },
        "validate": {"every": EVERY, "tokens": 200_000 if GPU else 20_000, "prompts": ["오늘", "In the"]},
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


def whole_chain(place: Path) -> dict[str, Any]:
    """`make demo`, on what is here: every stage, validation's samples and the benchmark among them."""
    started = time.perf_counter()
    few = [] if GPU else ["train.max_steps=8", "train.warmup_steps=2", "data.sources.0.megabytes=0.3"]
    few += [] if GPU else ["data.sources.1.megabytes=0.3", "tokenizer.vocab_size=300", "validate.every=8"]
    where = [f"runs_directory={place / 'runs'}", f"data_directory={place / 'data'}", "wandb.mode=disabled"]
    smoke = ROOT / "configs" / "smoke.yaml"
    cli("submit", smoke, "--on", "local", *where, *few, log=place / "smoke.log")
    results = json.loads((place / "runs/smoke/stages/validate/results.json").read_text("utf-8"))
    languages = {name: round(figures["bits_per_byte"], 4) for name, figures in results["languages"].items()}
    return {"seconds": round(time.perf_counter() - started), "bits per byte": languages}


Event = Callable[..., None]
"""What happens to a training: it gets `start`, which starts an attempt."""


class Attempt:
    """One `sllm train` in a process group of its own, as one rank or as two that share the device."""

    def __init__(self, experiment: Path, ranks: int = 1, **environment: str) -> None:
        self.log = experiment.with_suffix(".log")
        self.run = experiment.parent / "runs" / experiment.stem
        port = 20_000 + hash((experiment, time.monotonic_ns())) % 20_000
        self.processes = []
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
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def wait(self, seconds: float = 120) -> list[int]:
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
        records = read_jsonl(self.run / "metrics.jsonl") if (self.run / "metrics.jsonl").exists() else []
        return max((record["step"] for record in records if record["kind"] == kind), default=0)


def straight_run(place: Path, name: str, ranks: int = 1, **train: Any) -> Path:
    """A training that nothing happens to: its run directory."""
    return finish(prepared(place, name, **train), ranks)


def endure(place: Path, name: str, event: Event, ranks: int = 1, **train: Any) -> Path:
    """A training that the event happens to, and that then goes on to its end."""
    experiment = prepared(place, name, **train)
    event(functools.partial(Attempt, experiment, ranks))
    return finish(experiment, ranks)


def finish(experiment: Path, ranks: int) -> Path:
    attempt = Attempt(experiment, ranks)
    if any(codes := attempt.wait()):
        raise RuntimeError(f"{experiment.stem}: exit {codes}: {tail(attempt.log)}")
    return attempt.run


def prepared(place: Path, name: str, **train: Any) -> Path:
    """An experiment whose data, which it shares with the others, are there."""
    experiment = write_experiment(place, name, **train)
    cli("submit", experiment, "--until", "pack", "--on", "here", log=experiment.with_suffix(".log"))
    return experiment


def killed(start: Callable[..., Attempt]) -> None:
    """Each time as on another node, where nothing is compiled yet."""
    for step in (7, 18, 24):
        with tempfile.TemporaryDirectory() as cache:
            attempt = start(TORCHINDUCTOR_CACHE_DIR=cache)
            attempt.until(lambda s=step, a=attempt: a.steps() >= s)  # type: ignore[misc]
            attempt.signal(signal.SIGKILL)
            attempt.wait()


def stopped_at(start: Callable[..., Attempt], step: int) -> None:
    attempt = start()
    attempt.until(lambda: attempt.steps() >= step)
    attempt.signal(signal.SIGTERM)
    attempt.wait()


def stopped_in_compilation(start: Callable[..., Attempt]) -> None:
    """With an empty cache, and the signal to every process of the group, compilers among them."""
    with tempfile.TemporaryDirectory() as cache:
        attempt = start(TORCHINDUCTOR_CACHE_DIR=cache)
        attempt.until(lambda: any(Path(cache).iterdir()) if GPU else attempt.steps() >= 1)
        attempt.signal(signal.SIGTERM)
        attempt.wait()


def stopped_in_validation(start: Callable[..., Attempt]) -> None:
    attempt = start()
    attempt.until(lambda: attempt.steps() >= EVERY)
    time.sleep(0.05)
    attempt.signal(signal.SIGTERM)
    attempt.wait()


def compare(run: Path, straight: Path) -> tuple[bool, dict[str, Any]]:
    """Whether losses, norms and the final weights and optimizer are equal to the last bit; how they differ, if not."""
    mine, theirs = records(run), records(straight)
    differ = [f"{a} against {b}" for a, b in zip(mine, theirs, strict=False) if a != b]
    final = f"checkpoints/step-{STEPS:08d}"
    files = [f"{final}/{name}" for name in ("model.safetensors", "optimizer.safetensors")]
    unequal = [name for name in files if (run / name).read_bytes() != (straight / name).read_bytes()]
    starts = sum(record["kind"] == "start" for record in read_jsonl(run / "metrics.jsonl"))
    equal = not differ and not unequal and len(mine) == len(theirs)
    return equal, {"attempts": starts, "records": len(mine), "first difference": differ[:1], "unequal": unequal}


def records(run: Path) -> list[tuple[Any, ...]]:
    """What a training says of itself, but for the time it took."""
    names = ("kind", "step", "loss", "gradient_norm", "learning_rate")
    return [
        tuple(record.get(name) for name in names)
        for record in read_jsonl(run / "metrics.jsonl")
        if record["kind"] in ("train", "validation")
    ]


def train_sharing_the_device(experiment: str) -> None:
    """`sllm train`, where two ranks may have one GPU: gloo takes what NCCL refuses."""
    from unittest.mock import patch

    import torch.distributed as dist

    from jobs.cli import app

    gloo = functools.partial(dist.new_group, backend="gloo")
    with (
        patch("sllm.distributed.problems", lambda found, wanted: []),
        patch("torch.distributed.new_group", lambda backend, timeout: gloo(timeout=timeout)),
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
    """Forward and backward of the attention of `default`, and of heads twice as wide: speed, and whether it repeats."""
    for width in (64, 128) if GPU else (16,):
        attention_of_width(width, report)


def attention_of_width(width: int, report: Report) -> None:
    B, H, T = (16, 1024 // width, 2048) if GPU else (2, 2, 64)
    q, k, v, gradient = (torch.randn(B, H, T, width, device=DEVICE, dtype=torch.bfloat16) for _ in range(4))
    inputs = tuple(tensor.requires_grad_() for tensor in (q, k, v))
    flex: Any = torch.compile(flex_attention, dynamic=False)

    def causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query >= key

    def sdpa(backend: SDPBackend, dropout: float = 0.0) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)

    def try_way(way: str, strict: bool, forward: Callable[[], Tensor]) -> None:
        def both() -> list[Tensor]:
            torch.manual_seed(0)
            return list(torch.autograd.grad(forward(), inputs, gradient))

        with skip_what_fails(f"attention {width} {way}", report):
            torch.use_deterministic_algorithms(strict)
            first = both()
            equal = all(torch.equal(a, b) for _ in range(3) for a, b in zip(first, both(), strict=True))
            seconds = median_seconds(both)
            flops = 3.5 * 4 * B * H * T * T * width / 2  # half of the square is masked; backward is 2.5 × forward
            figures = {"ms": round(1000 * seconds, 2), "TFLOP/s": round(flops / seconds / 1e12)}
            report(f"attention {width} {way}", equal if strict else None, repeats=equal, **figures)

    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try_way("flash deterministic", True, lambda: sdpa(SDPBackend.FLASH_ATTENTION))
    try_way("flash", False, lambda: sdpa(SDPBackend.FLASH_ATTENTION))
    if GPU:
        try_way("flash deterministic, dropout", True, lambda: sdpa(SDPBackend.FLASH_ATTENTION, 0.1))
        try_way("cudnn", False, lambda: sdpa(SDPBackend.CUDNN_ATTENTION))
        mask = create_block_mask(causal, None, None, T, T, device=DEVICE.type)
        try_way("flex", True, lambda: flex(q, k, v, block_mask=mask))
    torch.use_deterministic_algorithms(False)


def decoding(place: Path, report: Report) -> None:
    """Greedy decoding in bf16; the share of what the memory allows, were only the weights read."""
    for name in ("default", "small") if GPU else ("mini",):
        config, vocab_size = shape(name)
        model = prepare(GPT(config, vocab_size).to(DEVICE).eval(), "bf16")
        weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        for batch in (1, 8, 32) if GPU else (1,):
            with skip_what_fails(f"decoding {name} {batch}", report):
                found = measure_generation(model, batch, 128 if GPU else 16, 100 if GPU else 8, 2)
                speed = found["decode_tokens_per_second"]
                figures = {"tokens_per_second": round(speed), "token_p50_ms": round(found["token_p50_ms"], 2)}
                figures["first_token_ms"] = round(found["first_token_ms"], 1)
                share = weights * speed / batch / 3.35e12 if GPU else None
                report(f"decoding {name} {batch}", None, **figures, bandwidth=share and round(share, 3))
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

CHECKS: dict[str, tuple[int, Callable[[Path, Report], None]]] = {
    "resume": (480, resume),  # beside the first: it waits until that is done
    "default": (240, functools.partial(training, "default")),
    "attention": (90, attention),
    "machine": (30, machine),
    "decoding": (90, decoding),
    "small": (150, functools.partial(training, "small")),
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


def run_check(name: str, place: Path, results: Results) -> None:
    """One check in a process of its own; each line of its standard output is a result."""
    limit, _ = CHECKS[name]
    with results.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, "--check", name, "--place", place],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
    timer = threading.Timer(limit, lambda: os.killpg(process.pid, signal.SIGKILL))
    timer.start()
    assert process.stdout
    for text in process.stdout:
        try:
            results.add(json.loads(text))
        except ValueError:
            print(text, end="")
    timer.cancel()
    if process.wait():
        how = "took too long" if process.returncode == -signal.SIGKILL else f"exit {process.returncode}"
        results.add({"name": name, "passed": False, "figures": {"says": f"{how}; at most {limit} s"}})


def report(name: str, passed: bool | None, /, *more: dict[str, Any], **figures: Any) -> None:
    for part in more:
        figures.update(part)
    print(json.dumps({"name": name, "passed": passed, "figures": figures}, ensure_ascii=False), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--check", choices=CHECKS, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train_sharing_the_device(arguments.train)
    elif arguments.check:
        CHECKS[arguments.check][1](arguments.place / arguments.check, report)
    else:
        sys.exit(run_all(arguments.only, arguments.output))


def run_all(names: list[str], output: Path) -> int:
    """Exit code 1 if a check did not pass."""
    results = Results(output)
    with tempfile.TemporaryDirectory(prefix="sllm-gpu-") as directory, ThreadPoolExecutor(1) as beside:
        place = Path(directory)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(place / "inductor"))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        for name in names:
            (place / name).mkdir()
        # Its data are made on the CPU while the first check has the GPU; its trainings run beside one another, alone.
        trainings = beside.submit(run_check, "resume", place, results) if "resume" in names else None
        rest = [name for name in names if name != "resume"]
        for i, check in enumerate([*rest, None]):
            if i == min(1, len(rest)) and trainings:
                (place / "resume" / "go").touch()
                trainings.result()
            if check:
                run_check(check, place, results)
    failed = [line["name"] for line in results.lines if line["passed"] is False]
    print(f"{results.json}: {len(results.lines)} lines, not passed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    main()
