"""The list of mutants fits the sources, and `make mutants` tells those that are noticed from those that are not."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
from mutants import MUTANTS, ROOT, BrokenError, Mutant, mutated, outcomes


def test_every_mutant_fits_its_file_and_has_tests() -> None:
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        text = mutated((ROOT / mutant.file).read_text(encoding="utf-8"), mutant)
        if mutant.file.endswith(".py"):
            ast.parse(text, str(mutant))
        else:
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        for selection in mutant.tests.split():
            file, _, name = selection.partition("::")
            text = (ROOT / file).read_text(encoding="utf-8")
            assert not name or re.search(rf"^ *def {re.escape(name.partition('[')[0])}\(", text, re.MULTILINE), mutant


@pytest.fixture(autouse=True)
def bare_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts in half the time without what is installed beside it."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def write_tree(directory: Path) -> Path:
    """With the file of a test that fails already."""
    texts = {
        "sllm/__init__.py": "",
        "sllm/sums.py": "def add(a, b):\n    total = a + b\n    return total\n",
        "tests/test_sums.py": "from sllm.sums import add\n\ndef test_add():\n    assert add(2, 0) == 2\n",
        "tests/test_red.py": "def test_red():\n    raise AssertionError\n",
        "tests/test_skipped.py": "import pytest\n\n@pytest.mark.skip\ndef test_skipped():\n    pass\n",
    }
    for name, text in texts.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", str(directory)], check=True)
    return directory


def mutant(new: str, tests: str = "tests/test_sums.py", old: str = "a + b") -> Mutant:
    return Mutant(new, "sllm/sums.py", old, new, tests)


def test_what_becomes_of_mutants(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree")
    before = {path: path.read_bytes() for path in tree.rglob("*.py")}
    # Three of one size, one after the other in one copy: what Python compiled of one is not taken for the next.
    mutants = [mutant(new) for new in ("a * b", "a - b", "b - a", "+", "sum(iter(int, 1))")]
    found = {mutant.new: outcome for mutant, outcome in outcomes(tree, mutants, jobs=1, limit=lambda usual: usual + 3)}
    assert {new: outcome.state for new, outcome in found.items()} == {
        "a * b": "noticed",
        "a - b": "SURVIVED",
        "b - a": "noticed",
        "+": "BROKEN",
        "sum(iter(int, 1))": "noticed",
    }
    assert found["a * b"].by == "tests/test_sums.py::test_add"
    assert {path: path.read_bytes() for path in tree.rglob("*.py")} == before


def test_tests_that_say_nothing_are_an_error(tmp_path: Path) -> None:
    selections = ["tests/test_red.py", "tests/test_skipped.py", "tests/test_sums.py::test_gone"]
    with pytest.raises(BrokenError) as caught:
        list(outcomes(write_tree(tmp_path), [mutant("a * b", tests) for tests in selections], jobs=1))
    assert re.findall(r"^(tests\S+): ", str(caught.value), re.MULTILINE) == [
        "tests/test_red.py",
        "tests/test_skipped.py",
        "tests/test_sums.py",
    ]


@pytest.mark.parametrize("old", ["total", "a - b"])
def test_a_mutant_that_does_not_fit_is_an_error(tmp_path: Path, old: str) -> None:
    with pytest.raises(BrokenError, match="times in the file"):
        list(outcomes(write_tree(tmp_path / "tree"), [mutant("sum", old=old)], jobs=1))
