"""Which attention a training uses on a GPU: the fastest that gives the same bits twice.

That is FlashAttention 3 where it is installed, else FlexAttention, which Triton compiles; neither knows dropout. Else
what PyTorch chooses, flash attention in its deterministic way.
"""

from typing import Any

import torch

from sllm.config import TrainConfig
from sllm.model.shared import LanguageModel

FLASH_3, FLEX, OWN = "FlashAttention 3", "FlexAttention", ""


def choose_attention(model: LanguageModel, train: TrainConfig) -> str:
    """Make `model` use it in training, and return its name; "" is PyTorch's own choice."""
    device = model.positions.device
    if device.type != "cuda" or model.config.dropout or train.precision == "fp32":
        return OWN
    if torch.cuda.get_device_capability(device)[0] == 9 and flash_3():
        return FLASH_3
    if train.compile:  # else it would write out all scores
        use_flex(model)
        return FLEX
    return OWN


def use_flex(model: LanguageModel) -> None:
    model.training_mask = causal_mask(model.config.context_length, model.positions.device)


def causal_mask(length: int, device: torch.device) -> Any:
    """FlexAttention's: which blocks of queries see which of keys."""
    from torch.nn.attention.flex_attention import create_block_mask

    def causal(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return query >= key

    return create_block_mask(causal, None, None, length, length, device=str(device))


def use_own(model: LanguageModel) -> str:
    """Undo what `choose_attention` did."""
    model.training_mask = None
    if model.positions.is_cuda:
        torch.nn.attention.restore_flash_attention_impl(_raise_warn=False)
    return OWN


def flash_3() -> bool:
    """Whether PyTorch's flash attention is FlashAttention 3 from now on, which its package, `flash_attn_interface`,
    must be there for."""
    try:
        torch.nn.attention.activate_flash_attention_impl("FA3")
    except Exception:  # of an import, of a library that does not fit, of a PyTorch that does not know it
        return False
    return True
