"""Training ranks as real processes for tests: forked from a server that has torch imported, so that one starts in
a fraction of a second and may be killed like any other process."""

import atexit
import contextlib
import ctypes
import importlib
import itertools
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from functools import reduce
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from waiting import PATIENCE, wait

from sllm.records import read_jsonl
from sllm.run_directory import checkpoint_path, checkpoint_steps
from sllm.tensors import checksums

_context = multiprocessing.get_context("forkserver")
# torch.optim imports torch._dynamo when the first optimizer is made: two seconds that every attempt would pay.
_context.set_forkserver_preload(["sllm.training.loop", "torch._dynamo", "ranks"])


FLIP, VIEW, THREADS = "SLLM_TEST_FLIP", "SLLM_TEST_VIEW", "SLLM_TEST_THREADS"
"""Variables: `RANK:STEP`, where one bit of a gradient is changed before it is used; the directory that ranks above 0
find at the place of the run's, as on a node whose file system lags behind; and the number of threads, 1 if not set."""

KILL, HIDE = "SLLM_TEST_KILL", "SLLM_TEST_HIDE"
"""Variables: `RANK:MODULE:FUNCTION`, which kills the rank where it would begin; and a directory that ranks above 0 find
empty, as on nodes without the disk that it is on."""

SUCCESSOR, SUPERSEDED = "successor", 86
"""A file beside the experiment that says that another attempt has begun, and the exit code of rank 0 that finds it."""


def _main(config: str, environment: dict[str, str], log: str, result: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)

    import logging

    import torch

    from sllm.artifacts import Artifacts
    from sllm.config import load_experiment
    from sllm.errors import Superseded, UserError
    from sllm.files import fenced_by
    from sllm.progress import report_to
    from sllm.run_directory import RunDirectory
    from sllm.stop import stop_on_signals
    from sllm.training.loop import train

    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(int(environment.get(THREADS, "1")))
    experiment = load_experiment(Path(config))
    run, successor = RunDirectory(experiment.run_path), Path(config).parent / SUCCESSOR
    run.stage("pretrain").mkdir(parents=True, exist_ok=True)
    report_to(run.progress("pretrain"), silent=environment["RANK"] != "0")

    if VIEW in environment and environment["RANK"] != "0":
        run = RunDirectory(Path(environment[VIEW]))
    at_rank, _, at_step = environment.get(FLIP, "").partition(":")
    if at_rank == environment["RANK"]:
        _flip_a_bit(int(at_step))
    at_rank, _, function = environment.get(KILL, "").partition(":")
    if at_rank == environment["RANK"]:
        _kill_at(function)
    if HIDE in environment and environment["RANK"] != "0":
        _hide(environment[HIDE])

    def check() -> None:
        if successor.exists():
            raise Superseded("another attempt owns the run")

    with stop_on_signals(last=True) as stop, fenced_by(check):
        try:
            summary = train(experiment, run, Artifacts(experiment), stop)
        except UserError as error:
            sys.stderr.write(f"user error: {error}\n")  # at once: print writes the end of the line by itself
            sys.stderr.flush()
            sys.exit(2)
        except Superseded:
            os._exit(SUPERSEDED)
    Path(result).write_text(json.dumps(summary), encoding="utf-8")


def _flip_a_bit(step: int) -> None:
    """Of one gradient, after it was clipped and before the optimizer sees it, in the step of this number."""
    import torch

    clip, calls = torch.nn.utils.clip_grad_norm_, itertools.count(1)

    def clip_and_flip(parameters: Any, *arguments: Any) -> Any:
        parameters = list(parameters)
        norm = clip(parameters, *arguments)
        if next(calls) == step:
            bits = parameters[-1].grad.view(torch.int32)
            bits[0] ^= 1 << 20
        return norm

    torch.nn.utils.clip_grad_norm_ = clip_and_flip  # type: ignore[assignment]


def _kill_at(function: str) -> None:
    module, _, path = function.partition(":")
    *above, name = path.split(".")
    owner = reduce(getattr, above, importlib.import_module(module))
    setattr(owner, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))


def _hide(directory: str) -> None:
    """Behind an empty file system that this process alone sees."""
    libc = ctypes.CDLL(None, use_errno=True)
    for failed in (libc.unshare(0x20000), libc.mount(b"none", b"/", None, 0x44000, None)):
        assert not failed, os.strerror(ctypes.get_errno())
    assert not libc.mount(b"tmpfs", directory.encode(), b"tmpfs", 0, None), os.strerror(ctypes.get_errno())


