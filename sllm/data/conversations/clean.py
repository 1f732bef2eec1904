"""What stays of conversations. The rules are those for text (`sllm.data.clean`), but a conversation is kept whole or
not at all: an answer without its question, or half of it, teaches something else.

Each message comes to the normal form, without personal data. Language, and what benchmarks ask for, are looked for in
all that is said; repetition in the answers alone, since nobody learns the questions, and many ask to mend a text.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sllm.config import DataConfig, Language
from sllm.data.clean import Cleaner, Document, Dropped, Lost, document_of
from sllm.data.conversations.line import from_line, texts_of, to_line
from sllm.data.personal_data import mask_personal_data
from sllm.data.text import normalise
from sllm.tokenizer.codec import SPECIAL_TOKENS
from sllm.tokenizer.template import ASSISTANT, SYSTEM, USER, Message, problem

if TYPE_CHECKING:
    from sllm.data.contamination import TaskText


class ConversationCleaner:
    """Cleans the conversations of a source. What becomes of one depends on nothing but what is said in it, and the
    items of tasks that it is compared with."""

    reasons = tuple(reason for reason in Dropped if reason is not Dropped.BOILERPLATE)

    def __init__(self, config: DataConfig, language: Language, tasks: "TaskText | None" = None) -> None:
        self._config, self._texts = config, Cleaner(config, language, tasks)

    def clean(self, text: str) -> Iterator[Document | Lost]:
        """The conversation, without what no assistant answers at its end; or why it is dropped. What comes out, cleaned
        again, is the same."""
        found = from_line(text)
        if not isinstance(found, list):
            yield Lost(Dropped.NO_CONVERSATION, normalise(text))
            return
        while found and found[-1]["role"] in (USER, SYSTEM):
            found.pop()
        messages, masked = [], Counter[str]()
        for message in found:
            content = normalise(message["content"])
            if self._config.clean.personal_data:
                content, counts = mask_personal_data(content)
                masked.update(counts)
            messages.append({"role": normalise(message["role"]), "content": content})
        if lost := self._why_not(messages):
            yield lost
        else:
            yield document_of(to_line(messages), masked, self._config.validation_fraction)

    def _why_not(self, messages: Sequence[Message]) -> Lost | None:
        reason = self._form(messages) or self._length(messages)
        said = texts_of(to_line(messages))
        if reason is None:
            if not self._texts.is_of_the_language(said):
                reason = Dropped.LANGUAGE
            elif lost := self._texts.contaminated(said):
                return lost
            elif self._config.clean.repetition:
                answers = [message["content"] for message in messages if message["role"] == ASSISTANT]
                reason = next(filter(None, map(self._texts.repetition, answers)), None)
        shown = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
        return Lost(reason, shown) if reason else None

    def _form(self, messages: Sequence[Message]) -> Dropped | None:
        contents = [message["content"] for message in messages]
        if any(token in content for token in SPECIAL_TOKENS for content in contents):
            return Dropped.SPECIAL_TOKEN
        if not all(contents):
            return Dropped.EMPTY_TURN
        return Dropped.ROLES if problem(messages, ends_with=ASSISTANT) else None

    def _length(self, messages: Sequence[Message]) -> Dropped | None:
        characters = sum(len(message["content"]) for message in messages)
        if characters < self._config.min_characters:
            return Dropped.TOO_SHORT
        return Dropped.TOO_LONG if characters > self._config.max_characters else None
