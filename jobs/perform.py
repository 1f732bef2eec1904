"""The work of one stage: environment → callable → done.json, and in this process (under torchrun: as one of its ranks)
also its line in the ledger."""

import contextlib
import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs import ledger
from jobs.failures import describe, telling_line, way_out
from jobs.hints import command
from jobs.pipeline import STAGES, Keys, Stage, plan
from sllm.artifacts import Artifacts, changed_files, stage_keys
from sllm.config import Experiment
from sllm.data.offline import offline
from sllm.errors import Superseded, UserError, storage_as_user_error
from sllm.files import fenced_by, fingerprint, write_json
from sllm.progress import report_to
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag

log = logging.getLogger(__name__)

MOST_FILES = 5
"""So many that have changed are named."""


# --- its work ------------------------------------------------------------------------------------


@storage_as_user_error()
def perform(
    stage: Stage, experiment: Experiment, run: RunDirectory, keys: Keys, stop: StopFlag, *, main: bool = True
) -> dict[str, Any]:
    """Do the stage's work and mark it done. Every rank calls this; the main one writes.

    Raises:
        UserError: a stage before it is not done, its input is not what was submitted, or a disk is full or read-only.
        Stopped: a stop was requested; what was reached is on disk.
    """
    artifacts = Artifacts(experiment, keys)
    require_parents(stage, run, keys, artifacts)
    report_to(run.progress(stage.name), silent=not main)
    gets = stage.whole in ("download", "conversations")
    started = time.time()
    with (
        contextlib.nullcontext() if gets else offline(),  # there is nothing to get there, and perhaps no network
        only_one(stage.shared(artifacts), stop) if stage.shared else contextlib.nullcontext(),
    ):
        if gets:
            require_same_files(stage.whole, experiment, keys)
        try:
            summary = stage.work(experiment, run, artifacts, stop)
        except RuntimeError as error:
            if advice := way_out(stage, str(error)):
                raise UserError(f"{advice} ({telling_line(error)})") from error
            raise
    if main and stage.name == stage.whole:  # a share is done when its stage is
        key = keys[stage.name]
        done = {
            "stage": stage.name,
            "fingerprint": fingerprint(key),
            "key": key,
            "summary": summary,
            "seconds": round(time.time() - started, 3),
            "finished": round(time.time(), 3),
            "node": platform.node(),
        }
        write_json(run.done(stage.name), done)
    return summary


def require_parents(stage: Stage, run: RunDirectory, keys: Keys, artifacts: Artifacts) -> None:
    """Raises UserError naming the command that makes what is missing. A scheduler's word alone is not enough: a
    dependency on a job that Slurm has forgotten counts as fulfilled."""
    for step in plan(run, keys, artifacts, [STAGES[name] for name in stage.needs if name in keys]):
        if not step.done:
            alone, all_of_them = command(step.stage.command or step.stage.name, "CONFIG"), command("submit", "CONFIG")
            raise UserError(
                f"{stage}: needs the stage {step.stage}, which is not done ({step.reasons[0]}); "
                f"run `{alone}`, or `{all_of_them}` for everything"
            )


def require_same_files(stage: str, experiment: Experiment, keys: Keys) -> None:
    """Raises UserError naming input files that are not what they were at the submit."""
    now = stage_keys(experiment)[stage]
    if now != keys[stage]:
        found = changed_files(keys[stage], now)
        more = f" and {len(found) - MOST_FILES:,} more" if len(found) > MOST_FILES else ""
        what = f" ({', '.join(found[:MOST_FILES])}{more})" if found else ""
        raise UserError(f"{stage}: the input files have changed since the submit{what}; submit again")


@contextlib.contextmanager
def only_one(output: Path, stop: StopFlag) -> Iterator[None]:
    """Let one run at a time make what several share: those that waited find it there."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with (output.parent / f".{output.name}.lock").open("wb") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    log.info("waiting: another run is making %s", output)
                told = True
                stop.check()
                time.sleep(0.5)
            except OSError as error:  # a file system without locks: at worst two runs do the same work
                log.warning("%s: no file locks here (%s)", output.parent, error.strerror)
                break
        yield


# --- in this process ------------------------------------------------------------------------------


def run_here(
    stage: Stage, experiment: Experiment, run: RunDirectory, keys: Keys, stop: StopFlag, why: str
) -> dict[str, Any]:
    """Run the stage in this process and write its line in the ledger. Raises what `perform` raises."""
    if int(os.environ.get("RANK", "0")) > 0:
        return perform(stage, experiment, run, keys, stop, main=False)
    token = new_token()
    ranks, nodes = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "GROUP_WORLD_SIZE"))  # torchrun's
    ledger.begin(run, stage.name, fingerprint(keys[stage.name]), token, why, ranks=ranks, nodes=nodes)
    try:
        with fenced_by(lambda: require_current(run, stage, token)):
            summary = perform(stage, experiment, run, keys, stop)
        ledger.end(run, stage.name, token, ledger.FINISHED)
        return summary
    except Superseded as superseded:  # then the ledger is the other attempt's business
        raise UserError(f"{stage}: {superseded}") from None
    except BaseException as error:
        ledger.end(run, stage.name, token, *describe(error))
        raise
    finally:
        if is_current(run, stage, token):
            ledger.close(run, stage.name)


def require_current(run: RunDirectory, stage: Stage, token: str) -> None:
    """Raises Superseded if another attempt of the stage has begun since: see `sllm.files.fenced_by`."""
    if not is_current(run, stage, token):
        raise Superseded(f"another attempt owns {run.name} now: this one writes nothing more, and ends")


def is_current(run: RunDirectory, stage: Stage, token: str) -> bool:
    newest = ledger.current(run, stage.name)
    return newest is None or newest["token"] == token  # None: a file system that stumbles


def new_token() -> str:
    return f"{platform.node()}-{os.getpid()}-{time.time_ns()}"
