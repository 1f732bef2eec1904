"""Look at a corpus again: is every file what its manifest says, how many documents of which language, and how do they
read."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sllm.config import ConversationsConfig, Experiment
from sllm.data.clean import SPLITS
from sllm.data.conversations.line import texts_of
from sllm.data.shards import read_shard
from sllm.errors import UserError
from sllm.files import CorruptError, read_object
from sllm.manifests import MANIFEST, sha256
from sllm.records import SHARD_SUFFIX
from sllm.stop import Check, StopFlag
from sllm.workers import in_processes

SAMPLES = (0, 10, 100)
"""Documents of a shard that are shown."""

BYTES_WORTH_A_PROCESS = 32_000_000


@dataclass
class CheckedSource:
    """What was found of one source; `problems` is empty where all is well."""

    name: str
    language: str
    entry: dict[str, Any] = field(default_factory=dict)
    """What the manifest says."""
    documents: int = 0
    compressed: int = 0
    """Bytes of its shards on disk."""
    hangul: int = 0
    latin: int = 0
    shards: int = 0
    whole: int = 0
    """Shards whose size and checksum are right."""
    samples: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def share(self) -> float | None:
        """Of the letters of both scripts, those of the source's language."""
        letters = self.hangul + self.latin
        return (self.hangul if self.language == "ko" else self.latin) / letters if letters else None


def check_corpus(
    experiment: Experiment, corpus: Path, stop: StopFlag, *, workers: int | None = None
) -> list[CheckedSource]:
    """Read every shard of `corpus`, and compare it with the manifest. One entry for each source of `experiment`.

    Raises:
        UserError: there is no corpus.
        Stopped: a stop was requested.
    """
    try:
        manifest = read_object(corpus / MANIFEST, "sources")
    except FileNotFoundError:
        raise UserError(f"{corpus}: the corpus is not there yet; `sllm download CONFIG` brings it") from None
    except CorruptError as error:
        raise UserError(f"{error}; `sllm download CONFIG --force` makes the corpus again") from None
    sources = {}
    for source in experiment.data.sources:
        checked = sources[source.name] = CheckedSource(source.name, source.language)
        if source.name in manifest["sources"]:
            checked.entry = manifest["sources"][source.name]
        elif source.name not in manifest.get("skipped", {}):
            checked.problems.append("it is not in the corpus")
        # A source that was skipped is optional: its absence is no problem.
    files = [file for file in manifest["files"] if file["name"].partition("/")[0] in sources]
    size = sum(file["bytes"] for file in files)
    talks = isinstance(experiment.data, ConversationsConfig)
    workers = min(workers or len(os.sched_getaffinity(0)), 1 + size // BYTES_WORTH_A_PROCESS)
    with in_processes(_check_file, [(corpus, file, talks) for file in files], workers, stop) as results:
        for file, found in zip(files, results, strict=True):
            _add(sources[file["name"].partition("/")[0]], file, found)
    for checked in sources.values():
        expected = checked.entry.get("documents", 0)
        if not checked.problems and checked.documents != expected:
            checked.problems.append(f"{checked.documents:,} documents are there, the manifest says {expected:,}")
        if checked.problems:
            checked.problems.append(f"`sllm download CONFIG --source {checked.name} --force` gets it anew")
    return list(sources.values())


@dataclass
class _Found:
    problem: str | None = None
    documents: int = 0
    hangul: int = 0
    latin: int = 0
    samples: list[str] = field(default_factory=list)


def _check_file(corpus: Path, file: dict[str, Any], talks: bool, check: Check) -> _Found:
    path = corpus / file["name"]
    if not path.is_file():
        return _Found(f"{path} is missing")
    if path.stat().st_size != file["bytes"]:
        return _Found(f"{path} has {path.stat().st_size:,} bytes, the manifest says {file['bytes']:,}")
    if sha256(path) != file["sha256"]:
        return _Found(f"{path} does not match its checksum")
    found = _Found()
    if path.name.endswith(SHARD_SUFFIX):
        try:
            for text in read_shard(path):
                check()
                said = texts_of(text) if talks else text
                codes = np.frombuffer(said.encode("utf-32-le", "surrogatepass"), "<u4")
                found.hangul += int(np.count_nonzero((codes >= 0xAC00) & (codes <= 0xD7A3)))
                lower = codes | 0x20
                found.latin += int(np.count_nonzero((lower >= ord("a")) & (lower <= ord("z"))))
                if found.documents in SAMPLES:
                    found.samples.append(text)
                found.documents += 1
        except UserError as error:
            found.problem = str(error)
    return found


def _add(source: CheckedSource, file: dict[str, Any], found: _Found) -> None:
    if found.problem:
        source.problems.append(found.problem)
    if not file["name"].endswith(SHARD_SUFFIX):
        return
    source.shards += 1
    source.whole += found.problem is None
    source.compressed += file["bytes"]
    source.documents += found.documents
    source.hangul += found.hangul
    source.latin += found.latin
    if Path(file["name"]).name.startswith(SPLITS[0]):
        source.samples = (source.samples + found.samples)[: len(SAMPLES)]
