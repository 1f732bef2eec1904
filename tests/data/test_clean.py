"""One normal form, kept once, always on the same side."""

import hashlib
import random
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unicodedata import category, is_normalized, normalize

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from small_corpora import sentences

import sllm.data.clean
from sllm.config import DataConfig, Language
from sllm.data.boilerplate import remove_boilerplate
from sllm.data.clean import AT_ONCE, PIECE, Cleaner, Document, Lost
from sllm.data.personal_data import is_card_number, mask_personal_data
from sllm.data.text import cut, normalise

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


def documents_of(cleaner: Cleaner, text: str) -> list[Document]:
    return [result for result in cleaner.clean(text) if isinstance(result, Document)]


def losses_of(cleaner: Cleaner, text: str) -> dict[str, int]:
    """Bytes by reason."""
    lost = Counter[str]()
    for result in cleaner.clean(text):
        if isinstance(result, Lost):
            lost[result.reason.value] += result.size
    return dict(lost)


def the_document(cleaner: Cleaner, text: str) -> Document:
    (document,) = documents_of(cleaner, text)
    return document


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


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("ko", "  짧은 글 ", "too_short"),
        ("ko", KOREAN, "kept"),
        ("ko", ENGLISH, "language"),
        ("en", ENGLISH, "kept"),
        ("en", f"{ENGLISH} {KOREAN}", "language"),
        ("ko", f"{KOREAN} {ENGLISH}", "kept"),
        ("ko", "1234567890 " * 5, "language"),
        ("ko", KOREAN + "ㅋ" * 40, "repeated_characters"),
        ("ko", KOREAN + "\n어서 오세요 여러분" * 5, "repeated_lines"),
        ("ko", KOREAN + "\n```" * 20, "kept"),
        ("ko", KOREAN + " 그래서 우리는 언제나" * 3, "kept"),  # in so few words a phrase says little
        ("en", ENGLISH + "\nA line that comes twice\nA line that comes twice", "repeated_lines"),
    ],
)
def test_documents_are_dropped_for_a_reason(language: Language, text: str, expected: str) -> None:
    clean = cleaner(language, min_characters=10)
    assert bool(documents_of(clean, text)) == (expected == "kept")
    size = len(normalise(text).encode())
    assert losses_of(clean, text) == ({} if expected == "kept" else {expected: size})


@pytest.mark.parametrize(
    ("phrase", "expected"), [("그래서 우리는 언제나 그렇게 말했다", "repeated_phrases"), ("그래서 우리는", "kept")]
)
def test_phrases_that_come_again(phrase: str, expected: str) -> None:
    """Six times among sixty words that come once; of the first phrase four times fifteen characters are too many."""
    words = [f"{a}{b}" for a in KOREAN.split() for b in ("는", "도", "만", "의", "와")]
    text = " ".join(f"{phrase} {' '.join(words[i : i + 10])}" for i in range(0, 60, 10))
    assert list(losses_of(cleaner(), text)) == ([] if expected == "kept" else [expected])


@pytest.mark.parametrize(("language", "expected"), [("ko", ["repeated_phrases"]), ("en", [])])
def test_three_words_that_come_again_are_a_phrase_in_korean_alone(language: Language, expected: list[str]) -> None:
    words = [f"{word}{ending}" for ending in "abc" for word in (KOREAN if language == "ko" else ENGLISH).split()]
    phrases, others = [" ".join(words[i : i + 3]) for i in range(0, 24, 3)], iter(words[24:])
    text = " ".join(f"{phrase} {next(others, number)}" for number, phrase in enumerate(phrases * 2))
    assert list(losses_of(cleaner(language), text)) == expected


def test_paragraphs_that_come_again() -> None:
    """Few of the lines, or lines without letters, which may repeat."""
    page = "\n".join(prose("en", 12))
    headings = [f"The title of part {number}" for number in ("one", "two", "three")]
    table = "\n".join(f"{number} | {number**3}" for number in range(20, 60))
    for text in ("\n\n".join([page, *headings * 2]), "\n\n".join([page[:600], table, ENGLISH, table])):
        assert losses_of(cleaner("en"), text) == {"repeated_lines": len(text)}
    assert losses_of(cleaner("en"), "\n\n".join([page[:600], table, ENGLISH])) == {}


