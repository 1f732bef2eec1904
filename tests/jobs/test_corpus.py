"""`sllm download` with a choice of sources, `sllm check-data`, and no network after the download."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from typer.testing import CliRunner

import jobs.cli
from sllm.errors import UserError


def run(*arguments: str | Path) -> str:
    """What the command prints. Raises UserError as it does; the exit code must be 0."""
    result = CliRunner().invoke(jobs.cli.app, [str(argument) for argument in arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def config(tmp_path: Path, texts: dict[str, Path]) -> Path:
    return tiny.write_experiment(tmp_path, texts)


def test_sources_are_chosen_by_language_or_name(config: Path) -> None:
    assert "the corpus still needs en" in run("download", config, "--korean")
    output = run("download", config, "--source", "en")
    assert "en: 300 documents" in output
    assert "still needs" not in output
    assert "done" in run("download", config)
    assert "every file matches its checksum" in run("check-data", config, "--show-samples")
    assert "en: 300 documents" in run("download", config, "--english", "--force")
    with pytest.raises(UserError, match="--source fr: no such source; valid: ko, en"):
        run("download", config, "--source", "fr")
    with pytest.raises(UserError, match=r"no source of data\.sources is of the language en"):
        run("download", config, "--english", "data.sources.1.language=ko")
    with pytest.raises(UserError, match="--small and --all exclude each other"):
        run("download", config, "--small", "--all")


def test_a_small_corpus_is_another_corpus(config: Path) -> None:
    output = run("download", config, "--small")
    assert "sllm tokenizer" in output
    assert "data.limit_megabytes=4" in output
    run("check-data", config, "data.limit_megabytes=4")
    result = CliRunner().invoke(jobs.cli.app, ["check-data", str(config)])
    assert result.exit_code == 1
    assert "not whole" in result.output


GUARDED = """
import sys

def guard(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in (None, "127.0.0.1", "localhost"):
        sys.exit(f"asked for {arguments[0]}")
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] != "127.0.0.1":
        sys.exit(f"connected to {arguments[1]}")

sys.addaudithook(guard)
from jobs.cli import main
main()
"""


def test_after_the_download_no_stage_uses_the_network(config: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", GUARDED, "submit", str(config), "--on", "here"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "runs" / "tiny" / "stages" / "benchmark" / "done.json").exists()
    proof = [sys.executable, "-c", GUARDED.replace("from jobs.cli import main\nmain()", PROBE)]
    assert "asked for huggingface.co" in subprocess.run(proof, capture_output=True, text=True).stderr


PROBE = "import socket\nsocket.getaddrinfo('huggingface.co', 443)"
