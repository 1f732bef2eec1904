"""Which tokens of conversations are learnt, against the obvious loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sllm.data.masks import answers, beginnings
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.template import END_ID, ROLE_IDS, conversation_ids

PAD, BOS = Tokenizer.pad_id, Tokenizer.bos_id
SYSTEM, USER, ASSISTANT = (ROLE_IDS[role] for role in ("system", "user", "assistant"))
TOKENIZER = Tokenizer([])

texts = st.text(min_size=1, max_size=4).filter(str.strip)
conversations = st.builds(
    lambda system, turns: [
        *({"role": "system", "content": text} for text in system),
        *({"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)),
    ],
    st.lists(texts, max_size=1),
    st.lists(texts, min_size=2, max_size=6).filter(lambda turns: len(turns) % 2 == 0),
)


def obvious(row: list[int]) -> list[bool]:
    """For each token but the first, whether an assistant says it."""
    learnt, speaks = [], False
    for token in row[:-1]:
        if token == ASSISTANT:
            speaks = True
        elif token in (SYSTEM, USER, END_ID, BOS):
            speaks = False
        learnt.append(speaks)
    return learnt


@given(st.lists(conversations, min_size=1, max_size=3), st.integers(0, 9))
def test_what_assistants_say_is_learnt(each: list[list[dict[str, str]]], filler: int) -> None:
    """Of whole conversations in a window, from what was said and not from its tokens."""
    window, wanted, starts = [], [], []
    for messages in each:
        start = len(window)
        window.append(BOS)
        wanted.append(False)
        for message in messages:
            text = [*TOKENIZER.encode(message["content"]), END_ID]
            window += [ROLE_IDS[message["role"]], *text]
            wanted += [False, *[message["role"] == "assistant"] * len(text)]
        assert window[start:] == conversation_ids(TOKENIZER, messages)
        starts += [start] * (len(window) - start)
    window += [PAD] * filler
    wanted += [False] * filler
    starts += [starts[-1]] * filler
    assert answers(np.array(window, np.uint16)).tolist() == wanted[1:]
    assert beginnings(np.array(window, np.uint16)).tolist() == starts


# Windows cut anywhere, too, and tokens in any order.
@given(
    arrays(np.uint16, st.tuples(st.integers(1, 3), st.integers(2, 20)), elements=st.integers(0, 8), fill=st.nothing())
)
def test_any_tokens_against_the_obvious_loop(windows: np.ndarray) -> None:
    assert answers(windows).tolist() == [obvious(row) for row in windows.tolist()]
    places = [
        [max([i for i in range(at + 1) if row[i] == BOS], default=0) for at in range(len(row))] for row in windows
    ]
    assert beginnings(windows).tolist() == places
    assert np.array_equal(answers(windows[0]), answers(windows)[0]), "a window alone"
