"""Which split pattern? For each candidate, on the same documents: a vocabulary of the same size, what it makes of
held-out documents, and how well the small model of a configuration does on them when trained on its tokens.

    python bench/splits.py FOLDER [--vocab-size 4096] [--steps 1500] [--seeds 1 2] [--patterns plain particles …]

FOLDER holds ko-*.jsonl.zst and en-*.jsonl.zst files, {"text": …} a line. A model is trained for `--steps` (equal
compute), and, where a candidate's tokens are over 1 % more or fewer than the first one's, also for as many steps as
make it read as much text as the first one did (equal text). Bits per byte do not depend on the vocabulary; the spread
over the seeds is the noise. All is kept below --work: a second call trains only what is missing. On a machine that
others use as well, set OMP_NUM_THREADS=1: threads that wait for each other are slowed down most.
"""

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any
from unicodedata import normalize

import numpy as np
import regex
from rich.console import Console
from rich.table import Table
from side_by_side import final_validation, run_stage

from sllm.artifacts import Artifacts
from sllm.config import Experiment, load_experiment
from sllm.files import read_json, write_json
from sllm.manifests import atomic_directory, read_manifest
from sllm.tokenizer.codec import FIRST_MERGE, SPLIT_PATTERN, Tokenizer
from sllm.tokenizer.merges import learn_merges
from sllm.tokenizer.report import measure
from sllm.tokenizer.training import Sample, held_out
from sllm.tokenizer.words import Words

