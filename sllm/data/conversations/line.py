"""A conversation as a document of a corpus: one line of JSON, its messages."""

import json
from collections.abc import Sequence
from typing import Any

from sllm.tokenizer.template import Message


def to_line(messages: Sequence[Message]) -> str:
    """`[{"role":"user","content":"…"},…]`: equal messages are equal lines."""
    plain = [{"role": message["role"], "content": message["content"]} for message in messages]
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


def from_line(text: str) -> Any:
    """The messages, or what else `sllm.data.conversations.read` found where there were none."""
    return json.loads(text)


def texts_of(text: str) -> str:
    """What is said in a conversation, a blank line between two messages."""
    return "\n\n".join(message["content"] for message in from_line(text))
