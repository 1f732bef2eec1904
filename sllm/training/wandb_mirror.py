"""W&B as a mirror of metrics.jsonl, in a process of its own: whatever happens to it, training does not notice.

W&B gets one row a step, under that step's number. Asked to resume a run, the server says which row it has last; the
rows after it are sent, in order, and no others. So no step is lost or doubled, however the sender before ended, and
nothing has to be remembered here but the id of the run. There is one sender at a time: the one that holds the lock.

`mirror_to_wandb` sends while training runs, if W&B can be reached then; `send` (that is `sllm sync`) sends the rest,
at any time and from any node. Nothing of W&B's own offline mode is used: it cannot resume a run.
"""

import fcntl
import html
import json
import logging
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from sllm.config import Experiment
from sllm.errors import UserError
from sllm.files import CorruptError, read_object, write_json
from sllm.progress import track
from sllm.run_directory import RunDirectory
from sllm.stop import SIGNALS, signals_blocked
from sllm.utf8 import set_up_streams

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
CLOSE_SECONDS = 20.0
INIT_SECONDS = 60.0
FINISH_SECONDS = 120.0
SETTLE_SECONDS = 10.0
"""W&B counts a row some seconds after it took it (wandb/wandb#12421): asked sooner, it names an older one."""


class History:
    """The rows of W&B's history that a growing metrics.jsonl holds, one a step, each given out when it is complete.

    Row s has the figures of training step s, of the validation after it where one is due, and of what came between
    step s - 1 and step s: loading a checkpoint, the end of saving one.
    """

    def __init__(self, experiment: Experiment, path: Path) -> None:
        self._experiment, self._path = experiment, path
        self._file: BinaryIO | None = None
        self._rows: dict[int, dict[str, Any]] = {}
        self._trained = 0

    def new_rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(step, figures) of the rows that became complete since the last call, in order."""
        for record in self._new_records():
            kind, step = record["kind"], record["step"]
            if kind == "train":
                self._trained = step
            # A checkpoint is there some steps after its own, whose rows may have been given out.
            at = step if kind in ("train", "validation") else max(step, self._trained) + 1
            row = self._rows.setdefault(at, {})
            row["_timestamp"] = record["time"]
            figures = {name: value for name, value in record.items() if name not in ("kind", "step", "time")}
            row |= {f"{kind}/{name}": value for name, value in figures.items() if value is not None}
            yield from self._complete(before=self._trained)
        validated = "validation/loss" in self._rows.get(self._trained, {})
        if validated or not self._experiment.validates_after(self._trained):
            yield from self._complete(before=self._trained + 1)

    def _complete(self, before: int) -> Iterator[tuple[int, dict[str, Any]]]:
        while self._rows and (step := min(self._rows)) < before:
            yield step, self._rows.pop(step)

    def _new_records(self) -> Iterator[dict[str, Any]]:
        # Open once: a later attempt puts another file in this one's place, and offsets would mean nothing there.
        if self._file is None:
            if not self._path.exists():
                return
            self._file = self._path.open("rb")
        while line := self._file.readline():
            if not line.endswith(b"\n"):
                self._file.seek(-len(line), os.SEEK_CUR)
                return
            yield json.loads(line)


# --- beside training ------------------------------------------------------------------------------


@contextmanager
def mirror_to_wandb(experiment: Experiment, run: RunDirectory) -> Iterator[None]:
    """Run the mirror beside the block, which then waits for it for at most CLOSE_SECONDS."""
    if experiment.wandb.mode in ("disabled", "offline"):
        yield
        return
    with signals_blocked():  # until it ignores them itself
        process = subprocess.Popen(
            [sys.executable, "-m", "sllm.training.wandb_mirror", str(run.path)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(experiment.to_dict()).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        log.warning("the W&B mirror did not start; %s", _later(run))
    try:
        yield
    finally:
        try:
            process.communicate(timeout=CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode in (-signal.SIGKILL, -signal.SIGALRM):
            log.warning("W&B did not finish within %.0f s; %s", CLOSE_SECONDS, _later(run))


def _later(run: RunDirectory) -> str:
    return f"metrics.jsonl has everything, and the next attempt or `sllm sync {_whole(run)}` sends it"


# --- in the mirror's own process ------------------------------------------------------------------


def main() -> None:
    set_up_streams()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # The job's signals are for training; the mirror has time until training closes the pipe.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    experiment = Experiment.model_validate(json.loads(sys.stdin.buffer.readline()))
    run = RunDirectory(Path(sys.argv[1]))
    wandb = _wandb()
    try:
        mirror(experiment, run, _Training())
    except (wandb.Error, OSError) as error:  # wrong key, refused, timed out, no file locks
        log.warning("W&B: %s: %s; %s", type(error).__name__, error, _later(run))


class _Training:
    """The training that this process belongs to, seen through the pipe from it."""

    over = False

    def wait(self) -> None:
        """Wait for POLL_SECONDS, or until training ended or was killed: then CLOSE_SECONDS are left to live."""
        if self.over:
            time.sleep(POLL_SECONDS)
        elif select.select([sys.stdin], [], [], POLL_SECONDS)[0] and not os.read(sys.stdin.fileno(), 1):
            self.over = True
            signal.alarm(int(CLOSE_SECONDS))


def mirror(experiment: Experiment, run: RunDirectory, training: _Training) -> None:
    """Send the rows of the run's metrics until training is over, and then what is left."""
    if experiment.wandb.mode == "auto" and (reason := obstacle()):
        log.info("W&B: %s; metrics.jsonl has everything, and `sllm sync %s` sends it", reason, _whole(run))
        return
    known = _id_file(run).exists()
    with ExitStack() as stack:
        while True:
            try:
                identifier = stack.enter_context(only_sender(run))
                break
            except BlockingIOError:  # the mirror of an attempt that was killed, or a sync
                training.wait()
        if known:
            time.sleep(SETTLE_SECONDS)
        wandb_run = _resume(experiment, run, identifier)
        history = History(experiment, run.metrics)
        while True:
            training.wait()
            for step, figures in history.new_rows():
                _send_row(wandb_run, step, figures)
            if training.over:
                break
        wandb_run.finish()


