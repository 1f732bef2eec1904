"""A few made-up items of every task of the catalogue, in the layout that their homes on the hub have."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sllm.config.tasks import TASKS

KOREAN = "민수 영희 학교 아침 저녁 바다 산 나무 고양이 책 물 마을 갔다 읽었다 보았다 좋다"
ENGLISH = "anna tom school morning evening sea hill tree cat book went read saw was good water"


def add_tasks(root: Path, items: int = 12) -> None:
    """All of them below `root`, the folder that the stand-in for the hub serves."""
    for name, task in TASKS.items():
        for part, files in task.parts.items():
            for split, pattern in files.items():
                draw = random.Random(f"{part} {split}")
                rows = [row_of(name, draw) for _ in range(items)]
                write_rows(root / task.dataset / file_name(pattern, split), rows)
        licence = task.licence.lower().replace("cc ", "cc-").replace(" ", "-")
        (root / task.dataset / "README.md").write_text(f"---\nlicense: {licence}\n---\n", encoding="utf-8")


def file_name(pattern: str, split: str) -> str:
    """A file as such a pattern of the catalogue finds it."""
    match pattern.count("*"):
        case 0:
            return pattern
        case 1:
            return pattern.replace("*", "0000" if "/test/" in pattern else "00000-of-00001")
        case _:
            return f"data/{split}-00000-of-00001.parquet"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)


def row_of(name: str, draw: random.Random) -> dict[str, Any]:
    """An item with all columns that lm-eval reads of this task."""
    words = (KOREAN if TASKS[name].language == "ko" else ENGLISH).split()

    def text(least: int = 3, most: int = 8) -> str:
        return " ".join(draw.choices(words, k=draw.randint(least, most)))

    match name:
        case "kobest_boolq":
            return {"paragraph": text(5, 12), "question": f"{text()}?", "label": draw.randrange(2)}
        case "kobest_copa":
            question = draw.choice(["원인", "결과"])
            alternatives = {"alternative_1": text(), "alternative_2": text()}
            return {"premise": text(), "question": question, **alternatives, "label": draw.randrange(2)}
        case "kobest_hellaswag":
            endings = {f"ending_{number}": text() for number in range(1, 5)}
            return {"context": text(5, 12), **endings, "label": draw.randrange(4)}
        case "kobest_sentineg":
            return {"sentence": text(), "label": draw.randrange(2)}
        case "kobest_wic":
            return {"word": "책", "context_1": text(), "context_2": text(), "label": draw.randrange(2)}
        case "haerae":
            options = [f"({letter}) {text(1, 2)}" for letter in "ABCDE"]
            return {"query": f"{text()}?\n### 선택지:\n" + "\n".join(options), "answer": f"({draw.choice('ABCDE')})"}
        case "belebele_kor_Hang" | "belebele_eng_Latn":
            answers = {f"mc_answer{number}": text(1, 3) for number in range(1, 5)}
            answer = str(draw.randint(1, 4))
            return {"flores_passage": text(8, 16), "question": f"{text()}?", **answers, "correct_answer_num": answer}
        case "hellaswag":
            first, second = text(), text()
            endings = [text() for _ in range(4)]
            context = {"activity_label": "Cooking", "ctx_a": first, "ctx_b": second, "ctx": f"{first}. {second}"}
            return {**context, "endings": endings, "label": str(draw.randrange(4))}
        case "arc_easy":
            choices = {"text": [text(1, 3) for _ in range(4)], "label": list("ABCD")}
            return {"id": text(1, 1), "question": f"{text()}?", "choices": choices, "answerKey": draw.choice("ABCD")}
        case "piqa":
            return {"goal": text(), "sol1": text(), "sol2": text(), "label": draw.randrange(2)}
        case "lambada_openai":
            return {"text": text(10, 20)}
    raise LookupError(name)
