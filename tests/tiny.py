"""A tiny experiment over text files made up here: every stage of it takes seconds."""

import json
import random
from pathlib import Path
from typing import Any

import yaml

KOREAN = "민수 영희 학교 아침 저녁 바다 산 나무 고양이 책 은 는 이 가 을 를 에서 갔다 읽었다 보았다 좋다"
ENGLISH = "Anna Tom school morning evening sea hill tree cat book the a of in on went read saw was good"


def write_texts(directory: Path, documents: int = 300) -> dict[str, Path]:
    """One .jsonl file a language."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = {}
    for language, words in (("ko", KOREAN.split()), ("en", ENGLISH.split())):
        draw = random.Random(language)
        texts = [" ".join(draw.choices(words, k=draw.randint(20, 60))) for _ in range(documents)]
        paths[language] = directory / f"{language}.jsonl"
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
        paths[language].write_text("".join(lines), encoding="utf-8")
    return paths


def write_experiment(
    directory: Path, texts: dict[str, Path], name: str = "tiny", tuning: dict[str, Any] | None = None, **train: Any
) -> Path:
    """The experiment file of a run below `directory`; runs in one directory share their data. `tuning`: what
    `finetune` returns."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {
        "name": name,
        "runs_directory": str(directory / "runs"),
        "data_directory": str(directory / "data"),
        "data": {
            "sources": [
                {"name": language, "kind": "files", "language": language, "paths": [str(path)]}
                for language, path in texts.items()
            ],
            "validation_fraction": 0.2,
            "clean": {"contamination": False},
        },
        "tokenizer": {"vocab_size": 300},
        "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_ff": 32, "context_length": 16, "dropout": 0.1},
        "train": {
            "max_steps": 30,
            "global_batch": 4,
            "micro_batch": 2,
            "precision": "fp32",
            "checkpoint": {"every": 10},
            **train,
        },
        "validate": {"every": 15, "tokens": 256, "final_tokens": 512, "prompts": ["민수", "Anna"], "sample_tokens": 4},
        "benchmark": {"batches": [1], "prompt_tokens": 4, "new_tokens": 4, "train_steps": 2, "repeats": 1, "tasks": []},
        "wandb": {"mode": "disabled"},
        **({"finetune": tuning} if tuning else {}),
    }
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return path


def write_conversations(directory: Path) -> dict[str, Path]:
    """One .jsonl file a language, of conversations that a context of 16 tokens holds, over 300 different ids."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = {}
    for language, words in (("ko", list("산책봄꽃집물불밤낮눈비달")), ("en", ENGLISH.split())):
        said = [(f"{a[:2]}?", f"{b[:3]} {a[0]}") for a in words for b in words if a != b]
        turns = [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in said]
        paths[language] = directory / f"{language}-said.jsonl"
        lines = [json.dumps({"messages": each}, ensure_ascii=False) + "\n" for each in turns]
        paths[language].write_text("".join(lines), encoding="utf-8")
    return paths


def finetune(said: dict[str, Path], **train: Any) -> dict[str, Any]:
    """The section of an experiment as above."""
    sources = [
        {"name": f"{language}-said", "kind": "files", "language": language, "paths": [str(path)]}
        for language, path in said.items()
    ]
    return {
        "data": {
            "sources": sources,
            "validation_fraction": 0.2,
            "near_duplicates": False,
            "clean": {"contamination": False},
        },
        "train": {
            "max_steps": 20,
            "global_batch": 4,
            "micro_batch": 2,
            "precision": "fp32",
            "learning_rate": 1e-3,
            "checkpoint": {"every": 10},
            **train,
        },
        "validate": {"every": 10, "tokens": 256, "prompts": ["산?", "To?"], "sample_tokens": 4},
    }


def write_site(directory: Path) -> Path:
    """A folder for PYTHONPATH, as `module load` puts one there; processes that see it are named in its file `seen`."""
    directory.mkdir(exist_ok=True)
    note = f"with open({str(directory / 'seen')!r}, 'a', encoding='utf-8') as file: print(sys.orig_argv, file=file)"
    (directory / "sitecustomize.py").write_text(f"import sys\n\n{note}\n", encoding="utf-8")
    return directory
