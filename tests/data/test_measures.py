"""What the compiled loops count is what a few lines of Python count."""

import re
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sllm.data.measures import Measures, codes_of, latin_prose, measure
from sllm.data.text import normalise

words = st.sampled_from(
    ["가나", "다", "힣", "abc", "É", "12", "---", "(e)", "日本", "😀😀😀😀", "ㅋㅋㅋㅋㅋ", "aaa", "a"]
)
between = st.sampled_from([" ", " ", " ", "\n", "\n\n", "  ", "\n\t"])
phrases = st.lists(words, min_size=1, max_size=6).map(" ".join)
pages = st.lists(st.tuples(phrases, between).map("".join), min_size=1, max_size=6).map("".join)
texts = st.lists(st.tuples(phrases | words, between).map("".join), max_size=40).map("".join) | st.builds(
    "".join, st.lists(pages, min_size=1, max_size=2).flatmap(lambda some: st.lists(st.sampled_from(some), max_size=6))
)


def again(units: Sequence[tuple[str, ...]]) -> tuple[int, int]:
    """How many came before, and their characters."""
    repeated = [unit for number, unit in enumerate(units) if unit in units[:number]]
    return len(repeated), sum(len("".join(unit)) for unit in repeated)


def counted(text: str, first: int) -> Measures:
    words = text.split()
    size = max(len("".join(words)), 1)
    lines = [tuple(line.split()) for line in text.split("\n") if any(map(str.isalpha, line))]
    paragraphs = [tuple(paragraph.split()) for paragraph in text.split("\n\n") if paragraph]
    top, repeated = [], []
    for n in range(2, first + 6):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        if n <= 4:
            most = max(Counter(grams).values(), default=0)
            best = max((len("".join(gram)) for gram, count in Counter(grams).items() if count == most), default=0)
            top.append(most * best / size if most > 1 else 0.0)
        if n >= first:
            covered = {j for i, gram in enumerate(grams) if gram in grams[:i] for j in range(i, i + n)}
            repeated.append(sum(len(words[j]) for j in covered) / size)
    return Measures(
        hangul=len(re.findall("[가-힣ㄱ-ㅎ]", text)),
        latin=len(re.findall("[a-zA-ZÉ]", text)),
        letters=sum(map(str.isalpha, text)),
        digits=sum(map(str.isdecimal, text)),
        words=len(words),
        lines=again(lines)[0] / max(len(lines), 1),
        line_characters=again(lines)[1] / size,
        paragraphs=again(paragraphs)[0] / max(len(paragraphs), 1),
        paragraph_characters=again(paragraphs)[1] / size,
        runs=sum(len(run[0]) - 3 for run in re.finditer(r"(\S)\1{3,}", text)) / size,
        top=tuple(top),
        repeated=tuple(repeated),
    )


@given(texts.map(normalise), st.integers(2, 5), st.floats(0, 0.3))
@example("---\n---\n가나 다라\n---", 2, 0.0)  # a line of signs alone may repeat
def test_a_text_is_measured_as_in_plain_python(text: str, first: int, negligible: float) -> None:
    expected = counted(text, first)
    codes = codes_of(text)
    for found in (measure(codes, first), measure(codes, first, negligible)):
        flat = [*found[:10], *found.top, *found.repeated[:1]]
        assert flat == pytest.approx([*expected[:10], *expected.top, *expected.repeated[:1]])
    assert measure(codes, first).repeated == pytest.approx(expected.repeated)
    for short, whole in zip(measure(codes, first, negligible).repeated, expected.repeated, strict=True):
        assert short == pytest.approx(whole) or (short == 0 and whole <= negligible)


WORD = re.compile(r"""[(\["“‘]*([a-zÉ])[a-zÉ'’-]*[,.;:!?…)\]”"]*""")


def prose_letters(line: str) -> int:
    """Letters in rows of four words or more; signs that open, alone, are part of the next word."""
    rows = [[]]
    for word in line.split():
        if WORD.fullmatch(word):
            rows[-1].append(len(re.findall("[a-zÉ]", word)))
        elif not re.fullmatch(r"""[(\["“‘]+""", word):
            rows.append([])
    return sum(sum(row) for row in rows if len(row) >= 4)


prose_words = st.sampled_from(
    ["the", "É", "don't", "so-called", "(a", "end).", '"x"', "(", "x=1", "f(x)", "가", "3", "'a"]
)


@given(
    st.lists(st.tuples(prose_words, st.sampled_from([" ", " ", " ", " ", " ", "  ", "\n"])).map("".join)).map("".join)
)
def test_prose_is_four_words_in_a_row(text: str) -> None:
    assert latin_prose(codes_of(text)) == sum(map(prose_letters, text.split("\n")))
