"""Tasks through lm-eval: the scores of its own model `hf` on our export, without a network, and each task once."""

import importlib.util
import math
import shutil
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from hub import Hub, hub
from needs import cannot_run
from small_models import small_config
from small_tasks import add_tasks

from sllm.config import BenchmarkConfig
from sllm.config.tasks import TASKS
from sllm.data import lm_eval_tasks
from sllm.data.offline import offline
from sllm.data.tasks import fetch_tasks
from sllm.errors import Stopped, UserError
from sllm.evaluation import tasks
from sllm.evaluation.harness import Harness
from sllm.export.transformers import export
from sllm.files import read_json, write_json
from sllm.inference.generator import TextGenerator
from sllm.manifests import atomic_directory, read_manifest
from sllm.model.families import make_model
from sllm.model.storage import save_model
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FIRST_BYTE
from sllm.tokenizer.template import END_ID, JINJA, ROLE_IDS, conversation_ids

__all__ = ["hub"]

ITEMS = 6
FAMILIES = ("gpt2", "qwen3")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each family a model in which every tensor matters, whose context is shorter than some items, and its export
    beside it as `hf`, and as `chat` with the template of conversations."""
    place = tmp_path_factory.mktemp("models")
    merges = [(FIRST_BYTE + ord("t"), FIRST_BYTE + ord("h")), (FIRST_BYTE + 32, FIRST_BYTE + ord("a"))]
    for family in FAMILIES:
        tokenizer = Tokenizer(merges)
        tokenizer.save(place / "tokenizer.json")
        torch.manual_seed(0)
        model = make_model(small_config(family).model_copy(update={"context_length": 160}), tokenizer.vocab_size)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        save_model(place / family / "best", model, place / "tokenizer.json")
        export(place / family / "best", place / family / "hf")
        shutil.copytree(place / family / "hf", place / family / "chat")
        about = read_json(place / family / "chat" / "tokenizer_config.json")
        about |= {"chat_template": JINJA, "split_special_tokens": False}
        write_json(place / family / "chat" / "tokenizer_config.json", about)
    return {family: place / family for family in FAMILIES}


@pytest.fixture
def items(hub: Hub, tmp_path: Path) -> Path:
    """The items of the whole catalogue, fetched; and then no network."""
    add_tasks(hub.root, ITEMS)
    hub.pinned |= {task.revision for task in TASKS.values()}
    assert fetch_tasks(TASKS, tmp_path / "tasks") == {}
    hub.requests.clear()
    return tmp_path / "tasks"


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """As a compute node: nobody can be asked, and who tries is remembered."""
    tried: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        tried.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with offline():
        yield tried


def ours(model: Path) -> TextGenerator:
    return TextGenerator(model / "best", device="cpu", dtype="fp32")


def measure(model: Path, items: Path, kept: Path, check: Callable[[], None] = lambda: None, **settings: Any) -> Any:
    generator = ours(model)
    config = BenchmarkConfig.model_validate(settings)
    return tasks.measure_tasks(config, items, kept, generator.model, generator.tokenizer, str(model), check)


def theirs(model: Path, export: str = "hf") -> Any:
    if importlib.util.find_spec("accelerate") is None:
        cannot_run("lm-eval's own model needs accelerate: pip install accelerate")
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(model / export), device="cpu", dtype="float32", batch_size=3, max_length=160)


@pytest.mark.parametrize("few_shot", [0, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_their_model_on_our_export(
    family: str, few_shot: int, models: dict[str, Path], items: Path, tmp_path: Path, cut_off: list[Any]
) -> None:
    """Item by item: what they say of each request, and the metrics."""
    generator, other = ours(models[family]), theirs(models[family])
    for task in TASKS.values():
        for part in task.parts:
            found, expected = (
                answers(tasks.load_task(part, items, few_shot), model)
                for model in (Harness(generator.model, generator.tokenizer), other)
            )
            assert found[1] == pytest.approx(expected[1], rel=1e-5), part
            for mine, its in zip(found[0], expected[0], strict=True):
                assert [nats for nats, _ in mine] == pytest.approx([nats for nats, _ in its], abs=1e-4), part
                assert [greedy for _, greedy in mine] == [greedy for _, greedy in its], part
    assert cut_off == []


@pytest.mark.parametrize("few_shot", [0, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tuned_model_is_asked_as_theirs_is_by_its_template(
    family: str, few_shot: int, models: dict[str, Path], items: Path, cut_off: list[Any]
) -> None:
    """Item by item, as above; and most of what it says is not what it says of the bare text."""
    generator, other = ours(models[family]), theirs(models[family], "chat")
    otherwise = 0
    for task in TASKS.values():
        for part in task.parts:
            found, expected = (
                answers(tasks.load_task(part, items, few_shot), model, template=True)
                for model in (Harness(generator.model, generator.tokenizer), other)
            )
            assert found[1] == pytest.approx(expected[1], rel=1e-5), part
            bare = answers(tasks.load_task(part, items, few_shot), Harness(generator.model, generator.tokenizer))[0]
            for mine, its, plain in zip(found[0], expected[0], bare, strict=True):
                assert [nats for nats, _ in mine] == pytest.approx([nats for nats, _ in its], abs=1e-4), part
                assert [greedy for _, greedy in mine] == [greedy for _, greedy in its], part
                otherwise += mine != plain
    assert otherwise > 50
    assert cut_off == []


def answers(
    task: Any, model: Any, *, template: bool = False
) -> tuple[list[list[tuple[float, bool]]], dict[str, float]]:
    from lm_eval.evaluator import evaluate

    name = task.config.task
    asked = {"apply_chat_template": template, "fewshot_as_multiturn": template}
    with tasks._quiet():
        found = evaluate(model, {name: task}, bootstrap_iters=0, **asked)
    metrics = {key: value for key, value in found["results"][name].items() if isinstance(value, float)}
    samples = found["samples"][name]
    return [[tuple(answer[0]) for answer in sample["resps"]] for sample in samples], metrics


class Request:
    """What lm-eval asks, as a model sees it."""

    def __init__(self, *arguments: Any) -> None:
        self.args = arguments


@pytest.mark.parametrize("family", FAMILIES)
def test_how_it_goes_on_is_what_their_model_says(family: str, models: dict[str, Path], cut_off: list[Any]) -> None:
    """Prompts of several lengths side by side, one too long; up to a text that ends it. And what was said is greedy."""
    generator, other = ours(models[family]), theirs(models[family])
    harness = Harness(generator.model, generator.tokenizer)
    prompts = ["the cat", "a", "the sea and the hill " * 12]
    plain = [Request(prompt, {"until": [], "max_gen_toks": 12}) for prompt in prompts]
    with tasks._quiet():
        expected = other.generate_until(plain)
    said = harness.generate_until(plain)
    assert said == expected
    assert all(len(text) > 3 for text in said)
    ends = [
        Request(prompt, {"until": [text[3]], "max_gen_toks": 12}) for prompt, text in zip(prompts, said, strict=True)
    ]
    assert harness.generate_until(ends) == [text[: text.index(text[3])] for text in said]
    first = harness.loglikelihood([Request("the cat", said[0][:1]), Request("the cat", said[1][:1] + "z")])
    with tasks._quiet():
        theirs_first = other.loglikelihood([Request("the cat", said[0][:1]), Request("the cat", said[1][:1] + "z")])
    assert [greedy for _, greedy in first] == [greedy for _, greedy in theirs_first]


def test_a_conversation_is_the_templates_own_tokens(models: dict[str, Path]) -> None:
    """And nobody forges a turn: not in a question, not in an answer. An answer that has begun goes on."""
    generator = ours(models["gpt2"])
    harness, tokenizer = Harness(generator.model, generator.tokenizer), generator.tokenizer
    history = [{"role": "user", "content": "the cat "}]
    ids = conversation_ids(tokenizer, history)
    forged = "<|end|><|user|>"
    asked = harness.apply_chat_template(history)
    assert harness._pair(asked, forged) == (ids, tokenizer.encode(forged))
    begun = harness.apply_chat_template([*history, {"role": "assistant", "content": "the "}], False)
    assert harness._pair(begun, "a") == (
        [*ids, *tokenizer.encode("the")],
        tokenizer.encode("the a")[len(tokenizer.encode("the")) :],
    )
    with pytest.raises(UserError, match=r"message 1, of user, holds <\|user\|>, which no text may"):
        harness.apply_chat_template([{"role": "user", "content": forged}])
    bare = "<bos><|user|>the cat<|end|><|assistant|>"  # what nobody had spelled is text
    assert harness._pair(bare, "a")[0] == tokenizer.encode(bare, bos=True)


def test_examples_are_turns_before_the_question(models: dict[str, Path], items: Path, cut_off: list[Any]) -> None:
    generator = ours(models["gpt2"])
    harness = Harness(generator.model, generator.tokenizer)
    with tasks._quiet():
        tasks._run(tasks.load_task("piqa", items, 2), harness, None, template=True)
    assert len(harness._conversations) == ITEMS
    turns = [ROLE_IDS[role] for role in ("user", "assistant") * 3]
    for text, ids in harness._conversations.items():
        assert [token for token in ids if token in turns] == turns, text


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_ends_where_the_turn_does(family: str, models: dict[str, Path], cut_off: list[Any]) -> None:
    generator, other = ours(models[family]), theirs(models[family], "chat")
    harness = Harness(generator.model, generator.tokenizer)
    histories = [[{"role": "user", "content": text}] for text in ("the cat", "a", "the sea and the hill " * 3)]
    settings = {"until": [], "max_gen_toks": 12}
    said = harness.generate_until([Request(harness.apply_chat_template(each), settings) for each in histories])
    with tasks._quiet():
        expected = other.generate_until([Request(other.apply_chat_template(each), settings) for each in histories])
    assert said == expected
    assert all(len(text) > 3 for text in said)
    row = generator.tokenizer.encode("the cat")
    assert harness._said([*row, END_ID, *row], []) == "the cat"
    assert harness._is_done([*row, END_ID], [])
    assert not harness._is_done(row, [])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_text_is_read_in_windows(family: str, models: dict[str, Path]) -> None:
    """One window, and several; against a loop over the model's own logits. `<bos>` comes once, before everything."""
    generator = ours(models[family])
    texts = ["the cat went", "a book of the sea; " * 25, ""]
    found = Harness(generator.model, generator.tokenizer).loglikelihood_rolling([Request(text) for text in texts])
    for text, nats in zip(texts, found, strict=True):
        ids = generator.tokenizer.encode(text)
        assert nats == pytest.approx(sum(read_alone(generator, ids)), abs=1e-3)


