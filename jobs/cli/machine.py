"""`sllm doctor, drill, dev-cluster`: whether a machine or cluster does what it should."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import PROFILE, RUNNING, Overrides, examples, experiment_file, offer_experiments, offer_profiles

app = typer.Typer()


@app.command(rich_help_panel=RUNNING, epilog=examples("sllm doctor", "sllm doctor default --cluster my-cluster.yaml"))
def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="CONFIG",
            parser=experiment_file,
            autocompletion=offer_experiments,
            help="Experiment whose checkpoints must fit.",
        ),
    ] = None,
    overrides: Overrides = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="PROFILE",
            autocompletion=offer_profiles,
            help="Cluster profile to examine, on its compute nodes too.",
        ),
    ] = None,
) -> None:
    """Say what is fine, on this machine or cluster, what is not, and what the profile should say.

    Exit code 1 if something is broken."""
    from rich.console import Console

    from jobs.tools.doctor import examine
    from sllm.config import load_experiment

    experiment = load_experiment(config, overrides or ()) if config else None
    raise typer.Exit(examine(cluster, experiment, Console()))


@app.command(rich_help_panel=RUNNING, epilog=examples("sllm drill --cluster my-cluster.yaml"))
def drill(
    cluster: Annotated[str, PROFILE],
    overrides: Overrides = None,
    ranks: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,…",
            help="Numbers of ranks, one after the other, the first for the events. If not given: the profile's, 1, the "
            "profile's, twice as many.",
        ),
    ] = None,
) -> None:
    """Train something tiny on the cluster, signal, requeue and kill it, go on on other ranks, and show what survived.

    How long that takes it says at its start."""
    from rich.console import Console

    from jobs.slurm.cluster import load_cluster
    from jobs.tools.drill import drill as run_drill
    from jobs.tools.ranks import rank_counts

    counts = rank_counts(ranks) if ranks is not None else None
    _, problems = run_drill(load_cluster(cluster), overrides or (), Console(), ranks=counts)
    raise typer.Exit(1 if problems else 0)


dev_cluster = typer.Typer(help="A private Slurm on this machine, to try things on.", no_args_is_help=True)
app.add_typer(dev_cluster, name="dev-cluster", rich_help_panel=RUNNING)
ClusterDirectory = Annotated[Path, typer.Argument(help="Where it lives: a short path.")]


@dev_cluster.command(epilog=examples("sllm dev-cluster up /tmp/my-slurm"))
def up(directory: ClusterDirectory = Path("/tmp/sllm-slurm")) -> None:
    """Start it, unless it runs: two GPU nodes (declared, not real), a CPU node, partitions cpu, gpu and urgent."""
    from jobs.tools.dev_cluster import up_or_running

    cluster = up_or_running(directory)
    print(f"export SLURM_CONF={cluster.env['SLURM_CONF']}")


@dev_cluster.command(epilog=examples("sllm dev-cluster down /tmp/my-slurm"))
def down(directory: ClusterDirectory = Path("/tmp/sllm-slurm")) -> None:
    """Stop it, its jobs included, and remove its files."""
    from jobs.tools.dev_cluster import down as stop

    stop(directory)
