"""What a benchmark asks for is not in the corpus, wherever and however it is written there."""

import random
import re
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hub import Hub, hub, use
from hypothesis import given
from hypothesis import strategies as st
from small_corpora import experiment, sentences, write_jsonl
from small_tasks import add_tasks
from test_clean import ANYTHING, cleaner, documents_of, losses_of

from jobs.corpus import forget
from sllm.artifacts import Artifacts
from sllm.config import Experiment, Language
from sllm.config.tasks import TASKS
from sllm.data import plan
from sllm.data import tasks as task_data
from sllm.data.clean import PIECE, Cleaner, Document, Lost
from sllm.data.compared import compared_with, tables_of_tasks
from sllm.data.contamination import MOST_ITEMS, SHORTEST, WORDS, TaskText, write_task_text
from sllm.data.download import download_stage, store_of, tables_of
from sllm.data.losses import loss_by_reason
from sllm.data.measures import codes_of
from sllm.data.tasks import fetch_tasks, tasks_directory
from sllm.data.text import normalise
from sllm.errors import Stopped
from sllm.manifests import read_manifest
from sllm.stop import StopFlag, no_check

__all__ = ["hub"]

LANGUAGES: list[Language] = ["ko", "en"]


def words(language: str, name: object, count: int) -> list[str]:
    """Words that no other name has."""
    syllables = "가나다라마바사아자차카타파하" if language == "ko" else "abcdefghijklmn"
    draw = random.Random(f"{language} {name}")
    return ["".join(draw.choices(syllables, k=9)) for _ in range(count)]


ITEMS: list[tuple[str, Language, list[str]]] = [
    *[(f"long_{language}", language, words(language, f"item {n}", 40)) for language in LANGUAGES for n in range(9)],
    *[
        (f"short_{language}", language, words(language, f"short {count}", count))
        for language in LANGUAGES
        for count in range(1, WORDS[language])
    ],
]
TEXTS = [(task, language, " ".join(item)) for task, language, item in ITEMS]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> TaskText:
    return table_of(tmp_path_factory.mktemp("tasks") / "table", TEXTS)


def table_of(path: Path, items: list[tuple[str, Language, str]]) -> TaskText:
    write_task_text(path, items)
    return TaskText(path)


def cleaner_with(table: TaskText, language: Language = "ko", **data: Any) -> Cleaner:
    made = cleaner(language, clean=ANYTHING, **data)
    return Cleaner(made._config, language, table)


def prose(language: str, name: object, count: int) -> str:
    """Words in lines and paragraphs."""
    draw, text = random.Random(str(name)), ""
    for word in words(language, name, count):
        text += word + draw.choices([" ", ", ", ".\n", ".\n\n"], [20, 3, 2, 1])[0]
    return text


def disguised(item: list[str], draw: random.Random) -> str:
    """The item in another case, with other punctuation and white space."""
    signs = ["", "", "", '"', "(", ")", "…", "!", "'", "-", "🙂", "**"]
    return "".join(
        draw.choice(signs)
        + "".join(draw.choice([c.lower(), c.upper()]) for c in word)
        + draw.choice(signs)
        + draw.choice([" ", "  ", "\n", "\t", " — ", "\n\n"])
        for word in item
    )


@given(
    st.sampled_from([item for item in ITEMS if len(item[2]) >= SHORTEST[item[1]]]),
    st.sampled_from(LANGUAGES),
    st.integers(0, 3000),
    st.integers(0, 3000),
    st.randoms(use_true_random=False),
)
def test_an_item_is_found_wherever_it_stands(
    table: TaskText,
    item: tuple[str, Language, list[str]],
    language: Language,
    before: int,
    after: int,
    draw: random.Random,
) -> None:
    task, own, text = item
    start = draw.randrange(len(text) - WORDS[own] + 1) if len(text) > WORDS[own] else 0
    planted = disguised(text[start : start + WORDS[own]], draw)
    around = prose(language, "before", before), prose(language, "after", after)
    found = list(cleaner_with(table, language).clean(f"{around[0]} {planted} {around[1]}"))
    losses = [result for result in found if isinstance(result, Lost) and result.reason == "contaminated"]
    assert {loss.task for loss in losses} == {task}
    kept = "\n".join(result.text for result in found if isinstance(result, Document)).casefold()
    assert all(word not in kept for word in text)
    assert sum(len(loss.text) for loss in losses) <= 3 * PIECE  # what is far from it stays
    first = losses[0].text[losses[0].begin :].casefold()
    assert first.startswith(text[start])
    for result in found:
        if isinstance(result, Document):
            (again,) = cleaner_with(table, language).clean(result.text)
            assert again == result


