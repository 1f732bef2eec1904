"""A training on Slurm that is made longer: up to where both lengths part it is the same, to the last bit."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from chains import Chain, sabotage
from waiting import wait

from jobs import ledger
from jobs.tools.dev_cluster import DevCluster
from jobs.tools.recovery import differences
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory

pytestmark = pytest.mark.slow


def test_a_training_made_longer_twice_is_the_one_that_had_been_so_long_from_the_start(
    chain: Callable[..., Chain], cluster: DevCluster, place: Path, texts: dict[str, Path]
) -> None:
    """Once after its end, once when it was stopped in its decay; preempted each time."""
    train = {"max_steps": 400, "schedule": "wsd", "decay": 0.5, "warmup_steps": 20, "learning_rate": 1e-3}
    one, often = chain(cluster, train=train), ["train.checkpoint.every=70", "validate.every=50"]

    def submit(*changes: str) -> str:
        return one.submit("--until", "pretrain", *often, *changes)

    submit()
    one.wait_for_step(100)
    one.preempt()
    assert one.wait_for_end() == "COMPLETED", one.log()
    short = one.losses()
    validated = one.losses("validation")

    told = submit("train.max_steps=1000")
    assert re.search(r"Training goes on from step 200 of \S+, up to which both are the same; steps 201 to 1,000", told)
    sabotage(one.run, "if step > 550: __import__('time').sleep(1)")  # however long `cancel` takes to begin
    one.wait_for_step(300)
    one.preempt()
    one.wait_for_step(550)
    one.sllm("cancel", one.run.path)
    assert one.wait_for_end() == "CANCELLED"
    wait(lambda: cluster.run("squeue", "-h") == "", "an empty queue")
    middle = one.losses()
    assert max(middle) < 1000

    assert "Training goes on from step 500 of" in submit("train.max_steps=1200")
    one.wait_for_step(700)
    one.preempt()
    assert one.wait_for_end() == "COMPLETED", one.log()
    lines = ledger.attempts(one.run, "pretrain")
    assert [line["ended"] for line in lines] in [
        ["preempted", "finished", "preempted", stop, "preempted", "finished"] for stop in ("cancelled", "killed")
    ]
    assert [lines[i]["first_step"] for i in (0, 2, 4)] == [1, 201, 501]

    alone = tiny.write_experiment(place, texts, "as-long", **{**train, "max_steps": 1200})
    assert one.sllm("submit", alone, "--on", "local", "--until", "pretrain", *often).returncode == 0
    other = RunDirectory(place / "runs" / "as-long")
    assert not list(differences(one.run, other, 1200))
    losses, validations = one.losses(), one.losses("validation")
    assert {step: short[step] for step in range(1, 201)} == {step: losses[step] for step in range(1, 201)}
    assert {step: middle[step] for step in range(1, 501)} == {step: losses[step] for step in range(1, 501)}
    assert short[201] == losses[201], "its loss is that of the weights before the step"
    assert short[400] != losses[400]
    assert {step: loss for step, loss in validated.items() if step <= 200}.items() <= validations.items()
    assert validations == {r["step"]: r["loss"] for r in read_jsonl(other.metrics) if r["kind"] == "validation"}
