"""Runs beside each other."""

import json
from pathlib import Path

import pytest
from made import make_run

from sllm.errors import UserError
from sllm.report.compare import Row, compare, write_page
from sllm.run_directory import RunDirectory


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunDirectory]:
    directory = tmp_path_factory.mktemp("compared")
    return [make_run(directory, steps=100, name="one"), make_run(directory, steps=200, name="two")]


def test_what_differs_and_what_came_of_it(runs: list[RunDirectory]) -> None:
    compared = compare(runs)
    assert compared.names == ["one", "two"]
    assert Row("train.max_steps", "", ["100", "200"]) in compared.settings
    assert {row.word for row in compared.settings} == {"train.max_steps", "validate.every"}
    results = {(row.word, row.of): row.values for row in compared.results}
    assert results["steps", ""] == ["100", "200"]
    assert results["interruptions", ""] == ["5", "5"]
    measured = json.loads((runs[0].stage("validate") / "results.json").read_text(encoding="utf-8"))
    assert results["bits_per_byte", "ko"][0] == f"{measured['languages']['ko']['bits_per_byte']:.4f}"
    scores = json.loads((runs[0].stage("benchmark") / "results.json").read_text(encoding="utf-8"))["tasks"]["measured"]
    assert {of for word, of in results if word == "task"} == scores.keys()
    assert all(len(values) == 2 for values in results.values())


def test_a_tuned_run_stands_beside_one_that_is_not(runs: list[RunDirectory], tmp_path: Path) -> None:
    tuned = make_run(tmp_path, steps=100, name="three", tuned=True)
    results = {(row.word, row.of): row.values for row in compare([runs[0], tuned]).results}
    measured = json.loads((tuned.stage("validate") / "results.json").read_text(encoding="utf-8"))
    for word, figures in (
        ("answers_base", measured["conversations"]),
        ("answers_tuned", measured["tuned"]["conversations"]),
        ("text_tuned", measured["tuned"]),
    ):
        assert results[word, ""] == ["–", f"{figures['overall']['bits_per_byte']:.4f}"]
    assert results["task_tuned", "kobest_copa"] == ["–", "0.6600 ± 0.0140 f1"]
    assert ("answers_base", "") not in {(row.word, row.of) for row in compare(runs).results}


def test_a_run_that_has_nothing_stands_beside_one_that_has(runs: list[RunDirectory], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: [broken", encoding="utf-8")
    compared = compare([RunDirectory(tmp_path), *runs])
    assert Row("train.max_steps", "", ["?", "100", "200"]) in compared.settings
    assert next(row.values for row in compared.results if row.word == "steps") == ["–", "100", "200"]


def test_the_page_has_the_tables_and_the_curves(runs: list[RunDirectory], tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    write_page(compare(runs), page)
    text = page.read_text(encoding="utf-8")
    assert all(f">{name}</th>" in text for name in ("one", "two"))
    assert text.count("<svg") == 4  # by tokens and by hours, wide and narrow
    assert {path.name for path in page.parent.glob("*.png")} == {"page-by-tokens.png", "page-by-hours.png"}


@pytest.mark.parametrize(("which", "says"), [([0], "at least two runs"), ([0, 1, 0], "named twice")])
def test_too_few_runs_or_one_twice(runs: list[RunDirectory], which: list[int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        compare([runs[number] for number in which])
