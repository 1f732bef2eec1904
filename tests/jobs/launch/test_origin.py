"""`train.init_from`: continued pretraining from a model, and a run that branches from a step of another."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import start, variables
from rich.console import Console
from safetensors.torch import load_file
from waiting import wait

from jobs import ledger
from jobs.launch.order import Order
from jobs.launch.show import show_plan
from jobs.launch.submit import prepare, submit
from jobs.pipeline import read_done
from jobs.slurm.cluster import load_cluster
from jobs.status.tables import run_table
from sllm.artifacts import Artifacts, stage_keys
from sllm.config import load_experiment
from sllm.errors import UserError
from sllm.files import read_json, write_json
from sllm.manifests import write_manifest
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory, checkpoint_steps
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FORMER_SPECIAL_TOKENS

STEPS, DECAY = 60, 48
TRAIN: dict[str, Any] = {
    "max_steps": STEPS,
    "learning_rate": 0.01,
    "schedule": "wsd",
    "checkpoint": {"every": 20, "keep_last": 4, "keep_every": 20},
}


def ordered(config: Path, *overrides: str, until: str | None = "pretrain", resume: bool = False) -> Order:
    return Order(load_experiment(config, overrides), load_cluster("laptop"), "here", until, resume, yes=True)


def train(config: Path, *overrides: str, until: str | None = "pretrain") -> str:
    """Submit it, to run in this process. Returns what is shown."""
    shown = Console(file=io.StringIO(), width=250)
    assert submit(ordered(config, *overrides, until=until), shown) == 0
    return str(shown.file.getvalue())  # type: ignore[attr-defined]


def plan_of(config: Path, *overrides: str) -> str:
    shown = Console(file=io.StringIO(), width=250)
    show_plan(ordered(config, *overrides), shown)
    return str(shown.file.getvalue())  # type: ignore[attr-defined]


def status_of(run: RunDirectory) -> str:
    shown = Console(file=io.StringIO(), width=250)
    shown.print(run_table(run))
    return str(shown.file.getvalue())  # type: ignore[attr-defined]


def losses(run: RunDirectory, kind: str = "train") -> dict[int, float]:
    records = [record for record in read_jsonl(run.metrics) if record["kind"] == kind]
    assert len({record["step"] for record in records}) == len(records), "a step stands twice"
    return {record["step"]: record["loss"] for record in records}


def weights(run: RunDirectory, step: int = STEPS) -> dict[str, bytes]:
    """Of the model and its optimizer, which as many files hold as there were ranks."""
    files = (run.checkpoints / f"step-{step:08d}").glob("*.safetensors")
    return {name: tensor.numpy().tobytes() for file in files for name, tensor in load_file(file).items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("origins")


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def base(folder: Path, texts: dict[str, Path]) -> RunDirectory:
    """A training that ended, with the checkpoints of steps 20, 40, 48, 60."""
    train(tiny.write_experiment(folder, texts, "base", **TRAIN))
    return RunDirectory(folder / "runs" / "base")


@pytest.fixture
def vanishing(base: RunDirectory, folder: Path) -> RunDirectory:
    """A copy of it, for who lets it vanish."""
    shutil.rmtree(folder / "runs" / "copy", ignore_errors=True)
    return RunDirectory(shutil.copytree(base.path, folder / "runs" / "copy"))


Configure = Callable[..., Path]


@pytest.fixture
def configure(base: RunDirectory, folder: Path, texts: dict[str, Path], request: pytest.FixtureRequest) -> Configure:
    """Writes the experiment of a run named after the test, like `base` but for what is said."""

    def write(init_from: str | Path | None, suffix: str = "", **train: Any) -> Path:
        name = re.sub("[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))[:80] + suffix
        return tiny.write_experiment(folder, texts, name, **{**TRAIN, **train}, init_from=init_from and str(init_from))

    return write


def run_of(config: Path) -> RunDirectory:
    return RunDirectory(config.parent / "runs" / config.stem)


# --- from a model ---------------------------------------------------------------------------------


def test_continued_pretraining_begins_where_the_model_was(base: RunDirectory, configure: Configure) -> None:
    config = configure("base")
    run, line = run_of(config), "Training begins with the weights and the tokenizer of runs/base/best\n"
    assert line in plan_of(config)
    assert not run.path.exists()
    assert line in train(config)
    scratch, more = losses(base), losses(run)
    assert list(more) == list(range(1, STEPS + 1))
    assert more[1] < scratch[1] - 0.5
    assert abs(more[1] - scratch[STEPS]) < 0.5
    (attempt,) = ledger.attempts(run, "pretrain")
    assert (attempt["first_step"], attempt["init_from"]) == (1, str(base.path))
    assert f"pretrain: it began with the weights of {base.best}\n" in status_of(run)
    assert (run.best / "tokenizer.json").read_bytes() == (base.best / "tokenizer.json").read_bytes()
    assert "Nothing to do" in train(config)
    assert checkpoint_steps(run.checkpoints) == [20, 40, 48, 60], "the copy has served its turn"


@pytest.mark.parametrize("named", ["base", "runs/base", "runs/base/best", "runs/base/best/model.safetensors"])
def test_names_of_one_model_are_one_training(named: str, base: RunDirectory, configure: Configure) -> None:
    experiment = load_experiment(configure(named))
    assert experiment.train.init_from == str(base.path.parent / named.removeprefix("runs/"))
    keys = stage_keys(experiment)
    assert keys == stage_keys(load_experiment(configure(base.best)))
    assert keys["tokenizer"].keys() == {"version", "taken", "needs"}


def test_the_training_is_known_by_the_content_of_the_model(
    base: RunDirectory, configure: Configure, tmp_path: Path
) -> None:
    """Not by its path."""
    at_20, at_40 = (stage_keys(load_experiment(configure(base.checkpoints / f"step-000000{s}"))) for s in (20, 40))
    assert [name for name in at_20 if at_20[name] != at_40[name]] == ["pretrain", "validate", "benchmark", "report"]
    shutil.copytree(base.best, tmp_path / "elsewhere")
    assert stage_keys(load_experiment(configure(tmp_path / "elsewhere"))) == stage_keys(
        load_experiment(configure("base"))
    )


def test_the_scripts_in_sbatch_find_what_a_training_starts_from(base: RunDirectory, configure: Configure) -> None:
    for told, step in (("base", 0), ("base@40", 40)):
        experiment = load_experiment(configure(told, f"-{step}"))
        order = Order(experiment, load_cluster("dev"), "slurm")
        assert prepare(order).path == order.run.path
        assert max(checkpoint_steps(order.run.checkpoints)) == step
        assert (order.run.checkpoints / f"step-{step:08d}" / "optimizer.safetensors").is_file()


def test_what_a_model_is_trained_with_may_differ_from_its_first_training(
    base: RunDirectory, configure: Configure
) -> None:
    changes = ["model.dropout=0", "model.context_length=8", "tokenizer.sample_bytes=1000", "train.max_steps=3"]
    config = configure("base")
    train(config, *changes, "validate.sample_tokens=2", "benchmark={prompt_tokens: 2, new_tokens: 2}")
    assert list(losses(run_of(config))) == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.kills
def test_a_training_from_a_model_resumes_to_the_bit_after_kills_and_without_the_model(
    vanishing: RunDirectory, configure: Configure
) -> None:
    straight = configure("base", "-straight")
    train(straight)
    config = configure("copy")
    for step in (5, 45):  # before the first checkpoint of its own, and after two
        process = start("submit", config, "--on", "here", "--until", "pretrain", cwd=config.parent)
        wait(lambda: step in losses(run_of(config)) or process.poll() is not None, f"step {step}")  # noqa: B023
        process.kill()
        process.communicate()
        shutil.rmtree(vanishing.path, ignore_errors=True)
    assert plan_of(config)
    train(config)
    assert losses(run_of(config)) == losses(run_of(straight))
    assert losses(run_of(config), "validation") == losses(run_of(straight), "validation")
    assert weights(run_of(config)) == weights(run_of(straight))


def test_a_model_that_vanished_is_missed_only_where_it_is_needed(vanishing: RunDirectory, configure: Configure) -> None:
    config = configure("copy")
    train(config)
    run = run_of(config)
    shutil.rmtree(vanishing.path)
    artifacts = Artifacts(load_experiment(config))
    assert "Nothing to do" in train(config)
    assert ordered(config, resume=True).start.model is None
    assert "pretrain" in status_of(run)
    shutil.rmtree(artifacts.tokenizer)
    shutil.rmtree(artifacts.packed)
    train(config)
    assert (artifacts.tokenizer / "tokenizer.json").read_bytes() == (run.best / "tokenizer.json").read_bytes()
    with pytest.raises(UserError, match=r"^train.init_from: .*/copy: no model here; "):
        ordered(config, "train.learning_rate=0.02")
    shutil.rmtree(run.path)
    with pytest.raises(UserError, match=r"^train.init_from: .*/copy: no model here; runs with a model there: .*base"):
        ordered(config)


def test_without_its_first_checkpoint_the_training_does_not_start_from_random_weights(
    base: RunDirectory, configure: Configure
) -> None:
    config = configure("base", max_steps=2)
    train(config, until="pack")
    run = run_of(config)
    assert (read_json(run.checkpoints / "step-00000000" / "state.json")["step"]) == 0
    (run.checkpoints / "step-00000000" / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        UserError, match="no whole checkpoint, and this training starts from a model: delete what is le"
    ):
        train(config)
    shutil.rmtree(run.checkpoints)
    train(config)
    assert list(losses(run)) == [1, 2]
    assert losses(run)[1] < losses(base)[1] - 0.5


# --- a branch -------------------------------------------------------------------------------------


def test_a_branch_is_the_run_that_nobody_disturbed(base: RunDirectory, configure: Configure) -> None:
    config = configure("base@20")
    run, line = (
        run_of(config),
        "Training goes on from step 20 of runs/base, up to which both are the same; steps 21 to 60",
    )
    assert line in plan_of(config)
    assert line in train(config)
    assert losses(run) == losses(base)
    assert list(losses(run)) == list(range(1, STEPS + 1))
    assert losses(run, "validation") == losses(base, "validation")
    assert weights(run) == weights(base)
    assert (run.best / "model.safetensors").read_bytes() == (base.best / "model.safetensors").read_bytes()
    (attempt,) = ledger.attempts(run, "pretrain")
    assert (attempt["first_step"], attempt["init_from"]) == (21, f"{base.path}@20")
    assert f"pretrain: up to step 20 it is that of {base.path}\n" in status_of(run)
    assert stage_keys(load_experiment(config)) == stage_keys(load_experiment(base.config))


def test_two_budgets_branch_from_one_run(base: RunDirectory, configure: Configure) -> None:
    straight, branch = configure(None, "-straight", max_steps=80), configure(f"base@{DECAY}", "-branch", max_steps=80)
    train(straight)
    train(branch)
    assert list(losses(run_of(branch))) == list(range(1, 81))
    assert losses(run_of(branch)) == losses(run_of(straight))
    assert losses(run_of(branch), "validation") == losses(run_of(straight), "validation")
    assert weights(run_of(branch), 80) == weights(run_of(straight), 80)
    assert losses(run_of(branch))[STEPS] != losses(base)[STEPS]


def test_the_other_family_and_the_other_optimizer_start_as_exactly(base: RunDirectory, configure: Configure) -> None:
    words = ["model.family=qwen3", "model.dropout=0", "model.tie_embeddings=false"]
    trunk = configure(None, "-trunk", optimizer="muon")
    branch, more = configure(f"{trunk.stem}@20", "-branch", optimizer="muon"), configure(trunk.stem, optimizer="muon")
    for config in (trunk, branch, more):
        train(config, *words)
    assert losses(run_of(branch)) == losses(run_of(trunk))
    assert weights(run_of(branch)) == weights(run_of(trunk))
    assert losses(run_of(more))[1] < losses(run_of(trunk))[1] - 0.5


def test_a_branch_outlives_the_run_that_it_came_from(vanishing: RunDirectory, configure: Configure) -> None:
    config = configure("copy@40")
    train(config, until="pack")
    shutil.rmtree(vanishing.path)
    train(config)
    assert list(losses(run_of(config))) == list(range(1, STEPS + 1))
    assert "Nothing to do" in train(config)


def test_the_best_model_before_the_branch_stays_the_best(vanishing: RunDirectory, configure: Configure) -> None:
    best = read_json(vanishing.best / "manifest.json")
    write_manifest(vanishing.best, step=15, loss=0.5, trajectory=best["trajectory"])
    config = configure("copy@20")
    train(config)
    assert read_done(run_of(config), "pretrain")["summary"]["best_step"] == 15  # type: ignore[index]
    assert (run_of(config).best / "model.safetensors").read_bytes() == (
        vanishing.best / "model.safetensors"
    ).read_bytes()


def test_a_branch_of_a_training_from_a_model(base: RunDirectory, configure: Configure) -> None:
    """Has that model's tokenizer, and would have begun with its weights."""
    trunk = configure("base", "-trunk")
    train(trunk)
    config = configure(f"{trunk.stem}@40")
    shutil.rmtree(run_of(trunk).best)
    train(config)
    assert losses(run_of(config)) == losses(run_of(trunk))
    assert weights(run_of(config)) == weights(run_of(trunk))
    assert stage_keys(load_experiment(config)) == stage_keys(load_experiment(trunk))


