"""A fine-tuning by the same loop: it begins with the best model, learns the answers, and goes on after a stop."""

from pathlib import Path

import pytest
import tiny
import torch
import torch.nn.functional as F

from sllm.artifacts import Artifacts
from sllm.config import load_experiment
from sllm.data.conversations.stage import conversations_stage
from sllm.data.download import download_stage
from sllm.data.masks import answers, beginnings
from sllm.data.pack import pack_stage
from sllm.data.sampler import PackedData, Sampler
from sllm.model.storage import load_model
from sllm.origin import TOKENIZER, is_tuned
from sllm.records import read_jsonl
from sllm.run_directory import RunDirectory, checkpoint_path
from sllm.stop import StopFlag
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.training import tokenizer_stage
from sllm.training.loop import train

STEPS = 6
CHANGES = ["model.dropout=0.0", "model.context_length=48"]  # some conversations in a window


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment whose stages before the fine-tuning are done."""
    place = tmp_path_factory.mktemp("tuning")
    texts, said = tiny.write_texts(place / "texts"), tiny.write_conversations(place / "said")
    config = tiny.write_experiment(place, texts, tuning=tiny.finetune(said, max_steps=STEPS, checkpoint={"every": 100}))
    experiment, stop = load_experiment(config, CHANGES), StopFlag()
    artifacts, run = Artifacts(experiment), RunDirectory(experiment.run_path)
    tokenizer = artifacts.tokenizer / TOKENIZER
    download_stage(experiment, artifacts.corpus, stop, workers=1)
    tokenizer_stage(experiment, artifacts.corpus, artifacts.tokenizer, stop)
    pack_stage(experiment, artifacts.corpus, tokenizer, artifacts.packed, stop, workers=1)
    conversations_stage(experiment, artifacts.conversations_corpus, tokenizer, artifacts.conversations, stop)
    run.path.mkdir(parents=True)
    assert train(experiment, run, artifacts, stop)["outcome"] == "finished"
    return config


def tune(config: Path, run: RunDirectory, *overrides: str, until: int | None = None) -> dict[int, float]:
    """Its losses. With `until`, it is asked to stop at that step."""
    experiment = load_experiment(config, [*CHANGES, *overrides])
    best = RunDirectory(experiment.run_path).best
    run.path.mkdir(exist_ok=True)
    if not run.best.exists():
        run.best.symlink_to(best)
    stop = StopFlag()
    if until is not None:
        stop = _StopsAt(run.training("finetune").metrics, until)
    outcome = train(experiment.tuning(), run, Artifacts(experiment), stop, "finetune")["outcome"]
    assert outcome == ("finished" if until is None else "stopped")
    metrics = read_jsonl(run.training("finetune").metrics)
    return {record["step"]: record["loss"] for record in metrics if record["kind"] == "train"}


class _StopsAt(StopFlag):
    """Raised when the metrics have come so far."""

    def __init__(self, metrics: Path, step: int) -> None:
        super().__init__()
        self._metrics, self._step = metrics, step

    @property
    def requested(self) -> bool:
        return self._metrics.exists() and any(record["step"] >= self._step for record in read_jsonl(self._metrics))


def last_weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    checkpoint = checkpoint_path(run.training("finetune").checkpoints, STEPS)
    return dict(load_model(checkpoint).state_dict())


def test_the_first_loss_is_that_of_the_best_model_over_the_answers_of_the_batch(
    pretrained: Path, tmp_path: Path
) -> None:
    experiment = load_experiment(pretrained, CHANGES)
    losses = tune(pretrained, RunDirectory(tmp_path / "run"))
    data = PackedData.open(Artifacts(experiment).conversations, None)
    length, tuning = experiment.model.context_length, experiment.tuning()
    weights = {source.name: source.weight for source in tuning.data.sources}
    order = Sampler(data, weights, length, experiment.seed, global_batch=tuning.train.global_batch)
    windows = order.batch(0, tuning.train.global_batch)
    model = load_model(RunDirectory(experiment.run_path).best)
    learnt = torch.from_numpy(answers(windows))
    with torch.no_grad():
        hidden = model.hidden(torch.from_numpy(windows[:, :-1]), begins=torch.from_numpy(beginnings(windows[:, :-1])))
        nats = F.cross_entropy(model.logits(hidden[learnt]), torch.from_numpy(windows[:, 1:])[learnt])
    assert (windows == Tokenizer.bos_id).sum(axis=1).max() > 1
    assert len({int(row.sum()) for row in learnt}) > 1, "windows with as many answers each would not show it"
    assert losses[1] == pytest.approx(nats.item(), abs=1e-5)
    assert losses[STEPS] < losses[1]
    counts = [data.answers("train", name)[window] for name, window in order.windows(0, len(windows))]
    assert counts == [int(row.sum()) for row in learnt]


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_a_micro_batch_of_another_size_gives_the_same_training(
    pretrained: Path, tmp_path: Path, micro_batch: int
) -> None:
    one, other = RunDirectory(tmp_path / "one"), RunDirectory(tmp_path / "other")
    losses = tune(pretrained, one)
    assert tune(pretrained, other, f"finetune.train.micro_batch={micro_batch}") == pytest.approx(losses, abs=1e-4)
    mine, theirs = last_weights(one), last_weights(other)
    assert max((mine[name] - theirs[name]).abs().max().item() for name in mine) < 1e-4


def test_it_goes_on_after_a_stop_to_the_last_bit(pretrained: Path, tmp_path: Path) -> None:
    straight, stopped = RunDirectory(tmp_path / "straight"), RunDirectory(tmp_path / "stopped")
    losses = tune(pretrained, straight)
    assert max(tune(pretrained, stopped, until=2)) < STEPS
    assert tune(pretrained, stopped) == losses
    mine, theirs = last_weights(straight), last_weights(stopped)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    tuned = straight.training("finetune")
    for directory in (tuned.best, checkpoint_path(tuned.checkpoints, STEPS)):
        assert is_tuned(directory)
    assert not is_tuned(straight.best)
