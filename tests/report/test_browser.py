"""The page, opened: no error, no request, no sideways scroll, dark or on paper as is wanted, in both languages."""

from itertools import pairwise
from pathlib import Path

import pytest
from browser import opened
from made import make_run

from sllm.report.page import SECTIONS, write_report
from sllm.report.words import WORDS


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hostile = "<script>document.title='gone'</script><img src=https://example.invalid/x.png>"
    return write_report(make_run(tmp_path_factory.mktemp("page"), prompts=(hostile, "민수는"), tuned=True))


def brightness(colour: str) -> float:
    """Of `rgb(…)`, from 0 to 1."""
    return sum(map(float, colour.strip("rgba()").split(",")[:3])) / 765


def background(tab: object, **media: str) -> str:
    return str(tab.evaluate("getComputedStyle(document.body).backgroundColor"))  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("language", ["en", "ko"])
def test_one_language_is_seen_and_nothing_is_wider_than_the_screen(page: Path, width: int, language: str) -> None:
    with opened(page, width) as (tab, trouble):
        tab.check(f"#language-{language}")
        for number, code in enumerate(("en", "ko")):
            heading = tab.locator("#life-heading").get_by_text(WORDS["life"][number], exact=True)
            assert heading.is_visible() == (code == language)
            inside = tab.locator("#loss svg text:visible").get_by_text(WORDS["validation"][number], exact=True)
            assert (inside.count() > 0) == (code == language)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        for box in tab.locator(".scroll").all():
            assert box.evaluate("box => box.tabIndex") == 0, "what scrolls can be reached without a mouse"
        assert tab.title() == "small-ko – sllm"
    assert trouble == []


def test_the_axis_of_the_losses_is_chosen_without_javascript(page: Path) -> None:
    with opened(page) as (tab, _):
        for over in ("steps", "tokens", "hours"):
            tab.check(f"#over-{over}")
            assert [tab.locator(f".by-{other}").is_visible() for other in ("steps", "tokens", "hours")] == [
                other == over for other in ("steps", "tokens", "hours")
            ]


def test_it_is_dark_where_that_is_preferred_and_light_on_paper(page: Path) -> None:
    with opened(page, color_scheme="dark") as (tab, _):
        assert brightness(background(tab)) < 0.2
        ink = tab.locator("svg text:visible").first.evaluate("text => getComputedStyle(text).fill")
        assert brightness(ink) > 0.5
        tab.emulate_media(media="print", color_scheme="dark")
        assert brightness(background(tab)) > 0.9
        assert not tab.locator("nav").is_visible()
        assert tab.locator(".wide svg").first.is_visible()
        assert tab.evaluate("document.querySelectorAll('section').length") == len(SECTIONS)
    with opened(page, color_scheme="light") as (tab, _):
        assert brightness(background(tab)) > 0.9


def test_a_picture_says_what_it_shows_in_the_language_that_is_chosen(page: Path) -> None:
    with opened(page, 400) as (tab, _):
        tab.check("#language-ko")
        pictures = tab.get_by_role("img").all()
        assert len(pictures) > 8
        names = [tab.get_by_role("img", name=words).count() for words in ("가장 낮은 검증 손실", "시도마다 한 줄")]
        assert names == [2, 2], "of the training and of the fine-tuning"
        assert tab.get_by_role("img", name="Lowest validation loss").count() == 0


def test_headings_come_in_order(page: Path) -> None:
    with opened(page) as (tab, _):
        levels = [int(heading.evaluate("heading => heading.tagName[1]")) for heading in tab.locator("h1, h2, h3").all()]
    assert levels[:2] == [1, 2]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_keyboard_reaches_the_switches_and_the_contents(page: Path) -> None:
    with opened(page) as (tab, _):
        tab.keyboard.press("Tab")
        tab.keyboard.press("ArrowRight")
        assert tab.locator("#life-heading").get_by_text(WORDS["life"][1]).is_visible()
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.getAttribute('href')") == "#result"
