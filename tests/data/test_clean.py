"""One normal form, kept once, always on the same side."""

import sys
from collections import Counter
from typing import Any
from unicodedata import category, is_normalized, normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_corpora import sentences

from sllm.config import DataConfig
from sllm.data.clean import Cleaner, Document, Dropped, normalise

# Hypothesis seldom finds these by itself.
awkward = st.text(
    st.sampled_from(
        "가각나ㄱᄀ\u1161\u11a8a e\u0301 \t\n\r\x0b\x0c\x1c\x85\u2028\u00a0\u3000\u200b\u200d\ufeff\x00\ud800"
    )
)
texts = st.text() | awkward | st.lists(awkward, max_size=4).map("\n\n".join)


def cleaner(**data: Any) -> Cleaner:
    source = {"name": "a", "kind": "embedded", "language": "ko"}
    return Cleaner(DataConfig.model_validate({"sources": [source], "min_characters": 1, **data}), "ko")


@given(texts)
def test_the_normal_form(text: str) -> None:
    clean = normalise(text)
    assert normalise(clean) == clean
    assert is_normalized("NFC", clean)
    assert not {c for c in clean if category(c) in ("Cc", "Cs")} - {"\n", "\t"}
    assert clean == clean.strip()
    assert not any(line != line.rstrip() for line in clean.split("\n"))
    assert "\n\n\n" not in clean
    clean.encode("utf-8")


def test_every_code_point_stays_or_goes_for_a_reason() -> None:
    gone = set()
    for code in range(sys.maxunicode + 1):
        between = normalise(f"a{chr(code)}b")
        if between == "ab":
            gone.add(code)
        else:
            assert between in (normalize("NFC", f"a{chr(code)}b"), "a\nb"), hex(code)
    # Nothing visible goes …
    assert {category(chr(code)) for code in gone} == {"Cc", "Cf", "Cs", "Cn"}
    assert all(
        0xFDD0 <= code <= 0xFDEF or code in (0x2065, 0xFFFE, 0xFFFF) for code in gone if category(chr(code)) == "Cn"
    )
    # … every control character but the tab goes or ends a line, and what joins emoji stays.
    controls = {code for code in range(sys.maxunicode + 1) if category(chr(code)) in ("Cc", "Cs")}
    assert all(code in gone or normalise(f"a{chr(code)}b") == "a\nb" for code in controls - {ord("\t")})
    assert {0xAD, 0x200B, 0xFEFF, 0x202E, 0x2060} <= gone
    assert 0x200D not in gone


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("\ufeff가\r\n나\r다\x0c라", "가\n나\n다\n라"),
        ("ᄀ\u200b\u1161", "가"),
        (normalize("NFD", "한국어 é"), "한국어 é"),
        ("  def f():\n\treturn 1  \n\n\n\n\nx\n", "def f():\n\treturn 1\n\nx"),
        ("👩‍🚀 ㅋㅋㅠㅠ\ud83d", "👩‍🚀 ㅋㅋㅠㅠ"),
        ("\x1b[0m\x00\n \n", "[0m"),
    ],
)
def test_examples(text: str, clean: str) -> None:
    assert normalise(text) == clean


def test_documents_are_dropped_for_a_reason() -> None:
    clean = cleaner(min_characters=5, max_characters=10).clean
    assert clean("  1234 ") is Dropped.TOO_SHORT
    assert clean("12345678901") is Dropped.TOO_LONG
    document = clean("한국어 é 12")
    digest = bytes.fromhex("dca9704c97e2c50ece8c81767237d4ab")
    assert document == Document("한국어 é 12", digest, 15, pytest.approx(0.5, abs=0.5), "train", Counter())
    assert clean(normalize("NFD", " 한국어 é 12\r\n")) == document


@given(st.lists(st.text(min_size=1).filter(normalise), unique_by=normalise), st.floats(0.01, 0.4), st.randoms())
def test_the_side_depends_on_the_text_alone(documents: list[str], fraction: float, random: Any) -> None:
    def sides(documents: list[str], fraction: float) -> dict[str, str]:
        clean = cleaner(validation_fraction=fraction).clean
        return {text: document.split for text in documents if isinstance(document := clean(text), Document)}

    first = sides(documents, fraction)
    assert first.keys() == set(documents)
    random.shuffle(documents)
    assert sides(documents, fraction) == first
    larger = sides(documents, fraction + 0.09)
    assert all(larger[text] == "validation" for text, side in first.items() if side == "validation")


def test_the_fraction_is_kept() -> None:
    clean = cleaner(validation_fraction=0.1).clean
    sides = [document.split for text in sentences(5_000) if isinstance(document := clean(text), Document)]
    # A binomial's standard deviation here is 21.
    assert len(sides) == 5_000
    assert abs(sides.count("validation") - 500) < 5 * 21
