"""What the model reads of what is longer than its context, and how much room is left for what it writes."""

from collections.abc import Sequence

from sllm.errors import UserError
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.template import END_ID, SYSTEM, USER, Message, conversation_ids, problem, require_template


def kept_free(context_length: int, new_tokens: int) -> int:
    """Tokens that are kept free for a continuation before anything is cut for it: a quarter of the context."""
    return max(1, min(new_tokens, context_length // 4))


def fit(tokenizer: Tokenizer, ids: list[int], context_length: int, new_tokens: int) -> tuple[list[int], int]:
    """What the model reads of token ids that begin with `<bos>`, and how many tokens may follow, at least one.

    As long as they fit, nothing is cut: it is the continuation that becomes shorter. Of more than that the newest are
    read, after `<bos>` and from a whole character on.
    """
    if len(ids) < context_length:
        return ids, min(new_tokens, context_length - len(ids))
    room = kept_free(context_length, new_tokens)
    first = len(ids) - (context_length - 1 - room)
    while first < len(ids) and tokenizer.token_bytes[ids[first]][0] & 0xC0 == 0x80:
        first += 1
    return [*ids[:1], *ids[first:]], room


def fit_conversation(
    tokenizer: Tokenizer, messages: Sequence[Message], context_length: int, reply_tokens: int
) -> tuple[list[int], int]:
    """What the model reads of messages, and how many tokens its reply may have, at least one.

    Where less is left free than `kept_free`, the oldest exchanges of user and assistant are left out, as few as will
    do; the system message and the last message stay, though the reply becomes shorter.

    Raises:
        UserError: the messages are none (see `sllm.tokenizer.template.problem`), the last is not the user's, or with
            the system message it is longer than the context; or the vocabulary has no tokens for them.
    """
    require_template(tokenizer)
    if wrong := problem(messages, ends_with=USER):
        raise UserError(f"messages: {wrong}")
    if reply_tokens < 1:
        raise UserError(f"reply_tokens: {reply_tokens} is no length of a reply; use at least 1")
    ids = conversation_ids(tokenizer, messages)
    ends = [place + 1 for place, token in enumerate(ids) if token == END_ID]
    first = ends.pop(0) if messages[0]["role"] == SYSTEM else 1
    most = context_length - kept_free(context_length, reply_tokens)
    users = [first, *ends[1::2]]
    begin = next((place for place in users if first + len(ids) - place <= most), users[-1])
    ids = ids[:first] + ids[begin:]
    if len(ids) >= context_length:
        with_system = " and the system message" if first > 1 else ""
        raise UserError(
            f"messages: {len(ids)} tokens for the last one{with_system}, and the context, which is for the reply too, "
            f"has {context_length}; shorten it"
        )
    return ids, min(reply_tokens, context_length - len(ids))
