"""The card of a tuned model: what it was tuned on, how to talk to it, and what it was before."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from sllm.artifacts import Artifacts
from sllm.card.facts import read_facts
from sllm.card.licences import MEANING
from sllm.card.text import card, refresh_card
from sllm.card.words import WORDS
from sllm.config import ModelConfig, load_experiment, write_experiment
from sllm.files import write_json, write_text
from sllm.manifests import CARD
from sllm.model.families import make_model
from sllm.model.storage import description, save_model
from sllm.run_directory import RunDirectory
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.template import conversation_ids

CONFIGS = Path(__file__).parents[2] / "configs"
SIZES = {"d_model": 32, "n_layers": 2, "n_heads": 2, "d_ff": 64, "context_length": 64}
FINETUNE = (
    "finetune={data: {sources: [{name: talk, kind: hub, language: ko, dataset: someone/talks, revision: main, "
    "licence: CC BY-NC 4.0}]}, train: {max_steps: 90, warmup_steps: 5, global_batch: 24, micro_batch: 12}}"
)


def figures(bits: float) -> dict[str, Any]:
    row = {"loss": bits, "perplexity": 2.0, "bits_per_byte": bits, "accuracy": 0.5, "tokens": 4096}
    return {"overall": row, "languages": {"ko": row}}


def task(score: float) -> dict[str, Any]:
    return {"language": "ko", "metric": "f1", "score": score, "stderr": 0.0125, "guess": 0.5, "few_shot": 0, "items": 9}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """With a base model of step 500 and one that is tuned, of step 60."""
    run = RunDirectory(tmp_path / "runs" / "mine")
    settings = ["name=mine", "train.max_steps=2000", f"data_directory={tmp_path / 'data'}", FINETUNE]
    write_text(run.config, write_experiment(load_experiment(CONFIGS / "default.yaml", settings)))
    Tokenizer([]).save(tmp_path / "tokenizer.json")
    model = make_model(ModelConfig.model_validate(SIZES), Tokenizer([]).vocab_size)
    for place, step in ((run, 500), (run.training("finetune"), 60)):
        torch.manual_seed(step)
        save_model(place.best, model, tmp_path / "tokenizer.json", step=step, loss=0.75, tuned=place is not run)
    tuned = {**figures(1.5), "step": 60, "conversations": figures(0.25)}
    results = {"step": 500, **figures(1.125), "conversations": figures(2.0), "tuned": tuned}
    write_json(run.stage("validate") / "results.json", results)
    tasks = {"measured": {"kobest_copa": task(0.5)}, "not_measured": {}}
    again = {"measured": {"kobest_copa": task(0.75)}, "not_measured": {}}
    write_json(
        run.stage("benchmark") / "results.json", {"step": 500, "tasks": tasks, "tuned": {"step": 60, "tasks": again}}
    )
    return run


def test_it_tells_what_it_was_and_what_it_has_become(run: RunDirectory) -> None:
    artifacts = Artifacts.of_run(run)
    entry = {"language": "ko", "documents": 1234, "bytes": 56789, "revision": "fedcba9876"}
    write_json(artifacts.conversations_corpus / "manifest.json", {"files": [], "sources": {"talk": entry}})
    packed = {"language": "ko", "train": {"tokens": 67890}}
    write_json(artifacts.conversations / "manifest.json", {"files": [], "sources": {"talk": packed}})
    text = card(read_facts(run.training("finetune").best))
    korean, english = re.split(r"^## (?:한국어|English)$", text.partition("\n## 설정")[0], flags=re.MULTILINE)[1:]
    for half, language in ((korean, "ko"), (english, "en")):
        words = WORDS[language]
        assert f"| {words['on_text']} | 1.1250 | 1.5000 |" in half
        assert f"| {words['of_answers']} | 2.0000 | 0.2500 |" in half
        assert "| kobest\\_copa, f1 | 50.0 ± 1.2 | 75.0 ± 1.2 |" in half
        assert "| someone/talks (fedcba98) | CC BY-NC 4.0 | 1,234 | 56,789 | 67,890 |" in half
        assert MEANING[language]["non_commercial"] in half
        assert "wikimedia/wikipedia" in half, "which the base has seen"
        assert f"{60 * 24 * SIZES['context_length']:,}" in half
        assert words["tuned_limits"] in half
        assert words["limits"] not in half
        assert "sllm chat --model ." in half
        assert ".chat([{" in half
    data = ModelCard(text).data
    assert "conversational" in data.tags
    assert "base-model" not in data.tags
    assert "someone/talks" in data.datasets
    assert [result.metric_value for result in data.eval_results] == [0.75]


def test_the_base_model_is_one_as_before(run: RunDirectory) -> None:
    text = card(read_facts(run.best))
    assert "base-model" in ModelCard(text).data.tags
    assert "1.1250" in text
    assert "0.2500" not in text
    assert "someone/talks" not in text
    assert WORDS["en"]["beside"] not in text


def test_an_export_says_how_to_ask_it(run: RunDirectory) -> None:
    text = card(read_facts(run.training("finetune").best), exported=True, hub_id="me/mine")
    assert text.count("apply_chat_template") == 2
    assert 'from_pretrained("me/mine")' in text
    assert "sllm chat" not in text
    assert text.count("vllm serve me/mine --host 127.0.0.1 ") == text.count("llama-server -m ") == 2
    for asked in re.findall(r"-d '(.*)'$", text, re.MULTILINE):
        assert conversation_ids(Tokenizer([]), json.loads(asked)["messages"])
    assert "vllm" not in card(read_facts(run.best), exported=True)


def test_both_cards_are_refreshed(run: RunDirectory) -> None:
    assert refresh_card(run) == run.best / CARD
    assert "base-model" in (run.best / CARD).read_text(encoding="utf-8")
    assert "conversational" in (run.training("finetune").best / CARD).read_text(encoding="utf-8")


def test_while_it_is_tuned_its_answers_are_known(run: RunDirectory) -> None:
    """What the training measures is answers; what was measured of another step is not told."""
    best = run.training("finetune").best
    model = make_model(ModelConfig.model_validate(SIZES), Tokenizer([]).vocab_size)
    facts = read_facts(best, description(model, tuned=True), figures(0.375), step=70, loss=0.3)
    assert facts.answers["overall"]["bits_per_byte"] == 0.375
    assert facts.measured["overall"] == {}
    assert facts.base is None
    assert facts.tasks == {}
    assert "1.5000" not in card(facts)


def test_what_stands_beside_the_base_was_measured_as_the_base(run: RunDirectory) -> None:
    """A model that training writes anew has been measured there too, on fewer conversations than the stage took."""
    best = run.training("finetune").best
    model = make_model(ModelConfig.model_validate(SIZES), Tokenizer([]).vocab_size)
    facts = read_facts(best, description(model, tuned=True), figures(0.375), step=60, loss=0.3)
    assert facts.base is not None
    assert facts.answers["overall"]["bits_per_byte"] == 0.25
