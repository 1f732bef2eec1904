"""What `sllm status` shows of what came of a run."""

from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.status.results import results, results_table
from jobs.status.tables import cost
from sllm.files import fingerprint, write_json
from sllm.records import append_jsonl
from sllm.run_directory import RunDirectory

FIGURES = {"loss": 1.0, "perplexity": 2.7, "bits_per_byte": 1.25, "accuracy": 0.5}


def task(score: float) -> dict[str, Any]:
    return {"metric": "acc", "score": score, "stderr": 0.01, "guess": 0.25, "items": 1000}


def test_a_tuned_model_stands_beside_the_base() -> None:
    def of(bits: float) -> dict[str, Any]:
        return {"overall": {**FIGURES, "bits_per_byte": bits}}

    plain = {**of(1.25), "languages": {"ko": FIGURES}, "samples": []}
    tuned = {"tuned": {**of(1.5), "conversations": of(0.5)}, "conversations": of(2.0)}
    measured = {"tasks": {"measured": {"piqa": task(0.6), "arc_easy": task(0.3)}, "not_measured": {}}}
    both = {**measured, "tuned": {"tasks": {"measured": {"piqa": task(0.7)}, "not_measured": {}}}}
    alone = dict(results(plain, measured))
    beside = dict(results({**plain, **tuned}, both))
    assert alone["piqa"] == "acc 0.600 ± 0.010, guessing 0.25, 1,000 items"
    assert beside["piqa"] == "acc 0.600 ± 0.010, tuned 0.700 ± 0.010, guessing 0.25, 1,000 items"
    assert beside["arc_easy"] == alone["arc_easy"].replace("0.600", "0.300")
    assert beside["text, bits per byte"] == "base 1.250, tuned 1.500"
    assert beside["answers, bits per byte"] == "base 2.000, tuned 0.500"
    assert alone.keys() == beside.keys() - {"text, bits per byte", "answers, bits per byte"}


def test_of_the_answers_one_in_each_language_is_shown_on_a_line(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    said = {"누구야?": "나는 [/b] 산이에요.\n\n" + "높은 산이에요. " * 50, "뭐야?": "강이에요."}
    said |= {"Who are you?": "A hill.\nOf stones.", "Why?": "So."}
    asked = [{"prompt": question, "base": "글쎄", "tuned": answer} for question, answer in said.items()]
    write_json(run.done("validate"), {"key": {}, "fingerprint": "", "summary": {"answers": asked}})
    console = Console(width=60)
    table = results_table(run)
    assert table
    with console.capture() as shown:
        console.print(table)
    korean, english = [line for line in shown.get().splitlines() if "?" in line or "산" in line or "이에요" in line]
    assert korean.split("?")[1].split("│")[1].strip().startswith("나는 [/b] 산이에요. 높은 산이에요.")
    assert "…" in korean
    assert english.split("?")[1].split("│")[1].strip() == "A hill. Of stones."


def test_both_trainings_cost_something(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    write_json(run.path / "keys.json", {"pretrain": {}, "finetune": {}})

    def line(stage: str, started: float, useful: float) -> None:
        spans = {"starting": 1.0, "loading": 1.0, "training": useful, "validating": 0.0, "in_save": 0.0}
        about = {"stage": stage, "token": stage, "fingerprint": fingerprint({}), "attempt": 1, "job": None, "node": "n"}
        ends = {"began": "submitted", "ended": "finished", "message": "", "started": started, "seconds": 3600.0}
        steps = {"first_step": 1, "last_step": 10, **{f"seconds_{name}": value for name, value in spans.items()}}
        append_jsonl(run.ledger, {**about, **ends, **steps})

    assert cost(run) == []
    line("pretrain", 1000, 1800.0)
    assert cost(run) == ["1.00 process-hours so far; goodput 50.0%, of the wall time 50.0%"]
    line("finetune", 9000, 900.0)
    assert cost(run) == [
        "2.00 process-hours so far; goodput 50.0%, of the wall time 50.0%",
        "finetune: goodput 25.0%, of the wall time 25.0%",
    ]
