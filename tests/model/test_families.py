"""The architectures, with Transformers' GPT-2 and Qwen3 as oracles."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_models import KINDS, each_kind
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sllm.config import ModelConfig, TrainConfig, load_experiment
from sllm.device import Precision, autocast
from sllm.export.transformers import their_config, their_weights
from sllm.inference.decode import new_cache
from sllm.model.families import make_model
from sllm.model.first_weights import spelled
from sllm.model.gpt2 import sinusoidal_positions
from sllm.model.qwen3 import Block, rotate
from sllm.model.shared import LanguageModel
from sllm.model.size import checkpoint_bytes, parameter_count
from sllm.stop import no_check
from sllm.tokenizer import Tokenizer
from sllm.training.optim import make_optimizers
from sllm.training.snapshot import Snapshot

CONFIGS = Path(__file__).parents[2] / "configs"


def tiny(kind: str = "gpt2", **changes: float) -> ModelConfig:
    values = {"d_model": 48, "n_layers": 3, "n_heads": 4, "d_ff": 80, "context_length": 40, "dropout": 0.0}
    return ModelConfig.model_validate({**values, **KINDS[kind], **changes})


def random_model(config: ModelConfig, seed: int = 0) -> LanguageModel:
    """A model in which every tensor matters: biases and norms are random too, and logits are of a trained size."""
    torch.manual_seed(seed)
    model = make_model(config, Tokenizer([]).vocab_size).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def as_theirs(model: LanguageModel) -> PreTrainedModel:
    about = their_config(model, Tokenizer([]))
    config = AutoConfig.for_model(**about)
    theirs = AutoModelForCausalLM.from_config(config).eval()
    assert [type(theirs).__name__] == about["architectures"]
    missing, unexpected = theirs.load_state_dict(their_weights(model), strict=False)
    assert missing == (["lm_head.weight"] if model.config.tie_embeddings else []), "tied to the embedding"
    assert not unexpected
    theirs.tie_weights()
    return theirs


@each_kind
@pytest.mark.parametrize("seed", range(3))
def test_logits_are_theirs(kind: str, seed: int) -> None:
    model = random_model(tiny(kind), seed)
    tokens = torch.randint(model.vocab_size, (2, 40))
    with torch.no_grad():
        ours, theirs = model(tokens), as_theirs(model)(tokens).logits
    assert ours.std() > 1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_loss_and_gradients_are_those_of_gpt2(dropout: float) -> None:
    """With dropout too: both draw their random numbers at the same places, in the same order."""
    model = random_model(tiny(dropout=dropout)).train()
    theirs = as_theirs(model).train()
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


@each_kind
def test_no_token_sees_the_future(kind: str) -> None:
    model = random_model(tiny(kind))
    tokens = torch.randint(model.vocab_size, (1, 40))
    changed = tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % model.vocab_size
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:], atol=1e-2)


@each_kind
@pytest.mark.parametrize("pieces", [[40], [25, 15], [1, 1, 38], [39, 1], [10, 1, 1, 20, 8]])
def test_reading_in_pieces_through_a_cache_changes_nothing(kind: str, pieces: list[int]) -> None:
    model = random_model(tiny(kind))
    tokens = torch.randint(model.vocab_size, (2, 40))
    cache = new_cache(model, 2, 45)
    parts, start = [], 0
    with torch.no_grad():
        for length in pieces:
            parts.append(model.hidden(tokens[:, start : start + length], cache, torch.arange(start, start + length)))
            start += length
        torch.testing.assert_close(torch.cat(parts, dim=1), model.hidden(tokens), atol=1e-5, rtol=1e-5)


@each_kind
@pytest.mark.parametrize("cached", [False, True])
def test_padding_on_the_left_changes_nothing(kind: str, cached: bool) -> None:
    model = random_model(tiny(kind))
    row = torch.randint(model.vocab_size, (1, 17))
    filler = torch.randint(model.vocab_size, (1, 8))
    batch = torch.cat([torch.cat([filler, row], dim=1), torch.randint(model.vocab_size, (1, 25))])
    begins = torch.tensor([[8], [0]])
    with torch.no_grad():
        alone = model.hidden(row)[0]
        if cached:
            cache = new_cache(model, 2, 25)
            first = model.hidden(batch[:, :20], cache, None, begins)
            rest = [model.hidden(batch[:, i : i + 1], cache, torch.tensor([i]), begins) for i in range(20, 25)]
            padded = torch.cat([first, *rest], dim=1)
        else:
            padded = model.hidden(batch, begins=begins)
    assert padded.isfinite().all()
    torch.testing.assert_close(padded[0, 8:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "gpt2 untied"])
def test_positions_are_the_sinusoid_of_the_paper_at_a_quarter_of_the_embeddings_size(kind: str) -> None:
    table = sinusoidal_positions(tiny(kind, d_model=16, context_length=50))
    scale = table[0, 1]  # cos(0)
    for position, pair in [(0, 0), (3, 0), (7, 5), (49, 7)]:
        angle = torch.tensor(position / 10_000 ** (2 * pair / 16))
        torch.testing.assert_close(table[position, 2 * pair], scale * angle.sin(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(table[position, 2 * pair + 1], scale * angle.cos(), atol=1e-6, rtol=1e-5)
    torch.manual_seed(0)
    model = make_model(tiny(kind), 1000)
    embedded = model.embed(torch.arange(1000))
    assert 0.24 < model.positions.square().mean().sqrt() / embedded.square().mean().sqrt() < 0.26


@each_kind
def test_activation_checkpointing_changes_no_gradient(kind: str) -> None:
    model = random_model(tiny(kind, dropout=0.0 if "qwen3" in kind else 0.2)).train()
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


@each_kind
def test_starts_with_a_uniform_guess(kind: str) -> None:
    torch.manual_seed(0)
    model = make_model(tiny(kind, n_layers=12), 260)
    tokens = torch.randint(260, (4, 41))
    assert abs(model(tokens[:, :-1], tokens[:, 1:]).item() - torch.tensor(260.0).log().item()) < 0.1
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_a_tied_model_starts_as_gpt2_does(kind: str) -> None:
    torch.manual_seed(0)
    for name, parameter in make_model(tiny(kind, n_layers=12), 260).named_parameters():
        if parameter.ndim == 2:
            into_the_residual_stream = "attention.out" in name or "contract" in name
            std = 0.02 / 24**0.5 if into_the_residual_stream else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.1), name


@pytest.mark.parametrize("kind", ["gpt2 untied", "qwen3 untied, grouped"])
def test_start_values_with_an_output_layer_of_its_own(kind: str) -> None:
    torch.manual_seed(0)
    model = make_model(tiny(kind, d_model=64), 260)
    for name, parameter in model.named_parameters():
        if "attention.out" in name or "contract" in name:
            assert not parameter.any(), name
        elif parameter.ndim == 2 and not name.endswith(("q.weight", "k.weight")):
            stds = {"embedding": 0.8, "head": 0.001, "expand": 0.4 / 8, "gate": 0.4 / 8}
            std = next((std for part, std in stds.items() if part in name), 1 / 8)
            assert parameter.std(dim=0).mean().item() == pytest.approx(std, rel=0.1), name
    common = model.embedding.weight.mean(dim=0).square().mean().sqrt().item()
    assert common == pytest.approx(0.6 if "qwen3" in kind else 0.0, abs=0.1)


@pytest.mark.parametrize(("width", "heads", "kv_heads"), [(64, 4, 2), (128, 4, 4), (512, 4, 1)])
def test_heads_look_back_at_the_start(width: int, heads: int, kv_heads: int) -> None:
    torch.manual_seed(0)
    model = make_model(tiny("qwen3 untied, grouped", d_model=width, n_heads=heads, n_kv_heads=kv_heads), 1000)
    x = model.embed(torch.randint(1000, (8, 40)))
    for block in model.blocks:
        assert isinstance(block, Block)
        attention, y = block.attention, block.attention_norm(x)
        q, k = (layer(y).unflatten(-1, (-1, width // heads)).transpose(1, 2) for layer in (attention.q, attention.k))
        q, k = rotate(attention.q_norm(q), model.positions), rotate(attention.k_norm(k), model.positions)
        scores = (q @ k.repeat_interleave(heads // kv_heads, dim=1).mT) / (width // heads) ** 0.5
        seen = scores.masked_fill(~torch.ones(40, 40).tril().bool(), -torch.inf).softmax(-1)
        mean = torch.stack([seen.diagonal(-distance, 2, 3).mean(dim=(0, 2)) for distance in range(40)])
        assert mean.argmax(dim=0).tolist() == [1, 2, 3, 0]
        assert (mean[:8].sum(dim=0) > 0.5).all()


def test_first_weights_are_the_same_in_every_process() -> None:
    program = """
