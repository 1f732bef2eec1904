"""What an exact resume rests on beside the loop: gradients that are the same twice."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sllm.artifacts import Artifacts
from sllm.config import Experiment, validate
from sllm.distributed import World
from sllm.errors import UserError
from sllm.training.trainer import Trainer


def test_gradients_that_are_not_the_same_twice_stop_a_training_before_its_first_step(
    prepared: dict[str, Any], tmp_path: Path
) -> None:
    experiment = validate(Experiment, {**prepared, "runs_directory": str(tmp_path)}, "test")
    trainer = Trainer(experiment, Artifacts(experiment), World(0, 1, 0, torch.device("cpu")))
    trainer.check_determinism()
    assert all(parameter.grad is None for parameter in trainer.model.parameters()), "the first step begins from nothing"

    noise = torch.Generator()
    trainer.model.blocks[1].register_forward_hook(
        lambda module, inputs, output: output + 1e-3 * torch.randn(1, generator=noise)
    )
    with pytest.raises(UserError, match=r"two gradients on cpu.*rank 0: \d+ of \d+, embedding\.weight first") as told:
        trainer.check_determinism()
    assert "train.compile=false" in str(told.value)
