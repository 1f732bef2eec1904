"""Korean and English prose written from a seed: text to train and test on where there is no network and no corpus.

Words and frames are data, grammar is rule. A frame is a document with holes: `{hero}` is filled from the document's
cast (who, where, what, how much: drawn once, so that a document never contradicts itself), while `{when}`, a rule, and
`(a|b)` are chosen afresh wherever they stand. Frames leave grammar open as marks, which are settled for the words that
were drawn and for the style (한다, 해요, 합니다) or tense that the narrator keeps outside quotations:

    Korean    `{item}~을` a particle that agrees with the last consonant, `{job}~is` the copula, `먹+past` an ending
    English   `go+v` a verb in the document's tense, `{item}+p` a plural, and every `a` that should be `an`

In a frame a line is a sentence or two: `?` opens one that half of the documents leave out, `>` one on a new line.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from functools import cache, lru_cache
from random import Random
from typing import Literal, NamedTuple, TypeVar

T = TypeVar("T")
Facts = dict[str, str]

# --- notation -------------------------------------------------------------------------------------


class _Hole(str):
    """The name of a rule or of a cast entry."""


_Sequence = list["str | _Hole | list[_Sequence]"]


class _Line(NamedTuple):
    separator: str
    optional: bool
    sequence: _Sequence


Frame = dict[str, list[_Line]]
"""The lines of a frame under each style, or tense, that suits it."""

Settle = Callable[[str, str], str]
"""Resolves the grammar marks of a text in a style."""


def _parse(text: str) -> list[_Sequence]:
    """`text` as alternatives, each a sequence of literal text, holes and nested alternatives."""
    stack: list[list[_Sequence]] = [[[]]]
    for token in re.findall(r"[(|)]|\{\w+\}|[^(|){}]+", text):
        if token == "(":
            stack.append([[]])
        elif token == "|":
            stack[-1].append([])
        elif token == ")":
            choice = stack.pop()
            stack[-1][-1].append(choice)
        else:
            stack[-1][-1].append(_Hole(token[1:-1]) if token[0] == "{" else token)
    (alternatives,) = stack
    return alternatives


def _line(text: str) -> _Line:
    sentence = text.lstrip(">?")
    marks = text.removesuffix(sentence)
    (sequence,) = _parse(sentence)
    return _Line("\n" if ">" in marks else " ", "?" in marks, sequence)


def _frames(text: str, settle: Settle) -> list[Frame]:
    """Frames with a blank line between them, under headers `# genre: style style`.

    Marks on fixed words are settled here, once for each style; the others wait for the words they go with.
    """
    frames = []
    for block in text.strip().split("\n\n"):
        header, _, lines = block.partition("\n")
        styles = header.partition(": ")[2].split()
        frames.append({style: [_line(line) for line in settle(lines, style).split("\n")] for style in styles})
    return frames


def _rules(text: str, settle: Settle, style: str) -> dict[str, list[_Sequence]]:
    """Rules of the form `name: choice|choice`, one a line."""
    lines = (line.split(": ", 1) for line in settle(text, style).strip().split("\n"))
    return {name: _parse(choices) for name, choices in lines}


def _tables(text: str) -> dict[str, list[Facts]]:
    """Tables of the form `key|key: row / row`, whose rows may go on over further lines, each under all of its keys."""
    tables: dict[str, list[Facts]] = {}
    for block in re.split(r"\n(?=[a-z_0-9|]+: )", text.strip()):
        header, rows = block.split(": ", 1)
        keys = header.split("|")
        table = [dict(zip(keys, row.split("|"), strict=True)) for row in re.split(r"\n| / ", rows)]
        tables |= dict.fromkeys(keys, table)
    return tables


# --- Hangul ---------------------------------------------------------------------------------------

INITIALS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
FINALS = ["", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"]
FIRST_SYLLABLE = ord("가")


def split_syllable(syllable: str) -> tuple[str, str, str]:
    """Initial, vowel and final of a precomposed syllable: 한 → ㅎ, ㅏ, ㄴ; the final of an open syllable is ''.

    Syllables are laid out in Unicode as (initial * 21 + vowel) * 28 + final (Unicode Standard, section 3.12).
    """
    index, final = divmod(ord(syllable) - FIRST_SYLLABLE, len(FINALS))
    assert 0 <= index < len(INITIALS) * len(VOWELS), f"{syllable!r} is not a Hangul syllable"
    return INITIALS[index // len(VOWELS)], VOWELS[index % len(VOWELS)], FINALS[final]


def join_syllable(initial: str, vowel: str, final: str = "") -> str:
    """The inverse of `split_syllable`."""
    index = INITIALS.index(initial) * len(VOWELS) + VOWELS.index(vowel)
    return chr(FIRST_SYLLABLE + index * len(FINALS) + FINALS.index(final))


# Read aloud, a number ends like its last digit: one that ends in 0 (십, 백, 천, 만) in a consonant, as 영 does.
DIGIT_NAMES = "영일이삼사오육칠팔구"
PARTICLES = {"은": "는", "이": "가", "을": "를", "과": "와", "아": "야"}  # after a consonant: after a vowel


def particle(word: str, after_consonant: str) -> str:
    """The form of a particle or of the copula 이다 after `word`, given the form it takes after a consonant.

    >>> particle("민수", "은"), particle("연필", "으로"), particle("의사", "이에요"), particle("선생님", "이라고")
    ('는', '로', '예요', '이라고')
    """
    last = DIGIT_NAMES[int(word[-1])] if word[-1].isdecimal() else word[-1]
    final = split_syllable(last)[2]
    if after_consonant.startswith("으로"):
        return after_consonant if final not in ("", "ㄹ") else after_consonant[1:]
    if final:
        return after_consonant
    if after_consonant in PARTICLES:
        return PARTICLES[after_consonant]
    for long, short in (("이었", "였"), ("이어", "여"), ("이에", "예"), ("이", ""), ("입", "입")):
        if after_consonant.startswith(long):
            return short + after_consonant[len(long) :]
    raise AssertionError(f"no particle {after_consonant!r}")


# Stems that look alike and conjugate apart (받다: 받아, but 듣다: 들어), for the verbs and adjectives used below.
IRREGULAR_D = ("듣", "걷", "묻", "싣", "깨닫")
IRREGULAR_S = ("짓", "젓", "붓", "낫", "잇")
REGULAR_B = ("입", "잡", "뽑", "씹", "집", "접", "꼽", "업", "좁")
REGULAR_H = ("넣", "쌓", "낳", "닿", "땋")
REGULAR_REU = ("따르", "들르", "치르")
UNCONTRACTED = ("피", "비", "끼")  # 피었다, not 폈다


def _with_final(word: str, final: str) -> str:
    initial, vowel, _ = split_syllable(word[-1])
    return word[:-1] + join_syllable(initial, vowel, final)


def infinitive(stem: str, *, spoken: bool = False) -> str:
    """A stem with 아/어: 가 → 가, 먹 → 먹어, 하 → 해, 돕 → 도와, 듣 → 들어, 부르 → 불러, 바쁘 → 바빠.

    ㅗ, ㅜ and ㅚ contract after a silent initial (오 → 와), after others only in speech (주 → 주어, spoken 줘).
    """
    head, last = stem[:-1], stem[-1]
    initial, vowel, final = split_syllable(last)
    if last == "하":
        return head + "해"
    if last == "르" and not stem.endswith(REGULAR_REU):
        return _with_final(head, "ㄹ") + ("라" if split_syllable(head[-1])[1] in "ㅏㅗ" else "러")
    if not final and vowel == "ㅡ":
        return head + join_syllable(initial, "ㅏ" if head and split_syllable(head[-1])[1] in "ㅏㅗ" else "ㅓ")
    if not final:
        contracted = {"ㅣ": "ㅕ", "ㅗ": "ㅘ", "ㅜ": "ㅝ", "ㅚ": "ㅙ"}.get(vowel, vowel)
        if vowel in "ㅟㅢ" or stem in UNCONTRACTED or (vowel in "ㅗㅜㅚ" and initial != "ㅇ" and not spoken):
            return stem + ("아" if vowel == "ㅗ" else "어")
        return head + join_syllable(initial, contracted)
    if final == "ㅂ" and not stem.endswith(REGULAR_B):
        return _with_final(stem, "") + ("와" if last in "돕곱" else "워")
    if final == "ㅎ" and vowel in "ㅏㅓㅑ" and last not in REGULAR_H:  # 하얗 → 하얘, 파랗 → 파래
        return head + join_syllable(initial, "ㅒ" if vowel == "ㅑ" else "ㅐ")
    return _before_vowel(stem)[0] + ("아" if vowel in "ㅏㅑㅗ" else "어")


def _before_vowel(stem: str) -> tuple[str, bool]:
    """The stem an 으-ending meets (듣 → 들, 춥 → 추우), and whether that ending loses its 으."""
    _, vowel, final = split_syllable(stem[-1])
    if final == "ㄷ" and stem.endswith(IRREGULAR_D):
        return _with_final(stem, "ㄹ"), False
    if final == "ㅅ" and stem.endswith(IRREGULAR_S):
        return _with_final(stem, ""), False
    if final == "ㅂ" and not stem.endswith(REGULAR_B):
        return _with_final(stem, "") + "우", True
    if final == "ㅎ" and vowel in "ㅏㅓㅑ" and stem[-1] not in REGULAR_H:
        return _with_final(stem, ""), True
    return stem, final in ("", "ㄹ")


def conjugate(stem: str, ending: str) -> str:
    """Join a verb or adjective stem and an ending, written as it is after a consonant of the ㅏ row.

    >>> conjugate("먹", "았다"), conjugate("춥", "으면"), conjugate("만들", "ㅂ니다"), conjugate("듣", "ㄴ다")
    ('먹었다', '추우면', '만듭니다', '듣는다')
    """
    first, rest = ending[0], ending[1:]
    if first in "아았":
        form = infinitive(stem, spoken=ending in ("아", "았어") or ending.endswith("요"))
        return (_with_final(form, "ㅆ") if first == "았" else form) + rest
    final = split_syllable(stem[-1])[2]
    if first in "ㄴㅂ":  # -ㄴ다/-는다, -ㅂ니다/-습니다
        if final in ("", "ㄹ"):
            return _with_final(stem, first) + rest
        return stem + ("는" if first == "ㄴ" else "습") + rest
    if first in "으은을":
        stem, short = _before_vowel(stem)
        if not short:
            return stem + ending
        if first in "은을":
            return _with_final(stem, "ㄴ" if first == "은" else "ㄹ") + rest
        ending = rest
    if split_syllable(stem[-1])[2] == "ㄹ" and split_syllable(ending[0])[0] in "ㄴㅅㅂ":  # 만들 → 만드는, 만드니까
        stem = _with_final(stem, "")
    return stem + ending


# What the narrator's marks mean in each style. A copula's mark follows a noun, the others a stem: `now` an action,
# `is` a quality, `hpast` what someone did who is looked up to.
STYLES = {
    "plain": {"past": "았다", "now": "ㄴ다", "is": "다", "will": "을 것이다", "hpast": "으셨다"},
    "polite": {"past": "았어요", "now": "아요", "is": "아요", "will": "을 거예요", "hpast": "으셨어요"},
    "formal": {"past": "았습니다", "now": "ㅂ니다", "is": "ㅂ니다", "will": "을 것입니다", "hpast": "으셨습니다"},
}
COPULA = {
    "plain": {"past": "이었다", "is": "이다"},
    "polite": {"past": "이었어요", "is": "이에요"},
    "formal": {"past": "이었습니다", "is": "입니다"},
}
KOREAN_MARK = re.compile(r"(?<![})가-힣0-9])([가-힣0-9]+)([\"”]?)([~+])([가-힣ㄴㅂa-z]+)")


@lru_cache(maxsize=1 << 16)
def _join_korean(word: str, quote: str, mark: str, form: str, style: str) -> str:
    if mark == "+":
        return conjugate(word, STYLES[style].get(form, form))
    return word + quote + particle(word, COPULA[style].get(form, form))


# --- Korean numbers -------------------------------------------------------------------------------

NATIVE_ONES = ["", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉"]
NATIVE_TENS = ["", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔"]
SINO_DIGITS = ["", *DIGIT_NAMES[1:]]


def native_number(n: int) -> str:
    """A native numeral as it stands before a counter, 1 to 99: 세 (개), 스무 (명), 스물한 (살)."""
    return "스무" if n == 20 else NATIVE_TENS[n // 10] + NATIVE_ONES[n % 10]


def sino_number(n: int) -> str:
    """A Sino-Korean numeral, 1 to 99,999,999, spaced at 만: 35 → 삼십오, 12500 → 만 이천오백."""
    if n >= 10_000:
        high = sino_number(n // 10_000)
        return f"{'' if high == '일' else high}만 {sino_number(n % 10_000)}".strip()
    parts = []
    for unit, name in ((1000, "천"), (100, "백"), (10, "십"), (1, "")):
        digit = n // unit % 10
        parts.append("" if not digit else name if digit == 1 and name else SINO_DIGITS[digit] + name)
    return "".join(parts)


# --- English words --------------------------------------------------------------------------------

VOWEL = "aeiou"
IRREGULAR = _tables("""\
verb|past: be|was / beat|beat / become|became / break|broke / bring|brought / build|built / catch|caught / choose|chose
come|came / cost|cost / cut|cut / do|did / draw|drew / drink|drank / eat|ate / feed|fed / feel|felt / find|found
fly|flew / get|got / give|gave / go|went / hang|hung / have|had / hit|hit / keep|kept / know|knew / leave|left
make|made / meet|met / pay|paid / put|put / read|read / ride|rode / ring|rang / run|ran / say|said / see|saw / set|set
shoot|shot / sing|sang / sleep|slept / slide|slid / swim|swam / swing|swung / take|took / tell|told / think|thought
throw|threw / understand|understood / win|won / write|wrote
singular|plural: child|children / foot|feet / mouse|mice / goose|geese / leaf|leaves / loaf|loaves / knife|knives
wolf|wolves / fish|fish / salmon|salmon / potato|potatoes / tomato|tomatoes / scarf|scarves
""")
IRREGULAR_PAST = {row["verb"]: row["past"] for row in IRREGULAR["verb"]}
IRREGULAR_PLURAL = {row["singular"]: row["plural"] for row in IRREGULAR["singular"]}


def add_s(word: str) -> str:
    """A regular plural or third person singular, which are spelt alike: boxes, carries, goes."""
    after_consonant = word[-2] not in VOWEL
    if word.endswith(("s", "x", "ch", "sh")) or (word.endswith("o") and after_consonant):
        return word + "es"
    return word[:-1] + "ies" if word.endswith("y") and after_consonant else word + "s"


def add_ed(verb: str) -> str:
    """A regular past: hoped, carried, stopped, visited."""
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in VOWEL:
        return verb[:-1] + "ied"
    return verb + (verb[-1] if re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", verb) else "") + "ed"


@lru_cache(maxsize=1 << 14)
def inflect(word: str, form: str, tense: str) -> str:
    """A form of an English word: `p` plural noun, `s` verb in the third person singular present, and in the tense
    ("past" or "present") `v` a verb with a singular subject, `vp` with a plural one.

    >>> inflect("carry", "v", "past"), inflect("be", "vp", "present"), inflect("knife", "p", "present")
    ('carried', 'are', 'knives')
    """
    if form == "p":
        return IRREGULAR_PLURAL.get(word) or add_s(word)
    if word == "be" and form == "vp":
        return "were" if tense == "past" else "are"
    if form != "s" and tense == "past":
        return IRREGULAR_PAST.get(word) or add_ed(word)
    if form == "vp":
        return word
    assert form in ("s", "v"), f"no form {form!r}"
    return {"be": "is", "have": "has"}.get(word) or add_s(word)


# `a` is right before a consonant sound: a university, a one-way street, but an hour, an 8, an 11.
ENGLISH_MARK = re.compile(r"([a-z]+)\+([a-z]+)")
AN = re.compile(r"\b([Aa]) (?!one\b|once\b|us[eu]|uni[^nm]|eu|ew)(?=[aeiou]|hour\b|hon[eo]|8|11\b|18\b)", re.IGNORECASE)
ENGLISH_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
ENGLISH_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def english_number(n: int) -> str:
    """0 to 99 in words: 21 → twenty-one."""
    if n < 20:
        return ENGLISH_ONES[n]
    return ENGLISH_TENS[n // 10] + (f"-{ENGLISH_ONES[n % 10]}" if n % 10 else "")


# --- writing --------------------------------------------------------------------------------------


class Draw:
    """Choices from a seed. Rests on `Random.random` alone, the one method whose sequence Python promises to keep."""

    def __init__(self, seed: int) -> None:
        self.fraction = Random(seed).random

    def integer(self, low: int, high: int) -> int:
        """`low` to `high`, both included."""
        return low + int(self.fraction() * (high - low + 1))

    def one(self, options: Sequence[T]) -> T:
        return options[int(self.fraction() * len(options))]

    def several(self, options: Sequence[T], n: int) -> list[T]:
        """`n` different options."""
        rest = list(options)
        return [rest.pop(int(self.fraction() * len(rest))) for _ in range(n)]


class Language(NamedTuple):
    frames: list[Frame]
    rules: dict[str, dict[str, list[_Sequence]]]
    """Under each style, the rules by name."""
    tables: dict[str, list[Facts]]
    """Under each of its keys, a table's rows: words that go together."""
    facts: dict[str, "Callable[[Draw, Cast], Facts]"]
    """Under each name it answers to, a function that draws quantities that add up, dates that exist and the like."""
    number: Callable[[int], str]
    """A number from 1 to 99 in words."""
    settle: Settle


