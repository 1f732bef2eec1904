"""Conversations: the loss of answers against a plain computation, and base and tuned model beside each other."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sllm.artifacts import Artifacts
from sllm.benchmark import benchmark_stage
from sllm.config import Experiment
from sllm.data.masks import answers
from sllm.data.pack import token_file
from sllm.data.sampler import PackedData
from sllm.distributed import World
from sllm.errors import Stopped, UserError
from sllm.evaluation.loss import evaluate, replies
from sllm.evaluation.validation import validate_stage
from sllm.files import read_json
from sllm.inference.generator import TextGenerator
from sllm.manifests import atomic_directory
from sllm.model.families import make_model
from sllm.model.shared import LanguageModel
from sllm.model.storage import save_model
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.template import END_ID, conversation_ids

ONE = World(0, 1, 0, torch.device("cpu"))
LENGTH = 32
SAID = {
    "talk-en": [["a?", "b"], ["who", "a cat", "why", "so"], ["one", "two three"], ["the end", "of it", "no", "yes"]],
    "talk-ko": [["뭐", "산"], ["왜", "그래"]],
}
QUESTIONS = ("뭐야?", "what is it?", "a question for which the context has no room at all " * 2)


@pytest.fixture(scope="module")
def experiment(prepared: dict[str, Any]) -> Experiment:
    sources = [
        {"name": name, "kind": "embedded", "language": name[-2:], "megabytes": 0.1} for name in SAID
    ]  # what they are packed to here is told below
    validate = {"every": 5, "prompts": list(QUESTIONS), "sample_tokens": 6, "final_tokens": 1000}
    finetune = {"data": {"sources": sources}, "train": prepared["train"], "validate": validate}
    return Experiment.model_validate({**prepared, "name": "tuned", "finetune": finetune})


@pytest.fixture(scope="module")
def artifacts(experiment: Experiment) -> Artifacts:
    return Artifacts(experiment)


@pytest.fixture(scope="module")
def tokenizer(artifacts: Artifacts) -> Tokenizer:
    return Tokenizer.load(artifacts.tokenizer / "tokenizer.json")


@pytest.fixture(scope="module")
def talks(tokenizer: Tokenizer) -> dict[str, list[list[int]]]:
    """By source, the tokens of its conversations."""
    roles = ("user", "assistant") * 2
    return {
        name: [
            conversation_ids(
                tokenizer, [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
            )
            for texts in found
        ]
        for name, found in SAID.items()
    }


@pytest.fixture(scope="module")
def packed(artifacts: Artifacts, tokenizer: Tokenizer, talks: dict[str, list[list[int]]]) -> PackedData:
    """As many whole conversations in a row as it has room for."""
    rows = {name: in_rows(found) for name, found in talks.items()}
    assert any(list(row).count(tokenizer.bos_id) > 1 for row in rows["talk-en"])
    with atomic_directory(
        artifacts.conversations,
        kind="packed",
        overlap=0,
        context_length=LENGTH,
        dtype="<u2",
        vocab_size=tokenizer.vocab_size,
        tokenizer=tokenizer.fingerprint,
        sources={
            name: {"language": name[-2:], **{split: {"tokens": some.size} for split in ("train", "validation")}}
            for name, some in rows.items()
        },
    ) as directory:
        for name, some in rows.items():
            token_file(directory, name, "validation").write_bytes(some.astype("<u2").tobytes())
    return PackedData.open(artifacts.conversations, tokenizer.fingerprint)


def in_rows(talks: list[list[int]]) -> np.ndarray:
    rows: list[list[int]] = [[]]
    for ids in talks:
        if len(rows[-1]) + len(ids) > LENGTH + 1:
            rows.append([])
        rows[-1] += ids
    return np.array([row + [0] * (LENGTH + 1 - len(row)) for row in rows])


def a_model(experiment: Experiment, tokenizer: Tokenizer, seed: int, family: str = "gpt2") -> LanguageModel:
    torch.manual_seed(seed)
    model = make_model(experiment.model.model_copy(update={"family": family, "dropout": 0.0}), tokenizer.vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def measured(model: LanguageModel, data: PackedData, tokenizer: Tokenizer, batch: int = 2) -> dict[str, Any]:
    found = evaluate(model, data, tokenizer, tokens_per_source=10**6, batch=batch, world=ONE, stop=StopFlag())
    assert found is not None
    return found


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_answers_are_measured_as_if_each_conversation_were_alone(
    family: str, experiment: Experiment, tokenizer: Tokenizer, packed: PackedData, talks: dict[str, list[list[int]]]
) -> None:
    model = a_model(experiment, tokenizer, 3, family).eval()
    found = measured(model, packed, tokenizer)
    for name, conversations in talks.items():
        nats = right = said = size = 0.0
        for ids in conversations:
            with torch.no_grad():
                logits = model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
            for (_, target), row, counts in zip(pairwise(ids), logits, answers(np.array(ids)), strict=True):
                if counts:
                    nats -= row[target].item()
                    right += int(row.argmax()) == target
                    said += 1
                    size += len(tokenizer.token_bytes[target])
        figures = found["sources"][name]
        assert (figures["tokens"], figures["bytes"]) == (said, size)
        assert size == sum(len(text.encode()) for texts in SAID[name] for text in texts[1::2])
        assert figures["loss"] == pytest.approx(nats / said, rel=1e-5)
        assert figures["accuracy"] == pytest.approx(right / said)
        assert figures["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert measured(model, packed, tokenizer, batch=1)["overall"] == pytest.approx(found["overall"], rel=1e-5)


def test_a_model_that_counts_tokens_counts_those_of_answers(
    experiment: Experiment, tokenizer: Tokenizer, packed: PackedData, talks: dict[str, list[list[int]]]
) -> None:
    targets = [
        target
        for conversations in talks.values()
        for ids in conversations
        for target, counts in zip(ids[1:], answers(np.array(ids)), strict=True)
        if counts
    ]
    shares = np.unique(targets, return_counts=True)[1] / len(targets)
    entropy = measured(a_model(experiment, tokenizer, 3), packed, tokenizer)["overall"]["unigram_entropy"]
    assert entropy == pytest.approx(-(shares * np.log(shares)).sum())


@pytest.fixture
def run(experiment: Experiment, artifacts: Artifacts, tokenizer: Tokenizer, tmp_path: Path) -> RunDirectory:
    """As both trainings leave it, with models that differ."""
    run = RunDirectory(tmp_path / "run")
    path = artifacts.tokenizer / "tokenizer.json"
    save_model(run.best, a_model(experiment, tokenizer, 1), path, step=40)
    best = run.training("finetune").best
    save_model(best, a_model(experiment, tokenizer, 2), path, step=7, tuned=True)
    return run


def test_the_stage_measures_both_models_on_text_and_on_conversations(
    experiment: Experiment, artifacts: Artifacts, tokenizer: Tokenizer, packed: PackedData, run: RunDirectory
) -> None:
    found = validate_stage(experiment, run, artifacts, StopFlag())
    assert read_json(run.stage("validate") / "results.json") == found
    text = PackedData.open(artifacts.packed, tokenizer.fingerprint)
    assert (found["step"], found["tuned"]["step"]) == (40, 7)
    for seed, results in ((1, found), (2, found["tuned"])):
        model = a_model(experiment, tokenizer, seed)
        of_answers = measured(model, packed, tokenizer)
        tokens = experiment.validate_.final_tokens
        of_text = evaluate(model, text, tokenizer, tokens_per_source=tokens, batch=8, world=ONE, stop=StopFlag())
        assert of_text
        assert results["overall"]["loss"] == pytest.approx(of_text["overall"]["loss"], rel=1e-5)
        assert results["sources"].keys() == of_text["sources"].keys()
        for name, figures in of_answers["sources"].items():
            assert results["conversations"]["sources"][name] == pytest.approx(figures, rel=1e-5)
    assert [sample["prompt"] for sample in found["samples"]] == ["한국", "The"]
    written = (run.stage("validate") / "results.txt").read_text(encoding="utf-8")
    for model in (found, found["tuned"]):
        for figures in (model, model["conversations"]):
            assert f"{figures['overall']['bits_per_byte']:.4f}" in written


def test_questions_are_answered_by_both(
    experiment: Experiment, artifacts: Artifacts, packed: PackedData, run: RunDirectory
) -> None:
    """By the tuned model as in a chat, the likeliest tokens; the base model goes on from the bare question."""
    found = validate_stage(experiment, run, artifacts, StopFlag())["answers"]
    assert [answer["prompt"] for answer in found] == list(QUESTIONS)
    base = TextGenerator(run.best, device="cpu")
    tuned = TextGenerator(run.training("finetune").best, device="cpu")
    for answer in found[:2]:
        ids = base.tokenizer.encode(answer["prompt"], bos=True)
        assert [answer["base"]] == base.generate(answer["prompt"], len(ids) + 6, temperature=0)
        messages = [{"role": "user", "content": answer["prompt"]}]
        assert answer["tuned"] == tuned.chat(messages, reply_tokens=6, temperature=0)
    assert found[2]["tuned"] == "", "no room"
    assert found[2]["base"] != ""


def test_a_reply_ends_with_its_turn(experiment: Experiment, tokenizer: Tokenizer) -> None:
    model = a_model(experiment, tokenizer, 2)
    [whole] = replies(model, tokenizer, ["뭐야?"], 6)
    assert whole["continuation"]
    with torch.no_grad():  # now the likeliest token is always the end
        model.embedding.weight[END_ID] = 1e3 * model.final_norm.get_parameter("bias")
        model.final_norm.get_parameter("weight").zero_()
    [reply] = replies(model, tokenizer, ["뭐야?"], 6)
    assert reply == {"prompt": "뭐야?", "continuation": ""}


def test_the_benchmark_measures_both_models(
    experiment: Experiment, artifacts: Artifacts, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    """A task whose items are not there is told of both; speed is that of the base model alone."""
    asked = experiment.model_copy(update={"benchmark": experiment.benchmark.model_copy(update={"tasks": ("piqa",)})})
    found = benchmark_stage(asked, run, artifacts, StopFlag())
    assert read_json(run.stage("benchmark") / "results.json") == found
    assert (found["step"], found["tuned"]["step"]) == (40, 7)
    for results in (found, found["tuned"]):
        assert results["tasks"]["measured"] == {}
        assert list(results["tasks"]["not_measured"]) == ["piqa"]
    assert found["tuned"].keys() == {"step", "tasks"}
    assert "Tasks, tuned model" in capsys.readouterr().out


def test_a_stop_and_what_is_missing(
    experiment: Experiment, artifacts: Artifacts, packed: PackedData, run: RunDirectory
) -> None:
    with pytest.raises(Stopped, match="deadline"):
        validate_stage(experiment, run, artifacts, StopFlag(deadline=0.0))
    assert not run.stage("validate").exists()
    (run.training("finetune").best / "model.safetensors").unlink()
    with pytest.raises(UserError, match="finetune"):
        validate_stage(experiment, run, artifacts, StopFlag())
