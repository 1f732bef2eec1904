"""`sllm download` for some of the sources, and `sllm check-data`: what is on disk, as a table."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.ask import ask, is_interactive
from jobs.hints import command, short
from sllm.artifacts import Artifacts
from sllm.config import DataConfig, Experiment
from sllm.data.check import CheckedSource, check_corpus
from sllm.data.compared import tables_of_tasks
from sllm.data.conversations.stage import bring_conversations
from sllm.data.download import download_stage, store_of, tables_of
from sllm.data.losses import loss, loss_by_reason
from sllm.data.tasks import tasks_directory
from sllm.errors import UserError
from sllm.progress import format_amount
from sllm.stop import stop_on_signals

SAMPLE_CHARACTERS = 300

ASK_BYTES = 1e9
"""More than this is not deleted without a question."""

NARROW = 72
"""Columns of a terminal that has no room for a figure of less interest."""


def choose(experiment: Experiment, languages: list[str], names: list[str]) -> list[str] | None:
    """The names of the sources, of text or conversations, of these languages, and of these names; None for all. Raises
    UserError if there are none."""
    valid = {source.name: source.language for part, _ in _parts(experiment) for source in part.data.sources}
    for name in names:
        if name not in valid:
            raise UserError(f"--source {name}: no such source; valid: {', '.join(valid)}")
    if not languages and not names:
        return None
    chosen = [name for name in valid if name in names or (not names and valid[name] in languages)]
    if not chosen:
        raise UserError(f"no source of data.sources is of the language {' or '.join(languages)}")
    return chosen


def download_some(experiment: Experiment, names: list[str]) -> str:
    """Bring these sources on disk; a corpus too, if it has all it needs then. Returns what to print."""
    artifacts, lines = Artifacts(experiment), []
    with stop_on_signals() as stop:
        if _some_of(experiment.data, names):
            lines += _told(download_stage(experiment, artifacts.corpus, stop, only=names), "documents")
        if experiment.finetune and _some_of(experiment.finetune.data, names):
            summary = bring_conversations(experiment, artifacts.conversations_corpus, stop, only=names)
            lines += _told(summary, "conversations")
    return "\n".join(lines)


def download_conversations(experiment: Experiment) -> list[str]:
    """Bring those of a fine-tuning, if there is one, so that no stage after it needs a network. Returns lines to
    print."""
    if experiment.finetune is None:
        return []
    with stop_on_signals() as stop:
        return _told(bring_conversations(experiment, Artifacts(experiment).conversations_corpus, stop), "conversations")


def _some_of(data: DataConfig, names: list[str]) -> bool:
    return any(source.name in names for source in data.sources)


def _told(summary: dict[str, Any], unit: str) -> list[str]:
    lines = [
        f"{name}: {entry['documents']:,} {unit}, {format_amount(entry['bytes'], 'bytes')} of text"
        for name, entry in summary["sources"].items()
    ]
    if missing := summary.get("missing"):
        everything = f"`{command('download', 'CONFIG')}` without a choice"
        lines.append(f"the corpus still needs {', '.join(missing)}: {everything} brings them")
    return lines


def _parts(experiment: Experiment) -> list[tuple[Experiment, Path]]:
    """What is brought on disk, and where to: text, and the conversations of a fine-tuning."""
    artifacts = Artifacts(experiment)
    text = [(experiment, artifacts.corpus)]
    return [*text, (experiment.tuning(), artifacts.conversations_corpus)] if experiment.finetune else text


def try_tasks_again(experiment: Experiment) -> None:
    """Forget which tasks' items could not be had, so that the download stage tries to have them."""
    for note in tasks_directory(experiment).glob("*.missing.json"):
        note.unlink(missing_ok=True)


