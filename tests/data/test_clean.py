"""One normal form, kept once, always on the same side."""

import hashlib
import sys
from collections import Counter
from typing import Any
from unicodedata import category, is_normalized, normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_corpora import sentences

from sllm.config import DataConfig, Language
from sllm.data.clean import (
    Cleaner,
    Document,
    Dropped,
    is_card_number,
    mask_personal_data,
    normalise,
    remove_boilerplate,
)

# Hypothesis seldom finds these by itself.
awkward = st.text(
    st.sampled_from(
        "가각나ㄱᄀ\u1161\u11a8a e\u0301 \t\n\r\x0b\x0c\x1c\x85\u2028\u00a0\u3000\u200b\u200d\ufeff\x00\ud800"
    )
)
texts = st.text() | awkward | st.lists(awkward, max_size=4).map("\n\n".join)


def cleaner(language: Language = "ko", **data: Any) -> Cleaner:
    source = {"name": "a", "kind": "embedded", "language": "ko"}
    return Cleaner(DataConfig.model_validate({"sources": [source], "min_characters": 1, **data}), language)


ANYTHING: dict[str, Any] = {"min_hangul": 0.0, "min_latin": 0.0, "repetition": False}


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


KOREAN = "어제 저녁에는 친구와 함께 한강 공원을 걸으며 오래전에 읽은 소설 이야기를 나누었다"
ENGLISH = "Yesterday evening we walked along the river and talked about a novel read long ago"


def reason(document: Document | Dropped) -> str:
    return document.reason if isinstance(document, Dropped) else "kept"


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("ko", "  짧은 글 ", "too_short"),
        ("ko", KOREAN * 5, "too_long"),
        ("ko", "x" * 200_000_000, "too_long"),
        ("ko", KOREAN, "kept"),
        ("ko", ENGLISH, "language"),
        ("en", ENGLISH, "kept"),
        ("en", f"{ENGLISH} {KOREAN}", "language"),
        ("ko", f"{KOREAN} {ENGLISH}", "kept"),
        ("ko", "1234567890 " * 5, "language"),
        ("ko", KOREAN + "ㅋ" * 40, "repeated_characters"),
        ("ko", KOREAN + "\n어서 오세요 여러분" * 5, "repeated_lines"),
        ("ko", KOREAN + "\n```" * 20, "kept"),
        ("en", ENGLISH + "\nA line that comes twice\nA line that comes twice", "repeated_lines"),
    ],
)
def test_documents_are_dropped_for_a_reason(language: Language, text: str, expected: str) -> None:
    clean = cleaner(language, min_characters=10, max_characters=200).clean
    assert reason(clean(text)) == expected


@pytest.mark.parametrize(
    ("phrase", "expected"), [("그래서 우리는 언제나 그렇게 말했다", "repeated_phrases"), ("그래서 우리는", "kept")]
)
def test_phrases_that_come_again(phrase: str, expected: str) -> None:
    """Six times among sixty words that come once; of the first phrase four times fifteen characters are too many."""
    words = [f"{a}{b}" for a in KOREAN.split() for b in ("는", "도", "만", "의", "와")]
    text = " ".join(f"{phrase} {' '.join(words[i : i + 10])}" for i in range(0, 60, 10))
    assert reason(cleaner().clean(text)) == expected


def test_the_two_unicode_forms_are_one_document() -> None:
    clean = cleaner().clean
    document = clean(f"{KOREAN} é 12")
    assert isinstance(document, Document)
    assert document.digest == hashlib.blake2b(document.text.encode(), digest_size=16).digest()
    assert document.size == len(document.text.encode())
    assert document == clean(normalize("NFD", f" {KOREAN} é 12\r\n"))


personal = st.sampled_from(
    ["900101-1234568", "010-1234-5678", "(02) 123-4567", "a.b@c.co.kr", "4111 1111 1111 1111", "+82 10 1234 5678"]
)
signs = [" ", "\n", "\n\n", "-", ".", "0", "12", "@", "+", "(", ")"]
pieces = st.sampled_from([*KOREAN.split(), *signs, "Copyright © 2020", "로그인", "all rights reserved"])


@given(st.lists(personal | pieces | awkward).map("".join), st.sampled_from(["ko", "en"]))
def test_a_clean_document_is_clean(text: str, language: Language) -> None:
    clean = cleaner(language, clean=ANYTHING).clean
    document = clean(text)
    if isinstance(document, Document):
        again = clean(document.text)
        assert isinstance(again, Document)
        assert (again.text, again.digest) == (document.text, document.digest)
        assert (again.masked, again.boilerplate) == (Counter(), 0)
        assert clean(normalize("NFD", text)) == document


