"""Windows of packed conversations: which of their tokens are learnt, and where each conversation begins. Both can be
read off the tokens, since no text holds a special token."""

import numpy as np

from sllm.tokenizer import Tokenizer
from sllm.tokenizer.template import ASSISTANT, END_ID, ROLE_IDS


def answers(tokens: np.ndarray) -> np.ndarray:
    """Of windows (…, L + 1) of token ids, which of the targets [1:] an assistant says, `<|end|>` included:
    (…, L) bool."""
    before = tokens[..., :-1]
    places = np.arange(before.shape[-1])

    def last(ids: list[int]) -> np.ndarray:
        """The place of the last of these tokens so far, -1 before the first."""
        return np.maximum.accumulate(np.where(np.isin(before, ids), places, -1), axis=-1)

    spoken = last([ROLE_IDS[ASSISTANT]])
    return spoken > last([*(id for role, id in ROLE_IDS.items() if role != ASSISTANT), END_ID, Tokenizer.bos_id])


def beginnings(tokens: np.ndarray) -> np.ndarray:
    """Of token ids (…, L), the place of the `<bos>` of each one's conversation, which alone it may see: (…, L) int64.
    Filler behind the last conversation counts to it: nothing is learnt there."""
    places = np.arange(tokens.shape[-1])
    return np.maximum.accumulate(np.where(tokens == Tokenizer.bos_id, places, 0), axis=-1)