@pytest.mark.slow
def test_ranks_of_torchrun_start_from_it_too(base: RunDirectory, configure: Configure) -> None:
    config = configure("base@40")
    train(config, until="pack")
    shutil.rmtree(run_of(config).checkpoints)  # which `train` then copies
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "jobs.cli"]
    words = [*torchrun, "train", str(config)]
    done = subprocess.run(words, cwd=config.parent, env=variables(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (attempt,) = ledger.attempts(run_of(config), "pretrain")
    assert (attempt["ranks"], attempt["first_step"]) == (2, 41)
    assert losses(run_of(config)) == losses(base)
    assert weights(run_of(config)) == weights(base)


def test_a_checkpoint_that_vanishes_during_the_submit_is_missed(vanishing: RunDirectory, configure: Configure) -> None:
    order = ordered(configure("copy@40"))
    shutil.rmtree(vanishing.checkpoints / "step-00000040")
    with pytest.raises(UserError, match=r"^train.init_from: .*/copy@40: has just been deleted; submit again$"):
        submit(order, Console(file=io.StringIO()))
    assert not order.run.path.exists()


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "overrides", "message"),
    [
        ("nowhere", [], r"{runs}/nowhere: no model here; runs with a model there: .*base"),
        ("elsewhere/model", [], r"{folder}/elsewhere/model: no model here; a run by its name, or a folder as ./NAME"),
        ("x" * 300, [], r"{runs}/x+: File name too long"),
        ("base@30", [], r"{runs}/base: no checkpoint of step 30; there are those of 20, 40, 48, 60"),
        ("nowhere@20", [], r"{runs}/nowhere: no checkpoint of step 20; there is none"),
        ("base@0", [], r"{runs}/base: no checkpoint of step 0; there are those of 20, 40, 48, 60"),
        ("base@latest", [], r"{runs}/base@latest: no model here; "),
        (
            "base@20",
            ["train.learning_rate=0.02"],
            r"{runs}/base@20: another training \(train.learning_rate 0.01 → 0.02\); its weights alone, with an "
            r"optimizer begun anew: train.init_from=runs/base/checkpoints/step-00000020$",
        ),
        (
            "base@60",
            ["train.max_steps=80"],
            r"{runs}/base@60: the same up to step 48 only \(train.max_steps 60 → 80\); its weights alone, ",
        ),
        ("base@20", ["data.min_characters=30"], r"{runs}/base@20: another training \(other data\); "),
    ],
)
def test_what_is_not_there_or_does_not_fit_is_a_line(
    told: str, overrides: list[str], message: str, base: RunDirectory, configure: Configure, folder: Path
) -> None:
    expected = message.format(runs=folder / "runs", folder=folder)
    with pytest.raises(UserError, match=f"^train.init_from: {expected}") as caught:
        ordered(configure(told), *overrides)
    assert "\n" not in str(caught.value)


