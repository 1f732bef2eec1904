"""`sllm doctor`: what is fine and what is not on this machine, in Slurm and on its compute nodes, as a table."""

import shutil
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.pipeline import STAGES
from jobs.slurm.cluster import Cluster, load_cluster
from jobs.slurm.partitions import misfits, partitions, wanted
from jobs.tools import doctor_slurm, probe
from jobs.tools.doctor_machine import Finding, Verdict, look_arguments, machine, place
from jobs.tools.doctor_nodes import distinct, look_there
from sllm.config import Experiment


def examine(profile: str | None, experiment: Experiment | None, console: Console) -> int:
    """Print the findings as a table. Returns the exit code: 1 if something is bad.

    Raises:
        UserError: the profile cannot be read.
    """
    cluster = load_cluster(profile).with_site_defaults() if profile else None
    with console.status("looking …"):
        findings = list(_findings(cluster, experiment))
    colours = {"ok": "green", "note": "yellow", "bad": "red"}
    table = Table(box=None, padding=(0, 2, 0, 0))
    remedies = any(finding.remedy for finding in findings)
    for column in ("", "what", "says", *(["the profile should say"] if remedies else [])):
        table.add_column(column, overflow="fold")
    for finding in findings:
        verdict = Text(finding.verdict, style=colours[finding.verdict])
        table.add_row(verdict, finding.what, Text(finding.says), *([Text(finding.remedy)] if remedies else []))
    console.print(table)
    return 1 if any(finding.verdict == "bad" for finding in findings) else 0


def _findings(cluster: Cluster | None, experiment: Experiment | None) -> Iterator[Finding]:
    with place(experiment) as (directory, error):
        if directory is None:
            yield Finding("bad", "run directory", error)
        arguments = look_arguments(directory, experiment)
        yield from machine("here", probe.look(*arguments), experiment, None)
        if missing := [name for name in ("sbatch", "srun", "squeue", "scontrol") if shutil.which(name) is None]:
            verdict: Verdict = "note" if cluster is None else "bad"
            yield Finding(verdict, "Slurm", f"{', '.join(missing)} not found: --on slurm needs a login node")
        elif cluster is not None:
            yield from _cluster(cluster, experiment, arguments)


def _cluster(cluster: Cluster, experiment: Experiment | None, arguments: list[str]) -> Iterator[Finding]:
    config = doctor_slurm.settings()
    if config is None:
        yield Finding("bad", "Slurm", "does not answer (scontrol ping)")
        return
    yield from doctor_slurm.about_site(cluster, config)
    there = partitions()
    stages = {name: cluster.resources(name) for name in STAGES if not cluster.asks_as_another(name)}
    for name in dict.fromkeys(name for resources in stages.values() for name in wanted(resources, there)):
        if name in there:
            yield doctor_slurm.about_partition(there[name])
    for name, resources in stages.items():
        yield from doctor_slurm.about_job(name, resources, there)
    sound = {name: resources for name, resources in stages.items() if not misfits(resources, there)}
    looks = dict[str, dict[str, Any]]()
    for where, (stage, resources) in distinct(sound, there).items():
        seen, finding = look_there(resources, arguments)
        if finding:
            yield finding._replace(what=f"{where}: probe")
        if seen:
            looks[stage] = seen
            yield from machine(where, seen, experiment, resources)
    if experiment and "pretrain" in sound:
        yield from doctor_slurm.time_to_save(experiment, sound["pretrain"], there, config, looks.get("pretrain", {}))
