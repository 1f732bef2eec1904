"""The generator's grammar alone, then what a reader of its text would notice: agreement, style, sums, repetition."""

import doctest
import hashlib
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Literal
from unicodedata import is_normalized, normalize

import pytest

from sllm.data.embedded import english as english_grammar
from sllm.data.embedded import korean as korean_grammar
from sllm.data.embedded.english import add_ed, english_number, inflect
from sllm.data.embedded.facts import Draw
from sllm.data.embedded.generator import compose, documents, read_language
from sllm.data.embedded.korean import (
    FINALS,
    INITIALS,
    VOWELS,
    conjugate,
    join_syllable,
    native_number,
    particle,
    sino_number,
    split_syllable,
)

Language = Literal["ko", "en"]
MEGABYTES = 4.0


@pytest.fixture(scope="module")
def korean() -> list[str]:
    return list(documents("ko", MEGABYTES, seed=1))


@pytest.fixture(scope="module")
def english() -> list[str]:
    return list(documents("en", MEGABYTES, seed=1))


def words_of(language: str, *keys: str) -> list[str]:
    """Every word under these keys of the language's tables, the longest first."""
    tables = read_language(language).tables
    return sorted({row[key] for key in keys for row in tables[key]}, key=lambda word: (-len(word), word))


def narration(document: str) -> str:
    return re.sub(r'"[^"]*"', "", document)


# --- grammar --------------------------------------------------------------------------------------


def test_docstring_examples_hold() -> None:
    for module in (korean_grammar, english_grammar):
        results = doctest.testmod(module)
        assert results.attempted > 0
        assert results.failed == 0


def test_syllables_decompose_as_unicode_says() -> None:
    for syllable in map(chr, range(ord("가"), ord("힣") + 1)):
        initial, vowel, final = split_syllable(syllable)
        conjoining = chr(0x1100 + INITIALS.index(initial)) + chr(0x1161 + VOWELS.index(vowel))
        conjoining += chr(0x11A7 + FINALS.index(final)) if final else ""
        assert normalize("NFC", conjoining) == syllable
        assert join_syllable(initial, vowel, final) == syllable


@pytest.mark.parametrize(
    ("word", "after_consonant", "expected"),
    [
        ("민수", "은", "는"), ("지영", "은", "은"), ("사과", "이", "가"), ("연필", "이", "이"),
        ("나무", "을", "를"), ("꽃", "을", "을"), ("친구", "과", "와"), ("별", "과", "과"),
        ("학교", "으로", "로"), ("서울", "으로", "로"), ("집", "으로", "으로"), ("연필", "으로는", "로는"),
        ("민수", "아", "야"), ("하은", "아", "아"), ("의사", "이에요", "예요"), ("학생", "이에요", "이에요"),
        ("의사", "이었다", "였다"), ("학생", "이었다", "이었다"), ("의사", "이다", "다"), ("학생", "이다", "이다"),
        ("의사", "입니다", "입니다"), ("학생", "입니다", "입니다"), ("보리", "이라고", "라고"),
        ("별", "이라고", "이라고"),
        ("바다", "이라서", "라서"), ("3", "으로", "으로"), ("1", "으로", "로"), ("2", "으로", "로"),
        ("10", "으로", "으로"), ("45", "을", "를"),
    ],
)  # fmt: skip
def test_particle(word: str, after_consonant: str, expected: str) -> None:
    assert particle(word, after_consonant) == expected


