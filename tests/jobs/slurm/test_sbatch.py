"""The plain scripts are the launcher's jobs."""

import io
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
from rich.console import Console
from submitit.core.utils import DelayedSubmission

from jobs.launch.order import Order
from jobs.launch.show import show_plan
from jobs.pipeline import STAGES, Stage, up_to
from jobs.run import job
from jobs.slurm.batch import batch_text, plain_script
from jobs.slurm.cluster import Resources, load_cluster
from jobs.slurm.commands import submitted_jobs
from jobs.slurm.submit import submit_job
from sllm.config import load_experiment
from sllm.run_directory import RunDirectory

SCRIPTS = Path(__file__).parents[3] / "sbatch"


@pytest.mark.parametrize("stage", STAGES.values(), ids=str)
def test_scripts_are_those_of_the_profile(stage: Stage) -> None:
    expected = plain_script(stage, load_cluster("h100").resources(stage.name))
    assert (SCRIPTS / f"{stage}.sbatch").read_text(encoding="utf-8") == expected, (
        f"sbatch/{stage}.sbatch: write what jobs.slurm.batch.plain_script returns for configs/cluster/h100.yaml"
    )


@pytest.mark.parametrize("stage", STAGES.values(), ids=str)
def test_directives_are_those_that_submitit_sends(stage: Stage) -> None:
    """Read from the texts, so that it holds whatever wrote them."""

    def directives(text: str) -> set[str]:
        lines = {line.replace("'", "") for line in text.split("\n") if line.startswith("#SBATCH")}
        mine = ("--output", "--comment", "--job-name", "--dependency", "--kill-on-invalid-dep")
        return {line for line in lines if not line.removeprefix("#SBATCH ").startswith(mine)}

    resources = load_cluster("h100").resources(stage.name)
    sent = batch_text(RunDirectory(Path("/runs/x")), stage, resources, None)
    assert directives((SCRIPTS / f"{stage}.sbatch").read_text(encoding="utf-8")) == directives(sent)


