"""What is fine and what is not: this machine, its file system, Slurm and its compute nodes, for a cluster profile."""

import getpass
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.filesize import decimal as readable_bytes
from rich.table import Table
from rich.text import Text

from jobs import hints
from jobs.describe import data_bytes
from jobs.pipeline import STAGES
from jobs.slurm import batch, commands
from jobs.slurm.cluster import SITE_DEFAULTS, Cluster, Resources, load_cluster
from jobs.slurm.partitions import Partition, misfits, partitions, wanted
from jobs.tools import probe
from sllm.config import Experiment
from sllm.model.size import checkpoint_bytes
from sllm.run_directory import RunDirectory

HUB = "https://huggingface.co"
LITTLE_SPACE = 20 * 10**9
SLOW = 32 * 10**6
"""Bytes a second to disk under which checkpoints of any size are a nuisance."""

BUSY_SECONDS = 15
"""How long a probe waits for a free node."""

PROBE_MINUTES = 3
"""The probe's time limit: importing torch from a cold shared file system takes its time."""

Verdict = Literal["ok", "note", "bad"]


class Finding(NamedTuple):
    verdict: Verdict
    what: str
    says: str
    remedy: str = ""
    """YAML that the profile should say."""


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
    with _place(experiment) as (directory, error):
        if directory is None:
            yield Finding("bad", "run directory", error)
        here = probe.look(*_arguments(directory, experiment))
        yield from _machine("here", here, experiment, None)
        if missing := [name for name in ("sbatch", "srun", "squeue", "scontrol") if shutil.which(name) is None]:
            verdict: Verdict = "note" if cluster is None else "bad"
            yield Finding(verdict, "Slurm", f"{', '.join(missing)} not found: --on slurm needs a login node")
        elif cluster is not None:
            yield from _cluster(cluster, experiment, directory)


# --- a machine ------------------------------------------------------------------------------------


@contextmanager
def _place(experiment: Experiment | None) -> Iterator[tuple[Path | None, str]]:
    """A directory for tests where the runs will be, with a file for compute nodes to look for; or why there is none."""
    runs = Path(experiment.runs_directory if experiment else "runs").absolute()
    while not runs.is_dir():
        runs = runs.parent
    with ExitStack() as stack:
        place: tuple[Path | None, str]
        try:
            temporary = tempfile.TemporaryDirectory(dir=runs, prefix=".sllm-doctor-", ignore_cleanup_errors=True)
            directory = Path(stack.enter_context(temporary))
            (directory / directory.name).write_text(directory.name, encoding="utf-8")
            place = directory, ""
        except OSError as error:
            place = None, f"{runs}: cannot be written ({error.strerror})"
        yield place


def _arguments(directory: Path | None, experiment: Experiment | None) -> list[str]:
    """Of `probe.look`."""
    token, data = directory.name if directory else "", experiment.data_directory if experiment else ""
    return [str(directory), token, _hub(), data]


def _hub() -> str:
    """Host, and port if it is not 443, of the hub that datasets come from."""
    return os.environ.get("HF_ENDPOINT", HUB).split("://")[-1].split("/")[0]


def _machine(
    where: str, seen: dict[str, Any], experiment: Experiment | None, resources: Resources | None
) -> Iterator[Finding]:
    """What `probe.look` saw: here, or with `resources` on a compute node."""
    size = f"{seen['cores']} cores, {readable_bytes(seen['memory'])} of memory"
    yield Finding("ok", f"{where}: machine", f"{seen['node']}, {size}, Python {seen['python']}")
    if seen["missing"]:
        yield Finding(
            "bad", f"{where}: packages", f"not installed: {', '.join(seen['missing'])}", _setup_line(resources)
        )
    if seen["torch_error"]:
        yield Finding("bad", f"{where}: PyTorch", seen["torch_error"], _setup_line(resources))
    else:
        yield _gpus(where, seen, resources)
    reached = "yes" if seen["reaches"] else f"no: {_hub()} cannot be reached from there"
    if resources is not None and not seen["reaches"]:
        reached += f"; run `{hints.command('download', 'CONFIG')}` where it can be, W&B records offline"
    yield Finding("ok" if seen["reaches"] else "note", f"{where}: internet", reached)
    if resources is not None and "shared" in seen:
        says = "a file written here is seen there" if seen["shared"] else "a file written here is not seen there"
        yield Finding("ok" if seen["shared"] else "bad", f"{where}: shared files", says)
    if seen.get("shared"):
        yield from _disk(where, seen, experiment)