@given(
    st.sampled_from(ITEMS),
    st.sampled_from(LANGUAGES),
    st.integers(0, 300),
    st.randoms(use_true_random=False),
)
def test_one_word_less_is_not_an_item(
    table: TaskText, item: tuple[str, Language, list[str]], language: Language, count: int, draw: random.Random
) -> None:
    _, own, text = item
    most = min(WORDS[own], len(text)) - 1
    if len(text) < SHORTEST[own]:
        most = len(text)  # what is so short is compared with nothing
    start = draw.randrange(len(text) - most + 1)
    planted = disguised(text[start : start + most], draw)
    whole = f"{prose(language, 'before', count)} {planted} {prose(language, 'after', 1 + count)}"
    assert losses_of(cleaner_with(table, language), whole) == {}


def test_signs_and_what_follows_do_not_matter(tmp_path: Path) -> None:
    made = table_of(tmp_path / "table", [("task", "ko", "ab cd ef gh i")])
    for text in ("x (a-b) c...d 'e'f gh i y", "x ab cd ef gh i", "x ab cd ef gh (I)."):
        assert [found.start for found in made.shared(codes_of(text))] == [text.index("a")]


CHUNKS = ["a", "I", "b.c", "DON'T", "(x)", "가", "나는", "'나'", "🙂", "—", "1", "ẞ", "İs", "it's", "\u3000"]
PHRASES = st.lists(st.sampled_from(CHUNKS), min_size=3, max_size=16).map(" ".join)


@given(
    st.lists(st.tuples(st.sampled_from(LANGUAGES), st.lists(PHRASES, min_size=1, max_size=3)), max_size=6),
    st.lists(PHRASES, max_size=4),
    st.randoms(use_true_random=False),
)
def test_what_is_found_is_what_the_rule_says(
    items: list[tuple[Language, list[str]]], other: list[str], draw: random.Random
) -> None:
    lines = [*other, *(line for _, item in items for line in item)]
    text = normalise(draw.choice([" ", "\n"]).join(draw.choices(lines, k=8)) if lines else "")
    with tempfile.TemporaryDirectory() as directory:
        made = table_of(Path(directory) / "table", [("task", own, "\n".join(item)) for own, item in items])
        assert [(found.start, found.end) for found in made.shared(codes_of(text))] == by_definition(text, items)


def by_definition(text: str, items: list[tuple[Language, list[str]]]) -> list[tuple[int, int]]:
    """Where what a text shares with items begins and ends, compared word by word."""

    def is_letter(character: str) -> bool:
        return character.isalnum() and ord(character) < 65536

    def bare(word: str) -> str:
        return "".join(c.lower() if len(c.lower()) == 1 else c for c in word if is_letter(c))

    def grams(language: Language, lines: list[str]) -> set[tuple[str, ...]]:
        item = normalise("\n".join(lines))
        found = [tuple(filter(None, map(bare, line.split()))) for line in {item, *item.split("\n")}]
        short = {line for line in found if SHORTEST[language] <= len(line) < WORDS[language]}
        return short | {line[i : i + WORDS[language]] for line in found for i in range(len(line) - WORDS[language] + 1)}

    counts = Counter(gram for item in items for gram in grams(*item))
    places = [place.span() for place in re.finditer(r"\S+", text) if bare(place[0])]
    words = [bare(text[start:end]) for start, end in places]
    marked = set()
    for gram, count in counts.items():
        for i in range(len(words)):
            if count <= MOST_ITEMS and tuple(words[i : i + len(gram)]) == gram:
                marked.update(range(i, i + len(gram)))
    runs: list[tuple[int, int]] = []
    for word in sorted(marked):
        letters = [i for i in range(*places[word]) if is_letter(text[i])]
        start = runs.pop()[0] if word - 1 in marked else letters[0]
        runs.append((start, letters[-1] + 1))
    return runs


