"""Which stages a change of the experiment reruns, and what becomes of the former training."""

import json
import os
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tiny

from jobs import ledger
from jobs.launch.machine import steps_left
from jobs.launch.order import Order
from jobs.perform import perform
from jobs.pipeline import STAGES, Keys, Stage, former_training, plan, up_to
from jobs.previous import swap_training, training_moves
from jobs.slurm.cluster import load_cluster
from jobs.status.states import stage_states
from sllm.artifacts import Artifacts, stage_keys
from sllm.config import Experiment, load_experiment
from sllm.errors import UserError
from sllm.files import fingerprint, write_json, write_text
from sllm.manifests import atomic_directory
from sllm.progress import format_seconds
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag

ALL = list(map(str, up_to()))
TRAINING = ["pretrain", "validate", "benchmark", "report"]


def finish(experiment: Experiment) -> RunDirectory:
    """Leave what a run whose stages are all done leaves, as far as the plan looks at it."""
    run, keys = RunDirectory(experiment.run_path), stage_keys(experiment)
    artifacts = Artifacts(experiment, keys)
    tuned = run.training("finetune")
    tuning = (artifacts.conversations, tuned.best) if experiment.finetune else ()
    for directory in (artifacts.corpus, artifacts.tokenizer, artifacts.packed, run.best, *tuning):
        with atomic_directory(directory) as temporary:
            (temporary / "content").write_text("x", encoding="utf-8")
    write_json(run.checkpoints / "step-00000030" / "state.json", {"trajectory": keys["pretrain"]})
    if experiment.finetune:
        write_json(tuned.checkpoints / "step-00000020" / "state.json", {"trajectory": keys["finetune"]})
    run.metrics.write_text(json.dumps({"seed": experiment.seed}) + "\n", encoding="utf-8")
    for stage, key in keys.items():
        write_json(run.done(stage), {"key": key, "fingerprint": fingerprint(key), "summary": {"step": 30}})
    return run


def reasons(experiment: Experiment) -> dict[str, tuple[str, ...]]:
    keys = stage_keys(experiment)
    stages = up_to(tuning=experiment.finetune is not None)
    steps = plan(RunDirectory(experiment.run_path), keys, Artifacts(experiment, keys), stages)
    return {step.stage.name: step.reasons for step in steps if not step.done}


@pytest.fixture
def config(tmp_path: Path, texts: dict[str, Path]) -> Path:
    return tiny.write_experiment(tmp_path, texts)


def test_a_new_run_needs_everything(config: Path) -> None:
    assert list(reasons(load_experiment(config))) == ALL


@pytest.mark.parametrize(
    ("override", "stages", "because"),
    [
        ("wandb.mode=offline", [], ""),
        ("train.checkpoint.every=7", [], ""),
        ("benchmark.repeats=2", ["benchmark", "report"], "benchmark.repeats 1 → 2"),
        ("validate.final_tokens=99", ["validate", "report"], "validate.final_tokens 512 → 99"),
        ("train.learning_rate=0.5", TRAINING, "train.learning_rate 0.0006 → 0.5"),
        ("data.sources.0.weight=2.0", TRAINING, "weights.ko 1.0 → 2.0"),
        (
            "data.phases=[{from: 0.5, weights: {ko: 0}}]",
            TRAINING,
            "phases [] → [{'from': 0.5, 'weights': {'ko': 0.0}}]",
        ),
        ("tokenizer.vocab_size=310", ["tokenizer", "pack", *TRAINING], "tokenizer.vocab_size 300 → 310"),
        ("data.min_characters=30", ALL, "data.min_characters 20 → 30"),
    ],
)
def test_a_change_reruns_what_it_touches(config: Path, override: str, stages: list[str], because: str) -> None:
    finish(load_experiment(config))
    found = reasons(load_experiment(config, [override]))
    assert list(found) == stages
    if stages:
        assert found[stages[0]][0] == because
    for stage in stages[1:]:
        needed = {f"needs: {parent}" for parent in STAGES[stage].needs if parent in stages}
        assert needed <= set(found[stage])