import torch
from sllm.config import ModelConfig
from sllm.model.families import make_model
config = ModelConfig(
    family="qwen3", d_model=32, n_layers=2, n_heads=2, d_ff=48, context_length=16, tie_embeddings=False, dropout=0.0
)
torch.manual_seed(3)
model = make_model(config, 99, [bytes([97 + a, 97 + b, 97 + a]) for a in range(9) for b in range(11)])
print([weight.detach().view(torch.int32).sum(dtype=torch.int64).item() for weight in model.parameters()])
"""
    found = [
        subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True)
        for seed in ("1", "2")
    ]
    assert found[0].stdout == found[1].stdout
    assert found[0].stdout.count(b",") > 10, found[0].stderr


def test_tokens_that_are_spelt_alike_start_alike() -> None:
    torch.manual_seed(0)
    words = ["walk", " walk", "Walking", "zebra", "학교", "학생", "는", "은", "\n", "<", " "]
    tokens = [b"", *(word.encode() for word in words), "한".encode()[:2]]
    table = dict(zip(["", *words, "half"], spelled(tokens, 4096), strict=True))

    def alike(a: str, b: str) -> float:
        return torch.cosine_similarity(table[a], table[b], dim=0).item()

    assert alike("walk", " walk") > 0.3
    assert alike("walk", "Walking") > 0.3
    assert alike("walk", "zebra") < 0.2
    assert alike("학교", "학생") > alike("학교", "zebra") + 0.1
    assert alike("는", "은") > 0.2, "both end in ㅡㄴ"
    assert all(abs(alike("", other)) < 0.1 for other in ["walk", "\n", "half"])
    assert all(vector.std().item() == pytest.approx(1, rel=0.1) for vector in table.values())


@each_kind
def test_sizes_are_those_that_are_computed_without_a_model(kind: str) -> None:
    with torch.device("meta"):
        model = make_model(tiny(kind), 260)
    tables = [model.embedding.weight, *([] if model.head is None else [model.head.weight])]
    count = sum(p.numel() for p in model.parameters())
    assert parameter_count(model.config, 260) == (count, count - sum(table.numel() for table in tables))


@each_kind
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_size_of_a_checkpoint(tmp_path: Path, kind: str, optimizer: str) -> None:
    model = random_model(tiny(kind))
    train = TrainConfig.model_validate({"max_steps": 1, "global_batch": 1, "micro_batch": 1, "optimizer": optimizer})
    optimizers = make_optimizers(model, train)
    tokens = torch.randint(model.vocab_size, (1, 41))
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    for each in optimizers:
        each.step()
    snapshot = Snapshot(0, 1)
    snapshot.take(model, optimizers)
    snapshot.write(tmp_path, no_check)
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    assert size == pytest.approx(checkpoint_bytes(model.config, train, model.vocab_size), rel=0.1)


@pytest.mark.parametrize(("name", "millions"), [("small", 85), ("default", 303)])
def test_sizes_of_the_shipped_shapes(name: str, millions: int) -> None:
    experiment = load_experiment(CONFIGS / f"{name}.yaml")
    vocab_size = experiment.tokenizer.vocab_size
    _, without_embeddings = parameter_count(experiment.model, vocab_size)
    assert abs(without_embeddings / 1e6 - millions) < 1


@each_kind
@pytest.mark.parametrize(("precision", "stream"), [("bf16", torch.bfloat16), ("fp16", torch.float32)])
def test_the_residual_stream_is_bf16_where_the_products_are_and_never_fp16(
    kind: str, precision: Precision, stream: torch.dtype
) -> None:
    model = random_model(tiny(kind))
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    norms = []
    for layer in (each for each in model.modules() if isinstance(each, nn.LayerNorm | nn.RMSNorm)):
        layer.register_forward_hook(lambda _, inputs, output: norms.append(output.dtype))
    tokens = torch.randint(model.vocab_size, (2, 17))
    exact = model(tokens[:, :-1], tokens[:, 1:])
    with autocast(torch.device("cpu"), precision):
        loss = model(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    assert seen == [*[(torch.float32, torch.float32)] * 3, *[(stream, stream)] * 3]
    assert set(norms) == {torch.float32}
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)
    assert {each.grad.dtype for each in model.parameters() if each.grad is not None} == {torch.float32}
