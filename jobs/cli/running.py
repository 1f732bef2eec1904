"""`sllm submit, prepare, status, report, compare, logs, cancel, sync, config`: runs as a whole."""

import contextlib
import errno
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.cli.options import PROFILE, RUNNING, Config, Overrides, RunName, Yes, examples, offer_runs, offer_stages
from sllm.errors import UserError

app = typer.Typer()

HERE = Path(__file__).parents[1]
SCRIPTS, H100 = (HERE / "sbatch").resolve(), (HERE / "configs" / "cluster" / "h100.yaml").resolve()


def _print_reference(wanted: bool) -> None:
    if wanted:
        from jobs.reference import reference

        print(reference(), end="")
        raise typer.Exit


@app.command(
    rich_help_panel=RUNNING,
    epilog=examples(
        "sllm submit smoke",
        "sllm submit my.yaml train.max_steps=500 name=short --until pretrain",
        f"cp {H100} my-cluster.yaml  # and edit it",
        "sllm submit default --on slurm --cluster my-cluster.yaml --dry-run",
    ),
)
def submit(
    config: Config,
    overrides: Overrides = None,
    on: Annotated[
        Literal["here", "local", "slurm"] | None,
        typer.Option(
            help="here: in this process; local: as processes of this machine; slurm: as jobs. If not given: slurm with "
            "a profile for it, else where the run ran before, else local."
        ),
    ] = None,
    cluster: Annotated[str | None, PROFILE] = None,
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", autocompletion=offer_stages, help="Stop after this stage.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run and why; run nothing.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Only go on: submit what is missing, and refuse if a setting has changed.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Run every stage that is not done: download, tokenizer, pack, pretrain, validate, benchmark, report; with a
    section finetune conversations and finetune, too."""
    from rich.console import Console

    from jobs.launch.order import Order, destination
    from jobs.launch.show import show_plan
    from jobs.launch.submit import submit as launch
    from sllm.config import load_experiment

    experiment = load_experiment(config, overrides or ())
    where, profile, why = destination(experiment, on, cluster)
    console = Console()
    if why:
        console.print(f"On {where}: {why}; --on says otherwise", highlight=False, soft_wrap=True)
    order = Order(experiment, profile, where, until, resume, yes)
    if dry_run:
        show_plan(order, console)
    else:
        raise typer.Exit(launch(order, console))


@app.command(
    rich_help_panel=RUNNING,
    epilog=examples(
        "sllm prepare smoke --cluster my-cluster.yaml",
        f"{SCRIPTS}/pipeline.sh smoke",
    ),
)
def prepare(
    config: Config,
    overrides: Overrides = None,
    cluster: Annotated[str, PROFILE] = "h100",
    yes: Yes = False,
) -> None:
    """Write the run directory for the scripts in sbatch/, and print its path."""
    from jobs.launch.order import Order
    from jobs.launch.submit import prepare as prepare_run
    from jobs.slurm.cluster import load_cluster
    from sllm.config import load_experiment

    order = Order(load_experiment(config, overrides or ()), load_cluster(cluster), "slurm", yes=yes)
    print(prepare_run(order).path)


@app.command(rich_help_panel=RUNNING, epilog=examples("sllm status", "sllm status smoke --watch"))
def status(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", autocompletion=offer_runs, help="A run, or a folder of runs; all in runs/ if not given."
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh until Ctrl-C.")] = False,
) -> None:
    """Show where a run stands: stages, attempts, step, loss, speed, time left."""
    from rich.console import Console, RenderableType
    from rich.live import Live

    from jobs.runs import RUNS, find_run, runs_in
    from jobs.status.tables import run_table, runs_table

    def table() -> RenderableType:
        if run is None or runs_in(Path(run)):
            return runs_table(Path(run) if run else RUNS)
        return run_table(find_run(run))

    if not watch:
        Console().print(table())
        return
    import time

    with Live(table(), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(2)
                live.update(table(), refresh=True)
        except KeyboardInterrupt:
            return


@app.command(rich_help_panel=RUNNING, epilog=examples("sllm report smoke"))
def report(run: RunName) -> None:
    """Write the page of a run, at any time, and print its path: result, curves, life, samples, tasks, settings."""
    from jobs.runs import find_run
    from sllm.report.page import write_report

    directory = find_run(run)
    with _writing(directory.report, "or copy the run to a place of yours"):
        print(write_report(directory))


@contextlib.contextmanager
def _writing(path: Path, way_out: str) -> Iterator[None]:
    """What keeps `path` from being written, in one line. (A full disk has a line of its own.)"""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{path} cannot be written ({error.strerror}: {error.filename}); put that right, {way_out}"
        ) from None


@app.command(
    rich_help_panel=RUNNING, epilog=examples("sllm compare smoke wide", "sllm compare smoke wide --output page.html")
)
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", autocompletion=offer_runs, help="Two runs or more: names or paths.")
    ],
    output: Annotated[Path | None, typer.Option(help="Also write a page with the table and the curves.")] = None,
) -> None:
    """Show runs beside each other: settings that differ, losses, bits per byte, tasks, hours."""
    from rich.console import Console

    from jobs.runs import find_run
    from jobs.status.compare import comparison_table
    from sllm.report.compare import compare as compare_runs
    from sllm.report.compare import write_page

    compared = compare_runs([find_run(run) for run in runs])
    Console().print(comparison_table(compared))
    if output is not None:
        with _writing(output, "or name another file"):
            write_page(compared, output)
        print(output)


@app.command(rich_help_panel=RUNNING, epilog=examples("sllm logs smoke pretrain --follow"))
def logs(
    run: RunName,
    stage: Annotated[
        str | None, typer.Argument(autocompletion=offer_stages, help="The stage; the one that wrote last if not given.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the stage is over.")] = False,
) -> None:
    """Print the log of a stage, all its attempts."""
    from jobs.pipeline import STAGES, whole_stage
    from jobs.runs import find_run
    from jobs.status.logs import follow as follow_log
    from jobs.status.logs import newest_log

    directory = find_run(run)
    if stage is not None and whole_stage(stage) not in STAGES:
        raise UserError(f"{stage}: no such stage; valid: {', '.join(STAGES)}")
    name = stage or newest_log(directory)
    if follow:
        for text in follow_log(directory, name):
            print(text, end="", flush=True)
    elif directory.log(name).exists():
        sys.stdout.write(directory.log(name).read_text(encoding="utf-8", errors="replace"))
    else:
        raise UserError(f"{directory.log(name)}: {name} has not written a log yet")


@app.command(rich_help_panel=RUNNING, epilog=examples("sllm cancel smoke"))
def cancel(run: RunName) -> None:
    """Stop a run: its stage saves a checkpoint and ends. The same submit goes on from there."""
    from jobs.launch.busy import cancel as cancel_run
    from jobs.runs import find_run

    print(cancel_run(find_run(run)))


@app.command(rich_help_panel=RUNNING, epilog=examples("sllm sync smoke"))
def sync(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", autocompletion=offer_runs, help="Runs; all if none is given.")
    ] = None,
) -> None:
    """Send to W&B the steps it does not have yet: of runs whose compute nodes have no network."""
    from jobs.tools.sync import sync as sync_runs

    for line in sync_runs(runs or []):
        print(line, flush=True)


@app.command(
    rich_help_panel=RUNNING,
    epilog=examples("sllm config smoke model.d_model=256", "sllm config small > my.yaml", "sllm config --reference"),
)
def config(
    config: Config,
    overrides: Overrides = None,
    reference: Annotated[
        bool,
        typer.Option(
            "--reference", is_eager=True, callback=_print_reference, help="Print what each key means; no more."
        ),
    ] = False,
) -> None:
    """Print the resolved experiment, its parameters and tokens, and the time, memory and disk it takes."""
    from jobs.describe import describe_experiment
    from sllm.config import load_experiment

    print(describe_experiment(load_experiment(config, overrides or ())), end="")
