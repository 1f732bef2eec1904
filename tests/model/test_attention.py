"""FlexAttention's mask, against PyTorch's own attention, and when it is chosen."""

import pytest
import torch
from small_models import random_model, small_config

from sllm.config import TrainConfig
from sllm.model.attention import FLASH_3, FLEX, OWN, choose_attention, use_flex, use_own
from sllm.model.families import make_model

TRAIN = {"max_steps": 1, "global_batch": 1, "micro_batch": 1, "compile": True}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kind", ["gpt2 untied", "qwen3 untied, grouped"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_flex_attention_is_causal_attention(kind: str, checkpointing: bool) -> None:
    model = random_model(kind=kind).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for block in model.blocks:
        block.attention.dropout = 0.0  # type: ignore[union-attr]
    tokens = torch.randint(model.vocab_size, (2, model.config.context_length))
    model.activation_checkpointing = checkpointing
    with torch.no_grad():  # which is all that it can do on a CPU
        own = model.hidden(tokens)
        use_flex(model)
        flex = model.hidden(tokens)
        assert not torch.equal(flex, own), "another sum"
        torch.testing.assert_close(flex, own, atol=1e-4, rtol=1e-4)
        use_own(model)
        assert torch.equal(model.hidden(tokens), own)


def test_a_model_that_does_not_train_uses_pytorchs_own() -> None:
    """Validation and sampling know other lengths, padding and caches."""
    model = random_model(kind="qwen3").eval()
    tokens = torch.randint(model.vocab_size, (2, 9))
    own = model.hidden(tokens)
    use_flex(model)
    assert torch.equal(model.hidden(tokens), own)


@pytest.mark.parametrize(
    ("capability", "flash_3", "dropout", "train", "chosen"),
    [
        ((9, 0), True, 0.0, {}, FLASH_3),
        ((9, 0), True, 0.0, {"compile": False}, FLASH_3),
        ((9, 0), False, 0.0, {}, FLEX),
        ((8, 0), True, 0.0, {}, FLEX),
        ((9, 0), False, 0.0, {"compile": False}, OWN),
        ((9, 0), True, 0.1, {}, OWN),
        ((9, 0), True, 0.0, {"precision": "fp32"}, OWN),
    ],
)
def test_what_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    flash_3: bool,
    dropout: float,
    train: dict[str, object],
    chosen: str,
) -> None:
    """Of a GPU that is not here."""
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    monkeypatch.setattr("sllm.model.attention.flash_3", lambda: flash_3)
    monkeypatch.setattr("sllm.model.attention.use_flex", lambda model: None)
    model = make_model(small_config().model_copy(update={"dropout": dropout}), 300)
    config = TrainConfig.model_validate({**TRAIN, **train})
    assert choose_attention(model, config) == OWN, "on a CPU"
    object.__setattr__(model, "positions", type("OnAGpu", (), {"device": torch.device("cuda")}))
    assert choose_attention(model, config) == chosen
