"""Several conversations in a window: each is what it would be alone, and of each the answers are learnt."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import KINDS
from torch import Tensor

from sllm.config import ModelConfig
from sllm.data.masks import answers, beginnings
from sllm.model.families import make_model
from sllm.model.shared import LanguageModel

BOS, USER, ASSISTANT, END = 2, 5, 6, 7
VOCABULARY = 300


def conversation(length: int, question: int) -> list[int]:
    """So many tokens, so many of them the question."""
    rest = torch.randint(16, VOCABULARY, (length - question - 5,)).tolist()
    asked = torch.randint(16, VOCABULARY, (question,)).tolist()
    return [BOS, USER, *asked, END, ASSISTANT, *rest, END]


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(0)
    values = {"d_model": 48, "n_layers": 3, "n_heads": 4, "d_ff": 80, "context_length": 40, "dropout": 0.0}
    model = make_model(ModelConfig.model_validate({**values, **KINDS[request.param]}), VOCABULARY)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def packed(model: LanguageModel) -> tuple[list[list[int]], np.ndarray]:
    """Conversations, and one window (1, T + 1) that holds them, with filler behind."""
    room = model.config.context_length + 1
    texts = [conversation(9, 2), conversation(12, 4), conversation(room - 9 - 12 - 3, 1)]
    window = np.array([[token for text in texts for token in text] + 3 * [0]])
    assert window.shape[1] == room
    return texts, window


def as_tensors(window: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens = torch.from_numpy(window)
    begins, learnt = beginnings(window[:, :-1]), np.flatnonzero(answers(window))
    return tokens[:, :-1], tokens[:, 1:], torch.from_numpy(begins), torch.from_numpy(learnt)


def test_none_sees_another(model: LanguageModel, packed: tuple[list[list[int]], np.ndarray]) -> None:
    texts, window = packed
    tokens, _, begins, _ = as_tensors(window)
    start = 0
    with torch.no_grad():
        found = model.hidden(tokens, begins=begins)[0]
        for text in texts:
            alone = model.hidden(torch.tensor([text]))[0]
            length = min(len(text), len(found) - start)
            torch.testing.assert_close(found[start : start + length], alone[:length], atol=2e-5, rtol=1e-4)
            start += len(text)


def test_the_loss_is_the_mean_over_the_answers(
    model: LanguageModel, packed: tuple[list[list[int]], np.ndarray]
) -> None:
    texts, window = packed
    tokens, targets, begins, learnt = as_tensors(window)
    count = sum(len(text) - text.index(ASSISTANT) - 1 for text in texts)
    assert len(learnt) == count
    loss = model(tokens, targets, begins, learnt)
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    nats = torch.zeros(())
    for text in texts:
        row = torch.tensor(text)
        first = text.index(ASSISTANT)
        nats = nats + F.cross_entropy(model(row[None, :-1])[0, first:], row[first + 1 :], reduction="sum")
    plain = nats / count
    plain.backward()
    torch.testing.assert_close(loss, plain, atol=1e-5, rtol=1e-5)
    others = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for found, expected in zip(gradients, others, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_of_parts_of_a_batch_the_losses_add_up(
    model: LanguageModel, packed: tuple[list[list[int]], np.ndarray]
) -> None:
    """Divided by the answers of a whole batch over its parts, their mean is the mean over all answers, however many
    each part has."""
    _, window = packed
    other = window.copy()
    other[0, 9 + 12 :] = 0  # two of the conversations
    both = np.concatenate([window, other])
    tokens, targets, begins, learnt = as_tensors(both)
    with torch.no_grad():
        whole = model(tokens, targets, begins, learnt)
        parts = [model(*as_tensors(part), len(learnt) / 2) for part in (window, other)]
    assert len(as_tensors(window)[3]) != len(as_tensors(other)[3])
    torch.testing.assert_close((parts[0] + parts[1]) / 2, whole, atol=1e-5, rtol=1e-5)
