"""Validation figures against sums done by hand, over ranks, and the report of a model on disk."""

import json
import math
import multiprocessing
import os
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from sllm.artifacts import Artifacts
from sllm.config import Experiment, write_experiment
from sllm.data.sampler import PackedData
from sllm.distributed import World, connect
from sllm.errors import Stopped, UserError
from sllm.evaluation.loss import _batches, evaluate
from sllm.evaluation.results import write_results
from sllm.evaluation.validation import ModelValidator, tables, validate_stage
from sllm.files import read_json
from sllm.model.families import make_model
from sllm.model.gpt2 import GPT2
from sllm.model.storage import save_model
from sllm.run_directory import RunDirectory
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer

ONE = World(0, 1, 0, torch.device("cpu"))


class Prepared:
    """An experiment whose data is packed, and a random model of its shape."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.experiment = Experiment.model_validate(values)
        self.artifacts = Artifacts(self.experiment)
        self.tokenizer = Tokenizer.load(self.artifacts.tokenizer / "tokenizer.json")
        self.data = PackedData.open(self.artifacts.packed, self.tokenizer.fingerprint)
        torch.manual_seed(0)
        self.model = make_model(self.experiment.model, self.tokenizer.vocab_size)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)

    def evaluate(self, **changes: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "tokens_per_source": 1000,
            "batch": 4,
            "world": ONE,
            "stop": StopFlag(),
            "precision": "fp32",
        }
        result = evaluate(self.model, changes.pop("data", self.data), self.tokenizer, **{**arguments, **changes})
        assert result is not None
        return result


@pytest.fixture(scope="module")
def setup(prepared: dict[str, Any]) -> Prepared:
    return Prepared(prepared)


def test_figures_are_those_of_a_plain_computation(setup: Prepared) -> None:
    """One window at a time, straight from the definitions."""
    result = setup.evaluate()
    length = setup.experiment.model.context_length
    setup.model.eval()
    totals = []
    seen: Counter[int] = Counter()
    for source in setup.data.sources:
        nats = right = text_bytes = tokens = 0.0
        for window in setup.data.validation_windows(source.name, length, 1000):
            ids = torch.tensor(window.tolist())
            with torch.no_grad():
                logits = setup.model(ids[None, :-1])[0]
            for row, target in zip(logits.log_softmax(-1), ids[1:].tolist(), strict=True):
                nats -= row[target].item()
                right += row.argmax().item() == target
                text_bytes += len(setup.tokenizer.token_bytes[target])
                tokens += 1
                seen[target] += 1
        figures = result["sources"][source.name]
        assert figures["tokens"] == tokens
        assert figures["bytes"] == text_bytes
        assert figures["loss"] == pytest.approx(nats / tokens, rel=1e-5)
        assert figures["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
        assert figures["bits_per_byte"] == pytest.approx(nats / math.log(2) / text_bytes, rel=1e-5)
        assert figures["accuracy"] == pytest.approx(right / tokens)
        assert result["languages"][source.language] == figures, "one source a language here"
        totals.append((nats, tokens, right))
    nats, tokens, right = (sum(column) for column in zip(*totals, strict=True))
    assert result["overall"]["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert result["overall"]["accuracy"] == pytest.approx(right / tokens)
    entropy = -sum(n / tokens * math.log(n / tokens) for n in seen.values())
    assert result["overall"]["unigram_entropy"] == pytest.approx(entropy, rel=1e-9)
    names = {source.name: {**source.splits, "language": "ko"} for source in setup.data.sources}
    korean = PackedData(
        setup.data.directory, {"dtype": setup.data.dtype, "vocab_size": setup.data.vocab_size, "sources": names}
    )
    assert setup.evaluate(data=korean)["languages"] == {
        "ko": {name: figure for name, figure in result["overall"].items() if name != "unigram_entropy"}
    }, "two sources of one language"


def test_batches_and_chunks_do_not_matter(setup: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = setup.evaluate()["overall"]
    for batch, at_once in [(1, 1 << 24), (7, 1 << 24), (4, 1), (4, 512 * 13)]:
        monkeypatch.setattr("sllm.evaluation.loss.LOGITS_AT_ONCE", at_once)
        assert setup.evaluate(batch=batch)["overall"] == pytest.approx(expected, rel=1e-5)


def test_a_last_window_shorter_than_the_context_counts(setup: Prepared) -> None:
    result = setup.evaluate(tokens_per_source=10**9)
    for source in setup.data.sources:
        assert result["sources"][source.name]["tokens"] == source.tokens("validation") - 1


EVERYTHING = 10**9


def uneven_batch(setup: Prepared) -> int:
    """With batches of this size one of two ranks has nothing to do in the last round."""
    length = setup.experiment.model.context_length
    return next(size for size in range(5, 50) if len(_batches(setup.data, length, EVERYTHING, size)) % 2)


def _rank(values: dict[str, Any], rank: int, port: int, stopped_rank: int | None, output: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    setup = Prepared(values)
    stop = StopFlag()
    if rank == stopped_rank:
        stop.set(signal.SIGTERM)
    with connect() as world:
        result = evaluate(
            setup.model,
            setup.data,
            setup.tokenizer,
            tokens_per_source=EVERYTHING,
            batch=uneven_batch(setup),
            world=world,
            stop=stop,
        )
    Path(output).write_text(json.dumps(result), encoding="utf-8")


def on_two_ranks(values: dict[str, Any], directory: Path, stopped_rank: int | None = None) -> list[Any]:
    """What `evaluate` returns on each of two real ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    outputs = [directory / f"rank-{rank}.json" for rank in range(2)]
    ranks = [
        context.Process(target=_rank, args=(values, rank, port, stopped_rank, str(output)))
        for rank, output in enumerate(outputs)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    return [json.loads(output.read_text(encoding="utf-8")) for output in outputs]


def test_two_ranks_find_what_one_finds(prepared: dict[str, Any], setup: Prepared, tmp_path: Path) -> None:
    first, second = on_two_ranks(prepared, tmp_path)
    assert first == second
    alone = setup.evaluate(tokens_per_source=EVERYTHING)
    assert first["overall"] == pytest.approx(alone["overall"], rel=1e-5)
    for part in ("languages", "sources"):
        for name, figures in alone[part].items():
            assert first[part][name] == pytest.approx(figures, rel=1e-5)


def test_one_rank_that_must_stop_stops_both(prepared: dict[str, Any], tmp_path: Path) -> None:
    assert on_two_ranks(prepared, tmp_path, stopped_rank=1) == [None, None]


def test_a_stop_is_seen_at_the_next_batch(setup: Prepared) -> None:
    stop = StopFlag()
    batches = 0

    class Stopping(GPT2):
        """Its second batch is interrupted by a signal."""

        def hidden(self, *arguments: Any, **named: Any) -> torch.Tensor:
            nonlocal batches
            batches += 1
            if batches == 2:
                stop.set(signal.SIGTERM)
            return super().hidden(*arguments, **named)

    model = Stopping(setup.experiment.model, setup.tokenizer.vocab_size)
    found = evaluate(model, setup.data, setup.tokenizer, tokens_per_source=1000, batch=4, world=ONE, stop=stop)
    assert found is None
    assert batches == 2


@pytest.mark.parametrize("training", [True, False])
def test_leaves_the_model_as_it_was(setup: Prepared, training: bool) -> None:
    setup.model.train(training)
    first = setup.evaluate()
    assert setup.model.training == training
    setup.model.train(not training)
    assert setup.evaluate() == first, "dropout is off in either case"


def test_lower_precision_is_near(setup: Prepared) -> None:
    exact = setup.evaluate()["overall"]["loss"]
    rounded = setup.evaluate(precision="bf16", tokens_per_source=1000)["overall"]["loss"]
    assert rounded == pytest.approx(exact, rel=1e-2)
    assert rounded != exact


@pytest.fixture
def run(setup: Prepared, tmp_path: Path) -> RunDirectory:
    """A run directory as training leaves it."""
    directory = RunDirectory(tmp_path / "run")
    save_model(directory.best, setup.model, setup.artifacts.tokenizer / "tokenizer.json")
    directory.config.write_text(write_experiment(setup.experiment), encoding="utf-8")
    return directory


def test_the_stage_writes_what_it_returns(
    setup: Prepared, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    results = validate_stage(setup.experiment, run, setup.artifacts, StopFlag())
    written = run.stage("validate")
    assert read_json(written / "results.json") == results
    table = (written / "results.txt").read_text(encoding="utf-8")
    assert table.strip() in capsys.readouterr().out
    assert f"{results['overall']['bits_per_byte']:.4f}" in table
    assert [sample["prompt"] for sample in results["samples"]] == ["한국", "The"]
    assert all(sample["continuation"] for sample in results["samples"])
    tokens = min(4096, setup.data.source("sample-korean").tokens("validation") - 1)
    assert results["sources"]["sample-korean"]["tokens"] == tokens


def test_a_stopped_stage_writes_nothing(setup: Prepared, run: RunDirectory) -> None:
    stop = StopFlag(deadline=0.0)
    with pytest.raises(Stopped, match="deadline"):
        validate_stage(setup.experiment, run, setup.artifacts, stop)
    assert not run.stage("validate").exists()


def test_the_validator_finds_the_data_of_the_run(setup: Prepared, run: RunDirectory, tmp_path: Path) -> None:
    found = ModelValidator(run.best / "model.safetensors", tokens_per_source=1000).run_comprehensive_evaluation()
    assert found["overall"] == pytest.approx(setup.evaluate()["overall"], rel=1e-5)
    assert (run.stage("validate") / "results.json").is_file()
    given = ModelValidator(
        run.best,
        setup.artifacts.tokenizer / "tokenizer.json",
        setup.artifacts.packed,
        output=tmp_path / "elsewhere",
        tokens_per_source=1000,
    ).run_comprehensive_evaluation()
    assert given == read_json(tmp_path / "elsewhere" / "results.json")
    assert given["overall"] == found["overall"]


def test_parts_that_do_not_belong_together(setup: Prepared, run: RunDirectory, tmp_path: Path) -> None:
    lonely = tmp_path / "lonely"
    save_model(lonely, setup.model, setup.artifacts.tokenizer / "tokenizer.json")
    with pytest.raises(UserError, match="lies in no run directory"):
        ModelValidator(lonely).run_comprehensive_evaluation()
    merges = list(setup.tokenizer.merges)
    merges[-1] = (100, 101) if merges[-1] != (100, 101) else (102, 103)
    Tokenizer(merges).save(tmp_path / "other.json")
    with pytest.raises(UserError, match="does not match the packed data"):
        ModelValidator(
            run.best, tmp_path / "other.json", setup.artifacts.packed, output=tmp_path
        ).run_comprehensive_evaluation()


def test_a_model_that_overflows_has_figures_that_are_valid_json(setup: Prepared, tmp_path: Path) -> None:
    weight = setup.model.final_norm.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(math.inf)
    try:
        results = setup.evaluate()
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert results["overall"]["loss"] is None
    assert results["overall"]["perplexity"] is None
    write_results(tmp_path, {**results, "samples": []}, *tables({**results, "samples": []}))
    assert read_json(tmp_path / "results.json")["overall"]["bits_per_byte"] is None
    assert "not finite" in (tmp_path / "results.txt").read_text(encoding="utf-8")