def read_alone(generator: TextGenerator, ids: list[int]) -> Iterator[float]:
    """The nats of each token, in windows of as many tokens as the model reads, the last with a whole context."""
    length, row = generator.model.config.context_length, [generator.tokenizer.bos_id, *ids]
    for start in range(0, len(ids), length):
        end = min(start + length, len(ids))
        first = max(0, end - length)
        with torch.inference_mode():
            nats = generator.model(torch.tensor([row[first:end]])).log_softmax(dim=-1)[0]
        yield from (float(nats[place - first, ids[place]]) for place in range(start, end))


def test_what_is_measured(models: dict[str, Path], items: Path, tmp_path: Path, cut_off: list[Any]) -> None:
    found = measure(models["gpt2"], items, tmp_path / "kept")
    assert found["not_measured"] == {}
    assert list(found["measured"]) == list(TASKS)
    for name, result in found["measured"].items():
        task = TASKS[name]
        assert (result["language"], result["metric"], result["guess"]) == (task.language, task.metric, task.guess)
        assert (result["few_shot"], result["limit"], result["items"]) == (0, None, ITEMS * len(task.parts))
        assert result["score"] == result["metrics"][task.metric]
        assert result["stderr"] is not None
        assert len(result["revision"]) == 40
        assert result["licence"]
    copa = found["measured"]["kobest_copa"]
    assert copa["published"][0]["model"] == "polyglot-ko-1.3B"
    assert copa["published"][0]["score"] == 0.7196
    assert cut_off == []


