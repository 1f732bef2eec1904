"""A training made longer or shorter: where it begins, what it takes along, and what a submit says of it.

The trainings here compute nothing: the weights of step s are the learning rates of the steps up to s. So weights that
belong to another training, or to another step, are seen.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import branch, ledger
from jobs.branch import begin_branch, training_branch
from jobs.launch.order import Order
from jobs.launch.submit import prepare
from jobs.lock import lock
from jobs.pipeline import Keys, last_step, plan, read_done, up_to
from jobs.previous import swap_training, training_moves
from jobs.slurm.cluster import load_cluster
from jobs.status.tables import run_table
from sllm.artifacts import Artifacts, stage_keys, steps_before_the_end
from sllm.config import Experiment, TrainConfig, load_experiment
from sllm.errors import UserError
from sllm.files import fingerprint, read_json, write_json
from sllm.manifests import atomic_directory, read_manifest
from sllm.records import append_jsonl, read_jsonl
from sllm.run_directory import RunDirectory, checkpoint_path, checkpoint_steps
from sllm.stop import StopFlag
from sllm.training.loop import train as run_training
from sllm.training.optim import learning_rate

WSD = ["train.schedule=wsd", "train.checkpoint.keep_last=1"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("branch")
    return tiny.write_experiment(place, tiny.write_texts(place / "texts", documents=3))


def rates(train: TrainConfig, step: int) -> list[float]:
    return [learning_rate(each, train) for each in range(1, step + 1)]


def weights(checkpoint: Path) -> list[float]:
    found: list[float] = json.loads((checkpoint / "model").read_text(encoding="utf-8"))
    return found


def train(run: RunDirectory, experiment: Experiment, until: int | None = None) -> None:
    """From where the run stands to a step, as the training loop does it."""
    key, config = stage_keys(experiment)["pretrain"], experiment.train
    known = weights(checkpoint_path(run.checkpoints, last_step(run))) if last_step(run) else []
    if run.metrics.exists():
        run.metrics.write_text(
            "".join(f"{line}\n" for line in run.metrics.read_text("utf-8").splitlines()[: len(known)])
        )
    token = f"attempt {len(ledger.attempts(run))}"
    ledger.begin(run, "pretrain", fingerprint(key), token, ledger.SUBMITTED)
    end, branches_at = min(until or config.max_steps, config.max_steps), steps_before_the_end(key)
    for step in range(len(known) + 1, end + 1):
        known.append(learning_rate(step, config))
        append_jsonl(run.metrics, {"kind": "train", "step": step, "loss": known[-1], "time": float(step)})
        if step % config.checkpoint.every == 0 or step in (branches_at, end):
            with atomic_directory(checkpoint_path(run.checkpoints, step), step=step) as temporary:
                write_json(temporary / "model", known)
                write_json(temporary / "state.json", {"step": step, "trajectory": key})
            with atomic_directory(run.best, step=step, loss=1.0, trajectory=fingerprint(key)) as temporary:
                write_json(temporary / "model", known)
            for old in checkpoint_steps(run.checkpoints)[: -config.checkpoint.keep_last]:
                if old != branches_at:
                    shutil.rmtree(checkpoint_path(run.checkpoints, old))
    ledger.end(run, "pretrain", token, ledger.FINISHED)
    ledger.close(run, "pretrain")
    if end == config.max_steps:
        done = {"key": key, "fingerprint": fingerprint(key), "summary": {"step": end}}
        write_json(run.done("pretrain"), done)


def submit(run: RunDirectory, keys: Keys) -> branch.Branch | None:
    """What a submit does to the run directory."""
    begins = training_branch(run, keys)
    swap_training(run, keys)
    begin_branch(run, keys, begins)
    return begins


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


def test_longer_and_longer(config: Path, run: RunDirectory) -> None:
    first, second, third = (load_experiment(config, [*WSD, f"train.max_steps={n}"]) for n in (30, 60, 120))
    train(run, first)
    assert checkpoint_steps(run.checkpoints) == [24, 30]
    write_json(run.path / "wandb.json", {"id": "1"})
    submit(run, stage_keys(second))
    aside = RunDirectory(run.path / "previous" / fingerprint(stage_keys(first)["pretrain"]))
    assert checkpoint_steps(run.checkpoints) == [24]
    assert checkpoint_steps(aside.checkpoints) == [24, 30]
    model, original = (checkpoint_path(place.checkpoints, 24) / "model" for place in (run, aside))
    assert model.samefile(original)
    assert read_manifest(checkpoint_path(run.checkpoints, 24), checksums=True)["step"] == 24
    assert [record["step"] for record in read_jsonl(run.metrics)] == list(range(1, 25))
    assert not run.best.exists(), "it is of the decay"
    assert read_done(run, "pretrain") is None
    assert not (run.path / "wandb.json").exists(), "W&B keeps the rows that it has"
    assert training_moves(run, stage_keys(second)) == []
    assert training_branch(run, stage_keys(second)) is None
    train(run, second)
    submit(run, stage_keys(third))
    assert checkpoint_steps(run.checkpoints) == [48]
    train(run, third)
    assert weights(checkpoint_path(run.checkpoints, 120)) == rates(third.train, 120)
    assert [record["loss"] for record in read_jsonl(run.metrics)] == rates(third.train, 120)
    # Each is whole where it was put, and comes back.
    assert weights(checkpoint_path(aside.checkpoints, 30)) == rates(first.train, 30)
    submit(run, stage_keys(first))
    assert read_done(run, "pretrain") is not None
    assert weights(checkpoint_path(run.checkpoints, 30)) == rates(first.train, 30)
    assert (run.best / "model").read_text("utf-8") == (checkpoint_path(run.checkpoints, 30) / "model").read_text(
        "utf-8"
    )


def test_the_best_model_goes_along_if_it_was_found_before_the_trainings_part(config: Path, run: RunDirectory) -> None:
    stopped, longer = (load_experiment(config, [*WSD, f"train.max_steps={n}"]) for n in (30, 60))
    train(run, stopped, until=17)
    submit(run, stage_keys(longer))
    manifest = read_manifest(run.best, checksums=True)
    assert (manifest["step"], manifest["trajectory"]) == (17, fingerprint(stage_keys(longer)["pretrain"]))
    assert checkpoint_steps(run.checkpoints) == [17]


lengths = st.tuples(st.integers(4, 40), st.sampled_from([0.1, 0.2, 0.5]), st.integers(1, 40), st.integers(2, 9))


@given(submits=st.lists(lengths, min_size=2, max_size=6))
@settings(max_examples=15, deadline=None)
def test_whatever_is_submitted_goes_on_from_the_furthest_checkpoint_that_fits(
    config: Path, tmp_path_factory: pytest.TempPathFactory, submits: list[tuple[int, float, int, int]]
) -> None:
    run = RunDirectory(tmp_path_factory.mktemp("any") / "run")
    reached: dict[str, int] = {}
    for steps, decay, until, every in submits:
        changes = [f"train.max_steps={steps}", f"train.decay={decay}", f"train.checkpoint.every={every}"]
        experiment = load_experiment(config, [*WSD, *changes])
        keys = stage_keys(experiment)
        there = [path for path in run.path.rglob("step-*") if path.is_dir()]
        fit = [len(weights(path)) for path in there if weights(path) == rates(experiment.train, len(weights(path)))]
        own = reached.get(fingerprint(keys["pretrain"]), 0)
        submit(run, keys)
        constant = steps_before_the_end(keys["pretrain"])
        assert last_step(run) == max([step for step in fit if step <= constant] + [own])
        train(run, experiment, until)
        reached[fingerprint(keys["pretrain"])] = last_step(run)
        assert weights(checkpoint_path(run.checkpoints, last_step(run))) == rates(experiment.train, last_step(run))
        assert [record["loss"] for record in read_jsonl(run.metrics)] == rates(experiment.train, last_step(run))
        for aside in (run.path / "previous").glob("*"):
            assert last_step(RunDirectory(aside)) == reached[aside.name]


class Crash(BaseException):
    """Power is lost."""


def test_a_crash_at_each_rename_leaves_both_trainings_whole(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of them is submitted next."""
    former, longer = (load_experiment(config, [*WSD, f"train.max_steps={n}"]) for n in (30, 60))
    keys = {experiment.train.max_steps: stage_keys(experiment) for experiment in (former, longer)}
    train(trained := RunDirectory(tmp_path / "trained"), former)
    left = 100

    def crashing(rename: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def instead(path: Path, target: Path) -> Path:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return rename(path, target)

        return instead

    monkeypatch.setattr(Path, "rename", crashing(Path.rename))
    monkeypatch.setattr(Path, "replace", crashing(Path.replace))
    crashes = 0
    for submitted in (60, 30):
        for done in range(100):
            run = RunDirectory(tmp_path / f"{submitted}-{done}")
            shutil.copytree(trained.path, run.path)
            left = done
            try:
                submit(run, keys[60])
                break
            except Crash:
                crashes += 1
            left = 100
            submit(run, keys[submitted])
            aside = RunDirectory(run.path / "previous" / fingerprint(keys[30]["pretrain"]))
            whole, other = (run, None) if submitted == 30 else (aside, run)
            assert checkpoint_steps(whole.checkpoints) == [24, 30]
            assert read_done(whole, "pretrain") is not None
            assert (whole.path / "metrics.jsonl").read_bytes() == trained.metrics.read_bytes()
            if other is not None:
                assert checkpoint_steps(other.checkpoints) == [24]
                assert [record["step"] for record in read_jsonl(other.metrics)] == list(range(1, 25))
            else:
                assert training_branch(run, keys[30]) is None
                assert not run.branch.exists()
    assert crashes > 12


def test_a_checkpoint_that_is_damaged_is_no_place_to_begin(config: Path, run: RunDirectory) -> None:
    former, longer = (load_experiment(config, [*WSD, f"train.max_steps={n}"]) for n in (30, 60))
    train(run, former)
    (checkpoint_path(run.checkpoints, 24) / "model").unlink()
    begins = submit(run, stage_keys(longer))
    assert "All 60 steps are trained anew" in str(begins)
    assert last_step(run) == 0


def test_without_hard_links_one_checkpoint_is_copied(
    config: Path, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    former, longer = (
        load_experiment(config, ["train.schedule=wsd", "train.checkpoint.keep_last=9", f"train.max_steps={n}"])
        for n in (30, 60)
    )
    train(run, former)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    submit(run, stage_keys(longer))
    assert checkpoint_steps(run.checkpoints) == [24]
    assert weights(checkpoint_path(run.checkpoints, 24)) == rates(former.train, 24)
    read_manifest(checkpoint_path(run.checkpoints, 24), checksums=True)


def files_of(place: Path) -> dict[str, bytes]:
    files = (path for path in place.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_submit_that_is_refused_leaves_the_trainings_as_they_were(
    config: Path, tmp_path: Path, *, comes_back: bool
) -> None:
    """Also one that was to come back, and to go on from further than it had come."""
    place = [f"runs_directory={tmp_path}", "train.checkpoint.keep_last=9", "train.schedule=wsd"]
    long, short = (load_experiment(config, [*place, f"train.max_steps={n}"]) for n in (60, 30))
    run = RunDirectory(long.run_path)
    for experiment, until in [(short, 10), (long, 60)] if comes_back else [(long, 60)]:
        prepare(Order(experiment, load_cluster("laptop"), "slurm"))
        train(run, experiment, until)
    before = files_of(run.path)
    keys = stage_keys(short)

    def refused() -> Iterator[None]:
        with lock(run, tmp_path, "submit"):
            begins = submit(run, keys)
            assert begins is not None
            assert last_step(run) == begins.step == 20
            raise UserError("no such partition")

    with pytest.raises(UserError, match="partition"):
        refused()
    after = files_of(run.path)
    for name in [name for name in before if re.fullmatch("previous/.*/metrics.jsonl", name)]:
        assert after.pop(name).startswith(before.pop(name))  # the next resume cuts it back
    assert after == before


def test_what_a_submit_says(config: Path, run: RunDirectory) -> None:
    """Where it goes on, what is trained anew and how long that takes; and what a cosine costs."""

    def said(*changes: str) -> str:
        keys = stage_keys(experiment := load_experiment(config, list(changes)))
        why = plan(run, keys, Artifacts(experiment), up_to("pretrain"))[-1].reasons
        return f"{training_branch(run, keys)} | {'; '.join(why)}"

    former = stage_keys(load_experiment(config, WSD))["pretrain"]
    where = f"{run.path}/previous/{fingerprint(former)}"
    train(run, load_experiment(config, WSD))
    line = {**ledger.attempts(run)[0], "first_step": 1, "last_step": 30, "seconds": 15.0, "token": "another"}
    run.ledger.write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert said(*WSD, "train.max_steps=60") == (
        f"Training goes on from step 24 of {where}, up to which both are the same; steps 25 to 60 are trained anew "
        f"(about 0:18) | train.max_steps 30 → 60; the former training moves to previous/{fingerprint(former)}; goes on "
        f"from step 24 of previous/{fingerprint(former)}"
    )
    assert said(*WSD, "train.max_steps=20").startswith(
        "All 20 steps are trained anew (about 0:10): there is no checkpoint up to step 16, where both part; "
        "train.checkpoint.keep_every keeps some | "
    )
    assert "where both part; with train.decay=0.142857 from step 24 on | " in said(*WSD, "train.max_steps=28")
    assert said(*WSD, "train.max_steps=28", "train.decay=0.142857").startswith("Training goes on from step 24 of ")
    assert said(*WSD, "train.max_steps=60", "seed=2").startswith("None | ")
    submit(run, stage_keys(longer := load_experiment(config, [*WSD, "train.max_steps=60"])))
    train(run, longer)
    part, _, later = said(*WSD, "train.max_steps=50").partition(" | ")[0].partition("; with ")
    assert part.startswith(f"Training goes on from step 24 of {where}, ")
    assert later == "train.decay=0.04 from step 48 on"
    shutil.rmtree(run.path)
    train(run, load_experiment(config, []))
    assert said("train.max_steps=60").startswith(
        "All 60 steps are trained anew: the rate of a cosine depends on its end from the first step on; under "
        "train.schedule=wsd the first 24 would have stayed | train.max_steps 30 → 60; the former training moves to "
    )


def test_status_tells_where_a_training_began(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    place = f"runs_directory={tmp_path}"
    first, second = (load_experiment(config, [*WSD, place, f"train.max_steps={n}"]) for n in (30, 60))
    run = prepare(Order(first, load_cluster("laptop"), "slurm"))
    train(run, first)
    prepare(Order(second, load_cluster("laptop"), "slurm"))
    aside = fingerprint(stage_keys(first)["pretrain"])
    assert f"Training goes on from step 24 of {run.path}/previous/{aside}" in capsys.readouterr().err
    Console(width=200).print(run_table(run))
    assert f"pretrain: up to step 24 it is that of previous/{aside}" in capsys.readouterr().out
    assert read_json(run.branch)["before"] == 0


def test_another_last_phase_goes_on_from_before_it(prepared: dict[str, Any], tmp_path: Path) -> None:
    """A real training, under a cosine: the steps before are those that it would have taken anyway."""

    def of(place: str, weight: float) -> tuple[RunDirectory, Experiment]:
        phases = [{"from": start, "weights": {"sample-korean": each}} for start, each in ((0.3, 0.0), (0.6, weight))]
        values = {"runs_directory": str(tmp_path / place), "data": {**prepared["data"], "phases": phases}}
        experiment = Experiment.model_validate({**prepared, **values})
        return RunDirectory(experiment.run_path), experiment

    for place, weight, step in (("changed", 1.0, None), ("changed", 9.0, 20), ("straight", 9.0, None)):
        run, experiment = of(place, weight)
        keys = stage_keys(experiment)
        begins = submit(run, keys)
        assert (begins and begins.step) == step, "0.6 of 40 is 24, and the checkpoint of 20 is kept"
        run_training(experiment, run, Artifacts(experiment, keys), StopFlag())
    found = [read_json(manifest) for manifest in sorted(tmp_path.glob("*/*/checkpoints/step-00000040/manifest.json"))]
    names = [{entry["name"]: entry["sha256"] for entry in manifest["files"]} for manifest in found]
    assert len(names) == 2
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert names[0][name] == names[1][name]
