"""The pipeline as data: the stages, declared once, and what is left to do for a run.

Every way of running (in this process, local processes, Slurm, the sbatch scripts) takes its stages from here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sllm.artifacts import Artifacts, differences, shared_steps
from sllm.config import Experiment, names_of_finetune
from sllm.data.tasks import measurable_now, not_tried, wanted_tasks
from sllm.errors import Stopped, UserError
from sllm.files import CorruptError, fingerprint, read_object
from sllm.manifests import read_manifest
from sllm.origin import take_tokenizer
from sllm.run_directory import RunDirectory, checkpoint_path, checkpoint_steps
from sllm.stop import StopFlag

Keys = dict[str, dict[str, Any]]
Work = Callable[[Experiment, RunDirectory, Artifacts, StopFlag], dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """`work` returns a summary, or raises Stopped; `needs` are done before it starts."""

    name: str
    needs: tuple[str, ...]
    work: Work
    shared: Callable[[Artifacts], Path] | None = None
    """The directory with a manifest that runs with an equal key share."""
    command: str = ""
    """The subcommand of `sllm` that runs this stage alone, where it is not the stage's name."""
    after: tuple[str, ...] = ()
    """Those that have ended before it starts, well or not: it is the last act of the chain, and runs again whenever
    one of them does."""
    optional: bool = False
    """Whether only runs whose experiment has a section finetune have it."""
    work_share: Callable[..., object] | None = None
    """Does the i-th of n shares of the work, given as `share=(i, n)`; `work` then joins them."""

    def __str__(self) -> str:
        return self.name

    @property
    def whole(self) -> str:
        """The stage that this one is a share of, or itself."""
        return whole_stage(self.name)

    def share(self, number: int, count: int) -> "Stage":
        """The share of one task of a job array, with files, a log and attempts of its own."""
        assert self.work_share is not None, f"{self} cannot be shared out"
        work_share = self.work_share

        def work(experiment: Experiment, run: RunDirectory, artifacts: Artifacts, stop: StopFlag) -> dict[str, Any]:
            work_share(experiment, artifacts, stop, (number, count))
            return {}

        return replace(self, name=f"{self.name}.{number}", work=work, shared=None)


def whole_stage(name: str) -> str:
    """`download` for `download.3`, the third share of it."""
    return name.partition(".")[0]


# The imports wait until a stage runs: they load torch, and the command line should answer at once.


def _download(experiment: Experiment, run: RunDirectory, artifacts: Artifacts, stop: StopFlag) -> dict[str, Any]:
    from sllm.data.download import download_stage

    return download_stage(experiment, artifacts.corpus, stop)


def _download_share(experiment: Experiment, artifacts: Artifacts, stop: StopFlag, share: tuple[int, int]) -> None:
    from sllm.data.download import download_stage

    download_stage(experiment, artifacts.corpus, stop, share=share)


def _tokenizer(experiment: Experiment, run: RunDirectory, artifacts: Artifacts, stop: StopFlag) -> dict[str, Any]:
    if "taken" in artifacts.keys["tokenizer"]:
        return take_tokenizer(experiment, artifacts.keys["pretrain"]["train"]["init_from"], artifacts.tokenizer)
    from sllm.tokenizer.training import tokenizer_stage

    return tokenizer_stage(experiment, artifacts.corpus, artifacts.tokenizer, stop)


def _pack(experiment: Experiment, run: RunDirectory, artifacts: Artifacts, stop: StopFlag) -> dict[str, Any]:
    from sllm.data.pack import pack_stage

    return pack_stage(experiment, artifacts.corpus, artifacts.tokenizer / "tokenizer.json", artifacts.packed, stop)


def _pack_share(experiment: Experiment, artifacts: Artifacts, stop: StopFlag, share: tuple[int, int]) -> None:
    from sllm.data.pack import pack_stage

    tokenizer = artifacts.tokenizer / "tokenizer.json"
    pack_stage(experiment, artifacts.corpus, tokenizer, artifacts.packed, stop, share=share)


def _pretrain(experiment: Experiment, run: RunDirectory, artifacts: Artifacts, stop: StopFlag) -> dict[str, Any]:
    from sllm.training.loop import train

    return _or_stopped(train(experiment, run, artifacts, stop), stop)


def _conversations(experiment: Experiment, run: RunDirectory, artifacts: Artifacts, stop: StopFlag) -> dict[str, Any]:
    from sllm.data.conversations.stage import conversations_stage

    tokenizer = artifacts.tokenizer / "tokenizer.json"
    return conversations_stage(experiment, artifacts.conversations_corpus, tokenizer, artifacts.conversations, stop)


