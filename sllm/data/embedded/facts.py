"""Who, what, where and how much in a document: drawn once from a seed, so that it never contradicts itself."""

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from random import Random
from typing import NamedTuple, TypeVar

from sllm.data.embedded.english import english_number
from sllm.data.embedded.korean import native_number, sino_number, split_syllable
from sllm.data.embedded.notation import Frame, Parts, Row, Settle

T = TypeVar("T")
Facts = Row


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
    phrases: dict[str, dict[str, list[Parts]]]
    """Under each style, the phrases by name."""
    tables: dict[str, list[Row]]
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
