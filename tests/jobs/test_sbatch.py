"""The plain scripts are the launcher's jobs."""

import subprocess
from pathlib import Path

import pytest

from jobs import slurm
from jobs.cluster import load_cluster
from jobs.pipeline import STAGES, Stage
from sllm.files import RunDirectory

SCRIPTS = Path(__file__).parents[2] / "sbatch"


@pytest.mark.parametrize("stage", STAGES.values(), ids=str)
def test_scripts_are_those_of_the_profile(stage: Stage) -> None:
    expected = slurm.plain_script(stage, load_cluster("h100").resources(stage.name))
    assert (SCRIPTS / f"{stage}.sbatch").read_text(encoding="utf-8") == expected, (
        f"sbatch/{stage}.sbatch: write what jobs.slurm.plain_script returns for configs/cluster/h100.yaml"
    )


@pytest.mark.parametrize("stage", STAGES.values(), ids=str)
def test_directives_are_those_that_submitit_sends(stage: Stage) -> None:
    """Read from the texts, so that it holds whatever wrote them."""

    def directives(text: str) -> set[str]:
        lines = {line.replace("'", "") for line in text.split("\n") if line.startswith("#SBATCH")}
        mine = ("--output", "--comment", "--job-name", "--dependency", "--kill-on-invalid-dep")
        return {line for line in lines if not line.removeprefix("#SBATCH ").startswith(mine)}

    resources = load_cluster("h100").resources(stage.name)
    sent = slurm.batch_text(RunDirectory(Path("/runs/x")), stage, resources, None)
    assert directives((SCRIPTS / f"{stage}.sbatch").read_text(encoding="utf-8")) == directives(sent)


@pytest.mark.parametrize("path", sorted(SCRIPTS.iterdir()), ids=lambda path: path.name)
def test_scripts_are_valid_shell(path: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_pipeline_knows_every_stage_and_what_it_needs() -> None:
    text = (SCRIPTS / "pipeline.sh").read_text(encoding="utf-8")
    for stage in STAGES.values():
        words = (
            ["share", stage.name, f'"${{{stage.name.upper()}_ARRAY:-}}"']
            if stage.work_share
            else ["submit", stage.name]
        )
        assert " ".join([*words, *(f'"${parent}"' for parent in stage.needs)]) + "\n" in text
