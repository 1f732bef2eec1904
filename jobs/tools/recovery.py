"""What became of a training that things were done to: how long each recovery took, and what did not survive.

Judged by what stands in the run directories, and told by the ledger.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from rich.table import Table

from jobs import ledger
from jobs.tools.patient import Endured
from sllm.files import fingerprint
from sllm.origin import WEIGHTS
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory, checkpoint_path
from sllm.tensors import checksums

MISSING = "none"


class Recovery(NamedTuple):
    """One event and what followed, in seconds. None where there was nothing to measure."""

    endured: Endured
    ended: str
    ranks: int | None
    """On how many it went on."""
    steps_lost: int | None
    to_checkpoint: float | None
    """From the event until its checkpoint was durable."""
    to_end: float | None
    """From the event until the attempt's end."""
    in_queue: float | None
    """Until the launch of the job, or of the next one."""
    starting: float | None
    """From the job's launch until the checkpoint is read: shell, interpreter, imports, process group, model."""
    loading: float | None
    first_step: float | None
    total: float | None
    """From the event to the end of the next attempt's first step."""


def recoveries(run: RunDirectory, endured: Sequence[Endured]) -> list[Recovery]:
    """From the ledger and the metrics."""
    lines = {line["attempt"]: line for line in ledger.attempts(run, "pretrain")}
    records = [record for record in read_jsonl(run.metrics) if record["kind"] in ("start", "checkpoint")]
    return [_recovery(each, lines.get(each.attempt), lines.get(each.attempt + 1), records) for each in endured]


def _recovery(
    endured: Endured, before: dict[str, Any] | None, after: dict[str, Any] | None, records: list[dict[str, Any]]
) -> Recovery:
    if endured.problem or before is None or after is None or after["first_step"] is None:
        ended = endured.problem or (before["ended"] if before else "?")
        return Recovery(endured, ended, *[None] * 9)
    end = before["started"] + before["seconds"]
    saves = [record["time"] for record in records if record["kind"] == "checkpoint"]
    saved = [time for time in saves if endured.at <= time <= end + 1]
    limit = before["ended"] == ledger.TIME_LIMIT  # nobody can say when it was noticed
    to_end = None if limit else end - endured.at
    starting, loading, to_first_step = (after[f"seconds_{span}"] for span in ("starting", "loading", "to_first_step"))
    # The ledger knows of no queue before a job that was submitted anew.
    starts = (record for record in records if record["kind"] == "start" and record["time"] >= after["started"])
    queue = next(start["time"] - start["seconds"] for start in starts) - starting - end
    return Recovery(
        endured,
        before["ended"],
        after["ranks"],
        steps_lost=before["last_step"] + 1 - after["first_step"],
        to_checkpoint=saved[-1] - endured.at if saved and endured.event.saves and not limit else None,
        to_end=to_end,
        in_queue=queue,
        starting=starting,
        loading=loading,
        first_step=to_first_step - starting - loading,
        total=(to_end or 0.0) + queue + to_first_step,
    )


def complaints(recovered: Sequence[Recovery], every: int | str) -> Iterator[str]:
    """What should not have happened: an event that Slurm refused, or more steps lost than allowed. A checkpoint may
    still have been being written that long after its step, and the next one not be due; where `every` is no number
    of steps, none can be told."""
    most = 2 * every if isinstance(every, int) else math.inf
    for recovery in recovered:
        event = recovery.endured.event
        if recovery.endured.problem:
            yield f"{event.what}: could not be tried: {recovery.endured.problem}"
        elif recovery.steps_lost is None:
            yield f"{event.what}: the training did not go on"
        elif recovery.steps_lost > (0 if event.saves else most):
            yield f"{event.what}: {recovery.steps_lost} steps were lost"


def ranks_in_order(run: RunDirectory) -> str:
    """`2 → 1 → 4`: on how many the training ran, each change once."""
    changes = groupby(line["ranks"] for line in ledger.attempts(run, "pretrain"))
    return " → ".join(str(ranks) for ranks, _ in changes) or "none"


def digest(run: RunDirectory, step: int) -> str:
    """Of the weights and the optimizer's state at this step: twelve digits."""
    tensors = _tensors(run, step)
    return fingerprint(tensors)[:12] if tensors else MISSING


def _tensors(run: RunDirectory, step: int) -> dict[str, str]:
    """A checksum of each; none unless the weights are there."""
    directory = checkpoint_path(run.checkpoints, step)
    return checksums(directory) if (directory / WEIGHTS).is_file() else {}


def differences(run: RunDirectory, other: RunDirectory, steps: int) -> Iterator[str]:
    """How the finished training of `steps` steps differs from the other: steps, losses and weights, bit for bit. What
    differs first is named first."""

    def losses(run: RunDirectory) -> list[tuple[int, float]]:
        return [(record["step"], record["loss"]) for record in read_jsonl(run.metrics) if record["kind"] == "train"]

    mine, theirs = losses(run), losses(other)
    if [step for step, _ in mine] != list(range(1, steps + 1)):
        yield f"{run.name}: metrics.jsonl does not have each of the steps 1 to {steps} once"
    if unequal := [step for (step, loss), (_, right) in zip(mine, theirs, strict=False) if loss != right]:
        yield f"{run.name}: the loss of step {unequal[0]}{_where(run, unequal[0])} differs from that of {other.name}"
    own, right = digest(run, steps), digest(other, steps)
    if own != right or own == MISSING:
        tensors, others = _tensors(run, steps), _tensors(other, steps)
        first = next((key for key in {**tensors, **others} if tensors.get(key) != others.get(key)), WEIGHTS)
        yield f"{run.name}: digest {own} of step {steps} differs from that of {other.name}, {right}: first in {first}"


def _where(run: RunDirectory, step: int) -> str:
    """Which attempt took this step, and on how many ranks."""
    for line in reversed(ledger.attempts(run, "pretrain")):
        if line["first_step"] and line["first_step"] <= step <= line["last_step"]:
            return f" (attempt {line['attempt']}, ranks: {line.get('ranks', '?')})"
    return ""


def late_or_repeated(run: RunDirectory) -> Iterator[str]:
    """Whether validate and benchmark ran once each, after the training's end."""
    lines = ledger.attempts(run)
    end = max(line["started"] + line["seconds"] for line in lines if line["stage"] == "pretrain")
    for stage in ("validate", "benchmark"):
        mine = [line for line in lines if line["stage"] == stage]
        if [line["ended"] for line in mine] != [ledger.FINISHED]:
            yield f"{stage}: {len(mine)} attempts instead of one"
        elif mine[0]["started"] < end:
            yield f"{stage}: started before the end of the training"


def table(recovered: Sequence[Recovery]) -> Table:
    told = "ranks: after it; lost: steps; the rest: seconds; -: nothing to measure"
    made = Table(box=None, padding=(0, 1, 0, 0), caption=told)
    columns = ["event", "ended as", "ranks", "lost", "saved", "ended", "queue", "start", "load", "step", "back"]
    for column in columns:
        made.add_column(column, justify="left" if column in columns[:2] else "right", overflow="fold")
    for recovery in recovered:
        counts = ["-" if value is None else str(value) for value in (recovery.ranks, recovery.steps_lost)]
        seconds = ["-" if value is None else f"{value:.1f}" for value in recovery[4:]]
        made.add_row(recovery.endured.event.what, recovery.ended, *counts, *seconds)
    return made
