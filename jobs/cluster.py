"""The cluster profile: what each stage asks of the machine that runs it. Typed, frozen, strict, like the experiment.

`defaults` hold for every stage; a key under `stages.<stage>` replaces the default of that key for that stage.
"""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, model_validator

from sllm.config import NonNegative, Positive, Section, Strings, load_yaml, validate
from sllm.errors import UserError

PROFILES = Path(__file__).parent.parent / "configs" / "cluster"


class Retries(Section):
    """How many attempts of a stage may end in this way and still be followed by another; null is no bound.

    Counted over the life of a stage with an unchanged configuration.
    """

    preempted: NonNegative | None = None
    time_limit: NonNegative | None = None
    node_failure: NonNegative | None = 10
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


class Resources(Section):
    """What one stage asks for. Everything that is not set is left to the cluster's own default."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    reservation: str | None = None
    gpus_per_node: NonNegative | None = None
    gres: str | None = None
    """For clusters that want the type: `gpu:h100:2`. Use this or gpus_per_node."""
    nodes: Positive = 1
    tasks_per_node: Positive = 1
    """Processes on each node; for pretrain one a GPU."""
    array: Positive = 1
    """For download and pack: share the work out among so many jobs, before the stage's own job joins what they made."""
    cpus: Positive | None = None
    """CPU cores for each task, and the number of its threads."""
    memory: Annotated[str, Field(pattern=r"^\d+[KMGT]?$")] | None = None
    """Of each node, as Slurm writes it: 64G."""
    time_minutes: Positive = 60
    signal_seconds: Positive = 120
    """How long before the time limit Slurm warns us: enough for a step and a checkpoint."""
    sbatch: Strings = ()
    """Further options of sbatch, each as on its command line: `--mail-type=FAIL`."""
    setup: Strings = ()
    """Shell lines that run before Python: `module load cuda`."""
    retries: Retries = Retries()

    @property
    def ranks(self) -> int:
        return self.nodes * self.tasks_per_node


class StageResources(Section):
    download: Resources = Resources()
    tokenizer: Resources = Resources()
    pack: Resources = Resources()
    pretrain: Resources = Resources()
    validate_: Annotated[Resources, Field(alias="validate")] = Resources()
    benchmark: Resources = Resources()


class Cluster(Section):
    defaults: Resources = Resources()
    stages: StageResources = StageResources()

    def resources(self, stage: str) -> Resources:
        own = self.stages.validate_ if stage == "validate" else getattr(self.stages, stage)
        merged: Resources = self.defaults.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
        return merged

    @model_validator(mode="after")
    def _check(self) -> "Cluster":
        problems = []
        for name in (field.alias or name for name, field in StageResources.model_fields.items()):
            resources = self.resources(name)
            if resources.gres and resources.gpus_per_node is not None:
                problems.append(f"stages.{name}: gres and gpus_per_node are both set; keep one of them")
            if name != "pretrain" and resources.ranks > 1:
                problems.append(
                    f"stages.{name}: nodes x tasks_per_node is {resources.ranks}, but only pretrain runs on more "
                    f"than one process; set them under stages.pretrain"
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
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def to_yaml(self) -> str:
        """The YAML text that loads back to this profile, every stage resolved."""
        names = [field.alias or name for name, field in StageResources.model_fields.items()]
        stages = {name: self.resources(name).model_dump(mode="json") for name in names}
        return yaml.safe_dump({"stages": stages}, allow_unicode=True, sort_keys=False)


def load_cluster(profile: str) -> Cluster:
    """Read a profile: a path, or the name of one in configs/cluster. Raises UserError with every problem."""
    path = Path(profile)
    if not path.suffix and not path.exists():
        path = PROFILES / f"{profile}.yaml"
        if not path.is_file():
            names = ", ".join(sorted(p.stem for p in PROFILES.glob("*.yaml")))
            raise UserError(f"--cluster {profile}: no such file, nor a profile in {PROFILES}; there are: {names}")
    values = load_yaml(path)
    if values is None:
        values = {}
    return validate(Cluster, values, str(path))
