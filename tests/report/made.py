"""A run made by hand: trained in six attempts on two nodes, measured, with all that a page shows."""

import json
import math
import random
from pathlib import Path
from typing import Any

from sllm.artifacts import Artifacts, stage_keys
from sllm.config import Experiment, load_experiment, write_experiment
from sllm.files import fingerprint, write_json, write_text
from sllm.records import append_jsonl
from sllm.run_directory import RunDirectory, checkpoint_path

ROOT = Path(__file__).parents[2]
BEGIN = 1_795_000_000.0
STEP_TOKENS = 240 * 2048

# How each attempt but the last ended, after how many steps (of a hundred) and at which checkpoint it had been.
ENDS = (("preempted", 18, 18), ("time limit", 39, 39), ("node failure", 52, 48), ("killed", 71, 66), ("crash", 84, 78))

PROMPTS = ("대한민국의 수도는", "The capital of Korea is")
QUESTIONS = ("대한민국의 수도는 어디인가요?", "What is the capital of France?")


FINETUNE = (
    "finetune={data: {sources: [{name: talk-ko, kind: hub, language: ko, dataset: someone/talks, revision: main, "
    "licence: CC BY 4.0}, {name: talk-en, kind: embedded, language: en, megabytes: 1}]}, "
    "train: {max_steps: 100, warmup_steps: 5, global_batch: 240, micro_batch: 12}, validate: {every: 10}}"
)
"""Settings of a fine-tuning."""


def make_run(
    directory: Path,
    steps: int = 1000,
    name: str = "small-ko",
    prompts: tuple[str, ...] = PROMPTS,
    *,
    tuned: bool = False,
) -> RunDirectory:
    """The run NAME below `directory`, whose data is there too. Two GPUs, and four from the fourth attempt on."""
    overrides = [
        f"name={name}",
        f"train.max_steps={steps}",
        "train.warmup_steps=20",
        f"validate.every={steps // 10}",
        "train.learning_rate=8.0e-4",
        "data.sources.3.weight=0.5",
        "train.checkpoint.keep_every=null",
        f"runs_directory={directory / 'runs'}",
        f"data_directory={directory / 'data'}",
        *([FINETUNE] if tuned else []),
    ]
    experiment = load_experiment(ROOT / "configs" / "small.yaml", overrides)
    run, keys = RunDirectory(experiment.run_path), stage_keys(experiment)
    write_text(run.config, write_experiment(experiment))
    write_json(run.path / "keys.json", keys)
    preset = load_experiment(ROOT / "configs" / "small.yaml")
    write_json(run.preset, {"name": "small", "experiment": preset.to_dict()})
    write_text(
        run.environment,
        f"sllm: 0.1.0\ncommit: {'0123456789' * 4}\ndirty: yes\npython: 3.11.7 (/usr/bin/python3)\n"
        "platform: Linux-6.1-x86_64\n\nnumpy==1.26.4\ntorch==2.11.0\n",
    )
    end = write_life(run, fingerprint(keys["pretrain"]), steps, prompts)
    write_data(experiment, keys)
    for stage in ("download", "tokenizer", "pack", "pretrain", "validate", "benchmark"):
        done = {"stage": stage, "fingerprint": fingerprint(keys[stage]), "key": keys[stage], "summary": {}}
        write_json(run.done(stage), {**done, "seconds": 60.0, "finished": end, "node": "n1"})
    validated, benchmarked = validation(3.02), benchmark()
    if tuned:
        tune(run, keys, end, validated, benchmarked)
    write_json(run.stage("validate") / "results.json", validated)
    write_json(run.stage("benchmark") / "results.json", benchmarked)
    checkpoint_path(run.checkpoints, steps).mkdir(parents=True)
    return run


