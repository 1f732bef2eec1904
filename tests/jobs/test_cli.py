"""What a user types wrong ends in one line and exit code 2, with nothing written."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import typer

from jobs.cli import app, main
from jobs.launch.prepare import write_submission
from jobs.pipeline import up_to
from jobs.presets import CONFIGS, PROFILES, find_experiment, nearest_preset, preset_names
from jobs.slurm.cluster import load_cluster
from sllm import __version__
from sllm.artifacts import stage_keys
from sllm.config import load_experiment
from sllm.run_directory import RunDirectory

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
        (["submit", "tiny.yaml", "data_directory=tiny.yaml"], "cannot be written (File exists)"),
        (["submit", "tiny.yaml", "--cluster", "gpus.yaml"], "stages.pretrain: asks for 99 GPUs, but PyTorch sees "),
        (["submit", "tiny.yaml", "--cluster", "nodes.yaml"], "nodes is 2-3, but --on local has one machine"),
        (["submit", "tiny.yaml", "--cluster", "range.yaml", "--on", "slurm"],
         "on 3, 4 ranks; valid: train.global_batch=24, or other stages.pretrain.nodes than 1-4: 1-2"),
        (["submit", "tiny.yaml", "--cluster", "range.yaml", "--on", "slurm", "train.checkpoint.every=1h",
          "train.global_batch=24"],
         "train.checkpoint.every: 1h is not below the time limit (stages.pretrain.time_minutes: 60); say auto, or"),
        (["submit", "tiny.yaml", "train.checkpoint.every=often"],
         "(command line): 'often'; write a number of steps from 1 on, a time such as 90s, 2m or 1h, or auto"),
        (["submit", "tiny.yaml", "model.d_model=4096", "train.max_steps=99999999"], "not started; --yes starts it"),
        (["train", "tiny.yaml"], "pretrain: needs the stage pack, which is not done (not done yet); run `"),
        (["status", "nowhere"], "nowhere: no run of this name"),
        (["report", "nowhere"], "nowhere: no run of this name"),
        (["logs", "nowhere"], "nowhere: no run of this name"),
        (["cancel", "nowhere"], "nowhere: no run of this name"),
        (["generate", "Anna", "--model", "nowhere"], "nowhere: no model here"),
        (["drill", "--cluster", "dev", "--ranks", "2,0"], "--ranks 2,0: numbers of ranks with commas between, such as"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_one_line_and_nothing_written(
    sllm: Sllm, config: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "gpus.yaml").write_text("stages: {pretrain: {gpus_per_node: 99}}", encoding="utf-8")
    (tmp_path / "nodes.yaml").write_text("stages: {pretrain: {nodes: 2-3}}", encoding="utf-8")
    (tmp_path / "range.yaml").write_text("stages: {pretrain: {nodes: 1-4}}", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = sllm(*arguments)
    assert code == 2
    assert err.startswith("sllm: ")
    assert err.count("\n") == 1
    assert message in err
    assert out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_what_does_not_fit_the_cluster_is_told_at_once(sllm: Sllm, config: Path, tmp_path: Path) -> None:
    (tmp_path / "range.yaml").write_text("stages: {pretrain: {nodes: 1-4}}", encoding="utf-8")
    changes = ["train.checkpoint.every=1h", f"runs_directory={tmp_path}/a:b"]
    code, _, err = sllm("submit", "tiny.yaml", "--cluster", "range.yaml", "--on", "slurm", *changes)
    assert code == 2
    path, split, saves = err.splitlines()
    assert "--on slurm cannot use a path with : in it" in path
    assert "on 3, 4 ranks; valid: train.global_batch=24" in split
    assert "train.checkpoint.every: 1h is not below the time limit" in saves


def test_what_does_not_fit_the_cluster_of_a_fine_tuning_is_told_by_its_own_names(
    sllm: Sllm, tmp_path: Path, texts: dict[str, Path]
) -> None:
    tuning = tiny.finetune(tiny.write_conversations(tmp_path / "said"), micro_batch=4)
    tiny.write_experiment(tmp_path, texts, tuning=tuning)
    code, _, err = sllm("submit", "tiny.yaml")
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith(
        "sllm: finetune.train.global_batch: 4 sequences cannot be split into micro-batches of 4 on 2 ranks; valid: "
        "finetune.train.micro_batch=1, 2, or finetune.train.global_batch=8"
    )


def test_an_experiment_by_name(sllm: Sllm, config: Path, tmp_path: Path) -> None:
    """One that comes with sllm is found from any folder; a file of that name comes first; of the rest it is said."""
    assert sllm("config", "smoke", "seed=7")[1].startswith("name: smoke\nseed: 7\n")
    (tmp_path / "smoke").write_bytes(config.read_bytes())
    assert sllm("config", "smoke")[1].startswith("name: tiny\n")
    run = tmp_path / "runs" / "mine" / "config.yaml"
    run.parent.mkdir(parents=True)
    run.write_bytes(config.read_bytes())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.yaml").touch()
    for typed, answer in {
        "mine": "mine: a run; its experiment is runs/mine/config.yaml",
        "runs/mine": "runs/mine: a run; its experiment is runs/mine/config.yaml",
        "folder": "folder: a folder; name a file in it: a.yaml",
        "folder/b.yaml": "folder/b.yaml: no such file; did you mean folder/a.yaml?",
        "configs/smoke.yaml": "configs/smoke.yaml: no such file; did you mean smoke, which comes with sllm?",
        "smok": "smok: no such file; did you mean smoke?",
        "default.yml": "default.yml: no such file; did you mean default, which comes with sllm?",
        "laptop": "laptop: a cluster profile, not an experiment; give it as --cluster laptop",
        "configs/h100.yaml": "configs/h100.yaml: a cluster profile, not an experiment; give it as --cluster h100",
        "elsewhere": "elsewhere: no such file; with sllm come: default, drill, my-files, qwen3-110m, "
        "qwen3-110m-chat, qwen3-350m, small, smoke",
        "": ".: a folder; name a file in it: tiny.yaml",
        "x" * 300: f"{'x' * 300}: File name too long",
        "x" * 300 + ".yaml": f"{'x' * 300}.yaml: File name too long",
    }.items():
        assert sllm("config", typed) == (2, "", f"sllm: {answer}\n"), typed
    assert sllm("config", "runs/mine/config.yaml")[0] == 0


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "page", ["README.md", "README.ko.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_experiments_and_overrides_in_the_pages_work(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / page).read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`(sllm [^`]+)`", re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    commands = [line for block in fenced for line in block.splitlines() if line.startswith("sllm ")] + inline
    for typed in commands:
        words = shlex.split(typed, comments=True)
        experiments = [word for word in words[2:] if word in preset_names() or word.startswith("configs/")][:1]
        for name in experiments if words[1] not in ("status", "logs", "cancel", "generate", "chat", "export") else []:
            load_experiment(find_experiment(name), [word for word in words if "=" in word and not word.startswith("-")])


def test_a_profile_for_an_experiment_and_the_other_way_round(sllm: Sllm, config: Path) -> None:
    profile = str(PROFILES / "h100.yaml")
    assert sllm("submit", profile)[2] == (
        f"sllm: {profile}: a cluster profile, not an experiment; give it as --cluster {profile}\n"
    )
    assert sllm("submit", str(config), "--cluster", str(config))[2] == (
        f"sllm: --cluster {config}: an experiment, not a cluster profile; give it without --cluster\n"
    )


def test_version_and_help(sllm: Sllm, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = sllm("--version")
    assert (code, out.split()[:2]) == (0, ["sllm", __version__])
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    commands = [[name] for name in typer.main.get_command(app).commands if name != "dev-cluster"]  # type: ignore[attr-defined]
    for command in [*commands, ["dev-cluster", "up"], ["dev-cluster", "down"]]:
        _, out, _ = sllm(*command, "--help")
        assert f"sllm {' '.join(command)}" in out.split("Examples:")[1], "an example of the command itself"
        assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("sllm submit s", ["small", "smoke"]),
        ("sllm submit tin", ["tiny.yaml"]),
        ("sllm submit ./tin", ["./tiny.yaml"]),
        ("sllm submit smoke --cluster h", ["h100"]),
        ("sllm submit smoke --until p", ["pack", "pretrain"]),
        ("sllm status m", ["mine"]),
        ("sllm logs mine v", ["validate"]),
        ("sllm cancel x", []),
    ],
)
def test_completion(
    sllm: Sllm, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, offered: list[str]
) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.yaml").touch()
    monkeypatch.setenv("_SLLM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    code, out, _ = sllm()
    assert (code, out.split()) == (0, offered)


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
    assert out.count("not done yet") == len(up_to())
    assert "\ndisk for data: corpus at most " in out
    assert "\ndisk for run: 3 checkpoints, " in out
    assert "\ntraining of 30 steps: not estimated: the profile promises no GPU" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_dry_run_tells_the_time_on_the_gpus_of_the_profile(sllm: Sllm, tmp_path: Path) -> None:
    arguments = ["submit", "default", "--dry-run", "--on", "slurm", "--cluster"]
    (tmp_path / "a100.yaml").write_text(
        "stages: {pretrain: {nodes: 1-2, tasks_per_node: 4, gres: 'gpu:a100:4'}}", encoding="utf-8"
    )
    last = "training of 30,000 steps: about "
    _, out, _ = sllm(*arguments, "h100")
    assert f"\n{last}30 GPU-hours, 15 h on 2 GPUs (measured on one H100: 144,500 tokens/s at micro-batch 16)\n" in out
    _, out, _ = sllm(*arguments, "a100.yaml")
    assert re.search(rf"\n{last}122 GPU-hours, 31 h on 4 GPUs, 15 h on 8 \(assumed: 30% of the peak of an A100, ", out)
    _, out, _ = sllm(*arguments, "h100", "--until", "pack")
    assert "disk for data" in out
    assert "training of" not in out


@pytest.mark.parametrize(("where", "told"), [("local", "1 process,"), ("slurm", "1-2 processes, 1-2 nodes,")])
def test_a_range_of_nodes(sllm: Sllm, config: Path, tmp_path: Path, where: str, told: str) -> None:
    """This machine is the fewest of them; Slurm is asked for them word for word."""
    text = "stages: {pretrain: {nodes: 1-2, cpus: 3, setup: [module load cuda]}}"
    (tmp_path / "range.yaml").write_text(text, encoding="utf-8")
    code, out, err = sllm("submit", str(config), "--dry-run", "--cluster", "range.yaml", "--on", where)
    assert (code, err) == (0, "")
    (row,) = [line for line in out.split("\n") if line.startswith("pretrain ")]
    assert told in row
    if where == "slurm":
        script = out.partition("# ---- pretrain ----")[2].partition("# ---- validate ----")[0]
        asked = set(re.findall(r"#SBATCH --(nodes|ntasks.*|mincpus|cpus-per-task)=(.*)", script))
        assert asked == {("nodes", "1-2"), ("mincpus", "3")}
        assert (
            "\nexport SLURM_NTASKS=$((1 * SLURM_NNODES)) SLURM_NTASKS_PER_NODE=1 SLURM_CPUS_PER_TASK=3\nmodule"
            in script
        )


def test_where_a_run_goes_unless_it_is_said(sllm: Sllm, config: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.yaml"
    plain.write_text("defaults: {cpus: 1}", encoding="utf-8")
    run = RunDirectory(tmp_path / "runs" / "tiny")

    def where(*arguments: str) -> str:
        code, out, err = sllm("submit", str(config), "--dry-run", *arguments)
        assert code == 0, err
        return next(line for line in out.split("\n") if line.startswith(f"{run.path} on ")).rpartition(" on ")[2]

    assert where() == "local"
    assert where("--cluster", str(plain)) == "local"
    assert where("--cluster", "h100") == "slurm"
    assert where("--cluster", "h100", "--on", "local") == "local"

    experiment = load_experiment(config)
    write_submission(run, experiment, stage_keys(experiment), load_cluster("h100"), "slurm")
    assert where() == "slurm"
    assert "partition=gpu" in sllm("submit", str(config), "--dry-run")[1]
    assert where("--resume") == "slurm"
    assert where("--on", "local") == "local"
    assert where("--cluster", str(plain)) == "local"

    write_submission(run, experiment, stage_keys(experiment), load_cluster(str(plain)), "here")
    assert where() == "here"
    assert where("--cluster", str(plain)) == "here"
    assert where("--cluster", "h100") == "slurm"


def test_the_page_of_a_run_that_has_nothing_yet(sllm: Sllm, config: Path, tmp_path: Path) -> None:
    experiment = load_experiment(config)
    run = RunDirectory(experiment.run_path)
    write_submission(run, experiment, stage_keys(experiment))
    code, out, err = sllm("report", "tiny")
    assert (code, out, err) == (0, f"{run.report / 'index.html'}\n", "")
    page = run.report / "index.html"
    assert "No step has been trained yet" in page.read_text(encoding="utf-8")
    assert "This part cannot be shown" not in page.read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_is_one_line(sllm: Sllm, config: Path, tmp_path: Path) -> None:
    experiment = load_experiment(config)
    runs = [RunDirectory(experiment.run_path), RunDirectory(experiment.run_path.with_name("other"))]
    for run in runs:
        write_submission(run, experiment, stage_keys(experiment))
    runs[0].report.write_text("a file in its place", encoding="utf-8")
    code, _, err = sllm("report", "tiny")
    assert (code, err.count("\n")) == (2, 1)
    assert f"{runs[0].report} cannot be written (File exists: " in err
    code, _, err = sllm("compare", "tiny", "other", "--output", str(tmp_path))
    assert (code, err.count("\n")) == (2, 1)
    assert f"{tmp_path} cannot be written (Is a directory: " in err


@pytest.mark.parametrize("name", preset_names())
def test_an_experiment_began_as_the_preset_it_is_most_like(name: str) -> None:
    changed = ["name=other", "seed=7", "train.learning_rate=1.0e-3", "data.sources.0.weight=2.5"]
    found, preset = nearest_preset(load_experiment(CONFIGS / f"{name}.yaml", changed))
    assert (found, preset.name) == (name, name)
