"""The chain of a run: a job for each stage, after those it needs. All of them or none."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from jobs.pipeline import Stage, Step
from jobs.slurm.batch import dependency_on
from jobs.slurm.cluster import Cluster, Resources
from jobs.slurm.commands import cancel_jobs
from jobs.slurm.partitions import misfits, partitions
from sllm.errors import UserError
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag, signals_blocked


@dataclass(frozen=True)
class Job:
    """A job to submit: of a stage, or the array of its shares before it."""

    stage: Stage
    resources: Resources
    after: tuple[str, ...]
    """Names of the jobs that it depends on."""
    array: bool = False

    @property
    def name(self) -> str:
        return f"{self.stage}.*" if self.array else self.stage.name


def chain(steps: list[Step], cluster: Cluster, live: Collection[str] = ()) -> Iterator[Job]:
    """A job for each stage that is neither done nor `live`, after those of the stages that it needs."""
    pending = {step.stage.name for step in steps if not step.done}.union(live)
    for step in steps:
        stage, resources = step.stage, cluster.resources(step.stage.name)
        if step.done or stage.name in live:
            continue
        after = tuple(name for name in stage.needs + stage.after if name in pending)
        if resources.array > 1:
            yield Job(stage, resources, after, array=True)
            after = (f"{stage}.*",)
        yield Job(stage, resources, after)


def submit_chain(
    run: RunDirectory, steps: list[Step], live: dict[str, str], cluster: Cluster, stop: StopFlag
) -> dict[str, str]:
    """Submit the chain beside the jobs that are `live` (stage → job id), all of it or nothing. Returns the new ones.

    A live one that waits for the end of others, of which some are submitted anew, gives way to a new one that waits for
    those.
    """
    waits = {step.stage.name: step.stage.after for step in steps}
    missing = {step.stage.name for step in steps if not step.done and step.stage.name not in live}
    early = [name for name in live if missing.intersection(waits.get(name, ()))]
    live, replaced = {name: live[name] for name in live if name not in early}, [live[name] for name in early]
    new = dict[str, str]()
    try:
        for job in chain(steps, cluster, live):
            stop.check()
            after = [(live | new)[name] for name in job.after]
            new[job.name] = _submit(run, job, dependency_on(after, ended=bool(job.stage.after)))
    except BaseException:
        cancel_jobs(list(new.values()))
        raise
    cancel_jobs(replaced)
    return new


def _submit(run: RunDirectory, job: Job, dependency: str | None) -> str:
    """submit_job, whose error also names the lines of the profile that ask for what is not there."""
    from jobs.slurm.submit import submit_job  # which loads submitit

    try:
        with signals_blocked():  # else a Ctrl-C ends sbatch, perhaps after it has submitted a job that nobody knows
            return submit_job(run, job.stage, job.resources, dependency, array=job.array)
    except UserError as error:
        wrong = [f"{misfit.problem} (set {misfit.remedy})" for misfit in misfits(job.resources, partitions())]
        raise UserError("; ".join([str(error), *wrong])) from None
