"""The download stage: every source, cleaned, into corpus shards.

<output>/<source>/train-00000.jsonl.zst …  validation-00000.jsonl.zst …
<output>/manifest.json    for each source: language, documents, bytes, both by split; drops by reason,
                          with examples; personal data masked, lines of boilerplate removed
"""

from collections import Counter
from pathlib import Path
from typing import Any

from sllm.config import DataConfig, Experiment, FilesSource, Source
from sllm.data.clean import SPLITS, Cleaner, Dropped
from sllm.data.dedup import EXAMPLES, Removed, drop_duplicates, example
from sllm.data.shards import ShardWriter, shard_name
from sllm.data.sources import matching_files, read_documents
from sllm.errors import UserError
from sllm.files import CorruptError, atomic_directory, read_manifest
from sllm.progress import Bar, format_amount, track
from sllm.stop import StopFlag

BAR_EVERY = 200  # documents: drawing the bar for each would cost more than cleaning it


def download_stage(experiment: Experiment, output: Path, stop: StopFlag) -> dict[str, Any]:
    """Write the corpus of `experiment` to `output`, whole or not at all; one that is whole is left as it is.

    Returns the summary that the manifest holds too: documents and bytes (of text, UTF-8), in all and by source.

    Raises:
        UserError: a file is missing or damaged, or a source has no document for one of the splits.
        Stopped: a stop was requested; nothing is left behind.
    """
    try:
        manifest = read_manifest(output)
        return {"sources": manifest["sources"], **_totals(manifest["sources"])}
    except CorruptError:
        pass
    for source in experiment.data.sources:
        if isinstance(source, FilesSource):
            matching_files(source)  # a wrong path is reported now, not after the sources before it
    sources: dict[str, Any] = {}
    with (
        atomic_directory(output, kind="corpus", sources=sources) as directory,
        track("download", unit="documents") as bar,
    ):
        for source in experiment.data.sources:
            sources[source.name] = _download(
                source, experiment.seed, experiment.data, directory / source.name, stop, bar
            )
        names = [
            f"{name}/{shard_name(split, number)}"
            for name in sources
            for split in SPLITS
            for number in range(sources[name][split]["shards"])
        ]
        for name, removed in drop_duplicates(directory, names, experiment.data, stop).items():
            _subtract(sources[name], removed)
        for name in sources:
            _check_not_empty(name, sources[name], sources[name].pop("lowest"), experiment.data)
    return {"sources": sources, **_totals(sources)}


def _download(
    source: Source, seed: int, config: DataConfig, directory: Path, stop: StopFlag, bar: Bar
) -> dict[str, Any]:
    """Write the shards of one source; its entry in the manifest, before documents of other sources are compared."""
    directory.mkdir()
    cleaner = Cleaner(config, source.language)
    documents, sizes, dropped = Counter[str](), Counter[str](), Counter[str]({reason.value: 0 for reason in Dropped})
    masked, boilerplate = Counter[str](), 0
    examples: dict[str, list[str]] = {}
    lowest, count = 1.0, 0
    with (
        ShardWriter(directory, "train", config.shard_megabytes) as train,
        ShardWriter(directory, "validation", config.shard_megabytes) as validation,
    ):
        writers = {"train": train, "validation": validation}
        for count, text in enumerate(read_documents(source, seed), 1):
            stop.check()
            if count % BAR_EVERY == 0:
                bar.advance(BAR_EVERY, source=source.name, text=format_amount(sizes.total(), "bytes"))
            document = cleaner.clean(text)
            if isinstance(document, Dropped):
                dropped[document.reason] += 1
                if dropped[document.reason] <= EXAMPLES:
                    examples.setdefault(document.reason, []).append(example(text))
                continue
            writers[document.split].write(document.text)
            documents[document.split] += 1
            sizes[document.split] += document.size
            masked += document.masked
            boilerplate += document.boilerplate
            lowest = min(lowest, document.position)
    bar.advance(count % BAR_EVERY, source=source.name, text=format_amount(sizes.total(), "bytes"))
    return {
        "language": source.language,
        "documents": documents.total(),
        "bytes": sizes.total(),
        **{
            split: {"documents": documents[split], "bytes": sizes[split], "shards": writers[split].shards}
            for split in SPLITS
        },
        "dropped": dict(dropped),
        "examples": examples,
        "masked": dict(masked),
        "boilerplate_lines": boilerplate,
        "lowest": lowest,
    }


def _subtract(entry: dict[str, Any], removed: Removed) -> None:
    for split in SPLITS:
        entry[split]["documents"] -= removed.documents[split]
        entry[split]["bytes"] -= removed.bytes[split]
    entry["documents"] -= removed.documents.total()
    entry["bytes"] -= removed.bytes.total()
    entry["dropped"] |= {reason: removed.reasons[reason] for reason in ("duplicate", "near_duplicate")}
    entry["examples"] |= removed.examples


def _check_not_empty(name: str, entry: dict[str, Any], lowest: float, config: DataConfig) -> None:
    where = f"data.sources: {name}"
    if not entry["documents"]:
        why = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in entry["dropped"].items() if count)
        raise UserError(
            f"{where}: no document is left to train on ({why or 'its files hold none'}); add text, or change "
            f"data.min_characters ({config.min_characters:,}), data.max_characters ({config.max_characters:,}) or the "
            f"rules in data.clean"
        )
    if not entry["train"]["documents"]:
        raise UserError(
            f"{where}: all {entry['documents']:,} documents fall to validation; add text, or lower "
            f"data.validation_fraction ({config.validation_fraction})"
        )
    if not entry["validation"]["documents"]:
        # A document's side is a function of its text alone, so we can tell exactly which fraction takes one in.
        fraction = (int(lowest * 10_000) + 1) / 10_000
        way = f"set data.validation_fraction to {fraction} or more, or add text" if fraction < 0.5 else "add text"
        raise UserError(
            f"{where}: none of its {entry['documents']:,} documents falls to validation at data.validation_fraction "
            f"{config.validation_fraction}; {way}"
        )


def _totals(sources: dict[str, Any]) -> dict[str, int]:
    return {name: sum(source[name] for source in sources.values()) for name in ("documents", "bytes")}