def test_an_input_file_that_changed_reruns_everything(config: Path, tmp_path: Path) -> None:
    texts = tiny.write_texts(tmp_path / "texts")
    config = tiny.write_experiment(tmp_path, texts)
    finish(load_experiment(config))
    assert reasons(load_experiment(config)) == {}
    with texts["ko"].open("a", encoding="utf-8") as file:
        file.write('{"text": "하나 더"}\n')
    found = reasons(load_experiment(config))
    assert list(found) == ALL
    assert found["download"] == ("files of ko changed",)


def test_a_result_that_is_gone_or_damaged_is_made_again(config: Path) -> None:
    experiment = load_experiment(config)
    finish(experiment)
    packed = Artifacts(experiment).packed
    (packed / "content").write_text("longer than it was", encoding="utf-8")
    assert reasons(experiment) == {
        "pack": (f"{packed} is gone or damaged",),
        "report": ("a stage before it runs",),
    }


def test_a_best_model_that_is_gone_is_trained_for_again(config: Path) -> None:
    experiment = load_experiment(config)
    run = finish(experiment)
    shutil.rmtree(run.best)
    assert reasons(experiment)["pretrain"] == (f"{run.best} is gone or damaged",)


def test_a_damaged_done_file_counts_as_none(config: Path) -> None:
    experiment = load_experiment(config)
    run = finish(experiment)
    run.done("validate").write_text("{", encoding="utf-8")
    assert list(reasons(experiment)) == ["validate", "report"]


def test_an_unfinished_training_goes_on(config: Path) -> None:
    experiment = load_experiment(config)
    run = finish(experiment)
    run.done("pretrain").unlink()
    assert reasons(experiment)["pretrain"] == ("goes on from step 30",)


def test_training_of_other_settings_is_set_aside_and_comes_back(config: Path) -> None:
    first, second = load_experiment(config), load_experiment(config, ["seed=7"])
    run = finish(first)
    swap_training(run, stage_keys(second))
    assert former_training(run) is None
    assert not run.best.exists()
    assert not run.metrics.exists()
    finish(second)

    where = f"previous/{fingerprint(stage_keys(first)['pretrain'])}"
    assert reasons(first)["pretrain"] == ("needs: pack", "seed 7 → 1234", f"comes back from {where}")
    swap_training(run, stage_keys(first))
    assert former_training(run) == stage_keys(first)["pretrain"]
    assert json.loads(run.metrics.read_text(encoding="utf-8")) == {"seed": 1234}
    assert reasons(first).keys() <= {"download", "tokenizer", "pack", "report"}
    assert [path.name for path in (run.path / "previous").iterdir()] == [fingerprint(stage_keys(second)["pretrain"])]


@pytest.fixture
def tuning(tmp_path: Path, texts: dict[str, Path]) -> Path:
    said = tiny.write_conversations(tmp_path / "said")
    return tiny.write_experiment(tmp_path, texts, tuning=tiny.finetune(said))


def test_a_section_finetune_adds_stages_to_a_finished_run(config: Path, tuning: Path) -> None:
    experiment = load_experiment(tuning)
    finish(experiment.model_copy(update={"finetune": None}))
    assert list(reasons(experiment)) == ["conversations", "finetune", "validate", "benchmark", "report"]
    assert reasons(experiment)["validate"] == ("finetune is new", "needs: finetune")
    finish(experiment)
    assert reasons(experiment) == {}
    without = experiment.model_copy(update={"finetune": None})
    assert reasons(without)["validate"] == ("finetune is gone", "needs: finetune")
    with pytest.raises(UserError, match=r"--until finetune: the experiment has no section finetune"):
        up_to("finetune", tuning=False)
    assert list(map(str, up_to("finetune", tuning=True))) == [*ALL[:4], "conversations", "finetune"]


def test_a_tuning_of_other_settings_is_set_aside_and_comes_back_alone(tuning: Path) -> None:
    first = load_experiment(tuning)
    second = load_experiment(tuning, ["finetune.train.learning_rate=0.5"])
    run, keys = finish(first), stage_keys(first)
    assert list(reasons(second)) == ["finetune", "validate", "benchmark", "report"]
    assert reasons(second)["finetune"] == (
        "train.learning_rate 0.001 → 0.5",
        f"the former training moves to previous/{fingerprint(keys['finetune'])}",
    )
    (move,) = swap_training(run, stage_keys(second))
    assert str(move).startswith("The former fine-tuning (20 steps, 0:00) moves to ")
    assert former_training(run, "finetune") is None
    assert former_training(run) == keys["pretrain"], "which stays"
    assert run.best.is_dir()
    assert not run.training("finetune").path.exists()
    finish(second)
    swap_training(run, keys)
    assert former_training(run, "finetune") == keys["finetune"]
    assert reasons(first).keys() <= {"validate", "benchmark", "report"}


