"""The runs of a directory: listed, and found by their names."""

from pathlib import Path

from sllm.errors import UserError
from sllm.run_directory import RunDirectory

RUNS = Path("runs")


def find_run(name: str) -> RunDirectory:
    """The run directory of a name (under runs/) or a path. Raises UserError naming the runs there are."""
    for path in (RUNS / name, Path(name)):
        if (path / "config.yaml").is_file():
            return RunDirectory(path.absolute())
    known = ", ".join(run.name for run in runs_in(RUNS)) or "none"
    raise UserError(f"{name}: no run of this name in {RUNS.absolute()}, nor a run directory; there are: {known}")


def runs_in(directory: Path) -> list[RunDirectory]:
    return [RunDirectory(path.parent.absolute()) for path in sorted(directory.glob("*/config.yaml"))]