class Cast(Facts):
    """Who, what, where and how much in one document: drawn when first asked for, the same from then on."""

    def __init__(self, language: Language, draw: Draw, style: str) -> None:
        super().__init__()
        self.language, self.draw, self.style = language, draw, style

    def __missing__(self, key: str) -> str:
        language = self.language
        found = self.draw.one(language.tables[key]) if key in language.tables else language.facts[key](self.draw, self)
        self.update(found)
        return found[key]


# --- facts of both languages ----------------------------------------------------------------------


def _money(draw: Draw, unit: int, notes: int) -> dict[str, int]:
    """A purchase paid in whole notes, and the change."""
    count = draw.integer(2, 9)
    total = count * unit
    paid = (total // notes + 1) * notes
    return {"unit": unit, "count": count, "total": total, "paid": paid, "change": paid - total}


def _day(draw: Draw, cast: Cast) -> date:
    """A day from Monday to Friday, in a month that suits the cast's weather."""
    day = date(draw.integer(2015, 2024), int(draw.one(cast["months"].split())), draw.integer(8, 21))
    return day + timedelta(draw.integer(0, 4) - day.weekday())


def _minutes(draw: Draw) -> dict[str, int]:
    boil, simmer = draw.integer(3, 8), draw.integer(5, 20)
    return {"boil": boil, "simmer": simmer, "cooking": boil + simmer, "walk": draw.integer(3, 15)}


def _counts(draw: Draw, cast: Cast) -> Facts:
    """A harvest, a handful shared by three, and a recipe."""
    seeds, failed, each, share = draw.integer(6, 12), draw.integer(2, 4), draw.integer(2, 6), draw.integer(3, 9)
    harvest = (seeds - failed) * each
    given, used = draw.integer(2, harvest // 2), draw.integer(1, share - 1)
    counts = {"seeds": seeds, "failed": failed, "sprouts": seeds - failed, "each": each, "harvest": harvest}
    counts |= {"given": given, "kept": harvest - given, "sum": 3 * share, "share": share, "used": used}
    counts |= {"rest": share - used, "servings": draw.integer(2, 4), "cups": draw.integer(3, 6)}
    counts |= {"spoons": draw.integer(2, 3)}
    return {key: cast.language.number(n) for key, n in counts.items()}


def _life(draw: Draw, cast: Cast) -> Facts:
    """An artist's works and years, and the years of a town and a team."""
    born, began, age, founded = (draw.integer(*span) for span in ((1850, 1920), (9, 15), (55, 90), (1890, 1980)))
    debut_age = began + draw.integer(6, 15)
    debut = born + debut_age
    years = {"born": born, "died": born + age, "debut": debut, "prize": debut + draw.integer(3, 15)}
    years |= {"founded": founded, "opened": founded + draw.integer(3, 30), "champions": draw.integer(1985, 2012)}
    counts = {"began": began, "debut_age": debut_age, "age": age, "works_count": draw.integer(12, 60)}
    facts = {"title": f"{cast['adjective']} {cast['noun']}", "title2": f"{cast['adjective2']} {cast['noun2']}"}
    facts |= {key: str(year) for key, year in years.items()}
    return facts | {key: cast.language.number(n) for key, n in counts.items()}


def _match(draw: Draw, cast: Cast) -> Facts:
    """A final, won by `gap`; at half time the winners led already."""
    ours, gap = draw.integer(int(cast["least"]), int(cast["most"])), draw.integer(2, 3)
    half = draw.integer(ours // 2, ours - 1)
    score = {"ours": ours, "theirs": ours - gap, "gap": gap, "best": ours // 3 + 1}
    score |= {"half": half, "half_theirs": min(ours - gap, half - 1), "late": ours - half}
    return {key: str(n) for key, n in score.items()}


def _report(draw: Draw, cast: Cast) -> Facts:
    """A survey, a town's size and a day's temperatures."""
    pupils, votes1, votes2 = draw.integer(150, 300), draw.integer(61, 90), draw.integer(20, 60)
    numbers = {"pupils": pupils, "votes1": votes1, "votes2": votes2, "votes3": pupils - votes1 - votes2}
    low, high = int(cast["coldest"]) + draw.integer(0, 3), int(cast["warmest"]) + draw.integer(0, 4)
    warmer = draw.integer(2, 4)
    numbers |= {"low": low, "high": high, "range": high - low, "warmer": warmer, "last_high": high - warmer}
    numbers |= {"votes_gap": votes1 - votes2, "people": 100 * draw.integer(30, 900)}
    numbers |= {"visitors": 100 * draw.integer(12, 99)}
    return {key: f"{n:,}" for key, n in numbers.items()}


def _animals(draw: Draw, cast: Cast) -> Facts:
    """What the cast's animal shares with all of its kind, another one of them, and one of another kind."""
    rows, kind = cast.language.tables["animal"], cast["kind"]
    relative = draw.one([row for row in rows if row["kind"] == kind and row["animal"] != cast["animal"]])
    stranger = draw.one([row for row in rows if row["kind"] != kind])
    (kindtrait,) = (row["shared"] for row in cast.language.tables["family"] if row["family"] == kind)
    facts = {"relative": relative["animal"], "relative_home": relative["home"], "stranger": stranger["animal"]}
    return facts | {"stranger_kind": stranger["kind"], "stranger_prey": stranger["prey"], "kindtrait": kindtrait}


SHARED_FACTS = [_counts, _life, _match, _report, _animals]


# --- Korean ---------------------------------------------------------------------------------------


def _korean_people(draw: Draw, cast: Cast) -> Facts:
    hero, friend, third, first, second = (row["name"] for row in draw.several(cast.language.tables["name"], 5))
    surname, other = (row["surname"] for row in draw.several(cast.language.tables["surname"], 2))
    nick = hero + ("이" if split_syllable(hero[-1])[2] else "")  # what the family calls them
    i = "나" if cast.style == "plain" else "저"
    people = {"hero": hero, "friend": friend, "third": third, "full": surname + first, "other": other + second}
    return {**people, "nick": nick, "i": i}


def _korean_numerals(draw: Draw, cast: Cast) -> Facts:
    return {"numerals": draw.one(["digits", "words"])}  # 3,500원 or 삼천오백 원, one way in a document


def _sino(cast: Cast, n: int, unit: str) -> str:
    return f"{n:,}{unit}" if cast["numerals"] == "digits" else f"{sino_number(n)} {unit}"


def _clock(cast: Cast, hour: int) -> str:
    return f"{hour}시" if cast["numerals"] == "digits" else f"{native_number(hour)} 시"


def _korean_dates(draw: Draw, cast: Cast) -> Facts:
    day = _day(draw, cast)
    weekday = cast.language.tables["weekday"][day.weekday()]["weekday"]
    monthday = f"{day.month}월 {day.day}일"
    return {"schoolday": f"{day.year}년 {monthday} {weekday}", "month": f"{day.month}월", "monthday": monthday}


def _korean_times(draw: Draw, cast: Cast) -> Facts:
    spans = [_sino(cast, 10 * draw.integer(2, 5), "분"), f"{native_number(draw.integer(1, 3))} 시간"]
    return {
        **{key: _sino(cast, n, "분") for key, n in _minutes(draw).items()},
        "years": _sino(cast, draw.integer(3, 25), "년"),
        "sproutdays": _sino(cast, draw.integer(5, 14), "일"),
        "growdays": _sino(cast, 10 * draw.integer(6, 11), "일"),
        "hour": _clock(cast, draw.integer(5, 7)),
        "time": f"오후 {_clock(cast, draw.integer(1, 5))}",
        "closing": f"오후 {_clock(cast, draw.integer(5, 9))}",
        "span": draw.one(spans),
        "practice": draw.one(spans),
    }


def _korean_money(draw: Draw, cast: Cast) -> Facts:
    won = _money(draw, int(cast["price"]) * draw.integer(10, 14) // 1000 * 100, notes=5000)
    return {"count": native_number(won.pop("count")), **{key: _sino(cast, n, "원") for key, n in won.items()}}


KOREAN_FACTS = [_korean_people, _korean_numerals, _korean_dates, _korean_times, _korean_money]


def _settle_korean(text: str, style: str) -> str:
    return KOREAN_MARK.sub(lambda match: _join_korean(*match.groups(), style), text)


KOREAN_TABLES = """\
name: 민수 / 지영 / 서준 / 하은 / 도윤 / 수아 / 지호 / 유진 / 현우 / 은지 / 태민 / 소라 / 준영 / 미나 / 동현 / 혜진
성호 / 나래 / 재훈 / 다은 / 영수 / 정은 / 우진 / 가은 / 승민 / 채원 / 민재 / 보라 / 기훈 / 예린 / 상우 / 윤아 / 진우
세라 / 규현 / 아름 / 호준 / 선영 / 한결 / 슬기 / 건우 / 주희 / 태호 / 연주 / 시우 / 효진 / 경민 / 수빈 / 영준 / 지윤
인호 / 가람 / 종현 / 은솔 / 대한 / 미정
surname: 김 / 이 / 박 / 최 / 정 / 강 / 조 / 윤 / 장 / 임 / 한 / 오 / 서 / 신 / 권 / 황 / 안 / 송 / 홍 / 문
weekday: 월요일 / 화요일 / 수요일 / 목요일 / 금요일 / 토요일 / 일요일
parent|mom: 어머니|엄마 / 아버지|아빠 / 할머니|할머니 / 할아버지|할아버지
grand: 할머니 / 할아버지 / 외할머니 / 외할아버지
gift|puton: 목도리|두르 / 장갑|끼 / 모자|쓰 / 돋보기|쓰 / 스웨터|입 / 털신|신 / 조끼|입
shop|item|counter|price|use: 과일 가게|사과|개|1500|깨끗이 씻어서 먹 / 과일 가게|배|개|2500|깎아서 먹
과일 가게|귤|개|500|하나씩 까서 먹 / 과일 가게|복숭아|개|2000|시원하게 해서 먹 / 과일 가게|포도|송이|4000|한 알씩 따 먹
두부 가게|두부|모|1800|찌개에 넣 / 생선 가게|고등어|마리|4000|노릇노릇하게 굽
생선 가게|오징어|마리|3500|살짝 데쳐서 초고추장에 찍어 먹 / 채소 가게|배추|포기|2800|소금에 절여 김치를 담그
채소 가게|감자|개|600|쪄서 식구들과 나누어 먹 / 채소 가게|고구마|개|900|오븐에 굽 / 채소 가게|오이|개|700|얇게 썰어 무치
채소 가게|당근|개|800|잘게 썰어 볶 / 문구점|연필|자루|700|깎아서 필통에 넣 / 문구점|공책|권|1200|꺼내어 이름을 쓰
문구점|색연필|자루|900|꺼내어 꽃 그림을 그리 / 문구점|지우개|개|500|필통 속에 넣
문구점|수첩|권|2500|책상 위에 가지런히 놓 / 서점|동화책|권|9000|동생에게 읽어 주 / 서점|소설책|권|12000|밤늦게까지 읽
서점|시집|권|8000|소리 내어 읽 / 서점|만화책|권|5000|읽으며 크게 웃 / 꽃집|장미|송이|3000|꽃병에 꽂
꽃집|튤립|송이|2500|꽃병에 꽂 / 꽃집|국화|송이|1500|부엌 식탁에 놓 / 꽃집|해바라기|송이|3500|창가에 놓
빵집|단팥빵|개|1500|우유와 함께 먹 / 빵집|크림빵|개|1800|식구들과 나누어 먹 / 빵집|도넛|개|1200|접시에 담아 먹
빵집|바게트|개|3500|얇게 썰어 잼을 발라 먹 / 옷 가게|양말|켤레|2000|서랍에 넣
옷 가게|손수건|장|3000|다림질해서 서랍에 넣 / 옷 가게|장갑|켤레|5000|신발장 위에 두
thing: 우산 / 지갑 / 열쇠 / 안경 / 휴대전화 / 모자 / 공책 / 목도리 / 장갑 / 손목시계 / 도시락 통 / 필통
room: 책상 서랍 / 침대 밑 / 책장 위 / 소파 뒤 / 작은 상자 안 / 책가방 안 / 이불 속 / 베개 옆
room2: 옷장 안 / 부엌 선반 위 / 현관 바구니 안 / 거실 탁자 위 / 창문 옆 의자 위 / 피아노 위 / 신발장 위 / 텔레비전 뒤
place|seen|act|keep: 바닷가|하얀 파도|모래성을 쌓|조개껍데기
강가|물 위를 나는 새|납작한 돌로 물수제비를 뜨|동그란 조약돌 / 산|키 큰 소나무|꼭대기까지 오르|솔방울
호숫가|물에 비친 산|작은 배를 타|하얀 깃털 / 동물원|목이 긴 기린|코끼리에게 먹이를 주|기린 인형
박물관|천 년 된 금관|옛날 그릇을 구경하|금관 모양 열쇠고리
미술관|벽을 가득 채운 그림|마음에 드는 그림을 따라 그리|그림엽서
식물원|처음 보는 선인장|온실을 한 바퀴 돌|꽃씨 한 봉지 / 놀이공원|반짝이는 회전목마|롤러코스터를 타|노란 풍선
수족관|커다란 상어|펭귄이 헤엄치는 모습을 보|돌고래 인형 / 천문대|하늘을 향한 망원경|별 사진을 구경하|별자리 지도
농장|풀을 뜯는 젖소|송아지에게 우유를 먹이|딸기잼 한 병 / 숲속 쉼터|나무를 오르는 다람쥐|새소리를 들으며 걷|도토리
민속촌|볏짚을 얹은 초가집|널뛰기를 하|나무 팽이
vehicle: 버스 / 기차 / 지하철 / 자동차 / 자전거 / 택시
months|sky|air|wear|turn: 3 4 5 9 10|맑음|하늘이 맑|모자를 쓰|저녁에는 노을이 무척 아름답
3 4 5 6 7 8 9|비|비가 오|우산을 쓰|다행히 점심때가 되자 비가 그치
2 12|눈|눈이 내리|장갑을 끼|눈은 점심때쯤 그치고 온 세상이 하얗게 빛나
3 4 10 11|바람|바람이 세게 불|두꺼운 외투를 입|바람은 오후가 되자 잦아들
3 4 10 11|안개|안개가 짙게 끼|밝은색 옷을 입|해가 높이 뜨자 안개는 모두 걷히
6 7|더위|날씨가 무덥|얇은 옷을 입|해가 지자 시원한 바람이 불
2 12|추위|날씨가 춥|목도리를 두르|낮이 되자 햇볕이 들어 몸이 녹
meal|dish|taste: 비빔밥|그릇|맵지만 고소하 / 냉면|그릇|시원하 / 김밥|줄|고소하 / 만두|접시|아주 뜨겁
떡볶이|접시|달고 맵 / 칼국수|그릇|국물이 진하 / 잡채|접시|부드럽 / 빈대떡|장|바삭바삭하 / 떡국|그릇|따뜻하
볶음밥|그릇|짭짤하
drink: 물 / 보리차 / 우유 / 포도 주스 / 귤차 / 식혜
pet|eats|habit: 강아지|뼈다귀 모양 과자|꼬리를 힘차게 흔들 / 고양이|말린 생선|부드럽게 몸을 비비
토끼|당근|귀를 쫑긋 세우 / 햄스터|해바라기씨|볼을 가득 부풀리 / 앵무새|좁쌀|노래하듯 지저귀 / 거북|배추 잎|목을 길게 빼
병아리|옥수수 가루|작은 소리로 삐악거리 / 오리|상추|뒤뚱뒤뚱 걸어오
petname: 밤톨 / 보리 / 구름 / 초코 / 단풍 / 두부 / 호박 / 바다 / 호두 / 감자 / 까망 / 사랑 / 순돌 / 은하 / 복실 / 토리
skill|act2|goal|event: 피아노|건반을 두드리|어려운 곡을 끝까지 치|연주회
수영|물장구를 치|쉬지 않고 오십 미터를 헤엄치|수영 대회 / 태권도|발차기를 연습하|두꺼운 송판을 깨뜨리|승급 심사
바둑|돌을 놓는 법을 익히|가장 강한 상대를 이기|바둑 대회 / 기타|줄을 튕기|노래를 부르며 기타를 치|학교 축제
달리기|운동장을 달리|마지막에 한 사람을 앞지르|운동회 / 서예|붓으로 글씨를 쓰|긴 시 한 편을 붓으로 쓰|서예 대회
바이올린|활을 긋는 법을 익히|빠른 곡을 한 번도 틀리지 않고 켜|연주회
탁구|공을 벽에 치|한 점 차이로 결승에서 이기|탁구 대회 / 종이접기|작은 학을 접|종이 한 장으로 용을 접|솜씨 자랑 대회
줄넘기|마당에서 줄을 넘|쉬지 않고 백 번을 넘|줄넘기 대회
worker|food|store: 다람쥐|도토리|나무 구멍 / 개미|곡식|땅속 창고 / 꿀벌|꿀|벌집 / 들쥐|밤|굴속 / 비버|나뭇가지|물가의 집
어치|씨앗|바위틈
idler|play: 너구리|낮잠을 자 / 여우|거울만 보 / 베짱이|노래를 부르 / 까치|수다를 떨 / 원숭이|그네를 타 / 두더지|빈둥거리
멧돼지|진흙에서 뒹굴
job|workplace|duty|tool: 의사|병원|아픈 사람을 치료하|청진기 / 간호사|병원|환자를 돌보|체온계
소방관|소방서|불을 끄|긴 호스 / 제빵사|빵집|빵을 굽|나무 밀대 / 목수|목공소|가구를 만들|톱 / 화가|화실|그림을 그리|붓
기자|신문사|기사를 쓰|수첩 / 농부|농장|채소를 기르|호미 / 어부|항구|물고기를 잡|그물 / 약사|약국|약을 짓|작은 저울
미용사|미용실|머리를 예쁘게 자르|가위 / 정비사|정비소|고장 난 차를 고치|공구 상자 / 사서|도서관|책을 정리하|책 수레
수의사|동물 병원|다친 동물을 돌보|작은 손전등 / 요리사|식당|맛있는 음식을 만들|큰 국자 / 집배원|우체국|편지를 나르|가방
선생님|학교|아이들을 가르치|두꺼운 교과서
kin: 이모 / 삼촌 / 고모 / 외삼촌 / 사촌 누나 / 사촌 형
animal|kind|home|prey|trait|way: 호랑이|포유류|깊은 숲|사슴과 멧돼지|몸에 검은 줄무늬가 있+is|밤에 혼자 사냥하+now
기린|포유류|아프리카의 초원|나뭇잎|목과 다리가 아주 길+is|대개 선 채로 자+now
코끼리|포유류|초원과 숲|풀과 나무껍질|긴 코를 손처럼 쓰+now|무리를 지어 살+now
낙타|포유류|건조한 사막|마른 풀과 나뭇잎|등에 혹이 있+is|물을 마시지 않고도 여러 날을 견디+now
북극곰|포유류|북극의 얼음 위|물범|털이 두껍+is|헤엄을 아주 잘 치+now
캥거루|포유류|오스트레일리아의 들판|풀|암컷의 배에 주머니가 있+is|튼튼한 뒷다리로 뛰어다니+now
박쥐|포유류|어두운 동굴|나방과 모기|날개가 있어 새처럼 날+now|낮에는 거꾸로 매달려 자+now
돌고래|포유류|따뜻한 바다|물고기와 오징어|물속에 살지만 허파로 숨을 쉬+now|소리를 내어 서로 이야기를 나누+now
펭귄|조류|남반구의 바닷가|물고기와 새우|날개가 있지만 날지 못하+now|물속에서 빠르게 헤엄치+now
부엉이|조류|숲|들쥐|고개를 뒤까지 돌릴 수 있+is|밤에 소리 없이 날아다니+now
두루미|조류|논과 늪|물고기와 곡식|목과 다리가 길+is|겨울이면 따뜻한 곳으로 옮겨 가+now
제비|조류|처마 밑|날벌레|꼬리가 두 갈래로 갈라져 있+is|봄에 돌아와 진흙으로 집을 짓+now
타조|조류|아프리카의 초원|풀과 씨앗|날지 못하지만 아주 빨리 달리+now|땅에 구덩이를 파고 알을 낳+now
바다거북|파충류|따뜻한 바다|해파리와 해초|등이 단단한 껍데기로 덮여 있+is|모래밭에 알을 낳+now
악어|파충류|더운 지방의 강|물고기와 짐승|이빨이 무척 날카롭+is|물속에 숨어서 먹이를 기다리+now
도마뱀|파충류|바위틈과 풀숲|곤충|위험하면 꼬리를 끊고 달아나+now|햇볕을 쬐어 몸을 데우+now
개구리|양서류|논과 연못|파리와 모기|긴 혀로 벌레를 잡+now|겨울에는 땅속에서 잠을 자+now
도롱뇽|양서류|맑은 계곡|작은 벌레|피부가 늘 촉촉하+is|낮에는 돌 밑에 숨어 지내+now
연어|어류|강과 바다|작은 물고기와 새우|몸이 은빛으로 빛나+now|알을 낳으러 태어난 강으로 돌아오+now
상어|어류|넓은 바다|물고기|냄새를 아주 잘 맡+now|먹이를 찾아 쉬지 않고 돌아다니+now
해마|어류|바닷말 사이|아주 작은 새우|머리가 말을 닮+past|수컷이 알을 주머니에 넣어 지키+now
개미|곤충|땅속|씨앗과 작은 벌레|몸보다 무거운 것도 들+now|수많은 동료와 함께 일하+now
꿀벌|곤충|벌집|꿀과 꽃가루|몸에 줄무늬가 있+is|춤을 추어 꽃이 있는 곳을 알리+now
나비|곤충|꽃밭|꽃의 꿀|날개의 무늬가 화려하+is|애벌레와 번데기를 거쳐 어른이 되+now
매미|곤충|나무 위|나무의 즙|수컷이 큰 소리로 울+now|애벌레로 여러 해를 땅속에서 지내+now
town: 솔내 / 해온 / 푸른들 / 새밭 / 너울 / 가온 / 다솔 / 아라 / 윤슬 / 꽃재 / 미르골 / 돌모루 / 감나루 / 노루목 / 햇살골
버들내 / 달맞이 / 은물결
site|landmark|crop|trade: 동쪽 바닷가|하얀 등대|오징어|고기잡이 / 깊은 산속|커다란 폭포|버섯|버섯 농사
넓은 강가|오래된 돌다리|쌀|벼농사 / 남쪽 섬|해안 산책로|귤|귤 농사 / 맑은 호숫가|작은 정자|연근|연근 농사
너른 들판|붉은 풍차|감자|감자 농사 / 낮은 언덕|천 년 된 은행나무|사과|사과 농사 / 따뜻한 골짜기|옛 성터|포도|포도 농사
artist|works|make|measure: 소설가|소설|쓰|편 / 시인|시|쓰|편 / 화가|그림|그리|점 / 작곡가|노래|짓|곡
조각가|조각|만들|점 / 사진작가|사진|찍|점 / 영화감독|영화|만들|편
adjective|adjective2: 푸른|먼 / 긴|눈부신 / 낡은|고요한 / 작은|마지막 / 하얀|어두운 / 잊힌|따뜻한 / 깊은|새로운
외로운|넓은
noun|noun2: 강|편지 / 밤|정원 / 바다|집 / 길|언덕 / 별|여름 / 섬|노래 / 창문|겨울 / 다리|아침
youth: 배를 만드는 목수의 딸로 / 가난한 농부의 막내로 / 작은 서점 주인의 아들로 / 학교 선생님의 맏이로
시장에서 국수를 파는 집의 외동으로 / 의사 부부의 둘째로
soup|main|prep|extra|season: 된장찌개|두부|네모나게 썰|애호박|된장 / 김치찌개|김치|먹기 좋게 썰|돼지고기|고춧가루
미역국|미역|찬물에 불리|소고기|국간장 / 감잣국|감자|얇게 썰|양파|소금 / 콩나물국|콩나물|깨끗이 씻|대파|소금
버섯전골|버섯|손으로 찢|배추|간장 / 어묵탕|어묵|한 입 크기로 썰|무|국간장 / 카레|닭고기|작게 썰|당근|카레 가루
plant|fruit|tall: 토마토|토마토|어깨 / 고추|고추|무릎 / 오이|오이|허리 / 호박|호박|허리 / 가지|가지|무릎
옥수수|옥수수|어깨 / 딸기|딸기|발목 / 참외|참외|발목
candy|unit_of: 사탕|개 / 딱지|장 / 구슬|개 / 호두|알 / 밤|알 / 초콜릿|개 / 우표|장 / 스티커|장
sport|point|field|least|most: 축구|골|운동장|4|7 / 하키|골|빙상장|4|8 / 농구|점|체육관|55|95 / 핸드볼|골|체육관|18|32
team|team2: 별빛 팀|파도 팀 / 호랑이 팀|독수리 팀 / 청룡 팀|거북 팀 / 바람 팀|번개 팀 / 돌고래 팀|사자 팀
하늘 팀|강철 팀
building: 도서관 / 체육관 / 보건소 / 박물관 / 과학관 / 음악당
choice1|choice2|survey: 사과|포도|가장 좋아하는 과일 / 체육|음악|가장 좋아하는 과목 / 여름|겨울|가장 좋아하는 계절
산|바다|방학에 가고 싶은 곳 / 고양이|강아지|키우고 싶은 동물 / 걷기|수영|가장 즐기는 운동 / 소설|시|즐겨 읽는 글
corner|mark: 약국|빨간 우체통 / 은행|커다란 은행나무 / 빵집|파란 지붕 / 서점|높은 시계탑 / 꽃집|둥근 분수
우체국|노란 벽 / 병원|넓은 주차장
target: 도서관 / 시청 / 기차역 / 박물관 / 경찰서 / 극장 / 미술관 / 시장
love: 산책 / 옛이야기 / 비 오는 날 / 음악 / 별 보기 / 여행 / 동물 / 꽃
quote: 아름다움은 가까이에 있다 / 서두르지 않는 손이 오래 남는다 / 하루를 아끼면 평생이 길어진다
귀를 기울이면 길이 보인다 / 작은 것을 사랑하라 / 끝까지 하는 것이 재능이다
lesson|feat: 음악|노래를 멋지게 부르 / 미술|바다를 아주 잘 그리 / 국어|시를 큰 소리로 읽 / 수학|어려운 문제를 혼자 풀
과학|실험 결과를 발표하 / 영어|영어로 자기를 소개하 / 사회|우리 마을을 조사해서 발표하
headline|forecast|advice|coldest|warmest: 맑고 포근|맑은 하늘이 이어지+will|얇은 겉옷을 챙기|7|20
비 소식|아침부터 비가 내리+will|우산을 챙기|10|18 / 눈 소식|오후부터 눈이 내리+will|따뜻한 장갑을 끼|1|5
무더위|하루 종일 무덥+will|물을 자주 마시|23|31 / 강한 바람|바람이 강하게 불+will|창문을 꼭 닫|6|15
짙은 안개|아침까지 안개가 짙게 끼+will|밝은색 옷을 입|7|17 / 소나기|오후 한때 소나기가 내리+will|작은 우산을 챙기|19|28
period: 한 달 / 두 달 / 석 달 / 여섯 달 / 일 년
days: 이틀 / 사흘 / 나흘 / 닷새
ordinal: 둘째 / 셋째 / 넷째
turning: 오른쪽 / 왼쪽
waterdays: 하루 / 이틀 / 사흘 / 나흘
family|shared: 포유류|새끼를 젖으로 기르+now / 조류|몸이 깃털로 덮여 있+is / 파충류|몸이 비늘로 덮여 있+is
양서류|물과 땅을 오가며 살+now / 어류|아가미로 숨을 쉬+now / 곤충|다리가 여섯 개 있+is
"""
KOREAN_RULES = """\
when: 어느 날|어느 (토요일|일요일) 아침|며칠 전|오늘 아침에|오늘 오후에|지난 주말에|방학 첫날|점심을 먹은 뒤
morning: 어느 (날|토요일|일요일) 아침|오늘 아침에|지난 주말에|방학 첫날|아침 일찍
glad: {hero}~은 (무척|참|아주|몹시) (기쁘|행복하|뿌듯하|즐겁)+past.|{hero}의 얼굴에 (환한|밝은) 웃음이 떠오르+past.\
|그날 밤 {hero}~은 (즐거운|좋은|신나는) 꿈을 꾸+past.\
|{hero}~은 기분이 좋아서 콧노래를 부르+past.
said: 말하+past|웃으며 말하+past|이야기하+past
cheer: 포기하지 마|조금만 더 해 보자|금방 늘 거야|넌 꼭 해낼 거야|처음에는 누구나 그래
praise: 참 잘했구나|정말 애썼구나|아주 훌륭하구나|네가 자랑스럽구나
thanks: 정말 고마워|덕분이야, 고마워|고마워, 잊지 않을게|네가 있어서 다행이야
agree: 좋아|그래|응, 좋은 생각이야|당연하지
wow: 와|우아|이야
hard: 손이 마음대로 움직이지 않아서|자꾸 실수를 해서|무엇부터 해야 할지 몰라서|몸이 쉽게 지쳐서
moral: 이 일로 {idler}~은 미리 준비하는 것이 얼마나 중요한지 깨닫+past.\
|그제야 {idler}~은 게으름을 피운 것을 깊이 뉘우치+past.|마을 동물들은 모두 {worker}의 착한 마음을 칭찬하+past.\
|그 뒤로 둘은 누구보다 사이좋은 친구가 되+past.
"""
KOREAN_FRAMES = """\
# story: plain polite formal
{when} {hero}~은 ({parent} 심부름으로|모아 둔 용돈을 들고|{friend}~과 함께|혼자서) {shop}에 가+past.
(가게 안에는 손님이 많+past.|주인이 "어서 오세요." 하고 반갑게 인사하+past.|문을 열자 작은 종이 딸랑 울리+past.)
{item}~은 한 {counter}에 {unit}~past.
{hero}~은 (잠시 생각하다가|꼼꼼히 살펴보고 나서|망설이지 않고) {item} {count} {counter}~을 고르+past.
값은 (모두|다 합해서) {total}~past.
{hero}~이 {paid}~을 내자 주인은 {change}~을 거슬러 주+past.
?"{item} {count} {counter}~이니까 {total}~이고, 거스름돈은 {change}~입니다." 주인이 친절하게 말하+past.
집에 돌아온 {hero}~은 {item}~을 {use}+past.
?(저녁에|조금 뒤에) 놀러 온 {third}~이 {item}~을 보고 "어디에서 샀어?" 하고 묻+past.\
 "{shop}에서 샀어. 한 {counter}에 {unit}~이야." {hero}~이 대답하+past.
남은 {change}~은 (저금통에 넣+past|지갑에 잘 넣어 두+past|다음에 쓰려고 아껴 두+past).
?{glad}

# story: plain polite formal
{morning} {hero}~은 {friend}~과 함께 {place}에 가+past.
{air}+았기 때문에 두 사람은 {wear}+고 집을 나서+past.
{place}까지는 {vehicle}~으로 {span}~이 걸리+past.
{place}에 도착하자 (가장 먼저|바로) {seen}~이 눈에 들어오+past.
"{wow}, 저것 좀 봐!" {friend}~이 {seen}~을 가리키며 (소리치+past|외치+past).
두 사람은 {place}에서 {act}+았고, 점심으로 {meal}~을 먹+past.
{meal}~은 {taste}+past. ({hero}~은 {meal} 한 {dish}~을 금세 비우+past.|목이 마른 {friend}~은 {drink}~을 마시+past.|)
{turn}+past.
돌아오는 길에 {hero}~은 {friend}에게 {keep}~을 선물하+past.
{friend}~은 {keep}~을 (두 손으로 받고|한참 들여다보고) 활짝 웃+past. ("{thanks}." {friend}~이 {said}.|)
?집에 돌아온 {friend}~은 {keep}~을 {room2}에 소중히 두+past.
{hero}~은 (다음에도|내년에도|언젠가 또) {friend}~과 함께 {place}에 가고 싶+past.

# story: plain polite formal
{when} {hero}~은 (집으로 돌아오는 길에|학교 앞에서|놀이터 옆에서) 길을 잃은 {pet} 한 마리를 만나+past.
{pet}~은 (배가 고픈 듯|겁이 난 듯) 꼼짝도 하지 않+past.
{hero}~이 {eats}~을 조금 주자 {pet}~은 (맛있게|남김없이) 먹고 나서 {habit}+past.
"{mom}, 이 {pet}~을 키우면 안 돼요?" 집에 온 {hero}~이 묻+past.
{parent}께서는 (한참|잠시) 생각하시더니 고개를 끄덕이+hpast. "그래, 대신 네가 잘 돌봐야 한다."
{hero}~은 {pet}의 이름을 "{petname}"~이라고 짓+past.
{petname}~은 {eats}~을 특히 좋아해서 먹을 때마다 {habit}+past.
?하루는 {petname}~이 보이지 않아서 {hero}~은 온 집 안을 찾아다니+past.\
 {petname}~은 (소파 밑|빨래 바구니 안|햇볕이 드는 창가)에서 자고 있+past.
{friend}도 놀러 와서 {petname}에게 {eats}~을 주+past. "이름이 뭐야?" "{petname}~이야."
{period}~이 지나자 {petname}~은 몰라보게 자라+past.
{hero}~이 학교에서 돌아오면 {petname}~은 {parent}보다 먼저 나와 {habit}+past.
?{hero}~은 {petname}~이 세상에서 가장 좋+past.

# story: plain polite formal
{hero}~은 {month}부터 {skill}~을 배우+past.
처음에는 {hard} 무척 힘들+past.
"{cheer}." {friend}~이 {hero}~을 격려하+past.
{hero}~은 날마다 {practice} 동안 {act2}+past. (비가 오는 날에도 쉬지 않+past.|가끔은 {friend}~이 옆에서 지켜보+past.|)
{period}~이 지나자 {skill} 실력이 눈에 띄게 늘+past.
드디어 {event} 날이 되+past. {hero}~은 (떨리는 마음으로|깊이 숨을 쉬고) 앞으로 나가+past.
(놀랍게도|마침내) {hero}~은 {goal}+past. (사람들은 큰 박수를 보내+past.|{friend}~은 자리에서 벌떡 일어나+past.)
"{praise}." 선생님께서 말씀하+hpast.
{hero}~은 {friend}에게 "하루 {practice}씩 {act2}+은 보람이 있어." 하고 {said}.
?이제 {friend}도 {hero}에게 {skill}~을 배우고 싶어 하+past.
{glad}

# story: plain polite formal
{weekday}에 {hero}~은 {town}에 사시는 {grand}~을 뵈러 가+past.
{grand}께서는 대문 밖까지 나와 {hero}~을 반갑게 맞아 주+hpast.
"우리 {nick} 왔구나. {vehicle}~을 타고 오느라 힘들었지?"
"아니에요, {grand}. {span}밖에 안 걸렸어요." {hero}~이 (웃으며|씩씩하게) 대답하+past.
{grand}께서는 {meal}~을 만들어 주+hpast. {meal}~은 {taste}+past.
{hero}~은 {meal}~을 두 {dish}~이나 먹+past.
?점심을 드신 뒤 {grand}께서는 (방에서 잠깐 주무시+past|마당의 꽃에 물을 주+hpast|옛날이야기를 들려주+hpast).
"내가 어릴 때는 {town}에 {landmark}~이 없었단다." {grand}께서 말씀하+hpast.
{hero}~은 (용돈을 모아|{parent}~과 함께) 산 {gift}~을 {grand}께 드리+past.
{grand}께서는 {gift}~을 {puton}+아 보시고 무척 기뻐하+hpast.
저녁이 되자 {hero}~은 "{grand}, (다음 달|다음 주)에 또 올게요." 하고 인사하+past.
{grand}께서는 {gift}~을 {puton}+은 채 오랫동안 손을 흔들+hpast.

# story: plain polite formal
옛날 {site} {town}~이라는 마을에 {worker}~과 {idler}~이 이웃하여 살+past.
{worker}~은 날마다 {count} 번씩 {food}~을 날라 {store}에 쌓+past. 그러나 {idler}~은 하루 종일 {play}+past.
"{worker}~아, 일은 그만하고 나랑 놀자." {idler}~이 말하+past.
"겨울이 오면 먹을 것이 없어. 너도 {food}~을 모아 두는 게 좋을 거야." {worker}~이 대답하+past.
{idler}~은 {worker}의 말을 듣지 않고 (웃기만 하+past|다시 {play}+past).
(마침내|어느덧) 겨울이 와서 온 마을이 눈으로 덮이+past.
{worker}~은 따뜻한 {store}에서 {food}~을 꺼내 먹었지만, {idler}~은 먹을 것이 하나도 없+past.
배가 고픈 {idler}~은 {worker}의 집 문을 두드리+past.
"{worker}~아, {days} 동안 아무것도 못 먹었어. {food}~을 조금만 나누어 줘."
{worker}~은 {idler}~이 불쌍해서 {food}~을 나누어 주+past. ("봄이 오면 같이 일하자." {worker}~이 {said}.|)
이듬해 봄부터 {idler}~은 {play}+는 대신 {worker}~과 함께 {food}~을 모으+past.
{moral}

# story: plain polite formal
{hero}~은 (봄에|사월에) 마당에 {plant} 씨앗 {seeds} 개를 심+past.
(며칠 뒤|열흘 뒤) {sprouts} 개에서 싹이 나고 {failed} 개는 싹이 나지 않+past.
{hero}~은 아침마다 물을 주고, {friend}~은 잡초를 뽑+past.
?"언제쯤 {fruit}~을 먹을 수 있을까?" {friend}~이 묻+past. "여름이 오면 먹을 수 있어." {hero}~이 대답하+past.
여름이 되자 {plant}~은 {hero}의 {tall}까지 자라+past.
{plant} {sprouts} 포기에서 {each} 개씩, 모두 {harvest} 개의 {fruit}~이 열리+past.
{hero}~은 {harvest} 개 가운데 {given} 개를 {friend}에게 주고 {kept} 개를 집에 가져가+past.
"내가 기른 {fruit}~이라서 더 맛있어!" {hero}~이 {said}.
?{parent}께서는 "{seeds} 개를 심어 {harvest} 개를 얻었으니 대단하구나." 하고 칭찬하+hpast.
내년에는 {hero}도 {friend}도 {plant} 씨앗을 더 많이 심기로 하+past.

# story: plain polite formal
{hero}에게는 {candy} {sum} {unit_of}~이 있+past.
(쉬는 시간에|점심시간에) {friend}~과 {third}~이 {hero}의 자리로 오+past.
"{hero}~아, {candy}~이 정말 많구나!" {friend}~이 (눈을 크게 뜨고|부러운 듯이) 말하+past.
{hero}~은 세 사람이 똑같이 나누어 가지자고 하+past.
{sum} {unit_of}~을 셋으로 나누니 한 사람에게 {share} {unit_of}씩 돌아가+past.
{friend}~은 {share} {unit_of} 가운데 {used} {unit_of}~을 동생에게 주+past.
그래서 {friend}에게는 {rest} {unit_of}~이 남+past.
{third}~은 {share} {unit_of}~을 모두 (가방|주머니)에 넣+past.
"{thanks}. 다음에는 내가 나누어 줄게." {third}~이 {said}.
(며칠 뒤|다음 날) {third}~은 약속대로 {drink}~을 가져와 두 친구와 나누어 마시+past.
?{glad}

# story: plain polite formal
{when} {hero}~은 {thing}~을 {room}에 두고 밖으로 나가+past.
그사이에 {friend}~이 청소를 하다가 {thing}~을 {room2}~으로 옮기+past.
(조금 뒤|한 시간 뒤) 돌아온 {hero}~은 바로 {room}~을 살펴보+past. 그러나 {thing}~은 거기에 없+past.
"이상하네. 분명히 {room}에 두었는데." {hero}~이 혼잣말을 하+past.
"{hero}~아, 무엇을 찾아?" {friend}~이 묻+past. "내 {thing} 말이야. 어디에 있는지 알아?"
"미안해. 내가 청소하면서 {room2}~으로 옮겼어." {friend}~이 대답하+past.
{hero}~이 {room2}~을 보니 정말 {thing}~이 거기에 있+past.
("괜찮아. 찾았으니까 됐어."|"다음에는 꼭 말해 줘.") {hero}~이 웃으며 말하+past.
?{third}~이 나중에 "{thing}~은 어디에 있었어?" 하고 묻자 {hero}~은 "{room2}에 있었어." 하고 대답하+past.
그 뒤로 {hero}~은 {thing}~을 (늘|항상) {room2}에 두+past.

# story: plain polite formal
{hero}의 {kin}~은 {job}~is. {town}에 있는 {workplace}에서 {years}째 일하고 있+is.
{job}~은 {duty}+는 사람~is.
{kin}~은 아침마다 {hour}에 일어나 {vehicle}~을 타고 {workplace}~으로 가+now.
{when} {hero}~은 {kin}~을 따라 {workplace}에 가+past.
{kin}~은 {tool}~을 들고 (바쁘게|쉬지 않고) 움직이+past.
"{duty}+는 일은 힘들지 않아요?" {hero}~이 묻+past.
"힘들 때도 있지만 (사람들이 웃는 얼굴을 보면 피곤이 사라져|{years}~이 지나도 여전히 즐거워)." {kin}~이 대답하+past.
{hero}도 {tool}~을 만져 보+past. (생각보다 훨씬 무겁+past.|{kin}의 {tool}~은 낡았지만 깨끗하+past.)
?{workplace} 사람들은 {hero}에게 {drink}~을 주었고, {hero}~은 "고맙습니다." 하고 인사하+past.
집에 돌아온 {hero}~은 일기장에 "나도 커서 {job}~이 되고 싶다."라고 쓰+past.

# dialogue: plain polite formal
{when} {hero}~은 {friend}에게 전화를 걸+past.
>"{friend}~아, {weekday}에 시간 있어?" {hero}~이 묻+past.
>"응, {weekday}에는 (아무 일도 없어|하루 종일 집에 있어). (왜|무슨 일이야)?"
>"나랑 {place}에 가자. {place}에 가면 {seen}도 볼 수 있대."
>"{agree}! 그럼 몇 시에 어디에서 만날까?"
>"{time}에 {corner} 앞에서 만나자. {vehicle}~을 타면 {span}~이 걸려."
>"알았어. {time}까지 {corner} 앞으로 갈게. 저녁은 어떻게 하지?"
>"내가 {meal}~을 살게. 너는 마실 것으로 {drink}~을 가져와 줘."
>?"{third}도 같이 가도 돼?" {friend}~이 묻+past. "그럼, {third}도 {place}~을 좋아하잖아."
>"{meal}~이라니 신난다! {drink}~은 내가 꼭 챙길게."
>"잊지 마. {weekday} {time}, {corner} 앞이야!"
>전화를 끊은 {hero}~은 달력에 "{weekday} {time}, {friend}~과 {place}"~이라고 적+past.

# dialogue: plain polite formal
{town}에 처음 온 {hero}~은 길에서 만난 (아주머니|아저씨)에게 길을 묻+past.
>"실례합니다. {target}~은 어디에 있어요?"
>"{target}~이요? 이 길로 (곧장|쭉) 가다가 {corner} 앞에서 {turning}~으로 도세요."
>"{corner} 앞에서 {turning}~이요? 거기서 멀어요?"
>"아니요, 걸어서 {walk}이면 도착해요. {mark}~이 보이면 바로 그 옆이에요."
>"{mark} 옆이군요. 버스를 타는 게 나을까요?" {hero}~이 다시 묻+past.
>"{walk}밖에 안 걸리니까 걷는 게 나아요. {target}~은 {closing}에 문을 닫으니 서두르세요."
>"네, {closing} 전에 가야겠네요. 고맙습니다."
>{hero}~은 {corner} 앞에서 {turning}~으로 돌+past.
{walk}쯤 걷자 {mark}~이 보이+past. {target}~은 정말 그 옆에 있+past.
?{hero}~은 {target} 앞에서 기다리던 {friend}~과 만나 안으로 들어가+past.

# dialogue: plain polite formal
과학 시간에 선생님께서 {animal} 사진을 보여 주+hpast.
>"여러분, 이 동물의 이름이 무엇일까요?" 선생님께서 묻+hpast.
>"{animal}~입니다!" {hero}~이 손을 들고 대답하+past.
>"맞아요. 그럼 {animal}~은 어디에서 살까요?"
>"{home}에서 삽니다." 이번에는 {friend}~이 대답하+past.
>"잘했어요. {animal}~은 무엇을 먹을까요?"
>"{prey}~을 먹습니다." (다시 {hero}~이|{third}~이 작은 목소리로) 말하+past.
>"(정답이에요|아주 정확해요|그렇지요). {animal}~은 {kind}~이에요. {kind}~은 어떤 동물인지 아는 사람 있나요?"
>{third}~은 책에서 그 답을 찾+past. {kind}~은 {kindtrait}.
수업이 끝난 뒤 {hero}~은 공책에 "{animal}: {kind}, {home}, {prey}"~이라고 적+past.
?{friend}~은 집에 가서 {animal}~을 그리+past. 그림 속의 {animal}~은 {prey}~을 먹고 있+past.

# encyclopedia: plain formal
{town}시
>{town}시는 {site}에 있는 (작은|아담한|조용한) 도시~is. {founded}년에 세워졌으며 인구는 약 {people}명~is.
{town}시에서 가장 유명한 곳은 {landmark}~is. {landmark}~은 해마다 {visitors}명이 찾+now.
주민들은 옛날부터 주로 {trade}~으로 살아 오+past. {town}시의 {crop}~은 맛이 좋기로 이름나 있+is.
{month}에는 {crop} 축제가 {days} 동안 열리+now.
축제 때에는 {crop}~으로 만든 음식을 먹고 {landmark} 앞에서 노래를 부르+now.
?이웃 도시에서 {town}시까지는 {vehicle}~으로 {span}~이 걸리+now.
?{town}시에는 {opened}년에 문을 연 {building}도 있+is. {building}~은 주민이라면 누구나 이용할 수 있+is.
{landmark}~과 {crop}~은 오늘날 {town}시의 상징~is.

# encyclopedia: plain formal
{animal}
>{animal}~은 {kind}에 속하는 동물~is. {kind}~은 {kindtrait}.
{animal}~은 주로 {home}에서 살+now. 먹이는 {prey}~is.
{animal}~은 {trait}. 또 {animal}~은 {way}.
?{kind}에는 {animal} 말고도 {relative}~이 있+is. {relative}~은 {relative_home}에서 살+now.
?{animal}~과 달리 {stranger}~은 {stranger_kind}~is. {stranger}~은 {stranger_prey}~을 먹+now.
{town} 대학의 {full} 박사는 {years} 동안 {animal}~을 연구하며 책 {count} 권을 쓰+past.
?{full} 박사는 요즘도 날마다 {hour}에 일어나 {animal}~을 관찰하+now.
?{other} 박사는 "{home}~을 지켜야 {animal}도 지킬 수 있다."라고 말하+past.

# encyclopedia: plain formal
{full}
>{full}~은 {born}년 {town}에서 태어나 {died}년에 세상을 떠난 {artist}~is.
{youth} 태어나 어릴 때부터 {love}~을 좋아하+past.
{began} 살에 처음으로 {works}~을 {make}+기 시작했으며, {debut}년에 {works} "{title}"~을 발표하+past.
이때 나이는 {debut_age} 살~past.
"{title}"~은 {town}의 풍경을 담은 {works}~으로 많은 사람의 사랑을 받+past.
{prize}년에는 {works} "{title2}"~으로 {town} 문화상을 받+past.
"{quote}"라는 말로도 잘 알려져 있+is. 평생 {works_count} {measure}의 {works}~을 남기고 {age} 살에 세상을 떠나+past.
?오늘날 {town}에는 {full}의 이름을 딴 {building}~이 있+is. 입구에는 "{title}"~이라는 글자가 새겨져 있+is.

# diary: plain polite
{schoolday}, 날씨: {sky}
>오늘은 {air}+past. 그래서 {i}~은 {wear}+고 학교에 가+past.
첫째 시간은 체육이었고, {ordinal} 시간은 {lesson}~past.
{lesson} 시간에는 {friend}~이 {feat}+past. {i}~은 {friend}~이 (부럽+past|자랑스럽+past|대단해 보이+past).
점심에는 {meal}~이 나오+past. {meal}~은 {taste}+past. (그래서 한 {dish} 더 먹+past.|{friend}도 맛있다고 하+past.|)
학교가 끝난 뒤 {friend}~과 {shop}에 들러서 {item} {count} {counter}~을 사+past.
한 {counter}에 {unit}~이라서 모두 {total}~past.
집에 와서 {item}~을 {use}+past. {parent}께서도 {item}~을 보고 좋아하+hpast.
{turn}+past.
?자기 전에 {skill} 연습을 하+past. {practice}~이 금방 지나가+past.
(내일도 {friend}~과 놀고 싶+is.|내일은 {friend}에게 {drink}~을 사 주+will.|오늘은 참 즐거운 하루~past.)

# recipe: polite formal
{soup} 만들기
>{servings} 사람이 먹을 재료는 {main}, {extra}, 마늘, {season}, 물 {cups} 컵~is.
(먼저|우선) {main}~을 {prep}+고 {extra}도 알맞게 손질하+now.
냄비에 물 {cups} 컵을 붓고 (센 불에서|뚜껑을 덮은 채) 끓이+now.
물이 끓으면 {main}~을 넣고 {boil} 동안 더 끓이+now.
그다음에 {extra}~과 마늘을 넣+now. {season}~은 작은 숟가락으로 {spoons} 번 넣어 간을 맞추+now.
불을 줄이고 {simmer} 동안 (천천히|약한 불에서) 끓이면 {soup}~이 완성되+now.
물이 끓은 뒤에 걸리는 시간은 모두 {cooking}~is. {extra}~이 없으면 다른 재료를 넣어도 좋+is.
?맛이 싱거우면 {season}~을 조금 더 넣고, 짜면 물을 조금 더 붓+now.
?따뜻한 밥과 함께 먹으면 {servings} 사람이 배불리 먹을 수 있+is.
이 요리법은 {town}에 사는 {full} 씨가 (이웃에게|{grand}께) 배운 것~is.

# instructions: polite formal
{plant} 기르기
>{plant}~을 기르려면 화분, 흙, 씨앗 {seeds} 개가 필요하+is.
화분에 흙을 (반쯤|삼분의 이쯤) 채우고, 손가락으로 구멍을 {seeds} 개 내+now.
구멍마다 씨앗을 하나씩 넣고 흙을 (살살|가볍게) 덮+now.
물은 {waterdays}에 한 번씩 주+now. 물을 너무 많이 주면 씨앗이 썩을 수 있+is.
화분은 햇볕이 잘 드는 (창가|베란다|마당)에 두+now. {sproutdays}쯤 지나면 싹이 트+now.
싹이 (손가락 길이만큼|한 뼘쯤) 자라면 튼튼한 것만 남기고 나머지는 뽑+now.
{plant}~이 {tall} 높이까지 자라면 막대를 세워 줄기를 묶+now.
?잎이 노랗게 변하면 햇볕과 물이 알맞은지 살펴보+now.
{fruit}~이 다 익으면 가위로 조심스럽게 따+now. 씨앗을 심은 날부터 {fruit}~을 따는 날까지 {growdays}쯤 걸리+now.
?{town}에 사는 {full} 씨는 {years} 동안 이 방법으로 {plant}~을 길러 오+past.

# news: plain formal
{team}, {team2} 꺾고 우승
>{weekday} {town} {field}에서 열린 {sport} 결승전에서 {team}~이 {team2}~을 {ours} 대 {theirs}~으로 이기+past.
전반에는 {team}~이 {half} 대 {half_theirs}~으로 앞서+past. 후반에도 {team}~은 {late}{point}~을 더 넣+past.
{full} 선수는 혼자서 {best}{point}~을 넣어 최우수 선수로 뽑히+past.
{full} 선수는 "(동료들 덕분에 이겼습니다|끝까지 응원해 주셔서 고맙습니다|다음 경기도 꼭 이기겠습니다)."라고 말하+past.
{team2}의 {other} 감독은 "{gap}{point} 차이로 져서 아쉽다."라고 말하+past.
이날 {field}에는 관중 {visitors}명이 모이+past.
?{team}~은 {town}의 팀으로는 {champions}년 이후 처음으로 우승하+past.
{team}~은 다음 달 {days} 동안 열리는 전국 {sport} 대회에 나가+now.

# news: plain formal
{town} 초등학생 {pupils}명에게 {survey} 물어
>{town} 초등학교는 {monthday} 학생 {pupils}명에게 {survey}~을 묻+past.
그 결과 {choice1}~을 고른 학생이 {votes1}명으로 가장 많+past.
{choice2}~을 고른 학생은 {votes2}명~past. 나머지 {votes3}명은 다른 것을 고르+past.
{choice1}~을 고른 {hero} 학생은 "(어릴 때부터|예전부터) {choice1}~이 제일 좋았어요."라고 말하+past.
{choice2}~을 고른 {friend} 학생은 "{choice1}도 좋지만 {choice2}~이 더 좋아요."라고 대답하+past.
{full} 선생님은 "{choice1}~과 {choice2}의 차이는 {votes_gap}명이었다."라고 설명하+past.
?지난해에는 {choice2}~이 {choice1}보다 많+past. 한 해 사이에 순서가 바뀐 것~is.
학교는 다음 달에도 학생들에게 다른 질문을 할 예정~is.

# news: plain formal
{weekday}, {town} {headline}
>{weekday} {town} 지역은 {forecast}. 아침 기온은 {low}도, 낮 기온은 {high}도로 예상되+now.
낮과 밤의 기온 차이가 {range}도이므로 {advice}+는 것이 좋+is.
{town}의 {site}에서는 {trade}~을 하는 주민들도 날씨를 잘 살펴야 하+now.
기상청의 {full} 예보관은 "(이번 주 내내|{weekday} 밤까지) 비슷한 날씨가 이어지겠다."라고 말하+past.
{weekday}에 {town}~으로 떠나는 여행객은 {advice}+고, {landmark} 주변에서는 걸음을 조심해야 하+now.
?지난해 같은 날 {town}의 낮 기온은 {last_high}도~past. 올해는 지난해보다 {warmer}도 높+is.
"""


# --- English --------------------------------------------------------------------------------------

HIM = {"she": "her", "he": "him"}
HIS = {"she": "her", "he": "his"}


def _english_people(draw: Draw, cast: Cast) -> Facts:
    facts: Facts = {}
    roles = ("hero", ""), ("friend", "friend_"), ("third", "third_"), ("full", "full_"), ("other", "other_")
    for (role, prefix), row in zip(roles, draw.several(cast.language.tables["name"], len(roles)), strict=True):
        he = row["pronoun"]
        facts |= {role: row["name"], f"{prefix}he": he, f"{prefix}him": HIM[he], f"{prefix}his": HIS[he]}
    for role, row in zip(("full", "other"), draw.several(cast.language.tables["surname"], 2), strict=True):
        facts[role] += f" {row['surname']}"
    return facts


def _english_kin(draw: Draw, cast: Cast) -> Facts:
    return {f"{role}_him": HIM[cast[f"{role}_he"]] for role in ("grand", "kin")}


def _english_dates(draw: Draw, cast: Cast) -> Facts:
    day, tables = _day(draw, cast), cast.language.tables
    month, weekday = tables["calendar"][day.month - 1]["calendar"], tables["weekday"][day.weekday()]["weekday"]
    return {"schoolday": f"{weekday}, {day.day} {month} {day.year}", "month": month, "monthday": f"{day.day} {month}"}


def _english_times(draw: Draw, cast: Cast) -> Facts:
    days = {"sproutdays": draw.integer(5, 14), "growdays": 10 * draw.integer(6, 9), "years": draw.integer(3, 25)}
    spans = [f"{english_number(10 * draw.integer(2, 5))} minutes", draw.one(["an hour", "two hours", "three hours"])]
    return {
        **{key: english_number(n) for key, n in (_minutes(draw) | days).items()},
        "hour": f"{english_number(draw.integer(5, 7))} o'clock",
        "time": draw.one(["half past {}", "{} o'clock"]).format(english_number(draw.integer(1, 5))),
        "closing": f"{english_number(draw.integer(4, 7))} o'clock",
        "span": draw.one(spans),
        "practice": draw.one(spans),
    }


def _english_money(draw: Draw, cast: Cast) -> Facts:
    cents = _money(draw, int(cast["price"]) * draw.integer(10, 14) // 50 * 5, notes=500)
    count = english_number(cents.pop("count"))
    return {"count": count, **{key: f"${n // 100}.{n % 100:02}" for key, n in cents.items()}}


ENGLISH_FACTS = [_english_people, _english_kin, _english_dates, _english_times, _english_money]


def _settle_english(text: str, style: str) -> str:
    return AN.sub(r"\1n ", ENGLISH_MARK.sub(lambda match: inflect(*match.groups(), style), text))


ENGLISH_TABLES = """\
name|pronoun: Anna|she / Tom|he / Emily|she / Ben|he / Grace|she / Jack|he / Lucy|she / Daniel|he / Sarah|she / Peter|he
Nora|she / Sam|he / Alice|she / Henry|he / Emma|she / Oliver|he / Clara|she / Adam|he / Julia|she / Leo|he / Rose|she
Max|he / Ella|she / Noah|he / Hannah|she / David|he / Ruth|she / Eric|he / Helen|she / Paul|he / Kate|she / Simon|he
Laura|she / Luke|he / Mia|she / Martin|he / Zoe|she / Oscar|he / Olivia|she / Ian|he / Irene|she / Alex|he / Maya|she
Felix|he / Sophie|she / Hugo|he / Amy|she / Owen|he / Eva|she / Jacob|he / Jane|she / Theo|he / Ida|she / Victor|he
Leah|she / Walter|he / Lily|she / Arthur|he / Martha|she / Edward|he
surname: Adams / Baker / Carter / Dixon / Evans / Foster / Grant / Harris / Irving / Jones / King / Lewis / Mason
Norris / Owens / Parker / Reed / Shaw / Turner / Walker / Young
weekday: Monday / Tuesday / Wednesday / Thursday / Friday / Saturday / Sunday
calendar: January / February / March / April / May / June / July / August / September / October / November / December
parent: mother / father / aunt / uncle
grand|grandma|grand_he: grandmother|Grandma|she / grandfather|Grandpa|he
gift: scarf / woollen hat / sweater / apron / straw hat / blue coat / orange waistcoat
shop|item|price|use: bakery|muffin|150|eat+v one of them with a cup of tea / bakery|bread roll|60|put+v them in a basket
bakery|bread loaf|300|cut+v one of them into thick slices / bakery|iced bun|120|arrange+v them on a plate
fruit shop|apple|50|wash+v them and put+v them in a blue bowl / fruit shop|pear|70|cut+v them up for a cake
fruit shop|orange|60|squeeze+v them to make juice / fruit shop|peach|90|share+v them with the neighbours
bookshop|novel|900|read+v until midnight / bookshop|comic|400|laugh+v at every page
bookshop|atlas|1200|look+v for the highest mountains / bookshop|dictionary|1100|look+v up a few long words
stationery shop|pencil|40|sharpen+v them one by one / stationery shop|eraser|50|put+v them in a pencil case
stationery shop|notebook|250|write+v a name on every cover / stationery shop|envelope|30|address+v one to an old friend
flower shop|rose|200|put+v them in a tall vase / flower shop|tulip|150|put+v them on the kitchen table
flower shop|orchid|700|set+v them by the window / market|potato|30|boil+v them for dinner
market|tomato|40|make+v a big salad / market|onion|30|chop+v them for a soup / market|egg|30|fry+v two of them
market|fish|400|grill+v them with salt / clothes shop|scarf|800|fold+v them neatly
market|carrot|20|grate+v them finely / toy shop|kite|600|fly+v one of them in the park
toy shop|toy mouse|250|give+v one of them to the cat
thing: umbrella / wallet / key / hat / scarf / notebook / watch / lunch box / pencil case / silver ring / old camera
knife
room: in the desk drawer / under the bed / behind the sofa / on the bookcase / in the blue box / under the pillow
in the school bag / beside the lamp
room2: on the kitchen shelf / in the hall cupboard / on the piano / in the basket by the door
on the chair by the window / behind the clock / on the living room table / inside the wardrobe
place|seen|act|keep: beach|the white waves|build+vp a sandcastle|a pink shell
castle|a stone tower|climb+vp the stairs|an iron key
river|a heron above the water|throw+vp flat stones across the water|a smooth stone
lake|the mountains in the water|row+vp a small boat|a white feather
zoo|a tall giraffe|feed+vp the elephants|a toy giraffe / museum|a golden crown|look+vp at old coins|an old postcard
garden|an unusual cactus|walk+vp round the pond|a bag of seeds
gallery|an enormous painting|draw+vp copies of their favourite pictures|a painted card
funfair|a shining carousel|ride+vp the roller coaster|an orange balloon
forest|a squirrel in an oak|listen+vp to the birds|an acorn
aquarium|a huge shark|watch+vp the penguins swim|a toy dolphin
farm|an old tractor|give+vp milk to the calves|a jar of honey
observatory|a silver dome|study+vp photographs of the stars|a star map
harbour|an empty ship|catch+vp small crabs|an old rope
vehicle: bus / train / car / taxi / tram / ferry
months|sky|air|wear|turn: 3 4 5 9 10|sunny|the sky be+v clear|hats|in the evening the sunset be+v beautiful
3 4 5 6 9 10|rainy|it be+v raining|umbrellas|luckily the rain stop+v at noon
2 12|snowy|it be+v snowing|gloves|by noon the snow have+v stopped and everything be+v white
3 4 10 11|windy|a strong wind be+v blowing|warm coats|the wind die+v down in the afternoon
3 4 10 11|foggy|there be+v thick fog in the streets|bright jackets|the fog lift+v before noon
6 7|hot|the air be+v hot and heavy|straw hats|a cool breeze come+v after sunset
2 12|cold|the air be+v icy|scarves|the sun come+v out at midday and melt+v the ice
meal|taste: vegetable soup|hot and salty / fried rice|a little spicy / cheese pie|rich and creamy
tomato pasta|simple but good / chicken stew|tender and warm / pumpkin soup|sweet and thick / roast fish|fresh and crisp
onion tart|golden and light
drink: water / apple juice / lemon tea / milk / orange juice / hot chocolate
pet|eats|habit: puppy|meat|wag+v its tail / kitten|fish|purr+v softly / rabbit|carrots|wiggle+v its nose
hamster|sunflower seeds|puff+v out its cheeks / parrot|nuts|whistle+v a tune / tortoise|lettuce|stretch+v out its neck
duckling|corn|flap+v its little wings / hedgehog|apple slices|sniff+v the air / goose|oats|honk+v happily
petname: Pepper / Button / Cookie / Shadow / Biscuit / Acorn / Olive / Marble / Teddy / Ginger / Cloud / Amber / Pickle
Snowy
skill|practise|goal|event: the piano|play+v scales|play+v a difficult piece to the end|school concert
the violin|play+v slow exercises|play+v a fast tune without a mistake|spring concert
the guitar|practise+v three chords|sing+v and play+v at the same time|village festival
chess|study+v old games|beat+v the strongest player|chess tournament
judo|repeat+v the same throw|win+v the final|judo contest
swimming|swim+v up and down the pool|finish+v ahead of everyone|swimming race
archery|shoot+v at a straw target|hit+v the centre of the target|archery contest
skating|skate+v round and round the rink|jump+v and land+v on one foot|ice show
dancing|repeat+v the steps|dance+v without looking down once|summer show
drawing|draw+v bowls of fruit|win+v first prize|art show
worker|food|store: squirrel|nuts|a hollow tree / ant|grain|an underground room / bee|honey|a warm hive
jay|acorns|an old stump / mouse|seeds|a dry burrow / beaver|branches|a strong lodge
idler|play|playing: fox|sleep+v in the sun|sleeping in the sun / grasshopper|sing+v all day|singing all day
raccoon|play+v by the stream|playing by the stream / monkey|swing+v on the branches|swinging on the branches
crow|chatter+v with the wind|chattering with the wind / otter|slide+v down the bank|sliding down the bank
owl|tell+v long stories|telling long stories / hare|run+v in circles|running in circles
job|workplace|duty|doing|tool: doctor|hospital|treat+s sick people|treating sick people|stethoscope
nurse|hospital|look+s after patients|looking after patients|thermometer
vet|animal clinic|heal+s animals|healing animals|small lamp
firefighter|fire station|put+s out fires|putting out fires|long hose
baker|bakery|bake+s bread|baking bread|rolling pin / carpenter|workshop|make+s furniture|making furniture|old saw
painter|studio|paint+s pictures|painting pictures|wide brush
reporter|newspaper|write+s articles|writing articles|notebook / farmer|farm|grow+s vegetables|growing vegetables|hoe
cook|restaurant|cook+s fine meals|cooking fine meals|big spoon / mechanic|garage|repair+s cars|repairing cars|oil can
librarian|library|put+s books in order|putting books in order|stack of books
tailor|shop|make+s suits|making suits|iron / engineer|factory|design+s machines|designing machines|steel ruler
architect|studio|plan+s houses|planning houses|sharp pencil
editor|publishing house|correct+s books|correcting books|red pen
electrician|power station|repair+s wires|repairing wires|big torch
kin|kin_he: aunt|she / uncle|he / older sister|she / older brother|he / neighbour|she / godfather|he
animal|kind|home|prey|trait|way: tiger|mammal|dense forests|deer and wild pigs|have+s black stripes|hunt+s at night
giraffe|mammal|the grasslands of Africa|leaves|have+s a very long neck|usually sleep+s standing up
elephant|mammal|grasslands and forests|grass and bark|use+s its trunk like a hand|live+s in a herd
camel|mammal|dry deserts|dry grass and leaves|have+s a hump on its back|can go for days without water
polar bear|mammal|the Arctic ice|seals|have+s thick fur|swim+s very well
otter|mammal|rivers|fish|have+s webbed feet|float+s on its back
kangaroo|mammal|the plains of Australia|grass|have+s strong back legs|carry+s its young in a pouch
bat|mammal|dark caves|moths and mosquitoes|fly+s like a bird|sleep+s upside down during the day
dolphin|mammal|warm seas|fish and squid|breathe+s air through lungs|talk+s to others with clicks and whistles
penguin|bird|southern coasts|fish and krill|have+s wings but cannot fly|swim+s fast under water
owl|bird|woods|mice|can turn its head almost all the way round|hunt+s silently in the dark
ostrich|bird|the grasslands of Africa|grass and seeds|run+s very fast but cannot fly|lay+s its eggs in a sandy hole
swallow|bird|barns|flying insects|have+s a forked tail|build+s its nest from mud
eagle|bird|mountains|rabbits and fish|have+s sharp claws|see+s small animals from far above
sea turtle|reptile|warm seas|jellyfish and seaweed|have+s a hard shell|lay+s its eggs on the beach
crocodile|reptile|hot rivers|fish and large animals|have+s sharp teeth|wait+s for its food under water
lizard|reptile|rocks and long grass|insects|shed+s its tail when it be+s in danger|warm+s itself in the sun
frog|amphibian|ponds|flies|catch+s insects with its long tongue|sleep+s in the mud all winter
newt|amphibian|clear streams|small worms|have+s moist skin|hide+s under stones during the day
salmon|fish|rivers and seas|small fish and shrimp|have+s a silver body|return+s to the river where it was born
shark|fish|the open sea|other fish|have+s an excellent sense of smell|grow+s new teeth all its life
seahorse|fish|seaweed|tiny shrimp|have+s a head like a horse|hold+s on to plants with its tail
ant|insect|the ground|seeds and small insects|lift+s things heavier than itself|work+s with thousands of others
bee|insect|hives|nectar and pollen|have+s stripes on its body|dance+s to show where flowers are
butterfly|insect|meadows|nectar|have+s colourful wings|grow+s up as a caterpillar
town: Larkwell / Oakmere / Fernhollow / Brindleford / Stonemere / Willowgate / Eastmarsh / Highfen / Thornwick
Maplecombe / Silverbrook / Ivydale / Underhill / Appledon / Greyharbour / Windmoor / Elmsworth / Umberton
site|landmark|crop|crop_be|trade: on the east coast|white lighthouse|herring|is|fishing
on a wide plain|red windmill|wheat|is|growing wheat / high in the mountains|tall waterfall|cheese|is|raising goats
beside a wide river|old stone bridge|rice|is|growing rice
on a southern island|coastal path|oranges|are|growing oranges / by a clear lake|wooden pier|trout|is|fishing
on a low hill|thousand-year-old oak|apples|are|growing apples / in a warm valley|ruined castle|grapes|are|growing grapes
artist|work|works|made: novelist|novel|novels|wrote / poet|poem|poems|wrote / painter|painting|paintings|painted
composer|song|songs|wrote / sculptor|statue|statues|made / photographer|photograph|photographs|took
director|film|films|made
adjective|adjective2: Blue|Distant / Long|Shining / Old|Silent / Little|Last / White|Dark / Lost|Gentle / Deep|New
Empty|Open
noun|noun2: River|Letter / Night|Garden / Sea|House / Road|Hill / Star|Summer / Island|Song / Window|Winter
Bridge|Morning
youth: the child of a boat builder / the youngest child of a poor farmer / the only child of a bookseller
the eldest child of a teacher / the second child of two doctors / the grandchild of a famous explorer
love: long walks / old tales / rainy days / music / the stars / travel / animals / flowers
quote: Beauty is close at hand / Slow hands make lasting things / Listen and the way appears / Love the small things
Save a day and you save a life / To finish is a talent
soup|main|prep|extra|season: tomato soup|tomatoes|peel|onions|salt / potato soup|potatoes|slice|carrots|pepper
chicken soup|chicken wings|wash|noodles|salt / mushroom soup|mushrooms|chop|cream|thyme
bean stew|beans|soak|tomatoes|pepper / onion soup|onions|slice|butter|thyme
pumpkin soup|pumpkin pieces|peel|apples|ginger / fish stew|fish fillets|cut|potatoes|parsley
plant|fruit|tall: tomato|tomato|shoulders / pepper|pepper|knees / cucumber|cucumber|waist / melon|melon|ankles
strawberry|strawberry|ankles / aubergine|aubergine|knees / corn|corn cob|shoulders / pumpkin|pumpkin|ankles
candy: sweet / marble / sticker / chestnut / stamp / card / bead / shell
sport|point|field|least|most: football|goal|stadium|4|7 / ice hockey|goal|ice rink|4|8
basketball|point|sports hall|55|95 / handball|goal|sports hall|18|32
team|team2: Stars|Waves / Tigers|Eagles / Dragons|Turtles / Winds|Arrows / Dolphins|Lions / Owls|Giants
building: library / sports centre / clinic / museum / school / concert hall
choice1|choice2|survey: apples|grapes|favourite fruit / sport|music|favourite subject / summer|winter|favourite season
the mountains|the sea|favourite place for a holiday / cats|dogs|favourite animals / stories|poems|favourite reading
corner|sign: pharmacy|red postbox / bank|huge oak / bakery|blue roof / bookshop|tall clock tower
flower shop|round fountain / post office|yellow wall / hospital|iron gate / hotel|green flag
target: library / town hall / station / museum / police station / theatre / gallery / market
lesson|feat: music|sang a song beautifully / art|drew the sea very well / English|read a poem aloud
mathematics|solved a hard problem alone / science|explained an experiment / history|gave a talk about our town
headline|forecast|advice|coldest|warmest: Fine and mild|the sky will stay clear|take a light jacket|7|20
Rain on the way|it will rain from early morning|carry an umbrella|10|18
Snow expected|it will snow in the afternoon|wear gloves|1|5
Heat wave|it will be hot all day|drink plenty of water|23|31
Strong winds|strong winds will blow|keep the windows shut|6|15
Thick fog|fog will hang over the roads until noon|drive slowly|7|17
Showers|short showers are likely|take a raincoat|14|22
period: a month / two months / half a year / a year
days: two days / three days / four days / five days
turning: left / right
ordinal: second / third / fourth
family|shared: mammal|feed+s its young on milk / bird|be+s covered with feathers / reptile|have+s dry skin with scales
amphibian|live+s both in water and on land / fish|breathe+s through gills / insect|have+s six legs
"""
ENGLISH_RULES = """\
when: one (day|morning|afternoon|Saturday|Sunday)|in the morning,|after (school|lunch),|on the first day of the holidays
morning: early one (morning|Saturday|Sunday)|one bright morning|in the morning,|on the first day of the holidays
glad: {hero} be+v (very|so) (happy|proud|pleased|cheerful).|a (bright|broad) smile appear+v on {hero}'s face.\
|that night {hero} have+v (a happy dream|pleasant dreams).|{hero} hum+v a tune for the rest of the day.
cheer: do not give up|just try a little longer|you will soon improve|you can do it|everyone starts like that
praise: well done|you have worked so hard|that was excellent|I am proud of you
thanks: Thank you so much|Thank you, I will not forget this|How kind of you|I am so lucky to know you
agree: That sounds good|Yes, let's do that|What a good idea|Of course
hard: {he} make+v many mistakes|{he} get+v tired quickly|everything be+v new|{his} hands be+vp slow
moral: the {idler} understand+v at last how important it be+v to plan ahead.\
|the {idler} be+v sorry to have been so lazy.|all the animals praise+vp the kind {worker}.\
|the two neighbours become+vp the best of friends.
"""
ENGLISH_FRAMES = """\
# story: past present
{when} {hero} go+v to the {shop} (with {his} pocket money|on an errand for {his} {parent}|with {friend}|alone).
(The shop be+v full of people.|A small bell ring+v as {he} open+v the door.|The owner say+v hello with a smile.)
A {item} cost+v {unit}.
{hero} (think+v for a moment|look+v around carefully|do+v not hesitate) and choose+v {count} {item}+p.
Together they cost+vp {total}.
{he} pay+v with {paid} and get+v {change} back.
?"That is {count} {item}+p at {unit} each, so {total}, and your change is {change}," the owner say+v.
At home {hero} take+v the {item}+p out of the bag. Then {he} {use}.
?In the evening {third} come+v to visit and see+v the {item}+p. "Where did you get them?" {third} ask+v. \
"At the {shop}, for {unit} each," {hero} answer+v.
{he} put+v the {change} (in a money box|back in {his} wallet|aside for another day).
?{glad}

# story: past present
{morning} {hero} and {friend} go+vp to the {place}.
{air}, so they take+vp {wear} with them.
The {vehicle} ride to the {place} take+v {span}.
The first thing they see+vp there be+v {seen}.
"Look at that!" {friend} (cry+v|shout+v|say+v), pointing at it.
At the {place} they {act}. For lunch they share+vp some {meal}.
The {meal} be+v {taste}. ({hero} eat+v every bit of it.|{friend} drink+v some {drink} with it.|)
{turn}.
On the way home {hero} give+v {friend} {keep}.
"{thanks}," {friend} say+v, (holding it with both hands|looking at it closely|smiling happily).
?At home {friend} put+v it {room2}.
{hero} want+v to visit the {place} again (next year|some day|soon), and {friend} want+v to come too.

# story: past present
{when} {hero} find+v a lost {pet} (on the way home|near the school|beside the playground).
The {pet} (look+v hungry|seem+v afraid) and do+v not move.
{hero} give+v it some {eats}, and it eat+v every bit and {habit}.
"Can we keep this {pet}, please?" {hero} ask+v {his} {parent} at home.
{his} {parent} think+v for a (moment|while) and nod+v. "Yes, but you must take good care of it."
{hero} name+v the {pet} {petname}.
{petname} love+v {eats}, and at every meal it {habit}.
?One day {petname} be+v nowhere to be seen. {hero} look+v all over the house and find+v it asleep \
(under the sofa|in the laundry basket|in a sunny corner).
?{friend} come+v to visit and give+v {petname} some {eats}. "What is its name?" "Its name is {petname}."
After {period} {petname} be+v twice as big as before.
Whenever {hero} come+v home from school, {petname} meet+v {him} at the door and {habit}.
?{hero} love+v {petname} more than anything else.

# story: past present
In {month} {hero} start+v to learn {skill}.
At first it be+v difficult because {hard}.
"(Come on|Listen|{hero}), {cheer}," {friend} tell+v {him}.
Every day {he} {practise} for {practice}. (Even on rainy days {he} do+v not stop.|Sometimes {friend} come+v to watch.|)
After {period} {he} be+v much better at {skill}.
At last the day of the {event} arrive+v. {hero} take+v a deep breath and step+v forward.
(To everyone's surprise|In the end), {he} {goal}. ({friend} jump+v up from {friend_his} seat.|Everyone clap+v loudly.)
"{hero}, {praise}," {his} teacher say+v.
"Practising for {practice} a day was worth it," {hero} tell+v {friend}.
?Now {friend} want+v to learn {skill} too.
{glad}

# story: past present
On {weekday} {hero} visit+v {his} {grand} in {town}.
{his} {grand} be+v waiting at the gate. "Hello, {hero}! Was the {vehicle} ride long?"
"No, {grandma}, it only took {span}," {hero} answer+v.
{hero}'s {grand} cook+v some {meal} for lunch. It be+v {taste}, and {hero} ask+v for more.
?After lunch {his} {grand} (take+v a short nap|water+v the flowers|tell+v an old story|make+v some {drink}).
"When I was young, there was no {landmark} in {town}," {hero}'s {grand} say+v.
{hero} give+v {grand_him} a {gift} (bought with {his} own money|wrapped in red paper).
{hero}'s {grand} put+v on the {gift} at once and laugh+v with joy.
In the evening {hero} say+v, "Goodbye, {grandma}. I will come back next (week|month)."
Still wearing the {gift}, {his} {grand} wave+v until the {vehicle} be+v out of sight.

# story: past present
Long ago, in a village called {town} {site}, a {worker} and a {idler} be+vp neighbours.
Every day the {worker} carry+v {food} to {store} {count} times, but the {idler} only {play}.
"Stop working and come with me," the {idler} say+v.
"In winter there will be nothing to eat. You should gather {food} too," the {worker} answer+v.
The {idler} (do+v not listen and {play} again|only laugh+v and walk+v away).
Soon winter come+v, and snow cover+v everything.
The {worker} have+v plenty of {food} at home, but the {idler} have+v nothing at all.
The hungry {idler} knock+v at the {worker}'s door.
"I have not eaten for {days}," it say+v. "Please give me some {food}."
The {worker} feel+v sorry for the {idler} and share+v its {food}. ("In spring you can help me," the {worker} say+v.|)
The next year the {idler} gather+v {food} with the {worker} instead of {playing}.
{moral}

# story: past present
In (spring|April) {hero} plant+v {seeds} {plant} seeds in the garden.
(A week|Ten days) later {sprouts} of them come+vp up, but the other {failed} do+vp not.
{hero} water+v the plants every morning, and {friend} pull+v up the weeds.
?"When can we eat the {fruit}+p?" {friend} ask+v. "In summer," {hero} answer+v.
By summer the plants be+vp as high as {hero}'s {tall}.
Each of the {sprouts} plants give+v {each} {fruit}+p, so there be+vp {harvest} {fruit}+p in all.
{hero} give+v {given} of the {harvest} {fruit}+p to {friend} and keep+v the other {kept}.
"They taste better because I grew them," {hero} say+v.
?{his} {parent} say+v, "You planted {seeds} seeds and now you have {harvest} {fruit}+p. That is wonderful."
Next year {hero} and {friend} want+vp to plant even more {plant} seeds.

# story: past present
{hero} have+v {sum} {candy}+p.
At (lunchtime|break time) {friend} and {third} come+vp over to {his} table.
"You have so many {candy}+p, {hero}!" {friend} say+v.
{hero} decide+v to share them equally among the three of them.
{sum} divided by three is {share}, so each of them get+v {share} {candy}+p.
{friend} give+v {used} of the {share} to {friend_his} (brother|sister) and keep+v {rest}.
{third} put+v all {share} {candy}+p in {third_his} (bag|pocket).
"{thanks}. Next time I will share mine," {third} say+v.
(A few days later|The next day) {third} keep+v the promise and bring+v some {drink} for all three.
?{glad}

# story: past present
{when} {hero} put+v {his} {thing} {room} and go+v out.
While {he} be+v away, {friend} clean+v the house and put+v the {thing} {room2}.
(A little later|An hour later) {hero} come+v back and look+v {room}. The {thing} be+v not there.
"That is odd. I left it {room}," {he} say+v.
"What are you looking for, {hero}?" {friend} ask+v. "My {thing}. Do you know where it is?"
"I am sorry. I moved it while I was cleaning. It is {room2}," {friend} answer+v.
{hero} look+v {room2}, and there {he} see+v the {thing}.
("That is all right. I have it now,"|"Please tell me next time,") {hero} say+v with a smile.
?Later {third} ask+v, "Where was the {thing}?" "It was {room2}," {hero} answer+v.
From then on {hero} always keep+v the {thing} {room2}.

# story: past present
{hero}'s {kin} be+v a {job} at the {workplace} in {town}.
A {job} {duty}.
Every morning {kin_he} get+v up at {hour} and go+v to the {workplace} by {vehicle}.
{when} {hero} go+v to the {workplace} with {kin_him}.
{hero}'s {kin} pick+v up a {tool} and start+v to work.
"Is {doing} hard?" {hero} ask+v.
"Sometimes it is, but (I still enjoy it after {years} years|a smile makes up for everything)," {kin_he} answer+v.
{hero} be+v allowed to hold the {tool} too. (It be+v heavier than it look+v.|It be+v old but clean.)
?At noon the people at the {workplace} give+vp {hero} some {drink}, and {he} thank+v them.
In the evening {hero} write+v in {his} diary: "One day I will be a {job}."

# dialogue: past present
{when} {hero} call+v {friend} on the telephone.
>"{friend}, are you free on {weekday}?" {hero} ask+v.
>"Yes, I have (no plans|nothing to do) on {weekday}. Why?" {friend} say+v.
>"Let's go to the {place}. They say you can see {seen} there."
>"{agree}! When and where shall we meet?"
>"At {time}, in front of the {corner}. The {vehicle} ride takes {span}."
>"All right. I will be at the {corner} at {time}. What about dinner?"
>"I will buy some {meal}. You can bring some {drink}."
>?"Can {third} come too?" {friend} ask+v. "Of course. {third} loves the {place}."
>"I like {meal}! And I will not forget the {drink}."
>"Good. Remember: {weekday} at {time}, in front of the {corner}."
>{hero} hang+v up and write+v in {his} calendar: "{weekday}, {time}: {place} with {friend}."

# dialogue: past present
{hero} be+v new in {town} and ask+v (a woman|an old man|a student) in the street for help.
>"Excuse me, where is the {target}?"
>"The {target}? Go straight on and turn {turning} at the {corner}."
>"So I turn {turning} at the {corner}. Is it far from there?"
>"No, it is a {walk}-minute walk. When you see a {sign}, the {target} is right beside it."
>"Beside the {sign}. Should I take a bus?" {hero} ask+v.
>"For {walk} minutes? No, walk. But the {target} closes at {closing}, so hurry."
>"Then I must be there before {closing}. Thank you!"
>{hero} turn+v {turning} at the {corner}.
After about {walk} minutes {he} see+v a {sign}, and the {target} be+v right beside it.
?{friend} be+v already waiting in front of the {target}, and they go+vp in together.

# dialogue: past present
In the science lesson the teacher show+v the class a picture of a {animal}.
>"Who knows the name of this animal?" the teacher ask+v.
>"It is a {animal}!" {hero} answer+v.
>"That is right. And where do we find the {animal}?"
>"In places like {home}," {friend} say+v.
>"Good. What does the {animal} eat?"
>"It eats {prey}," ({hero} say+v again|{third} say+v quietly).
>"(Exactly|Correct|Very good). The {animal} is a {kind}. What do you know about this group?"
>{third} open+v {third_his} book and read+v aloud: "A {kind} {kindtrait}."
After the lesson {hero} write+v in {his} notebook: "{animal}: {kind}, {home}, {prey}."
?At home {friend} draw+v a {animal}. In {friend_his} picture the {animal} be+v eating {prey}.

# encyclopedia: present
{town}
>{town} is a (small|quiet|pretty) town {site}. It was founded in {founded} and has about {people} inhabitants.
The best-known sight of {town} is the {landmark}. Every year {visitors} people come to see the {landmark}.
For centuries the people of {town} have lived mainly by {trade}.
{crop} from {town} {crop_be} known to be very good.
In {month} there is a festival in honour of the {landmark}. It lasts {days}, and people sing and eat {crop} together.
?The {vehicle} ride from the next town to {town} takes {span}.
?{town} also has a {building}, which opened in {opened}. The {building} is open to everyone in {town}.
A picture of the {landmark} is on the town flag.

# encyclopedia: present
{animal}
>The {animal} is a {kind}. A {kind} {kindtrait}.
The {animal} is found mainly in places like {home}. It eats {prey}.
The {animal} {trait}. It also {way}.
?Another {kind} is the {relative}, which is found in places like {relative_home}.
?Unlike the {animal}, the {stranger} is a {stranger_kind}. The {stranger} eats {stranger_prey}.
Dr {full} of {town} has studied {animal}+p for {years} years and written {count} books about them.
?{full} still gets up at {hour} every day to watch {animal}+p.
?"To save the {animal} we must protect {home}," says Dr {other}.

# encyclopedia: past
{full}
>{full} was a {artist} who was born in {town} in {born} and died in {died}.
As {youth}, {full_he} loved {love} from an early age.
{full_he} {made} {full_his} first {work} at the age of {began}, but it was never shown.
In {debut}, at the age of {debut_age}, {full_he} became known for the {work} "The {title}".
"The {title}" was about life in {town} and was loved by many people.
In {prize} {full} won the {town} Prize for the {work} "The {title2}".
In all {full_he} {made} {works_count} {works}. {full} died at the age of {age}.
?{full_he} often said: "{quote}."
?Today a {building} in {town} is named after {full}. The words "The {title}" are written over the door.

# diary: past
{schoolday}. Weather: {sky}
>When I got up this morning, {air}. I took my things and walked to school.
The first lesson was sport, and the {ordinal} lesson was {lesson}.
In the {lesson} lesson {friend} {feat}. I was (proud of|impressed by|a little jealous of) {friend_him}.
For lunch there was {meal}. It was {taste}. (I asked for more.|{friend} liked it too.|)
After school {friend} and I went to the {shop} and I bought {count} {item}+p.
They were {unit} each, so I paid {total}. I gave the owner {paid} and got {change} back.
My {parent} was happy to see the {item}+p.
{turn}.
?Before bed I practised {skill} for {practice}, and the time went by quickly.
(Tomorrow I want to meet {friend} again.|Tomorrow I will take {friend} some {drink}.|What a good day it was.)

# recipe: present
How to make {soup}
>For {servings} people you need {main}, {extra}, {season} and {cups} cups of water.
(First|To begin), {prep} the {main} and put the {extra} in a bowl.
Pour the {cups} cups of water into a pot and (bring it to the boil|heat it until it boils).
When the water boils, add the {main} and cook them for {boil} minutes.
Then add the {extra} and {spoons} pinches of {season}.
Turn down the heat and let the {soup} simmer for {simmer} minutes.
Once the water boils, the cooking takes {cooking} minutes in all.
?If you have no {season}, use a little lemon juice instead.
?If the {soup} is too thick, add another cup of water.
Serve the {soup} hot, with bread for {servings} people.
{full} from {town} learnt this recipe from {full_his} {grand} and cooks it every {weekday}.

# instructions: present
How to grow {fruit}+p
>To grow {fruit}+p you need a large pot, some earth and {seeds} {plant} seeds.
Fill the pot with earth and make {seeds} small holes with your finger.
Put one seed in each hole and cover it (lightly|gently) with earth.
Water the pot once every {days}. Too much water is bad for the seeds.
Keep the pot in a sunny place, (by a window|on a balcony|near a wall). The seeds come up after about {sproutdays} days.
When the plants are as long as your finger, keep the strongest ones and pull out the rest.
?If the leaves turn yellow, give the plants more light and less water.
When the {fruit}+p are ripe, cut them off with scissors. From seed to harvest it takes about {growdays} days.
{full} from {town} has grown {fruit}+p in this way for {years} years.
?"In a good summer I pick {harvest} {fruit}+p," {full_he} says.

# news: past
{team} beat {team2} in final
>On {weekday} the {town} {team} beat the {team2} by {ours} to {theirs} in the {sport} final at the {town} {field}.
At half time the {team} led by {half} to {half_theirs}. In the second half they scored {late} more.
{full} scored {best} {point}+p and was named player of the match.
"(I owe it to my team|Thank you for your support|We want to win the next match too)," said {full}.
{other}, who trains the {team2}, was disappointed. "We lost by only {gap} {point}+p," said {other}.
{visitors} people came to the {field} to watch.
?It was the first title for the {team} since {champions}.
Next month the {team} will play against other towns for {days}.

# news: past
{pupils} pupils talk about their {survey}
>On {monthday} a school in {town} asked {pupils} pupils about their {survey}.
The most popular answer was {choice1}, with {votes1} votes. {votes2} pupils chose {choice2}. \
The other {votes3} gave different answers.
"I have always liked {choice1}," said {hero}, one of the {votes1}.
"{hero} likes {choice1}, but I prefer {choice2}," said {friend}.
{full}, who teaches at the school, said that {choice1} won by {votes_gap} votes.
?Last year {choice2} came first and {choice1} came second. This year it was the other way round.
The school will ask another question next (month|year).

# news: present
{headline}: {weekday} in {town}
>On {weekday} {forecast} in and around {town}.
The temperature will be {low} degrees in the morning and {high} degrees in the afternoon.
That is a difference of {range} degrees, so people should {advice}.
"It will stay like this (all week|until {weekday} night)," says {full} of the weather service.
Visitors to {town} should {advice} and be careful near the {landmark}.
?Last year the afternoon temperature on the same day was {last_high} degrees. This year it is {warmer} degrees warmer.
"""


# --- documents ------------------------------------------------------------------------------------


@cache
def _language(language: Literal["ko", "en"]) -> Language:
    frames, rules, tables, facts, number, settle = {
        "ko": (KOREAN_FRAMES, KOREAN_RULES, KOREAN_TABLES, KOREAN_FACTS, native_number, _settle_korean),
        "en": (ENGLISH_FRAMES, ENGLISH_RULES, ENGLISH_TABLES, ENGLISH_FACTS, english_number, _settle_english),
    }[language]
    parsed = _frames(frames, settle)
    styles = list(dict.fromkeys(style for frame in parsed for style in frame))
    rules_by_style = {style: _rules(rules, settle, style) for style in styles}
    built = Language(parsed, rules_by_style, _tables(tables), {}, number, settle)
    # Each function is called once for the names it answers to. It may use what those before it answer to.
    for fact in facts + SHARED_FACTS:
        built.facts.update(dict.fromkeys(fact(Draw(0), Cast(built, Draw(0), styles[0])), fact))
    return built


def _expand(sequence: _Sequence, cast: Cast, rules: dict[str, list[_Sequence]], draw: Draw, out: list[str]) -> None:
    """Append `sequence` to `out`: holes filled from the rules, else from the cast, alternatives drawn."""
    for part in sequence:
        if isinstance(part, list):
            _expand(draw.one(part), cast, rules, draw, out)
        elif not isinstance(part, _Hole):
            out.append(part)
        elif part in rules:
            _expand(draw.one(rules[part]), cast, rules, draw, out)
        else:
            out.append(cast[part])


def _compose(language: Language, draw: Draw) -> str:
    frame = draw.one(language.frames)
    style = draw.one(list(frame))
    cast, rules = Cast(language, draw, style), language.rules[style]
    text = ""
    for line in frame[style]:
        if line.optional and draw.fraction() < 0.5:
            continue
        out: list[str] = []
        _expand(line.sequence, cast, rules, draw, out)
        sentence = "".join(out).strip()
        if sentence:
            text += (line.separator if text else "") + sentence[0].upper() + sentence[1:]
    return language.settle(text, style)


def documents(language: Literal["ko", "en"], megabytes: float, seed: int) -> Iterator[str]:
    """Yield documents of `language` until their UTF-8 length reaches `megabytes` (10^6 bytes) in total.

    The text depends on the arguments alone: not on the machine, the Python version or the hash seed.
    """
    world, draw = _language(language), Draw(seed)
    remaining = megabytes * 1e6
    while remaining > 0:
        document = _compose(world, draw)
        remaining -= len(document.encode("utf-8"))
        yield document
