"""On which numbers of ranks a drill trains, and what its training then asks of the cluster."""

import re
from collections.abc import Callable, Sequence
from itertools import groupby

from jobs.launch.order import Order
from jobs.pipeline import STAGES
from jobs.slurm import commands
from jobs.slurm.batch import batch_text
from jobs.slurm.cluster import Cluster
from jobs.slurm.partitions import misfits, partitions
from sllm.config import Experiment
from sllm.errors import UserError


def rank_counts(text: str) -> list[int]:
    """`2,1,2,4`. Raises UserError."""
    if not re.fullmatch(r"[1-9]\d{0,4}(,[1-9]\d{0,4})*", text, re.ASCII):
        raise UserError(f"--ranks {text}: numbers of ranks with commas between, such as 2,1,2,4")
    return [int(count) for count, _ in groupby(text.split(","))]


def default_counts(own: int) -> list[int]:
    """Those of the profile, one, those of the profile again, and twice as many."""
    return [count for count, _ in groupby([own, 1, own, 2 * own])]


def with_ranks(cluster: Cluster, ranks: int) -> Cluster:
    """The profile with so many ranks for pretrain: no more on a node than it has now, and GPUs in proportion."""
    resources = cluster.resources("pretrain")
    most = resources.tasks_per_node
    tasks = max(count for count in range(1, most + 1) if ranks % count == 0)

    def share(gpus: int) -> int:
        return -(-gpus * tasks // most)

    def asked(item: str) -> str:
        kind, *rest = item.split(":")
        count = int(rest.pop()) if rest and rest[-1].isdigit() else 1
        return ":".join([kind, *rest, str(share(count))]) if kind == "gpu" else item

    change = {
        "nodes": ranks // tasks,
        "tasks_per_node": tasks,
        "gpus_per_node": None if resources.gpus_per_node is None else share(resources.gpus_per_node),
        "gres": None if resources.gres is None else ",".join(map(asked, resources.gres.split(","))),
    }
    stages = cluster.stages.model_copy(update={"pretrain": resources.model_copy(update=change)})
    return cluster.model_copy(update={"stages": stages})


def orders_on(
    experiment: Experiment, profile: Cluster, ranks: Sequence[int] | None, say: Callable[[str], object]
) -> list[Order]:
    """An order for each of these numbers of ranks; of the default ones without those that cannot be, each with a line.

    Raises:
        UserError: others cannot be: the global batch cannot be split so, or Slurm would never start the training.
    """
    own = ranks_of(profile)
    counts = ranks or default_counts(own)
    orders, problems = dict[int, Order](), dict[int, str]()
    for count in dict.fromkeys(counts):
        try:
            orders[count] = _order(experiment, with_ranks(profile, count))
        except UserError as error:
            problems[count] = f"{named(count)}: {error}"
    if problems and (ranks or own in problems):
        raise UserError("\n".join(problems.values()))
    for problem in problems.values():
        say(f"Without {problem}")
    return [orders[count] for count, _ in groupby(filter(orders.__contains__, counts))]


def _order(experiment: Experiment, cluster: Cluster) -> Order:
    order = Order(experiment, cluster, "slurm")
    resources = cluster.with_site_defaults().resources("pretrain")
    if refusal := commands.refusal(batch_text(order.run, STAGES["pretrain"], resources, None)):
        asked = f"{resources.nodes} x {resources.tasks_per_node} tasks"
        wrong = [misfit.problem for misfit in misfits(resources, partitions())]
        raise UserError("; ".join([f"{asked}: sbatch refuses: {refusal}", *wrong]))
    return order


def ranks_of(cluster: Cluster) -> int:
    """Of a range of nodes, the fewest."""
    return cluster.resources("pretrain").rank_counts[0]


def named(ranks: int) -> str:
    return "1 rank" if ranks == 1 else f"{ranks} ranks"
