"""What an experiment may say of a fine-tuning: conversations, and another training on them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from pydantic import Field, model_validator

from sllm.config.data import DataConfig
from sllm.config.section import Positive, Section, Strings, combined, fields
from sllm.config.sources import FilesSource, HubSource
from sllm.config.training import TrainConfig, ValidateConfig
from sllm.errors import UserError

QUESTIONS = (
    "자기소개를 해 주세요.",
    "대한민국의 수도는 어디인가요?",
    "하늘이 왜 파란지 쉽게 설명해 주세요.",
    "김치찌개를 끓이는 방법을 알려 주세요.",
    "친구에게 보낼 생일 축하 문장을 하나 써 주세요.",
    "Who are you?",
    "What is the capital of France?",
    "Why do leaves change colour in autumn?",
    "Give me three tips for sleeping well.",
    "Write one sentence that thanks a teacher.",
)


class ConversationsConfig(DataConfig):
    """Which conversations there are, and which of them stay: sources, cleaning and mixing as for text."""

    min_characters: Positive = 1
    """Conversations with fewer characters in all their texts are dropped."""
    near_duplicates: bool = True
    """Drop conversations that are nearly equal to another of any source, not only those that are equal."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.02
    """Conversations that are held out of training, to validate on."""

    @model_validator(mode="after")
    def _check_layouts(self) -> "ConversationsConfig":
        problems = [
            f"sources.{number}.text_field: {source.text_field!r}, but conversations are found by their layout; leave "
            f"it out"
            for number, source in enumerate(self.sources)
            if isinstance(source, FilesSource | HubSource) and source.text_field != "text"
        ]
        return combined(self, problems)


class AnswersConfig(ValidateConfig):
    """The validation loss, of answers, in the fine-tuning and of the tuned model after it."""

    prompts: Strings = QUESTIONS
    """Questions that the model answers at each validation; the report shows the answers before and after tuning."""


class FinetuneConfig(Section):
    """Teach the best model to answer: a second training, on conversations, that begins with its weights."""

    data: ConversationsConfig
    train: TrainConfig
    validate_: Annotated[AnswersConfig, Field(alias="validate")] = AnswersConfig()


SETTINGS = "|".join(
    rf"{name}\.(?:{'|'.join(fields(section))})"
    for name, section in (("data", ConversationsConfig), ("train", TrainConfig), ("validate", AnswersConfig))
)


@contextmanager
def names_of_finetune() -> Iterator[None]:
    """What works with `Experiment.tuning()` calls its settings `data.…` and `train.…`; a UserError that leaves this
    block calls them as the user does, `finetune.data.…`. Also a decorator."""
    try:
        yield
    except UserError as error:
        raise UserError(re.sub(rf"(?<![\w./])(?=(?:{SETTINGS})\b)", "finetune.", str(error))) from error
