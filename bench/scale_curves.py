"""The curves of bench/scale.py: small measurements here, each with what a formula that the first one fixes says."""

import json
import os
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from exact import on_ranks
from side_by_side import random_experiment, shape

from jobs import ledger
from jobs.presets import CONFIGS
from jobs.tools import dev_cluster
from sllm.artifacts import Artifacts
from sllm.config import DataConfig, EmbeddedSource, Experiment, ModelConfig
from sllm.distributed import World
from sllm.files import read_json, write_json
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory


@dataclass(frozen=True)
class Point:
    """One measurement of a curve, and what its formula, fixed by the curve's first point, says of it."""

    curve: str
    what: str
    size: float
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured if self.measured else float("nan")


def curve(name: str, what: str, law: Callable[[float], float], found: dict[float, float]) -> Iterator[Point]:
    """`law` says how it grows; how much it is, the first point."""
    first = next(iter(found))
    for size, value in found.items():
        yield Point(name, what, size, found[first] * law(size) / law(first), value)


def constant(size: float) -> float:
    return 1.0


def linear(size: float) -> float:
    return size


@contextmanager
def clock() -> Iterator[Callable[[], tuple[float, float]]]:
    """Seconds of wall clock and of this process."""
    began, used = time.perf_counter(), time.process_time()
    yield lambda: (time.perf_counter() - began, time.process_time() - used)


