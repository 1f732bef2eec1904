"""What is to be run, where, and how far: an order, valid from the start."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Literal

from jobs import ledger
from jobs.launch.start import Start
from jobs.pipeline import TRAININGS, Step, plan, setting_changes, submitted_keys, up_to
from jobs.presets import PROFILES
from jobs.slurm.batch import require_usable_path
from jobs.slurm.cluster import Cluster, load_cluster
from sllm.artifacts import Artifacts, stage_keys
from sllm.config import Experiment, TrainConfig, check_world_size, fits_world_size, names_of_finetune
from sllm.data.lm_eval_tasks import check_tasks
from sllm.errors import UserError
from sllm.run_directory import RunDirectory

Where = Literal["here", "local", "slurm"]


def destination(experiment: Experiment, on: Where | None, profile: str | None) -> tuple[Where, Cluster, str]:
    """Where to run and with which profile, and why there, if that was not said.

    Where it was not said: on Slurm if the profile is one for Slurm, else where the run ran before, else as processes of
    this machine. Without a profile it is the one that the run had there.

    Raises:
        UserError: the profile is wrong, or missing for Slurm.
    """
    run = RunDirectory(experiment.run_path)
    before = (ledger.read_or_none(run.submission) or {}).get("on")
    given = load_cluster(profile) if profile is not None else None
    if on is not None:
        where, why = on, ""
    elif given is not None and given.for_slurm:
        where, why = "slurm", f"{profile} is a profile for Slurm"
    elif before is not None and (given is None or given.to_yaml() == _recorded_profile(run)):
        where, why = before, "" if before == "local" else "it ran there before"
    else:
        where, why = "local", ""
    if given is None and where == before and run.cluster.is_file():
        given = load_cluster(str(run.cluster))
    if given is None and where == "slurm":
        raise UserError(f"--on slurm: needs --cluster PROFILE; copy and edit {PROFILES}/h100.yaml")
    return where, given or load_cluster("laptop"), why


def _recorded_profile(run: RunDirectory) -> str:
    return run.cluster.read_text(encoding="utf-8") if run.cluster.is_file() else ""


def _ranges(numbers: list[int]) -> list[str]:
    """1, 2, 4 → `1-2`, `4`."""
    groups = [list(group) for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    return [f"{group[0][1]}-{group[-1][1]}" if len(group) > 1 else f"{group[0][1]}" for group in groups]


@dataclass
class Order:
    """With `resume` it only goes on with what was submitted before, and on Slurm, where some of its jobs may still be
    in the queue, submits those that are neither there nor done. With `yes` nobody is asked before much work moves or
    begins.

    Raises:
        UserError: anything wrong with the experiment or its files; with `resume`, nothing was submitted before, or
            other settings.
    """

    experiment: Experiment
    cluster: Cluster
    where: Where
    until: str | None = None
    resume: bool = False
    yes: bool = False

    def __post_init__(self) -> None:
        check_tasks(self.experiment.benchmark.tasks)
        self.run = RunDirectory(self.experiment.run_path)
        self.stages = up_to(self.until, tuning=self.experiment.finetune is not None)
        self.keys = stage_keys(self.experiment)
        self._artifacts = Artifacts(self.experiment, self.keys)
        self.start = Start.of(self.experiment, self.run, self.keys)
        problems = []
        trainings = {stage: self.experiment for stage in TRAININGS if stage in self.keys}
        if "finetune" in trainings:
            trainings["finetune"] = self.experiment.tuning()
        checks: list[Callable[[], None]] = [partial(require_usable_path, self.run, self.where)]
        for stage, experiment in trainings.items():
            for check in (self._require_even_split, self._require_saves):
                own = partial(check, stage, experiment.train)
                checks.append(names_of_finetune()(own) if stage == "finetune" else own)
        for require in checks:
            try:
                require()
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError("\n".join(problems))
        if self.resume:
            self._require_same_settings()

    def plan(self) -> list[Step]:
        """What of it is done, and why the rest runs."""
        return plan(self.run, self.keys, self._artifacts, self.stages)

    def _require_even_split(self, stage: str, train: TrainConfig) -> None:
        """On every number of ranks that an attempt may run on."""
        resources = self.cluster.resources(stage)
        if self.where != "slurm":
            check_world_size(train, 1 if self.where == "here" else resources.tasks_per_node)
            return
        try:
            check_world_size(train, *resources.rank_counts)
        except UserError as error:
            fit = [nodes for nodes in resources.node_counts if fits_world_size(train, nodes * resources.tasks_per_node)]
            if not fit or len(resources.node_counts) == 1:
                raise
            raise UserError(
                f"{error}, or other stages.{stage}.nodes than {resources.nodes}: {' or '.join(_ranges(fit))}"
            ) from None

    def _require_saves(self, stage: str, train: TrainConfig) -> None:
        """That an attempt comes to a checkpoint before its time limit."""
        limit, every = self.cluster.resources(stage).time_minutes, train.checkpoint
        if self.where == "slurm" and every.seconds is not None and every.seconds >= 60 * limit:
            raise UserError(
                f"train.checkpoint.every: {every.every} is not below the time limit (stages.{stage}.time_minutes: "
                f"{limit}); say auto, or a shorter time"
            )

    def _require_same_settings(self) -> None:
        former, keys = submitted_keys(self.run), self.keys
        if former is None:
            raise UserError(f"{self.run.path}: nothing was submitted here; submit without --resume")
        pairs = [(former.get(stage, key), key) for stage, key in keys.items()]
        if changed := dict.fromkeys(line for pair in pairs for line in setting_changes(*pair)):
            raise UserError(
                f"{self.run.path}: --resume only goes on, and the settings have changed ({'; '.join(changed)}); "
                f"submit without --resume, or take another name=…"
            )