@names_of_finetune()
def _finetune(experiment: Experiment, run: RunDirectory, artifacts: Artifacts, stop: StopFlag) -> dict[str, Any]:
    from sllm.training.loop import train

    return _or_stopped(train(experiment.tuning(), run, artifacts, stop, "finetune"), stop)


def _or_stopped(summary: dict[str, Any], stop: StopFlag) -> dict[str, Any]:
    """The summary of a training. Raises Stopped if it is not at its end."""
    if summary["outcome"] == "stopped":
        raise Stopped(stop.reason)
    return summary


def _validate(experiment: Experiment, run: RunDirectory, artifacts: Artifacts, stop: StopFlag) -> dict[str, Any]:
    from sllm.evaluation.validation import validate_stage

    return validate_stage(experiment, run, artifacts, stop)


def _benchmark(experiment: Experiment, run: RunDirectory, artifacts: Artifacts, stop: StopFlag) -> dict[str, Any]:
    from sllm.benchmark import benchmark_stage

    return benchmark_stage(experiment, run, artifacts, stop)


def _report(experiment: Experiment, run: RunDirectory, artifacts: Artifacts, stop: StopFlag) -> dict[str, Any]:
    from sllm.card.text import refresh_card
    from sllm.report.page import write_report

    page = write_report(run)
    refresh_card(run)  # the stages before this one have measured what it tells
    return {"page": str(page)}


STAGES = {
    stage.name: stage
    for stage in (
        Stage("download", (), _download, shared=lambda artifacts: artifacts.corpus, work_share=_download_share),
        Stage("tokenizer", ("download",), _tokenizer, shared=lambda artifacts: artifacts.tokenizer),
        Stage(
            "pack",
            ("download", "tokenizer"),
            _pack,
            shared=lambda artifacts: artifacts.packed,
            work_share=_pack_share,
        ),
        Stage("pretrain", ("pack",), _pretrain, command="train"),
        Stage(
            "conversations",
            ("tokenizer",),
            _conversations,
            shared=lambda artifacts: artifacts.conversations,
            optional=True,
        ),
        Stage("finetune", ("pretrain", "conversations"), _finetune, optional=True),
        Stage("validate", ("pretrain", "finetune"), _validate),
        Stage("benchmark", ("pretrain", "finetune"), _benchmark),
        Stage("report", (), _report, after=("validate", "benchmark")),
    )
}


TRAININGS = ("pretrain", "finetune")
"""The stages that take steps, on several ranks."""


def up_to(last: str | None = None, *, tuning: bool = False) -> list[Stage]:
    """`last` and everything it needs, in the order they run; every stage if None. `tuning`: whether there is a
    fine-tuning."""
    stages = {name: stage for name, stage in STAGES.items() if tuning or not stage.optional}
    if last is None:
        return list(stages.values())
    if last not in stages:
        why = "the experiment has no section finetune" if last in STAGES else "no such stage"
        raise UserError(f"--until {last}: {why}; valid: {', '.join(stages)}")
    wanted = {last}
    for stage in reversed(stages.values()):
        if stage.name in wanted:
            wanted.update(stage.needs + stage.after)
    return [stage for stage in stages.values() if stage.name in wanted]


# --- what is left to do ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One stage in the plan of a submit. `reasons` say why it runs; a stage that is done has none."""

    stage: Stage
    reasons: tuple[str, ...]

    @property
    def done(self) -> bool:
        return not self.reasons


def read_done(run: RunDirectory, stage: str) -> dict[str, Any] | None:
    """The stage's done.json, or None if it is missing or damaged (then the stage simply runs again)."""
    try:
        return read_object(run.done(stage), "key", "fingerprint", "summary")
    except (FileNotFoundError, NotADirectoryError, CorruptError):
        return None


def read_keys(run: RunDirectory) -> Keys:
    """The stages' keys as they were submitted.

    Raises:
        FileNotFoundError: nothing was submitted.
        CorruptError: the file is damaged.
    """
    needed = [stage.name for stage in STAGES.values() if not stage.after and not stage.optional]
    return read_object(run.path / "keys.json", *needed)


def submitted_keys(run: RunDirectory) -> Keys | None:
    """The same, or None if nothing was submitted or the file is damaged."""
    try:
        return read_keys(run)
    except (OSError, CorruptError):
        return None


def former_training(run: RunDirectory, stage: str = "pretrain") -> dict[str, Any] | None:
    """The key under which the model of a stage was trained, or None if there is none: of its checkpoints, or, if they
    have been deleted to make room, of its done.json."""
    checkpoints = run.training(stage).checkpoints
    for step in reversed(checkpoint_steps(checkpoints)):
        try:
            state = read_object(checkpoint_path(checkpoints, step) / "state.json", "trajectory")
            key: dict[str, Any] = state["trajectory"]
            return key
        except (CorruptError, FileNotFoundError):
            continue
    done = read_done(run, stage)
    return done["key"] if done else None


