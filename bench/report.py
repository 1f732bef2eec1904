"""How long the page of a long training takes, and how large it is: `python bench/report.py`. A minute on two cores.

Makes up metrics of so many steps, with a validation every 500th (two languages, two samples), a checkpoint every
1,000th, and a ledger of so many attempts, and writes the page in a process of its own.
"""

import argparse
import json
import math
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jobs.presets import CONFIGS
from sllm.config import load_experiment, write_experiment
from sllm.files import write_text
from sllm.records import append_jsonl
from sllm.run_directory import RunDirectory

WRITE = """
import resource, sys, time
began = time.perf_counter()
from pathlib import Path
from sllm.report.curves import read_curves
from sllm.report.page import write_report
from sllm.run_directory import RunDirectory
run = RunDirectory(Path(sys.argv[1]))
imported = time.perf_counter()
read_curves(run.metrics)
read = time.perf_counter()
page = write_report(run)
print(imported - began, read - imported, time.perf_counter() - read)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
"""


def write_run(directory: Path, steps: int, attempts: int) -> RunDirectory:
    overrides = [f"train.max_steps={steps}", f"runs_directory={directory}", f"data_directory={directory / 'data'}"]
    experiment = load_experiment(CONFIGS / "small.yaml", overrides)
    run = RunDirectory(experiment.run_path)
    write_text(run.config, write_experiment(experiment))
    draw, seconds = random.Random(1), 0.8
    with run.metrics.open("w", encoding="utf-8") as file:
        for step in range(1, steps + 1):
            for record in records(step, step * seconds, draw):
                file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
    for number in range(attempts):
        append_jsonl(run.ledger, attempt(number, attempts, steps, seconds))
    return run


def records(step: int, now: float, draw: random.Random) -> list[dict[str, Any]]:
    loss = 3 + 8 * math.exp(-step / 2000) + draw.gauss(0, 0.05)
    made: list[dict[str, Any]] = [
        {"kind": "train", "step": step, "tokens": step * 491_520, "loss": loss, "learning_rate": 6e-4, "seconds": 0.8,
         "gradient_norm": abs(draw.gauss(0.5, 0.1)), "tokens_per_second": 614_400.0, "mfu": 0.31, "time": now,
         "data_wait": abs(draw.gauss(0, 0.001)), "memory_bytes": 41_300_000_000}
    ]  # fmt: skip
    if step % 500 == 0:
        figures = {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": loss / 3, "accuracy": 0.4}
        samples = [
            {"prompt": prompt, "continuation": "이어 쓴 글 and text. " * 12} for prompt in ("서울은", "Seoul is")
        ]
        languages = {"ko": figures, "en": figures}
        made.append({"kind": "validation", "step": step, **figures, "languages": languages, "samples": samples,
                     "seconds": 20.0, "time": now})  # fmt: skip
    if step % 1000 == 0:
        made.append({"kind": "checkpoint", "step": step, "seconds": 9.0, "stall": 0.3, "time": now})
    return made


def attempt(number: int, attempts: int, steps: int, seconds: float) -> dict[str, Any]:
    first, last = (1 + steps * part // attempts for part in (number, number + 1))
    began, lasts = first * seconds * 1.1, (last - first) * seconds
    return {"stage": "pretrain", "attempt": number + 1, "token": str(number), "fingerprint": "f", "job": "1",
            "node": f"gpu{number % 8:02}", "ranks": 8, "nodes": 1, "began": "requeued", "message": "", "where": "",
            "ended": "preempted" if number + 1 < attempts else "finished", "launched": began, "started": began,
            "seconds": lasts * 1.05, "first_step": first, "last_step": last - 1, "seconds_starting": 30.0,
            "seconds_loading": 4.0, "seconds_training": lasts, "seconds_validating": 0.0, "seconds_in_save": 1.0,
            "gave_up": ""}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--attempts", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        run = write_run(Path(directory), options.steps, options.attempts)
        made = time.perf_counter() - began
        print(
            f"{options.steps:,} steps, {run.metrics.stat().st_size / 1e6:.0f} MB of metrics (made up in {made:.0f} s)"
        )
        for _ in range(options.repeats):
            done = subprocess.run([sys.executable, "-c", WRITE, run.path], check=True, capture_output=True, text=True)
            imports, reading, writing, memory = map(float, done.stdout.split())
            page = run.report / "index.html"
            told = re.findall("This part cannot be shown.*", page.read_text(encoding="utf-8"))
            assert not told, told
            pictures = sum(file.stat().st_size for file in run.report.glob("*.png"))
            print(
                f"imports {imports:.1f} s, reading alone {reading:.1f} s, the page {writing:.1f} s, {memory:,.0f} MB; "
                f"page {page.stat().st_size / 1e6:.2f} MB, PNGs {pictures / 1e6:.2f} MB"
            )


if __name__ == "__main__":
    main()
