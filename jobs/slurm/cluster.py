"""The cluster profile: what each stage asks of the machine that runs it. Typed, frozen, strict, like the experiment.

`defaults` hold for every stage; a key under `stages.<stage>` replaces the default of that key for that stage.
"""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from jobs.pipeline import TRAININGS
from jobs.presets import PROFILES, profile_names
from sllm.config import NonNegative, Positive, Section, Strings, combined, validate
from sllm.config.yaml_text import dump_yaml, load_yaml, similar_file
from sllm.errors import UserError

SITE_DEFAULTS = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_RESERVATION": "reservation",
}
"""Variables in which a site or a person says who pays, and where jobs go, and the key that takes their place."""


class Retries(Section):
    """How many attempts of a stage may end in this way and still be followed by another; null is no bound.

    Counted over the life of a stage with an unchanged configuration.
    """

    preempted: NonNegative | None = None
    """Slurm gave the node to another job."""
    time_limit: NonNegative | None = None
    """The job's time was over."""
    node_failure: NonNegative | None = 10
    """The node, or the connection to it, was lost."""
    killed: NonNegative | None = 3
    """SIGKILL, most often for want of memory."""
    crash: NonNegative | None = 1
    """An exception in the program. The same one at the same step twice is never tried a third time."""
    without_progress: Positive = 3
    """Attempts in a row that add no training step, whatever ended them; then the chain stops."""

    def cap(self, cause: str) -> int | None:
        """The bound for a cause of the ledger; None is none."""
        bound: int | None = getattr(self, cause.replace(" ", "_"), None)
        return bound


def _minutes(value: Any) -> Any:
    """A time limit as Slurm writes it (2:00:00, 1-12, 1-12:30) in minutes; what can be read in two ways is refused."""
    found = (
        re.fullmatch(r"(?:(\d{1,5})-)?(\d{1,5})((?::\d\d?){0,2})", value, re.ASCII) if isinstance(value, str) else None
    )
    if not found or not (found[1] or found[3]):
        return value
    hours, minutes, seconds = (int(part) for part in f"{found[2]}{found[3]}:0:0".split(":")[:3])
    if not found[1] and found[3].count(":") == 1:
        raise ValueError("minutes and seconds, or hours and minutes? write minutes, or hours:minutes:seconds")
    if seconds:
        raise ValueError("not whole minutes; leave out the seconds")
    return (int(found[1] or 0) * 24 + hours) * 60 + minutes


MOST_NODES = 65_536


def _nodes(value: Any) -> Any:
    """A number of nodes, or a range of them as Slurm writes it: 1-4."""
    found = re.fullmatch(r"([1-9]\d{0,4})-([1-9]\d{0,4})", value, re.ASCII) if isinstance(value, str) else None
    fewest, most = (int(found[1]), int(found[2])) if found else (value, value)
    if type(most) is not int or not 1 <= fewest <= most <= MOST_NODES:
        raise ValueError(f"a number of nodes from 1 to {MOST_NODES:,}, or the fewest and the most: 1-4")
    return value


class Resources(Section):
    """What one stage asks for. Everything that is not set is left to the cluster's own default."""

    partition: str | None = None
    """`sinfo` lists them."""
    account: str | None = None
    """Who pays: `sacctmgr show assoc user=$USER` lists them."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that a node must have: `ib&h100`."""
    exclude: str | None = None
    """Nodes to keep away from: `node[13,17]`."""
    reservation: str | None = None
    """A reservation of nodes."""
    gpus_per_node: NonNegative | None = None
    """GPUs of each node."""
    gres: str | None = None
    """For clusters that want the type: `gpu:h100:2`. Use this or gpus_per_node."""
    device: Literal["gpu", "cpu"] | None = None
    """What pretrain, validate and benchmark compute on. `gpu`, also where GPUs are asked for and nothing is said here:
    it is an error if there is none. `cpu`: not on GPUs, whatever is there. Otherwise on a GPU if there is one."""
    nodes: Annotated[Annotated[int, Field(ge=1, le=MOST_NODES)] | str, BeforeValidator(_nodes)] = 1
    """Nodes; more than one for pretrain only. Of a range, `1-4`, each attempt takes as many as Slurm has for it."""
    tasks_per_node: Annotated[int, Field(gt=0, le=1024)] = 1
    """Processes on each node; for pretrain one a GPU."""
    array: Annotated[int, Field(gt=0, le=100_000)] = 1
    """For download and pack: share the work out among so many jobs, before the stage's own job joins what they made."""
    cpus: Annotated[int, Field(gt=0, le=65_536)] | None = None
    """CPU cores for each task, and the number of its threads."""
    memory: Annotated[str, Field(pattern=r"^\d+[KMGT]?$")] | None = None
    """Of each node, as Slurm writes it: 64G."""
    time_minutes: Annotated[int, Field(gt=0, le=5_256_000), BeforeValidator(_minutes)] = 60
    """The job's time limit, in minutes or as Slurm writes it with hours: 2:00:00, 1-12:00:00."""
    signal_seconds: Annotated[int, Field(gt=0, le=65_535)] = 120
    """How long before the time limit Slurm warns us: enough for a step and a checkpoint. Half of a limit of less than
    four minutes if not set."""
    sbatch: Strings = ()
    """Further options of sbatch, each as on its command line: `--mail-type=FAIL`."""
    setup: Strings = ()
    """Shell lines that run before Python: `module load cuda`."""
    retries: Retries = Retries()

    @property
    def node_counts(self) -> range:
        """On how many nodes an attempt may run."""
        fewest, _, most = str(self.nodes).partition("-")
        return range(int(fewest), int(most or fewest) + 1)

    @property
    def rank_counts(self) -> range:
        """On how many ranks an attempt may run."""
        nodes, tasks = self.node_counts, self.tasks_per_node
        return range(nodes.start * tasks, nodes.stop * tasks, tasks)

    @property
    def gpus(self) -> int:
        """Of each node."""
        items = [item.partition("(")[0].split(":") for item in (self.gres or "").split(",")]
        counts = [int(item[-1]) if item[-1].isdigit() else 1 for item in items if item[0] == "gpu"]
        return self.gpus_per_node or sum(counts)

    @property
    def promised_device(self) -> str | None:
        """`device`, or what follows from the GPUs that are asked for."""
        return self.device or ("gpu" if self.gpus else None)