@pytest.mark.parametrize(
    ("language", "items", "planted", "found"),
    [
        ("ko", 20, 8, True),
        ("ko", 20, 7, False),
        ("en", 20, 13, True),
        ("en", 20, 12, False),
        ("ko", 5, 5, True),
        ("ko", 4, 4, False),
        ("en", 8, 8, True),
        ("en", 7, 7, False),
    ],
)
def test_thirteen_words_are_eight_eojeol(
    tmp_path: Path, language: Language, items: int, planted: int, found: bool
) -> None:
    item = words(language, "item", items)
    made = table_of(tmp_path / "table", [("task", language, " ".join(item))])
    text = " ".join([*words(language, 1, 9), *item[:planted], *words(language, 2, 9)])
    assert bool(losses_of(cleaner_with(made, language), text)) == found


def test_an_item_across_the_end_of_a_piece_takes_both(table: TaskText) -> None:
    line = " ".join(ITEMS[0][2][: WORDS["ko"]])
    # One line of words alone: it is cut at the first space after nine tenths of a piece.
    before, after = (" ".join(words("ko", number, 600)) for number in range(2))
    text = f"{before[: int(0.9 * PIECE) - len(line) // 2]} {line} {after}"
    losses = [result for result in cleaner_with(table).clean(text) if isinstance(result, Lost)]
    assert [loss.reason for loss in losses] == ["contaminated"] * 2
    assert all(line not in loss.text for loss in losses)


def test_a_line_of_an_item_is_found_alone(tmp_path: Path) -> None:
    question, answer = words("ko", "question", 6), words("ko", "answer", 5)
    made = table_of(tmp_path / "table", [("copa", "ko", f"{' '.join(question)}?\n{' '.join(answer)}.\n네.")])
    for planted in (question, answer, [*question[-4:], *answer[:4]]):
        text = f"{prose('ko', 1, 50)} {' '.join(planted)} {prose('ko', 2, 50)}"
        assert losses_of(cleaner_with(made), text).keys() == {"contaminated"}
    for planted in (question[1:], answer[1:]):
        text = f"{prose('ko', 1, 50)} {' '.join(planted)} {prose('ko', 2, 50)}"
        assert losses_of(cleaner_with(made), text) == {}


@pytest.mark.parametrize("count", [MOST_ITEMS, MOST_ITEMS + 1])
def test_what_stands_in_many_items_is_of_the_prompt(tmp_path: Path, count: int) -> None:
    prompt = words("en", "prompt", 20)
    items = [[*prompt, *words("en", number, 20)] for number in range(count)]
    made = table_of(tmp_path / "table", [("task", "en", " ".join(item)) for item in items])
    expected = {"contaminated"} if count <= MOST_ITEMS else set()
    assert losses_of(cleaner_with(made, "en"), " ".join(prompt)).keys() == expected
    assert losses_of(cleaner_with(made, "en"), " ".join(items[3][20:])).keys() == {"contaminated"}


def test_a_contaminated_piece_repeats_nothing(table: TaskText) -> None:
    """Were the page that goes for an item taken for known, the same page without the item would go for its lines."""
    page = prose("ko", "page", 600)[: PIECE - 400]
    text = f"{page}\n\n{' '.join(ITEMS[0][2])}\n\n{page}"
    made = Cleaner(cleaner(clean={"min_hangul": 0.0})._config, "ko", table)
    assert losses_of(made, text).keys() == {"contaminated"}
    assert len(documents_of(made, text)) == 1