def test_the_two_unicode_forms_are_one_document() -> None:
    document = the_document(cleaner(), f"{KOREAN} é 12")
    assert document.digest == hashlib.blake2b(document.text.encode(), digest_size=16).digest()
    assert document.size == len(document.text.encode())
    assert document == the_document(cleaner(), normalize("NFD", f" {KOREAN} é 12\r\n"))


personal = st.sampled_from(
    ["900101-1234568", "010-1234-5678", "(02) 123-4567", "a.b@c.co.kr", "4111 1111 1111 1111", "+82 10 1234 5678"]
)
signs = [" ", "\n", "\n\n", "-", ".", "0", "12", "@", "+", "(", ")"]
pieces = st.sampled_from([*KOREAN.split(), *signs, "Copyright © 2020", "로그인", "all rights reserved"])


@given(
    st.lists(personal | pieces | awkward, max_size=60).map("".join),
    st.sampled_from(["ko", "en"]),
    st.sampled_from([8, 30, 200, 10_000]),
    st.booleans(),
)
@example("a@b.co x", "en", 8, False)  # its mask is longer
def test_a_clean_document_is_clean(text: str, language: Language, longest: int, repetition: bool) -> None:
    """Whatever was cut, masked or left out of it."""
    rules = {**ANYTHING, "repetition": repetition}
    clean = cleaner(language, clean=rules, max_characters=longest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sllm.data.clean, "PIECE", 24)
        documents = documents_of(clean, text)
        for document in documents:
            assert len(document.text) <= longest
            again = the_document(clean, document.text)
            assert again == replace(document, masked=Counter())
            assert losses_of(clean, document.text) == {}
        decomposed = normalize("NFD", text)
        if len(decomposed) <= AT_ONCE * longest:
            assert documents_of(clean, decomposed) == documents


# --- what is long ---------------------------------------------------------------------------------


def prose(language: Language, count: int) -> list[str]:
    """Distinct paragraphs of about 200 characters without repeated phrases."""
    words = (KOREAN if language == "ko" else ENGLISH).split()
    return [
        " ".join(
            f"{word}{ending}" for ending, word in enumerate(random.Random(number).choices(words, k=20), 20 * number)
        )
        for number in range(count)
    ]


@given(texts | st.text("a. \n", max_size=200), st.integers(1, 40))
def test_pieces_are_the_text(text: str, longest: int) -> None:
    text = normalise(text)
    pieces = list(cut(text, longest))
    between = [text[end:start] for (_, end), (start, _) in pairwise(pieces)]
    assert (pieces[0][0], pieces[-1][1]) == (0, len(text))
    assert all(start <= end <= start + longest for start, end in pieces)
    assert not "".join(between).strip()


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("a\nb c. d e\n\nf. g\nh i j k l m n o p", "a\nb c. d e"),
        ("a b c. d e f g\nh. i j k l m n o p q", "a b c. d e f g"),
        ("a b c d e f g h. i j k l m n o p", "a b c d e f g h."),
        ("abcdefghijklmnopqr stuvwxyz", "abcdefghijklmnopqr"),
        ("abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrst"),
        ("a b c. d e f", "a b c. d e f"),
    ],
)
def test_a_text_is_cut_where_it_ends_best(text: str, piece: str) -> None:
    start, end = next(cut(text, 20))
    assert text[start:end] == piece


