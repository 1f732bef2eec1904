"""Sending jobs to Slurm, through submitit."""

import contextlib
import io
import time
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from jobs.pipeline import Stage
from jobs.run import job
from jobs.slurm.batch import batch_text
from jobs.slurm.cluster import Resources
from jobs.slurm.commands import cancel_jobs, sbatch_message, without_foreign_variables
from sllm.errors import UserError
from sllm.files import write_json
from sllm.run_directory import RunDirectory


class Executor(submitit.SlurmExecutor):
    """submitit's, with a batch script of ours: it asks its plugins for one in this way."""

    def __init__(self, folder: Path, text: str) -> None:
        super().__init__(folder)
        self._text = text

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self._text


def submit_job(
    run: RunDirectory, stage: Stage, resources: Resources, dependency: str | None, *, array: bool = False
) -> str:
    """Submit a stage, or the job array before it, through submitit; returns the job id. Raises UserError with what
    sbatch says."""
    folder = run.stage(stage.name) / "submitit"
    executor = Executor(folder, batch_text(run, stage, resources, dependency, array=array))
    tasks = resources.array if array else None
    try:
        with without_foreign_variables(), contextlib.redirect_stderr(io.StringIO()):
            submitted = executor.submit(job, str(run.path), stage.name, tasks=tasks)
    except (FailedJobError, FailedSubmissionError) as error:
        for leftover in [*folder.glob(".submission_file_*"), *folder.glob(f"{'?' * 32}.pkl")]:
            leftover.unlink()  # written for sbatch, which did not want them
        raise UserError(f"stages.{stage}: sbatch refuses: {sbatch_message(str(error))}") from None
    identifier = submitted.job_id
    record = {"job": identifier, "submitted": time.time()}
    try:
        for number in range(tasks or 0):  # each looks for what to do under its own name, for a minute
            link = folder / f"{identifier}_{number}_submitted.pkl"
            link.unlink(missing_ok=True)  # of another job with this number: a cluster set up anew counts from 1 again
            link.symlink_to(submitted.paths.submitted_pickle.name)
        write_json(run.stage(stage.name) / ("array.json" if array else "job.json"), record)
    except OSError:
        cancel_jobs([identifier])  # nobody would know of it
        raise
    return identifier