def test_another_base_model_is_another_tuning(tuning: Path) -> None:
    first, second = load_experiment(tuning), load_experiment(tuning, ["train.learning_rate=0.5"])
    run = finish(first)
    moves = swap_training(run, stage_keys(second))
    assert [move.stage for move in moves] == ["pretrain", "finetune"]
    assert former_training(run) is former_training(run, "finetune") is None
    swap_training(run, stage_keys(first))
    assert former_training(run, "finetune") == stage_keys(first)["finetune"]


class Crash(BaseException):
    """Power is lost."""


def train(run: RunDirectory, keys: Keys, kind: str) -> dict[str, str]:
    """Leave a training in the run, every file of it marked. Returns the files with what they hold."""
    key = keys["pretrain"]
    names = [
        "best/model",
        "profile/step-00000020/trace.json.gz",
        "report/index.html",
        "wandb/run",
        "wandb.json",
        "metrics.jsonl",
    ]
    files = dict.fromkeys([*names, *(f"stages/{stage}/job.json" for stage in TRAINING)], f"of the seed {key['seed']}")
    for stage in TRAINING if kind != "unfinished" else ():
        done = {"key": keys[stage], "fingerprint": fingerprint(keys[stage]), "summary": {"step": 30}}
        files[f"stages/{stage}/done.json"] = json.dumps(done)
    if kind != "checkpoints deleted":
        files["checkpoints/step-00000030/state.json"] = json.dumps({"trajectory": key})
    for name, text in files.items():
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text(text, encoding="utf-8")
    return files


def training_in(place: Path) -> dict[str, str]:
    files = (path for path in place.rglob("*") if path.is_file())
    found = {path.relative_to(place).as_posix(): path.read_text(encoding="utf-8") for path in files}
    return {name: text for name, text in found.items() if not name.startswith("previous/")}