@pytest.mark.parametrize(
    ("stem", "forms"),
    [
        # the forms with 았다, 아서, 아요, 으면, 으니까, 은, 을, ㄴ다, ㅂ니다, 는, 고
        ("가", "갔다 가서 가요 가면 가니까 간 갈 간다 갑니다 가는 가고"),
        ("오", "왔다 와서 와요 오면 오니까 온 올 온다 옵니다 오는 오고"),
        ("보", "보았다 보아서 봐요 보면 보니까 본 볼 본다 봅니다 보는 보고"),
        ("먹", "먹었다 먹어서 먹어요 먹으면 먹으니까 먹은 먹을 먹는다 먹습니다 먹는 먹고"),
        ("잡", "잡았다 잡아서 잡아요 잡으면 잡으니까 잡은 잡을 잡는다 잡습니다 잡는 잡고"),
        ("일하", "일했다 일해서 일해요 일하면 일하니까 일한 일할 일한다 일합니다 일하는 일하고"),
        ("돕", "도왔다 도와서 도와요 도우면 도우니까 도운 도울 돕는다 돕습니다 돕는 돕고"),
        ("굽", "구웠다 구워서 구워요 구우면 구우니까 구운 구울 굽는다 굽습니다 굽는 굽고"),
        ("듣", "들었다 들어서 들어요 들으면 들으니까 들은 들을 듣는다 듣습니다 듣는 듣고"),
        ("닫", "닫았다 닫아서 닫아요 닫으면 닫으니까 닫은 닫을 닫는다 닫습니다 닫는 닫고"),
        ("부르", "불렀다 불러서 불러요 부르면 부르니까 부른 부를 부른다 부릅니다 부르는 부르고"),
        ("고르", "골랐다 골라서 골라요 고르면 고르니까 고른 고를 고른다 고릅니다 고르는 고르고"),
        ("따르", "따랐다 따라서 따라요 따르면 따르니까 따른 따를 따른다 따릅니다 따르는 따르고"),
        ("쓰", "썼다 써서 써요 쓰면 쓰니까 쓴 쓸 쓴다 씁니다 쓰는 쓰고"),
        ("담그", "담갔다 담가서 담가요 담그면 담그니까 담근 담글 담근다 담급니다 담그는 담그고"),
        ("만들", "만들었다 만들어서 만들어요 만들면 만드니까 만든 만들 만든다 만듭니다 만드는 만들고"),
        ("짓", "지었다 지어서 지어요 지으면 지으니까 지은 지을 짓는다 짓습니다 짓는 짓고"),
        ("씻", "씻었다 씻어서 씻어요 씻으면 씻으니까 씻은 씻을 씻는다 씻습니다 씻는 씻고"),
        ("마시", "마셨다 마셔서 마셔요 마시면 마시니까 마신 마실 마신다 마십니다 마시는 마시고"),
        ("주", "주었다 주어서 줘요 주면 주니까 준 줄 준다 줍니다 주는 주고"),
        ("배우", "배웠다 배워서 배워요 배우면 배우니까 배운 배울 배운다 배웁니다 배우는 배우고"),
        ("되", "되었다 되어서 돼요 되면 되니까 된 될 된다 됩니다 되는 되고"),
        ("보내", "보냈다 보내서 보내요 보내면 보내니까 보낸 보낼 보낸다 보냅니다 보내는 보내고"),
        ("켜", "켰다 켜서 켜요 켜면 켜니까 켠 켤 켠다 켭니다 켜는 켜고"),
        ("뛰", "뛰었다 뛰어서 뛰어요 뛰면 뛰니까 뛴 뛸 뛴다 뜁니다 뛰는 뛰고"),
        ("넣", "넣었다 넣어서 넣어요 넣으면 넣으니까 넣은 넣을 넣는다 넣습니다 넣는 넣고"),
        ("읽", "읽었다 읽어서 읽어요 읽으면 읽으니까 읽은 읽을 읽는다 읽습니다 읽는 읽고"),
    ],
)  # fmt: skip
def test_conjugation_of_verbs(stem: str, forms: str) -> None:
    endings = ["았다", "아서", "아요", "으면", "으니까", "은", "을", "ㄴ다", "ㅂ니다", "는", "고"]
    assert [conjugate(stem, ending) for ending in endings] == forms.split()


@pytest.mark.parametrize(
    ("stem", "forms"),
    [
        # the forms with 다, 았다, 아요, ㅂ니다, 은, 지만
        ("춥", "춥다 추웠다 추워요 춥습니다 추운 춥지만"),
        ("좁", "좁다 좁았다 좁아요 좁습니다 좁은 좁지만"),
        ("기쁘", "기쁘다 기뻤다 기뻐요 기쁩니다 기쁜 기쁘지만"),
        ("나쁘", "나쁘다 나빴다 나빠요 나쁩니다 나쁜 나쁘지만"),
        ("빠르", "빠르다 빨랐다 빨라요 빠릅니다 빠른 빠르지만"),
        ("길", "길다 길었다 길어요 깁니다 긴 길지만"),
        ("파랗", "파랗다 파랬다 파래요 파랗습니다 파란 파랗지만"),
        ("하얗", "하얗다 하얬다 하얘요 하얗습니다 하얀 하얗지만"),
        ("좋", "좋다 좋았다 좋아요 좋습니다 좋은 좋지만"),
        ("얇", "얇다 얇았다 얇아요 얇습니다 얇은 얇지만"),
        ("따뜻하", "따뜻하다 따뜻했다 따뜻해요 따뜻합니다 따뜻한 따뜻하지만"),
    ],
)
def test_conjugation_of_adjectives(stem: str, forms: str) -> None:
    assert [conjugate(stem, ending) for ending in ["다", "았다", "아요", "ㅂ니다", "은", "지만"]] == forms.split()


