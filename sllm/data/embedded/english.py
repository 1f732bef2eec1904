"""English grammar by rule: plurals, tenses, a or an, and numbers in words."""

import re
from functools import lru_cache

from sllm.data.embedded.notation import read_tables

VOWEL = "aeiou"
IRREGULAR = read_tables("en/irregular.txt")
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


MARK = re.compile(r"([a-z]+)\+([a-z]+)")
# `a` is right before a consonant sound: a university, a one-way street, but an hour, an 8, an 11.
AN = re.compile(r"\b([Aa]) (?!one\b|once\b|us[eu]|uni[^nm]|eu|ew)(?=[aeiou]|hour\b|hon[eo]|8|11\b|18\b)", re.IGNORECASE)


def settle(text: str, tense: str) -> str:
    """`text` with the forms that its marks stand for, `go+v` and `{item}+p`, and with `an` where it must be."""
    return AN.sub(r"\1n ", MARK.sub(lambda match: inflect(*match.groups(), tense), text))


ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def english_number(n: int) -> str:
    """0 to 99 in words: 21 → twenty-one."""
    if n < 20:
        return ONES[n]
    return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")
