"""The common layouts of conversations, told by the keys of a row, as messages.

    messages        [{"role": "user", "content": …}, …]
    conversations   [{"from": "human", "value": …}, …], ShareGPT's
    instruction     with input, and output: Alpaca's; prompt or question, context, and response, answer or completion

`system` or `system_prompt` beside them is what the system says first. Nothing is judged here: roles that are not known
stay, and texts that are missing are empty, for the cleaning to count.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sllm.errors import UserError
from sllm.tokenizer.template import ASSISTANT, SYSTEM, USER

LISTS = ("messages", "conversations", "conversation")
QUESTIONS = ("instruction", "prompt", "question")
MORE = ("input", "context")
ANSWERS = ("output", "response", "answer", "completion")
SYSTEMS = ("system", "system_prompt")

ROLE_KEYS, TEXT_KEYS = ("role", "from"), ("content", "value")
NAMES = {"human": USER, "gpt": ASSISTANT}
"""How ShareGPT calls the roles."""

KNOWN = "messages (role, content), conversations (from, value), or instruction, prompt or question with output, \
response, answer or completion"


def columns_of(keys: Collection[str]) -> list[str]:
    """Those of the keys that hold a conversation; none if none do."""

    def first(names: Sequence[str]) -> list[str]:
        return [name for name in names if name in keys][:1]

    found = first(LISTS)
    if not found and (question := first(QUESTIONS)) and (answer := first(ANSWERS)):
        found = [*question, *(name for name in MORE if name in keys), *answer]
    return found and [*found, *first(SYSTEMS)]


def unknown(where: str, keys: Collection[str]) -> UserError:
    """What to tell of a file without a layout that is known here."""
    return UserError(
        f"{where}: no conversation: its keys are {', '.join(map(str, keys)) or 'none'}, and those of conversations "
        f"{KNOWN}; write it so, or leave the file out"
    )


def messages_of(row: Mapping[str, Any]) -> list[dict[str, str]] | None:
    """The messages of a row; None if it holds none, or what is no text where texts should be."""
    columns = columns_of(row.keys())
    values = [row.get(name) for name in columns]
    if columns and columns[0] in LISTS:
        items = values[0]
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            return None
        found = [(_first(item, ROLE_KEYS), _first(item, TEXT_KEYS)) for item in items]
    elif columns:
        said = dict(zip(columns, values, strict=True))
        asked = [said.pop(name) for name in (*QUESTIONS, *MORE) if name in said]
        answered = said.pop(next(name for name in ANSWERS if name in said))
        if not all(isinstance(text, str | None) for text in asked):
            return None
        found = [(USER, "\n\n".join(text for text in asked if text and text.strip())), (ASSISTANT, answered)]
    else:
        return None
    if columns[-1] in SYSTEMS and (not found or found[0][0] != SYSTEM):
        found = [(SYSTEM, values[-1]), *found]
    if not all(isinstance(role, str) and isinstance(text, str | None) for role, text in found):
        return None
    messages = [{"role": NAMES.get(role, role), "content": text or ""} for role, text in found]
    # A system that says nothing is none.
    return [message for message in messages if message["role"] != SYSTEM or message["content"].strip()]


def _first(item: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((item[name] for name in names if name in item), None)
