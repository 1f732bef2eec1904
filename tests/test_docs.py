"""The pages name files, functions and other pages that exist; what others run is what `make` runs."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def names(body: list[ast.stmt], before: str = "") -> Iterator[str]:
    """Functions, classes and methods, with dots, and assigned names."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield before + node.name
            yield from names(node.body, f"{before}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (before + target.id for target in targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if ":" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(
        r"`((?:sllm|jobs|tests|bench|configs|sbatch|docs)/[\w./-]+\.\w+)", page.read_text(encoding="utf-8")
    )
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_functions_of_the_tour_are_there() -> None:
    tour = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    stops = re.findall(r"`([\w./]+\.py): ([\w.]+)`", tour)
    assert len(stops) > 20
    for file, name in stops:
        assert name in names(ast.parse((ROOT / file).read_text(encoding="utf-8")).body), f"{file}: {name}"
    assert len(tour.splitlines()) < 100


def test_ci_and_pre_commit_run_what_make_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert [step.get("run") for step in workflow["jobs"]["test"]["steps"]][-1] == ".ci/run"
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    lint = re.findall(r"^\t\$\(BIN\)/(\w+(?: check| format)?)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    run = [re.sub(r"^\.venv/bin/| --.*", "", hook["entry"]) for hook in hooks]
    assert run == [command for command in lint if command.split()[0] in ("ruff", "mypy")]


def test_make_help_tells_every_target() -> None:
    listed = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, encoding="utf-8")
    (targets,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert {line.split()[1] for line in listed.stdout.splitlines()} == set(targets.split())
