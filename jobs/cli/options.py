"""What several commands take, and what their help pages have in common."""

import glob
from pathlib import Path
from typing import Annotated

import typer


def examples(*commands: str) -> str:
    """The last lines of a help page."""
    return "\n\n".join(["Examples:", *(f"  {command}" for command in commands)])


# What the shell offers when Tab is pressed.


def offer_experiments(incomplete: str) -> list[str]:
    from jobs.presets import preset_names

    presets = [name for name in preset_names() if name.startswith(incomplete)]
    return presets + [path for path in _paths(incomplete) if path.endswith((".yaml", "/"))]


def _paths(incomplete: str) -> list[str]:
    paths = sorted(glob.glob(f"{glob.escape(incomplete)}*"))  # noqa: PTH207 - as typed, ./ and all
    return [f"{path}/" if Path(path).is_dir() else path for path in paths]


def offer_profiles(incomplete: str) -> list[str]:
    from jobs.presets import profile_names

    return [name for name in profile_names() if name.startswith(incomplete)]


def offer_runs(incomplete: str) -> list[str]:
    from jobs.runs import RUNS, runs_in

    return [run.name for run in runs_in(RUNS) if run.name.startswith(incomplete)]


def offer_models(incomplete: str) -> list[str]:
    return offer_runs(incomplete) + [path for path in _paths(incomplete) if path.endswith(("/", ".safetensors"))]


def offer_stages(incomplete: str) -> list[str]:
    from jobs.pipeline import STAGES

    return [name for name in STAGES if name.startswith(incomplete)]


def experiment_file(name: str) -> Path:
    from jobs.presets import find_experiment

    return find_experiment(name)


RUNNING, STAGES, MODELS = "Runs", "One stage, in this process", "Models"
"""The panels of `sllm --help`."""

Config = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG",
        parser=experiment_file,
        autocompletion=offer_experiments,
        help="Experiment: a file, or one that comes with sllm (smoke, small, default, my-files).",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change: train.max_steps=500", metavar="KEY=VALUE")
]
PROFILE = typer.Option(
    metavar="PROFILE",
    autocompletion=offer_profiles,
    help="Cluster profile: a file, or one that comes with sllm (laptop, h100, dev).",
)
RunName = Annotated[
    str, typer.Argument(metavar="RUN", autocompletion=offer_runs, help="Name of a run under runs/, or a path.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