def test_the_table_does_not_depend_on_the_order_of_work(tmp_path: Path) -> None:
    write_task_text(tmp_path / "a", TEXTS)
    write_task_text(tmp_path / "b", TEXTS)
    a, b = (read_manifest(tmp_path / name, checksums=True)["files"] for name in "ab")
    assert a == b


def test_no_items_are_a_table_too(tmp_path: Path) -> None:
    made = table_of(tmp_path / "table", [])
    assert losses_of(cleaner_with(made), prose("ko", 1, 500)) == {}
    assert losses_of(cleaner_with(made), "가") == {}


# --- the stage ------------------------------------------------------------------------------------


@pytest.fixture
def served(hub: Hub) -> Hub:
    add_tasks(hub.root)
    hub.pinned |= {task.revision for task in TASKS.values()}
    return hub


PLANTED = ("kobest_boolq", "lambada_openai")


@pytest.fixture
def planted(served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Over files of which every fifth document holds an item."""
    monkeypatch.setattr(plan, "PART_BYTES", 1)  # each file a part
    fetch_tasks(PLANTED, tmp_path / "served")
    sources = []
    for task, language, text in task_data.test_texts(tmp_path / "served", PLANTED):
        texts = sentences(120, language)[len(sources) * 5 :][:5]
        texts[2] += f" {text.upper()}"
        paths = [str(write_jsonl(tmp_path / f"{task}-{len(sources)}.jsonl", texts))]
        sources.append({"name": f"{language}-{len(sources)}", "kind": "files", "language": language, "paths": paths})
    rules = {"repetition": False, "min_hangul": 0.0, "min_latin": 0.0, "contamination": True}
    merged = [
        {**of[0], "name": language, "paths": [path for source in of for path in source["paths"]]}
        for language in LANGUAGES
        if (of := [source for source in sources if source["language"] == language])
    ]
    made = experiment(merged, clean=rules, validation_fraction=0.2)
    return made.model_copy(update={"data_directory": str(tmp_path / "data")})


class StopsAfter(StopFlag):
    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stopped("SIGTERM")


def contents(corpus: Path) -> dict[str, Any]:
    return read_manifest(corpus, checksums=True)


def test_the_stage_drops_it_and_says_what_it_compared_with(planted: Experiment, served: Hub, tmp_path: Path) -> None:
    summary = download_stage(planted, tmp_path / "corpus", StopFlag(), workers=1)
    assert {name: entry["dropped"]["contaminated"] for name, entry in summary["sources"].items()} == {
        "ko": 12,
        "en": 12,
    }
    assert {name: entry["documents"] for name, entry in summary["sources"].items()} == {"ko": 48, "en": 48}
    for language, task in zip(LANGUAGES, PLANTED, strict=True):
        examples = summary["sources"][language]["examples"]["contaminated"]
        assert [example["task"] for example in examples] == [task] * 3
        assert all(example["text"] == example["text"].upper() for example in examples)  # they begin with the item
    told = contents(tmp_path / "corpus")["contamination"]
    parts = [part for task in TASKS.values() for part in task.parts]
    assert told == {"tasks": dict.fromkeys(parts, 12), "missing": {}, "words": WORDS}
    for entry in summary["sources"].values():
        assert any("contaminated" in line for line in loss_by_reason(entry))
    off = planted.data.model_copy(update={"clean": planted.data.clean.model_copy(update={"contamination": False})})
    served.requests.clear()
    whole = download_stage(planted.model_copy(update={"data": off}), tmp_path / "off", StopFlag(), workers=1)
    assert {name: entry["documents"] for name, entry in whole["sources"].items()} == {"ko": 60, "en": 60}
    assert "contamination" not in contents(tmp_path / "off")
    assert not served.requests


def test_array_shares_and_stops_make_the_same_corpus(planted: Experiment, tmp_path: Path) -> None:
    download_stage(planted, tmp_path / "straight", StopFlag(), workers=1)
    corpus = tmp_path / "shared" / "corpus"
    for share in ((1, 3), (2, 3), (0, 3)):
        download_stage(planted, corpus, StopFlag(), workers=1, share=share)
    stops = 0
    while not (tmp_path / "stopped" / "corpus").exists():  # before its beginning and in the middle
        with suppress(Stopped):
            download_stage(planted, tmp_path / "stopped" / "corpus", StopsAfter(5 + 20 * stops), workers=1)
        stops += 1
    assert stops > 3
    for resumed in (corpus, tmp_path / "stopped" / "corpus"):
        download_stage(planted, resumed, StopFlag(), workers=2)
        assert contents(resumed) == contents(tmp_path / "straight")
        assert not tables_of(resumed).exists()


def test_what_it_is_compared_with_is_settled_at_its_beginning(
    planted: Experiment, served: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a hub that has a task again at the third attempt would make the first two work for nothing."""
    gone = served.root / "gone"
    (served.root / "EleutherAI").rename(gone)
    corpus = tmp_path / "corpus"
    download_stage(planted, corpus, StopFlag(), workers=1, share=(0, 2))
    assert "not compared with lambada_openai" in capsys.readouterr().err
    gone.rename(served.root / "EleutherAI")
    summary = download_stage(planted, corpus, StopFlag(), workers=1)
    assert (summary["sources"]["ko"]["documents"], summary["sources"]["en"]["documents"]) == (48, 60)
    assert list(contents(corpus)["contamination"]["missing"]) == ["lambada_openai"]
    assert "lambada_openai" not in contents(corpus)["contamination"]["tasks"]
    # Made anew, it is compared with all; and what it was compared with does not hide it from --force.
    artifact = Artifacts(planted).corpus
    download_stage(planted, artifact, StopFlag(), workers=1)
    assert contents(artifact)["contamination"]["missing"] == {}
    assert contents(artifact)["sources"]["en"]["documents"] == 48
    deleted = " ".join(forget(planted, None, yes=True))
    assert not list(artifact.parent.glob("sources/[!.]*"))
    assert deleted.count("deleted") == 3


def test_without_a_network_the_corpus_is_made_and_says_so(
    planted: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use("http://127.0.0.1:9", tmp_path / "hf", monkeypatch)  # where nobody listens
    summary = download_stage(planted, tmp_path / "corpus", StopFlag(), workers=1)
    assert {name: entry["documents"] for name, entry in summary["sources"].items()} == {"ko": 60, "en": 60}
    told = contents(tmp_path / "corpus")["contamination"]
    assert told["tasks"] == {}
    assert "the hub cannot be reached" in told["missing"]["piqa"]
    assert "sllm download CONFIG --force" in capsys.readouterr().err


def test_other_items_are_another_store(planted: Experiment, tmp_path: Path) -> None:
    partial, directory = tmp_path / "partial", tasks_directory(planted)
    fetch_tasks(["piqa"], directory)
    first, _ = compared_with(planted, partial, no_check)
    assert compared_with(planted, partial, no_check)[0] == first
    fetch_tasks(["hellaswag"], directory)
    assert compared_with(planted, partial, no_check)[0] == first
    second, _ = compared_with(planted, tmp_path / "another", no_check)
    source = planted.data.sources[0]
    stores = {store_of(source, planted, tmp_path / "corpus", tasks) for tasks in (None, first, second)}
    assert len(stores) == 3
    assert tables_of_tasks(planted) == [None, *sorted([first, second])]


def test_a_damaged_table_is_made_again(planted: Experiment, tmp_path: Path) -> None:
    fetch_tasks(["piqa"], tasks_directory(planted))
    first, _ = compared_with(planted, tmp_path / "partial", no_check)
    assert first is not None
    (first / "keys.u64").unlink()
    assert compared_with(planted, tmp_path / "partial", no_check)[0] == first
    assert contents(first)["tasks"] == ["piqa"]
