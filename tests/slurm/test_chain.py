"""Training as Slurm jobs that are preempted, stopped at their limit, killed, crashed, cancelled, on real clusters.

What survives is compared with a training that nobody disturbed: every loss and the final weights, to the last bit.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from chains import ROOT, STEPS, Chain, sabotage
from needs import cannot_run
from rich.console import Console
from waiting import wait

from jobs import ledger
from jobs.pipeline import read_done, up_to
from jobs.slurm.cluster import load_cluster
from jobs.tools.dev_cluster import DevCluster
from jobs.tools.drill import drill
from jobs.tools.patient import EVENTS, Event, lower_limit
from jobs.tools.recovery import differences, digest
from sllm.run_directory import RunDirectory

pytestmark = pytest.mark.slow


def processes_of(job: str) -> list[int]:
    """The ranks of a job, on whatever node."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            variables = (directory / "environ").read_bytes().split(b"\0")
            ours = f"SLURM_JOB_ID={job}".encode() in variables and any(
                v.startswith(b"SLURM_PROCID=") for v in variables
            )
            if ours and (directory / "comm").read_text(encoding="utf-8").startswith("python"):
                found.append(int(directory.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def undisturbed(place: Path, texts: dict[str, Path]) -> RunDirectory:
    """The same training, as two local processes, from the first step to the last."""
    config = tiny.write_experiment(place, texts, "undisturbed", max_steps=STEPS, checkpoint={"every": 50})
    command = [sys.executable, "-m", "jobs.cli", "submit", str(config), "--until", "pretrain"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return RunDirectory(place / "runs" / "undisturbed")


def assert_same_training(run: RunDirectory, other: RunDirectory) -> None:
    assert not list(differences(run, other, STEPS))


# --- the whole chain ------------------------------------------------------------------------------


def test_drill(
    chain: Callable[..., Chain],
    cluster: DevCluster,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What `sllm drill` does to a training, and what only the owner of a cluster can do to it."""
    monkeypatch.chdir(place)
    one = chain(cluster, prepared=False)
    old_ranks: list[int] = []
    slow = place / "slow"

    def lose(attempt: dict[str, Any]) -> None:
        """Slurm starts the job elsewhere while the old ranks train on."""
        old_ranks.extend(processes_of(attempt["job"]))
        assert len(old_ranks) == 2
        slow.touch()
        cluster.lose(attempt["node"])

    def find(attempt: dict[str, Any]) -> None:
        wait(lambda: not any(Path(f"/proc/{process}").exists() for process in old_ranks), "the end of the old ranks")
        slow.unlink()
        cluster.start_slurmd(attempt["node"])

    def preempt(_: dict[str, Any]) -> None:
        """Each attempt after it trains slowly on request: however fast the machine, Slurm has its time."""
        (run,) = map(RunDirectory, (place / "runs").glob("drill-*"))
        sabotage(run, f"if __import__('os').path.exists({str(slow)!r}): __import__('time').sleep(0.1)")
        cluster.preempt()

    def shorten_limit(attempt: dict[str, Any]) -> None:
        slow.touch()
        lower_limit(attempt, seconds=45)

    def raise_limit(attempt: dict[str, Any]) -> None:
        slow.unlink()
        cluster.run("scontrol", "update", f"jobid={attempt['job']}", "timelimit=30")

    *others, limit = EVENTS
    limit = replace(limit, provoke=shorten_limit, repair=raise_limit)
    preemption = Event("preemption", preempt, saves=True)
    loss = Event("node lost", lose, saves=False, repair=find)
    changes = ["train.max_steps=2400", "train.checkpoint.every=100", "train.micro_batch=4"]
    events = [preemption, limit, *others, loss]
    run, problems = drill(load_cluster(str(one.profile)), changes, Console(), events)
    printed = capsys.readouterr().out
    assert not problems, printed
    lines = ledger.attempts(run, "pretrain")
    ends = ["preempted", "time limit", "signal", "signal", "preempted", "killed", "killed", "node failure"]
    changed = 3 * ["cancelled"]
    assert [line["ended"] for line in lines] == [*ends, *changed, "finished"]
    began = ["submitted", *(f"requeued: {end}" for end in ends), *(3 * ["submitted"])]
    assert [line["began"] for line in lines] == began
    assert [(line["ranks"], line["nodes"]) for line in lines] == [*(9 * [(2, 1)]), (1, 1), (2, 1), (4, 2)]
    assert len({line["job"] for line in lines}) == 4
    assert f"one digest, {digest(run, 2400)}: every step once" in printed
    assert "\nRanks: 2 → 1 → 2 → 4; left alone: 2\n" in printed
    assert f"attempt {len(ends) + 1} owns" in run.log("pretrain").read_text(encoding="utf-8")
    status = one.sllm("status", run.path).stdout
    assert status.count(" done ") == len(up_to())
    assert "2x preempted, 1x time limit, 2x signal, 2x killed, 1x node failure" in status


def test_a_drill_that_is_stopped_shows_what_it_knows(
    chain: Callable[..., Chain], cluster: DevCluster, place: Path
) -> None:
    one = chain(cluster, prepared=False)
    command = [sys.executable, "-m", "jobs.cli", "drill", "--cluster", str(one.profile), "train.max_steps=100000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    started = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline().startswith("6 events, ranks 2 → 1 → 2 → 4, then the same ")
    for line in started.stdout:
        if "signal USR2: attempt 1 is over, at step " in line:
            started.send_signal(signal.SIGINT)
            break
    rest = started.communicate()[0]
    assert started.returncode == 1
    assert "signal USR2 signal" in rest
    assert "did not go on" not in rest
    assert "bad asked to stop (SIGINT) before the end" in rest
    untried = "signal TERM, requeue, rank killed, ranks killed, time limit, to 1 rank, to 2 ranks, to 4 ranks"
    assert f"bad not tried: {untried}\n" in rest
    wait(lambda: cluster.run("squeue", "-h") == "", "the end of its jobs")


# --- preemption -----------------------------------------------------------------------------------


def preempted(chain: Chain, undisturbed: RunDirectory) -> None:
    chain.submit("--until", "pretrain")
    chain.wait_for_step(STEPS // 3)
    chain.preempt()
    assert chain.wait_for_end() == "COMPLETED", chain.log()
    assert_same_training(chain.run, undisturbed)
    lines = ledger.attempts(chain.run, "pretrain")
    assert [line["ended"] for line in lines] == ["preempted", "finished"]
    assert lines[1]["first_step"] == lines[0]["last_step"] + 1
    assert chain.cluster.job(chain.job())["Restarts"] == "1"


def test_preempted_by_sigterm(
    chain: Callable[..., Chain], cluster_plain_term: DevCluster, undisturbed: RunDirectory
) -> None:
    preempted(chain(cluster_plain_term), undisturbed)


@pytest.mark.parametrize("partition", ["gpu_nograce", "gpu_grace60"])
def test_preempted_with_another_grace_time(
    chain: Callable[..., Chain], cluster: DevCluster, undisturbed: RunDirectory, partition: str
) -> None:
    preempted(chain(cluster, partition=partition), undisturbed)


def test_two_nodes(chain: Callable[..., Chain], cluster: DevCluster, undisturbed: RunDirectory) -> None:
    two = chain(cluster, nodes=2, tasks_per_node=1, gres="gpu:h100:1")
    preempted(two, undisturbed)
    assert [(line["ranks"], line["nodes"]) for line in ledger.attempts(two.run, "pretrain")] == [(2, 2), (2, 2)]


def occupy(cluster: DevCluster, partition: str) -> str:
    """A job that takes the GPUs of one node, for ten minutes at most: a training that waits for it is seen by what it
    then takes."""
    options = ["--nodes=1", "--gres=gpu:h100:2", "--output=/dev/null", "--wrap=sleep 600"]
    job = cluster.run("sbatch", "--parsable", f"--partition={partition}", *options)
    cluster.wait_for(job, "RUNNING")
    return job


@pytest.mark.parametrize(("partition", "tasks"), [("gpu", 1), ("gpu_nograce", 2)])
def test_each_attempt_takes_the_nodes_that_there_are(
    chain: Callable[..., Chain], cluster: DevCluster, place: Path, texts: dict[str, Path], partition: str, tasks: int
) -> None:
    """Put back into the queue by us, and by Slurm; and whatever they took, nothing else comes out."""
    train = {"max_steps": 1500, "micro_batch": 1, "checkpoint": {"every": 100}}
    one = chain(cluster, train=train, nodes="1-2", tasks_per_node=tasks, gres="gpu:h100:2", partition=partition)
    other = occupy(cluster, "gpu")
    assert "#SBATCH --nodes=1-2\n" in one.sllm("submit", one.config, "--cluster", one.profile, "--dry-run").stdout
    one.submit("--until", "pretrain")
    one.wait_for_step(200)
    cluster.run("scancel", other)
    cluster.run("scancel", "--signal=USR2", one.job())
    wait(one.ends, "the end of the first attempt")
    one.wait_for_step(one.steps()[-1] + 200)
    occupy(cluster, "urgent")
    assert one.wait_for_end() == "COMPLETED", one.log()
    lines = ledger.attempts(one.run, "pretrain")
    assert [(line["ranks"], line["nodes"]) for line in lines] == [(tasks, 1), (2 * tasks, 2), (tasks, 1)]
    assert [line["ended"] for line in lines] == ["signal", "preempted", "finished"]
    assert f" {tasks}, {2 * tasks} on 2 nodes, {tasks} " in one.sllm("status", one.run.path).stdout
    alone = tiny.write_experiment(place, texts, "alone", **train)
    assert one.sllm("submit", alone, "--on", "here", "--until", "pretrain").returncode == 0
    assert not list(differences(one.run, RunDirectory(place / "runs" / "alone"), 1500))


# --- ends for good --------------------------------------------------------------------------------


def test_a_job_out_of_memory_says_so(chain: Callable[..., Chain], cluster: DevCluster) -> None:
    if not cluster.limits_memory:
        cannot_run("Slurm cannot limit memory here: no cgroup v1 memory hierarchy, or no right to it")
    hungry = chain(cluster, retries={"killed": 1}, memory="1500M")
    hungry.submit("--until", "pretrain")
    sabotage(hungry.run, "hoard = b'x' * (3 << 30) if step == 70 else b''")
    assert hungry.wait_for_end() == "FAILED"
    first, second = ledger.attempts(hungry.run, "pretrain")
    assert (first["ended"], first["gave_up"]) == ("killed", "")
    assert second["message"] == "out of memory: raise stages.pretrain.memory (now 1500M)"
    assert second["gave_up"] == "killed 2 times, and the profile allows 1"
    assert second["first_step"] == 51


def test_a_bug_is_tried_twice_and_its_dependents_are_cancelled(
    chain: Callable[..., Chain], cluster: DevCluster
) -> None:
    buggy = chain(cluster, retries={"crash": 5})
    buggy.submit()
    sabotage(buggy.run, "if step == 70: raise ZeroDivisionError('bug')")
    report = buggy.job("report")
    cluster.run("scontrol", "hold", report)
    assert buggy.wait_for_end() == "FAILED"
    lines = ledger.attempts(buggy.run, "pretrain")
    assert [line["ended"] for line in lines] == ["crash", "crash"]
    assert lines[1]["gave_up"].startswith("the same ZeroDivisionError at optim.py:")
    for stage in ("validate", "benchmark"):
        assert buggy.wait_for_end(stage) == "CANCELLED"
    status = buggy.sllm("status", buggy.run.path).stdout
    assert "pretrain: crash: ZeroDivisionError: bug; not tried again: the same ZeroDivisionError" in status

    # Submitting again takes the mended code and goes on from the last checkpoint; the report gives way.
    out = buggy.submit("--until", "pretrain")
    assert "pretrain: job " in out
    assert cluster.job(report)["JobState"] == "CANCELLED"
    assert buggy.wait_for_end() == "COMPLETED", buggy.log()
    assert ledger.attempts(buggy.run, "pretrain")[-1]["first_step"] == 51


def test_a_cancelled_run_stays_cancelled_and_goes_on_when_asked(
    chain: Callable[..., Chain], cluster: DevCluster, undisturbed: RunDirectory
) -> None:
    stopped = chain(cluster)
    stopped.submit()
    sabotage(stopped.run, "if step > 60: __import__('time').sleep(1)")  # however long the commands before `cancel` take
    stopped.wait_for_step(60)
    assert "is in the queue: pretrain " in stopped.submit()
    other = stopped.sllm("submit", stopped.config, "seed=9", "--on", "slurm", "--cluster", stopped.profile)
    assert other.returncode == 2
    assert "jobs with other settings are in the queue" in other.stderr

    out = stopped.sllm("cancel", stopped.run.path).stdout
    assert all(stage in out for stage in ("pretrain", "validate", "benchmark"))
    assert stopped.wait_for_end() == "CANCELLED"
    assert stopped.wait_for_end("validate") == "CANCELLED"
    wait(lambda: stopped.cluster.run("squeue", "-h") == "", "an empty queue")
    time.sleep(8)  # longer than a requeued job waits
    assert stopped.cluster.run("squeue", "-h") == ""
    assert stopped.ends() in (["cancelled"], ["killed"])
    reached = stopped.steps()[-1]

    stopped.submit("--until", "pretrain")
    assert stopped.wait_for_end() == "COMPLETED", stopped.log()
    assert_same_training(stopped.run, undisturbed)
    assert ledger.attempts(stopped.run, "pretrain")[-1]["first_step"] > reached - 50


def test_between_two_attempts_logs_go_on_and_status_tells_where_the_training_is(
    chain: Callable[..., Chain], cluster: DevCluster, place: Path
) -> None:
    held = chain(cluster, train={"max_steps": 20_000, "checkpoint": {"every": 5000}})
    held.submit("--until", "pretrain")
    held.wait_for_step(60)
    log = place / "followed.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "jobs.cli", "logs", str(held.run.path), "pretrain", "-f"]
        environment = {**os.environ, **cluster.env, "PYTHONPATH": str(ROOT)}
        follower = subprocess.Popen(command, stdout=file, env=environment)

    def into_the_queue() -> str:
        """Put the job back to stay there; the line on where it is then."""
        cluster.run("scontrol", "requeuehold", held.job())
        wait(lambda: held.state() == "PENDING", "the job in the queue")
        return f"saved at step {held.steps()[-1]}, 0 steps lost; in the queue"

    line = into_the_queue()
    assert f"pretrain  {line}" in held.sllm("status", held.run.path).stdout
    wait(lambda: f"──── pretrain: {line}" in log.read_text(encoding="utf-8"), "the line of the follower")
    assert follower.poll() is None

    before = held.steps()[-1]
    cluster.run("scontrol", "release", held.job())
    held.wait_for_step(before + 10)
    into_the_queue()
    cluster.run("scancel", held.job())
    wait(lambda: follower.poll() is not None, "the end of the follower")
    followed = log.read_text(encoding="utf-8").splitlines()
    assert [line for line in followed if "in the queue" not in line] == held.log().splitlines()
    status = held.sllm("status", held.run.path).stdout
    assert "pretrain: cancelled in the queue, where it was after: preempted" in status


def test_bad_input_is_not_tried_again(chain: Callable[..., Chain], cluster: DevCluster, place: Path) -> None:
    bad = chain(cluster, prepared=False)
    broken = place / "broken.jsonl"
    broken.write_bytes(b'{"text": "\xff"}\n')
    values = yaml.safe_load(bad.config.read_text(encoding="utf-8"))
    values["data"]["sources"][0]["paths"] = [str(broken)]
    bad.config.write_text(yaml.safe_dump(values), encoding="utf-8")
    bad.submit()
    assert bad.wait_for_end("download") == "FAILED"
    assert bad.wait_for_end("benchmark") == "CANCELLED"
    assert bad.wait_for_end("report") == "COMPLETED"
    assert (bad.run.report / "index.html").is_file()
    assert bad.ends("download") == ["bad input"]
    assert f"{broken}:1" in bad.sllm("status", bad.run.path).stdout


# --- submitting and looking -----------------------------------------------------------------------


def test_dry_run_prints_what_is_sent(chain: Callable[..., Chain], cluster: DevCluster) -> None:
    one = chain(cluster)
    dry = one.sllm("submit", one.config, "--on", "slurm", "--cluster", one.profile, "--until", "pretrain", "--dry-run")
    assert not one.run.stage("pretrain").exists()
    one.submit("--until", "pretrain")
    sent = (one.run.stage("pretrain") / "submitit" / f"{one.job()}_submission.sh").read_text(encoding="utf-8")
    assert sent.strip() in dry.stdout


def test_status_with_and_without_accounting(
    chain: Callable[..., Chain], cluster_without_accounting: DevCluster, deaf_conf: str, place: Path
) -> None:
    run = chain(cluster_without_accounting)
    run.submit()
    enough = place / "enough seen"
    hold = f"while step == 25 and not os.path.exists({str(enough)!r}): time.sleep(0.1)"
    sabotage(run.run, f"import os, time\n    {hold}")
    run.wait_for_step(20)
    rows = [line.split() for line in run.sllm("status", run.run.path).stdout.split("\n")]
    assert ["pretrain", "running", "1"] in [row[:3] for row in rows]
    assert ["validate", "pending", run.job("validate")] in [row[:3] for row in rows]

    silent = run.sllm("status", run.run.path, SLURM_CONF=deaf_conf).stdout
    assert "Slurm does not answer" in silent
    assert "steps" in silent
    refused = run.sllm("submit", run.config, "--on", "slurm", "--cluster", run.profile, SLURM_CONF=deaf_conf)
    assert refused.returncode == 2
    assert "does not answer" in refused.stderr
    assert refused.stderr.count("\n") == 1

    enough.touch()
    followed = run.sllm("logs", run.run.path, "pretrain", "-f")
    assert followed.stdout == run.log()
    assert read_done(run.run, "pretrain") is not None
    assert run.wait_for_end("validate") == "COMPLETED"


def test_json_of_the_ledger_is_one_line_an_attempt(chain: Callable[..., Chain], cluster: DevCluster) -> None:
    one = chain(cluster, train={"max_steps": 5})
    one.submit("--until", "pretrain")
    assert one.wait_for_end() == "COMPLETED", one.log()
    lines = one.run.ledger.read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    assert (last["job"], last["first_step"], last["last_step"]) == (one.job(), 1, 5)
    assert last["node"] in one.cluster.gpu_nodes


def test_the_plain_scripts_give_the_same_training(
    chain: Callable[..., Chain], cluster: DevCluster, undisturbed: RunDirectory
) -> None:
    plain = chain(cluster, prepared=False)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
        **cluster.env,
        "PATH": f"{Path(sys.executable).parent}:{cluster.env['PATH']}",
        "CLUSTER": str(plain.profile),
        "SBATCH_ARGS": "--cpus-per-task=1 --mem=1G",
    }
    script = [str(ROOT / "sbatch" / "pipeline.sh"), str(plain.config)]
    done = subprocess.run(script, cwd=plain.config.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plain_status = [line.split()[:2] for line in plain.sllm("status", plain.run.path).stdout.split("\n")]
    assert ["benchmark", "pending"] in plain_status
    wait(plain.steps, "the first step")
    plain.wait_for_step(100)
    plain.preempt()
    assert plain.wait_for_end("validate") == "COMPLETED", plain.log()
    assert plain.wait_for_end("benchmark") == "COMPLETED", plain.log()
    assert plain.wait_for_end("report") == "COMPLETED", plain.log("report")
    assert plain.ends() == ["preempted", "finished"]
    assert_same_training(plain.run, undisturbed)
    again = subprocess.run([*script, "benchmark.repeats=2"], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert plain.wait_for_end("benchmark") == "COMPLETED"
    assert plain.ends() == ["preempted", "finished", "finished"]
    assert plain.steps() == list(range(1, STEPS + 1))