@pytest.mark.parametrize("language", ["ko", "en"])
def test_a_book_is_one_document_without_its_bad_pages(language: Language) -> None:
    """Judged as a whole its word pairs would be too frequent, or its index would take it all away."""
    paragraphs = prose(language, 200)
    index = "\n".join(f"{word}, 12, 15" for word in paragraphs[0].split()[:3]) * 400
    book = "\n\n".join([*paragraphs[:100], index, *paragraphs[100:]])
    document = the_document(cleaner(language), book)
    missing = [number for number, paragraph in enumerate(paragraphs) if paragraph not in document.text]
    assert index[:100] not in document.text
    assert all(80 < number < 120 for number in missing)  # beside the index, in a piece with it
    assert document.text == "\n\n".join(p for number, p in enumerate(paragraphs) if number not in missing)
    (reason,) = losses_of(cleaner(language), book)
    assert reason.startswith("repeated")
    assert abs(losses_of(cleaner(language), book)[reason] + document.size - len(book.encode())) < 100


def test_a_page_that_comes_again_and_again_is_there_once() -> None:
    page = "\n".join(prose("en", 60))
    assert len(page) > 2 * PIECE
    clean = cleaner("en")
    document = the_document(clean, "\n\n".join([page] * 20))
    assert document.text.startswith(page)
    assert len(document.text) < 1.5 * len(page)
    assert list(losses_of(clean, "\n\n".join([page] * 20))) == ["repeated_lines"]


def test_what_is_left_of_a_document_is_judged_again() -> None:
    """Without its Korean, which repeats, a page of a Korean source is foreign."""
    korean, english = "\n".join([KOREAN] * 55), "\n".join(prose("en", 18))
    text = f"{korean}\n\n{english}"
    assert documents_of(cleaner(), text) == []
    assert losses_of(cleaner(), text) == {"repeated_lines": len(korean.encode()), "language": len(english)}


def test_nothing_is_too_long() -> None:
    paragraphs = prose("ko", 300)
    clean = cleaner(max_characters=20_000)
    documents = documents_of(clean, "\n\n".join(paragraphs))
    assert len(documents) > 2
    assert "\n\n".join(document.text for document in documents) == "\n\n".join(paragraphs)
    assert all(10_000 <= len(document.text) <= 20_000 for document in documents[:-1])


def test_what_is_masked_counts_where_it_stood() -> None:
    """Also in the documents that a long text becomes."""
    text = "\n\n".join(f"{paragraph} someone@example.org" for paragraph in prose("en", 100))
    documents = documents_of(cleaner("en", clean=ANYTHING, max_characters=10_000), text)
    assert len(documents) > 1
    assert [document.masked["email"] for document in documents] == [
        document.text.count("[EMAIL]") for document in documents
    ]


def test_a_file_in_one_line() -> None:
    """Neither time nor memory that grows faster than the text: it is looked at in parts."""
    assert losses_of(cleaner(), "x" * 50_000_000) == {"language": 50_000_000}
    text = " ".join(prose("en", 100)) * 20
    documents = documents_of(cleaner("en", max_characters=10_000), text)
    assert "".join("".join(document.text for document in documents).split()) == "".join(text.split())


# --- the language ---------------------------------------------------------------------------------

CODE = """
```js run
let room = { number: 23, title: "Conference", occupiedBy: null, participants: [john, alice] };
function pow(x, n) { return n == 1 ? x : x * pow(x, n - 1); }
room.participants.forEach(person => console.log(person.name, person.age, person.address));
```
"""


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"# 깊은 복사\n{CODE}{CODE}\n위 코드의 실행 결과를 예측해 보세요. 왜 그런지도 설명해 보세요.", True),
        (
            ":mod:`http.client`\\는 저수준 프로토콜입니다.\n" + "\n".join(f":ref:`{w}-howto`" for w in ENGLISH.split()),
            True,
        ),
        ("추상 베이스 클래스\nAbstract Base Classes\n``__contains__``\n:class:`Iterable`\n``__iter__``", True),
        (f"한글 제목\n\n{ENGLISH}. {ENGLISH}, and so on.", False),
        (f"importance: 5\n\n---\n\n# 제목\n\nWrite the code that returns the width of a scrollbar.\n{CODE}", False),
        (CODE, False),
        (f"{CODE * 5} // 참", False),
        ("한글은 이것뿐 " + "日本語の文章がここにあります。" * 5, False),
    ],
)
def test_code_and_names_in_a_korean_page_are_not_foreign(text: str, kept: bool) -> None:
    clean = cleaner(clean={"repetition": False})
    assert bool(documents_of(clean, text)) == kept
    assert list(losses_of(clean, text)) == ([] if kept else ["language"])