def forget(experiment: Experiment, names: list[str] | None, *, yes: bool) -> list[str]:
    """Delete what is on disk of these sources, or of all, and the corpora that hold them. On a terminal it asks before
    gigabytes. Returns lines that say what was deleted.

    Raises:
        UserError: the answer was no.
    """
    there: list[Path] = []
    for part, corpus in _parts(experiment):
        chosen = [source for source in part.data.sources if names is None or source.name in names]
        tables = tables_of_tasks(part)
        stores = [store_of(source, part, corpus, tasks) for source in chosen for tasks in tables]
        if chosen:
            there += [directory for directory in (corpus, tables_of(corpus), *stores) if directory.exists()]
    sizes = {directory: _bytes_below(directory) for directory in there}
    told = [f"{short(directory)} ({format_amount(size, 'bytes')})" for directory, size in sizes.items()]
    question = f"--force deletes {', '.join(told)}, of every run that uses it. Go on?"
    if sum(sizes.values()) > ASK_BYTES and not yes and is_interactive() and not ask(question):
        raise UserError("--force: nothing was deleted")
    for directory in sizes:
        shutil.rmtree(directory)
    return [f"deleted {text}" for text in told]


def _bytes_below(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def show_corpus(experiment: Experiment, console: Console, *, samples: bool) -> int:
    """Check the corpus, and the conversations of a fine-tuning, and print what was found; 1 if something is missing or
    broken, else 0."""
    return max(_show(part, corpus, console, samples=samples) for part, corpus in _parts(experiment))


def _show(experiment: Experiment, corpus: Path, console: Console, *, samples: bool) -> int:
    try:
        with stop_on_signals() as stop:
            checked = check_corpus(experiment, corpus, stop)
    except UserError as error:
        console.print(Text(f"not whole: {error}"), soft_wrap=True)
        return 1
    rows = [_row(source) for source in checked]
    columns = [column for column in max(rows, key=len) if any(row.get(column) for row in rows)]
    if console.width < NARROW:
        columns = [column for column in columns if column != "on disk"]
    table, notes = Table(box=None, padding=(0, 2, 0, 0)), Table.grid(padding=(0, 2, 0, 0))
    for column in columns:
        left = column in ("source", "language")
        table.add_column(column, justify="left" if left else "right", overflow="fold", no_wrap=column != "source")
    for row in rows:
        table.add_row(*(Text(row.get(column, "")) for column in columns))
    for source in checked:
        for number, note in enumerate(_notes(source)):
            notes.add_row(Text("" if number else source.name), Text(note))
    console.print(Text(str(corpus), style="bold"), soft_wrap=True)
    console.print(table)
    console.print(notes)
    for source in checked:
        for problem in source.problems:
            console.print(Text(f"{source.name}: {problem}", style="red"), soft_wrap=True)
        if samples:
            for text in source.samples:
                console.print(Text(f"\n--- {source.name}", style="bold"))
                console.print(Text(text[:SAMPLE_CHARACTERS] + ("…" if len(text) > SAMPLE_CHARACTERS else "")))
            for reason, lost in source.entry.get("examples", {}).items():
                for text in lost:
                    like = f", as in {text['task']}" if "task" in text else ""
                    title = f"\n--- {source.name}, {reason.replace('_', ' ')}{like}: {text['where']}"
                    console.print(Text(title, style="bold"), soft_wrap=True)
                    console.print(Text(text["text"]))
    broken = [source.name for source in checked if source.problems]
    console.print(f"not whole: {', '.join(broken)}" if broken else "every file matches its checksum")
    return 1 if broken else 0


def _row(source: CheckedSource) -> dict[str, str]:
    if not source.entry:
        return {"source": source.name, "documents": "–"}
    return {
        "source": source.name,
        "documents": f"{source.documents:,}",
        "text": format_amount(source.entry["bytes"], "bytes"),
        "on disk": format_amount(source.compressed, "bytes"),
        "language": source.language if source.share is None else f"{source.language} {100 * source.share:.1f}%",
        "lost": f"{100 * loss(source.entry):.0f}%",
        "whole shards": "" if source.whole == source.shards else f"{source.whole}/{source.shards}",
    }


def _notes(source: CheckedSource) -> Iterator[str]:
    """What a source lost, line by line."""
    if not source.entry:
        if not source.problems:
            yield "left out: optional, and not there"
        return
    if reasons := loss_by_reason(source.entry):
        yield f"lost: {', '.join(reasons)}"
    if dropped := _listed(source.entry["dropped"]):
        yield f"documents dropped: {dropped}"
    if masked := _listed(source.entry["masked"]):
        yield f"masked: {masked}"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in counts.items() if count)