def test_honorifics_are_endings() -> None:
    stems = ["오", "읽", "듣", "돕", "만들", "말씀하"]
    honoured = ["오셨다", "읽으셨다", "들으셨다", "도우셨다", "만드셨다", "말씀하셨다"]
    assert [conjugate(stem, "으셨다") for stem in stems] == honoured


@pytest.mark.parametrize(
    ("n", "native"),
    [(1, "한"), (4, "네"), (10, "열"), (20, "스무"), (21, "스물한"), (35, "서른다섯"), (99, "아흔아홉")],
)
def test_native_number(n: int, native: str) -> None:
    assert native_number(n) == native


@pytest.mark.parametrize(
    ("n", "sino"),
    [
        (1, "일"), (10, "십"), (35, "삼십오"), (110, "백십"), (3500, "삼천오백"), (10_000, "만"),
        (12_500, "만 이천오백"), (54_000, "오만 사천"), (100_000, "십만"), (110_000, "십일만"),
        (10_010_001, "천일만 일"),
    ],
)  # fmt: skip
def test_sino_number(n: int, sino: str) -> None:
    assert sino_number(n) == sino


@pytest.mark.parametrize(
    ("word", "form", "tense", "expected"),
    [
        ("apple", "p", "past", "apples"), ("box", "p", "past", "boxes"), ("berry", "p", "past", "berries"),
        ("knife", "p", "past", "knives"), ("mouse", "p", "past", "mice"), ("kangaroo", "p", "past", "kangaroos"),
        ("carry", "v", "past", "carried"), ("stop", "v", "past", "stopped"), ("visit", "v", "past", "visited"),
        ("hope", "v", "past", "hoped"), ("play", "v", "past", "played"), ("boil", "v", "past", "boiled"),
        ("go", "v", "past", "went"), ("go", "v", "present", "goes"), ("go", "vp", "present", "go"),
        ("be", "v", "past", "was"), ("be", "vp", "past", "were"), ("be", "v", "present", "is"),
        ("be", "vp", "present", "are"), ("have", "s", "past", "has"), ("wash", "s", "past", "washes"),
        ("fly", "v", "present", "flies"), ("play", "v", "present", "plays"), ("have", "vp", "past", "had"),
    ],
)  # fmt: skip
def test_inflect(word: str, form: str, tense: str, expected: str) -> None:
    assert inflect(word, form, tense) == expected


def test_no_irregular_verb_of_the_frames_gets_a_regular_past() -> None:
    irregular = """be beat become begin bend bet bite bleed blow break bring build burst buy catch choose come cost cut
    deal dig do draw drink drive eat fall feed feel fight find flee fly forget forgive freeze get give go grow hang have
    hear hide hit hold hurt keep know lay lead leave lend let lie lose make mean meet pay put read ride ring rise run
    say see sell send set shake shine shoot shut sing sink sit sleep slide speak spend spin split spread spring stand
    steal stick sting strike swear sweep swim swing take teach tear tell think throw understand wake wear win write"""
    texts = Path(english_grammar.__file__).with_name("en")
    prose = "".join((texts / f"{name}.txt").read_text("utf-8") for name in ("frames", "phrases", "words"))
    used = set(re.findall(r"([a-z]+)\+vp?\b", prose)) & set(irregular.split())
    assert len(used) > 30
    assert [verb for verb in used if inflect(verb, "v", "past") == add_ed(verb)] == []


@pytest.mark.parametrize(
    ("text", "settled"),
    [
        ("a apple", "an apple"), ("a hour", "an hour"), ("a honest man", "an honest man"), ("a house", "a house"),
        ("a university", "a university"), ("a useful tool", "a useful tool"), ("a one-way street", "a one-way street"),
        ("A 8-minute walk", "An 8-minute walk"), ("a 11", "an 11"), ("a 12", "a 12"),
        ("a unusual day", "an unusual day"),
        ("a old man with a umbrella", "an old man with an umbrella"), ("a umpire", "an umpire"), ("a ewe", "a ewe"),
    ],
)  # fmt: skip
def test_indefinite_article(text: str, settled: str) -> None:
    assert english_grammar.settle(text, "past") == settled


