"""JSON files on disk that hold something else than what was written there: of an editor's slip, a disk, a copy that was
cut short."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from rich.console import Console

from jobs import ledger
from jobs.launch import order
from jobs.launch.busy import cancel
from jobs.launch.order import Order, destination
from jobs.launch.show import show_plan
from jobs.launch.submit import prepare
from jobs.lock import lock
from jobs.pipeline import STAGES
from jobs.previous import swap_training, training_moves
from jobs.run import load_run
from jobs.slurm import attempt
from jobs.slurm.cluster import load_cluster
from jobs.status.tables import run_table
from jobs.status.view import View
from sllm.artifacts import Artifacts, stage_keys
from sllm.config import Experiment, load_experiment
from sllm.errors import UserError
from sllm.files import CorruptError, fingerprint, write_json
from sllm.manifests import atomic_directory, read_manifest
from sllm.records import append_jsonl
from sllm.run_directory import RunDirectory
from sllm.training.wandb_mirror import only_sender

DAMAGED = ["[]", '{"other": 1}']


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return load_experiment(tiny.write_experiment(tmp_path, tiny.write_texts(tmp_path / "texts", documents=3)))


@pytest.fixture
def run(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """One of which every file is there that a program of ours reads, in the middle of a second training."""
    monkeypatch.setenv("PATH", "")  # no Slurm is asked
    laptop = load_cluster("laptop")
    for module in (order, attempt):
        monkeypatch.setattr(module, "load_cluster", lambda _: laptop)  # YAML takes most of the time
    run = prepare(Order(experiment, laptop, "slurm"))
    keys = stage_keys(experiment)
    artifacts = Artifacts(experiment, keys)
    for directory in (artifacts.corpus, artifacts.tokenizer, artifacts.packed, run.best):
        with atomic_directory(directory, sources={}) as temporary:
            (temporary / "content").write_text("x", encoding="utf-8")
    write_json(run.checkpoints / "step-00000030" / "state.json", {"trajectory": keys["pretrain"]})
    for stage, key in keys.items():
        done = {"key": key, "fingerprint": fingerprint(key), "summary": {"step": 30}, "finished": 1.0}
        write_json(run.done(stage), done)
        ledger.begin(run, stage, fingerprint(key), stage, ledger.SUBMITTED)
        write_json(run.stage(stage) / "job.json", {"job": "1"})
    swap_training(run, stage_keys(experiment.model_copy(update={"seed": 7})))
    for stage, job in (("pretrain", None), ("download", "7"), ("download.0", "7_0")):
        ledger.begin(run, stage, fingerprint(keys[stage.partition(".")[0]]), f"{stage}-0", ledger.SUBMITTED, job)
    ledger.end(run, "pretrain", "pretrain-0", ledger.CRASH, "message")
    write_json(run.stage("download") / "array.json", {"job": "1"})
    fields = {"description": "pretrain", "completed": 30, "total": 300, "unit": "steps", "fields": {}}
    write_json(run.progress("pretrain"), {**fields, "seconds_left": 62, "time": 1.0})
    write_json(run.path / "wandb.json", {"id": "x"})
    append_jsonl(run.metrics, {"kind": "train", "step": 1, "time": 1e12, "seconds": 0.1})
    return run


def everything(run: RunDirectory, experiment: Experiment) -> dict[str, Callable[[], object]]:
    """What people and jobs do with a run, each as they start it."""
    console, laptop, keys = Console(file=io.StringIO()), load_cluster("laptop"), stage_keys(experiment)

    def shown() -> None:
        view = View(run, [], console, live=False)
        view.running = "pretrain"
        view.start(STAGES["pretrain"])
        console.print(view)

    def sent() -> None:
        with only_sender(run):
            pass

    def refused() -> None:
        with pytest.raises(ZeroDivisionError), lock(run, Path(experiment.data_directory), "sllm"):
            raise ZeroDivisionError

    return {
        "destination": lambda: destination(experiment, None, None),
        "status": lambda: console.print(run_table(run)),
        "view": shown,
        "dry run": lambda: show_plan(Order(experiment, laptop, "local"), console),
        "resume": lambda: show_plan(Order(experiment, laptop, "local", resume=True), console),
        "moves": lambda: training_moves(run, keys),
        "refused": refused,
        "cancel": lambda: cancel(run),
        "job": lambda: load_run(run),
        "close": lambda: ledger.close(run, "pretrain"),
        "deadline": lambda: attempt.Deadline(run, "pretrain").reserve(),
        "sync": sent,
        "exchange": lambda: swap_training(run, keys),
    }


def test_a_json_file_that_holds_something_else_is_as_good_as_none_or_named(
    run: RunDirectory, experiment: Experiment
) -> None:
    places = (run.path, Path(experiment.data_directory))
    files = {path: path.read_bytes() for place in places for path in place.rglob("*") if path.is_file()}
    kinds = {(path.name, "previous" in path.parts): path for path in files if path.suffix in (".json", ".jsonl")}
    assert len(kinds) > 15
    actions = everything(run, experiment)
    for path in kinds.values():
        for text in DAMAGED:
            path.write_text(f"{text}\n", encoding="utf-8")
            for name, do in actions.items():
                told = str(run.path)
                try:
                    do()
                except UserError as error:
                    told = str(error)
                except Exception as error:
                    raise AssertionError(f"{name}: {path.relative_to(run.path.parent.parent)}: {text}") from error
                assert str(run.path) in told
            for other, content in files.items():
                if not other.is_file() or other.read_bytes() != content:
                    other.parent.mkdir(parents=True, exist_ok=True)
                    other.write_bytes(content)


@pytest.mark.parametrize("files", ["{}", "[1]", '[{"name": "content"}]'])
def test_a_manifest_that_is_no_list_of_files_is_damaged(tmp_path: Path, files: str) -> None:
    (tmp_path / "manifest.json").write_text(f'{{"files": {files}}}', encoding="utf-8")
    with pytest.raises(CorruptError):
        read_manifest(tmp_path)
