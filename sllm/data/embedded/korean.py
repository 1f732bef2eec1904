"""Korean grammar by rule: the particles and endings that a syllable's sounds ask for, and numbers in words."""

import re
from functools import lru_cache

# --- syllables ------------------------------------------------------------------------------------

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


# --- marks ----------------------------------------------------------------------------------------

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
MARK = re.compile(r"(?<![})가-힣0-9])([가-힣0-9]+)([\"”]?)([~+])([가-힣ㄴㅂa-z]+)")


def settle(text: str, style: str) -> str:
    """`text` with the particles and endings that its marks stand for: `{item}~을`, `{job}~is`, `먹+past`."""
    return MARK.sub(lambda match: _join(*match.groups(), style), text)


@lru_cache(maxsize=1 << 16)
def _join(word: str, quote: str, mark: str, form: str, style: str) -> str:
    if mark == "+":
        return conjugate(word, STYLES[style].get(form, form))
    return word + quote + particle(word, COPULA[style].get(form, form))


# --- numbers --------------------------------------------------------------------------------------

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
