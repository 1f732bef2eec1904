"""The page's sections on what is around the training: tasks and speed, tokenizer, corpus, settings."""

from collections.abc import Iterable
from typing import Any

from sllm.report import figures
from sllm.report.data import RunData
from sllm.report.markup import Content, Markup, element, join
from sllm.report.parts import (
    NONE,
    Pictures,
    card,
    code,
    compact,
    details,
    long,
    note,
    number,
    percent,
    size,
    table,
)
from sllm.report.settings import as_text, changes
from sllm.report.words import both, either

SHOWN_TOKENS = 40


# --- tasks and speed ------------------------------------------------------------------------------


def tasks(data: RunData, pictures: Pictures) -> Content:
    if data.benchmark is None:
        return note("no_benchmark")
    found = data.benchmark.get("tasks", {})
    measured, not_measured = found.get("measured", {}), found.get("not_measured", {})
    parts: list[Content] = []
    if measured:
        caption = both("tasks_caption")
        parts += [
            pictures.wide("tasks", caption, lambda size: figures.tasks(measured, size)),
            _scores(measured),
        ]
    elif not not_measured:
        parts.append(note("no_tasks"))
    if not_measured:
        parts.append(table("not-measured", both("not_measured"), [both("task"), both("why")], _by_reason(not_measured)))
    return parts


def _by_reason(missing: dict[str, str]) -> list[tuple[Content, Content]]:
    """Tasks and why they are missing, a row for each reason."""
    tasks = {reason: [name for name in missing if missing[name] == reason] for reason in missing.values()}
    return [(long(", ".join(names)), long(reason)) for reason, names in tasks.items()]


def _scores(measured: dict[str, Any]) -> Content:
    rows = []
    for name, task in measured.items():
        published = join(
            *(
                [element("br") if i else None, f"{model['model']} {model['score']:.4f}", " ", _source(model)]
                for i, model in enumerate(task.get("published", ()))
            )
        )
        error = task.get("stderr")
        rows.append(
            (
                name,
                either(task["language"]),
                task["metric"],
                number(task["score"], ".4f"),
                number(error, ".4f"),
                number(task.get("guess"), ".4f"),
                number(task.get("few_shot")),
                number(task.get("items")),
                published or NONE,
                long(task.get("licence") or NONE),
            )
        )
    keys = ("task", "language", "metric", "score", "stderr", "guess", "few_shot", "items", "published", "licence")
    return table("scores", both("scores_caption"), [both(key) for key in keys], rows)


def _source(model: dict[str, Any]) -> Markup:
    """Where a published score is from: text, since the page asks nobody for anything."""
    told = [f"{model['few_shot']}-shot"] if model.get("few_shot") is not None else []
    return element("small", f"({', '.join([*told, str(model.get('source') or NONE)])})")


def speed(data: RunData, pictures: Pictures) -> Content:
    if data.benchmark is None:
        return note("no_benchmark")
    training = data.benchmark.get("training") or {}
    rows = [
        (
            number(row["batch"]),
            number(row.get("prefill_tokens_per_second")),
            number(row.get("decode_tokens_per_second")),
            number(row.get("first_token_ms"), ",.2f"),
            number(row.get("token_p50_ms"), ",.2f"),
            number(row.get("token_p99_ms"), ",.2f"),
            size(row.get("memory_bytes")),
        )
        for row in data.benchmark.get("generation", ())
    ]
    keys = ("batch", "prefill", "decode", "first_token", "p50", "p99", "memory")
    parts: list[Content] = [
        table(
            "speed-table",
            both("speed_caption", device=data.benchmark.get("device", NONE)),
            [both(k) for k in keys],
            rows,
        )
    ]
    if training:
        parts.append(
            element(
                "p",
                both(
                    "training_speed",
                    speed=number(training.get("tokens_per_second")),
                    step=number(training.get("step_ms"), ",.1f"),
                    batch=number(training.get("global_batch")),
                    memory=size(training.get("memory_bytes")),
                ),
                [" ", both("mfu_is", mfu=percent(training["mfu"]))] if training.get("mfu") else None,
            )
        )
    return parts


# --- tokenizer ------------------------------------------------------------------------------------


