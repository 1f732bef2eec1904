"""What is measured: `metrics.jsonl`, which is the truth. (`sllm.mirror` shows it at W&B.)

Records carry `kind` and `step`: start (of an attempt, once its checkpoint is loaded), train, validation, checkpoint.
When a run resumes from step s, records after s are cut off: those steps will be taken, and written, again.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch

from sllm.files import append_jsonl, read_jsonl, write_text

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