# --- personal data --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("주민번호 900101-1234568 입니다", "주민번호 [RESIDENT_NUMBER] 입니다"),
        ("9001011234568", "[RESIDENT_NUMBER]"),
        ("900101-1234567", "900101-1234567"),  # wrong check digit
        ("901301-1234561", "901301-1234561"),  # no such month
        ("850615-5123456", "[RESIDENT_NUMBER]"),  # a foreigner's
        ("850615-5123454", "850615-5123454"),  # the check digit that a Korean's would have
        ("201231-3123457", "[RESIDENT_NUMBER]"),  # too young for a check digit
        ("200930-3123457", "200930-3123457"),  # a day too old for that
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
    masked = the_document(cleaner(clean=ANYTHING), text)
    assert masked.text == expected
    assert masked.masked.total() == expected.count("[")
    assert the_document(cleaner(clean={**ANYTHING, "personal_data": False}), text).text == text


@given(st.lists(st.integers(0, 9), min_size=15, max_size=15))
def test_every_wrong_digit_shows_in_a_card_number(digits: list[int]) -> None:
    (last,) = (last for last in range(10) if is_card_number([*digits, last]))
    number = [*digits, last]
    for place in range(16):
        others = ([*number[:place], digit, *number[place + 1 :]] for digit in range(10) if digit != number[place])
        assert not any(map(is_card_number, others))


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
    text = f"{KOREAN}\n\n{line}\n\n{ENGLISH}"
    assert remove_boilerplate(text) == (f"{KOREAN}\n\n{ENGLISH}", line)
    assert losses_of(cleaner(), text) == {"boilerplate": len(line.encode())}


@pytest.mark.parametrize(
    "line",
    [
        "자바스크립트는 웹 브라우저에서 실행되는 언어다.", "JavaScript sets cookies with document.cookie.",
        "The copyright of this song is disputed.", "그는 로그인 화면을 그렸다.", "    Log in",
        "You can share this with friends.", "He paid for the copyright by hand.",
        "Copyright 1998 stands below a photograph of the bridge, which the town sold to a magazine in the same year.",
        "The words all rights reserved stood under every photograph that he took.",
        f"{ENGLISH}. {ENGLISH}, all rights reserved.",
    ],
)  # fmt: skip
def test_what_only_speaks_of_it_stays(line: str) -> None:
    assert remove_boilerplate(f"{KOREAN}\n{line}") == (f"{KOREAN}\n{line}", "")


# --- the split ------------------------------------------------------------------------------------

documents = st.lists(st.text(min_size=1).filter(normalise), unique_by=normalise)


@given(documents, st.floats(0.01, 0.4), st.randoms())
def test_the_side_depends_on_the_text_alone(documents: list[str], fraction: float, random: Any) -> None:
    def sides(documents: list[str], fraction: float) -> dict[str, str]:
        rules = {**ANYTHING, "personal_data": False, "boilerplate": False}
        clean = cleaner(validation_fraction=fraction, clean=rules)
        return {text: the_document(clean, text).split for text in documents}

    first = sides(documents, fraction)
    assert first.keys() == set(documents)
    random.shuffle(documents)
    assert sides(documents, fraction) == first
    larger = sides(documents, fraction + 0.09)
    assert all(larger[text] == "validation" for text, side in first.items() if side == "validation")


def test_the_fraction_is_kept() -> None:
    clean = cleaner("en", validation_fraction=0.1)
    sides = [the_document(clean, text).split for text in sentences(5_000)]
    # A binomial's standard deviation here is 21.
    assert abs(sides.count("validation") - 500) < 5 * 21
