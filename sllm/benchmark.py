"""The benchmark stage: how fast the run's best model is, and how well it does tasks."""

from typing import Any

from sllm.artifacts import Artifacts
from sllm.config import Experiment
from sllm.distributed import connect
from sllm.evaluation import tasks
from sllm.evaluation.results import write_results
from sllm.inference.generator import TextGenerator
from sllm.manifests import read_manifest
from sllm.model.storage import WEIGHTS
from sllm.run_directory import RunDirectory
from sllm.speed import measure_speed, tables
from sllm.stop import StopFlag


def benchmark_stage(experiment: Experiment, run: RunDirectory, artifacts: Artifacts, stop: StopFlag) -> dict[str, Any]:
    """Measure speed, then tasks, and write results.json and results.txt. An attempt that is stopped keeps the tasks
    that it has measured.

    Raises:
        UserError: there is no model.
        Stopped: `stop` was set.
    """
    with connect() as world:
        results = measure_speed(experiment, run, artifacts, world, stop)
    generator = TextGenerator(run.best, artifacts.tokenizer, world.device)
    manifest = read_manifest(run.best)
    weights = next(file["sha256"] for file in manifest["files"] if file["name"] == WEIGHTS)
    if "step" in manifest:
        results["step"] = manifest["step"]
    place = run.stage("benchmark")
    results["tasks"] = tasks.measure_tasks(
        experiment.benchmark,
        artifacts.tasks,
        place / "tasks",
        generator.model,
        generator.tokenizer,
        [weights, str(generator.model.output_weight.dtype)],
        stop.check,
    )
    write_results(place, results, *tables(results), *tasks.tables(results["tasks"]))
    return results
