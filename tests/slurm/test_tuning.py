"""A fine-tuning on Slurm, after its training: preempted three times, it is the one that nobody disturbed."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import tiny
import yaml
from chains import Chain
from waiting import wait

from jobs import ledger
from jobs.tools.dev_cluster import DevCluster
from jobs.tools.recovery import differences
from sllm.files import read_json
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory

pytestmark = pytest.mark.slow

STEPS, EVERY = 600, 50


def test_a_tuning_that_is_preempted_three_times_is_the_one_left_alone(
    chain: Callable[..., Chain], cluster: DevCluster, place: Path, texts: dict[str, Path]
) -> None:
    one = chain(cluster, train={"max_steps": 60})
    said = tiny.write_conversations(place / "said")
    tuning = tiny.finetune(said, max_steps=STEPS, checkpoint={"every": EVERY})
    for config in (one.config, other := place / "tuned-alone.yaml"):
        values = yaml.safe_load(one.config.read_text(encoding="utf-8"))
        values |= {"name": config.stem, "finetune": tuning}
        config.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    assert one.sllm("submit", other, "--on", "local", "--until", "finetune").returncode == 0
    alone = RunDirectory(place / "runs" / "tuned-alone")

    told = one.submit()
    assert "conversations: job " in told
    tuned = one.run.training("finetune")

    def step() -> int:
        assert one.state("finetune") in ("PENDING", "RUNNING", "COMPLETING"), one.log("finetune")
        found = [record["step"] for record in read_jsonl(tuned.metrics) if record["kind"] == "train"]
        return max(found, default=0)

    for time in range(3):
        wait(lambda last=130 * (time + 1): step() >= last, f"step {130 * (time + 1)} of the tuning")
        restarts = int(cluster.job(one.job("finetune"))["Restarts"])
        cluster.preempt()
        wait(lambda had=restarts: int(cluster.job(one.job("finetune"))["Restarts"]) > had, "the preemption")
    assert one.wait_for_end("finetune") == "COMPLETED", one.log("finetune")
    lines = ledger.attempts(one.run, "finetune")
    assert [line["ended"] for line in lines] == [*(3 * ["preempted"]), "finished"]
    assert [line["ranks"] for line in lines] == 4 * [2]
    for line, after in pairwise(lines):
        assert after["first_step"] == line["last_step"] + 1
    assert not list(differences(tuned, alone.training("finetune"), STEPS))
    assert not list(differences(one.run, alone, 60))
    about = read_json(tuned.best / "config.json")
    assert about == {**read_json(one.run.best / "config.json"), "tuned": True}

    for stage in ("validate", "benchmark", "report"):
        assert one.wait_for_end(stage) == "COMPLETED", one.log(stage)
    status = one.sllm("status", one.run.path).stdout
    assert status.count(" done ") == 9
    assert "3x preempted" in status
