"""One YAML file plus dotted overrides (`train.max_steps=500`) make an experiment; and it is written as such a file.

Paths are made absolute when the file is loaded, so that a job may run from any folder.
"""

from pathlib import Path
from typing import Any, TypeVar

from sllm.config.data import DataConfig
from sllm.config.problems import COMMAND_LINE, Origins, place_of, printable, shortened, validate
from sllm.config.schema import Experiment
from sllm.config.section import fields, listed
from sllm.config.sources import AihubSource, FilesSource, Source
from sllm.config.yaml_text import dump_yaml, load_yaml, parse_yaml
from sllm.errors import UserError

Data = TypeVar("Data", bound=DataConfig)

DEEPEST = 16


def load_experiment(path: Path, overrides: tuple[str, ...] | list[str] = ()) -> Experiment:
    """Read an experiment. Raises UserError with every problem of the file and the overrides, one a line."""
    path = Path(path)
    values = load_yaml(path)
    _require_experiment(values, path)
    origins: Origins = {(): str(path)}
    _read_catalogues(values, path.parent, origins)
    for override in overrides:
        apply_override(values, override, origins)
        _read_catalogues(values, Path(), origins)
    return _absolute_paths(validate(Experiment, values, origins))


def _require_experiment(values: Any, path: Path) -> None:
    """Raises UserError if the file is of another kind."""
    if values is None:
        raise UserError(f"{path}: is empty; an experiment has the sections data, model and train")
    if not isinstance(values, dict):
        hint = "; a list of sources is named in an experiment: data.sources=FILE" if isinstance(values, list) else ""
        raise UserError(f"{path}: not an experiment, which is a mapping of sections (data, model, train …){hint}")
    if values and not values.keys() & fields(Experiment).keys():
        if values.keys() <= {"defaults", "stages"}:
            raise UserError(f"{path}: a cluster profile, not an experiment; give it as --cluster {path}")
        valid = ", ".join(fields(Experiment))
        raise UserError(f"{path}: not an experiment: it has {listed(list(values))}, and none of {valid}")


def _read_catalogues(values: dict[str, Any], folder: Path, origins: Origins) -> None:
    """Put lists of sources in place where `data.sources` names the file that holds them, relative to `folder`."""
    for above in ((), ("finetune",)):
        of = values.get(*above) if above else values
        data = of.get("data") if isinstance(of, dict) else None
        if isinstance(data, dict) and isinstance(data.get("sources"), str):
            key, path = (*above, "data", "sources"), folder / data["sources"]
            try:
                data["sources"] = load_yaml(path)
            except UserError as error:
                raise UserError(f"{place_of(key, origins)}: {printable(str(error))}") from None
            origins[key] = str(path)


def apply_override(values: dict[str, Any], override: str, origins: Origins) -> None:
    """Set `a.b.0.c=value` in nested dicts and lists; the value is YAML."""
    dotted, equals, text = override.partition("=")
    keys, place = tuple(dotted.strip().split(".")), f"{shortened(override)}{COMMAND_LINE}"
    if not equals or not all(keys):
        raise UserError(f"{shortened(override)!r}: an override is written key=value, for example train.max_steps=500")
    if len(keys) > DEEPEST:
        raise UserError(f"{place}: no key is as deep as {len(keys)} levels")
    value = parse_yaml(text, place, lines=False)
    target: Any = values
    for depth, key in enumerate(keys):
        at = _list_index(target, key, place) if isinstance(target, list) else key
        if depth == len(keys) - 1:
            target[at] = value
        elif isinstance(target, dict) and target.get(key) is None:
            target[key] = {}
            origins[keys[: depth + 1]] = place
            target = target[key]
        else:
            target = target[at]
            if not isinstance(target, dict | list):
                raise UserError(f"{place}: {'.'.join(keys[: depth + 1])} is a value and has no keys below it")
    for below in [key for key in origins if key[: len(keys)] == keys]:
        del origins[below]
    origins[keys] = place


def _list_index(items: list[Any], key: str, place: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) < 10 and int(key) < len(items)):
        valid = f"use 0 to {len(items) - 1}" if items else "it is empty"
        raise UserError(f"{place}: {shortened(key)!r} is not a position in a list of {len(items)}; {valid}")
    return int(key)


def _absolute_paths(experiment: Experiment) -> Experiment:
    runs, origin, finetune = _absolute(experiment.runs_directory), experiment.train.init_from, experiment.finetune
    if origin is not None:  # a name is that of a run
        origin = _absolute(origin if "/" in origin or origin.startswith("~") else f"{runs}/{origin}")
    if finetune is not None:
        finetune = finetune.model_copy(update={"data": _with_absolute_paths(finetune.data)})
    return experiment.model_copy(
        update={
            "runs_directory": runs,
            "train": experiment.train.model_copy(update={"init_from": origin}),
            "data_directory": _absolute(experiment.data_directory),
            "data": _with_absolute_paths(experiment.data),
            "finetune": finetune,
        }
    )


def _with_absolute_paths(data: Data) -> Data:
    sources: list[Source] = []
    for source in data.sources:
        if isinstance(source, FilesSource):
            source = source.model_copy(update={"paths": tuple(_absolute(path) for path in source.paths)})
        elif isinstance(source, AihubSource):
            source = source.model_copy(update={"folder": _absolute(source.folder)})
        sources.append(source)
    return data.model_copy(update={"sources": tuple(sources)})


def _absolute(path: str) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError:
        raise UserError(f"{path}: {path.split('/')[0]} is nobody's home directory") from None


def write_experiment(experiment: Experiment) -> str:
    """The YAML text that loads back to this experiment."""
    return dump_yaml(experiment.to_dict())
