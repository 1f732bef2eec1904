"""Training as Slurm jobs that are preempted, stopped at their limit, killed, crashed, cancelled, on real clusters.

What survives is compared with a training that nobody disturbed: every loss and the final weights, to the last bit.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from jobs import ledger
from jobs.dev_cluster import DevCluster
from jobs.pipeline import STAGES, read_done
from sllm.files import RunDirectory, read_json, read_jsonl, sha256

ROOT = Path(__file__).parents[2]
STEPS = 400
PATIENCE = 240.0  # seconds for anything that takes a few on a machine with nothing else to do

pytestmark = pytest.mark.slow


def wait(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.1)
    return value


class Chain:
    """A run on a cluster: its command line, its files."""

    def __init__(self, config: Path, cluster: DevCluster, profile: Path) -> None:
        self.config, self.cluster, self.profile = config, cluster, profile
        self.run = RunDirectory(config.parent / "runs" / config.stem)

    def sllm(self, *arguments: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
        outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        return subprocess.run(
            [sys.executable, "-m", "jobs.cli", *map(str, arguments)],
            env={**outside, **self.cluster.env, "PYTHONPATH": str(ROOT), "COLUMNS": "250", **environment},
            cwd=self.config.parent,
            capture_output=True,
            text=True,
        )

    def submit(self, *arguments: str) -> str:
        result = self.sllm("submit", self.config, "--on", "slurm", "--cluster", self.profile, *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def job(self, stage: str = "pretrain") -> str:
        return str(read_json(self.run.stage(stage) / "job.json")["job"])

    def state(self, stage: str = "pretrain") -> str:
        return self.cluster.job(self.job(stage))["JobState"]

    def steps(self) -> list[int]:
        return [record["step"] for record in read_jsonl(self.run.metrics) if record["kind"] == "train"]

    def losses(self) -> dict[int, float]:
        return {r["step"]: r["loss"] for r in read_jsonl(self.run.metrics) if r["kind"] == "train"}

    def wait_for_step(self, step: int) -> int:
        """Wait until the training has come so far; the step it is at."""

        def there() -> bool:
            assert self.state() in ("PENDING", "RUNNING", "COMPLETING"), self.log()
            return bool(self.steps()) and self.steps()[-1] >= step

        wait(there, f"step {step}")
        return self.steps()[-1]

    def wait_for_end(self, stage: str = "pretrain") -> str:
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        return str(wait(lambda: self.state(stage) in ended and self.state(stage), f"the end of {stage}"))

    def preempt(self) -> None:
        """Take the whole GPU partition for an instant."""
        restarts = int(self.cluster.job(self.job())["Restarts"])
        options = ["--partition=urgent", "--nodes=2", "--gres=gpu:h100:2", "--output=/dev/null"]
        self.cluster.run("sbatch", *options, "--wrap=true")
        wait(lambda: int(self.cluster.job(self.job())["Restarts"]) > restarts, "the preemption")

    def ranks(self) -> list[int]:
        """The processes of the training, rank by rank, on whatever node."""
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if (directory / "comm").read_text(encoding="utf-8").startswith("python"):
                    variables = (directory / "environ").read_bytes().split(b"\0")
                    arguments = (directory / "cmdline").read_bytes()
                    if b"submitit.core._submit" in arguments and str(self.run.path).encode() in arguments:
                        rank = next(value for value in variables if value.startswith(b"SLURM_PROCID="))
                        found.append((int(rank.split(b"=")[1]), int(directory.name)))
            except OSError:
                continue
        return [process for _, process in sorted(found)]

    def ends(self, stage: str = "pretrain") -> list[str]:
        return [line["ended"] for line in ledger.attempts(self.run, stage)]

    def log(self, stage: str = "pretrain") -> str:
        path = self.run.log(stage)
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chains")


@pytest.fixture(scope="module")
def texts(place: Path) -> dict[str, Path]:
    return tiny.write_texts(place / "texts")


@pytest.fixture
def chain(place: Path, texts: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Callable[..., Chain]]:
    """Makes a run whose stages before the training are done, for a cluster and a profile of pretrain."""
    made: list[Chain] = []

    def make(
        cluster: DevCluster, *, prepared: bool = True, train: dict[str, Any] | None = None, **pretrain: Any
    ) -> Chain:
        name = request.node.name.removeprefix("test_").translate(str.maketrans("[", "-", "]"))
        train = {"max_steps": STEPS, "checkpoint": {"every": 50}, **(train or {})}
        config = tiny.write_experiment(place, texts, name, **train)
        defaults = {"partition": "cpu", "cpus": 1, "memory": "1G", "time_minutes": 20, "signal_seconds": 20}
        gpus = {"partition": "gpu", "gres": "gpu:h100:1"}
        stages = {
            "pretrain": {**gpus, "gres": "gpu:h100:2", "tasks_per_node": 2, **pretrain},
            "validate": gpus,
            "benchmark": gpus,
        }
        profile = place / f"{name}-cluster.yaml"
        profile.write_text(yaml.safe_dump({"defaults": defaults, "stages": stages}), encoding="utf-8")
        made.append(Chain(config, cluster, profile))
        if prepared:
            done = made[-1].sllm("submit", config, "--on", "here", "--until", "pack")
            assert done.returncode == 0, done.stderr
        return made[-1]

    yield make
    for each in made:
        each.cluster.cancel_all()


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
    def losses(run: RunDirectory) -> list[tuple[int, float]]:
        return [(r["step"], r["loss"]) for r in read_jsonl(run.metrics) if r["kind"] == "train"]

    assert [step for step, _ in losses(run)] == list(range(1, STEPS + 1))
    assert losses(run) == losses(other)
    last = f"step-{STEPS:08d}"
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert sha256(run.checkpoints / last / name) == sha256(other.checkpoints / last / name)


# --- preemption -----------------------------------------------------------------------------------


def preempted(chain: Chain, times: int, undisturbed: RunDirectory, *, steps_lost: int = 0) -> None:
    chain.submit("--until", "pretrain")
    for i in range(times):
        chain.wait_for_step((i + 1) * STEPS // (times + 2))
        chain.preempt()
    assert chain.wait_for_end() == "COMPLETED", chain.log()
    assert_same_training(chain.run, undisturbed)
    lines = ledger.attempts(chain.run, "pretrain")
    assert [line["ended"] for line in lines] == ["preempted"] * times + ["finished"]
    assert [line["began"] for line in lines] == ["submitted"] + ["requeued: preempted"] * times
    for before, after in itertools.pairwise(lines):
        assert before["last_step"] + 1 - after["first_step"] <= steps_lost
    assert chain.cluster.job(chain.job())["Restarts"] == str(times)


def test_preempted_with_the_user_signal(
    chain: Callable[..., Chain], cluster: DevCluster, undisturbed: RunDirectory
) -> None:
    preempted(chain(cluster), 2, undisturbed)


def test_preempted_by_sigterm(
    chain: Callable[..., Chain], cluster_plain_term: DevCluster, undisturbed: RunDirectory
) -> None:
    preempted(chain(cluster_plain_term), 1, undisturbed)


def test_preempted_without_grace(chain: Callable[..., Chain], cluster: DevCluster, undisturbed: RunDirectory) -> None:
    preempted(chain(cluster, partition="gpu_nograce"), 1, undisturbed)


def test_two_nodes(chain: Callable[..., Chain], cluster: DevCluster, undisturbed: RunDirectory) -> None:
    preempted(chain(cluster, nodes=2, tasks_per_node=1, gres="gpu:h100:1"), 1, undisturbed)


def test_dependents_wait_for_the_real_end(chain: Callable[..., Chain], cluster: DevCluster) -> None:
    whole = chain(cluster, prepared=False)
    out = whole.submit()
    assert all(f"{stage}: job " in out for stage in STAGES)
    wait(whole.steps, "the first step")
    whole.preempt()
    assert whole.wait_for_end("benchmark") == "COMPLETED"
    assert whole.wait_for_end("validate") == "COMPLETED"
    lines = ledger.attempts(whole.run)
    trained = [line for line in lines if line["stage"] == "pretrain"]
    assert [line["ended"] for line in trained] == ["preempted", "finished"]
    for stage in ("validate", "benchmark"):
        (line,) = [line for line in lines if line["stage"] == stage]
        assert line["started"] > trained[-1]["started"] + trained[-1]["seconds"]
    status = whole.sllm("status", whole.run.path).stdout
    assert status.count(" done ") == 6
    assert "1x preempted" in status
    assert "Nothing to do" in whole.submit()


# --- limits, kills, lost nodes --------------------------------------------------------------------


def test_stops_by_itself_before_the_time_limit(chain: Callable[..., Chain], cluster: DevCluster) -> None:
    long = chain(cluster, train={"max_steps": 1_000_000}, time_minutes=1, signal_seconds=10)
    long.submit("--until", "pretrain")
    wait(lambda: long.ends(), "the first limit")
    wait(lambda: long.cluster.job(long.job())["Restarts"] == "1", "the requeue")
    (line,) = ledger.attempts(long.run, "pretrain")
    assert line["ended"] == "time limit"
    assert (long.run.checkpoints / f"step-{line['last_step']:08d}").is_dir()
    long.cluster.run("scontrol", "update", f"jobid={long.job()}", "timelimit=20")
    assert long.wait_for_step(line["last_step"] + 5)
    steps = long.steps()
    assert steps == list(range(1, steps[-1] + 1))


def test_a_killed_rank_costs_at_most_a_checkpoint_interval(
    chain: Callable[..., Chain], cluster: DevCluster, undisturbed: RunDirectory
) -> None:
    hit = chain(cluster)
    hit.submit("--until", "pretrain")
    hit.wait_for_step(120)
    os.kill(hit.ranks()[1], signal.SIGKILL)
    killed_at = time.monotonic()
    wait(hit.ends, "the end of the attempt")
    assert time.monotonic() - killed_at < 60  # the other rank does not wait for it
    assert hit.wait_for_end() == "COMPLETED", hit.log()
    assert_same_training(hit.run, undisturbed)
    first, second = ledger.attempts(hit.run, "pretrain")
    assert (first["ended"], second["ended"]) == ("killed", "finished")
    assert first["last_step"] - second["first_step"] < 50


def test_a_lost_node_is_left_behind(chain: Callable[..., Chain], cluster: DevCluster) -> None:
    """slurmd is killed and the node set down, so Slurm starts the job elsewhere while the old ranks train on."""
    lost = chain(cluster, train={"max_steps": 100_000})
    lost.submit("--until", "pretrain")
    lost.wait_for_step(60)
    old, node = lost.ranks(), cluster.job(lost.job())["BatchHost"]
    cluster.kill_slurmd(node)
    try:
        cluster.set_node(node, "down")
        wait(lambda: cluster.job(lost.job())["Restarts"] == "1", "the requeue")
        wait(lambda: cluster.job(lost.job())["JobState"] == "RUNNING", "the second attempt")
        assert cluster.job(lost.job())["BatchHost"] != node
        wait(lambda: not any(Path(f"/proc/{process}").exists() for process in old), "the end of the old ranks")
        assert "attempt 2 owns" in lost.log()
        reached = lost.losses()
        lost.wait_for_step(max(reached) + 5)
    finally:
        cluster.start_slurmd(node)
    (line,) = ledger.attempts(lost.run, "pretrain")
    assert (line["ended"], line["gave_up"]) == ("node failure", "")
    # The steps that both attempts took came out equal, and each is there once.
    steps, losses = lost.steps(), lost.losses()
    assert steps == list(range(1, steps[-1] + 1))
    assert {step: losses[step] for step in reached} == reached


# --- ends for good --------------------------------------------------------------------------------


def test_a_bug_is_tried_twice_and_its_dependents_are_cancelled(
    chain: Callable[..., Chain], cluster: DevCluster
) -> None:
    buggy = chain(cluster, retries={"crash": 5})
    buggy.submit()
    # The jobs run the run's own copy of the code: break it there, before they come to it.
    optim = buggy.run.code / "sllm" / "optim.py"
    text = optim.read_text(encoding="utf-8")
    head, signature, body = text.partition("def learning_rate(")
    line, arrow, rest = body.partition("-> float:\n")
    optim.write_text(
        head + signature + line + arrow + "    if step == 70:\n        raise ZeroDivisionError('bug')\n" + rest,
        encoding="utf-8",
    )
    assert buggy.wait_for_end() == "FAILED"
    lines = ledger.attempts(buggy.run, "pretrain")
    assert [line["ended"] for line in lines] == ["crash", "crash"]
    assert lines[1]["gave_up"].startswith("the same ZeroDivisionError at optim.py:")
    for stage in ("validate", "benchmark"):
        assert buggy.wait_for_end(stage) == "CANCELLED"
    status = buggy.sllm("status", buggy.run.path).stdout
    assert "pretrain: crash: ZeroDivisionError: bug; not tried again: the same ZeroDivisionError" in status

    # Submitting again takes the mended code and goes on from the last checkpoint.
    out = buggy.submit("--until", "pretrain")
    assert "pretrain: job " in out
    assert buggy.wait_for_end() == "COMPLETED", buggy.log()
    assert ledger.attempts(buggy.run, "pretrain")[-1]["first_step"] == 51


def test_a_cancelled_run_stays_cancelled_and_goes_on_when_asked(
    chain: Callable[..., Chain], cluster: DevCluster, undisturbed: RunDirectory
) -> None:
    stopped = chain(cluster)
    stopped.submit()
    stopped.wait_for_step(60)
    assert "is in the queue: pretrain " in stopped.submit()
    other = stopped.sllm("submit", stopped.config, "seed=9", "--on", "slurm", "--cluster", stopped.profile)
    assert other.returncode == 2
    assert "jobs with other settings are in the queue" in other.stderr

    out = stopped.sllm("cancel", stopped.run.path).stdout
    assert all(stage in out for stage in ("pretrain", "validate", "benchmark"))
    assert stopped.wait_for_end() == "CANCELLED"
    assert stopped.wait_for_end("validate") == "CANCELLED"
    time.sleep(8)  # longer than a requeued job waits
    assert stopped.cluster.run("squeue", "-h") == ""
    assert stopped.ends() in (["cancelled"], ["killed"])
    reached = stopped.steps()[-1]

    stopped.submit("--until", "pretrain")
    assert stopped.wait_for_end() == "COMPLETED", stopped.log()
    assert_same_training(stopped.run, undisturbed)
    assert ledger.attempts(stopped.run, "pretrain")[-1]["first_step"] > reached - 50


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
    chain: Callable[..., Chain], cluster_without_accounting: DevCluster, deaf_conf: str
) -> None:
    run = chain(cluster_without_accounting, train={"max_steps": 5000})
    run.submit()
    run.wait_for_step(20)
    rows = [line.split() for line in run.sllm("status", run.run.path).stdout.split("\n")]
    assert ["pretrain", "running", "1"] in [row[:3] for row in rows]
    assert ["validate", "pending", "(Dependency)"] in [row[:3] for row in rows]

    silent = run.sllm("status", run.run.path, SLURM_CONF=deaf_conf).stdout
    assert "Slurm does not answer" in silent
    assert "steps" in silent
    refused = run.sllm("submit", run.config, "--on", "slurm", "--cluster", run.profile, SLURM_CONF=deaf_conf)
    assert refused.returncode == 2
    assert "does not answer" in refused.stderr
    assert refused.stderr.count("\n") == 1

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


def test_a_stage_on_cpus_is_preempted_too(chain: Callable[..., Chain], cluster: DevCluster, place: Path) -> None:
    one = chain(cluster, prepared=False)
    texts = tiny.write_texts(place / "more-texts", documents=100_000)
    values = yaml.safe_load(tiny.write_experiment(place, texts, one.run.name).read_text(encoding="utf-8"))
    one.config.write_text(yaml.safe_dump(values), encoding="utf-8")
    one.submit("--until", "tokenizer")
    wait(lambda: ledger.current(one.run, "download"), "the download stage")
    cluster.run("sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=true")
    wait(lambda: cluster.job(one.job("download"))["Restarts"] == "1", "the preemption")
    assert one.wait_for_end("tokenizer") == "COMPLETED", one.log("download")
    assert one.ends("download") == ["preempted", "finished"]
    assert one.ends("tokenizer") == ["finished"]


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
    assert plain.ends() == ["preempted", "finished"]
    assert_same_training(plain.run, undisturbed)
    again = subprocess.run([*script, "benchmark.repeats=2"], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert plain.wait_for_end("benchmark") == "COMPLETED"
    assert plain.ends() == ["preempted", "finished", "finished"]
    assert plain.steps() == list(range(1, STEPS + 1))
