"""The architecture, with Transformers' GPT-2 as the oracle."""

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sllm.config import ModelConfig, load_experiment
from sllm.export.transformers import gpt2_config, gpt2_weights
from sllm.inference.decode import new_cache
from sllm.model.gpt2 import GPT, sinusoidal_positions
from sllm.model.size import parameter_count
from sllm.tokenizer import Tokenizer

CONFIGS = Path(__file__).parents[2] / "configs"


def tiny(**changes: float) -> ModelConfig:
    values = {"d_model": 48, "n_layers": 3, "n_heads": 4, "d_ff": 80, "context_length": 40, "dropout": 0.0}
    return ModelConfig.model_validate({**values, **changes})


def random_model(config: ModelConfig, seed: int = 0) -> GPT:
    """A model in which every tensor matters: biases and norms are random too, and logits are of a trained size."""
    torch.manual_seed(seed)
    model = GPT(config, Tokenizer([]).vocab_size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def as_gpt2(model: GPT) -> GPT2LMHeadModel:
    theirs = GPT2LMHeadModel(GPT2Config(**gpt2_config(model, Tokenizer([])))).eval()
    missing, unexpected = theirs.load_state_dict(gpt2_weights(model), strict=False)
    assert missing == ["lm_head.weight"], "tied to the embedding"
    assert not unexpected
    theirs.tie_weights()
    return theirs


@pytest.mark.parametrize("seed", range(3))
def test_logits_are_those_of_gpt2(seed: int) -> None:
    model = random_model(tiny(), seed)
    tokens = torch.randint(model.vocab_size, (2, 40))
    with torch.no_grad():
        ours, theirs = model(tokens), as_gpt2(model)(tokens).logits
    assert ours.std() > 1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_loss_and_gradients_are_those_of_gpt2(dropout: float) -> None:
    """With dropout too: both draw their random numbers at the same places, in the same order."""
    model = random_model(tiny(dropout=dropout)).train()
    theirs = as_gpt2(model).train()
    tokens = torch.randint(model.vocab_size, (2, 41))
    torch.manual_seed(7)
    loss = model(tokens[:, :-1], tokens[:, 1:])
    torch.manual_seed(7)
    logits = theirs(tokens[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    loss.backward()
    expected.backward()
    block = theirs.transformer.h[1]
    torch.testing.assert_close(model.embedding.weight.grad, theirs.transformer.wte.weight.grad, atol=1e-5, rtol=1e-3)
    grad = model.blocks[1].attention.qkv.weight.grad
    torch.testing.assert_close(grad, block.attn.c_attn.weight.grad.t(), atol=1e-5, rtol=1e-3)


def test_no_token_sees_the_future() -> None:
    model = random_model(tiny())
    tokens = torch.randint(model.vocab_size, (1, 40))
    changed = tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % model.vocab_size
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:], atol=1e-2)


@pytest.mark.parametrize("pieces", [[40], [25, 15], [1, 1, 38], [39, 1], [10, 1, 1, 20, 8]])
def test_reading_in_pieces_through_a_cache_changes_nothing(pieces: list[int]) -> None:
    model = random_model(tiny())
    tokens = torch.randint(model.vocab_size, (2, 40))
    cache = new_cache(model, 2, 45)
    parts, start = [], 0
    with torch.no_grad():
        for length in pieces:
            parts.append(model.hidden(tokens[:, start : start + length], cache, start))
            start += length
        torch.testing.assert_close(torch.cat(parts, dim=1), model.hidden(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cached", [False, True])
def test_padding_on_the_left_changes_nothing(cached: bool) -> None:
    model = random_model(tiny())
    row = torch.randint(model.vocab_size, (1, 17))
    filler = torch.randint(model.vocab_size, (1, 8))
    batch = torch.cat([torch.cat([filler, row], dim=1), torch.randint(model.vocab_size, (1, 25))])
    padding = torch.tensor([8, 0])
    with torch.no_grad():
        alone = model.hidden(row)[0]
        if cached:
            cache = new_cache(model, 2, 25)
            first = model.hidden(batch[:, :20], cache, 0, padding)
            rest = [model.hidden(batch[:, i : i + 1], cache, i, padding) for i in range(20, 25)]
            padded = torch.cat([first, *rest], dim=1)
        else:
            padded = model.hidden(batch, padding=padding)
    assert padded.isfinite().all()
    torch.testing.assert_close(padded[0, 8:], alone, atol=1e-5, rtol=1e-5)


def test_positions_are_the_sinusoid_of_the_paper_at_a_quarter_of_the_embeddings_size() -> None:
    table = sinusoidal_positions(50, 16)
    scale = table[0, 1]  # cos(0)
    for position, pair in [(0, 0), (3, 0), (7, 5), (49, 7)]:
        angle = torch.tensor(position / 10_000 ** (2 * pair / 16))
        torch.testing.assert_close(table[position, 2 * pair], scale * angle.sin(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(table[position, 2 * pair + 1], scale * angle.cos(), atol=1e-6, rtol=1e-5)
    torch.manual_seed(0)
    model = GPT(tiny(), 1000)
    ratio = model.positions.square().mean().sqrt() / model.embedding.weight.square().mean().sqrt()
    assert 0.24 < ratio < 0.26


def test_activation_checkpointing_changes_no_gradient() -> None:
    model = random_model(tiny(dropout=0.2)).train()
    tokens = torch.randint(model.vocab_size, (2, 41))
    gradients = []
    for on in (False, True):
        model.activation_checkpointing = on
        model.zero_grad()
        torch.manual_seed(7)
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(model.parameters()))
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-6, rtol=1e-5)


def test_starts_as_gpt2_does() -> None:
    """Random logits are near zero, so the first loss is that of a uniform guess."""
    torch.manual_seed(0)
    model = GPT(tiny(n_layers=12), 260)
    tokens = torch.randint(260, (4, 41))
    assert abs(model(tokens[:, :-1], tokens[:, 1:]).item() - torch.tensor(260.0).log().item()) < 0.1
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            into_the_residual_stream = "attention.out" in name or "contract" in name
            std = 0.02 / 24**0.5 if into_the_residual_stream else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.1), name


@pytest.mark.parametrize(("name", "millions"), [("small", 85), ("default", 303)])
def test_sizes_of_the_shipped_shapes(name: str, millions: int) -> None:
    experiment = load_experiment(CONFIGS / f"{name}.yaml")
    vocab_size = experiment.tokenizer.vocab_size
    with torch.device("meta"):
        model = GPT(experiment.model, vocab_size)
        theirs = GPT2LMHeadModel(GPT2Config(**gpt2_config(model, Tokenizer([]))))
    count = sum(p.numel() for p in model.parameters())
    without_embeddings = count - vocab_size * experiment.model.d_model
    assert abs(without_embeddings / 1e6 - millions) < 1
    assert parameter_count(experiment.model, vocab_size) == (count, without_embeddings)
    # The position table is a parameter there and a constant here.
    table = experiment.model.context_length * experiment.model.d_model
    assert sum(p.numel() for p in theirs.parameters()) == count + table
