"""A model as training leaves it."""

from pathlib import Path

import pytest
from small_models import random_model

from sllm.inference.generator import TextGenerator
from sllm.model.storage import save_model
from sllm.tokenizer import Tokenizer


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model as training leaves it, with its tokenizer."""
    Tokenizer([]).save(tmp_path / "t" / "tokenizer.json")
    save_model(tmp_path / "best", random_model(), tmp_path / "t" / "tokenizer.json")
    return tmp_path / "best"


@pytest.fixture
def generator(directory: Path) -> TextGenerator:
    return TextGenerator(directory, device="cpu")


@pytest.fixture
def tuned(tmp_path: Path) -> TextGenerator:
    """A model that has learnt conversations, or says so: the small random one."""
    Tokenizer([]).save(tmp_path / "t" / "tokenizer.json")
    save_model(tmp_path / "tuned", random_model(), tmp_path / "t" / "tokenizer.json", tuned=True)
    return TextGenerator(tmp_path / "tuned", device="cpu")
