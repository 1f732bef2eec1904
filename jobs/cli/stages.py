"""`sllm download, check-data, tokenizer, pack, train, conversations, finetune, validate, benchmark`: one stage, in this
process."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import STAGES, Config, Overrides, Yes, examples
from sllm.errors import Stopped, UserError

if TYPE_CHECKING:
    from sllm.config import Experiment

app = typer.Typer()

SMALL_MEGABYTES = 4


@app.command(rich_help_panel=STAGES, epilog=examples("sllm download default --small", "sllm download default --korean"))
def download(
    config: Config,
    overrides: Overrides = None,
    small: Annotated[
        bool, typer.Option("--small", help=f"Only {SMALL_MEGABYTES} MB of each source: data.limit_megabytes.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="No limit, whatever data.limit_megabytes says.")] = False,
    korean: Annotated[bool, typer.Option("--korean", help="Only the Korean sources.")] = False,
    english: Annotated[bool, typer.Option("--english", help="Only the English sources.")] = False,
    source: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this source; may be repeated.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Delete what is on disk of these sources first.")] = False,
    yes: Yes = False,
) -> None:
    """Collect, clean and split the documents, and the conversations of a fine-tuning. Goes on where the last attempt
    was ended."""
    from jobs.corpus import choose, download_conversations, download_some, forget, try_tasks_again
    from sllm.config import load_experiment

    if small and everything:
        raise UserError("--small and --all exclude each other")
    limit = [f"data.limit_megabytes={SMALL_MEGABYTES if small else 'null'}"] if small or everything else []
    changes = [*(overrides or ()), *limit]
    experiment = load_experiment(config, changes)
    languages = [language for language, wanted in (("ko", korean), ("en", english)) if wanted]
    names = choose(experiment, languages, source or [])
    if force:
        for line in forget(experiment, names, yes=yes):
            print(line)
    try_tasks_again(experiment)
    if names is None:
        _run_stage("download", config, changes, also=(lambda _: []) if small else download_conversations)
    else:
        print(_outcome("download", lambda: download_some(experiment, names)))
    if small:
        from jobs.hints import command

        print(f"for the stages after it: {limit[0]}, as in `{command('tokenizer', config, limit[0])}`")


@app.command("check-data", rich_help_panel=STAGES, epilog=examples("sllm check-data default --show-samples"))
def check_data(
    config: Config,
    overrides: Overrides = None,
    show_samples: Annotated[
        bool, typer.Option("--show-samples", help="Print some documents, and some that were dropped.")
    ] = False,
) -> None:
    """Verify the corpus, and the conversations of a fine-tuning, against their checksums and say what is in them. Exit
    code 1 if something is missing or broken."""
    from rich.console import Console

    from jobs.corpus import show_corpus
    from sllm.config import load_experiment

    raise typer.Exit(show_corpus(load_experiment(config, overrides or ()), Console(), samples=show_samples))


@app.command(rich_help_panel=STAGES, epilog=examples("sllm tokenizer my.yaml tokenizer.vocab_size=16000"))
def tokenizer(config: Config, overrides: Overrides = None) -> None:
    """Learn the tokenizer."""
    _run_stage("tokenizer", config, overrides)


@app.command(rich_help_panel=STAGES, epilog=examples("sllm pack my.yaml"))
def pack(config: Config, overrides: Overrides = None) -> None:
    """Turn the documents into token files."""
    _run_stage("pack", config, overrides)


@app.command(
    rich_help_panel=STAGES,
    epilog=examples("sllm train my.yaml", "torchrun --nproc-per-node 2 -m jobs.cli train my.yaml"),
)
def train(config: Config, overrides: Overrides = None) -> None:
    """Train the model; goes on from the newest checkpoint. Under torchrun: data-parallel."""
    from jobs.run import leave

    _run_stage("pretrain", config, overrides)
    leave(0)


@app.command(rich_help_panel=STAGES, epilog=examples("sllm conversations my.yaml"))
def conversations(config: Config, overrides: Overrides = None) -> None:
    """Get, clean and tokenize what a fine-tuning learns from."""
    _run_stage("conversations", config, overrides)


@app.command(
    rich_help_panel=STAGES,
    epilog=examples("sllm finetune my.yaml", "torchrun --nproc-per-node 2 -m jobs.cli finetune my.yaml"),
)
def finetune(config: Config, overrides: Overrides = None) -> None:
    """Teach the best model to answer; goes on from the newest checkpoint. Under torchrun: data-parallel."""
    from jobs.run import leave

    _run_stage("finetune", config, overrides)
    leave(0)


@app.command(rich_help_panel=STAGES, epilog=examples("sllm validate my.yaml"))
def validate(config: Config, overrides: Overrides = None) -> None:
    """Measure the best model on the validation documents."""
    _run_stage("validate", config, overrides)


@app.command(rich_help_panel=STAGES, epilog=examples("sllm benchmark my.yaml benchmark.batches=[1,32]"))
def benchmark(config: Config, overrides: Overrides = None) -> None:
    """Measure the speed and memory of generation and training."""
    _run_stage("benchmark", config, overrides)


def _run_stage(
    name: str, config: Path, overrides: list[str] | None, also: Callable[["Experiment"], list[str]] = lambda _: []
) -> None:
    from jobs.launch.single import run_single
    from jobs.slurm.commands import without_foreign_variables
    from sllm.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    from jobs.pipeline import TRAININGS

    # Only a training has ranks.
    with contextlib.nullcontext() if name in TRAININGS else without_foreign_variables():
        outcome = _outcome(name, lambda: "\n".join([run_single(name, experiment), *also(experiment)]))
        if int(os.environ.get("RANK", "0")) == 0:
            print(outcome)


def _outcome(name: str, work: Callable[[], str]) -> str:
    """What `work` says, or that it was stopped."""
    try:
        return work()
    except Stopped as stopped:
        return f"{name}: outcome stopped ({stopped}); the same command goes on from here"
