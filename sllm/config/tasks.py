"""The tasks that are measured unless an experiment says otherwise: lm-eval's names, where their items can be had
without running anybody's code, and what a score of them is worth.

`datasets` no longer runs loading scripts, and the hub's own parquet files (`refs/convert/parquet`, laid out as
CONFIG/SPLIT/0000.parquet) stand in for a home that is one. Where each entry comes from, docs/tasks.md says.
"""

from dataclasses import dataclass
from typing import Literal

CONVERTED = "refs/convert/parquet"


@dataclass(frozen=True)
class Published:
    """A score that somebody has published, on all items."""

    model: str
    score: float
    metric: str
    few_shot: int
    source: str


@dataclass(frozen=True)
class Task:
    """A task, or a group of them that has one score."""

    language: Literal["ko", "en"]
    metric: str
    """The one that is shown, as lm-eval calls it."""
    guess: float
    """What answers drawn at random, all equally likely, score in it."""
    dataset: str
    """On the hub, without a loading script at `revision`."""
    licence: str
    columns: tuple[str, ...]
    """That hold the text of an item: what is asked, then the answers."""
    parts: dict[str, dict[str, str]]
    """For each of lm-eval's tasks its files by split, as patterns of which `*` also stands for folders. The first split
    is scored, another one has the examples of few-shot."""
    revision: str = "main"
    """A commit where one could be established; else what it stood for is recorded with the items."""
    published: tuple[Published, ...] = ()


def _kobest(
    config: str, guess: float, columns: tuple[str, ...], polyglot: float, trinity: float | None = None
) -> dict[str, Task]:
    source = "EleutherAI, model card of polyglot-ko-1.3b"
    published = [Published("polyglot-ko-1.3B", polyglot, "f1", 0, source)]
    if trinity is not None:
        published.append(Published("ko-gpt-trinity-1.2B", trinity, "f1", 0, source))
    name = f"kobest_{config}"
    files = {split: f"{config}/{split}.jsonl" for split in ("test", "train")}
    dataset, licence = "skt/kobest_v1", "CC BY-SA 4.0"
    return {name: Task("ko", "f1", guess, dataset, licence, columns, {name: files}, published=tuple(published))}


def _belebele(language: Literal["ko", "en"], config: str) -> dict[str, Task]:
    name = f"belebele_{config}"
    columns = ("flores_passage", "question", "mc_answer1", "mc_answer2", "mc_answer3", "mc_answer4")
    revision, licence = "75b399394a9803252cfec289d103de462763db7c", "CC BY-SA 4.0"
    parts = {name: {"test": f"data/{config}.jsonl"}}
    return {name: Task(language, "acc", 0.25, "facebook/belebele", licence, columns, parts, revision)}


def _english(metric: str, smollm2: tuple[float, ...] = (), opt: tuple[float, ...] = ()) -> tuple[Published, ...]:
    """What SmolLM2 of 135M and 360M, and OPT of 125M and 350M, are said to score."""
    models = {
        "SmolLM2": (smollm2, ("135M", "360M"), "HuggingFaceTB, model card of {}, with lighteval"),
        "OPT": (opt, ("125M", "350M"), "EleutherAI, lm-evaluation-harness, results/opt, with its first tasks"),
    }
    return tuple(
        Published(model := f"{name}-{size}", score, metric, 0, source.format(model))
        for name, (scores, sizes, source) in models.items()
        for size, score in zip(sizes, scores, strict=bool(scores))
    )


_HAERAE = ("general_knowledge", "history", "loan_words", "rare_words", "standard_nomenclature")

TASKS: dict[str, Task] = {
    **_kobest("boolq", 0.5, ("paragraph", "question"), 0.4979),
    **_kobest("copa", 0.5, ("premise", "alternative_1", "alternative_2"), 0.7196, 0.6696),
    **_kobest("hellaswag", 0.25, ("context", "ending_1", "ending_2", "ending_3", "ending_4"), 0.5247, 0.5243),
    **_kobest("sentineg", 0.5, ("sentence",), 0.6927),
    **_kobest("wic", 0.5, ("context_1", "context_2"), 0.4865),
    "haerae": Task(
        "ko",
        "acc",
        0.2,
        "HAERAE-HUB/HAE_RAE_BENCH_1.1",
        "CC BY-NC-ND 4.0",
        ("query",),
        {
            f"haerae_{config.replace('loan_words', 'loan_word').replace('rare_words', 'rare_word')}": {
                "test": f"{config}/test/*.parquet"
            }
            for config in _HAERAE
        },
        CONVERTED,
    ),
    **_belebele("ko", "kor_Hang"),
    **_belebele("en", "eng_Latn"),
    "hellaswag": Task(
        "en",
        "acc_norm",
        0.25,
        "Rowan/hellaswag",
        "MIT",
        ("ctx", "endings"),
        {"hellaswag": {split: f"data/{split}-*.parquet" for split in ("validation", "train")}},
        "218ec52e09a7e7462a5400043bb9a69a41d06b76",
        _english("acc_norm", smollm2=(0.421, 0.545)),
    ),
    "arc_easy": Task(
        "en",
        "acc",
        0.25,
        "allenai/ai2_arc",
        "CC BY-SA 4.0",
        ("question", "choices"),
        {"arc_easy": {split: f"ARC-Easy/{split}-*.parquet" for split in ("test", "train")}},
        "210d026faf9955653af8916fad021475a3f00453",
        _english("acc", opt=(0.4352, 0.4402)),
    ),
    "piqa": Task(
        "en",
        "acc_norm",
        0.5,
        "baber/piqa",
        "not stated",
        ("goal", "sol1", "sol2"),
        {"piqa": {split: f"*{split}*.parquet" for split in ("validation", "train")}},
        "142f6d7367fd9877f0fb3b5734ea6a545f54cdd1",
        _english("acc_norm", smollm2=(0.684, 0.717), opt=(0.6202, 0.6474)),
    ),
    "lambada_openai": Task(
        "en",
        "acc",
        0.0,
        "EleutherAI/lambada_openai",
        "MIT",
        ("text",),
        {"lambada_openai": {"test": "data/lambada_test.jsonl"}},
        "879e19a2c9bb7ef03f9cf962089cf7d008f91e27",
        _english("acc", opt=(0.379, 0.4516)),
    ),
}