def tokenizer(data: RunData, pictures: Pictures) -> Content:
    report = data.tokenizer
    if report is None:
        return None
    summary, peer = report["summary"], report.get("tokenizers")
    pruned = report.get("pruned", {})
    rows = []
    for name, row in report["held_out"].items():
        cells = [
            either(name),
            size(row["bytes"]),
            number(row["bytes_per_token"], ".3f"),
            number(row["tokens_per_word"], ".3f"),
            percent(row["partial_character_share"], ".2%"),
            percent(row["vocabulary_used"]),
        ]
        rows.append((*cells, *([number(peer[name]["bytes_per_token"], ".3f")] if peer else [])))
    keys = ["text", "amount", "bytes_per_token", "tokens_per_word", "partial", "used", *(["peer"] if peer else [])]
    caption: list[Content] = [both("tokenizer_caption")]
    if report.get("without_tokenizers"):
        caption += [" ", both("without_peer", why=report["without_tokenizers"])]
    words = both("pruned", words=number(pruned["distinct_words"]), times=number(pruned["words_seen_less_than"]))
    longest = _tokens(report.get("longest_tokens", [])[:SHOWN_TOKENS])
    frequent = [
        [element("h3", both("frequent_tokens"), ": ", either(name)),
         _tokens(entry["token"] for entry in entries[:SHOWN_TOKENS])]
        for name, entries in report.get("frequent_tokens", {}).items()
    ]  # fmt: skip
    sentences = [
        _tokens(sentence, class_="joined") for found in report.get("sentences", {}).values() for sentence in found
    ]
    return [
        element("p", both("tokenizer_sentence", ids=number(summary["vocab_size"]), amount=size(summary["bytes"]),
                          documents=number(summary.get("documents")))),
        element("p", words) if pruned.get("distinct_words") else None,
        table("tokenizer-table", caption, [both(key) for key in keys], rows),
        element("h3", both("segmented")),
        *sentences,
        details(both("some_tokens"), element("h3", both("longest_tokens")), longest, *frequent),
    ]  # fmt: skip


def _tokens(tokens: Iterable[str], **attributes: str) -> Markup:
    """Side by side, with the white space in them visible."""
    seen = (token.replace(" ", "·").replace("\n", "↵").replace("\t", "→") for token in tokens)
    return element("p", *(element("span", token, **attributes) for token in seen), class_="tokens")


# --- corpus ---------------------------------------------------------------------------------------


def corpus(data: RunData, pictures: Pictures) -> Content:
    if data.corpus is None:
        return None
    sources = data.corpus["sources"]
    documents, text = (sum(entry[name] for entry in sources.values()) for name in ("documents", "bytes"))
    tokens = {name: source["train"]["tokens"] for name, source in (data.packed or {}).get("sources", {}).items()}
    told = both("tokens_in_all", tokens=compact(sum(tokens.values()))) if tokens else None
    settings = {source.name: source for source in data.experiment.data.sources} if data.experiment else {}
    rows = []
    for name, entry in sources.items():
        lost = sum(entry.get("lost", {}).values())
        seen = data.epochs.get(name)
        source = settings.get(name)
        rows.append(
            (
                name,
                either(entry["language"]),
                number(entry["documents"]),
                size(entry["bytes"]),
                percent(lost / max(lost + entry["bytes"], 1)),
                compact(tokens.get(name)),
                number(source.weight if source else None, "g"),
                number(seen[0] if seen else None, ".2f"),
                number(seen[1] if seen else None, ".2f"),
                long(getattr(source, "licence", None) or NONE),
                element("code", entry["revision"][:10]) if entry.get("revision") else NONE,
            )
        )
    keys = ("source", "language", "documents", "amount", "lost", "training_tokens", "weight", "epochs_so_far",
            "epochs_in_all", "licence", "revision")  # fmt: skip
    skipped = [note("source_skipped", source=name, why=why) for name, why in data.corpus.get("skipped", {}).items()]
    return [
        element("p", both("corpus_sentence", documents=number(documents), amount=size(text)), " ", told),
        *skipped,
        table("corpus-table", both("corpus_caption"), [both(key) for key in keys], rows),
        _dropped(sources),
        _contamination(data.corpus),
    ]


