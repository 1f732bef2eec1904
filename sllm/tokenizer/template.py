"""The one template of conversations: what a fine-tuned model is trained on, asked in, and exported with.

    <bos> [<|system|> TEXT <|end|>]  <|user|> TEXT <|end|> <|assistant|> TEXT <|end|>  <|user|> … <|end|>

Roles and ends are reserved tokens, which no text becomes, and there is nothing between a token and its text: whoever
writes `<|end|>` in a text writes letters. Other programs render a conversation as text and tokenize that, where the
letters would become the token. So such a text is refused everywhere, and equal conversations are equal tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sllm.errors import UserError
from sllm.tokenizer.codec import SPECIAL_TOKENS, Tokenizer

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = {role: f"<|{role}|>" for role in (SYSTEM, USER, ASSISTANT)}
END = "<|end|>"
ROLE_IDS = {role: SPECIAL_TOKENS.index(token) for role, token in ROLES.items()}
END_ID = SPECIAL_TOKENS.index(END)

Message = Mapping[str, str]
"""`{"role": "system" | "user" | "assistant", "content": TEXT}`."""

ENDS = (Tokenizer.eos_id, END_ID)
"""Where a reply ends: `<|end|>`, and `<eos>`, with which the model before had learnt to end."""

JINJA = (
    "{{ bos_token }}"
    "{% set first = 1 if messages[0]['role'] == 'system' else 0 %}"
    "{% for message in messages %}"
    "{% set role = 'user' if (loop.index0 - first) % 2 == 0 else 'assistant' %}"
    "{% if loop.index0 >= first and message['role'] != role %}"
    "{{ raise_exception('after a system message or none come user and assistant by turns') }}{% endif %}"
    "{% if not message['content'] | trim %}{{ raise_exception('a message is empty') }}{% endif %}"
    "{% for token in [" + ", ".join(f"'{token}'" for token in SPECIAL_TOKENS) + "] %}"
    "{% if token in message['content'] %}"
    "{{ raise_exception('a text cannot hold the special token ' + token) }}{% endif %}{% endfor %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{% if messages[-1]['role'] != 'user' %}{{ raise_exception('the last message must be the user\\'s') }}{% endif %}"
    "{{ '<|assistant|>' }}{% endif %}"
)
"""The same for Transformers, vLLM and llama.cpp, who make text of messages and tokens of that."""


def problem(messages: Sequence[Any], *, ends_with: str) -> str:
    """What is wrong with messages: a system message first or none, then turns of user and assistant by turns, the last
    one `ends_with`'s, none empty, none with a special token in its text. "" if nothing is."""
    if not messages:
        return "no messages"
    expected = [SYSTEM, USER]
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            return f"message {number} is no role and content, both text"
        role, content = message.get("role"), message["content"]
        if role not in expected:
            return f"message {number} is of {role!r}; it must be of {' or '.join(expected)}"
        if not content.strip():
            return f"message {number}, of {role}, is empty"
        if found := special_token_in(content):
            return f"message {number}, of {role}, holds {found}, which no text may"
        expected = [ASSISTANT] if role == USER else [USER]
    if messages[-1]["role"] != ends_with:
        return f"the last message is of {messages[-1]['role']}; it must be of {ends_with}"
    return ""


def special_token_in(text: str) -> str | None:
    """One whose spelling a text holds."""
    return next((token for token in SPECIAL_TOKENS if token in text), None)


def require_template(tokenizer: Tokenizer) -> None:
    """Raises UserError if the vocabulary has no tokens for conversations."""
    if tokenizer.special_tokens != SPECIAL_TOKENS:
        raise UserError(
            f"this tokenizer has no {' '.join([*ROLES.values(), END])}, so no conversation can be told to the model: "
            f"it is of an early version; train one anew"
        )


def conversation_ids(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The tokens of messages; where the last is the user's, with `<|assistant|>` after it, for the model to go on.

    Raises:
        UserError: the messages are none (see `problem`), or the vocabulary has no tokens for them.
    """
    require_template(tokenizer)
    last = messages[-1].get("role") if messages and isinstance(messages[-1], Mapping) else None
    if wrong := problem(messages, ends_with=ASSISTANT if last == ASSISTANT else USER):
        raise UserError(f"messages: {wrong}")
    ids = [tokenizer.bos_id]
    for message in messages:
        ids += [ROLE_IDS[message["role"]], *tokenizer.encode(message["content"]), END_ID]
    return ids if last == ASSISTANT else [*ids, ROLE_IDS[ASSISTANT]]