def _setup_line(resources: Resources | None) -> str:
    return (
        'defaults: {setup: ["source /path/to/your/environment/bin/activate"]}'
        if resources and not resources.setup
        else ""
    )


def _gpus(where: str, seen: dict[str, Any], resources: Resources | None) -> Finding:
    what, torch = f"{where}: PyTorch", f"{seen['torch']}"
    if seen["gpus"]:
        return Finding("ok", what, f"{torch}, {', '.join(seen['gpus'])}")
    if resources is None or resources.promised_device != "gpu":
        return Finding("ok", what, f"{torch}, no GPU")
    if seen["given"] is None:
        says = f"{torch}, no GPU, nor does Slurm name one to the job: are they real? If not, set device: cpu"
        return Finding("note", what, says)
    return Finding("bad", what, f"{torch} cannot use the GPU that Slurm gives: driver, or PyTorch without CUDA?")


def _disk(where: str, seen: dict[str, Any], experiment: Experiment | None) -> Iterator[Finding]:
    if experiment is None:
        free = f"{readable_bytes(seen['free'])} free"
        yield Finding("ok" if seen["free"] > LITTLE_SPACE else "note", f"{where}: space", free)
    else:
        yield from _space(where, seen, experiment)
    if seen["write_error"]:
        yield Finding("bad", f"{where}: run directory", f"cannot be written ({seen['write_error']})")
        return
    speed = seen["bytes_per_second"]
    says = f"{readable_bytes(int(speed))}/s to disk (fsync)"
    yield Finding("ok" if speed > SLOW else "note", f"{where}: speed", says)
    if not seen["replaces"]:
        says = "a file that is replaced is missing for an instant: keep runs on another file system"
        yield Finding("bad", f"{where}: rename", says)
    if seen["locks_error"]:
        says = f"{seen['locks_error']}: two submits at once would not be noticed"
        yield Finding("bad", f"{where}: file locks", says)
    if seen["replaces"] and not seen["locks_error"]:
        yield Finding("ok", f"{where}: files", "rename replaces in one step, locks work")


def _space(where: str, seen: dict[str, Any], experiment: Experiment) -> Iterator[Finding]:
    """Whether there is room for all that is still to be written, on one disk or on two."""
    count, run_bytes = _run_bytes(experiment)
    data, unknown = data_bytes(experiment)
    run_says = f"{count} checkpoints, the best model and its export take {readable_bytes(run_bytes)}"
    data_says = f"corpus and tokens about {readable_bytes(data)}" if data else "corpus and tokens are there"
    if unknown:
        data_says = f"corpus and tokens {readable_bytes(data)} and what {', '.join(unknown)} bring, of unknown size"
    disks = [("space", seen["free"], run_bytes, run_says), ("data: space", seen["data_free"], data, data_says)]
    if seen["data_free"] is None:
        disks = [("space", seen["free"], run_bytes + data, f"{run_says}, {data_says}")]
    for what, free, needed, says in disks:
        verdict: Verdict = "ok" if free > needed else "bad"
        yield Finding(verdict, f"{where}: {what}", f"{readable_bytes(free)} free; {says}")