def tune(
    run: RunDirectory, keys: dict[str, Any], now: float, validated: dict[str, Any], benchmarked: dict[str, Any]
) -> None:
    """Two attempts of a fine-tuning after all the rest, what it learnt from, and what came of it."""
    training = run.training("finetune")
    training.path.mkdir()
    sources = {
        "talk-ko": conversations("ko", 9000, {"roles": 12, "too_long": 7}),
        "talk-en": conversations("en", 4000, {"duplicate": 3, "special_token": 1}),
    }
    for stage, summary in (("conversations", {"sources": sources}), ("finetune", {})):
        done = {"stage": stage, "fingerprint": fingerprint(keys[stage]), "key": keys[stage], "summary": summary}
        write_json(run.done(stage), {**done, "seconds": 60.0, "finished": now, "node": "n1"})
    write_life(run, fingerprint(keys["finetune"]), 100, QUESTIONS, "finetune", ENDS[:1], now)
    checkpoint_path(training.checkpoints, 100).mkdir(parents=True)
    measured = benchmarked["tasks"]["measured"]
    again = {name: {**task, "score": task["score"] + 0.05} for name, task in measured.items()}
    benchmarked["tuned"] = {"step": 100, "tasks": {"measured": again, "not_measured": {}}}
    validated["conversations"] = validation(4.5)
    validated["tuned"] = {**validation(3.3), "conversations": validation(1.2), "step": 100}
    validated["answers"] = [
        {"prompt": question, "base": " 무엇일까요? What is it?", "tuned": f"The answer to: {question}"}
        for question in QUESTIONS
    ]


