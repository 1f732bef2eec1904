"""`sllm download` with a choice of sources, `sllm check-data`, and no network after the download."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

import jobs.cli
from jobs.corpus import show_corpus
from sllm.config import load_experiment
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


def test_conversations_come_with_the_text(config: Path) -> None:
    """So that no stage after the download needs a network; and they are chosen, checked and forgotten as text is."""
    talks = config.parent / "talks.jsonl"
    rows = [{"instruction": f"{n}에 하나를 더하면 얼마인가요?", "output": f"답은 {n + 1}입니다."} for n in range(200)]
    talks.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    source = f"{{name: talks, kind: files, language: ko, paths: ['{talks}']}}"
    data = f"{{sources: [{source}], near_duplicates: false, clean: {{contamination: false}}}}"
    train = "{max_steps: 2, global_batch: 2, micro_batch: 2, learning_rate: 0.001, warmup_steps: 1}"
    tuned = f"finetune={{data: {data}, train: {train}}}"
    assert "talks: 200 conversations" in run("download", config, "--source", "talks", tuned)
    result = CliRunner().invoke(jobs.cli.app, ["check-data", str(config), tuned])
    assert result.exit_code == 1, "there is no text yet"
    output = run("download", config, "--force", tuned)
    assert output.count("deleted ") == 2, "the conversations, and what was brought of their source"
    assert "download: done" in output
    assert "talks: 200 conversations" in output
    output = run("check-data", config, "--show-samples", tuned)
    assert output.count("every file matches its checksum") == 2
    assert re.search(r"talks +200 .* ko 100\.0%", output), "the names of roles are not English"
    (shard,) = (config.parent / "data" / "corpora" / "sources").glob("talks-*/train-*.zst")
    shard.write_bytes(shard.read_bytes()[:-1])
    result = CliRunner().invoke(jobs.cli.app, ["check-data", str(config), tuned])
    assert result.exit_code == 1
    assert "sllm download CONFIG --source talks --force" in result.output
    assert "talks: 200 conversations" in run("download", config, "--source", "talks", "--force", tuned)
    assert run("check-data", config, tuned).count("every file matches its checksum") == 2


@pytest.mark.parametrize("width", [60, 80, 120])
def test_check_data_fits_the_terminal(config: Path, texts: dict[str, Path], width: int) -> None:
    more = config.parent / "more.jsonl"
    lost = [*(f"{number} 짧은 글" for number in range(40)), "긴 한국어 문장이 있습니다 " * 40]
    more.write_text("".join(json.dumps({"text": text}) + "\n" for text in lost), encoding="utf-8")
    changes = [f"data.sources.0.paths=[{more},{texts['ko']}]", "data.sources.0.name=a-korean-source"]
    run("download", config, *changes)
    console = Console(width=width, record=True, file=io.StringIO())
    assert show_corpus(load_experiment(config, changes), console, samples=True) == 0
    text = console.export_text()
    # Paths are not broken, so that they can be copied.
    assert all(cell_len(line) <= width for line in text.splitlines() if "/" not in line)
    assert re.search(r"^a-korean-source +300 +[0-9.]+ kB .*ko 100.0% +[0-9]+% *$", text, re.MULTILINE)
    flat = " ".join(text.split())
    assert re.search(r"lost: [0-9.]+ kB \([0-9.]+%\) repeated phrases, [0-9]+ bytes \([0-9.]+%\) too short", flat)
    assert "documents dropped: 40 too short, 1 repeated phrases" in flat
    assert f"a-korean-source, too short: {more} row 1" in text


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