def test_english_number() -> None:
    assert [english_number(n) for n in (0, 7, 13, 20, 21, 99)] == [
        "zero", "seven", "thirteen", "twenty", "twenty-one", "ninety-nine",
    ]  # fmt: skip


# --- the stream of documents ----------------------------------------------------------------------


def digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8")).hexdigest()


@pytest.mark.parametrize("language", ["ko", "en"])
def test_the_text_depends_on_the_seed_alone(language: Language) -> None:
    program = (
        "import hashlib; from sllm.data.embedded.generator import documents;"
        f"print(hashlib.sha256('\\0'.join(documents({language!r}, 0.2, 7)).encode('utf-8')).hexdigest())"
    )
    digests = {digest(documents(language, 0.2, seed=7))}
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(run.stdout.strip())
    assert len(digests) == 1
    assert digest(documents(language, 0.2, seed=8)) not in digests


@pytest.mark.parametrize(("language", "sha256"), [("ko", "f3afe336cce4ede1"), ("en", "41d921baa0337ee4")])
def test_text_that_changes_is_a_new_version(language: Language, sha256: str) -> None:
    """Corpora are kept by what they are made from, and sllm.artifacts.VERSIONS stands for this text."""
    assert digest(documents(language, 0.2, seed=7)).startswith(sha256)


@pytest.mark.parametrize("language", ["ko", "en"])
def test_a_longer_run_begins_with_a_shorter_one(language: Language) -> None:
    short, long = list(documents(language, 0.05, seed=3)), list(documents(language, 0.1, seed=3))
    assert long[: len(short)] == short
    assert len(long) > len(short)


def test_size_and_length(korean: list[str], english: list[str]) -> None:
    for texts in (korean, english):
        sizes = [len(text.encode("utf-8")) for text in texts]
        assert sum(sizes) >= MEGABYTES * 1e6 > sum(sizes) - sizes[-1]
        assert 200 < min(sizes) < max(sizes) < 2500


def test_no_document_is_written_twice(korean: list[str], english: list[str]) -> None:
    for texts in (korean, english):
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("language", ["ko", "en"])
def test_every_frame_can_be_written_in_every_style(language: Language) -> None:
    whole, draw = read_language(language), Draw(0)
    for frame in whole.frames:
        for style in frame:
            one = whole._replace(frames=[{style: frame[style]}])
            assert len({compose(one, draw) for _ in range(20)}) > 10


def test_text_is_clean(korean: list[str], english: list[str]) -> None:
    for text in korean + english:
        assert is_normalized("NFC", text)
        assert not re.search(r"[{}()|+~<>]|  | \n|\n\n| [.,!?]|\.\.", text), text
        assert text.count('"') % 2 == 0, text
        assert text == text.strip()


def test_there_is_more_to_learn_than_word_counts(korean: list[str], english: list[str]) -> None:
    for texts in (korean, english):
        words = [word for text in texts for word in text.split()]
        unigrams, bigrams = Counter(words), Counter(pairwise(words))
        assert len(unigrams) > 3000

        def entropy(counts: Counter) -> float:
            total = sum(counts.values())
            return -sum(n / total * math.log2(n / total) for n in counts.values())

        assert entropy(bigrams) - entropy(unigrams) < 0.5 * entropy(unigrams)


# --- Korean text ----------------------------------------------------------------------------------


def final_jamo(word: str) -> str:
    """The final consonant as Unicode decomposes it: '' when the syllable is open."""
    return normalize("NFD", word[-1])[2:]