class StageResources(Section):
    download: Resources = Resources()
    tokenizer: Resources = Resources()
    pack: Resources = Resources()
    pretrain: Resources = Resources()
    conversations: Resources = Resources()
    finetune: Resources = Resources()
    validate_: Annotated[Resources, Field(alias="validate")] = Resources()
    benchmark: Resources = Resources()
    report: Resources = Resources()


LIKE = {"conversations": "download", "finetune": "pretrain"}
"""Stages that ask for what another one does."""

STAGE_NAMES = tuple(field.alias or name for name, field in StageResources.model_fields.items())


class Cluster(Section):
    defaults: Resources = Resources()
    stages: StageResources = StageResources()

    def resources(self, stage: str) -> Resources:
        """What a stage asks for: its own keys, those of the stage that does the same work, and the defaults'."""
        merged = self.defaults.model_copy()
        for name in (LIKE.get(stage), stage):
            if name is not None:
                own = self.stages.validate_ if name == "validate" else getattr(self.stages, name)
                asked = own.model_fields_set - ({"array"} if name != stage else set())
                merged = merged.model_copy(update={key: getattr(own, key) for key in asked})
        merged._fit(signal_seconds=min(120, 30 * merged.time_minutes))
        return merged

    def asks_as_another(self, stage: str) -> bool:
        """Whether all that is to be said of what it asks for is said of the stage that does the same work."""
        whole = {"array": 1}  # only what it is like may be one
        return stage in LIKE and self.resources(stage) == self.resources(LIKE[stage]).model_copy(update=whole)

    @property
    def for_slurm(self) -> bool:
        """Whether it names anything that only Slurm has, such as a partition."""
        words = ("partition", "account", "qos", "constraint", "exclude", "reservation", "gres", "sbatch")
        return any(getattr(self.resources(name), word) for name in STAGE_NAMES for word in words)

    def with_site_defaults(self) -> "Cluster":
        """What is asked of Slurm: the profile, and where it is silent what the site says."""
        site = {key: os.environ[name] for name, key in SITE_DEFAULTS.items() if os.environ.get(name)}
        stages = {}
        for field, info in StageResources.model_fields.items():
            resources = self.resources(info.alias or field)
            unset = {key: value for key, value in site.items() if getattr(resources, key) is None}
            stages[field] = resources.model_copy(update=unset)
        return self.model_copy(update={"stages": self.stages.model_copy(update=stages)})

    @model_validator(mode="after")
    def _check(self) -> "Cluster":
        problems = []
        for name in STAGE_NAMES:
            resources = self.resources(name)
            if self.asks_as_another(name):
                continue
            if resources.gres and resources.gpus_per_node is not None:
                problems.append(f"stages.{name}: gres and gpus_per_node are both set; keep one of them")
            if name not in TRAININGS and (most := resources.rank_counts[-1]) > 1:
                problems.append(
                    f"stages.{name}: nodes x tasks_per_node comes to {most}, but only pretrain and finetune run on "
                    f"more than one process; set them under stages.pretrain"
                )
            if resources.array > 1 and name not in ("download", "pack"):
                problems.append(
                    f"stages.{name}: array is {resources.array}, but only the work of download and pack can be shared "
                    f"out; remove it"
                )
            if resources.signal_seconds >= 60 * resources.time_minutes:
                problems.append(
                    f"stages.{name}: signal_seconds is {resources.signal_seconds}, not below time_minutes "
                    f"({resources.time_minutes}, {60 * resources.time_minutes} s); lower it"
                )
        return combined(self, problems)

    def to_yaml(self) -> str:
        """The YAML text that loads back to this profile, every stage resolved."""
        stages = {name: self.resources(name).model_dump(mode="json") for name in STAGE_NAMES}
        return dump_yaml({"stages": stages})


def load_cluster(profile: str) -> Cluster:
    """Read a profile: a path, or the name of one in configs/cluster. Raises UserError with every problem."""
    path, names = Path(profile), profile_names()
    if profile in names and not path.is_file():
        path = PROFILES / f"{profile}.yaml"
    elif not path.exists():
        near = [*filter(None, [similar_file(path)]), *difflib.get_close_matches(path.stem, names, n=1)]
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"--cluster {profile}: no such file, nor a profile in {PROFILES}; {hint}there are: {', '.join(names)}"
        )
    values = load_yaml(path)
    keys = values.keys() if isinstance(values, dict) else set()
    if keys & {"data", "model", "train"} and not keys & {"defaults", "stages"}:
        raise UserError(f"--cluster {profile}: an experiment, not a cluster profile; give it without --cluster")
    return validate(Cluster, {} if values is None else values, str(path))
