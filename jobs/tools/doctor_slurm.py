"""Slurm as a profile will find it: its settings, the user's accounts, the partitions, and whether it takes the jobs."""

import getpass
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.filesize import decimal as readable_bytes

from jobs import hints
from jobs.pipeline import STAGES, up_to
from jobs.slurm import batch, commands
from jobs.slurm.cluster import SITE_DEFAULTS, Cluster, Resources
from jobs.slurm.partitions import Partition, misfits, wanted
from jobs.tools.doctor_machine import Finding, Verdict
from sllm.config import Experiment
from sllm.model.size import checkpoint_bytes
from sllm.run_directory import RunDirectory


def settings() -> dict[str, str] | None:
    """What `scontrol show config` says; None if Slurm does not answer."""
    text = commands.ask("scontrol", "show", "config") if commands.ask("scontrol", "ping") is not None else None
    lines = (line.partition("=") for line in (text or "").split("\n"))
    return None if text is None else {name.strip(): value.strip() for name, _, value in lines if value}


def about_site(cluster: Cluster, config: dict[str, str]) -> Iterator[Finding]:
    """What holds for every job here."""
    yield Finding("ok", "Slurm", config.get("SLURM_VERSION", "?"))
    yield from _environment(cluster)
    yield from _preemption(config)
    yield from _accounting(cluster, config)


def about_job(name: str, resources: Resources, there: dict[str, Partition]) -> Iterator[Finding]:
    """Whether Slurm would take the job of a stage."""
    if wrong := misfits(resources, there):
        for misfit in wrong:
            yield Finding("bad", f"{name}: job", misfit.problem, _yaml(name, misfit.remedy))
        return
    refusal = commands.refusal(batch.batch_text(RunDirectory(Path.cwd() / "doctor"), STAGES[name], resources, None))
    here = [there[partition] for partition in wanted(resources, there)]
    verdict: Verdict = "ok" if not refusal else "bad" if any(partition.up for partition in here) else "note"
    yield Finding(verdict, f"{name}: job", refusal or "Slurm would take it")
    most = max(len(partition.nodes) for partition in here)
    if resources.node_counts[-1] > most:
        yield Finding("note", f"{name}: nodes", f"{resources.nodes}, but there are {most}: it never runs on more")


def _yaml(stage: str, line: str) -> str:
    value, _, comment = line.partition("  #")
    return f"stages: {{{stage}: {{{value}}}}}" + (f"  #{comment}" if comment else "")


