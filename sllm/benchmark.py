"""The benchmark stage: how fast the run's best model is, and how well it and the one tuned from it do tasks."""

from pathlib import Path
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
    that it has measured. A tuned model is as fast as the base, and is asked by its template; under `tuned` stand its
    `step` and `tasks`.

    Raises:
        UserError: there is no model.
        Stopped: `stop` was set.
    """
    with connect() as world:
        results = measure_speed(experiment, run, artifacts, world, stop)
    place = run.stage("benchmark")

    def measure(best: Path, kept: Path, *, template: bool) -> dict[str, Any]:
        generator = TextGenerator(best, artifacts.tokenizer, world.device)
        manifest = read_manifest(best)
        weights = next(file["sha256"] for file in manifest["files"] if file["name"] == WEIGHTS)
        found = tasks.measure_tasks(
            experiment.benchmark,
            artifacts.tasks,
            kept,
            generator.model,
            generator.tokenizer,
            [weights, str(generator.model.output_weight.dtype)],
            stop.check,
            template=template,
        )
        return {**({"step": manifest["step"]} if "step" in manifest else {}), "tasks": found}

    results |= measure(run.best, place / "tasks", template=False)
    report = tasks.tables(results["tasks"])
    if experiment.finetune:
        results["tuned"] = measure(run.training("finetune").best, place / "tuned-tasks", template=True)
        report += tasks.tables(results["tuned"]["tasks"], "Tasks, tuned model")
    write_results(place, results, *tables(results), *report)
    return results