# --- personal data --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("주민번호 900101-1234568 입니다", "주민번호 [RESIDENT_NUMBER] 입니다"),
        ("9001011234568", "[RESIDENT_NUMBER]"),
        ("900101-1234567", "900101-1234567"),  # wrong check digit
        ("901301-1234561", "901301-1234561"),  # no such month
        ("201231-3123457", "[RESIDENT_NUMBER]"),  # too young for a check digit
        ("전화는 010-1234-5678, 02-123-4567로", "전화는 [PHONE_NUMBER], [PHONE_NUMBER]로"),
        ("01012345678 +82-10-1234-5678 (031) 123-4567", "[PHONE_NUMBER] [PHONE_NUMBER] [PHONE_NUMBER]"),
        ("1588-1234 2024-01-02 192.168.10.1234", "1588-1234 2024-01-02 192.168.10.1234"),
        ("메일: gil-dong.hong@example.co.kr로", "메일: [EMAIL]로"),
        ("@decorator a @ b 3@4 user@localhost", "@decorator a @ b 3@4 user@localhost"),
        ("4111-1111-1111-1111 4111-1111-1111-1112", "[CARD_NUMBER] 4111-1111-1111-1112"),
        ("378282246310005", "[CARD_NUMBER]"),
        ("3.141592653589793238462643383279 5.4111111111111111", "3.141592653589793238462643383279 5.4111111111111111"),
    ],
)
def test_personal_data_is_masked(text: str, expected: str) -> None:
    assert mask_personal_data(text)[0] == expected
    masked = cleaner(clean=ANYTHING).clean(text)
    assert isinstance(masked, Document)
    assert masked.text == expected
    assert masked.masked.total() == expected.count("[")
    unmasked = cleaner(clean={**ANYTHING, "personal_data": False}).clean(text)
    assert isinstance(unmasked, Document)
    assert unmasked.text == text


@given(st.lists(st.integers(0, 9), min_size=15, max_size=15))
def test_every_wrong_digit_shows_in_a_card_number(digits: list[int]) -> None:
    valid = [last for last in range(10) if is_card_number([*digits, last])]
    assert len(valid) == 1


def test_long_runs_cost_no_more_than_their_length() -> None:
    """Each of these takes minutes if a pattern tries it again from every character."""
    for run in ("a" * 500_000, "1" * 500_000, "1 " * 250_000, "a@" * 250_000, "a@b." * 125_000, "copyright " * 50_000):
        mask_personal_data(run)
        remove_boilerplate(run)


# --- boilerplate ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "Copyright © 2020 Example Inc.", "저작권자 ⓒ 한국일보", "무단 전재 및 재배포 금지", "로그인", "▲ 맨 위로",
        "Please enable JavaScript to view the comments.", "This website uses cookies.", "[Share]",
    ],
)  # fmt: skip
def test_boilerplate_goes(line: str) -> None:
    assert remove_boilerplate(f"{KOREAN}\n\n{line}\n\n{ENGLISH}") == (f"{KOREAN}\n\n{ENGLISH}", 1)


@pytest.mark.parametrize(
    "line",
    [
        "자바스크립트는 웹 브라우저에서 실행되는 언어다.", "JavaScript sets cookies with document.cookie.",
        "The copyright of this song is disputed.", "그는 로그인 화면을 그렸다.", "    Log in",
        "You can share this with friends.",
    ],
)  # fmt: skip
def test_what_only_speaks_of_it_stays(line: str) -> None:
    assert remove_boilerplate(f"{KOREAN}\n{line}") == (f"{KOREAN}\n{line}", 0)


# --- the split ------------------------------------------------------------------------------------

documents = st.lists(st.text(min_size=1).filter(normalise), unique_by=normalise)


@given(documents, st.floats(0.01, 0.4), st.randoms())
def test_the_side_depends_on_the_text_alone(documents: list[str], fraction: float, random: Any) -> None:
    def sides(documents: list[str], fraction: float) -> dict[str, str]:
        rules = {**ANYTHING, "personal_data": False, "boilerplate": False}
        clean = cleaner(validation_fraction=fraction, clean=rules).clean
        return {text: document.split for text in documents if isinstance(document := clean(text), Document)}

    first = sides(documents, fraction)
    assert first.keys() == set(documents)
    random.shuffle(documents)
    assert sides(documents, fraction) == first
    larger = sides(documents, fraction + 0.09)
    assert all(larger[text] == "validation" for text, side in first.items() if side == "validation")


def test_the_fraction_is_kept() -> None:
    clean = cleaner("en", validation_fraction=0.1).clean
    sides = [document.split for text in sentences(5_000) if isinstance(document := clean(text), Document)]
    # A binomial's standard deviation here is 21.
    assert len(sides) == 5_000
    assert abs(sides.count("validation") - 500) < 5 * 21