def conversations(language: str, count: int, dropped: dict[str, int]) -> dict[str, Any]:
    def split(count: int, filler: float) -> dict[str, int]:
        windows = count // 8
        tokens = windows * 2049
        amounts = {"windows": windows, "tokens": tokens, "filler": int(tokens * filler)}
        return {"documents": count, **amounts, "bytes": 900 * count}

    return {
        "language": language,
        "dropped": dropped,
        "train": split(count, 0.02),
        "validation": split(count // 50, 0.2),
    }


def validation(loss: float) -> dict[str, Any]:
    def row(loss: float, share: float) -> dict[str, float]:
        figures = {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": loss * 0.36, "accuracy": 0.4}
        return {**figures, "tokens": int(1e6 * share), "bytes": int(4e6 * share)}

    sources = {"ko-wikipedia": row(loss + 0.2, 0.2), "ko-web": row(loss, 0.4), "en-web": row(loss - 0.1, 0.4)}
    languages = {"en": row(loss - 0.1, 0.4), "ko": row(loss + 0.07, 0.6)}
    return {"overall": {**row(loss, 1.0), "unigram_entropy": 7.01}, "languages": languages, "sources": sources}


def write_life(
    run: RunDirectory,
    key: str,
    steps: int,
    prompts: tuple[str, ...],
    stage: str = "pretrain",
    ends: tuple[tuple[str, int, int], ...] = ENDS,
    begin: float = BEGIN,
) -> float:
    """metrics.jsonl and ledger.jsonl of a training and, after pretrain, of what measures. Returns when it was over."""
    draw, now, first = random.Random(5), begin, 1
    lines = [{"kind": "start", "step": 0, "seconds": 2.0, "device": "NVIDIA H100 80GB HBM3", "time": now + 42}]
    for number, (cause, last, saved) in enumerate((*ends, ("finished", 100, 100)), 1):
        ranks, queue = (2, 0.0) if number < 4 else (4, 900.0)
        launched = now + queue + (600.0 if number > 1 else 0.0)
        last, kept = max(first, last * steps // 100), max(first, saved * steps // 100)
        time, per_step, validating = launched + 42.0, 6.2 / ranks, 0.0
        for step in range(first, last + 1):
            time += per_step
            if step <= kept:
                lines.append(train(step, per_step, ranks, time, draw))
                if step % (steps // 10) == 0:
                    validating += 30.0
                    time += 30.0
                    lines.append(checked(step, steps, time, prompts))
                    lines.append(
                        {"kind": "checkpoint", "step": step, "seconds": 9.0 + draw.random(), "stall": 0.3, "time": time}
                    )
        token = f"{stage}{number}"
        figures = {
            "first_step": first,
            "last_step": last,
            "seconds_in_queue": launched - now if number > 1 else None,
            "seconds_starting": 40.0,
            "seconds_loading": 2.0,
            "seconds_to_first_step": 46.0,
            "seconds_in_save": 0.9,
            "seconds_training": (last - first + 1) * per_step,
            "seconds_validating": validating,
            "device": "NVIDIA H100 80GB HBM3",
        }
        append_jsonl(
            run.ledger,
            {
                "stage": stage,
                "attempt": number,
                "token": token,
                "fingerprint": key,
                "job": "4711",
                "nodes": 1,
                "node": f"gpu{number % 3:02}",
                "ranks": ranks,
                "began": "submitted" if number == 1 else "requeued",
                "ended": cause,
                "message": "SIGUSR2" if cause == "preempted" else "",
                "where": "",
                "launched": launched,
                "started": launched + 4,
                "seconds": time + 12 - launched - 4,
                **figures,
                "gave_up": "",
            },
        )
        now, first = time + 12, kept + 1
    text = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
    run.training(stage).metrics.write_bytes(text)
    for measuring in ("validate", "benchmark") if stage == "pretrain" else ():
        about = {
            "attempt": 1,
            "token": measuring,
            "fingerprint": key,
            "job": "4712",
            "node": "gpu01",
            "ranks": 1,
            "nodes": 1,
        }
        append_jsonl(
            run.ledger,
            {
                "stage": measuring,
                **about,
                "began": "submitted",
                "ended": "finished",
                "message": "",
                "where": "",
                "started": now,
                "seconds": 300.0,
                "gave_up": "",
            },
        )
        now += 300
    return now


def train(step: int, seconds: float, ranks: int, time: float, draw: random.Random) -> dict[str, Any]:
    loss = 2.9 + 7.5 * math.exp(-step / 40) + 1.6 * math.exp(-step / 400) + draw.gauss(0, 0.04)
    speed = STEP_TOKENS / seconds * draw.uniform(0.96, 1.0)
    return {
        "kind": "train",
        "step": step,
        "tokens": step * STEP_TOKENS,
        "loss": loss,
        "learning_rate": 8e-4 * min(1, step / 20),
        "gradient_norm": 0.4 + abs(draw.gauss(0, 0.1)) + 3 * math.exp(-step / 30),
        "seconds": round(seconds, 5),
        "tokens_per_second": round(speed, 1),
        "data_wait": round(abs(draw.gauss(0, 0.002)), 5),
        "memory_bytes": 41_300_000_000,
        "mfu": round(speed / ranks * 8e8 / 989e12, 4),
        "time": time,
    }


def checked(step: int, steps: int, time: float, prompts: tuple[str, ...]) -> dict[str, Any]:
    figures = validation(3.0 + 1.6 * math.exp(-step / 400))
    samples = [
        {"prompt": prompt, "continuation": f" … {step} 스텝의 글, the text of step {step}."} for prompt in prompts
    ]
    return {
        "kind": "validation",
        "step": step,
        **figures["overall"],
        "languages": figures["languages"],
        "samples": samples,
        "seconds": 30.0,
        "time": time,
    }


def benchmark() -> dict[str, Any]:
    def row(batch: int) -> dict[str, Any]:
        return {
            "batch": batch,
            "prompt_tokens": 512,
            "new_tokens": 256,
            "prefill_tokens_per_second": 90_000.0 * batch,
            "first_token_ms": 6.1,
            "memory_bytes": 900_000_000,
            "decode_tokens_per_second": 700.0 * batch,
            "token_p50_ms": 1.4,
            "token_p99_ms": 2.2,
        }

    def task(language: str, score: float, guess: float, **published: float) -> dict[str, Any]:
        models = [
            {"model": name.replace("_", "-"), "score": value, "metric": "f1", "few_shot": 0, "source": "model card"}
            for name, value in published.items()
        ]
        return {
            "language": language,
            "metric": "f1",
            "score": score,
            "stderr": 0.014,
            "guess": guess,
            "few_shot": 0,
            "items": 1000,
            "limit": None,
            "revision": "abc",
            "licence": "CC BY-SA 4.0",
            "metrics": {},
            "published": models,
        }

    training = {
        "global_batch": 240,
        "micro_batch": 12,
        "context_length": 2048,
        "tokens_per_second": 333_700.0,
        "step_ms": 1473.0,
        "mfu": 0.29,
        "memory_bytes": 41_000_000_000,
    }
    measured = {
        "kobest_copa": task("ko", 0.61, 0.5, polyglot_ko_1_3b=0.7196, ko_gpt_trinity_1_2b=0.6696),
        "kobest_hellaswag": task("ko", 0.38, 0.25, polyglot_ko_1_3b=0.5247),
        "kobest_boolq": task("ko", 0.52, 0.5, polyglot_ko_1_3b=0.4979),
        "hellaswag": task("en", 0.34, 0.25, SmolLM2_135M=0.421),
        "arc_easy": task("en", 0.44, 0.25),
    }
    missing = {"haerae": "its data is not there: no network at the download"}
    return {
        "device": "NVIDIA H100 80GB HBM3",
        "generation": [row(1), row(8), row(32)],
        "training": training,
        "tasks": {"measured": measured, "not_measured": missing},
    }


def write_data(experiment: Experiment, keys: dict[str, Any]) -> None:
    """The manifests of corpus and tokens, and the tokenizer's report."""
    artifacts = Artifacts(experiment, keys)
    corpus, packed = {}, {}
    for number, source in enumerate(experiment.data.sources, 1):
        if source.kind == "aihub":
            continue
        size = number * 700_000_000
        examples = [{"where": f"{source.name}/000.parquet:17", "text": "구독하기 구독하기 구독하기 구독하기"}]
        corpus[source.name] = {
            "language": source.language,
            "revision": getattr(source, "revision", ""),
            "documents": size // 2000,
            "bytes": size,
            "dropped": {"too_short": 12_345 * number, "duplicate": 678, "language": 9 * number, "contaminated": 3},
            "lost": {"too_short": size // 90, "duplicate": size // 40},
            "examples": {"duplicate": examples},
            "masked": {"email": 1234, "phone_number": 99},
        }
        packed[source.name] = {
            "language": source.language,
            "train": {"tokens": size // 4, "bytes": size, "documents": size // 2000},
        }
    contamination = {
        "tasks": {"kobest_copa": 2000, "hellaswag": 10_042},
        "missing": {"haerae": "not downloaded"},
        "words": {"ko": 8, "en": 13},
    }
    skipped = {"ko-conversation": "data/aihub: no such folder"}
    write_json(
        artifacts.corpus / "manifest.json",
        {"kind": "corpus", "sources": corpus, "skipped": skipped, "files": [], "contamination": contamination},
    )
    write_json(
        artifacts.packed / "manifest.json", {"kind": "packed", "vocab_size": 32_000, "sources": packed, "files": []}
    )
    held_out = {
        "documents": 100,
        "bytes": 4_000_000,
        "tokens": 900_000,
        "bytes_per_token": 4.44,
        "tokens_per_word": 1.9,
        "partial_character_share": 0.004,
        "vocabulary_used": 0.93,
    }
    write_json(
        artifacts.tokenizer / "report.json",
        {
            "summary": {"vocab_size": 32_000, "documents": 90_000, "bytes": 200_000_000},
            "pruned": {"words_seen_less_than": 3, "distinct_words": 1200, "bytes": 4000},
            "held_out": {"en": held_out, "ko": held_out},
            "tokenizers": None,
            "without_tokenizers": "took too long",
            "partial_characters_in_vocabulary": 200,
            "longest_tokens": [" 대한민국의", " international"],
            "frequent_tokens": {"ko": [{"token": "은", "count": 9}], "en": [{"token": " the", "count": 9}]},
            "sentences": {
                "ko": [["대한", "민국", "의", " 수도", "는", " 서울", "이다", "."]],
                "en": [["The", " cat", " sat", "."]],
            },
        },
    )