@pytest.mark.parametrize("array", [False, True], ids=["job", "array"])
def test_what_is_shown_is_what_submitit_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, array: bool) -> None:
    for name, text in (
        ("sbatch", 'cp "$1" "$0.sent"; echo "Submitted batch job 12"'),
        ("srun", ":"),
        ("scontrol", ":"),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    run, resources = RunDirectory(tmp_path / "runs" / "내 실험 '1' $x"), Resources(array=3, cpus=2)
    for _ in range(2):  # a cluster that was set up anew counts its jobs from 1 again
        assert submit_job(run, STAGES["pack"], resources, "afterok:7", array=array) == "12"
    shown = batch_text(run, STAGES["pack"], resources, "afterok:7", array=array)
    assert (tmp_path / "sbatch.sent").read_text(encoding="utf-8") == shown
    assert submitted_jobs(run) == {"pack.*" if array else "pack": "12"}
    folder = run.stage("pack") / "submitit"
    for name in ["12_0", "12_1", "12_2"] if array else ["12"]:
        sent = DelayedSubmission.load(folder / f"{name}_submitted.pkl")
        assert (sent.function, sent.args) == (job, (str(run.path), "pack"))
        assert sent.kwargs == {"tasks": 3 if array else None}


@pytest.mark.parametrize("path", sorted(SCRIPTS.iterdir()), ids=lambda path: path.name)
def test_scripts_are_valid_shell(path: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


SBATCH = """#!/bin/bash
# As sbatch does, prints the number of a new job, which is that of the call. Writes down what it is called with.
for last; do if [[ $last == *.sbatch ]]; then stage=$(basename "$last" .sbatch); fi; done
echo "$stage $*" >>"$CALLS"
if [ "$stage" = "${REFUSED:-}" ]; then echo "sbatch: error: no" >&2; exit 1; fi
if [ "$stage" = "${STOPPED:-}" ]; then kill -TERM 0; fi # to all, as a terminal sends Ctrl-C
echo "$(wc -l <"$CALLS");cluster"
"""


@dataclass(frozen=True)
class Call:
    """What was asked of sbatch."""

    stage: str
    parents: frozenset[str]
    """Jobs that must have succeeded or, with `ended`, have ended."""
    array: str | None
    ended: bool = False

    @classmethod
    def read(cls, line: str) -> "Call":
        stage, *words = shlex.split(line)
        given = dict(word.removeprefix("--").partition("=")[::2] for word in words if word.startswith("--"))
        kind, *parents = given.get("dependency", "afterok").split(":")
        assert kind in ("afterok", "afterany")
        assert given.get("kill-on-invalid-dep") == ("yes" if parents else None)
        return cls(stage, frozenset(parents), given.get("array"), kind == "afterany")


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """pipeline.sh, with an sbatch and a scancel that write down what they are asked for."""
    for name, text in (
        ("sbatch", SBATCH),
        ("scancel", '#!/bin/bash\necho "$*" >>"$CANCELLED"\n'),
        ("sllm", f"#!/bin/bash\necho {tmp_path}/runs/mine\n"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    config = tmp_path / "runs" / "mine" / "config.yaml"
    config.parent.mkdir(parents=True)

    def run(*, tuning: bool = False, **environment: str) -> "subprocess.CompletedProcess[str]":
        config.write_text("name: mine\nfinetune:" + ("\n  data: {}\n" if tuning else " null\n"), encoding="utf-8")
        files = {"CALLS": str(tmp_path / "calls"), "CANCELLED": str(tmp_path / "cancelled")}
        for path in map(Path, files.values()):
            path.unlink(missing_ok=True)
        script = [str(SCRIPTS / "pipeline.sh"), "mine.yaml"]
        variables = {**os.environ, **files, **environment}
        return subprocess.run(script, env=variables, capture_output=True, text=True, start_new_session=True)

    return run


@pytest.mark.parametrize("tuning", [False, True], ids=["pretrained", "tuned"])
@pytest.mark.parametrize("arrays", [{}, {"PACK_ARRAY": "3"}, {"DOWNLOAD_ARRAY": "2", "PACK_ARRAY": "1"}], ids=str)
def test_pipeline_starts_each_stage_when_those_it_needs_have_succeeded(
    pipeline: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path, arrays: dict[str, str], tuning: bool
) -> None:
    done = pipeline(tuning=tuning, **arrays)
    assert done.returncode == 0, done.stderr
    calls = list(map(Call.read, (tmp_path / "calls").read_text(encoding="utf-8").splitlines()))
    jobs, expected = dict[str, str](), list[Call]()
    for stage in up_to(None, tuning=tuning):
        parents = frozenset(jobs[name] for name in stage.needs + stage.after if name in jobs)
        if (tasks := int(arrays.get(f"{stage.name.upper()}_ARRAY", "1"))) > 1:
            expected.append(Call(stage.name, parents, f"0-{tasks - 1}"))
            jobs[f"{stage}.*"] = str(len(expected))
            parents = frozenset({jobs[f"{stage}.*"]})
        expected.append(Call(stage.name, parents, None, bool(stage.after)))
        jobs[stage.name] = str(len(expected))
    assert calls == expected
    assert submitted_jobs(RunDirectory(tmp_path / "runs" / "mine")) == jobs
    assert not (tmp_path / "cancelled").exists()


@pytest.mark.parametrize(
    ("how", "code", "cancelled"), [("REFUSED", 1, "3 2 1\n"), ("STOPPED", 130, "4 3 2 1\n")], ids=["refused", "stopped"]
)
def test_pipeline_that_does_not_come_to_its_end_leaves_no_job(
    pipeline: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path, how: str, code: int, cancelled: str
) -> None:
    done = pipeline(**{how: "pretrain"})
    assert done.returncode == code
    assert "Submitted" not in done.stdout
    assert (tmp_path / "cancelled").read_text(encoding="utf-8") == cancelled


def test_each_job_of_a_submit_starts_when_those_it_needs_have_succeeded(
    tmp_path: Path, texts: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = load_experiment(tiny.write_experiment(tmp_path, texts))
    profile = tmp_path / "profile.yaml"
    profile.write_text("defaults: {partition: cpu}\nstages: {download: {array: 2}, pack: {array: 3}}", encoding="utf-8")
    show_plan(Order(experiment, load_cluster(str(profile)), "slurm"), Console(file=io.StringIO()))
    names = {f"{stage}.*" for stage in ("download", "pack")}
    for text in capsys.readouterr().out.split("\n# ---- ")[1:]:
        name, _, script = text.partition(" ----\n")
        words = " ".join(line.removeprefix("#SBATCH ") for line in script.split("\n") if line.startswith("#SBATCH "))
        stage = STAGES[name.removesuffix(".*")]
        needed = [parent for parent in stage.needs + stage.after if not STAGES[parent].optional]
        parents = needed if name.endswith(".*") or f"{stage}.*" not in names else [f"{stage}.*"]
        call = Call.read(f"{name} {words}")
        assert call.parents == {f"<{parent}>" for parent in parents}
        assert call.ended == bool(stage.after)
        assert (call.array is not None) == name.endswith(".*")
        names.add(stage.name)
    assert names == {*map(str, up_to(None, tuning=False)), "download.*", "pack.*"}


def test_no_signal_is_forgotten_between_two_jobs() -> None:
    """bash 5.2 loses, once in a hundred times, a trapped signal that comes while it waits for a `$( )`."""
    text = (SCRIPTS / "pipeline.sh").read_text(encoding="utf-8")
    _, trap, submitting = text.partition("trap 'stopped=1' INT HUP TERM\n")
    assert trap
    assert not re.search(r"\$\([^(]|`", re.sub(r"(?m)(^|\s)#.*$", "", submitting))
