"""The log of a stage, as it is and as it grows."""

import math
import time
from collections.abc import Iterator

from jobs.hints import command
from jobs.pipeline import STAGES
from jobs.status.states import stage_states
from jobs.status.tables import back_in_queue
from sllm.errors import UserError
from sllm.run_directory import RunDirectory

FOLLOW_SECONDS = 0.3


STATE_SECONDS = 2.0
"""How often a stage that is followed is asked for: for Slurm jobs this asks the controller."""


def follow(run: RunDirectory, stage: str) -> Iterator[str]:
    """What the stage's log holds and what is added to it, until the stage is over. Requeued attempts append to it;
    between two of them a line of ours tells where the stage is."""
    position, asked_at, over = 0, -math.inf, False
    told = ""
    while True:
        # Look at the state first: what is written before a stage is over is then certainly read.
        between = None
        if time.monotonic() - asked_at >= STATE_SECONDS:
            state = next((state for state in stage_states(run) if state.name == stage), None)
            over = state is None or state.over
            if state is not None and state.state == "pending" and state.attempts:
                between = state
            asked_at = time.monotonic()
        path = run.log(stage)
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                data = file.read()
            # A character may be written in two parts: keep to whole lines while more can come.
            whole = data if over else data[: data.rfind(b"\n") + 1]
            position += len(whole)
            if whole:
                yield whole.decode("utf-8", errors="replace")
        if over:
            return
        if between is not None and between.attempts[-1]["token"] != told:
            told = between.attempts[-1]["token"]
            yield f"──── {stage}: {back_in_queue(run, between)}\n"
        time.sleep(FOLLOW_SECONDS)


def newest_log(run: RunDirectory) -> str:
    """The stage that wrote to its log last. Raises UserError if none has."""
    stages = [stage for stage in STAGES if run.log(stage).exists()]
    if not stages:
        raise UserError(f"{run.path}: no stage has written a log yet; see `{command('status', run)}`")
    return max(stages, key=lambda stage: run.log(stage).stat().st_mtime)
