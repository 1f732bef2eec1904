"""Conversations made up here, and small experiments over them."""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from small_corpora import experiment, sentences

from sllm.config import Experiment
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FIRST_BYTE

KO = [
    {"role": "system", "content": "너는 마을 도서관의 사서다. 짧게 대답해라."},
    {"role": "user", "content": "도서관은 몇 시에 문을 여나요?"},
    {"role": "assistant", "content": "아침 아홉 시에 엽니다. 월요일에는 쉽니다."},
    {"role": "user", "content": "그럼 화요일에 갈게요."},
    {"role": "assistant", "content": "네, 기다리겠습니다."},
]
EN = [
    {"role": "user", "content": "How do I keep basil alive on a window sill?"},
    {"role": "assistant", "content": "Give it six hours of light:\n\n1. Water it in the morning.\n2. Cut the flowers."},
]

# Each byte is a token of its own; two pairs of bytes are not.
TOKENIZER = Tokenizer([(FIRST_BYTE + ord("t"), FIRST_BYTE + ord("h")), (FIRST_BYTE + ord("e"), FIRST_BYTE + ord(" "))])


def made_up(count: int, language: str = "en", turns: int = 1, seed: int = 0) -> list[list[dict[str, str]]]:
    """Distinct conversations of one question and answer or more."""
    said = sentences(2 * turns * count + seed, language)[seed:]
    random.Random(seed).shuffle(said)
    return [
        [{"role": role, "content": said.pop()} for _ in range(turns) for role in ("user", "assistant")]
        for _ in range(count)
    ]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def over(directory: Path, talks: Mapping[str, Sequence[Any]], context: int = 256, **data: Any) -> Experiment:
    """An experiment whose `finetune` has a `files` source for each entry, of conversations; a name that starts with ko
    is Korean."""
    sources = [
        {
            "name": name,
            "kind": "files",
            "language": "ko" if name.startswith("ko") else "en",
            "paths": [str(write_rows(directory / f"{name}.jsonl", ({"messages": talk} for talk in found)))],
        }
        for name, found in talks.items()
    ]
    return over_sources(sources, context, **data)


def over_sources(sources: list[dict[str, Any]], context: int = 256, **data: Any) -> Experiment:
    text = {"kind": "embedded", "name": "text", "language": "en", "megabytes": 0.01}
    values = experiment([text]).to_dict()
    values["model"]["context_length"] = context
    del values["validate"]  # what is not set fits the context
    values["benchmark"] = {"tasks": []}
    values["finetune"] = {
        "data": {
            "sources": sources,
            "validation_fraction": 0.2,
            "near_duplicates": False,
            "clean": {"contamination": False},
            **data,
        },
        "train": {"max_steps": 2, "global_batch": 2, "micro_batch": 1},
    }
    return Experiment.model_validate(values)
