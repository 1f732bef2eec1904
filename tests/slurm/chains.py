"""What the tests of whole chains share: a run on a cluster."""

import os
import subprocess
import sys
from pathlib import Path

from waiting import wait

from jobs import ledger
from jobs.tools.dev_cluster import DevCluster
from sllm.files import read_json
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
STEPS = 400


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

    def losses(self, kind: str = "train") -> dict[int, float]:
        return {r["step"]: r["loss"] for r in read_jsonl(self.run.metrics) if r["kind"] == kind}

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
        self.cluster.preempt()
        wait(lambda: int(self.cluster.job(self.job())["Restarts"]) > restarts, "the preemption")

    def ends(self, stage: str = "pretrain") -> list[str]:
        return [line["ended"] for line in ledger.attempts(self.run, stage)]

    def log(self, stage: str = "pretrain") -> str:
        path = self.run.log(stage)
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def sabotage(run: RunDirectory, line: str) -> None:
    """Put a line of Python at the head of each step. The jobs run the run's own copy of the code: break it there."""
    optim = run.code / "sllm" / "training" / "optim.py"
    head, signature, body = optim.read_text(encoding="utf-8").partition("def learning_rate(")
    rest, arrow, tail = body.partition("-> float:\n")
    optim.write_text(f"{head}{signature}{rest}{arrow}    {line}\n{tail}", encoding="utf-8")
