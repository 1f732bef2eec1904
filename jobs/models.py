"""What the commands of models need before a model is loaded: which one is meant, and a person who types."""

import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from jobs.hints import command, short
from jobs.runs import RUNS, find_run, runs_in
from sllm.errors import UserError
from sllm.files import CorruptError, read_json
from sllm.origin import CONFIG, is_theirs
from sllm.run_directory import RunDirectory, checkpoint_path, checkpoint_steps


def find_model(
    name: str,
    tokenizer: Path | None = None,
    *,
    tuned: bool = False,
    theirs: bool = False,
    option: str = "--model ",
) -> Path:
    """The directory of the model that `name` means: a run (by name or path; its best model), `finetune` in it (its
    tuned one), a checkpoint, another directory with a model, or the model.safetensors in it; with `theirs` that may be
    a Transformers model, an export among them. With `tuned` a run means its tuned model where it has one, and a line on
    standard error says so. Only names are looked at, nothing is loaded. `option` is what stands before it where it was
    typed.

    Raises:
        UserError: there is none, with those that are there; or there is no `tokenizer`.
    """
    try:
        try:
            directory = _find_model(name, tuned, theirs)
        except UserError as error:
            raise UserError(f"{option}{error}") from None
        if tokenizer is not None and not tokenizer.exists():
            raise UserError(f"{tokenizer}: no such file; name a tokenizer.json, or leave it out")
    except OSError as error:  # a name that is too long, a folder that is closed to us
        raise UserError(f"{option}{name}: {error.strerror}") from None
    return directory


def _find_model(name: str, tuned: bool, theirs: bool) -> Path:
    for path in (Path(name), RUNS / name):
        directory = path.parent if path.is_file() else path
        if (directory / CONFIG).is_file():
            _refuse_others(directory, theirs)
            return directory
    training = _find_training(name)
    best = training.training("finetune").best
    if tuned and (best / CONFIG).is_file():
        print(f"sllm: {name}: its tuned model; the base model is {short(training.best)}", file=sys.stderr)
        return best
    if not (training.best / CONFIG).is_file():
        checkpoints, run = _checkpoints(training), RunDirectory.above(training.best)
        assert run is not None
        how_far = f"`{command('status', run)}` says how far it is"
        way_out = f"until then: --model {checkpoints[-1]}" if checkpoints else how_far
        raise UserError(f"{name}: no best model yet, which its first validation writes; {way_out}")
    return training.best


def _find_training(name: str) -> RunDirectory:
    """A run, or the folder of its finetuning."""
    path = Path(name)
    with contextlib.suppress(UserError):
        return find_run(name)
    with contextlib.suppress(UserError):
        training = find_run(str(path.parent)).training("finetune")
        if path.name == "finetune" and training.path.is_dir():
            return training
    raise UserError(f"{name}: no model here; give a run or a directory with a model. {_models(path)}")


def _refuse_others(directory: Path, theirs: bool) -> None:
    if _is_ours(directory) or (theirs and is_theirs(directory)):
        return
    if theirs:
        raise UserError(f"{directory}: a model neither of sllm nor of Transformers: see its {CONFIG}")
    raise UserError(f"{directory}: not a model of sllm; of an export give the model it was made from")


def _is_ours(directory: Path) -> bool:
    """Whether a directory with a config.json is a model of sllm, perhaps a damaged one: loading says more."""
    try:
        about = read_json(directory / CONFIG)
    except CorruptError:
        return True
    return isinstance(about, dict) and "model" in about


def _checkpoints(run: RunDirectory) -> list[Path]:
    return [checkpoint_path(run.checkpoints, step) for step in checkpoint_steps(run.checkpoints)]


def _models(directory: Path) -> str:
    """Those that could have been meant."""
    configs = sorted(directory.glob(f"*/{CONFIG}")) if directory.is_dir() else []
    inside = [str(config.parent) for config in configs if _is_ours(config.parent)]
    runs = [run.name for run in runs_in(RUNS) if (run.best / CONFIG).is_file() or _checkpoints(run)]
    return f"There are: {', '.join(inside or runs)}" if inside or runs else f"There is none yet under {RUNS}/"


def keyboard() -> Callable[[str], str]:
    """How a chat reads its lines: on a terminal with line editing and a prompt, from a pipe as they are.
    Ctrl-C ends a chat from a pipe: nobody is there to say /quit.
    """
    if sys.stdin is None:
        raise UserError("chat: standard input is closed, so nobody can write")
    if not sys.stdin.isatty():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        return lambda _: input()
    with contextlib.suppress(ImportError):  # some builds of Python have none; then the terminal's own editing
        import readline  # noqa: F401 - `input` uses it once it is there
    return input
