"""Personal data in a text: which strings are masked, and what becomes of them."""

import re
from collections import Counter
from collections.abc import Sequence

# What may hold a number to mask: most texts have none, and looking for the numbers themselves is ten times slower.
_LONG_NUMBER = re.compile(r"[0-9][0-9 .()-]{7,}[0-9]")

_NUMBER = re.compile(
    r"(?P<resident_number>(?<![0-9])[0-9]{6} ?-? ?[1-8][0-9]{6}(?![0-9]))"
    r"|(?P<card_number>(?<![0-9.-])(?:[3-69][0-9]{3}[ -]?(?:[0-9]{4}[ -]?){2}[0-9]{4}"
    r"|3[47][0-9]{2}[ -]?[0-9]{6}[ -]?[0-9]{5})(?![0-9-]))"
    # Mobile numbers with or without separators; others (02, 031 …, 070, 050x) only with them.
    r"|(?P<phone_number>(?<![0-9.-])(?:\+82[ .-]?(?:\(0\))?|\(?0)"
    r"(?:1[016-9]\)?[ .-]?[0-9]{3,4}[ .-]?[0-9]{4}|(?:2|[3-6][1-5]|70|50[2-8])(?:\) ?|[.-])[0-9]{3,4}[.-][0-9]{4})"
    r"(?![0-9]))"
)

# From the @ on, and up to it: from the front, every word of a text would have to be tried.
_HOST = re.compile(r"@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}")
_MAILBOX = re.compile(r"[A-Za-z0-9._%+-]{1,64}\Z")


def mask_personal_data(text: str) -> tuple[str, Counter[str]]:
    """`text` with [EMAIL], [PHONE_NUMBER], [CARD_NUMBER] and [RESIDENT_NUMBER] for personal data; how many of each.

    Numbers that carry a check digit are masked only if it is right.
    """
    masked: Counter[str] = Counter()

    def mask_number(match: re.Match[str]) -> str:
        kind = str(match.lastgroup)
        valid = _CHECKS.get(kind)
        if valid and not valid([int(c) for c in match[0] if c.isdecimal()]):
            return match[0]
        masked[kind] += 1
        return f"[{kind.upper()}]"

    # Addresses first: they may hold numbers. Until nothing is found, because a mask may free what stood beside it.
    before = None
    while text != before:
        before = text
        pieces = []
        done = 0
        for host in _HOST.finditer(text):
            mailbox = _MAILBOX.search(text, max(done, host.start() - 64), host.start())
            if mailbox:
                pieces += [text[done : mailbox.start()], "[EMAIL]"]
                done = host.end()
                masked["email"] += 1
        text = "".join([*pieces, text[done:]])
        pieces = []
        done = 0
        for long in _LONG_NUMBER.finditer(text):
            start = max(done, long.start() - 2)  # a +, a bracket, or what shows that it goes on to the left
            pieces += [text[done:start], _NUMBER.sub(mask_number, text[start : long.end()])]
            done = long.end()
        text = "".join([*pieces, text[done:]])
    return text, masked


def is_resident_number(digits: Sequence[int]) -> bool:
    """Whether 13 digits are a Korean resident registration number: a birth date, and the check digit.

    (11 - Σ wᵢdᵢ mod 11) mod 10 with weights 2 … 9, 2 … 5; 13 instead of 11 for foreigners (seventh digit 5 to 8).
    Numbers given out from October 2020 on have no check digit: for a birth date after that, the date is enough.
    """
    year = (1900 if digits[6] in (1, 2, 5, 6) else 2000) + 10 * digits[0] + digits[1]
    month, day = 10 * digits[2] + digits[3], 10 * digits[4] + digits[5]
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return False
    if (year, month) >= (2020, 10):
        return True
    total = sum(w * d for w, d in zip((2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), digits, strict=False))
    return ((13 if digits[6] >= 5 else 11) - total % 11) % 10 == digits[12]


def is_card_number(digits: Sequence[int]) -> bool:
    """Luhn's check (ISO/IEC 7812-1, annex B): from the right every second digit doubled, its digits summed."""
    doubled = [d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


_CHECKS = {"resident_number": is_resident_number, "card_number": is_card_number}
