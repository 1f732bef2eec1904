"""How the end of an attempt is booked."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch._inductor.exc import InductorError, InvalidCxxCompiler

from jobs import ledger
from jobs.failures import describe, telling_line, way_out
from jobs.pipeline import STAGES
from jobs.slurm import attempt
from jobs.slurm.cluster import Cluster
from sllm.errors import UserError
from sllm.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
PRETRAIN = STAGES["pretrain"]


def nccl(kind: str, last: str) -> RuntimeError:
    return dist.DistBackendError(
        f"NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, {kind} (run with "
        f"NCCL_DEBUG=WARN for details), NCCL version 2.27.5\n{kind}\nLast error:\n{last}"
    )


REMOTE = "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely."
SYSTEM = "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error."


@pytest.mark.parametrize(
    "error",
    [
        nccl(REMOTE, "socketProgress: Connection closed by remote peer node1<39211>"),
        nccl(SYSTEM, "socketStartConnect: Connect to 10.0.0.1<54321> failed : Connection refused"),
        nccl("ncclInternalError: Internal check failed.", "Socket recv failed while polling for opId=0x7f4774cc9620"),
        nccl(REMOTE, "NET/IB : Got completion from peer 10.0.35.1<49189> with error 12, opcode 0, len 0"),
        dist.DistBackendError("Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9, OpType=ALLREDUCE)"),
        dist.DistNetworkError("failed to recv, got 0 bytes"),
        dist.DistStoreError("Timed out after 601 seconds waiting for clients. 1/2 clients joined."),
        RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:12345"),
        RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation"),
    ],
)
def test_a_rank_that_is_gone(error: RuntimeError) -> None:
    assert describe(error)[0] == ledger.KILLED
    assert way_out(PRETRAIN, str(error)) == ""


def test_a_port_in_use_is_no_lost_node() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError) as caught:
            dist.TCPStore("127.0.0.1", port, 2, is_master=True)
    cause, message, where = describe(caught.value)
    assert cause == ledger.CRASH
    assert f"port: {port}" in message
    assert "EADDRINUSE" in message
    assert where.startswith("DistNetworkError at ")


@pytest.mark.parametrize(
    "error",
    [
        nccl("ncclInvalidUsage: This usually reflects invalid usage of NCCL library.", "Invalid config blocking value"),
        nccl("ncclUnhandledCudaError: Call to CUDA function failed.", "Cuda failure 'an illegal memory access'"),
        nccl("ncclInternalError: Internal check failed.", "Attribute busid of node nic not found"),
    ],
)
def test_other_errors_of_nccl_are_crashes_that_say_what_happened(error: RuntimeError) -> None:
    cause, message, _ = describe(error)
    assert cause == ledger.CRASH
    assert message == "DistBackendError: " + str(error).split("\n")[-1]
    assert way_out(PRETRAIN, str(error)) == ""


@pytest.mark.parametrize(
    ("stage", "error", "advice"),
    [
        (
            "pretrain",
            nccl(
                "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.",
                "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 17000",
            ),
            "tasks_per_node",
        ),
        (
            "pretrain",
            nccl(SYSTEM, "Error while creating shared memory segment /dev/shm/nccl-KWfVyt (size 5967872)"),
            "/dev/shm",
        ),
        (
            "pretrain",
            nccl("ncclUnhandledCudaError: Call to CUDA function failed.", "Cuda failure 2 'out of memory'"),
            "lower train.micro_batch",
        ),
        (
            "pretrain",
            torch.OutOfMemoryError("CUDA out of memory. Tried."),
            "activation_checkpointing",
        ),
        ("validate", torch.OutOfMemoryError("CUDA out of memory. Tried."), "lower validate.batch"),
        ("benchmark", RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "lower benchmark.batches"),
        ("pretrain", InductorError(InvalidCxxCompiler(), None), "train.compile=false"),
        (
            "benchmark",
            RuntimeError("RuntimeError: Failed to find C compiler. Please specify via CC"),
            "load their module",
        ),
    ],
)
def test_what_a_user_must_change_is_said(stage: str, error: RuntimeError, advice: str) -> None:
    assert advice in way_out(STAGES[stage], str(error))
    assert describe(error)[0] == ledger.CRASH  # and never a lost node


def test_memory_that_is_not_there_is_bad_input() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert way_out(PRETRAIN, str(caught.value)).startswith("out of memory: lower train.micro_batch")
    assert telling_line(caught.value).startswith("RuntimeError: ")
    assert describe(UserError("out of memory"))[0] == ledger.BAD_INPUT


def test_a_job_that_stops_on_a_full_disk_goes_back_into_the_queue(
    mount_disk: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(mount_disk("1m"))
    run.cluster.write_text(Cluster().to_yaml(), encoding="utf-8")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    ledger.begin(run, "pretrain", "fingerprint", "7-0", "submitted", job="7")
    filler = run.path / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(run.path).free))
    assert ledger.end(run, "pretrain", "7-0", ledger.PREEMPTED)
    assert attempt.settle(run, "pretrain")
    assert attempt.marker(run, "pretrain").exists()
    filler.unlink()
    line = ledger.close(run, "pretrain", silent_cause=ledger.PREEMPTED)  # as the next attempt does
    assert line is not None
    assert line["ended"] == ledger.PREEMPTED


def test_shares_without_a_job_array_are_refused_in_a_line(tmp_path: Path) -> None:
    """`sbatch sbatch/pack.sbatch RUN 8`, or a task beyond the number of shares."""
    for task, told in ((None, "sbatch --array=0-7"), ("8", "no share 8 of 8")):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        environment |= {"SLURM_JOB_ID": "7", **({"SLURM_ARRAY_TASK_ID": task} if task else {})}
        command = [sys.executable, "-m", "jobs.run", str(tmp_path), "pack", "8"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1
