"""What comes with sllm: experiments and cluster profiles; and an experiment by its name."""

import difflib
from pathlib import Path

from sllm.config import Experiment, load_experiment
from sllm.config.yaml_text import similar_file
from sllm.errors import UserError
from sllm.report.settings import changes
from sllm.run_directory import RunDirectory

# A link to the folder of a checkout; an installed package holds the files themselves.
CONFIGS = (Path(__file__).parent / "configs").resolve()
PROFILES = CONFIGS / "cluster"


def preset_names() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def profile_names() -> list[str]:
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def nearest_preset(experiment: Experiment) -> tuple[str, Experiment]:
    """The experiment that comes with sllm from which the fewest settings differ: the one that a file began as."""
    presets = {name: load_experiment(CONFIGS / f"{name}.yaml") for name in preset_names()}
    mine = experiment.to_dict()
    name = min(presets, key=lambda name: len(changes(presets[name].to_dict(), mine)))
    return name, presets[name]


def find_experiment(name: str) -> Path:
    """The file that a user means by `name`: a path, or the name of an experiment that comes with sllm.

    Raises:
        UserError: there is no such file; the message has the one that is meant, if it can be told.
    """
    path = Path(name)
    if path.is_file() or (path.exists() and not path.is_dir()):  # a pipe is no regular file
        return path
    if name in preset_names():
        return CONFIGS / f"{name}.yaml"
    for run in (path, Path("runs") / path):
        if RunDirectory(run).config.is_file():
            raise UserError(f"{name}: a run; its experiment is {RunDirectory(run).config}")
    if path.is_dir():
        return path  # reading it says which files are in it
    if path.stem in profile_names():
        raise UserError(f"{name}: a cluster profile, not an experiment; give it as --cluster {path.stem}")
    presets = difflib.get_close_matches(path.stem, preset_names(), n=1)
    near = similar_file(path) or (f"{presets[0]}, which comes with sllm" if presets else None)
    there_are = "" if near or path.suffix or "/" in name else f"; with sllm come: {', '.join(preset_names())}"
    raise UserError(f"{name}: no such file" + (f"; did you mean {near}?" if near else there_are))
