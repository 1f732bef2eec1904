"""Small experiments over files, for the tests of this folder."""

import json
import random
from pathlib import Path
from typing import Any

from sllm.config import Experiment
from sllm.data.download import download_stage
from sllm.stop import StopFlag

WORDS = {
    "ko": "고양이가 물을 마신다 아침에 학교에서 민수는 책을 읽었다 바다와 산이 보이는 마을 저녁마다 나무 아래 앉아",
    "en": "a cat drinks water in the morning at school Tom reads his book by sea and hill every evening",
}


def sentences(count: int, language: str = "en") -> list[str]:
    """Distinct documents of different lengths."""
    words = WORDS[language].split()
    draws = [random.Random(f"{language} {number}") for number in range(count)]
    return [f"{number:05d} {' '.join(draw.choices(words, k=8 + number % 30))}." for number, draw in enumerate(draws)]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def experiment(sources: list[dict[str, Any]], **data: Any) -> Experiment:
    data["clean"] = {"contamination": False, **data.get("clean", {})}
    return Experiment.model_validate(
        {
            "name": "test",
            "data": {"sources": sources, "validation_fraction": 0.1, **data},
            "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_ff": 32, "context_length": 256},
            "train": {"max_steps": 2, "global_batch": 2, "micro_batch": 1},
            "benchmark": {"tasks": []},
        }
    )


def over_files(directory: Path, texts: dict[str, list[str]], **data: Any) -> Experiment:
    """An experiment with one `files` source for each entry; a name that starts with ko is Korean."""
    sources = [
        {
            "name": name,
            "kind": "files",
            "language": "ko" if name.startswith("ko") else "en",
            "paths": [str(write_jsonl(directory / f"{name}.jsonl", documents))],
        }
        for name, documents in texts.items()
    ]
    return experiment(sources, **data)


def downloaded(directory: Path, texts: dict[str, list[str]], **data: Any) -> tuple[Experiment, Path]:
    """The experiment, and its corpus."""
    made = over_files(directory / "input", texts, **data)
    download_stage(made, directory / "corpus", StopFlag())
    return made, directory / "corpus"