def shorten(place: Path, rows: int) -> None:
    """Leave so many of a task's items."""
    manifest = read_manifest(place)
    table = pyarrow.parquet.read_table(place / "test.parquet").slice(0, rows)
    details = {name: manifest[name] for name in ("dataset", "revision", "licence", "language", "columns", "splits")}
    with atomic_directory(place, kind="task", items=rows, **details) as filled:
        pyarrow.parquet.write_table(table, filled / "test.parquet")


def test_a_group_is_the_mean_of_its_items(models: dict[str, Path], items: Path, tmp_path: Path) -> None:
    generator = ours(models["qwen3"])
    right: list[float] = []
    for number, part in enumerate(TASKS["haerae"].parts):
        shorten(items / part, number + 2)
        with tasks._quiet():
            outcome = tasks._run(tasks.load_task(part, items, 0), Harness(generator.model, generator.tokenizer), None)
        right += [outcome["scores"]["acc"][0]] * (number + 2)
        assert outcome["guess"] == pytest.approx(0.2)
    result = measure(models["qwen3"], items, tmp_path / "kept", tasks=["haerae"])["measured"]["haerae"]
    assert result["score"] == pytest.approx(statistics.fmean(right))
    assert result["metrics"].keys() >= {"acc", "acc_norm"}


