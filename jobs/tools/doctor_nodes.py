"""What a job finds on the compute nodes of a cluster profile: one short job in each of its partitions looks."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from jobs.slurm import commands
from jobs.slurm.cluster import Resources
from jobs.slurm.partitions import Partition, wanted
from jobs.tools import probe
from jobs.tools.doctor_machine import Finding

BUSY_SECONDS = 15
"""How long a probe waits for a free node."""

PROBE_MINUTES = 3
"""The probe's time limit: importing torch from a cold shared file system takes its time."""


def distinct(stages: dict[str, Resources], there: dict[str, Partition]) -> dict[str, tuple[str, Resources]]:
    """For each partition one of the stages that go there, the one that asks for most."""
    found: dict[str, tuple[str, Resources]] = {}
    order = ("pretrain", "validate", "benchmark", "download", "tokenizer", "pack")
    for stage in (name for name in order if name in stages):
        found.setdefault(",".join(wanted(stages[stage], there)), (stage, stages[stage]))
    return found


def look_there(resources: Resources, arguments: list[str]) -> tuple[dict[str, Any] | None, Finding | None]:
    """What `probe.look` sees on a node, in the environment that the profile sets up; and what else is to be said."""
    source = Path(probe.__file__).read_text(encoding="utf-8")
    script = "\n".join([*resources.setup, f"exec {shlex.join([sys.executable, '-c', source, *arguments])}"])
    try:
        done = subprocess.run(
            [*_srun(resources), "bash", "-c", script],
            env=commands.own_variables(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=60 * (PROBE_MINUTES + 1),
        )
    except subprocess.TimeoutExpired:
        return None, Finding("note", "", f"srun did not come back within {PROBE_MINUTES + 1} minutes")
    complaints = [line.strip() for line in done.stderr.split("\n") if line.strip()]
    answer = next((line for line in reversed(done.stdout.split("\n")) if line.startswith("{")), None)
    if answer is not None:
        seen: dict[str, Any] = json.loads(answer)
        said = f"the set-up lines say: {complaints[-1]}" if resources.setup and complaints else ""
        return seen, Finding("note", "", said) if said else None
    if any(word in done.stderr for word in ("are busy", "Immediate execution impossible", "insufficient priority")):
        return None, Finding("note", "", f"no node was free within {BUSY_SECONDS} s: not looked at, try again later")
    says = commands.sbatch_message(done.stderr) if complaints else f"srun ended with {done.returncode} and no word"
    return None, Finding("bad", "", says)


def _srun(resources: Resources) -> list[str]:
    one_of_each = (
        ",".join(re.sub(r":\d+$", ":1", item) for item in resources.gres.split(",")) if resources.gres else None
    )
    options = {
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
        "reservation": resources.reservation,
        "gres": one_of_each,
        "gpus-per-node": 1 if resources.gpus_per_node else None,
        "nodes": 1,
        "ntasks": 1,
        "mem": resources.memory,
        "time": PROBE_MINUTES,
        "immediate": BUSY_SECONDS,
        "job-name": "sllm.doctor",
    }
    return ["srun", "--quiet", *(f"--{name}={value}" for name, value in options.items() if value is not None)]
