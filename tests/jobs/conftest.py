"""A finished run, made once with `sllm submit --on local`, and the command line as a function."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parents[2]
UMASK = 0o027


def sllm(*arguments: str | Path, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line to its end."""
    return subprocess.run(command(*arguments), cwd=cwd, env=variables(**environment), capture_output=True, text=True)


def start(*arguments: str | Path, cwd: Path, **environment: str) -> "subprocess.Popen[str]":
    """Start it as the leader of a process group, as a terminal does."""
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=variables(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


ON_TERMINAL = """
import os, sys
terminal = os.open(sys.argv[1], os.O_RDWR)  # the first that the leader of a session opens becomes its terminal
for descriptor in range(3):
    os.dup2(terminal, descriptor)
os.close(terminal)
os.execv(sys.argv[2], sys.argv[2:])
"""


def start_on_terminal(words: list[str], cwd: Path) -> tuple["subprocess.Popen[bytes]", int]:
    """Start a command on a terminal of its own. Returns our end of it too: what is shown is read from there, what is
    written there is typed, and closing it hangs up."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_TERMINAL, os.ttyname(theirs), *words],
        cwd=cwd,
        env=variables(TERM="xterm"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.read()  # nothing: it is closed when the terminal has taken its place
    os.close(theirs)
    return process, ours


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "jobs.cli", *map(str, arguments)]


def variables(**environment: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment}


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny.write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which runs of this session share their data."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="session")
def finished(place: Path, texts: dict[str, Path]) -> "subprocess.CompletedProcess[str]":
    """`sllm submit tiny.yaml` in `place`, which has run all stages as local processes, pretrain on two ranks, under
    UMASK. The permissions of what it has written are in modes.json there: who comes later writes under another."""
    submit = command("submit", tiny.write_experiment(place, texts))
    result = subprocess.run(submit, cwd=place, env=variables(), umask=UMASK, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    written = [path for name in ("runs", "data") for path in (place / name).rglob("*")]
    modes = {str(path.relative_to(place)): oct(path.stat().st_mode & 0o777) for path in written}
    (place / "modes.json").write_text(json.dumps(modes), encoding="utf-8")
    return result