def test_a_model_of_another_shape_is_told_at_once(base: RunDirectory, configure: Configure) -> None:
    for told in ("base", "base@20"):
        with pytest.raises(UserError) as caught:
            ordered(configure(told), "model.d_model=32", "model.tie_embeddings=false", "tokenizer.vocab_size=310")
        assert str(caught.value).split("\n") == [
            "model.d_model: 32, but the model of train.init_from has 16; set model.d_model=16",
            "model.tie_embeddings: false, but the model of train.init_from has true; set model.tie_embeddings=true",
            "tokenizer.vocab_size: 310, but the model of train.init_from has 300; set tokenizer.vocab_size=300",
        ]


def test_a_run_without_a_best_model_names_its_checkpoint(vanishing: RunDirectory, configure: Configure) -> None:
    shutil.rmtree(vanishing.best)
    with pytest.raises(UserError, match=r"no best model yet, which .*; until then: .*/copy/checkpoints/step-00000060$"):
        ordered(configure("copy"))
    assert ordered(configure(vanishing.checkpoints / "step-00000060")).start.model
    shutil.rmtree(vanishing.checkpoints)
    with pytest.raises(UserError, match=r"no best model yet, which its first validation writes$"):
        ordered(configure("copy"))


def test_an_export_is_no_model_of_ours(configure: Configure, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "gpt2"})
    (tmp_path / "model.safetensors").write_bytes(b"")
    write_manifest(tmp_path)
    with pytest.raises(UserError, match=rf"^train.init_from: {tmp_path}: not a model of sllm; of an export give what"):
        ordered(configure(tmp_path))


