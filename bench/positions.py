"""How large should the fixed sinusoid be beside embeddings drawn with std 0.02? Trains the same small model with the
position table at several sizes and prints the validation losses side by side.

    python bench/positions.py [--config configs/smoke.yaml] [--steps 200]

Needs the packed tokens of the config: `sllm submit CONFIG --until pack`.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from sllm.artifacts import Artifacts
from sllm.config import Experiment, load_experiment
from sllm.data.sampler import PackedData, Sampler
from sllm.distributed import connect
from sllm.evaluation.loss import evaluate
from sllm.model.gpt2 import GPT, POSITION_SIZE
from sllm.progress import track
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer
from sllm.training.optim import learning_rate, make_optimizer

# Root mean square of the position table; a plain sinusoid's is 1/√2.
SIZES = (0.7071, 0.1, 0.02, 0.01, POSITION_SIZE, 0.002, 0.0)


def train(experiment: Experiment, artifacts: Artifacts, size: float) -> dict[int, float]:
    """Validation loss by step of a model whose positions have root mean square `size`."""
    config = experiment.train
    tokenizer = Tokenizer.load(artifacts.tokenizer / "tokenizer.json")
    data = PackedData.open(artifacts.packed, tokenizer.fingerprint)
    weights = {source.name: source.weight for source in experiment.data.sources}
    sampler = Sampler(data, weights, experiment.model.context_length, experiment.seed)
    torch.manual_seed(experiment.seed)
    model = GPT(experiment.model, tokenizer.vocab_size)
    model.positions.mul_(size / POSITION_SIZE)
    optimizer = make_optimizer(model, config)
    losses = {}
    with connect() as world, track(f"positions {size:g}", config.max_steps, "steps") as bar:
        for step in range(1, config.max_steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config)
            tokens = torch.from_numpy(sampler.batch((step - 1) * config.global_batch, config.global_batch))
            loss = model(tokens[:, :-1], tokens[:, 1:])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            bar.advance(loss=f"{loss.item():.3f}")
            if step % (config.max_steps // 4) == 0:
                result = evaluate(
                    model,
                    data,
                    tokenizer,
                    tokens_per_source=experiment.validate_.tokens,
                    batch=experiment.validate_.batch,
                    world=world,
                    stop=StopFlag(),
                )
                assert result is not None
                losses[step] = result["overall"]["loss"]
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/smoke.yaml"))
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    experiment = load_experiment(arguments.config, [f"train.max_steps={arguments.steps}"])
    results = {size: train(experiment, Artifacts(experiment), size) for size in SIZES}
    table = Table(title="Validation loss (nats per token) by size of the position table")
    table.add_column("root mean square")
    for step in results[SIZES[0]]:
        table.add_column(f"step {step}", justify="right")
    for size, losses in results.items():
        table.add_row(f"{size:g}", *(f"{loss:.3f}" for loss in losses.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
