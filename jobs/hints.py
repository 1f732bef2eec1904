"""Commands that we print for people to copy: they work as printed, in the folder and shell that they are printed in."""

import shlex
import shutil
import sys
from pathlib import Path

from sllm.run_directory import RunDirectory


def program() -> str:
    """How to call us: `sllm` where that finds this installation, else the path of its script."""
    script = Path(sys.executable).with_name("sllm")
    found = shutil.which("sllm")
    if found is not None and Path(found).resolve() == script.resolve():
        return "sllm"
    if script.is_file():
        return "./sllm" if script.parent == Path.cwd() else shlex.quote(short(script))
    return f"{shlex.quote(sys.executable)} -m jobs.cli"


def command(*words: str | Path | RunDirectory) -> str:
    """`.venv/bin/sllm cancel smoke`: a command of ours."""
    shown = [shlex.quote(name_of(word) if isinstance(word, RunDirectory) else str(word)) for word in words]
    return " ".join([program(), *shown])


def command_line() -> str:
    """The command that this process was started with."""
    return shlex.join(["sllm", *sys.argv[1:]])


def name_of(run: RunDirectory) -> str:
    """What `find_run` finds it by from here: its name under runs/, or its path."""
    return run.name if Path("runs", run.name).absolute() == run.path.absolute() else short(run.path)


def short(path: Path) -> str:
    """Relative to the current folder if it is below it."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