def _dropped(sources: dict[str, Any]) -> Content:
    kinds = dict.fromkeys(kind for entry in sources.values() for kind in entry.get("masked", {}))
    masked = [
        (either(kind, "masked"), *(number(entry.get("masked", {}).get(kind, 0)) for entry in sources.values()))
        for kind in kinds
    ]
    parts: list[Content] = [
        element("h3", both("dropped")),
        dropped_by_reason("dropped", "dropped_caption", sources),
    ]
    if masked:
        parts.append(table("masked", both("masked_caption"), [both("kind"), *sources], masked))
    examples = [
        (join(name, ", ", either(reason, "reason")), element("bdi", example["where"]), long(example["text"]))
        for name, entry in sources.items()
        for reason, found in entry.get("examples", {}).items()
        for example in found
    ]
    if examples:
        headings = [both(key) for key in ("source", "where", "text")]
        parts.append(details(both("dropped_examples"), table("examples", both("examples_caption"), headings, examples)))
    return parts


def dropped_by_reason(name: str, caption: str, sources: dict[str, Any]) -> Content:
    """How many texts of each source were dropped, a row for each reason."""
    reasons = list(dict.fromkeys(reason for entry in sources.values() for reason in entry.get("dropped", {})))
    counts = {reason: [entry.get("dropped", {}).get(reason, 0) for entry in sources.values()] for reason in reasons}
    rows = [(either(reason, "reason"), *map(number, found)) for reason, found in counts.items() if any(found)]
    return (
        table(name, both(caption), [both("reason"), *sources], rows) if rows else element("p", both("nothing_dropped"))
    )


def _contamination(manifest: dict[str, Any]) -> Content:
    found = manifest.get("contamination")
    if not found:
        return None
    rows: list[tuple[Content, ...]] = [(task, number(items), NONE) for task, items in found.get("tasks", {}).items()]
    rows += [(tasks, number(None), why) for tasks, why in _by_reason(found.get("missing", {}))]
    words = ", ".join(f"{name} {count}" for name, count in found.get("words", {}).items())
    headings = [both(key) for key in ("task", "items", "why")]
    return [
        element("h3", both("contamination")),
        table("contamination", both("contamination_caption", words=words or NONE), headings, rows),
    ]


# --- settings -------------------------------------------------------------------------------------


def settings(data: RunData, pictures: Pictures) -> Content:
    facts = dict(line.split(": ", 1) for line in data.environment.split("\n\n")[0].splitlines() if ": " in line)
    parts: list[Content] = [_changed(data)]
    if data.environment:
        dirty = both("dirty") if facts.get("dirty") == "yes" else None
        parts.append(
            element("dl", card("sllm", facts.get("sllm", NONE)),
                    card(both("commit"), element("code", _commit(facts)[:12] or NONE), dirty),
                    card("Python", facts.get("python", NONE).split(" ")[0], facts.get("platform")), class_="cards")
        )  # fmt: skip
    else:
        parts.append(note("no_environment"))
    parts += [element("h3", both("again")), _again(data, facts)]
    if data.config_text:
        parts.append(details(both("config_file"), code(data.config_text)))
    if data.environment:
        parts.append(details(both("environment_file"), code(data.environment)))
    return parts


def _changed(data: RunData) -> Content:
    if data.preset is None or data.experiment is None:
        return note("no_preset") if data.preset is None else None
    found = changes(data.preset["experiment"], data.experiment.to_dict())
    preset = element("code", data.preset["name"])
    if not found:
        return element("p", both("as_preset", preset=preset))
    rows = [(element("code", change.key), long(_value(change.old)), long(_value(change.new))) for change in found]
    headings = [both("setting"), join(both("preset"), " ", preset), both("this_run")]
    return table("changed", both("changed_caption", preset=preset, count=number(len(found))), headings, rows)


def _value(value: Any) -> Content:
    return element("span", both("not_set"), class_="muted") if value is None else as_text(value)


def _commit(facts: dict[str, str]) -> str:
    """Empty where it is not known: sllm was installed without git, and its environment.txt says so in words."""
    return commit if len(commit := facts.get("commit", "")) == 40 else ""


def _again(data: RunData, facts: dict[str, str]) -> Content:
    lines = [
        f"git checkout {_commit(facts) or 'COMMIT'}",
        "make PYTHON=python3 .venv/.installed",
        f".venv/bin/sllm submit experiment.yaml name={data.run.name}-again",
        f".venv/bin/sllm report {data.run.name}-again",
    ]
    return [element("p", both("again_sentence")), code("\n".join(lines))]