@pytest.mark.parametrize("kind", ["finished", "unfinished", "checkpoints deleted"])
def test_a_crash_at_each_rename_of_an_exchange_leaves_trainings_whole(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whichever settings are submitted next: these, those of the former training, or others yet."""
    keys = {seed: stage_keys(load_experiment(config, [f"seed={seed}"])) for seed in (1, 2, 3)}
    aside = {seed: fingerprint(keys[seed]["pretrain"]) for seed in keys}
    rename, left = Path.rename, 0

    def crashing(path: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", crashing)
    crashes = 0
    for first_is_aside, submitted in product((False, True), keys):
        for moved in range(100):
            run, left = RunDirectory(tmp_path / f"{first_is_aside}-{submitted}-{moved}"), 100
            trainings = {1: train(run, keys[1], kind)}
            if first_is_aside:  # and the submit below brings it back, in the place of the second
                swap_training(run, keys[2])
                trainings[2] = train(run, keys[2], kind)
            left = moved
            try:
                swap_training(run, keys[1 if first_is_aside else 2])
            except Crash:
                crashes += 1
            else:
                break
            left = 100
            swap_training(run, keys[submitted])
            assert training_in(run.path) == trainings.pop(submitted, {})
            assert {path.name for path in (run.path / "previous").glob("*")} == {aside[seed] for seed in trainings}
            assert {seed: training_in(run.path / "previous" / aside[seed]) for seed in trainings} == trainings
            assert training_moves(run, keys[submitted]) == []
    assert crashes > 50


@pytest.mark.parametrize("damaged", [10, 20])
def test_any_whole_checkpoint_tells_whose_the_training_is(config: Path, damaged: int) -> None:
    key, run = stage_keys(load_experiment(config))["pretrain"], RunDirectory(config.parent / "run")
    for step in (10, 20):
        write_json(run.checkpoints / f"step-{step:08d}" / "state.json", {"trajectory": key})
    (run.checkpoints / f"step-{damaged:08d}" / "state.json").write_text("{", encoding="utf-8")
    assert former_training(run) == key


def test_a_stage_is_done_when_its_own_job_has_ended_not_its_shares(tmp_path: Path) -> None:
    config = tiny.write_experiment(tmp_path, tiny.write_texts(tmp_path / "texts", documents=20))
    experiment = load_experiment(config)
    run, keys, stage = RunDirectory(experiment.run_path), stage_keys(experiment), STAGES["download"]
    for share in (stage.share(0, 2), stage.share(1, 2)):
        perform(share, experiment, run, keys, StopFlag())
        assert not list(run.path.rglob("done.json"))
        assert "download" in reasons(experiment)
    perform(stage, experiment, run, keys, StopFlag(), main=False)  # a rank above 0
    assert "download" in reasons(experiment)
    perform(stage, experiment, run, keys, StopFlag())
    assert "download" not in reasons(experiment)
    write_json(run.path / "keys.json", keys)
    assert [state.name for state in stage_states(run) if state.state == "done"] == ["download"]


def test_only_the_download_may_ask_the_hub_and_another_may_follow_in_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.write_experiment(tmp_path, tiny.write_texts(tmp_path / "texts", documents=20))
    experiment = load_experiment(config)
    run, keys = RunDirectory(experiment.run_path), stage_keys(experiment)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    offline = {}

    def looks(stage: Stage) -> Stage:
        def work(*inputs: Any) -> dict[str, Any]:
            offline[stage.name] = os.environ.get("HF_HUB_OFFLINE") == "1"
            return stage.work(*inputs)

        return replace(stage, work=work)

    for name in ("download", "tokenizer", "download"):
        perform(looks(STAGES[name]), experiment, run, keys, StopFlag())
    assert offline == {"download": False, "tokenizer": True}


def test_what_is_left_of_a_training_is_set_aside_too(config: Path) -> None:
    """Its checkpoints were deleted to make room: the model would be overwritten."""
    first, second = load_experiment(config), load_experiment(config, ["seed=7"])
    run = finish(first)
    shutil.rmtree(run.checkpoints)
    (move,) = swap_training(run, stage_keys(second))
    assert move.target == run.path / "previous" / fingerprint(stage_keys(first)["pretrain"])
    assert not run.best.exists()
    assert (move.target / "best").is_dir()


def test_what_an_attempt_without_a_checkpoint_left_gives_way_to_a_training_that_comes_back(config: Path) -> None:
    first, second = load_experiment(config), load_experiment(config, ["seed=7"])
    run = finish(first)
    swap_training(run, stage_keys(second))
    (run.stage("pretrain") / "submitit").mkdir(parents=True)
    write_text(run.stage("pretrain") / "attempt.json", "{}")
    write_text(run.checkpoints / "notes.txt", "")
    write_text(run.best / "model", "")
    swap_training(run, stage_keys(first))
    assert reasons(first).keys() <= {"download", "tokenizer", "pack", "report"}
    assert not (run.stage("pretrain") / "attempt.json").exists()
    assert list((run.path / "previous").iterdir()) == []


def test_a_training_of_older_code_is_not_promised_to_come_back(config: Path) -> None:
    first = load_experiment(config)
    run, keys = finish(first), stage_keys(first)
    newer = {**keys, "pretrain": {**keys["pretrain"], "version": keys["pretrain"]["version"] + 1}}
    (away,) = training_moves(run, newer)
    version = keys["pretrain"]["version"]
    assert str(away).endswith(f", because of version {version} → {version + 1}: of the code, so that it stays there")


def test_a_training_that_moves_says_what_and_how_it_comes_back(config: Path) -> None:
    first, second = load_experiment(config), load_experiment(config, ["seed=7", "train.learning_rate=0.5"])
    run = finish(first)
    run.metrics.unlink()
    ledger.begin(run, "pretrain", fingerprint(stage_keys(first)["pretrain"]), "token", ledger.SUBMITTED)
    ledger.end(run, "pretrain", "token", ledger.FINISHED)
    ledger.close(run, "pretrain")
    seconds = ledger.attempts(run, "pretrain")[0]["seconds"]
    (away,) = swap_training(run, stage_keys(second))
    where = f"previous/{fingerprint(stage_keys(first)['pretrain'])}"
    assert str(away) == (
        f"The former training (30 steps, {format_seconds(seconds)}) moves to {run.path}/{where}, because of "
        f"seed 1234 → 7; train.learning_rate 0.0006 → 0.5; submitting its settings again brings it back"
    )
    assert training_moves(run, stage_keys(second)) == []
    (back,) = swap_training(run, stage_keys(first))
    assert str(back) == (
        f"The training with these settings (30 steps, {format_seconds(seconds)}) comes back from {run.path}/{where}"
    )


def test_steps_that_are_left(config: Path) -> None:
    """Also of a training that is set aside and would come back."""
    first, second = load_experiment(config), load_experiment(config, ["seed=7"])

    def left(experiment: Experiment) -> int:
        return steps_left(Order(experiment, load_cluster("laptop"), "local"))

    assert left(first) == 30
    run = finish(first)
    assert left(first) == 0
    run.done("pretrain").unlink()
    (run.checkpoints / "step-00000030").rename(run.checkpoints / "step-00000010")
    assert (left(first), left(second)) == (20, 30)
    swap_training(run, stage_keys(second))
    assert (left(first), left(second)) == (20, 30)


def test_until_takes_a_stage_and_what_it_needs() -> None:
    assert [stage.name for stage in up_to("benchmark")] == ["download", "tokenizer", "pack", "pretrain", "benchmark"]
    with pytest.raises(UserError, match="--until nowhere: no such stage; valid: download"):
        up_to("nowhere")


def test_a_job_refuses_when_a_stage_before_it_is_not_done(config: Path) -> None:
    """Whatever the scheduler says: a dependency on a job that Slurm has forgotten counts as fulfilled."""
    experiment, other = load_experiment(config), load_experiment(config, ["data.min_characters=30"])
    keys, artifacts = stage_keys(experiment), Artifacts(experiment)

    def refusal(stage: Stage) -> str:
        with pytest.raises(UserError) as caught:
            perform(stage, experiment, run, keys, StopFlag())
        return str(caught.value)

    run = finish(experiment)
    for stage, needed in [(each, STAGES[name]) for each in up_to() for name in each.needs if name in ALL]:
        result = needed.shared(artifacts) if needed.shared else run.best
        refused = f"{stage}: needs the stage {needed}, which is not done ("
        done, key = run.done(needed.name).read_text(encoding="utf-8"), stage_keys(other)[needed.name]

        run.done(needed.name).unlink()
        assert refusal(stage).startswith(refused)
        if stage.work_share:
            assert refusal(stage.share(0, 2)).startswith(f"{stage}.0: needs the stage {needed}")
        write_json(run.done(needed.name), {"key": key, "fingerprint": fingerprint(key), "summary": {"step": 30}})
        assert refusal(stage).startswith(refused)
        run.done(needed.name).write_text(done, encoding="utf-8")
        (result / "content").unlink()
        assert refusal(stage).startswith(f"{refused}{result} is gone or damaged)")
        (result / "content").write_text("x", encoding="utf-8")


def test_files_that_have_changed_since_the_submit_are_named(
    config: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    for name in ("a", "b", "c"):
        shutil.copy(texts["en"], folder / f"{name}.jsonl")
    paths = [str(folder / "*.jsonl"), str(folder / "[b]*")]
    experiment = load_experiment(config, [f"data.sources.1.paths={json.dumps(paths)}"])
    run, keys = RunDirectory(experiment.run_path), stage_keys(experiment)

    def download() -> str:
        """What the stage says, and so does a share of it."""
        told = set()
        for stage in (STAGES["download"], STAGES["download"].share(0, 2)):
            with pytest.raises(UserError) as caught:
                perform(stage, experiment, run, keys, StopFlag())
            told.add(str(caught.value))
        (text,) = told
        return text

    a, b, c, d = (str(folder / f"{name}.jsonl") for name in "abcd")
    shutil.move(a, d)
    Path(c).write_text("", encoding="utf-8")
    changes = f"{a} is gone, {c} has changed, {d} is new"
    assert download() == f"download: the input files have changed since the submit ({changes}); submit again"
    for number in range(9):
        (folder / f"e{number}.jsonl").touch()
    assert f"{d} is new, {folder}/e0.jsonl is new, {folder}/e1.jsonl is new and 7 more); submit again" in download()
    Path(b).unlink()
    assert "en: no file matches" in download()
    shutil.rmtree(folder)
    assert download().count("en: no file matches") == 2
    assert not Artifacts(experiment, keys).corpus.exists()