def last_step(run: RunDirectory, stage: str = "pretrain") -> int:
    """The step of the newest checkpoint, 0 without one."""
    return max(checkpoint_steps(run.training(stage).checkpoints), default=0)


def set_aside(run: RunDirectory, key: dict[str, Any]) -> Path:
    """Where the training with this key is kept while the run has another."""
    return run.path / "previous" / fingerprint(key)


def shared_checkpoint(run: RunDirectory, key: dict[str, Any]) -> tuple[dict[str, Any], int] | None:
    """The key of another training of the run and the step of its furthest checkpoint up to which it is the training
    with this key; None if there is none, or that training has come further by itself."""
    places = [run, *map(RunDirectory, sorted((run.path / "previous").glob("*")))]
    trainings = [(place, former_training(place)) for place in places]
    own = next((place for place, other in trainings if other == key), None)
    if own is not None and read_done(own, "pretrain"):
        return None
    found, furthest = None, last_step(own) if own is not None else 0
    for place, other in trainings:
        shared = shared_steps(other, key) if other is not None and other != key else 0
        for step in checkpoint_steps(place.checkpoints):
            if other is not None and furthest < step <= shared and _whole(checkpoint_path(place.checkpoints, step)):
                found, furthest = (other, step), step
    return found


def plan(run: RunDirectory, keys: Keys, artifacts: Artifacts, stages: list[Stage]) -> list[Step]:
    """For each stage, in order, whether it is done and else why it runs."""
    steps: list[Step] = []
    for stage in stages:
        reasons = _reasons(run, stage, keys[stage.whole], artifacts)
        if stage.after and not reasons and not all(step.done for step in steps):
            reasons = ["a stage before it runs"]
        steps.append(Step(stage, tuple(reasons)))
    return steps


def _reasons(run: RunDirectory, stage: Stage, key: dict[str, Any], artifacts: Artifacts) -> list[str]:
    done = read_done(run, stage.name)
    if stage.name == "pretrain":
        former, shared = former_training(run), shared_checkpoint(run, key)
        goes_on = [f"goes on from step {shared[1]} of previous/{fingerprint(shared[0])}"] if shared else []
        if former is not None and former != key:
            reasons = _changes(former, key)
            if set_aside(run, key).is_dir():
                return [*reasons, f"comes back from previous/{fingerprint(key)}", *goes_on]
            return [*reasons, f"the former training moves to previous/{fingerprint(former)}", *goes_on]
        if goes_on:
            return goes_on
        if done is None and former is not None:
            return [f"goes on from step {step}" if (step := last_step(run)) else "not done yet"]
    if stage.name == "finetune" and (former := former_training(run, "finetune")) is not None:
        if former != key and set_aside(run, key).is_dir():
            return [*_changes(former, key), f"comes back from previous/{fingerprint(key)}"]
        if former != key:
            return [*_changes(former, key), f"the former training moves to previous/{fingerprint(former)}"]
        if done is None and (step := last_step(run, "finetune")):
            return [f"goes on from step {step}"]
    if done is None:
        there = stage.shared is not None and _whole(stage.shared(artifacts))
        return ["takes what a run with the same settings made" if there else "not done yet"]
    if done["fingerprint"] != fingerprint(key):
        return _changes(done["key"], key)
    if stage.shared and not _whole(stage.shared(artifacts)):
        return [f"{stage.shared(artifacts)} is gone or damaged"]
    if stage.name == "download" and (missing := not_tried(_wanted_tasks(artifacts.keys), artifacts.tasks)):
        return [f"has not tried to get the items of {', '.join(missing)}"]
    if stage.name == "benchmark" and (now := measurable_now(done["summary"], artifacts.tasks)):
        return [f"what {', '.join(now)} could not be measured for is there now"]
    if stage.name in TRAININGS and not _whole(best := run.training(stage.name).best):
        return [f"{best} is gone or damaged"]
    return []


def _wanted_tasks(keys: Keys) -> list[str]:
    return wanted_tasks(keys["download"]["data"]["clean"], keys["benchmark"]["benchmark"])


def _whole(directory: Path) -> bool:
    try:
        read_manifest(directory)
        return True
    except CorruptError:
        return False


def setting_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two keys of a stage, apart from the stages before it."""
    return [line for line in _changes(old, new) if not line.startswith("needs: ")]


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    lines = []
    for line in differences(old, new):
        name = line.split(" ", 1)[0]
        if name.startswith("needs."):
            line = f"needs: {name.removeprefix('needs.')}"
        elif name.startswith("files."):
            line = f"files of {name.split('.')[1]} changed"
        line = line if len(line) <= 120 else line[:119] + "…"
        if line not in lines:
            lines.append(line)
    return lines
