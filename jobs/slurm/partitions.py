"""What the partitions of a cluster offer, and what a profile asks of them that they do not have."""

import re
from typing import NamedTuple

from jobs.slurm.cluster import Resources
from jobs.slurm.commands import ask

MEGABYTES = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}


class Misfit(NamedTuple):
    problem: str
    remedy: str
    """The line of YAML that the stage should have instead."""


class Partition(NamedTuple):
    """`nodes` and `partition` hold the fields of `scontrol show`."""

    name: str
    partition: dict[str, str]
    nodes: list[dict[str, str]]

    @property
    def up(self) -> int:
        """How many nodes take jobs, now or when they are free again."""
        return sum(not re.search(r"DOWN|DRAIN|FAIL|MAINT|NOT_RESPONDING", node["State"]) for node in self.nodes)

    @property
    def limit(self) -> float | None:
        """Of a job's time, in minutes; None is none."""
        return minutes(self.partition.get("MaxTime", "UNLIMITED"))

    @property
    def memory(self) -> int:
        """Of the largest node, in megabytes."""
        return max((int(node["RealMemory"]) for node in self.nodes), default=0)

    @property
    def cores(self) -> int:
        """Of the largest node."""
        return max((int(node["CPUTot"]) for node in self.nodes), default=0)

    @property
    def gres(self) -> list[str]:
        """What its nodes have: `gpu:h100:2`."""
        return sorted({item for node in self.nodes for item in _items(node.get("Gres", ""))})


def partitions() -> dict[str, Partition]:
    """By name. Empty if Slurm does not answer."""
    nodes = _rows("node")
    return {
        row["PartitionName"]: Partition(
            row["PartitionName"],
            row,
            [node for node in nodes if row["PartitionName"] in node.get("Partitions", "").split(",")],
        )
        for row in _rows("partition")
    }


def wanted(resources: Resources, there: dict[str, Partition]) -> list[str]:
    """Names of the partitions that the job would be sent to: its own, or the cluster's default."""
    if resources.partition:
        return resources.partition.split(",")
    return [name for name, partition in there.items() if partition.partition.get("Default") == "YES"]


def misfits(resources: Resources, there: dict[str, Partition]) -> list[Misfit]:
    """What no partition named in the profile can give."""
    names = wanted(resources, there)
    if not names or not set(names) <= there.keys():
        what = f"{resources.partition} does not exist" if names else "there is no default partition"
        return [Misfit(what, _partition_line(list(there)))]
    here, label = [there[name] for name in names], ",".join(names)
    found = []
    limits = [partition.limit for partition in here]
    longest = max((limit for limit in limits if limit is not None), default=0.0)
    if None not in limits and resources.time_minutes > longest:
        problem = f"{resources.time_minutes} minutes are above the limit of {label}"
        found.append(Misfit(problem, f"time_minutes: {int(longest)}"))
    most = max(len(partition.nodes) for partition in here)
    if resources.node_counts[0] > most:
        found.append(Misfit(f"{label} has {most} nodes, not {resources.nodes}", f"nodes: {most}"))
    memory = max(partition.memory for partition in here)
    if resources.memory and megabytes(resources.memory) > memory:
        found.append(Misfit(f"no node of {label} has {resources.memory} of memory", f"memory: {memory}M"))
    cores, tasks = max(partition.cores for partition in here), resources.tasks_per_node
    if (resources.cpus or 1) * tasks > cores:
        problem = f"no node of {label} has {tasks} x {resources.cpus or 1} cores"
        found.append(Misfit(problem, f"cpus: {cores // tasks}" if cores >= tasks else f"tasks_per_node: {cores}"))
    return found + _missing_gres(resources, label, here, there)


def _missing_gres(resources: Resources, label: str, here: list[Partition], there: dict[str, Partition]) -> list[Misfit]:
    asked = _items(resources.gres or (f"gpu:{resources.gpus_per_node}" if resources.gpus_per_node else ""))
    found = []
    for item in asked:
        if any(_has(node, item) for partition in here for node in partition.nodes):
            continue
        kind = item.split(":")[0]
        alike = [have for partition in here for have in partition.gres if have.split(":")[0] == kind]
        elsewhere = [name for name, other in there.items() if any(_has(node, item) for node in other.nodes)]
        if alike:
            gpus = max(int(have.split(":")[-1]) for have in alike)
            remedy = f"gres: {alike[0]}" if resources.gres else f"gpus_per_node: {gpus}"
        elif elsewhere:
            remedy = _partition_line(elsewhere)
        else:
            remedy = "gres: null"
        offered = ", ".join(sorted({have for partition in here for have in partition.gres})) or "no gres"
        found.append(Misfit(f"no node of {label} has {item}, but {offered}", remedy))
    return found


def _has(node: dict[str, str], item: str) -> bool:
    """Whether a node has what is asked for: `gpu`, `gpu:2`, `gpu:h100`, `gpu:h100:2`."""
    name, kind, count = _parts(item)
    have = [_parts(offered) for offered in _items(node.get("Gres", ""))]
    return sum(n for own, type_, n in have if own == name and kind in ("", type_)) >= count


def _parts(item: str) -> tuple[str, str, int]:
    name, *rest = item.split(":")
    count = int(rest.pop()) if rest and rest[-1].isdigit() else 1
    return name, rest[0] if rest else "", count


def _items(gres: str) -> list[str]:
    """`gpu:h100:2(S:0-1),shard:8` → its parts, without the sockets."""
    return [item for item in re.sub(r"\([^)]*\)", "", gres).split(",") if item]


def _partition_line(names: list[str]) -> str:
    others = f"  # or {', '.join(names[1:])}" if names[1:] else ""
    return f"partition: {names[0]}{others}" if names else "partition: null"


def minutes(limit: str) -> float | None:
    """Slurm's [days-]hours:minutes:seconds in minutes; None for no limit."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", limit)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 1440 * days + 60 * hours + minutes + seconds / 60


def megabytes(memory: str) -> float:
    """Slurm's `64G`; without a letter it counts megabytes."""
    number, unit = (memory[:-1], memory[-1]) if memory[-1] in MEGABYTES else (memory, "M")
    return int(number) * MEGABYTES[unit]


def _rows(what: str) -> list[dict[str, str]]:
    lines = (ask("scontrol", "show", what, "-o") or "").split("\n")
    return [dict(re.findall(r"(?:^|\s)([A-Za-z]\w*)=(\S*)", line)) for line in lines if line.startswith(what.title())]
