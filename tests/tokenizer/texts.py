"""Texts that tokenizers get wrong."""

import regex
from hypothesis import strategies as st

from sllm.tokenizer.codec import SPECIAL_TOKENS
from sllm.tokenizer.words import LETTER, NUMBER, character_classes

PIECES = [
    *"ab AB.1~\n\r\t'",
    "'s",
    "'LL",
    "'ſ",
    "  ",
    "\r\n",
    "aaaa",
    "12345",
    "٣४",
    "½",
    "\u00a0",
    "\u3000",
    "\x85",
    "\x1c",
    "\x00",
    "가",
    "가나다",
    "학교에서",
    "는",
    "으로는",
    "ㅋㅋ",
    "ㅠ",
    "\u1100\u1161\u11a8",  # NFD Hangul: one syllable
    "\u1161",
    "\u11a8",
    "漢字",
    "e\u0301",
    "\u0301",
    "👨\u200d👩\u200d👧",
    "👍🏽",
    "🇰🇷",
    "\u200d",
    "\ufeff",
    "\ufffd",
    "\U00010384",
    "\U0003fffd",
    "\U0010ffff",
    "<|",
    "|>",
    *SPECIAL_TOKENS,
]


def agreed(text: str) -> str:
    """Without characters that tiktoken and the regex package, of different versions of Unicode, class differently."""
    kinds = character_classes()
    return "".join(
        c
        for c in text
        if (kinds[ord(c)] == LETTER) == bool(regex.match(r"\p{L}", c))
        and (kinds[ord(c)] == NUMBER) == bool(regex.match(r"\p{N}", c))
    )


well_formed = st.one_of(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), st.text(max_size=30).map(agreed))
"""Text that UTF-8 can hold."""

any_text = st.one_of(
    well_formed, st.lists(st.sampled_from([*PIECES, "\ud83d", "\ude00", "\ud800"]), max_size=30).map("".join)
)
"""Python strings, lone surrogates included."""

RUNS = ["a", "aa", "aaa", "ab", "ba", "abab", "b", " a", " ", "가가가", "ㅋㅋㅋㅋ"]

runs = st.lists(st.sampled_from(RUNS), max_size=40).map("".join)
"""Overlapping pairs and ties."""
