"""Learning a tokenizer, and the pipeline's tokenizer stage: sample, count words, learn merges, measure, commit.

<output>/tokenizer.json    a Hugging Face tokenizer
<output>/report.json       what it was learnt from, and what it makes of text it was not learnt from
<output>/manifest.json
"""

import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sllm.config import Experiment, TokenizerConfig
from sllm.errors import UserError
from sllm.files import CorruptError, read_json, write_json
from sllm.manifests import atomic_directory, read_manifest
from sllm.progress import track
from sllm.records import shard_lines, shard_paths
from sllm.stop import StopFlag
from sllm.tokenizer.codec import FIRST_MERGE, Tokenizer
from sllm.tokenizer.merges import learn_merges
from sllm.tokenizer.report import compare, is_mixed, print_report
from sllm.tokenizer.words import Words, count_words

HELD_OUT_BYTES = 4_000_000
"""Validation text of each language that the report measures, at most."""

SHARDS_READ, SHARE_TAKEN = 32, 1 / 8
"""Of each source the sample is drawn from so many shards at least, and from as many more as make it this share of their
documents at most."""


def train(texts: Iterable[str], vocab_size: int, *, stop: StopFlag | None = None) -> Tokenizer:
    """Learn a tokenizer of exactly `vocab_size` ids; the order of `texts` does not matter.

    >>> train(["low lower lowest"], FIRST_MERGE + 2).token_bytes[FIRST_MERGE:]
    [b'lo', b'low']

    Raises:
        UserError: the text has too few pairs for that many tokens.
        Stopped: `stop` was requested.
    """
    return learn(count_words(texts, stop=stop), vocab_size, stop=stop)


def learn(words: Words, vocab_size: int, *, stop: StopFlag | None = None) -> Tokenizer:
    """`train`, from counted words."""
    stop = stop or StopFlag()
    merges: list[tuple[int, int]] = []
    with track("learning merges", vocab_size - FIRST_MERGE, "merges") as bar:
        for found in learn_merges(words, vocab_size - FIRST_MERGE):
            merges += found
            bar.advance(len(found))
            stop.check()
    if FIRST_MERGE + len(merges) < vocab_size:
        raise UserError(
            f"tokenizer.vocab_size: {vocab_size:,} is more than this text gives; use at most "
            f"{FIRST_MERGE + len(merges)}, or more text"
        )
    return Tokenizer(merges)


def tokenizer_stage(experiment: Experiment, corpus: Path, output: Path, stop: StopFlag) -> dict[str, Any]:
    """Learn the tokenizer of `experiment` from the training shards of `corpus` and commit it to `output`, whole or not
    at all; one that is whole is left as it is. Prints the report, and returns its summary.

    Raises:
        UserError: the corpus is missing or damaged, or too small for the vocabulary.
        Stopped: a stop was requested; nothing is left behind.
    """
    try:
        read_manifest(output)
        return read_json(output / "report.json")["summary"]
    except CorruptError:
        pass
    try:
        manifest = read_manifest(corpus)
    except CorruptError as error:
        raise UserError(f"{error}; run `sllm download` again") from None
    config = experiment.tokenizer
    sample = Sample(corpus, manifest, config, experiment.seed)
    with track("counting words", sample.expected_bytes, "bytes") as bar:
        words = count_words(sample.texts(), max_words=config.max_words, stop=stop, bar=bar)
    tokenizer = learn(words, config.vocab_size, stop=stop)
    report = {
        "summary": {
            "vocab_size": tokenizer.vocab_size,
            "fingerprint": tokenizer.fingerprint,
            "documents": words.documents,
            "bytes": words.text_bytes,
            "distinct_words": len(words) + words.dropped_words,
        },
        "sample": {name: {"fraction": sample.fractions[name]} for name in sample.fractions},
        "pruned": {
            "words_seen_less_than": words.min_count,
            "distinct_words": words.dropped_words,
            "bytes": words.dropped_bytes,
        },
        **compare(tokenizer, held_out(corpus, manifest), sample.texts, words.text_bytes, stop),
    }
    report["summary"]["bytes_per_token"] = {
        name: round(figures["bytes_per_token"], 3) for name, figures in report["held_out"].items()
    }
    with atomic_directory(output, kind="tokenizer", fingerprint=tokenizer.fingerprint) as directory:
        tokenizer.save(directory / "tokenizer.json")
        write_json(directory / "report.json", report)
    print_report(report)
    return report["summary"]


