"""The card as text: Markdown with the metadata of a Hugging Face model card, in Korean and in English.

It goes into the folder of the best model with each new one (`sllm.training.best`) and into every export; `refresh_card`
writes that of the best model anew when more is known. No manifest lists it (`sllm.manifests.CARD`), so the model stays
whole whatever is written, or edited, there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sllm.card.facts import Corpus, Facts, read_facts
from sllm.card.licences import MEANING
from sllm.card.markdown import block, code, front_matter, plain, table
from sllm.card.words import WORDS
from sllm.config.tasks import TASKS
from sllm.errors import UserError
from sllm.files import CorruptError, read_object, write_text
from sllm.manifests import CARD, MANIFEST
from sllm.origin import CONFIG
from sllm.run_directory import RunDirectory

LANGUAGES = {"ko": "한국어", "en": "English"}

SETTINGS = ("seed", "tokenizer", "model", "train")
"""Of the experiment; no paths of the machine that it ran on are among them."""
NOT_TOLD = ("init_from", "profile", "checkpoint")

MANY = 3
"""Tries to refresh a card while new best models take the place of one another."""


def refresh_card(run: RunDirectory) -> Path | None:
    """Write the cards of a run's best model and of the tuned one anew, by what the run's files say now. Returns the
    path of the first; None if there is no best model, or it is damaged. A reader of a model, or a training that writes
    the next one, notices nothing.
    """
    _refresh(run.training("finetune").best)
    return _refresh(run.best)


def _refresh(best: Path) -> Path | None:
    for _ in range(MANY):
        try:
            before = read_object(best / MANIFEST)
            write_text(best / CARD, card(read_facts(best)))
            if read_object(best / MANIFEST) == before:
                return best / CARD
        except (FileNotFoundError, CorruptError, UserError):
            if not (best / CONFIG).is_file():
                return None
    return None  # the training that writes them writes their cards


def card(facts: Facts, *, exported: bool = False, hub_id: str | None = None) -> str:
    """`exported`: it is that of a Transformers directory; `hub_id`: owner/name, under which that will be found."""
    name = hub_id or facts.name
    parts = [front_matter(_metadata(facts, name, exported)), f"# {plain(name)}"]
    parts.append(" · ".join(f"[{title}](#{title.lower()})" for title in LANGUAGES.values()))
    for language, title in LANGUAGES.items():
        parts += [f"## {title}", *_sections(facts, language, exported, hub_id)]
    if facts.experiment is not None:
        values = facts.experiment.to_dict()
        for setting in NOT_TOLD:
            values["train"].pop(setting, None)
        told = yaml.safe_dump({name: values[name] for name in SETTINGS}, sort_keys=False)
        parts += ["## 설정 · Settings", block("yaml", told)]
    return "\n\n".join(parts) + "\n"


# --- for programs ---------------------------------------------------------------------------------


def _metadata(facts: Facts, name: str, exported: bool) -> dict[str, Any]:
    """No `base_model`: what a training began with is a folder here, and that key wants a model of the hub."""
    corpora = [*facts.corpora, *facts.conversations]
    values: dict[str, Any] = {
        "language": sorted({corpus.language for corpus in corpora}, reverse=True) or list(LANGUAGES),
        # Nobody but the owners of the text can say under which licence a model of theirs may go; see the card's text.
        "license": "other" if any(corpus.kinds != ["own"] for corpus in corpora) else None,
        "library_name": "transformers" if exported else "sllm",
        "pipeline_tag": "text-generation",
        "tags": ["sllm", facts.model.family, "conversational" if facts.tuned else "base-model"],
        "datasets": list(dict.fromkeys(corpus.dataset for corpus in corpora if corpus.dataset)),
    }
    if facts.tasks:
        results = [_result(name, task) for name, task in facts.tasks.items()]
        values["model-index"] = [{"name": name, "results": results}]
    return {key: value for key, value in values.items() if value}


def _result(name: str, task: dict[str, Any]) -> dict[str, Any]:
    known = TASKS.get(name)
    dataset = {"type": known.dataset if known else name, "name": name}
    if isinstance(task.get("revision"), str):
        dataset["revision"] = task["revision"]
    metric = str(task.get("metric"))
    shots = f"{name}, {task['few_shot']}-shot" if isinstance(task.get("few_shot"), int) else name
    return {
        "task": {"type": "text-generation"},
        "dataset": dataset,
        "metrics": [{"type": metric, "name": f"{metric} ({shots})", "value": round(float(task["score"]), 4)}],
    }


# --- for people -----------------------------------------------------------------------------------


def _sections(facts: Facts, language: str, exported: bool, hub_id: str | None) -> Iterator[str]:
    words = WORDS[language]
    model = facts.model
    yield words["what"].format(
        family={"gpt2": "GPT-2", "qwen3": "Qwen3"}[model.family],
        parameters=f"{facts.parameters:,}",
        layers=model.n_layers,
        width=f"{model.d_model:,}",
        context=f"{model.context_length:,}",
        vocabulary=f"{facts.vocab_size:,}",
    )
    if facts.tuned:
        yield words["tuned"]
    if facts.step is not None and facts.tokens_seen is not None and facts.experiment is not None:
        steps = f"{facts.experiment.train.max_steps:,}"
        yield words["trained"].format(step=f"{facts.step:,}", steps=steps, tokens=f"{facts.tokens_seen:,}")
        if facts.loss is not None:
            yield words["best"]
        if (origin := facts.experiment.train.init_from) and not facts.tuned:
            path = Path(origin)
            yield words["origin"].format(origin=plain(path.parent.name if path.name == "best" else path.name))
    elif facts.step is not None:
        yield words["step"].format(step=f"{facts.step:,}")
    yield words["tuned_limits" if facts.tuned else "limits"]
    yield f"### {words['chat' if facts.tuned else 'load']}"
    yield from _chatting(words, exported, hub_id) if facts.tuned else _loading(words, exported, hub_id)
    if facts.tuned:
        yield from _beside(facts, words)
    yield from _figures(facts, words)
    yield from _tasks(facts, words)
    yield f"### {words['tokenizer']}"
    began = facts.experiment is not None and facts.experiment.train.init_from is not None
    yield words["tokenizer_text"].format(
        vocabulary=f"{facts.vocab_size:,}", origin=words["taken" if began else "learnt"]
    )
    if facts.conversations:
        yield f"### {words['conversations']}"
        yield from _corpora(facts.conversations, words, language)
    if facts.corpora:
        yield f"### {words['corpora']}"
        yield from _corpora(facts.corpora, words, language)
    yield f"### {words['made']}"
    yield from _made(facts, words)


def _in_transformers(where: str) -> str:
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer, model = AutoTokenizer.from_pretrained("{where}"), '
        f'AutoModelForCausalLM.from_pretrained("{where}")'
    )


def _loading(words: dict[str, str], exported: bool, hub_id: str | None) -> Iterator[str]:
    if exported:
        yield block(
            "python",
            f"{_in_transformers(hub_id or '.')}\n"
            'inputs = tokenizer("대한민국의 수도는", return_tensors="pt")\n'
            "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0], skip_special_tokens=True))",
        )
        yield words["load_exported"]
    else:
        yield block(
            "",
            'sllm generate "대한민국의 수도는" --model .\nsllm export --model . --output ../exported',
        )
        yield block(
            "python",
            "from sllm.inference.generator import TextGenerator\n\n"
            'print(TextGenerator(".").generate("대한민국의 수도는", max_length=64))',
        )
        yield words["load_ours"]


def _chatting(words: dict[str, str], exported: bool, hub_id: str | None) -> Iterator[str]:
    if exported:
        yield block(
            "python",
            f"{_in_transformers(hub_id or '.')}\n"
            'for question in ("대한민국의 수도는 어디인가요?", "What is the capital of Korea?"):\n'
            '    messages = [{"role": "user", "content": question}]\n'
            "    inputs = tokenizer.apply_chat_template(\n"
            '        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n'
            "    )\n"
            "    said = model.generate(**inputs, max_new_tokens=100)[0, inputs.input_ids.shape[1] :]\n"
            "    print(tokenizer.decode(said, skip_special_tokens=True))",
        )
        yield words["chat_exported"]
        yield words["serve"]
        yield block(
            "",
            f"vllm serve {hub_id or '.'} --host 127.0.0.1 --port 8080 --served-model-name sllm --dtype bfloat16\n"
            "llama-server -m model.gguf --host 127.0.0.1 --port 8080\n"
            "curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\\n"
            """  -d '{"model": "sllm", "messages": [{"role": "user", "content": "안녕하세요?"}]}'""",
        )
    else:
        yield block("", "sllm chat --model .\nsllm export --model . --output ../exported")
        yield block(
            "python",
            "from sllm.inference.generator import TextGenerator\n\n"
            'generator = TextGenerator(".")\n'
            'for question in ("대한민국의 수도는 어디인가요?", "What is the capital of Korea?"):\n'
            '    print(generator.chat([{"role": "user", "content": question}]))',
        )
        yield words["load_ours"]


def _beside(facts: Facts, words: dict[str, str]) -> Iterator[str]:
    """This model and the one before it."""
    if facts.base is None:
        return

    def bits(figures: dict[str, Any]) -> str:
        value = figures.get("overall", {}).get("bits_per_byte")
        return format(value, ".4f") if isinstance(value, int | float) else "–"

    rows = [
        [words["on_text"], bits(facts.base.measured), bits(facts.measured)],
        [words["of_answers"], bits(facts.base.answers), bits(facts.answers)],
    ]
    for name, task in facts.tasks.items():
        before = _score(facts.base.tasks[name]) if name in facts.base.tasks else "–"
        rows.append([f"{name}, {task.get('metric', '–')}", before, _score(task)])
    yield f"### {words['beside']}"
    yield table(["", words["base"], words["this"]], rows, 2)
    yield words["beside_text"]


def _figures(facts: Facts, words: dict[str, str]) -> Iterator[str]:
    known = {"loss": facts.loss} if facts.loss is not None and not facts.tuned else {}  # which is that of answers
    overall = facts.measured.get("overall") or known
    rows = {words["overall"]: overall, **facts.measured.get("languages", {})}
    if not overall:
        return
    yield f"### {words['validation']}"

    def number(row: dict[str, Any], figure: str, style: str) -> str:
        value = row.get(figure)
        return format(value, style) if isinstance(value, int | float) else "–"

    styles = {"loss": ".4f", "perplexity": ",.2f", "bits_per_byte": ".4f", "accuracy": ".2%", "tokens": ","}
    yield table(
        ["", *(words[figure] for figure in styles)],
        ([LANGUAGES.get(name, name), *(number(row, *style) for style in styles.items())] for name, row in rows.items()),
        len(styles),
    )
    yield words["validation_text"]


def _tasks(facts: Facts, words: dict[str, str]) -> Iterator[str]:
    if not facts.tasks and not facts.not_measured:
        return
    yield f"### {words['tasks']}"
    if facts.tasks:
        headings = ["task", "metric", "published", "few_shot", "items", "score", "guess"]
        yield table([words[name] for name in headings], (_task(*item) for item in facts.tasks.items()), 4)
        yield words["tasks_text"]
        if facts.tuned:
            yield words["tasks_asked"]
    if facts.not_measured:
        missing = "; ".join(f"{plain(name)} ({plain(why)})" for name, why in facts.not_measured.items())
        yield words["not_measured"].format(tasks=missing)


def _share(value: object) -> str:
    return f"{100 * value:.1f}" if isinstance(value, int | float) else "–"


def _score(task: dict[str, Any]) -> str:
    error = task.get("stderr")
    return _share(task["score"]) + (f" ± {_share(error)}" if isinstance(error, int | float) else "")


def _task(name: str, task: dict[str, Any]) -> list[object]:
    others = [other for other in _list(task.get("published")) if isinstance(other, dict)]
    published = ", ".join(f"{other.get('model')} {_share(other.get('score'))}" for other in others)
    shots, items = (task.get(key, "–") for key in ("few_shot", "items"))
    return [name, task.get("metric", "–"), published or "–", shots, items, _score(task), _share(task.get("guess"))]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _corpora(corpora: list[Corpus], words: dict[str, str], language: str) -> Iterator[str]:
    def row(corpus: Corpus) -> list[object]:
        home = f"{corpus.dataset} ({(corpus.revision or '')[:8]})" if corpus.dataset else words["local"]
        if corpus.kinds == ["own"]:
            home = words["own_text"]
        licence = corpus.licence or ("–" if corpus.kinds == ["own"] else words["unknown"])
        sizes = ["–" if size is None else f"{size:,}" for size in (corpus.documents, corpus.bytes, corpus.tokens)]
        return [corpus.name, LANGUAGES.get(corpus.language, corpus.language), home, licence, *sizes]

    headings = [words[name] for name in ("source", "language", "home", "licence", "documents", "bytes", "tokens")]
    yield table(headings, map(row, corpora), 3)
    yield words["licences_text"]
    found = dict.fromkeys(kind for corpus in corpora for kind in corpus.kinds)
    names = {kind: ", ".join(plain(corpus.name) for corpus in corpora if kind in corpus.kinds) for kind in found}
    yield "\n".join(f"- **{names[kind]}**: {MEANING[language][kind]}" for kind in found)


def _made(facts: Facts, words: dict[str, str]) -> Iterator[str]:
    environment = facts.environment
    version = plain(environment.get("sllm", "–"))
    if " " not in environment.get("commit", " "):
        changed = words["changed"] if environment.get("dirty") == "yes" else ""
        yield words["commit"].format(version=version, commit=code(environment["commit"]), changed=changed)
    elif "sllm" in environment:  # installed without git, which environment.txt says in words
        yield words["version"].format(version=version)
    yield words["command"].format(command=code("sllm submit config.yaml"))
