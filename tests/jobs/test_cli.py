"""What a user types wrong ends in one line and exit code 2, with nothing written."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from jobs.cli import main
from sllm.config import load_experiment

Sllm = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sllm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Sllm:
    """The command line in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["sllm", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
            raise SystemExit(0)
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def config(tmp_path: Path, texts: dict[str, Path]) -> Path:
    return tiny.write_experiment(tmp_path, texts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["submit", "tiny.yaml", "train.max_stesp=3"], "train.max_stesp=3 (command line): unknown key; did you mean"),
        (["submit", "tiny.yaml", "train.max_steps=many"], "train.max_steps=many (command line): 'many'"),
        (["submit", "tiny.yaml", "train.warmup_steps=99"], "(command line): 99 is not below max_steps (30)"),
        (["submit", "tiny.yaml", "seed"], "an override is written key=value"),
        (["submit", "tiny.yaml", "train.micro_batch=4"], "cannot be split into micro-batches of 4 on 2 ranks; valid:"),
        (["submit", "tiny.yaml", 'data.sources.0.paths=["no*.txt"]'], "no*.txt"),
        (["submit", "tiny.yaml", "--until", "nowhere"], "--until nowhere: no such stage; valid: download"),
        (["submit", "tiny.yaml", "--cluster", "nowhere"], "--cluster nowhere: no such file"),
        (["submit", "tiny.yaml", "--on", "slurm"], "--on slurm: needs --cluster PROFILE"),
        (["submit", "tiny.yaml", "runs_directory=tiny.yaml"], "cannot be written (Not a directory)"),
        (["train", "tiny.yaml"], "pretrain: needs the stage pack, which is not done (not done yet); run `sllm pack"),
        (["status", "nowhere"], "nowhere: no run of this name"),
        (["logs", "nowhere"], "nowhere: no run of this name"),
        (["cancel", "nowhere"], "nowhere: no run of this name"),
        (["generate", "Anna", "--model", "nowhere"], "nowhere: no model here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_one_line_and_nothing_written(
    sllm: Sllm, config: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, out, err = sllm(*arguments)
    assert code == 2
    assert err.startswith("sllm: ")
    assert err.count("\n") == 1
    assert message in err
    assert out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_every_problem_has_its_line(sllm: Sllm, config: Path) -> None:
    code, _, err = sllm("submit", str(config), "train.max_stesp=3", "model.n_heads=3", "seed=-1")
    assert code == 2
    lines = err.strip().split("\n")
    assert len(lines) == 3
    for override in ("train.max_stesp=3", "model.n_heads=3", "seed=-1"):
        assert any(line.startswith(f"sllm: {override} (command line): ") for line in lines), override


def test_without_slurm(sllm: Sllm, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = sllm("submit", str(config), "--on", "slurm", "--cluster", "dev")
    assert (code, err) == (
        2,
        "sllm: --on slurm: sbatch, srun, squeue not found; run this on a login node of the cluster\n",
    )


@pytest.mark.parametrize("arguments", [["fly"], ["submit", "--fly"], ["submit"], ["submit", "x", "--on", "moon"]])
def test_unknown_words_exit_with_2(sllm: Sllm, arguments: list[str]) -> None:
    code, _, err = sllm(*arguments)
    assert code == 2
    assert "Traceback" not in err


def test_config_prints_a_file_that_loads_back(sllm: Sllm, config: Path, tmp_path: Path) -> None:
    code, out, _ = sllm("config", str(config), "seed=3")
    assert code == 0
    (tmp_path / "again.yaml").write_text(out, encoding="utf-8")
    assert load_experiment(tmp_path / "again.yaml") == load_experiment(config, ["seed=3"])
    # d_model 16, d_ff 32, one layer: 4·16² + 2·16·32 weights, 3·16+16+32+16 biases, norms 3·2·16; 300 embeddings.
    assert "parameters       7,056 (2,256 without embeddings)" in out
    assert "tokens per step  64\n" in out
    assert "tokens in all    1,920\n" in out


def test_dry_run_names_reasons_and_resources_and_writes_nothing(sllm: Sllm, config: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = sllm("submit", str(config), "--dry-run")
    assert code == 0
    assert "2 processes, 1 core each" in out
    assert out.count("not done yet") == 6
    assert sorted(tmp_path.rglob("*")) == before