def test_a_model_whose_vocabulary_has_no_words_for_a_conversation_is_not_tuned(
    base: RunDirectory, configure: Configure, tmp_path: Path
) -> None:
    """Told when it is submitted, not days later, after the pretraining."""
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(base.best / name, tmp_path / name)
    Tokenizer([], special_tokens=FORMER_SPECIAL_TOKENS).save(tmp_path / "tokenizer.json")
    write_manifest(tmp_path)
    config = configure(tmp_path)
    ordered(config)
    section = tiny.finetune(tiny.write_conversations(tmp_path / "said"))
    with pytest.raises(UserError) as caught:
        ordered(config, f"finetune={json.dumps(section)}")
    (line,) = str(caught.value).split("\n")
    assert line.startswith(f"finetune: {tmp_path}: this tokenizer has no <|system|> <|user|> <|assistant|> <|end|>")


@pytest.mark.parametrize("told", ["copy", "copy@40"])
def test_damage_is_found_before_anything_is_written(
    told: str, base: RunDirectory, vanishing: RunDirectory, configure: Configure
) -> None:
    for directory in (vanishing.best, vanishing.checkpoints / "step-00000040"):
        content = bytearray((directory / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (directory / "model.safetensors").write_bytes(content)
    config = configure(told)
    with pytest.raises(UserError, match=rf"^train.init_from: .*/{told}: damaged: .* does not match its checksum$"):
        ordered(config)
    (vanishing.best / "manifest.json").write_text("{", encoding="utf-8")
    (vanishing.checkpoints / "step-00000040" / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=rf"^train.init_from: .*/{told}: damaged: .* is not valid JSON"):
        ordered(config)
    write_manifest(vanishing.best)
    write_manifest(vanishing.checkpoints / "step-00000040")
    for directory in (vanishing.best, vanishing.checkpoints / "step-00000040"):
        (directory / "config.json").write_text("[", encoding="utf-8")
    with pytest.raises(UserError, match=rf"^train.init_from: .*/{told}: damaged: .*/config.json is not valid JSON"):
        ordered(config)
    (vanishing.best / "model.safetensors").unlink()
    shutil.copyfile(base.best / "config.json", vanishing.best / "config.json")
    write_manifest(vanishing.best)
    if told == "copy":
        with pytest.raises(UserError, match=r"^train.init_from: .*/copy: damaged: .*/best has no model.safetensors$"):
            ordered(config)
    assert not run_of(config).path.exists()


def test_a_run_does_not_start_from_itself(base: RunDirectory, configure: Configure) -> None:
    config = configure(None, max_steps=20)
    train(config)
    for told in (config.stem, f"{config.stem}@20"):
        with pytest.raises(UserError, match=rf"is of the run {config.stem} itself; take another name=…$"):
            ordered(config, f"train.init_from={told}", "seed=2")
    assert "Nothing to do" in train(config, f"train.init_from={config.stem}@20")
