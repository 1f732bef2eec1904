"""Output that nobody reads any more is lost, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, sys
from sllm.terminal import outlive_readers
outlive_readers()
print("first", flush=True)
sys.stdin.readline()  # until the reader has gone
for _ in range(3):
    print("second", flush=True)
print("done", file=sys.stderr)
"""
CHILD = """
import subprocess
print(subprocess.run(["echo", "third"]).returncode, file=sys.stderr)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_pipe_whose_reader_leaves(unbuffered: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE + CHILD],
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUNBUFFERED": unbuffered},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    process.stdout.close()
    _, errors = process.communicate(b"\n")
    assert (process.returncode, errors) == (0, b"done\n0\n"), "nor is a program that we start stopped by it"


def test_a_disk_that_is_full() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", CODE],
            env={"PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert (done.returncode, done.stderr) == (0, b"done\n")
