"""pyproject.toml names what is imported and nothing else, with the floors that `make test-versions` installs."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from floors import MODULES, imports
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
TOOLS = {"ruff", "mypy", "types-PyYAML", "playwright"}
"""They look at the code or at a page, and are as constraints.txt says."""

PARTS = {"pydantic-core"}
"""They come with a package that is declared, in the one version that fits it."""


def bound(requirement: Requirement, operator: str) -> Version:
    (specifier,) = requirement.specifier
    assert specifier.operator == operator, requirement
    return Version(specifier.version)


def declared() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def packages(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def imported(*, top_level: bool) -> set[str]:
    """Packages, not of ours or Python's, that sllm and jobs import."""
    names = {name.split(".")[0] for path in MODULES.values() for name in imports(path, top_level=top_level)}
    of = packages_distributions()
    return {canonicalize_name(of[name][0]) for name in names - set(sys.stdlib_module_names) - {"sllm", "jobs"}} - PARTS


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = declared()
    needed = packages(project["dependencies"])
    assert needed <= imported(top_level=False)
    assert imported(top_level=True) <= needed
    # What only a comparison imports, when it is asked for, need not be there.
    assert imported(top_level=False) <= needed | packages(
        [line for extra in ("bench", "eval", "gguf") for line in project["optional-dependencies"][extra]]
    )


def test_every_floor_is_tested() -> None:
    project = declared()
    needed = map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["dev"]])
    floors = {requirement.name: bound(requirement, ">=") for requirement in needed if requirement.name not in TOOLS}
    lines = (ROOT / "requirements-oldest.txt").read_text(encoding="utf-8").splitlines()
    tested = [Requirement(line) for line in lines if not line.startswith("#")]
    assert {requirement.name: bound(requirement, "==") for requirement in tested} == floors


def test_the_short_set_of_tests_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (names,) = re.findall(r"^SHORT := \$\(addprefix tests/,(.*)\)$", makefile, re.MULTILINE)
    assert not [name for name in names.split() if not (ROOT / "tests" / name).exists()]
