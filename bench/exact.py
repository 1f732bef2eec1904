"""What exact sums cost on CPUs, and what they are for: `python bench/exact.py`. Some minutes on two cores.

A training step with exact sums beside one that accumulates fp32 gradients and leaves the mean over the ranks to DDP,
both over the same tokens and in alternating turns, on one and on two ranks. Then the weights after 20 steps on one to
four ranks: how many are different, with each way of adding. Data are random tokens. A rank has one thread, so that
how many share a product is not the question.
"""

import argparse
import hashlib
import json
import os
import socket
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from side_by_side import MINI, random_experiment, shape
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from sllm.artifacts import Artifacts
from sllm.config import Experiment
from sllm.device import device_name
from sllm.distributed import DEVICE, World, connect
from sllm.model.shared import LanguageModel
from sllm.training.trainer import Trainer

MICRO_BATCH = {"smoke": 8, "mini": 4}  # 1,024 tokens; a step has two


class Plain(Trainer):
    """fp32 gradients, accumulated over the rank's micro-batches, of which DDP takes the mean over the ranks."""

    def _distributed(self, model: LanguageModel) -> torch.nn.Module:
        self.scaler.scale = lambda loss: loss / len(self._micro_batches())  # type: ignore[method-assign]
        if self.world.size == 1:
            return model
        return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

    def _accumulate(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        losses, largest = torch.zeros(2, self.gradients.micro_batches, dtype=torch.float64)
        mine = self._micro_batches()
        self.gradients.begin(1.0)
        for number in mine:
            with self._no_sync(unless=number == mine[-1]):
                losses[number] = self._forward_backward(self._batch(number), number, self._answers())
        return losses, largest, 0.0


WAYS = {"exact": Trainer, "plain": Plain}
CLOCKS = time.perf_counter, time.process_time


def experiment_of(name: str, place: Path, global_batch: int, micro_batch: int) -> Experiment:
    """Over random tokens, which are on disk when it returns; with dropout, whatever the shape has."""
    model, vocab_size = shape(name)
    model = model.model_copy(update={"dropout": MINI.dropout})
    batches = {"precision": "fp32", "global_batch": global_batch, "micro_batch": micro_batch}
    return random_experiment(name, place, model, vocab_size, 500_000, **batches)


def seconds_of_a_step(experiment: Experiment, world: World, rounds: int) -> dict[str, list[float]]:
    """Medians, of wall clock and of this rank's CPU time, after one step to warm up."""
    trainers = {name: way(experiment, Artifacts(experiment), world) for name, way in WAYS.items()}
    seconds: dict[str, list[list[float]]] = {name: [] for name in WAYS}
    for _ in range(rounds + 1):
        for name, trainer in trainers.items():
            started = [clock() for clock in CLOCKS]
            trainer.train_step()
            seconds[name].append([clock() - start for clock, start in zip(CLOCKS, started, strict=True)])
    for trainer in trainers.values():
        trainer.close()
    return {
        name: [statistics.median(column) for column in zip(*found[1:], strict=True)] for name, found in seconds.items()
    }


def weights_of_a_training(experiment: Experiment, world: World, rounds: int) -> dict[str, str]:
    """A digest of the last weights."""
    digests = {}
    for name, way in WAYS.items():
        trainer = way(experiment, Artifacts(experiment), world)
        for _ in range(rounds):
            trainer.train_step()
        weights = b"".join(parameter.detach().numpy().tobytes() for parameter in trainer.model.parameters())
        digests[name] = hashlib.sha256(weights).hexdigest()[:12]
        trainer.close()
    return digests


def on_ranks(ranks: int, work: Any, *arguments: Any) -> dict[str, Any]:
    """What `work(experiment, world, rounds)` returns on rank 0 of so many."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as directory:
        probe.bind(("127.0.0.1", 0))
        port, result = probe.getsockname()[1], Path(directory) / "result.json"
        probe.close()
        multiprocessing.start_processes(
            _rank, (ranks, port, result, work, *arguments), nprocs=ranks, start_method="spawn"
        )
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found


def _rank(rank: int, ranks: int, port: int, result: Path, work: Any, experiment: Experiment, rounds: int) -> None:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ.update(
        {name: str(value) for name, value in variables.items()}, MASTER_ADDR="127.0.0.1", **{DEVICE: "cpu"}
    )
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
    with connect() as world:
        found = work(experiment, world, rounds)
        if world.main:
            result.write_text(json.dumps(found), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=MICRO_BATCH, default=list(MICRO_BATCH))
    parser.add_argument("--rounds", type=int, default=20, help="steps of each way that are timed")
    parser.add_argument("--steps", type=int, default=20, help="of the trainings whose weights are compared")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sllm-exact-") as directory:
        place = Path(directory)
        print(f"{device_name(torch.device('cpu'))}, torch {torch.__version__}\n")
        print("| shape | ranks | load | exact, s a step | plain | ratio | exact, CPU s | plain | ratio |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for name in arguments.shapes:
            for ranks in (1, 2):
                experiment = experiment_of(name, place, 2 * MICRO_BATCH[name], MICRO_BATCH[name])
                found = on_ranks(ranks, seconds_of_a_step, experiment, arguments.rounds)
                figures = [name, str(ranks), f"{os.getloadavg()[0]:.1f}"]
                for exact, plain in zip(*found.values(), strict=True):
                    figures += [f"{exact:.3f}", f"{plain:.3f}", f"{exact / plain:.2f}"]
                print(f"| {' | '.join(figures)} |", flush=True)
        experiment = experiment_of("smoke", place, global_batch=12, micro_batch=1)
        weights = [on_ranks(ranks, weights_of_a_training, experiment, arguments.steps) for ranks in (1, 2, 3, 4)]
        print(f"\nweights after {arguments.steps} steps on 1, 2, 3 and 4 ranks:")
        for way in WAYS:
            digests = [found[way] for found in weights]
            print(f"{way}: {len(set(digests))} different: {', '.join(digests)}")


if __name__ == "__main__":
    main()
