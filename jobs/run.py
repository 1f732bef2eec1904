"""One rank of a stage, in a process of its own.

`job` is what a launcher starts, one process per rank: it takes the signals before anything heavy is imported, writes
to the stage's log, and ends in an exit code. Whatever happens to the processes, the ledger gets its line.
"""

import contextlib
import logging
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn, TextIO

from jobs import ledger
from jobs.failures import describe, lost_peer
from jobs.perform import is_current, perform, require_current
from jobs.pipeline import STAGES, Keys, Stage, plan, read_keys
from jobs.slurm import attempt
from sllm.artifacts import Artifacts
from sllm.config import Experiment, load_experiment
from sllm.errors import Stopped, Superseded, UserError
from sllm.files import CorruptError, fenced_by, fingerprint
from sllm.progress import TIME_FORMAT
from sllm.run_directory import RunDirectory
from sllm.stop import SIGNALS, StopFlag, stop_on_signals
from sllm.utf8 import set_up_streams, start_in_utf8_mode

log = logging.getLogger(__name__)

# Exit codes of `job`. 85 (EX_STOPPED) belongs to nobody else: not a shell's, not a signal's, not Slurm's.
EX_CRASH, EX_BAD_INPUT, EX_STOPPED, EX_FENCED = 1, 2, 85, 86

WATCH_SECONDS = 1.0
MEASURE_SECONDS = 60.0
"""How often the deadline is worked out anew."""

PEER_SECONDS = 10.0
"""How long a rank may go on after another rank has recorded the end of their attempt."""


def job(path: str, name: str, token: str | None = None, tasks: int | None = None) -> None:
    """One rank of a stage, in a process of its own. Leaves with an exit code, never by returning: a launcher that
    pickles results would otherwise record a stage that was stopped as a success.

    What the process is, its launcher says. `token` names the attempt that it has opened for local processes; without
    one this is a Slurm job, whose rank 0 opens it, or with `tasks` one of so many of a job array. Variables say no more
    than which task and which rank of that it is: those of other jobs may be set here, too.
    """
    signal.signal(signal.SIGCONT, signal.SIG_DFL)  # comes with each of Slurm's signals; submitit would log it
    with stop_on_signals(last=True) as stop:  # in place of submitit's own handlers, which would requeue the job
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # a local launcher has started us with them blocked
        run, stage = RunDirectory(Path(path)), STAGES[name]
        if tasks is not None:
            stage = stage.share(attempt.array_task(), tasks)
        rank = attempt.adopt_rank() if token is None else adopt_local_rank()
        redirect_output(run.log(stage.name))
        set_up_logging(rank)
        if token is not None:
            leave(rank_of_attempt(run, stage, token, stop, rank))
        leave(rank_of_job(run, stage, stop, rank))


def rank_of_job(run: RunDirectory, stage: Stage, stop: StopFlag, rank: int) -> int:
    """A rank in a Slurm job. Returns the exit code; see `jobs.slurm.attempt` for what follows from it."""
    token, deadline = attempt.attempt_token(), None
    if rank == 0:
        _, keys = load_run(run)
        refusal = attempt.begin(run, stage.name, fingerprint(keys[stage.whole]))
        if refusal:
            print(f"{stage}: not started: {refusal}", file=sys.stderr, flush=True)
            return EX_FENCED
        deadline = attempt.Deadline(run, stage.name)
        stop.deadline = deadline.measure()  # of rank 0 alone: the ranks agree on a stop
    cause_of = partial(attempt.stop_cause, stage.name)
    code = rank_of_attempt(run, stage, token, stop, rank, cause_of=cause_of, deadline=deadline)
    if rank > 0:
        # Rank 0 speaks for a stop that all have agreed to. srun would kill it for the exit code of another.
        return 0 if code == EX_STOPPED else code
    if code in (0, EX_STOPPED):
        attempt.settle(run, stage.name)
    return code


def rank_of_attempt(
    run: RunDirectory,
    stage: Stage,
    token: str,
    stop: StopFlag,
    rank: int,
    cause_of: Callable[[str], str] = lambda _: ledger.STOPPED,
    deadline: attempt.Deadline | None = None,
) -> int:
    """The stage, its end recorded. Returns the exit code. `cause_of` tells why a stop was asked for."""
    if rank == 0:
        banner(run, stage, token)
    watch(run, stage, token, stop, deadline)
    try:
        experiment, keys = load_run(run)
        adopt_device(attempt.resources(run, stage.name).promised_device if run.cluster.is_file() else None)
        if not stage.after and plan(run, keys, Artifacts(experiment, keys), [stage])[0].done:
            print(f"{stage}: done already", flush=True)  # and then the node was lost, for example
        elif rank == 0:
            with fenced_by(lambda: require_current(run, stage, token)):
                perform(stage, experiment, run, keys, stop)
        else:
            perform(stage, experiment, run, keys, stop, main=False)
        if rank == 0:
            ledger.end(run, stage.name, token, ledger.FINISHED)
        return 0
    except Stopped as stopped:
        log.info("stopped (%s)", stopped)
        if rank == 0:
            ledger.end(run, stage.name, token, cause_of(stop.reason), str(stopped))
        return EX_STOPPED
    except UserError as error:
        if ledger.end(run, stage.name, token, *describe(error)):
            _tell(f"sllm: {error}")
        return EX_BAD_INPUT
    except Superseded as superseded:
        _tell(f"{stage}: {superseded}")
        return EX_FENCED
    except Exception as error:
        if lost_peer(error):
            time.sleep(WATCH_SECONDS)  # the rank that is gone may be about to say why
        if not is_current(run, stage, token):
            return EX_FENCED
        if ledger.end(run, stage.name, token, *describe(error)):
            traceback.print_exc()
        else:
            log.error("rank %d ends too: %s", rank, describe(error)[1])
        return EX_CRASH


