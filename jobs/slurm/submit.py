"""Sending jobs to Slurm, through submitit."""

import contextlib
import io
import shlex
import sys
import time

from jobs.pipeline import Stage
from jobs.run import job
from jobs.slurm.batch import batch_parameters, python_command
from jobs.slurm.cluster import Resources
from jobs.slurm.commands import cancel_jobs, sbatch_message, without_foreign_variables
from sllm.errors import UserError
from sllm.files import write_json
from sllm.run_directory import RunDirectory


def submit_job(
    run: RunDirectory, stage: Stage, resources: Resources, dependency: str | None, *, array: bool = False
) -> str:
    """Submit a stage, or the job array before it, through submitit; returns the job id. Raises UserError with what
    sbatch says."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = submitit.SlurmExecutor(
        folder=run.stage(stage.name) / "submitit", python=python_command(shlex.quote(sys.executable))
    )
    executor.update_parameters(**batch_parameters(run, stage, resources, dependency, array=array))
    try:
        with without_foreign_variables(), contextlib.redirect_stderr(io.StringIO()):
            if array:
                count = resources.array
                shares = [(number, count) for number in range(count)]
                repeated = [[argument] * count for argument in (str(run.path), stage.name, None)]
                submitted = executor.map_array(job, *repeated, shares)[0]
            else:
                submitted = executor.submit(job, str(run.path), stage.name)
    except (FailedJobError, FailedSubmissionError) as error:
        for leftover in [*executor.folder.glob(".submission_file_*"), *executor.folder.glob(f"{'?' * 32}.pkl")]:
            leftover.unlink()  # written for sbatch, which did not want them
        raise UserError(f"stages.{stage}: sbatch refuses: {sbatch_message(str(error))}") from None
    identifier: str = submitted.job_id.partition("_")[0]
    record = {"job": identifier, "submitted": time.time()}
    try:
        write_json(run.stage(stage.name) / ("array.json" if array else "job.json"), record)
    except OSError:
        cancel_jobs([identifier])  # nobody would know of it
        raise
    return identifier
