"""One stage alone, in this process: under torchrun as one of its ranks."""

import os
from pathlib import Path

from jobs.hints import command, command_line, short
from jobs.launch.busy import require_idle
from jobs.launch.prepare import write_submission
from jobs.launch.start import Start
from jobs.lock import lock
from jobs.perform import require_parents, run_here
from jobs.pipeline import STAGES, TRAININGS, Keys, former_training, plan, set_aside
from jobs.run import set_up_logging
from sllm.artifacts import Artifacts, differences, stage_keys
from sllm.config import Experiment
from sllm.data.lm_eval_tasks import check_tasks
from sllm.errors import UserError
from sllm.run_directory import RunDirectory
from sllm.stop import stop_on_signals
from sllm.terminal import outlive_readers


def run_single(name: str, experiment: Experiment) -> str:
    """One stage, whose parents are done, in this process; under torchrun as one of its ranks. Returns what to print.

    Raises:
        UserError: a parent is missing, or a submit would exchange the run's training for another.
        Stopped: asked to stop; what was reached is on disk.
    """
    check_tasks(experiment.benchmark.tasks)
    run, stage, keys = RunDirectory(experiment.run_path), STAGES[name], stage_keys(experiment)
    if name not in keys:
        raise UserError(f"{name}: the experiment has no section finetune")
    artifacts = Artifacts(experiment, keys)
    with stop_on_signals() as stop:
        outlive_readers()
        rank = int(os.environ.get("RANK", "0"))
        set_up_logging(rank)
        require_parents(stage, run, keys, artifacts)
        (step,) = plan(run, keys, artifacts, [stage])
        if step.done:
            return f"{name}: done already in {run.path}"
        if rank > 0:
            run_here(stage, experiment, run, keys, stop, name)
            return f"{name}: done in {run.path}"
        _require_same_training(run, keys)
        start = Start.of(experiment, run, keys)
        with lock(run, Path(experiment.data_directory), command=command_line()):
            require_idle(run, keys)
            start.begin()
            write_submission(run, experiment, keys)
            run_here(stage, experiment, run, keys, stop, name)
    return f"{name}: done in {run.path}"


def _require_same_training(run: RunDirectory, keys: Keys) -> None:
    """Raises UserError if the run's training, or one that is set aside, is what a submit would exchange."""
    for stage in TRAININGS:
        if (key := keys.get(stage)) is None:
            continue
        place, former = run.training(stage).path, former_training(run, stage)
        if former is not None and former != key:
            changed = "; ".join(differences(former, key))
            raise UserError(
                f"{place}: its checkpoints were trained with other settings ({changed}); take another name=…, or "
                f"`{command('submit', 'CONFIG')}`, which sets the former training aside"
            )
        if (aside := set_aside(run, key)).is_dir():
            raise UserError(
                f"{place}: a training with these settings is in {short(aside)}; take another name=…, or "
                f"`{command('submit', 'CONFIG')}`, which brings it back"
            )
