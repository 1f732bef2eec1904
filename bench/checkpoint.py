"""How long a training stands still for a checkpoint: `python bench/checkpoint.py`. About a minute on two cores.

Two ranks with the weights and the moments of a shipped model, in alternating turns: *at once* is what the training did
before, all ranks waiting while rank 0 writes all, hashes what it has written, and flushes; *beside* is what it does
(`sllm.training.saver`), where the ranks wait for the copies only. Durable is when a reader would find the checkpoint.
CPU seconds are rank 0's, in the same time; beside: of the thread that trains. The buffer is allocated before, as in a
training, beside its first steps. Nothing trains meanwhile.
"""

import argparse
import os
import shutil
import socket
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import multiprocessing

from sllm.config import CheckpointConfig, Experiment, load_experiment
from sllm.distributed import DEVICE, World, connect
from sllm.files import make_directory, write_json
from sllm.manifests import atomic_directory
from sllm.model.families import make_model
from sllm.model.storage import write_description
from sllm.training.checkpoint import Checkpoints
from sllm.training.optim import make_optimizers
from sllm.training.saver import Saver
from sllm.training.snapshot import optimizer_tensors

ROOT = Path(__file__).parents[1]

TOLD = {
    "at once": "stands, at once",
    "CPU at once": "  CPU",
    "beside": "stands, beside",
    "CPU beside": "  CPU",
    "durable": "durable, beside",
}
Figures = dict[str, list[float]]


def measure(experiment: Experiment, directory: Path, world: World, rounds: int) -> Figures:
    """Seconds of each round, on rank 0, as TOLD says; and the `gigabytes` of each."""
    model = make_model(experiment.model, experiment.tokenizer.vocab_size)
    optimizers = make_optimizers(model, experiment.train)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    for optimizer in optimizers:
        optimizer.step()
    model.zero_grad()
    if world.main:
        make_directory(directory)
    saver = Saver(Checkpoints(directory, CheckpointConfig(keep_last=1)), world)
    figures: Figures = {name: [] for name in (*TOLD, "gigabytes")}
    if saver.snapshot:
        saver.snapshot.allocate(model, optimizers)
    for number in range(rounds):
        world.barrier()
        began, spent = time.perf_counter(), time.process_time()
        if world.main:
            with atomic_directory(directory / "former") as place:
                save_file(model.state_dict(), place / "model.safetensors")
                save_file(optimizer_tensors(model, optimizers), place / "optimizer.safetensors")
                write_description(place, model)
                write_json(place / "state.json", {"step": number})
        world.barrier()
        figures["at once"].append(time.perf_counter() - began)
        figures["CPU at once"].append(time.process_time() - spent)
        began, spent = time.perf_counter(), time.thread_time()
        saver.start(number, model, optimizers, {}, began)
        world.barrier()
        figures["beside"].append(time.perf_counter() - began)
        figures["CPU beside"].append(time.thread_time() - spent)
        saver.finish()
        figures["durable"].append(time.perf_counter() - began)
        if world.main:
            files = saver.checkpoints.path(number).iterdir()
            figures["gigabytes"].append(sum(file.stat().st_size for file in files) / 1e9)
    return figures


def _rank(rank: int, ranks: int, port: int, config: str, directory: Path, rounds: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), DEVICE: "cpu"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with connect() as world:
        figures = measure(load_experiment(Path(config)), directory, world, rounds)
        if world.main:
            size = f"{figures['gigabytes'][0]:.2f} GB"
            print(f"{config} on {ranks} ranks, {size}; seconds, median of {rounds} rounds (all of them)")
            for name, told in TOLD.items():
                each = ", ".join(f"{seconds:.2f}" for seconds in figures[name])
                print(f"{told:<16} {statistics.median(figures[name]):6.2f}  ({each})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=str(ROOT / "configs" / "small.yaml"))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--directory", help="a folder on the disk to be measured, in which one is made for a while")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(dir=arguments.directory))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        given = (arguments.ranks, port, arguments.config, directory, arguments.rounds)
        multiprocessing.spawn(_rank, given, nprocs=arguments.ranks)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
