"""What ranks agree on; which device they compute on, and what is said when a GPU is missing or shared."""

import os
import re
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch

from sllm.distributed import DEVICE, connect, problems
from sllm.errors import UserError

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def seen(gpu: str | None, node: str = "node1", count: int = 2, visible: str | None = "0,1") -> dict[str, Any]:
    trouble = "" if gpu else "The NVIDIA driver on your system is too old (found version 11040)"
    driver = "470.82.01"
    return {"node": node, "driver": driver, "visible": visible, "count": count, "gpu": gpu, "trouble": trouble}


A, B = "NVIDIA H100, GPU-aaaa", "NVIDIA H100, GPU-bbbb"


@pytest.mark.parametrize("wanted", ["gpu", None])
def test_a_gpu_for_each_rank_is_fine(wanted: str | None) -> None:
    assert problems([seen(A), seen(B)], wanted) == []
    # Each task may be shown its own GPU only, as device 0.
    assert problems([seen(A, count=1, visible="0"), seen(B, count=1, visible="0")], wanted) == []


@pytest.mark.parametrize("wanted", ["cpu", None])
def test_no_gpu_at_all_is_fine_unless_one_was_promised(wanted: str | None) -> None:
    assert problems([seen(None), seen(None)], wanted) == []


def test_every_node_without_its_gpus_is_named() -> None:
    first, second = problems([seen(A), seen(B), seen(None, "node2"), seen(None, "node2"), seen(None, "node3")], "gpu")
    assert first.startswith("node2: no GPU for ranks 2, 3 (The NVIDIA driver on your system is too old")
    for part in ("driver 470.82.01", f"PyTorch {torch.__version__}", "CUDA_VISIBLE_DEVICES=0,1", "exclude: node2"):
        assert part in first
    assert second.startswith("node3: no GPU for rank 4 (")


def test_some_ranks_with_a_gpu_and_some_without_is_wrong_in_any_case() -> None:
    (line,) = problems([seen(A), seen(None)], None)
    assert line.startswith("node1: no GPU for rank 1 (")


@pytest.mark.parametrize("wanted", ["gpu", None])
def test_ranks_that_share_a_gpu_are_named(wanted: str | None) -> None:
    (line,) = problems([seen(A, count=1, visible="0"), seen(A, count=1, visible="0"), seen(B, "node2")], wanted)
    expected = "node1: ranks 0, 1 share one GPU (NVIDIA H100, GPU-aaaa; visible to a rank: 1, CUDA_VISIBLE_DEVICES=0)"
    assert line.startswith(expected)
    assert "tasks_per_node" in line


@needs_no_gpu
@pytest.mark.parametrize("visible", [None, "0"])
def test_one_process_without_the_gpu_it_was_promised(monkeypatch: pytest.MonkeyPatch, visible: str | None) -> None:
    monkeypatch.setenv(DEVICE, "gpu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    expected = (
        rf"^{re.escape(os.uname().nodename)}: no GPU for rank 0 \(.*CUDA_VISIBLE_DEVICES={visible}\); .*device: cpu"
    )
    with pytest.raises(UserError, match=expected), connect():
        pass


@needs_no_gpu
def test_a_cpu_in_spite_of_visible_gpus_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with connect() as world:
        assert world.device.type == "cpu"
    assert "training on the CPU: " in caplog.text
    caplog.clear()
    monkeypatch.setenv(DEVICE, "cpu")
    with connect() as world:
        assert world.device.type == "cpu"
    assert caplog.text == ""


def test_a_device_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE, "cuda")
    with pytest.raises(UserError, match="SLLM_DEVICE=cuda: it is gpu or cpu"), connect():
        pass


def as_rank(rank: int, size: int, port: int, device: str, directory: Path) -> dict[str, Any]:
    """What a rank of `size` comes to know, in a process of its own."""
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), DEVICE: device},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }
    made = []
    try:
        with connect() as world:
            found = {
                "sum": world.sum([rank, 2.0**30 if rank == 0 else 1.0]),
                "any": [world.any(flag) for flag in (False, rank == 1, True)],
                "gather": world.gather({"rank": world.rank}),
                "from main": world.from_main(lambda: made.append(rank) or f"made by {rank}"),
                "made": made,
            }
            if rank == size - 1:
                time.sleep(0.5)
                (directory / "through").touch()
    except UserError as error:
        return {"error": str(error)}
    return found | {"all through": (directory / "through").exists()}


def on_ranks(size: int, device: str, directory: Path) -> list[dict[str, Any]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ProcessPoolExecutor(size, ranks._context) as pool:
        return [
            future.result()
            for future in [pool.submit(as_rank, rank, size, port, device, directory) for rank in range(size)]
        ]


def test_ranks_agree(tmp_path: Path) -> None:
    for rank, found in enumerate(on_ranks(3, "cpu", tmp_path)):
        assert found == {
            "sum": [3.0, 2.0**30 + 2],
            "any": [False, True, True],
            "gather": [{"rank": 0}, {"rank": 1}, {"rank": 2}],
            "from main": "made by 0",
            "made": [0] if rank == 0 else [],
            "all through": True,
        }


@needs_no_gpu
def test_what_one_rank_lacks_every_rank_is_told(tmp_path: Path) -> None:
    first, second = on_ranks(2, "gpu", tmp_path)
    assert first == second
    assert "no GPU for ranks 0, 1 (" in first["error"]