# --- later ----------------------------------------------------------------------------------------


def send(experiment: Experiment, run: RunDirectory) -> tuple[int, int]:
    """Send the rows that W&B does not have, and see them arrive. Returns their number and the last step of all.

    Raises:
        BlockingIOError: another process is sending this run.
        UserError: W&B refused, or did not take them all.
    """
    wandb = _wandb()
    known = _id_file(run).exists()
    with only_sender(run) as identifier:
        newest = deque(History(experiment, run.metrics).new_rows(), maxlen=1)
        if not newest:
            return 0, 0
        last = newest[0][0]
        try:
            api = wandb.Api()
            if _last_step(api, experiment, identifier) >= last:
                return 0, last
            if known:
                time.sleep(SETTLE_SECONDS)
            # Somebody waits: when the network fails this ends, and the next sync goes on.
            wandb_run = _resume(experiment, run, identifier, finish_timeout=FINISH_SECONDS)
            sent = 0
            with track(f"sync {wandb_name(run)}", last, "steps", start=max(0, wandb_run.starting_step - 1)) as bar:
                for step, figures in History(experiment, run.metrics).new_rows():
                    sent += _send_row(wandb_run, step, figures)
                    bar.update(step)
                wandb_run.finish()
        except wandb.Error as error:
            raise UserError(f"{wandb_name(run)}: W&B: {str(error).splitlines()[0]}") from None
        # wandb says nothing when it gives up on sending: ask what is there.
        deadline = time.monotonic() + SETTLE_SECONDS
        while (arrived := _last_step(api, experiment, identifier)) < last:
            if time.monotonic() > deadline:
                has = f"has the steps up to {arrived} of {last}" if arrived >= 0 else "does not answer any more"
                raise UserError(f"{wandb_name(run)}: W&B {has}; run `sllm sync` again")
            time.sleep(POLL_SECONDS)
        return sent, last


def _last_step(api: Any, experiment: Experiment, identifier: str) -> int:
    """The last step that W&B has of the run; -1 if it does not know the run, or does not say."""
    wandb = _wandb()
    config = experiment.wandb
    path = "/".join(part for part in (config.entity, config.project, identifier) if part)
    try:
        step = api.run(path).lastHistoryStep
    except wandb.Error:
        return -1
    return -1 if step is None else int(step)


# --- W&B ------------------------------------------------------------------------------------------