def test_particles_agree_with_the_noun_before_them(korean: list[str]) -> None:
    keys = "name item thing meal drink pet petname place vehicle animal job plant fruit skill shop corner target lesson"
    nouns = words_of("ko", *keys.split(), "town", "crop", "landmark", "candy", "worker", "idler", "main", "extra")
    pairs = [
        ("은", "는"),
        ("이", "가"),
        ("을", "를"),
        ("과", "와"),
        ("이라고", "라고"),
        ("이었", "였"),
        ("이에요", "예요"),
    ]
    closed, opened = {long for long, _ in pairs}, {short for _, short in pairs}
    forms = "|".join(sorted(closed | opened | {"으로", "로"}, key=len, reverse=True))
    found: Counter[str] = Counter()
    text = "\n".join(korean)
    people = {surname + name for surname in words_of("ko", "surname") for name in words_of("ko", "name")}  # 강가은
    pattern = rf"(?<![가-힣])({'|'.join(nouns)})\"?({forms})(?![가-힣])|(?<![가-힣])({'|'.join(nouns)})(이었|였)"
    for match in re.finditer(pattern, text):
        noun, form = match[1] or match[3], match[2] or match[4]
        if match[0] in people:
            continue
        final = final_jamo(noun)
        if form in ("으로", "로"):
            assert (form == "으로") == (final not in ("", "\u11af")), match[0]
        else:
            assert form in (closed if final else opened), match[0]
        found[form] += 1
    assert set(found) == closed | opened | {"으로", "로"}
    assert sum(found.values()) > 30_000


def test_friends_are_called_by_their_names(korean: list[str]) -> None:
    calls = re.findall(rf"\"({'|'.join(words_of('ko', 'name', 'worker'))})(아|야),", "\n".join(korean))
    assert {form for _, form in calls} == {"아", "야"}
    assert all((form == "아") == bool(final_jamo(name)) for name, form in calls)


def test_a_narrator_keeps_one_style(korean: list[str]) -> None:
    styles: Counter[str] = Counter()
    for text in korean:
        sentences = re.findall(r"[가-힣]+(?=[.])", narration(text))
        used = {
            "formal" if sentence.endswith("니다") else "polite" if sentence.endswith("요") else "plain"
            for sentence in sentences
        }
        assert len(used) == 1, text
        assert "plain" not in used or all(sentence.endswith("다") for sentence in sentences), text
        styles.update(used)
    assert min(styles.values()) > 0.1 * len(korean)


def test_korean_purchases_add_up(korean: list[str]) -> None:
    numerals = {native_number(n): n for n in range(1, 100)}
    spelled = {sino_number(n): n for n in range(100, 300_000, 100)}

    def won(text: str) -> int:
        return int(text.replace(",", "")) if text[0].isdigit() else spelled[text.strip()]

    price = r"([\d,]+|[가-힣]+ ?[가-힣]*?) ?원"
    purchases = 0
    for text in korean:
        match = re.search(
            rf"[은는] 한 \w+에 {price}이었.*? (\w+) \w+[을를] 골랐.*?값은 (?:모두|다 합해서) {price}이었.*?"
            rf"[가이] {price}을 내자 주인은 {price}을",
            text,
        )
        if match:
            unit, total, paid, change = (won(match[group]) for group in (1, 3, 4, 5))
            assert unit * numerals[match[2]] == total, text
            assert paid - total == change > 0, text
            purchases += 1
    assert purchases > 100


def test_lives_and_matches_add_up(korean: list[str]) -> None:
    numerals = {native_number(n): n for n in range(1, 100)}
    text = "\n".join(korean)
    lives = re.findall(
        r"은 (\d+)년 .*? (\d+)년에 세상을 .*? (\d+)년에 .*? 나이는 ([가-힣]+) 살.*? ([가-힣]+) 살에 세상을", text
    )
    assert len(lives) > 50
    for born, died, debut, debut_age, age in lives:
        assert (int(debut) - int(born), int(died) - int(born)) == (numerals[debut_age], numerals[age])
    matches = re.findall(
        r" (\d+) 대 (\d+)으?로 이.*? (\d+) 대 \d+으?로 앞.*? (\d+)[골점]을 더 .*? \"(\d+)[골점] 차이", text
    )
    assert len(matches) > 50
    for ours, theirs, half, late, gap in matches:
        assert (int(half) + int(late), int(theirs) + int(gap)) == (int(ours), int(ours))


# --- English text ---------------------------------------------------------------------------------


def test_a_or_an_goes_by_sound(english: list[str]) -> None:
    found: Counter[str] = Counter()
    for article, word in re.findall(r"\b([Aa]n?) (\w+)", "\n".join(english)):
        vowel = word[0] in "aeiou" and not re.match(r"one|uni|use|eu", word)
        vowel |= word.startswith(("hour", "honest")) or word in ("8", "11", "18")
        assert (article.lower() == "an") == vowel, f"{article} {word}"
        found[article.lower()] += 1
    assert min(found["a"], found["an"]) > 1000


