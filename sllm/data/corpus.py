"""What a corpus holds of each source: its files, its entry in the manifest, and whether that is enough."""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from sllm.config import ConversationsConfig, DataConfig, Source
from sllm.data.clean import SPLITS
from sllm.data.dedup import EXAMPLES, Example, Removed
from sllm.data.losses import FORM
from sllm.data.parts import journals
from sllm.errors import UserError
from sllm.files import read_json


def figures(source: Source, store: Path) -> dict[str, Any]:
    """The entry of a source in the manifest, before its documents are compared with those of others."""
    plan = read_json(store / "plan.json")
    lines = [line for journal in journals(store, len(plan["parts"])) for line in journal]
    figures: dict[str, Any] = {
        split: {name: sum(line[name][split] for line in lines) for name in ("documents", "bytes", "shards")}
        for split in SPLITS
    }
    dropped, lost, masked = Counter[str](), Counter[str](), Counter[str]()
    examples: dict[str, list[Example]] = {}
    for line in lines:
        dropped.update(line["dropped"])
        lost.update(line["lost"])
        masked.update(line["masked"])
        for reason, found in line["examples"].items():
            examples[reason] = (examples.get(reason, []) + found)[:EXAMPLES]
    return {
        "language": source.language,
        **({"revision": plan["revision"]} if plan["revision"] else {}),
        "documents": sum(figures[split]["documents"] for split in SPLITS),
        "bytes": sum(figures[split]["bytes"] for split in SPLITS),
        **figures,
        "dropped": dict(dropped),
        "lost": dict(lost),
        "examples": examples,
        "masked": dict(masked),
        "lowest": min((line["lowest"] for line in lines), default=1.0),
    }


def link(store: Path, directory: Path) -> list[str]:
    """Make the files of a complete store appear in `directory`; its shards, in their order."""
    directory.mkdir()
    shards = []
    for lines in journals(store, len(read_json(store / "plan.json")["parts"])):
        for file in (file for line in lines for file in line["files"]):
            path = store / file["name"]
            if not path.is_file() or path.stat().st_size != file["bytes"]:
                raise UserError(
                    f"{path} is gone or damaged; `sllm download CONFIG --source {directory.name} --force` gets it anew"
                )
            try:
                os.link(path, directory / path.name)
            except OSError:  # a file system without hard links
                shutil.copy2(path, directory / path.name)
            if path.suffix == ".zst":
                shards.append(f"{directory.name}/{path.name}")
    return shards


def subtract(entry: dict[str, Any], removed: Removed) -> None:
    for split in SPLITS:
        entry[split]["documents"] -= removed.documents[split]
        entry[split]["bytes"] -= removed.bytes[split]
    entry["documents"] -= removed.documents.total()
    entry["bytes"] -= removed.bytes.total()
    for reason in ("duplicate", "near_duplicate"):
        entry["dropped"][reason] = removed.reasons[reason]
        entry["lost"][reason] = removed.lost[reason]
    entry["examples"] |= removed.examples


def check_not_empty(name: str, entry: dict[str, Any], lowest: float, config: DataConfig) -> None:
    where = f"data.sources: {name}"
    talks = isinstance(config, ConversationsConfig)
    unit, more = ("conversation", "add conversations") if talks else ("document", "add text")
    if not entry["documents"]:
        dropped = {reason: count for reason, count in entry["dropped"].items() if count}
        why = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in dropped.items())
        # Nothing that can be set keeps a conversation whose form is wrong.
        ways = ["correct the conversations (docs/finetune.md)"] if dropped.keys() & set(FORM) else []
        if not ways or dropped.keys() - set(FORM):
            ways += [more, f"change data.min_characters ({config.min_characters:,}) or the rules in data.clean"]
        raise UserError(
            f"{where}: no {unit} is left to train on ({why or 'its files hold none'}); {', or '.join(ways)}"
        )
    if not entry["train"]["documents"]:
        raise UserError(
            f"{where}: all {entry['documents']:,} {unit}s fall to validation; {more}, or lower "
            f"data.validation_fraction ({config.validation_fraction})"
        )
    if not entry["validation"]["documents"]:
        # A document's side is a function of its text alone, so we can tell exactly which fraction takes one in.
        fraction = (int(lowest * 10_000) + 1) / 10_000
        way = f"set data.validation_fraction to {fraction} or more, or {more}" if fraction < 0.5 else more
        raise UserError(
            f"{where}: none of its {entry['documents']:,} {unit}s falls to validation at data.validation_fraction "
            f"{config.validation_fraction}; {way}"
        )


def totals(sources: dict[str, Any]) -> dict[str, int]:
    return {name: sum(source[name] for source in sources.values()) for name in ("documents", "bytes")}
