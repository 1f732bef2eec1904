"""Whatever the locale, files, logs, pipes and arguments are UTF-8, and a terminal gets what it can show."""

import io
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import command, variables
from needs import cannot_run

from sllm.files import read_json
from sllm.run_directory import RunDirectory
from sllm.utf8 import as_typed, set_up_streams

PROMPT = "뷁 안녕 🦜"


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of locales, for LOCPATH."""
    folder = tmp_path_factory.mktemp("locales")
    for name in ("ko_KR.EUC-KR", "en_US.ISO-8859-1"):
        language, _, charmap = name.partition(".")
        try:
            subprocess.run(["localedef", "-i", language, "-f", charmap, folder / name], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            cannot_run(f"needs Debian's package `locales` for {name}: {error}")
    return folder


@pytest.fixture(params=["C", "ko_KR.EUC-KR"])
def speaking(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment variables of somebody whose locale is not UTF-8."""
    if request.param == "C":
        return {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    return {"LC_ALL": request.param, "LOCPATH": str(request.getfixturevalue("locales")), "PYTHONUTF8": "0"}


def sllm(*arguments: Any, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(command(*arguments), cwd=cwd, env=variables(**environment), capture_output=True)


def on_terminal(*arguments: Any, cwd: Path, **environment: str) -> bytes:
    """What a terminal is given."""
    ours, its = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            command(*arguments), cwd=cwd, env=variables(**environment), stdin=its, stdout=its, stderr=its
        )
        os.close(its)
        shown = b""
        while data := _read(screen):
            shown += data
        assert process.wait() == 0, shown
    return shown


def _read(screen: io.RawIOBase) -> bytes:
    try:
        return screen.read(4096) or b""
    except OSError:  # the other end is closed
        return b""


def test_a_stage_that_fails_over_korean_names(speaking: dict[str, str], tmp_path: Path, texts: dict[str, Path]) -> None:
    folder = tmp_path / "뷁 데이터"
    folder.mkdir()
    damaged = folder / "글.jsonl"
    damaged.write_text("{\n", encoding="utf-8")
    config = tiny.write_experiment(folder, {"ko": damaged, "en": texts["en"]})
    result = sllm("submit", config, cwd=tmp_path, **speaking)
    assert result.returncode == 2, result.stderr.decode()
    assert str(damaged) in result.stderr.decode("utf-8")
    run = RunDirectory(folder / "runs" / "tiny")
    assert str(run.log("download")) in result.stdout.decode("utf-8")
    assert str(damaged) in run.log("download").read_text(encoding="utf-8")
    assert sllm("logs", run.path, cwd=tmp_path, **speaking).stdout == run.log("download").read_bytes()
    assert str(damaged) in sllm("status", run.path, cwd=tmp_path, **speaking).stdout.decode("utf-8")


def test_a_prompt_and_its_continuation(speaking: dict[str, str], finished: Any, place: Path) -> None:
    arguments = ("generate", PROMPT, b"abc \xff".decode("utf-8", "surrogateescape"), "--model", "runs/tiny/best")
    result = sllm(*arguments, "--seed", 1, "--max-length", 60, cwd=place, **speaking)
    assert result.returncode == 0, result.stderr.decode()
    text = result.stdout.decode("utf-8")
    assert text == sllm(*arguments, "--seed", 1, "--max-length", 60, cwd=place).stdout.decode("utf-8")
    assert text.startswith(PROMPT)
    assert "\nabc \ufffd" in text


@pytest.mark.parametrize(("locale", "shown"), [("ko_KR.EUC-KR", "안녕 ?"), ("en_US.ISO-8859-1", "? ?? ?")])
def test_a_terminal_gets_what_it_can_show(locale: str, shown: str, finished: Any, place: Path, locales: Path) -> None:
    arguments = ("generate", PROMPT, "--model", "runs/tiny/best", "--max-length", 60)
    screen = on_terminal(*arguments, cwd=place, LC_ALL=locale, LOCPATH=str(locales), PYTHONUTF8="0")
    assert shown in screen.decode(locale.partition(".")[2])
    assert b"\xe2\x94\x82" not in on_terminal("status", "tiny", cwd=place, LC_ALL=locale, LOCPATH=str(locales))


def test_what_a_terminal_types_is_in_its_encoding(place: Path, finished: Any, locales: Path) -> None:
    typed = "안녕".encode("euc-kr").decode("utf-8", "surrogateescape")
    speaking = {"LC_ALL": "ko_KR.EUC-KR", "LOCPATH": str(locales)}
    result = sllm("generate", typed, "--model", "runs/tiny/best", "--max-length", 20, cwd=place, **speaking)
    assert result.stdout.decode("utf-8").startswith("안녕")


def test_names_that_are_not_utf8(tmp_path: Path, texts: dict[str, Path]) -> None:
    """They are read, written down and shown like any other."""
    strange = b"\xff".decode("utf-8", "surrogateescape")
    folder = tmp_path / strange
    folder.mkdir()
    korean = Path(shutil.copy(texts["ko"], folder / f"{strange}.jsonl"))
    config = tiny.write_experiment(folder, {"ko": Path("*.jsonl"), "en": texts["en"]})
    result = sllm("download", config.name, "runs_directory=runs", 'validate.prompts=["뷁"]', cwd=folder)
    assert result.returncode == 0, result.stderr.decode()
    assert "뷁" in (folder / "runs" / "tiny" / "config.yaml").read_text(encoding="utf-8")
    done = read_json(folder / "runs" / "tiny" / "stages" / "download" / "done.json")
    assert str(korean) in json.dumps(done, ensure_ascii=False)
    assert sllm("status", cwd=folder).returncode == 0


def test_streams_take_every_character() -> None:
    code = "from sllm.utf8 import *; set_up_streams(); import sys; print('뷁\\ud800', file=sys.stderr); print(input())"
    for encoding in ("ascii", "latin-1", "euc-kr:strict"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=variables(PYTHONIOENCODING=encoding),
            input="가\n".encode() + b"\xff",
            capture_output=True,
        )
        assert (done.stdout.decode("utf-8"), done.stderr.decode("utf-8")) == ("가\n", "뷁?\n")
    set_up_streams()  # a test's own streams are none of a terminal


def test_arguments(tmp_path: Path) -> None:
    name = b"a\xff".decode("utf-8", "surrogateescape")
    assert as_typed("뷁") == "뷁"
    assert as_typed(str(tmp_path / name)) == f"{tmp_path}/a\ufffd"
    (tmp_path / name).touch()
    assert as_typed(str(tmp_path / name)) == str(tmp_path / name)