def _run_bytes(experiment: Experiment) -> tuple[int, int]:
    """Checkpoints that a run has at once, at most, and how much its directory still grows."""
    train = experiment.train
    config, kept = train.checkpoint, 0
    if config.keep_every:
        kept = train.max_steps // math.lcm(config.every, config.keep_every)
        kept += train.max_steps % config.keep_every == 0 and train.max_steps % config.every != 0
    count = kept + config.keep_last + 1  # the new one is there before an old one goes
    size = checkpoint_bytes(experiment.model, experiment.tokenizer.vocab_size)
    models = 3 * (size // 3)  # the best one, the one that replaces it, an export: weights alone
    run = RunDirectory(experiment.run_path)
    there = sum(file.stat().st_size for folder in (run.checkpoints, run.best) for file in folder.rglob("*.safetensors"))
    return count, max(0, count * size + models - there)


# --- the cluster ----------------------------------------------------------------------------------


def _cluster(cluster: Cluster, experiment: Experiment | None, directory: Path | None) -> Iterator[Finding]:
    text = commands.ask("scontrol", "show", "config") if commands.ask("scontrol", "ping") is not None else None
    if text is None:
        yield Finding("bad", "Slurm", "does not answer (scontrol ping)")
        return
    config = {
        name.strip(): value.strip() for name, _, value in (line.partition("=") for line in text.split("\n")) if value
    }
    yield Finding("ok", "Slurm", config.get("SLURM_VERSION", "?"))
    yield from _environment(cluster)
    yield from _preemption(config)
    yield from _accounting(cluster, config)
    there = partitions()
    for name in dict.fromkeys(name for stage in STAGES for name in wanted(cluster.resources(stage), there)):
        if name in there:
            yield _partition(there[name])
    sound = {}
    for name, stage in STAGES.items():
        resources = cluster.resources(name)
        wrong = misfits(resources, there)
        for misfit in wrong:
            yield Finding("bad", f"{name}: job", misfit.problem, _yaml(name, misfit.remedy))
        if not wrong:
            sound[name] = resources
            refusal = _refusal(batch.batch_text(RunDirectory(Path.cwd() / "doctor"), stage, resources, None))
            up = any(there[partition].up for partition in wanted(resources, there))
            verdict: Verdict = "ok" if not refusal else "bad" if up else "note"
            yield Finding(verdict, f"{name}: job", refusal or "Slurm would take it")
    looks = dict[str, dict[str, Any]]()
    for partition, (stage_name, resources) in _distinct(sound, there).items():
        seen, finding = _look_there(resources, _arguments(directory, experiment))
        if finding:
            yield finding._replace(what=f"{partition}: probe")
        if seen:
            looks[stage_name] = seen
            yield from _machine(f"{partition}", seen, experiment, resources)
    if experiment and "pretrain" in sound:
        yield from _time_to_save(experiment, sound["pretrain"], there, config, looks.get("pretrain", {}))


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
    if most and max(most) < len(STAGES):
        yield Finding(
            verdict, "limits", f"you may queue {max(most)} jobs, a chain is {len(STAGES)}: submit --until STAGE"
        )


def _partition(partition: Partition) -> Finding:
    limit = partition.partition.get("MaxTime", "?")
    size = f"{partition.cores} cores, {partition.memory} MB" + "".join(f", {item}" for item in partition.gres)
    says = f"{partition.up} of {len(partition.nodes)} nodes up, each at most {size}; time limit {limit}"
    if "REQUEUE" in partition.partition.get("PreemptMode", ""):
        grace = int(partition.partition.get("GraceTime", "0"))
        says += f"; grace time {grace} s" + ("" if grace else ": a checkpoint has KillWait only")
    if (state := partition.partition.get("State")) != "UP":
        return Finding("bad", f"{partition.name}: partition", f"is {state}; {says}")
    return Finding("ok" if partition.up else "note", f"{partition.name}: partition", says)


def _refusal(text: str) -> str:
    """Why Slurm would not take this batch script; empty if it would."""
    try:
        done = subprocess.run(
            ["sbatch", "--test-only"],
            input=text,
            env=commands.own_variables(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=commands.COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return "sbatch --test-only does not answer"
    return "" if done.returncode == 0 else commands.sbatch_message(done.stderr)


def _time_to_save(
    experiment: Experiment,
    resources: Resources,
    there: dict[str, Partition],
    config: dict[str, str],
    seen: dict[str, Any],
) -> Iterator[Finding]:
    """Whether a checkpoint fits into the time that the training has after a warning."""
    if not seen.get("bytes_per_second"):
        return
    size = checkpoint_bytes(experiment.model, experiment.tokenizer.vocab_size)
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


# --- a compute node -------------------------------------------------------------------------------


def _distinct(stages: dict[str, Resources], there: dict[str, Partition]) -> dict[str, tuple[str, Resources]]:
    """For each partition one of the stages that go there, the one that asks for most."""
    found: dict[str, tuple[str, Resources]] = {}
    order = ("pretrain", "validate", "benchmark", "download", "tokenizer", "pack")
    for stage in (name for name in order if name in stages):
        found.setdefault(",".join(wanted(stages[stage], there)), (stage, stages[stage]))
    return found


def _look_there(resources: Resources, arguments: list[str]) -> tuple[dict[str, Any] | None, Finding | None]:
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