@dataclass
class Ranks:
    """The processes of one attempt."""

    processes: list[ForkServerProcess]
    results: list[Path]

    def signal_all(self, number: signal.Signals) -> None:
        """To every rank and all that they have started, as Slurm does."""
        for pid in [*(process.pid for process in self.processes if process.pid), *self.programs()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def programs(self) -> dict[int, str]:
        """Process ids and names of what the ranks have started and that runs now."""
        parents, names = {}, {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                name, _, rest = path.read_text().partition("(")[2].rpartition(")")
                pid = int(path.parent.name)
                parents[pid], names[pid] = int(rest.split()[1]), name
        found = {process.pid for process in self.processes}
        while new := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= new
        return {pid: names[pid] for pid in found & names.keys() - {process.pid for process in self.processes}}

    def signal(self, number: signal.Signals, ranks: list[int] | None = None) -> None:
        for i, process in enumerate(self.processes):
            if process.pid and process.is_alive() and (ranks is None or i in ranks):
                os.kill(process.pid, number)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def wait(self) -> list[int | None]:
        """Exit codes, negative for a signal."""
        deadline = time.monotonic() + PATIENCE
        for process in self.processes:
            process.join(max(0.1, deadline - time.monotonic()))
        stuck = [rank for rank, process in enumerate(self.processes) if process.exitcode is None]
        self.kill()
        assert not stuck, f"these ranks did not end: {stuck}"
        return [process.exitcode for process in self.processes]

    def summary(self) -> dict[str, Any]:
        """What the training returned, which is the same on every rank."""
        summaries = [json.loads(path.read_text(encoding="utf-8")) for path in self.results]
        assert all(summary == summaries[0] for summary in summaries)
        return summaries[0]


def start(config: Path, world: int, **environment: str) -> Ranks:
    """Start an attempt of the experiment at `config`; its output is appended to `ranks.log` beside it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes, results = [], []
    for rank in range(world):
        variables = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            **environment,
        }
        result = config.parent / f"result-{time.monotonic_ns()}-{rank}.json"
        arguments = (str(config), variables, str(config.parent / "ranks.log"), str(result))
        process = _context.Process(target=_main, args=arguments)
        process.start()
        processes.append(process)
        results.append(result)
    ranks = Ranks(processes, results)
    atexit.register(ranks.kill)  # before multiprocessing waits for those that a failed test has left
    return ranks


def run(config: Path, world: int, **environment: str) -> dict[str, Any]:
    """Run an attempt to its normal end and return its summary."""
    ranks = start(config, world, **environment)
    codes = ranks.wait()
    assert codes == [0] * world, (codes, (config.parent / "ranks.log").read_text(encoding="utf-8")[-3000:])
    return ranks.summary()


@dataclass
class Signalled:
    """A training to which signals were sent while it compiled, and that was then resumed on two ranks."""

    config: Path
    cache: Path
    codes: list[int | None]
    late: list[Path]
    """What was compiled after its first step."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which another attempt finds what was compiled."""
        return {"TORCHINDUCTOR_CACHE_DIR": str(self.cache)}


def signal_compilation(config: Path, cache: Path) -> Signalled:
    """Begin a compiled training with an empty cache, and send what ends a job to all of it whenever a compiler runs:
    one that looks for instruction sets may fail unseen."""
    signalled = Signalled(config, cache, [], [])
    attempt = start(config, 1, **signalled.environment)
    numbers = itertools.cycle((signal.SIGUSR2, signal.SIGTERM, signal.SIGINT))

    def ended() -> bool:
        if "cc1plus" in attempt.programs().values():
            attempt.signal_all(next(numbers))
        return not attempt.processes[0].is_alive()

    wait(ended, "the end of an attempt")
    signalled.codes = attempt.wait() + start(config, 2, **signalled.environment).wait()
    started = [record["time"] for record in read_jsonl(config.parent / "metrics.jsonl") if record["kind"] == "start"]
    files = [path for path in cache.rglob("*") if path.is_file()]
    signalled.late = [path for path in files if started and path.stat().st_mtime > started[-1]]
    return signalled


def outcome(run: Path) -> dict[str, Any]:
    """All of a training that must not depend on what it went through: figures a step, and the last checkpoint."""
    records = read_jsonl(run / "metrics.jsonl")
    names = ("kind", "step", "tokens", "loss", "gradient_norm", "learning_rate", "overflow", "languages", "samples")
    last = checkpoint_steps(run / "checkpoints")[-1]
    return {
        "records": [
            {name: record[name] for name in names if name in record}
            for record in records
            if record["kind"] in ("train", "validation")
        ],
        "last": last,
        "tensors": checksums(checkpoint_path(run / "checkpoints", last)),
    }
