"""W&B as a mirror of metrics.jsonl, in a process of its own: whatever happens to it, training does not notice.

The mirror follows the file and remembers in `wandb.json` the run id and, for each kind of record, the last step sent.
So a resumed run goes on where the mirror stood, a step is not sent twice because it was trained twice, and what one
attempt could not send the next one does. It ends when its standard input closes: also when training was killed.
"""

import json
import logging
import os
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from sllm.config import Experiment, WandbConfig
from sllm.files import RunDirectory, read_json, read_new_jsonl, write_json

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
CLOSE_SECONDS = 20.0
INIT_SECONDS = 60.0


@contextmanager
def mirror_to_wandb(experiment: Experiment, run: RunDirectory) -> Iterator[None]:
    """Run the mirror beside the block, which then waits for it for at most CLOSE_SECONDS."""
    if experiment.wandb.mode == "disabled":
        yield
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "sllm.mirror", str(run.path)], stdin=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(experiment.to_dict()).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        log.warning("the W&B mirror did not start; metrics.jsonl has everything")
    try:
        yield
    finally:
        try:
            process.communicate(timeout=CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            log.warning("W&B did not finish within %.0f s; the next attempt sends the rest", CLOSE_SECONDS)


# --- in the mirror's own process ------------------------------------------------------------------


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # The job's signals are for training; the mirror has time until training closes the pipe.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    experiment = Experiment.model_validate(json.loads(sys.stdin.buffer.readline()))
    mirror(experiment, RunDirectory(Path(sys.argv[1])))


def mirror(experiment: Experiment, run: RunDirectory) -> None:
    """Send records until standard input closes, and then what is left."""
    state = wandb_state(run)
    wandb_run = _start(experiment, run, state["id"])
    offset, open_ = 0, True
    while open_:
        ready, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
        open_ = not ready or bool(os.read(sys.stdin.fileno(), 1))
        records, offset = read_new_jsonl(run.metrics, offset)
        fresh = [record for record in records if record["step"] > state["sent"].get(record["kind"], 0)]
        for record in fresh:
            wandb_run.log(_figures(record))
            state["sent"][record["kind"]] = record["step"]
        if fresh:
            write_json(run.path / "wandb.json", state)
    wandb_run.finish()


def wandb_state(run: RunDirectory) -> dict[str, Any]:
    """The W&B run id of this run directory, made at its first use, and the last step sent of each kind."""
    path = run.path / "wandb.json"
    if not path.exists():
        write_json(path, {"id": secrets.token_hex(4), "sent": {}})
    state: dict[str, Any] = read_json(path)
    return state


def _start(experiment: Experiment, run: RunDirectory, identifier: str) -> Any:
    import wandb

    config = experiment.wandb
    mode = config.mode
    if mode == "auto":
        mode = "online" if _has_key() and _reachable() else "offline"
    if mode == "online":
        try:
            return _init(experiment.to_dict(), config, run, identifier, "online")
        except Exception as error:  # wrong key, refused, timed out: keep the records for `wandb sync`
            log.warning("W&B online: %s: %s; going on offline", type(error).__name__, error)
            wandb.teardown()  # the failed attempt holds on to the run id
    return _init(experiment.to_dict(), config, run, identifier, "offline")


def _init(
    experiment: dict[str, Any],
    config: WandbConfig,
    run: RunDirectory,
    identifier: str,
    mode: Literal["online", "offline"],
) -> Any:
    import wandb

    wandb_run = wandb.init(
        project=config.project,
        entity=config.entity,
        name=run.name,
        id=identifier,
        resume="allow" if mode == "online" else None,
        mode=mode,
        dir=run.path,
        tags=list(config.tags),
        config=experiment,
        settings=wandb.Settings(silent=True, init_timeout=INIT_SECONDS, console="off", x_disable_stats=True),
    )
    wandb_run.define_metric("step", hidden=True)
    wandb_run.define_metric("*", step_metric="step")
    return wandb_run


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    """`train/loss` and so on, with the step as an axis of its own; generated samples become a table."""
    import wandb

    figures: dict[str, Any] = {"step": record["step"]}
    for name, value in record.items():
        if name == "samples":
            rows = [[record["step"], sample["prompt"], sample["continuation"]] for sample in value]
            figures["samples"] = wandb.Table(columns=["step", "prompt", "continuation"], data=rows)
        elif name not in ("kind", "step", "time"):
            figures[f"{record['kind']}/{name}"] = value
    return figures


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8", errors="replace")


def _reachable() -> bool:
    """Whether the W&B server accepts a connection within three seconds."""
    import socket
    from urllib.parse import urlsplit

    url = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        with socket.create_connection((url.hostname or "", port), timeout=3):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
