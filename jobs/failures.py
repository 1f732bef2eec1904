"""What an exception means: its cause and its words for the ledger, and what the user can change."""

import traceback
from pathlib import Path

from jobs import ledger
from jobs.pipeline import Stage
from sllm.errors import Stopped, UserError


def describe(error: BaseException) -> tuple[str, str, str]:
    """Cause, message and place of an exception, for the ledger."""
    if isinstance(error, UserError):
        return ledger.BAD_INPUT, str(error), ""
    if isinstance(error, Stopped):
        return ledger.STOPPED, str(error), ""
    if lost_peer(error):
        return ledger.KILLED, "a rank was killed, or its node lost; the others lost contact with it", ""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return ledger.CRASH, telling_line(error), f"{type(error).__name__} at {place}"


def telling_line(error: BaseException) -> str:
    """The type of an exception and the line of its text that says the most: NCCL tells what happened at the end."""
    first, _, rest = str(error).partition("\n")
    _, found, last = rest.partition("Last error:")
    return f"{type(error).__name__}: {last.strip().split(chr(10))[0] if found and last.strip() else first}"


MEMORY_KEYS = {
    "pretrain": "train.micro_batch",
    "finetune": "finetune.train.micro_batch",
    "validate": "validate.batch",
    "benchmark": "benchmark.batches",
}


def way_out(stage: Stage, text: str) -> str:
    """What to change after an error of PyTorch, CUDA or NCCL that would come in every attempt; else empty."""
    if "Duplicate GPU detected" in text:
        return (
            "ranks share one GPU: ask for as many GPUs as there are processes (gpus_per_node or gres, and "
            "tasks_per_node, in the cluster profile)"
        )
    if "shared memory segment" in text:
        return "NCCL finds too little shared memory: give the container more /dev/shm, or export NCCL_SHM_DISABLE=1"
    if any(sign in text for sign in ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: ")):
        key = MEMORY_KEYS.get(stage.whole)
        above = {"pretrain": "train", "finetune": "finetune.train"}.get(stage.whole)
        more = f", or set {above}.activation_checkpointing: true" if above else ""
        return f"out of memory: lower {key}{more}" if key else ""
    if "No working C++ compiler found" in text or "Failed to find C compiler" in text:  # Inductor; Triton
        return (
            "no compiler: install gcc and g++ on this node, load their module (setup in the cluster profile), or say "
            "train.compile=false"
        )
    return ""


GONE = (
    # gloo
    "closed by peer",
    "Timed out waiting",
    "Application timeout caused pair closure",
    # NCCL
    "closed by remote peer",
    "remote process exit",
    "Socket recv failed",
    "Got completion from peer",
    "operation timeout",
    # the store of torch.distributed
    "got 0 bytes",
    "clients joined",
    "client socket has timed out",
    "wait timeout after",
    # the system, in the words of any of them
    "reset by peer",
    "Broken pipe",
    "Connection refused",
    "Connection timed out",
    "connection abort",
    "No route to host",
)
"""What the others say of a rank that has gone away, or does not answer."""


def lost_peer(error: BaseException) -> bool:
    """Whether an exception only says that another rank has gone away. NCCL and the store of torch.distributed raise
    the same types for much else: a GPU used twice, a port in use."""
    return isinstance(error, RuntimeError) and any(text in str(error) for text in GONE)
