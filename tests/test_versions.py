"""The floors that pyproject.toml names are those that `make test-versions` installs."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
TOOLS = {"ruff", "mypy", "types-PyYAML"}
"""They look at the code, and are as constraints.txt says."""


def bound(requirement: Requirement, operator: str) -> Version:
    (specifier,) = requirement.specifier
    assert specifier.operator == operator, requirement
    return Version(specifier.version)


def test_every_floor_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["dev"]])
    floors = {requirement.name: bound(requirement, ">=") for requirement in needed if requirement.name not in TOOLS}
    lines = (ROOT / "requirements-oldest.txt").read_text(encoding="utf-8").splitlines()
    tested = [Requirement(line) for line in lines if not line.startswith("#")]
    assert {requirement.name: bound(requirement, "==") for requirement in tested} == floors