class Sample:
    """The documents that the merges are learnt from: a pure function of the corpus, the configuration and the seed.

    A document of a source is in the sample with probability k times the weight of the source's language. k is the
    largest number that gives `sample_bytes` at most (in expectation) and no probability above 1: so the languages
    stand in the ratio that the weights ask for, however much text there is. Of a large source only some shards are
    read, or most of the time would go into text that is not taken.
    """

    def __init__(self, corpus: Path, manifest: dict[str, Any], config: TokenizerConfig, seed: int) -> None:
        self._corpus, self._manifest, self._seed = corpus, manifest, seed
        sizes = {name: source["train"]["bytes"] for name, source in manifest["sources"].items()}
        weights = {
            name: config.language_weights.get(source["language"], 1.0) for name, source in manifest["sources"].items()
        }
        weighted_bytes = sum(sizes[name] * weights[name] for name in sizes)
        k = min(1 / max(weights.values()), config.sample_bytes / weighted_bytes)
        self.fractions = {name: k * weight for name, weight in weights.items()}
        self.expected_bytes = k * weighted_bytes

    def texts(self) -> Iterator[str]:
        sizes = {self._corpus / file["name"]: file["bytes"] for file in self._manifest["files"]}
        for source, wanted in self.fractions.items():
            paths = shard_paths(self._corpus, self._manifest, source, "train")
            chosen = spread(paths, max(SHARDS_READ, math.ceil(len(paths) * wanted / SHARE_TAKEN)))
            fraction = wanted * sum(map(sizes.__getitem__, paths)) / sum(map(sizes.__getitem__, chosen))
            for path in chosen:
                # Seeded for each shard by name: what is drawn from one does not depend on the others.
                draws = random.Random(f"{self._seed} {source} {path.name}")
                for number, line in shard_lines(path):
                    if draws.random() < fraction:
                        yield parse_document(path, number, line)


def spread(paths: list[Path], count: int) -> list[Path]:
    """At most `count` of them, evenly spread."""
    count = min(count, len(paths))
    return [paths[i * len(paths) // count] for i in range(count)]


def held_out(corpus: Path, manifest: dict[str, Any]) -> dict[str, list[str]]:
    """Validation documents by language, and lines that mix Hangul and Latin letters; HELD_OUT_BYTES of each at most.

    The text of a language is drawn from its sources in equal parts, as far as they reach.
    """
    sources = manifest["sources"]
    languages = Counter(source["language"] for source in sources.values())
    found: dict[str, list[str]] = {language: [] for language in sorted(languages)}
    for name, source in sources.items():
        room = HELD_OUT_BYTES // languages[source["language"]]
        for path in shard_paths(corpus, manifest, name, "validation"):
            if room <= 0:  # there may be thousands, and each takes a while to open
                break
            for number, line in shard_lines(path):
                if room <= 0:
                    break
                room -= len(line)
                found[source["language"]].append(parse_document(path, number, line))
    mixed = [line for texts in found.values() for text in texts for line in text.splitlines() if is_mixed(line)]
    return found | ({"mixed": mixed} if mixed else {})


def parse_document(path: Path, number: int, line: bytes) -> str:
    """The text of line `number` of a shard. Raises UserError if it is not UTF-8, not JSON, or has no text."""
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}:{number}: not a document ({error}); run `sllm download` again") from None
    if not isinstance(text, str):
        raise UserError(f"{path}:{number}: `text` is not a string; run `sllm download` again")
    return text
