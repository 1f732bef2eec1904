"""`sllm generate`, `chat`, `evaluate` and `export`: which model is meant, and what a person types."""

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import command, variables
from small_models import chain_model
from waiting import wait

from jobs.cli import main
from jobs.models import find_model
from sllm.errors import UserError
from sllm.files import read_json
from sllm.manifests import read_manifest
from sllm.model.storage import save_model
from sllm.run_directory import RunDirectory
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FIRST_BYTE

Run = Callable[..., tuple[int, str, str]]
MODELS = ["tiny", "runs/tiny", "runs/tiny/", "runs/tiny/best", "tiny/best", "runs/tiny/best/model.safetensors"]


@pytest.fixture(autouse=True)
def here(place: Path, finished: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process, where PyTorch is loaded once: exit code, standard output, standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["sllm", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), *capsys.readouterr()

    return run


# --- which model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_names_of_the_best_model(name: str, here: Path) -> None:
    assert find_model(name).resolve() == here / "runs" / "tiny" / "best"
    assert find_model(str(here / "runs" / "tiny")) == here / "runs" / "tiny" / "best"


def test_a_checkpoint_generates(here: Path, run: Run) -> None:
    checkpoint = max((here / "runs" / "tiny" / "checkpoints").iterdir())
    assert find_model(str(checkpoint)) == checkpoint
    results = [
        run("generate", "Anna", "--seed", "1", "--model", str(name))
        for name in (checkpoint, checkpoint / "model.safetensors", "tiny")
    ]
    assert results[0] == results[1]
    for code, out, err in results:
        assert (code, err) == (0, "")
        assert out.startswith("Anna")


def test_the_card_tells_what_the_stages_after_the_training_measured(here: Path) -> None:
    run = here / "runs" / "tiny"
    measured = read_json(run / "stages" / "validate" / "results.json")
    step = read_manifest(run / "best", checksums=True)["step"]
    assert measured["step"] == step
    text = (run / "best" / "README.md").read_text(encoding="utf-8")
    for figures in (measured["overall"], *measured["languages"].values()):
        assert f"| {figures['bits_per_byte']:.4f} |" in text
    assert f"This is step {step} of 30" in text


def test_a_gguf_file_says_how_text_is_read_there(tmp_path: Path, run: Run) -> None:
    words = ["export", "--model", "tiny", "--format", "gguf", "--output", str(tmp_path / "tiny.gguf")]
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert re.match(rf"{tmp_path}/tiny.gguf: 0\.\d MB. llama.cpp has no pattern that .* \(docs/serving.md\)", out)
    size = (tmp_path / "tiny.gguf").stat().st_size
    assert run(*words, "--type", "q8_0")[0] == 0
    assert (tmp_path / "tiny.gguf").stat().st_size < size
    code, _, err = run("export", "--model", "tiny", "--output", str(tmp_path / "hf"), "--type", "f16")
    assert (code, err) == (2, "sllm: --type f16: is for --format gguf; leave it out\n")


def test_evaluate_compares_a_run_with_its_export(here: Path, tmp_path: Path, run: Run) -> None:
    exported = tmp_path / "exported"
    assert run("export", "--model", "tiny", "--output", str(exported))[0] == 0
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("Anna read the book by the sea. 민수는 책을 읽었다.", encoding="utf-8")
    texts = [str(tmp_path / f"{name}.txt") for name in "ab"]
    code, out, err = run("evaluate", "--model", "tiny", "--model", str(exported), "--text", *texts)
    assert code == 0, err
    assert "2 documents, 116 bytes of UTF-8, in 2 files" in out
    rows = [re.findall(r"\d[\d.,%]*(?= +│)", line) for line in out.splitlines() if line.rstrip().endswith("16 │")]
    assert len(rows) == 2
    assert rows[0] == rows[1]
    assert re.search(r"^│ tiny +│", out, re.MULTILINE), "a model is called as it was typed"
    neither = tmp_path / "neither"
    neither.mkdir()
    (neither / "config.json").write_text("{}", encoding="utf-8")
    code, _, err = run("evaluate", "--model", str(neither), "--text", *texts)
    assert (code, err) == (
        2,
        f"sllm: --model {neither}: a model neither of sllm nor of Transformers: see its config.json\n",
    )


def test_push_looks_at_what_was_typed(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, _, err = run("push", "nowhere", "me/model")
    assert code == 2
    assert err.startswith("sllm: nowhere: no model here; give a run")
    code, _, err = run("push", "tiny", "my model")
    assert code == 2
    assert err.endswith("; OWNER/my-model, say\n")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    code, _, err = run("push", "tiny", "me/model")
    assert code == 2
    assert "log in with `hf auth login`" in err


def test_what_is_not_there_names_what_is(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = here / "runs" / "tiny" / "checkpoints"
    (tmp_path / "notes").touch()
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    for name, message in {
        "nowhere": r"no model here; .* There are: (.*, )?tiny",
        "": r"no model here",
        "runs/tiny/stages": r"no model here",
        str(checkpoints): rf"no model here; .* There are: {checkpoints}/step-",
        "x" * 300: r"File name too long",
        str(tmp_path / "notes"): r"no model here",
        str(tmp_path / "export"): r"not a model of sllm",
    }.items():
        with pytest.raises(UserError, match=f"^--model {name}: {message}") as caught:
            find_model(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"lost.json: no such file"):
        find_model("tiny", Path("lost.json"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"There is none yet"):
        find_model(".")  # an export is no model to choose


def test_a_run_without_a_best_model_says_so(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    young = tmp_path / "runs" / "young"
    young.mkdir(parents=True)
    shutil.copy(here / "runs" / "tiny" / "config.yaml", young)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"young: no best model yet, .*sllm status .*young`"):
        find_model("young")
    step = shutil.copytree(
        max((here / "runs" / "tiny" / "checkpoints").iterdir()), young / "checkpoints" / "step-00000009"
    )
    with pytest.raises(UserError, match=rf"young: no best model yet, .* --model {step}$"):
        find_model("young")


@pytest.mark.parametrize("arguments", [["generate", "a"], ["chat"], ["export", "--output", "x"]])
@pytest.mark.parametrize("model", [["nowhere"], ["tiny", "--tokenizer", "nowhere"]])
def test_a_wrong_path_costs_no_torch(arguments: list[str], model: list[str], here: Path) -> None:
    code = "import atexit, sys, jobs.cli; atexit.register(lambda: print('torch' in sys.modules)); jobs.cli.main()"
    words = [sys.executable, "-c", code, *arguments, "--model", *model]
    result = subprocess.run(words, cwd=here, env=variables(), capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "False\n")
    assert re.fullmatch(r"sllm: .*nowhere: no .*\n", result.stderr)


# --- tuned models ---------------------------------------------------------------------------------


@pytest.fixture
def talker(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with run `talker`, which has a base model and a tuned one. That answers `가나 ` again and again."""
    run = RunDirectory(tmp_path / "runs" / "talker")
    run.path.mkdir(parents=True)
    shutil.copy(here / "runs" / "tiny" / "config.yaml", run.config)
    shutil.copytree(here / "runs" / "tiny" / "best", run.best)
    tokenizer = Tokenizer.load(run.best / "tokenizer.json")
    text = [tokenizer.special_tokens.index("<|assistant|>"), *(FIRST_BYTE + byte for byte in "가나 ".encode())]
    model = chain_model(*text, text[1], vocab_size=tokenizer.vocab_size, context_length=20_000)
    save_model(run.training("finetune").best, model, run.best / "tokenizer.json", tuned=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_which_commands_take_the_tuned_model(talker: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    runs = talker / "runs" / "talker"
    for name in ("talker", "runs/talker", str(runs)):
        assert find_model(name) == runs / "best"
        assert find_model(name, tuned=True) == runs / "finetune" / "best"
        assert capsys.readouterr().err == f"sllm: {name}: its tuned model; the base model is runs/talker/best\n"
    for name in ("talker/finetune", "runs/talker/finetune/", "talker/finetune/best", f"{runs}/finetune"):
        assert [find_model(name, tuned=tuned).resolve() for tuned in (False, True)] == [runs / "finetune" / "best"] * 2
    for name in ("talker/best", f"{runs}/best/model.safetensors"):
        assert find_model(name, tuned=True).resolve() == runs / "best"
    assert capsys.readouterr().err == ""
    code, out, err = run("generate", "a", "--model", "talker", "--temperature", "0", "--max-length", "8")
    assert (code, err) == (0, "")
    assert "가나" not in out
    code, out, err = run("generate", "나", "--model", "talker/finetune", "--temperature", "0", "--max-length", "8")
    assert (code, err) == (0, "")
    (talker / "a.txt").write_text("가나 가나 가나", encoding="utf-8")
    code, out, err = run("evaluate", "--model", "talker", "--model", "talker/finetune", "--text", "a.txt")
    assert code == 0
    assert "its tuned model" not in err
    assert out.count("│ talker") == 2
    code, _, err = run("push", "talker", "my model")
    assert err.startswith("sllm: talker: its tuned model; the base model is runs/talker/best\n")


def test_a_finetuning_without_a_best_model(talker: Path) -> None:
    runs = talker / "runs" / "talker"
    with pytest.raises(UserError, match=r"^--model talker/nothing: no model here"):
        find_model("talker/nothing")
    shutil.rmtree(runs / "finetune" / "best")
    assert find_model("talker", tuned=True) == runs / "best"
    with pytest.raises(UserError, match=r"talker/finetune: no best model yet, .*`.*sllm status talker` says how far"):
        find_model("talker/finetune")
    (runs / "finetune").rmdir()
    with pytest.raises(UserError, match=r"^--model talker/finetune: no model here; .* There are: talker"):
        find_model("talker/finetune")


# --- numbers and texts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--temperature", "nan"],
        ["--temperature=-1"],
        ["--top-k", "0"],
        ["--top-p", "1.5"],
        ["--repetition-penalty", "0"],
        ["--repetition-penalty", "inf"],
        ["--seed=-5"],
        ["--seed", "99999999999999999999999"],
    ],
)
def test_a_number_without_meaning_is_one_line(arguments: list[str], run: Run) -> None:
    for words in (["generate", "a"], ["chat"]):
        code, out, err = run(*words, "--model", "tiny", *arguments)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"sllm: (temperature|top_k|top_p|repetition_penalty|seed): .*\n", err)


def test_a_length_above_the_context_is_told(run: Run) -> None:
    extremes = ["--temperature", "1e-320", "--repetition-penalty", "1e-40", "--top-p", "1e-300", "--top-k", str(10**30)]
    for length, told in (([], ""), (["--max-length", "16"], ""), (["--max-length", str(10**30)], "--max-length 1")):
        code, out, err = run("generate", "", "  ", "\x00", "--model", "tiny", *length, *extremes)
        assert code == 0
        assert out.count("\n") >= 3
        assert "\ufffd" not in out
        assert err.startswith(f"sllm: {told}") if told else not err
        assert err.count("\n") == bool(told)


def test_export_names_what_is_in_the_way(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for output in (tmp_path / "file", tmp_path / "file" / "x", "x" * 300, tmp_path):
        code, out, err = run("export", "--model", "tiny", "--output", str(output))
        assert (code, out) == (2, "")
        assert err.startswith(f"sllm: {output}: ")
        assert err.count("\n") == 1
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


# --- chat -----------------------------------------------------------------------------------------


def test_chat_from_a_pipe(here: Path) -> None:
    """Replies alone go to the output, and an invalid byte ends nothing."""
    words = command("chat", "--model", "tiny", "--seed", "1", "--reply-tokens", "100000")
    lines = "민수\n".encode() + b"abc \xff\n/help\n/hlep\n\nAnna"
    result = subprocess.run(words, cwd=here, env=variables(), input=lines, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.count(b"\n") == 5
    assert b"\xef\xbf\xbd" not in result.stdout
    told = result.stderr.decode()
    assert "--reply-tokens 100000: " in told
    assert "base model" in told
    assert "/hlep: no such command" in told
    no_stdin = subprocess.run(["sh", "-c", '"$@" <&-', "-", *words], cwd=here, env=variables(), capture_output=True)
    assert no_stdin.returncode in (0, 2)
    assert b"Traceback" not in no_stdin.stderr


class Terminal:
    """`sllm chat` on a terminal."""

    def __init__(self, cwd: Path, *arguments: str) -> None:
        self.screen, its = pty.openpty()
        self.shown = b""
        self.process = subprocess.Popen(
            command("chat", *arguments),
            cwd=cwd,
            env=variables(LC_ALL="C.UTF-8", TERM="dumb"),
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )
        os.close(its)

    def until(self, pattern: bytes) -> bytes:
        """Read on until something is shown; what was shown up to there."""
        while not (found := re.search(pattern, self.shown)):
            self.shown += os.read(self.screen, 4096)
        before, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return before

    def type(self, keys: bytes) -> None:
        os.write(self.screen, keys)

    def interrupt(self, echo: bytes) -> None:
        """Ctrl-C when what was typed is shown and the program waits for more: one that comes while Python's readline
        takes a key is heard at the next key only."""
        self.until(re.escape(echo))
        stat = Path(f"/proc/{self.process.pid}/stat")
        wait(lambda: stat.read_text(encoding="utf-8").rpartition(") ")[2][0] == "S", "sleep")
        self.type(b"\x03")


def test_a_conversation_from_a_pipe(talker: Path) -> None:
    words = command("chat", "--model", "talker", "--temperature", "0", "--reply-tokens", "10", "--system", "짧게")
    lines = "민수\n\n<|user|>\n/help\nAnna".encode()
    result = subprocess.run(words, cwd=talker, env=variables(), input=lines, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.decode() == "가나 가\n" * 2 + "\n"
    told = result.stderr.decode()
    assert told.startswith("sllm: talker: its tuned model; the base model is runs/talker/best\nA tuned model")
    assert "<|user|> is a mark of the model's own" in told
    for system, model, line in (
        ("a", "talker/best", "sllm: system: a base model has learnt no conversations"),
        ("<bos>", "talker/finetune", "sllm: system: message 1, of system, holds <bos>"),
    ):
        words = command("chat", "--model", model, "--system", system)
        result = subprocess.run(words, cwd=talker, env=variables(), input=lines, capture_output=True)
        assert (result.returncode, result.stdout) == (2, b"")
        assert result.stderr.decode().startswith(line)
        assert result.stderr.count(b"\n") == 1


def test_a_conversation_on_a_terminal(talker: Path) -> None:
    """Hangul typed and erased; a reply that is stopped, after which the conversation goes on."""
    terminal = Terminal(talker, "--model", "talker", "--temperature", "0", "--reply-tokens", "15000")
    greeting = terminal.until(rb"\n> $").decode()
    assert "A tuned model" in greeting
    assert "대화를 배운" in greeting
    terminal.type("/한글".encode() + b"\x7f\x7f" + "나\n".encode())
    assert "\r\n/나: no such command".encode() in terminal.until(rb"\n> $")
    for line in ("민수는?", "Anna?"):
        terminal.type(line.encode() + b"\n")
        terminal.until("가나 가나 ".encode())
        terminal.type(b"\x03")
        assert b"No answer" not in terminal.until(rb"\n> $"), "what was said so far stays"
    terminal.type(b"half a line")
    terminal.interrupt(b"half a line")
    terminal.until(rb"Ctrl-D ends[^\n]*\n> $")
    terminal.type(b"a <|end|>\n")
    terminal.until(rb"\n<\|end\|> is a mark[^\n]*\n> $")
    terminal.type(b"\n")
    terminal.until(rb"> $")
    terminal.type(b"\x04")
    assert terminal.process.wait() == 0


def test_chat_on_a_terminal(here: Path) -> None:
    terminal = Terminal(here, "--model", "tiny", "--seed", "1")
    assert "base model" in terminal.until(rb"\n> $").decode()
    terminal.type(
        "/한글".encode() + b"\x7f\x7f" + "나".encode() + b"\x01\x06\x06\x0b\n"
    )  # ⌫ ⌫, to the start, → →, kill
    assert "\r\n/나: no such command".encode() in terminal.until(rb"\n> $")
    terminal.type(b"half a line")
    terminal.interrupt(b"half a line")
    terminal.until(rb"Ctrl-D ends[^\n]*\n> $")
    terminal.type(b"abc \xff\n")
    terminal.until(rb"\n[^\n]*\n> $")
    terminal.type(b"\x04")
    assert terminal.process.wait() == 0