def page_tables() -> float:
    """Bytes that this process has of them."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024.0 * int(status.split("VmPTE:")[1].split()[0])


def peak_memory() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_child(work: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """In a process of its own, whose memory is that of this work; with `memory`, its peak."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        found = work(*arguments)
        os.write(writer, json.dumps({**found, "memory": peak_memory()}).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        found = json.loads(file.read())
    os.waitpid(child, 0)
    return dict(found)


Sizes = Sequence[int]


def tokens(place: Path, sizes: Sizes = (10**9, 10**11, 3 * 10**12)) -> Iterator[Point]:
    """Token files that are one hole: opening them, and 2,000 windows at random."""
    found = {size: in_child(_read_windows, place, size) for size in sizes}
    for key, unit in (("open", "ms to open"), ("window", "µs a window"), ("tables", "KB of page tables")):
        yield from curve("tokens", unit, constant, {size: each[key] for size, each in found.items()})


def _read_windows(place: Path, count: int, windows: int = 2000) -> dict[str, float]:
    from sllm.data.pack import token_file
    from sllm.data.sampler import PackedData, Sampler

    with token_file(place, "web", "train").open("wb") as file:
        file.truncate(2 * count)
    about = {"dtype": "<u2", "vocab_size": 32000}
    with clock() as opened:
        data = PackedData(place, {**about, "sources": {"web": {"language": "en", "train": {"tokens": count}}}})
        sampler = Sampler(data, {"web": 1.0}, 2048, seed=1)
        sampler.batch(0, 1)
        opening = opened()[0]
    with clock() as read:
        for first in range(1, windows, 16):
            sampler.batch(first, 16)
        seconds = read()[1]
    return {
        "open": 1e3 * opening,
        "window": 1e6 * seconds / windows,
        "tables": page_tables() / 1024,
    }


def manifest(place: Path, sizes: Sizes = (1_000, 10_000, 100_000)) -> Iterator[Point]:
    """A corpus of so many files, as each stage and each submit looks at it."""
    found = {size: in_child(_read_manifest, place / str(size), size) for size in sizes}
    for key, unit in (("seconds", "s to read"), ("size", "MB of manifest"), ("part", "µs to begin a part")):
        law = constant if key == "part" else linear
        yield from curve("manifest", unit, law, {size: each[key] for size, each in found.items()})


def _read_manifest(corpus: Path, files: int) -> dict[str, float]:
    from sllm.data.parts import Part, _remove_uncommitted
    from sllm.manifests import MANIFEST, read_manifest

    (corpus / "web").mkdir(parents=True)
    names = [f"web/train-{i // 4:05d}-{i % 4:05d}.jsonl.zst" for i in range(files)]
    for name in names:
        (corpus / name).touch()
    write_json(corpus / MANIFEST, {"files": [{"name": name, "bytes": 0, "sha256": "0" * 64} for name in names]})
    with clock() as read:
        read_manifest(corpus)
        seconds = read()[1]
    source = EmbeddedSource(name="web", kind="embedded", language="en")
    part = Part(source, 1, (), (), None, corpus / "web", DataConfig(sources=(source,)), 1)
    with clock() as begun:
        for _ in range(100):
            _remove_uncommitted(part, [{"shards": {"train": 4, "validation": 0}}])
        beginning = begun()[1] / 100
    size = (corpus / MANIFEST).stat().st_size
    shutil.rmtree(corpus)
    return {"seconds": seconds, "size": size / 1e6, "part": 1e6 * beginning}


def digests(place: Path, sizes: Sizes = (1 << 20, 4 << 20, 10 << 20)) -> Iterator[Point]:
    """Random digests of so many documents, 16,000 to a shard; then few in more and more shards."""
    found = {size: _compare(place / f"{size}", size, min(size, 1 << 14)) for size in sizes}
    yield from curve("digests", "s to compare documents", linear, found)
    ranges = {count: _compare(place / f"range-{count}", 10 * count, 10) for count in (200, 1000, 5000)}
    yield from curve("digests", "s to look into so many shards for one range", linear, ranges)


def _compare(tables: Path, documents: int, shard: int) -> float:
    from sllm.data.dedup import compare
    from sllm.stop import StopFlag

    tables.mkdir()
    draw = np.random.default_rng(0)
    paths = [tables / str(number) for number in range(documents // shard)]
    for path in paths:
        keys = draw.integers(0, 1 << 64, (2, shard), np.uint64)
        keys[0].sort()
        path.write_bytes(keys.tobytes() + np.arange(shard, dtype="<u4").tobytes())
    with clock() as compared:
        repeated, _ = compare(tables, paths, StopFlag(), 1)
        seconds = compared()[1]
    assert not repeated.any()
    shutil.rmtree(tables)
    return seconds


def metrics(place: Path, sizes: Sizes = (10_000, 100_000, 300_000)) -> Iterator[Point]:
    """A training of so many steps: what a resume and the end of an attempt read."""
    found = {size: in_child(_read_metrics, place, size) for size in sizes}
    for key, unit in (("size", "MB"), ("cut", "s to cut back"), ("memory", "MB of memory")):
        law = constant if key == "memory" else linear
        scale = 1e-6 if key == "memory" else 1.0
        yield from curve("metrics", unit, law, {size: scale * each[key] for size, each in found.items()})


def _read_metrics(place: Path, steps: int) -> dict[str, float]:
    from sllm.records import json_line
    from sllm.training.metrics import cut_back

    path, figure = place / "metrics.jsonl", 3.123456789012
    names = ("loss", "learning_rate", "gradient_norm", "seconds", "tokens_per_second", "data_wait", "mfu", "time")
    with path.open("wb") as file:
        for step in range(1, steps + 1):
            kind = "train" if step % 500 else "validation"
            file.write(json_line({"kind": kind, "step": step, "tokens": step << 20, **dict.fromkeys(names, figure)}))
    with clock() as cut:
        cut_back(path, steps)
        return {"size": path.stat().st_size / 1e6, "cut": cut()[1]}


def shares(place: Path, sizes: Sizes = (10, 40, 160)) -> Iterator[Point]:
    """`sllm status` over a job array of so many tasks, none of which is in the queue any more."""
    found = {size: _status(place / str(size), size) for size in sizes}
    yield from curve("shares", "s of sllm status", linear, found)


def _status(path: Path, count: int) -> float:
    from jobs import ledger
    from jobs.status.states import stage_states
    from sllm.run_directory import RunDirectory

    run = RunDirectory(path)
    for number in range(count):
        share = f"pack.{number}"
        run.stage(share).mkdir(parents=True)
        ledger.begin(run, share, "0" * 16, f"t-{number}", ledger.SUBMITTED)
        ledger.end(run, share, f"t-{number}", ledger.FINISHED)
        ledger.close(run, share)
    with clock() as looked:
        stage_states(run)
        return looked()[1]


def work(place: Path, sizes: Sizes = (500, 2_000, 8_000)) -> Iterator[Point]:
    """What it costs to hand out so many pieces of work to two processes."""
    yield from curve("work", "s of the parent", linear, {size: _hand_out(size) for size in sizes})


def _hand_out(count: int) -> float:
    from sllm.stop import StopFlag
    from sllm.workers import in_processes

    with clock() as handed, in_processes(_nothing, [(i,) for i in range(count)], 2, StopFlag()) as results:
        for _ in results:
            pass
        return handed()[1]


def _nothing(number: int, *, check: Callable[[], None]) -> int:
    return number


def text(place: Path, sizes: Sizes = (2, 8)) -> Iterator[Point]:
    """So many megabytes of text through each stage of the data, in one process."""
    found = {size: _through_the_stages(place / str(size), size) for size in sizes}
    for key in ("clean", "read", "count", "pack"):
        yield from curve("text", f"s to {key}", linear, {size: each[key] for size, each in found.items()})


def _through_the_stages(place: Path, megabytes: int) -> dict[str, float]:
    from sllm.data.clean import Cleaner, Document
    from sllm.data.embedded.generator import documents
    from sllm.data.pack import _encode_shard
    from sllm.data.shards import ShardWriter, read_shard
    from sllm.stop import no_check
    from sllm.tokenizer.training import learn
    from sllm.tokenizer.words import count_words

    made = random_experiment("scale", place, *shape("mini"), 10_000, global_batch=1, micro_batch=1)
    texts = list(documents("ko", megabytes, seed=1))
    seconds: dict[str, float] = {}
    for warm in (True, False):  # compiled loops are loaded in the first round
        cleaner, kept = Cleaner(made.data, "ko"), texts[: len(texts) // 20 if warm else None]
        with clock() as cleaned, ShardWriter(place / f"{warm}", "train", 1000) as writer:
            for text in kept:
                for each in cleaner.clean(text):
                    if isinstance(each, Document):
                        writer.write(each.text)
            seconds["clean"] = cleaned()[1]
        shard = place / f"{warm}" / "train-00000.jsonl.zst"
        with clock() as read:
            count = sum(1 for _ in read_shard(shard))
            seconds["read"] = read()[1]
        with clock() as counted:
            words = count_words(read_shard(shard))
            seconds["count"] = counted()[1]
        tokenizer = learn(words, 1000)
        tokenizer.save(place / f"{warm}.json")
        with clock() as packed:
            _encode_shard(place / f"{warm}.json", tokenizer.fingerprint, place, shard, check=no_check)
            seconds["pack"] = packed()[1]
        assert count
    return seconds


TINY = ModelConfig(d_model=32, n_layers=1, n_heads=2, d_ff=64, context_length=32, dropout=0.0)
STARTED = "SCALE_STARTED"


def ranks(place: Path, sizes: Sizes = (1, 2, 4, 8, 16, 32)) -> Iterator[Point]:
    """Trainings of a tiny model on so many ranks of this machine, over gloo."""
    made = random_experiment("ranks", place, TINY, 300, 100_000, precision="fp32", global_batch=32, micro_batch=1)
    found = {}
    for size in sizes:
        os.environ[STARTED] = str(time.time())
        found[size] = on_ranks(size, _rank, made, 10)
    cores = len(os.sched_getaffinity(0))
    several = {size: each for size, each in found.items() if size > 1}

    def in_turns(size: float) -> float:
        """In a ring each rank sends 2 (n - 1) messages; here all take turns on the same cores."""
        return size * (size - 1) / min(size, cores)

    for what, law, key, those in (
        ("CPU s of a rank to its first step", constant, "cpu", found),
        ("s to the first step", linear, "started", several),  # the cores have turns, too
        ("MB of memory a rank", constant, "memory", found),
        ("ms to agree", in_turns, "agreement", several),
        ("ms to add 8 MB", lambda size: size - 1, "reduce", several),  # bytes that all send together
    ):
        yield from curve("ranks", what, law, {size: each[key] for size, each in those.items()})


def _rank(experiment: Experiment, world: World, rounds: int) -> dict[str, float]:
    from sllm.training.trainer import Trainer

    trainer = Trainer(experiment, Artifacts(experiment), world)
    trainer.train_step()
    used, started = sum(world.gather(time.process_time())), time.time() - float(os.environ[STARTED])
    proportional = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").split("Pss:")[1].split()[0]
    memory = sum(world.gather(int(proportional) / 1024))
    values, total = [0.0] * 64, torch.zeros(1 << 20, dtype=torch.int64)
    agreement, reducing = [], []
    for _ in range(rounds):
        world.barrier()
        began = time.perf_counter()
        world.sum(values)
        agreement.append(time.perf_counter() - began)
        if world.control is not None:
            began = time.perf_counter()
            torch.distributed.all_reduce(total, group=world.control)
            reducing.append(time.perf_counter() - began)
    trainer.close()
    return {
        "cpu": used / world.size,
        "started": started,
        "memory": memory / world.size,
        "agreement": 1e3 * statistics.median(agreement),
        "reduce": 1e3 * statistics.median(reducing or [0.0]),
    }


def nodes(place: Path, sizes: Sizes = (2, 8, 32)) -> Iterator[Point]:
    """The same chain as jobs of a private Slurm, its training on so many ranks on two nodes: declared ones, on this
    machine, so that the cores have turns. The losses are to be equal."""
    found, losses = {}, []
    with dev_cluster.running(place / "slurm", accounting=False, cpus=max(sizes) // 2) as cluster:
        defaults = {"partition": "cpu", "cpus": 1, "memory": "4G", "time_minutes": 60, "signal_seconds": 20}
        for size in sizes:
            training = {"partition": "gpu", "nodes": 2, "tasks_per_node": size // 2, "memory": "12G", "device": "cpu"}
            profile = place / f"{size}.yaml"
            write_json(profile, {"defaults": defaults, "stages": {"pretrain": training}})  # JSON is YAML
            changes = [f"name=on-{size}", f"runs_directory={place}", f"data_directory={place}/data"]
            changes += ["train.max_steps=20", "train.warmup_steps=5", "train.global_batch=32", "train.micro_batch=1"]
            cluster.run(
                *(sys.executable, "-m", "jobs.cli", "submit", CONFIGS / "drill.yaml", *changes),
                *("--on", "slurm", "--cluster", profile, "--until", "pretrain"),
            )
            run = RunDirectory(place / f"on-{size}")
            cluster.wait_for(read_json(run.stage("pretrain") / "job.json")["job"], "COMPLETED", timeout=3600)
            [attempt] = ledger.attempts(run, "pretrain")
            found[size] = attempt["seconds_to_first_step"]
            losses.append([record["loss"] for record in read_jsonl(run.metrics, "kind") if record["kind"] == "train"])
    if any(each != losses[0] for each in losses):
        raise AssertionError(f"the losses differ: {losses}")
    yield from curve("nodes", "s from the job's start to its first step", linear, found)


CURVES = {made.__name__: made for made in (tokens, digests, manifest, metrics, shares, work, text, ranks, nodes)}