def _wandb() -> Any:
    """The wandb module, which prints nothing (what there is to say is said here) and gives up on a query after about
    a minute. Rows are sent by other means than queries."""
    # A wandb-core of our own ends when we do; one that a parent process lends would hold on to the run.
    os.environ.pop("WANDB_SERVICE", None)
    import wandb

    wandb.setup(wandb.Settings(silent=True, x_graphql_timeout_seconds=10, x_graphql_retry_max=3))
    return wandb


@contextmanager
def only_sender(run: RunDirectory) -> Iterator[str]:
    """The W&B id of the run, made at its first use, for the one process that may send to it while the block runs.

    Raises:
        BlockingIOError: another process is sending, on this node or on another.
        OSError: the file system has no file locks.
        UserError: the file that holds it is damaged.
    """
    with (run.path / ".wandb.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _id_file(run).exists():
            write_json(_id_file(run), {"id": secrets.token_hex(4)})
        try:
            identifier: str = read_object(_id_file(run), "id")["id"]
        except CorruptError as error:
            raise UserError(f"{error}; delete it, and W&B gets a new run") from None
        yield identifier


def wandb_name(run: RunDirectory) -> str:
    """`smoke`, or of its fine-tuning, which has a folder in it, `smoke.finetune`."""
    return run.name if run.config.is_file() else f"{run.path.parent.name}.{run.name}"


def _whole(run: RunDirectory) -> str:
    return wandb_name(run).removesuffix(".finetune")


def _id_file(run: RunDirectory) -> Path:
    return run.path / "wandb.json"


def _resume(experiment: Experiment, run: RunDirectory, identifier: str, **settings: Any) -> Any:
    wandb = _wandb()
    config = experiment.wandb
    return wandb.init(
        project=config.project,
        entity=config.entity,
        name=wandb_name(run),
        id=identifier,
        resume="allow",
        mode="online",
        dir=run.path,
        tags=list(config.tags),
        config=experiment.to_dict(),
        settings=wandb.Settings(
            silent=True,
            init_timeout=INIT_SECONDS,
            console="off",
            # The figures and the description of this process and its node would be taken for training's.
            x_disable_stats=True,
            x_disable_meta=True,
            x_save_requirements=False,
            disable_git=True,
            disable_code=True,
            # metrics.jsonl is the log; a second one would invite `wandb sync`, which sends every step again.
            x_skip_transaction_log=True,
            **settings,
        ),
    )


def _send_row(wandb_run: Any, step: int, figures: dict[str, Any]) -> bool:
    """Whether W&B did not have it."""
    if step < wandb_run.starting_step:
        return False
    if samples := figures.get("validation/samples"):
        wandb = _wandb()
        # Not a wandb.Table: each would become an artifact, and ask the server before the row may go.
        text = "".join(
            f"<p><b>{html.escape(sample['prompt'])}</b>{html.escape(sample['continuation'])}</p>" for sample in samples
        )
        figures["validation/samples"] = wandb.Html(
            f'<meta charset="utf-8"><div style="white-space:pre-wrap">{text}</div>'
        )
    wandb_run.log(figures, step=step, commit=True)
    return True


def obstacle() -> str | None:
    """Why nothing can be sent to W&B from here, or None if that may be tried."""
    wandb = _wandb()
    settings = wandb.setup().settings
    server = urlsplit(settings.base_url)
    netrc = Path(os.environ.get("NETRC") or os.path.expanduser("~/.netrc"))  # noqa: PTH111 - raises without a HOME
    known = netrc.read_text(encoding="utf-8", errors="replace") if netrc.is_file() else ""
    if not (settings.api_key or settings.identity_token_file or "wandb" in known or server.netloc in known):
        return f"not logged in to {settings.base_url}: run `wandb login`, or set WANDB_API_KEY"
    proxy = getproxies().get(server.scheme)
    first = urlsplit(proxy) if proxy and not proxy_bypass(server.netloc) else server
    host, port = first.hostname or "", first.port or (443 if first.scheme == "https" else 80)
    if not _accepts(host, port):
        return f"{host}:{port} cannot be reached from {os.uname().nodename}"
    return None


def _accepts(host: str, port: int) -> bool:
    """Whether a connection is accepted within three seconds."""
    import socket

    try:
        with socket.create_connection((host, port), timeout=3):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