def test_counted_nouns_are_plural(english: list[str]) -> None:
    nouns = words_of("en", "item", "candy", "fruit", "point")
    plurals = {noun: re.sub(r"\w+$", lambda last: inflect(last[0], "p", "past"), noun) for noun in nouns}
    text = "\n".join(english)
    several = "|".join(english_number(n) for n in range(99, 1, -1))
    counted = Counter(re.findall(rf"\b(?:{several}|\d+) ({'|'.join([*plurals.values(), *nouns])})\b(?! seed)", text))
    assert not set(counted) & (set(nouns) - set(plurals.values())), counted
    assert {"apples", "tomatoes", "scarves", "fish", "bread loaves", "toy mice"} <= set(counted)
    assert not re.search(rf"(?<![\w-])(?:[Aa]n?|[Oo]ne) (?:{'|'.join(set(plurals.values()) - set(nouns))})\b", text)


def test_verbs_agree_with_pronouns(english: list[str]) -> None:
    text = "\n".join(english)
    wrong = r"\b([Hh]e|[Ss]he|[Ii]t) (were|are|have|do|go|take)\b|\b([Tt]hey|[Ww]e|I) (is|has|does|goes)\b"
    assert re.findall(wrong, text) == []
    assert not re.search(r"\b(they|we|They|We) was\b", text)
    assert len(re.findall(r"\b(he|she|it) (was|is|has|does)\b", text)) > 1000


def test_pronouns_agree_with_the_person_named(english: list[str]) -> None:
    gender = {row["name"]: row["pronoun"] for row in read_language("en").tables["name"]}
    gender |= dict.fromkeys(["mother", "aunt", "sister", "grandmother", "Grandma", "woman"], "she")
    gender |= dict.fromkeys(["father", "uncle", "brother", "grandfather", "Grandpa", "godfather", "man"], "he")
    checked = 0
    for text in english:
        named = {gender[word] for word in re.findall(r"\w+", text) if word in gender}
        if len(named) == 1 and "neighbour" not in text:
            others = r"\b([Hh]e|[Hh]im|[Hh]is)\b" if named == {"she"} else r"\b([Ss]he|[Hh]er)\b"
            assert not re.search(others, text), text
            checked += 1
    assert checked > 1000


def test_a_narrator_keeps_one_tense(english: list[str]) -> None:
    verbs = ["say", "ask", "give", "go", "come", "tell", "look", "want"]
    tenses: Counter[str] = Counter()
    for text in english:
        told = set(re.findall(r"\w+", narration(text)))
        past = {inflect(verb, "v", "past") for verb in verbs} & told
        present = {inflect(verb, "v", "present") for verb in verbs} - {"looks"} & told
        assert not (past and present), text
        tenses.update(["past"] * bool(past) + ["present"] * bool(present))
    assert min(tenses["past"], tenses["present"]) > 500


def test_harvests_add_up(english: list[str]) -> None:
    numerals = {english_number(n): n for n in range(100)}
    pattern = (
        r"planted ([\w-]+) .*? later ([\w-]+) of them came up, but the other ([\w-]+) .*?"
        r"Each of the ([\w-]+) plants gave ([\w-]+) .*? there were ([\w-]+) .*?"
        r" gave ([\w-]+) of the ([\w-]+) .*? kept the other ([\w-]+)\."
    )
    matches = re.findall(pattern, "\n".join(english))
    assert len(matches) > 50
    for words in matches:
        seeds, sprouts, failed, plants, each, harvest, given, total, kept = (numerals[word] for word in words)
        assert (sprouts + failed, plants, sprouts * each, given + kept) == (seeds, sprouts, harvest, harvest)
        assert total == harvest


def test_english_purchases_add_up(english: list[str]) -> None:
    numerals = {english_number(n): n for n in range(100)}
    price = r"\$(\d+)\.(\d\d)"
    purchases = 0
    for text in english:
        match = re.search(
            rf" costs? {price}\..*? cho(?:se|oses) ([\w-]+) .*?"
            rf" cost {price}\..*? with {price} and g[eo]ts? {price} back",
            text,
        )
        if match:
            unit, total, paid, change = (int(match[i]) * 100 + int(match[i + 1]) for i in (1, 4, 6, 8))
            assert unit * numerals[match[3]] == total, text
            assert paid - total == change > 0, text
            purchases += 1
    assert purchases > 100
