"""What is measured: `metrics.jsonl`, which is the truth, and its mirror at W&B, which may fail at any moment.

Records carry `kind` (train, validation, checkpoint) and `step`. When a run resumes from step s, records after s are
cut off: those steps will be taken, and written, again.
"""

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from sllm.config import Experiment
from sllm.files import RunDirectory, append_jsonl, read_json, read_jsonl, write_json, write_text

log = logging.getLogger(__name__)

# Dense bf16 peaks without sparsity, FLOP/s, from the vendor's data sheets.
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bf16 peak in FLOP/s, where known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for model, peak in PEAK_FLOPS.items() if model in name), None)


def memory_bytes(device: torch.device) -> int:
    """Peak memory: of this process's tensors on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Metrics:
    """Appends records to metrics.jsonl. Only rank 0 has one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, kind: str, step: int, **figures: Any) -> None:
        append_jsonl(self.path, {"kind": kind, "step": step, **figures, "time": round(time.time(), 3)})


def cut_back(path: Path, step: int) -> list[dict[str, Any]]:
    """Remove from metrics.jsonl what lies after `step` (and a torn last line); return what remains."""
    records = read_jsonl(path)
    kept = [record for record in records if record["step"] <= step]
    if path.exists():
        write_text(path, "".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in kept))
    return kept


# --- W&B ------------------------------------------------------------------------------------------


class WandbMirror:
    """A thread that follows metrics.jsonl and sends each new record to W&B.

    `wandb.json` keeps the run id and, for each kind of record, the last step sent: a resumed run goes on from there,
    whatever was cut back, and what an attempt could not send the next one does. Whatever goes wrong here is logged
    once and training goes on without a mirror.
    """

    POLL_SECONDS = 1.0

    def __init__(self, experiment: Experiment, run: RunDirectory) -> None:
        self._experiment, self._run = experiment, run
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="wandb-mirror", daemon=True)
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Let the mirror send what there is, for at most `timeout` seconds."""
        self._closing.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            log.warning("W&B did not finish within %.0f s; the next attempt or `wandb sync` sends the rest", timeout)

    def _work(self) -> None:
        try:
            run = self._start()
            state = wandb_state(self._run)
            offset = 0
            while True:
                closing = self._closing.is_set()
                records, offset = _new_records(self._run.metrics, offset)
                fresh = [r for r in records if r["step"] > state["sent"].get(r["kind"], 0)]
                for record in fresh:
                    run.log(_wandb_figures(record))
                    state["sent"][record["kind"]] = record["step"]
                if fresh:
                    write_json(self._run.path / "wandb.json", state)
                if closing:
                    break
                self._closing.wait(self.POLL_SECONDS)
            run.finish(quiet=True)
        except Exception as error:  # the mirror may never take the training down with it
            log.warning("W&B mirror stopped: %s: %s; metrics.jsonl goes on", type(error).__name__, error)

    def _start(self) -> Any:
        mode = self._experiment.wandb.mode
        if mode == "auto":
            mode = "online" if _has_key() and _reachable() else "offline"
        if mode == "online":
            try:
                return self._init("online")
            except Exception as error:  # wrong key, refused, timed out: keep the records for `wandb sync`
                log.warning("W&B online: %s: %s; going on offline", type(error).__name__, error)
        return self._init("offline")

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        config = self._experiment.wandb
        run = wandb.init(
            project=config.project,
            entity=config.entity,
            name=self._run.name,
            id=wandb_state(self._run)["id"],
            resume="allow" if mode == "online" else None,
            mode=mode,
            dir=self._run.path,
            tags=list(config.tags),
            config=self._experiment.to_dict(),
            settings=wandb.Settings(silent=True, init_timeout=60, console="off", x_disable_stats=True),
        )
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return run


def wandb_state(run: RunDirectory) -> dict[str, Any]:
    """The W&B run id of this run directory, made at its first use, and the last step sent of each kind."""
    path = run.path / "wandb.json"
    if not path.exists():
        write_json(path, {"id": secrets.token_hex(4), "sent": {}})
    state: dict[str, Any] = read_json(path)
    return state


def _new_records(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Whole records after byte `offset` of a growing file, and the offset to go on from."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        text = file.read()
    end = text.rfind(b"\n") + 1
    return [json.loads(line) for line in text[:end].splitlines()], offset + end


def _wandb_figures(record: dict[str, Any]) -> dict[str, Any]:
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


@contextmanager
def open_metrics(experiment: Experiment, run: RunDirectory) -> Iterator[Metrics]:
    """Metrics with its mirror, which gets ten seconds to finish when the block ends."""
    mirror = WandbMirror(experiment, run) if experiment.wandb.mode != "disabled" else None
    try:
        yield Metrics(run.metrics)
    finally:
        if mirror:
            mirror.close(timeout=10)