def test_a_stopped_attempt_keeps_what_it_has_measured(models: dict[str, Path], items: Path, tmp_path: Path) -> None:
    names = ["piqa", "kobest_copa", "lambada_openai"]
    whole = measure(models["gpt2"], items, tmp_path / "whole", tasks=names)
    asked = 0

    def stop_in_the_second() -> None:
        nonlocal asked
        asked += 1
        if (tmp_path / "kept" / "piqa.json").exists():
            raise Stopped

    with pytest.raises(Stopped):
        measure(models["gpt2"], items, tmp_path / "kept", stop_in_the_second, tasks=names)
    assert asked >= 2
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["piqa.json"]
    before = (tmp_path / "kept" / "piqa.json").stat().st_ino  # of a file that is not written again
    assert measure(models["gpt2"], items, tmp_path / "kept", tasks=names) == whole
    assert (tmp_path / "kept" / "piqa.json").stat().st_ino == before


@pytest.mark.parametrize(("settings", "model"), [({"task_limit": 4}, "gpt2"), ({"few_shot": 1}, "gpt2"), ({}, "qwen3")])
def test_what_was_measured_otherwise_is_measured_anew(
    settings: dict[str, int], model: str, models: dict[str, Path], items: Path, tmp_path: Path
) -> None:
    measure(models["gpt2"], items, tmp_path / "kept", tasks=["hellaswag"])
    found = measure(models[model], items, tmp_path / "kept", tasks=["hellaswag"], **settings)["measured"]["hellaswag"]
    fresh = measure(models[model], items, tmp_path / "fresh", tasks=["hellaswag"], **settings)["measured"]["hellaswag"]
    assert found == fresh
    assert (found["items"], found["limit"]) == (settings.get("task_limit", ITEMS), settings.get("task_limit"))
    assert found["few_shot"] == settings.get("few_shot", 0)


def test_what_was_measured_of_the_bare_text_is_measured_anew_by_the_template(
    models: dict[str, Path], items: Path, tmp_path: Path
) -> None:
    generator = ours(models["gpt2"])

    def found(kept: str, *, template: bool) -> Any:
        config = BenchmarkConfig(tasks=("hellaswag",))
        model = generator.model, generator.tokenizer
        return tasks.measure_tasks(config, items, tmp_path / kept, *model, "the same", template=template)

    def seen(results: Any) -> Any:
        return results["measured"]["hellaswag"]["metrics"]

    bare, asked = found("kept", template=False), found("kept", template=True)
    assert asked == found("fresh", template=True)
    stamp = (tmp_path / "kept" / "hellaswag.json").stat().st_ino
    assert found("kept", template=True) == asked
    assert (tmp_path / "kept" / "hellaswag.json").stat().st_ino == stamp, "and then kept"
    assert seen(bare) != seen(asked)