def _environment(cluster: Cluster) -> Iterator[Finding]:
    """What a site, or a person, sets for every job, and what becomes of it in ours."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is not None:
        yield Finding("note", "environment", f"this is inside job {job}, whose variables are hidden from our jobs")
    for name, value in sorted(commands.foreign_variables().items()):
        if not name.startswith("SBATCH_" if job is not None else ("SBATCH_", "SLURM_")):
            continue
        if name == "SBATCH_WCKEY":
            yield Finding("ok", name, f"{value}: taken")
        elif name in SITE_DEFAULTS:
            own = [stage for stage in STAGES if getattr(cluster.resources(stage), SITE_DEFAULTS[name]) != value]
            says = f"the profile has another {SITE_DEFAULTS[name]} for {', '.join(own)}" if own else "taken"
            yield Finding("ok", name, f"{value}: {says}")
        else:
            place = "sbatch" if name.startswith("SBATCH_") else "setup"
            yield Finding(
                "note", name, f"{value}: not for our jobs, which get what the profile says (see its key {place})"
            )


def _preemption(config: dict[str, str]) -> Iterator[Finding]:
    mode = config.get("PreemptMode", "OFF")
    if "REQUEUE" in mode:
        signals = config.get("PreemptParameters", "") + config.get("SlurmctldParameters", "")
        how = "with the job's own signal" if "send_user_signal" in signals else "with SIGTERM"
        says = f"{mode}, {how}, then SIGKILL {config.get('KillWait', '?')} after the grace time"
        yield Finding("ok", "preemption", says)
    elif mode != "OFF":
        yield Finding("note", "preemption", f"{mode}: jobs that are preempted do not come back by themselves")
    if config.get("JobRequeue") == "0":
        yield Finding("note", "requeue", "off by default here (JobRequeue=0); our jobs ask for it with --requeue")
    found = re.search(r"cred_expire=(\d+)", config.get("AuthInfo", ""))
    yield Finding(
        "ok", "requeue", f"a requeued job starts {int(found[1]) + 1 if found else 121} s later at the earliest"
    )


def _accounting(cluster: Cluster, config: dict[str, str]) -> Iterator[Finding]:
    """Whether sacct answers, and whether the account and QOS of the profile are the user's."""
    if commands.ask("sacct", "-n", "-X", "-S", "now") is None:
        forgets = f"does not answer: `{hints.command('status')}` forgets finished jobs after MinJobAge"
        yield Finding("note", "sacct", forgets)
        return
    yield Finding("ok", "sacct", "answers")
    user = getpass.getuser()
    text = commands.ask("sacctmgr", "-n", "-P", "show", "assoc", f"user={user}", "format=Account,QOS,MaxSubmit")
    rows = [line.split("|") for line in (text or "").split("\n") if line.count("|") == 2]
    enforced = config.get("AccountingStorageEnforce", "none") != "none"
    verdict: Verdict = "bad" if enforced else "note"
    theirs = {
        "account": sorted({row[0] for row in rows}),
        "qos": sorted({name for row in rows for name in row[1].split(",") if name}),
    }
    for key, names in theirs.items():
        asked = {name: getattr(cluster.resources(name), key) for name in STAGES}
        for value in sorted({value for value in asked.values() if value and value not in names and names}):
            stages = [name for name in asked if asked[name] == value]
            line = f"{key}: {names[0]}"
            line = f"defaults: {{{line}}}" if len(stages) > 1 else _yaml(stages[0], line)
            says = f"{value} is not yours{'' if enforced else ', though nobody checks'}; yours: {', '.join(names)}"
            yield Finding(verdict, key, says, line)
    most = [int(row[2]) for row in rows if row[2].isdigit()]
    if most and max(most) < (jobs := len(up_to())):
        yield Finding(verdict, "limits", f"you may queue {max(most)} jobs, a chain is {jobs}: submit --until STAGE")


def about_partition(partition: Partition) -> Finding:
    limit = partition.partition.get("MaxTime", "?")
    size = f"{partition.cores} cores, {partition.memory} MB" + "".join(f", {item}" for item in partition.gres)
    says = f"{partition.up} of {len(partition.nodes)} nodes up, each at most {size}; time limit {limit}"
    if "REQUEUE" in partition.partition.get("PreemptMode", ""):
        grace = int(partition.partition.get("GraceTime", "0"))
        says += f"; grace time {grace} s" + ("" if grace else ": a checkpoint has KillWait only")
    if (state := partition.partition.get("State")) != "UP":
        return Finding("bad", f"{partition.name}: partition", f"is {state}; {says}")
    return Finding("ok" if partition.up else "note", f"{partition.name}: partition", says)


def time_to_save(
    experiment: Experiment,
    resources: Resources,
    there: dict[str, Partition],
    config: dict[str, str],
    seen: dict[str, Any],
) -> Iterator[Finding]:
    """Whether a checkpoint fits into the time that the training has after a warning."""
    if not seen.get("bytes_per_second"):
        return
    size = checkpoint_bytes(experiment.model, experiment.train, experiment.tokenizer.vocab_size)
    seconds = math.ceil(size / seen["bytes_per_second"])
    says = f"{readable_bytes(size)} in about {seconds} s; before the time limit there are {resources.signal_seconds} s"
    if 2 * seconds > resources.signal_seconds:
        yield Finding("bad", "checkpoint", says, _yaml("pretrain", f"signal_seconds: {2 * seconds + 60}"))
        return
    kill = int(re.sub(r"\D", "", config.get("KillWait", "")) or 30)
    graces = [
        int(there[name].partition.get("GraceTime", "0"))
        for name in wanted(resources, there)
        if "REQUEUE" in there[name].partition.get("PreemptMode", "")
    ]
    if graces and seconds > min(graces) + kill:
        says += f", at a preemption {min(graces) + kill} s: then the steps since the last checkpoint are lost"
        yield Finding("note", "checkpoint", says)
        return
    yield Finding("ok", "checkpoint", says)