BEFORE = r"|[^\r\n\p{L}\p{N}]?"
_, PARTICLES, _ = SPLIT_PATTERN.split(BEFORE)
PLAIN = SPLIT_PATTERN.replace(BEFORE + PARTICLES, "")
WORD = BEFORE + r"\p{L}+"
DIGITS = r"\p{N}{1,2}"
HANGUL = "ᄀ-ᇿㄱ-ㆎ가-힣"
LATIN = "A-Za-zªºÀ-ÖØ-öø-ɏ"
SCRIPTS = rf"|[^\r\n\p{{L}}\p{{N}}]?(?:[{HANGUL}]+|[{LATIN}]+|(?:(?![{HANGUL}{LATIN}])\p{{L}})+)"
PATTERNS = {
    "plain": PLAIN,
    "1 digit": PLAIN.replace(DIGITS, r"\p{N}"),
    "3 digits": PLAIN.replace(DIGITS, r"\p{N}{1,3}"),
    "scripts": PLAIN.replace(WORD, SCRIPTS),
    "particles": SPLIT_PATTERN,
}
"""`plain`: numbers of at most two digits, and words as cl100k has them. The others differ from it in one thing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", type=Path, default=Path("configs/smoke.yaml"), help="model and training")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--patterns", nargs="+", default=list(PATTERNS), choices=list(PATTERNS))
    parser.add_argument("--work", type=Path, default=Path("data/splits"))
    arguments = parser.parse_args()
    base = configure(arguments)
    corpus = Artifacts(base).corpus
    run_stage(base, "download", Artifacts(base))
    tokenizers = {name: learn(name, base, arguments.work) for name in arguments.patterns}
    texts = held_out(corpus, read_manifest(corpus))
    figures = {name: {text: measure(t, texts[text]) for text in texts} for name, t in tokenizers.items()}
    results: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for seed in arguments.seeds:
        for name in arguments.patterns:
            ratio = tokens(figures[name]) / tokens(figures[arguments.patterns[0]])
            more = round(arguments.steps * ratio)
            for steps in [arguments.steps] + [more] * (abs(ratio - 1) > 0.01):
                print(f"seed {seed}: {name}, {steps} steps", flush=True)
                result = train(name, steps, seed, base, arguments.work)
                results.setdefault((name, steps), []).append(result)
        Console(width=130).print(table(figures, results, arguments))


def tokens(figures: dict[str, Any]) -> float:
    return figures["ko"]["tokens"] + figures["en"]["tokens"]


def configure(arguments: argparse.Namespace) -> Experiment:
    folder = arguments.folder.resolve()
    sources = ", ".join(
        f"{{name: {k}, kind: files, language: {k}, paths: ['{folder}/{k}-*.jsonl.zst']}}" for k in ("ko", "en")
    )
    return load_experiment(
        arguments.config,
        [
            f"data.sources=[{sources}]",
            "data.validation_fraction=0.01",
            f"data_directory={arguments.work}/data",
            f"tokenizer.vocab_size={arguments.vocab_size}",
            # With so little text it is the number of steps that counts.
            "train.global_batch=4",
            "train.micro_batch=4",
            "train.warmup_steps=60",
            "train.checkpoint.every=500",
            "validate.tokens=100000000",
            "wandb.mode=disabled",
        ],
    )


def learn(name: str, base: Experiment, directory: Path) -> Tokenizer:
    path = tokenizer_directory(name, base, directory) / "tokenizer.json"
    if not path.exists():
        print(f"vocabulary: {name}", flush=True)
        corpus, size = Artifacts(base).corpus, base.tokenizer.vocab_size
        sample = Sample(corpus, read_manifest(corpus), base.tokenizer, seed=0)
        words = count(sample.texts(), PATTERNS[name])
        merges = [pair for found in learn_merges(words, size - FIRST_MERGE) for pair in found]
        with atomic_directory(path.parent) as temporary:
            Tokenizer(merges, PATTERNS[name]).save(temporary / "tokenizer.json")
    run_stage(base, "pack", artifacts_of(name, base, directory))
    return Tokenizer.load(path)


def count(texts: Iterable[str], pattern: str) -> Words:
    """`words.count_words` for any pattern, with a regex engine."""
    split = regex.compile(pattern)
    counter = Counter[str]()
    for text in texts:
        counter.update(split.findall(normalize("NFC", text)))
    words = {word.encode("utf-8"): n for word, n in sorted(counter.items())}
    words = {word: n for word, n in words.items() if len(word) > 1}
    letters = np.frombuffer(b"".join(words), np.uint8)
    return Words(letters, np.cumsum([len(word) for word in words]), np.array(list(words.values())))


def tokenizer_directory(name: str, base: Experiment, directory: Path) -> Path:
    return directory.resolve() / f"{base.tokenizer.vocab_size}-{name.replace(' ', '-')}"


def artifacts_of(name: str, experiment: Experiment, directory: Path) -> Artifacts:
    """With the tokenizer and the tokens of pattern `name`."""
    artifacts = Artifacts(experiment)
    home = tokenizer_directory(name, experiment, directory)
    artifacts.tokenizer, artifacts.packed = home, home.with_name(f"{home.name}-packed")
    return artifacts


def train(name: str, steps: int, seed: int, base: Experiment, directory: Path) -> dict[str, Any]:
    """The last validation of a model trained on the tokens of pattern `name`."""
    home = tokenizer_directory(name, base, directory)
    run = home.with_name(f"{home.name}-{steps}-steps-seed-{seed}")
    done = run / "result.json"
    if not done.exists():
        train = base.train.model_copy(update={"max_steps": steps})
        validate = base.validate_.model_copy(update={"every": steps})
        experiment = base.model_copy(update={"seed": seed, "train": train, "validate_": validate})
        write_json(done, final_validation(experiment, artifacts_of(name, experiment, directory), run))
    result: dict[str, Any] = read_json(done)
    return result


def table(
    figures: dict[str, Any], results: dict[tuple[str, int], list[dict[str, Any]]], arguments: argparse.Namespace
) -> Table:
    """Means over the seeds; ± is half the range between the lowest and the highest."""
    table = Table(title=f"{arguments.vocab_size:,} ids; the model of {arguments.config}")
    for heading in ("pattern", "bytes/token: ko", "en", "mixed", "steps", "seeds", "bits/byte: ko", "en", "all"):
        table.add_column(heading, justify="left" if heading == "pattern" else "right")
    for (name, steps), found in results.items():
        bits = [[record["languages"][language]["bits_per_byte"] for record in found] for language in ("ko", "en")] + [
            [record["bits_per_byte"] for record in found]
        ]
        table.add_row(
            name,
            *(f"{figures[name][text]['bytes_per_token']:.3f}" for text in ("ko", "en", "mixed")),
            f"{steps}",
            f"{len(found)}",
            *(f"{mean(values):.4f} ±{(max(values) - min(values)) / 2:.4f}" for values in bits),
        )
    return table


if __name__ == "__main__":
    main()