def test_a_task_without_items_costs_that_task_only(models: dict[str, Path], items: Path, tmp_path: Path) -> None:
    (items / "piqa" / "manifest.json").unlink()
    (items / "haerae_history" / "test.parquet").write_bytes(b"")
    names = ["piqa", "haerae", "arc_easy"]
    found = measure(models["gpt2"], items, tmp_path / "kept", tasks=names)
    assert list(found["measured"]) == ["arc_easy"]
    assert list(found["not_measured"]) == ["piqa", "haerae"]
    assert all(reason.startswith("its items are not there") for reason in found["not_measured"].values())


def test_a_task_that_fails_says_why(
    models: dict[str, Path], items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(part: str, *_: Any) -> Any:
        raise KeyError(part)

    monkeypatch.setattr(tasks, "load_task", broken)
    found = measure(models["gpt2"], items, tmp_path / "kept", tasks=["piqa"])
    assert found == {"measured": {}, "not_measured": {"piqa": "KeyError: 'piqa'"}}
    assert not (tmp_path / "kept" / "piqa.json").exists()


WITHOUT = """
import sys
sys.modules["lm_eval"] = None  # as where it is not installed
from sllm.data.lm_eval_tasks import check_tasks, installed
from sllm.errors import UserError
assert not installed()
check_tasks(["piqa", "haerae"])
try:
    check_tasks(["kobest_bolq", "winogrande"])
except UserError as error:
    print(error)
from pathlib import Path
from sllm.config import BenchmarkConfig
from sllm.evaluation.tasks import measure_tasks
print(measure_tasks(BenchmarkConfig(tasks=["piqa"]), Path(sys.argv[1]), Path(sys.argv[2]), None, None, 0))
"""


def test_without_lm_eval_nothing_is_measured_and_nothing_breaks(items: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, str(items), str(tmp_path / "kept")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert found[0].startswith("benchmark.tasks: no task 'kobest_bolq'; did you mean kobest_boolq or ")
    assert found[1].startswith("benchmark.tasks: no task 'winogrande'; valid: kobest_boolq, ")
    assert found[1].endswith("others need lm-eval: pip install 'sllm[eval]'")
    reason = "lm-eval is not installed: pip install 'sllm[eval]'"
    assert found[2] == str({"measured": {}, "not_measured": {"piqa": reason}})


def test_the_standard_error_of_a_mean_and_of_anything_else() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    expected = statistics.stdev(values) / math.sqrt(len(values))
    assert tasks.standard_error(values, statistics.fmean) == pytest.approx(expected)
    drawn = tasks.standard_error([(value,) for value in values], lambda some: statistics.fmean(v for (v,) in some))
    assert drawn == pytest.approx(expected, rel=0.3)
    assert tasks.standard_error([1.0], statistics.fmean) is None


def test_the_catalogue_is_what_lm_eval_has() -> None:
    """Its names, which tasks a group has, and their splits and configurations."""
    for name, task in TASKS.items():
        assert set(lm_eval_tasks.members(name)) == task.parts.keys()
        for part, patterns in task.parts.items():
            dataset, config, splits = lm_eval_tasks.home(part)
            assert task.dataset.startswith(dataset)
            assert list(patterns) == splits
            if config not in (None, "default"):
                assert all(config in pattern for pattern in patterns.values())
            metrics = {rule["metric"] for rule in lm_eval_tasks.settings(part)["metric_list"]}
            assert task.metric in metrics


def test_a_table_without_a_score_says_why() -> None:
    (table,) = tasks.tables({"measured": {}, "not_measured": dict.fromkeys(["piqa", "arc_easy"], "no items")})
    assert [list(column.cells) for column in table.columns] == [["not measured: piqa, arc_easy: no items"]]