def leave(code: int) -> NoReturn:
    """End the process; as one of several ranks without Python's clean-up.

    A process group outlives `destroy_process_group` where DDP has used it. Its threads may then let go of a tensor
    while the interpreter is being taken down, which aborts the process: after a training that had succeeded (3 of 120
    exits, torch 2.13). And a rank that has failed would wait in its clean-up for others, which wait for this one.
    """
    logging.shutdown()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # the log's disk is full: Python's clean-up would try again, fail and change the exit code
        os._exit(code)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        sys.exit(code)
    os._exit(code)


def load_run(run: RunDirectory) -> tuple[Experiment, Keys]:
    """The experiment and the stages' keys as they were submitted."""
    try:
        keys = read_keys(run)
    except FileNotFoundError:
        raise UserError(f"{run.path}: nothing was submitted here (keys.json is missing)") from None
    except CorruptError as error:
        raise UserError(f"{error}; submit again") from None
    return load_experiment(run.config), keys


def adopt_local_rank() -> int:
    """Set torchrun's variables, which are all that the library knows, from submitit's. Returns the rank."""
    env = os.environ
    env["RANK"], env["LOCAL_RANK"] = env["SUBMITIT_LOCAL_GLOBALID"], env["SUBMITIT_LOCAL_LOCALID"]
    env["WORLD_SIZE"] = env["SUBMITIT_LOCAL_NTASKS"]
    return int(env["RANK"])


def adopt_device(promised: str | None) -> None:
    """Tell the library what the profile says, and no variable that happens to be set."""
    os.environ.pop("SLLM_DEVICE", None)
    if promised:
        os.environ["SLLM_DEVICE"] = promised


def redirect_output(path: Path) -> None:
    """Send everything this process and its libraries print to the end of `path`, in UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    set_up_streams()


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the time: a progress bar puts itself in between."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, stream: TextIO) -> None: ...


def set_up_logging(rank: int = 0) -> None:
    level = logging.INFO if rank == 0 else logging.WARNING
    who = "" if rank == 0 else f"[rank {rank}] "
    format_ = f"%(asctime)s {who}%(message)s"
    logging.basicConfig(level=level, format=format_, datefmt=TIME_FORMAT, handlers=[_StandardError()], force=True)


def banner(run: RunDirectory, stage: Stage, token: str) -> None:
    current = ledger.current(run, stage.name)
    number = current["attempt"] if current and current["token"] == token else "?"
    why = current["why"] if current else ""
    when = time.strftime(TIME_FORMAT)
    code = Path(__file__).parent.parent
    print(f"──── {stage} · attempt {number} ({why}) · {when} · {platform.node()} · {code}", flush=True)


def watch(run: RunDirectory, stage: Stage, token: str, stop: StopFlag, deadline: attempt.Deadline | None) -> None:
    """Leave the process when its attempt is over: another one owns the run, or another rank has failed.

    A node that the scheduler gave up may still be alive, and a rank whose peer was killed may wait for it in a
    collective: neither comes back to Python, so a thread ends the process. It also keeps the deadline up to date.
    """

    def loop() -> None:
        owned, failed_at, measured_at = False, None, time.monotonic()
        while True:
            time.sleep(WATCH_SECONDS)
            now = time.monotonic()
            current = ledger.current(run, stage.name)
            if current and current["token"] == token:
                owned = True
            elif current and owned:
                _end(f"attempt {current['attempt']} owns {run.name} now: this one ends", EX_FENCED)
            ending = ledger.ended(run, stage.name, token)
            if ending and ending["cause"] in (ledger.CRASH, ledger.BAD_INPUT, ledger.KILLED):
                failed_at = failed_at or now
                if now - failed_at > PEER_SECONDS:
                    _end(f"another rank has ended ({ending['message']}): this one ends too", EX_CRASH)
            if deadline is not None and now - measured_at > MEASURE_SECONDS:
                measured_at = now
                with contextlib.suppress(OSError):  # a file system that stumbles: the old deadline will do
                    stop.deadline = deadline.measure() or stop.deadline

    threading.Thread(target=loop, name="watch", daemon=True).start()


def _end(message: str, code: int) -> None:
    _tell(message)
    os._exit(code)


def _tell(message: str) -> None:
    with contextlib.suppress(OSError):  # the log may be on a full disk, and what comes next matters more
        print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    start_in_utf8_mode()
    run_path, stage_name, *numbers = sys.argv[1:]
    if numbers and "SLURM_ARRAY_TASK_ID" not in os.environ:
        shares = f"0-{int(numbers[0]) - 1}"
        sys.exit(f"sllm: {stage_name}: {numbers[0]} shares are the tasks of a job array: sbatch --array={shares} …")
    if numbers and not attempt.array_task() < int(numbers[0]):
        sys.exit(f"sllm: {stage_name}: there is no share {attempt.array_task()} of {numbers[0]}, counted from 0")
    job(run_path, stage_name, tasks=int(numbers[0]) if numbers else None)
