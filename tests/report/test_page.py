"""What the page says, and that nothing a file holds can become markup or keep the page from being written."""

import json
import re
import shutil
import time
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import make_run

from sllm.files import write_json
from sllm.report.curves import read_curves, thin
from sllm.report.data import read_run
from sllm.report.figures import losses
from sllm.report.life import read_life
from sllm.report.markup import VOID, Markup, element, escape, join
from sllm.report.page import write_report
from sllm.report.words import LANGUAGES, WORDS, both
from sllm.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]


BLOCKS = {"p", "div", "h1", "h2", "h3", "td", "th", "dt", "dd", "b", "small", "li", "pre", "label", "summary", "text"}


class Reader(HTMLParser):
    """Elements that are open, every element's name, and the text of a language."""

    def __init__(self, language: str = "en") -> None:
        super().__init__()
        self.language, self.open, self.names, self.text, self.attributes = (
            language,
            list[str](),
            list[str](),
            "",
            list[str](),
        )
        self.hidden = 0

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.names.append(tag)
        self.attributes += [name for name, _ in attributes]
        self.text += " " if tag in BLOCKS else ""
        other = dict(attributes).get("class") in set(LANGUAGES) - {self.language}
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)
            self.hidden += 1 if self.hidden or other else 0

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID or (self.open and self.open[-1] != tag):
            return  # of an element that closed itself, in SVG
        self.open.pop()
        self.hidden = max(0, self.hidden - 1)

    def handle_data(self, data: str) -> None:
        if not self.hidden and "style" not in self.open[-1:]:
            self.text += data


def read(page: Path, language: str = "en") -> Reader:
    reader = Reader(language)
    reader.feed(page.read_text(encoding="utf-8"))
    reader.text = re.sub(r"\s+", " ", reader.text.replace("\N{NO-BREAK SPACE}", " "))
    return reader


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_run(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_run(tmp_path_factory.mktemp("tuned"), tuned=True)


@pytest.fixture
def run(made: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy that a test may damage; its data is where the first one's is."""
    shutil.copytree(made.path, tmp_path / made.name)
    return RunDirectory(tmp_path / made.name)


# --- what it says ---------------------------------------------------------------------------------


def test_a_whole_run_has_every_part_and_no_note_but_of_what_it_lacks(made: RunDirectory) -> None:
    page = write_report(made)
    text = read(page).text
    for said in (
        "A gpt2 model of 134 M parameters, trained from scratch on Korean and English text: 492 M tokens, step 1,000",
        "Finished 2026-11-18",
        "Best validation loss 3.1313",
        "Loss in nats per token",
        "Lowest validation loss: 3.131, at step 1,000",
        "150 steps were taken again",
        "polyglot-ko-1-3b 0.7196",
        "haerae its data is not there",
        "6 settings differ from small",
        "train.learning_rate 0.0006 0.0008",
        "data.sources.ko-web.weight 1.0 0.5",
        "git checkout 0123456789",
        "The source ko-conversation was left out",
        "words in a row: ko 8, en 13",
    ):
        assert said in text
    notes = re.findall(r'<p class="note">(.*?)</p>', page.read_text(encoding="utf-8"))
    assert len(notes) == 1
    drawn = {file.stem for file in made.report.glob("*.png")}
    assert {"loss", "loss-by-hours", "timeline", "tasks", "mfu", "saves"} <= drawn
    assert "다시 밟은 스텝은 150개입니다" in read(page, "ko").text


def test_a_fine_tuning_has_a_section_of_its_own(tuned: RunDirectory) -> None:
    text = read(page := write_report(tuned)).text
    section = text[text.index("Fine-tuning The best model was trained on with conversations") :]
    validation = json.loads((tuned.stage("validate") / "results.json").read_text(encoding="utf-8"))
    bits = [
        figures["overall"]["bits_per_byte"]
        for figures in (
            validation,
            validation["tuned"],
            validation["conversations"],
            validation["tuned"]["conversations"],
        )
    ]
    for said in (
        "49.2 M tokens, step 100 of 100",
        "Lowest validation loss",
        f"text 3.0200 3.3000 {bits[0]:.4f} {bits[1]:.4f}",
        f"answers 4.5000 1.2000 {bits[2]:.4f} {bits[3]:.4f}",
        "answers, Korean",
        "kobest_copa Korean f1 0.6100 ± 0.0140 0.6600 ± 0.0140 0.5000",
        "What is the capital of France? 무엇일까요? What is it? The answer to: What is the capital of France?",
        "talk-ko Korean 9,000 180 1,147 8.26 MB 2.3% 19 1 CC BY 4.0",
        "roles out of order 12 0",
        "a special token in a text 0 1",
    ):
        assert said in section, said
    assert "Life of the fine-tuning" in text
    assert "미세조정한 모델에는 대화 템플릿으로" in read(page, "ko").text
    assert {"tuning-loss", "tuning-timeline"} <= {file.stem for file in tuned.report.glob("*.png")}
    assert "This part cannot be shown" not in text
    alone, both = (read_run(run).device_hours for run in (made_without(tuned), tuned))
    life = read_life(tuned, "finetune")
    assert [attempt.ended for attempt in life.attempts] == ["preempted", "finished"]
    assert life.measuring == 0, "which is told with the life of pretrain"
    assert alone is not None
    assert both == pytest.approx(alone + life.allocated / 3600)


def made_without(tuned: RunDirectory) -> RunDirectory:
    """The same run, without what its fine-tuning left."""
    place = tuned.path.parent / "without"
    shutil.copytree(tuned.path, place, dirs_exist_ok=True)
    shutil.rmtree(place / "finetune")
    lines = (place / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (place / "ledger.jsonl").write_bytes(b"".join(line for line in lines if b"finetune" not in line))
    return RunDirectory(place)


def test_a_model_that_is_tuned_has_the_steps_so_far(tuned: RunDirectory) -> None:
    run = made_without(tuned)
    shutil.rmtree(run.stage("finetune"))
    training = run.training("finetune")
    training.path.mkdir()
    lines = tuned.training("finetune").metrics.read_bytes().splitlines(keepends=True)
    training.metrics.write_bytes(b"".join(lines[:32]))
    steps = len([line for line in lines[:32] if b'"train"' in line])
    attempt = {"attempt": 1, "token": "new", "fingerprint": "x", "why": "submitted", "launched": None}
    write_json(run.stage("finetune") / "attempt.json", {**attempt, "started": time.time(), "node": "n", "job": None})
    text = read(write_report(run)).text
    assert f"Fine-tuning: step {steps} of 100" in text
    assert f"step {steps} of 100. Only what the assistant says was learnt." in text
    assert "This part cannot be shown" not in text


def test_a_fine_tuning_that_has_not_begun_is_noted(tuned: RunDirectory) -> None:
    run = made_without(tuned)
    for stage in ("validate", "benchmark", "conversations"):
        shutil.rmtree(run.stage(stage))
    text = read(write_report(run)).text
    for said in (
        "No step of the fine-tuning has been taken yet",
        "has not measured the tuned model yet",
        "The stage conversations has not come to its end",
    ):
        assert said in text
    assert "Life of the fine-tuning" not in text
    assert "This part cannot be shown" not in text


def test_it_is_one_file_that_may_ask_for_nothing(made: RunDirectory) -> None:
    page = write_report(made).read_text(encoding="utf-8")
    assert "default-src &#x27;none&#x27;; style-src &#x27;unsafe-inline&#x27;; img-src data:" in page
    assert not re.findall(r"<(?:script|link|iframe|object|embed)\b|@import|url\((?!#)", page)
    assert {found for found in re.findall(r'(?:href|src)="([^"]*)"', page) if not found.startswith("#")} == set()
    assert not re.findall(r"(?:fill|stroke): #", page), "all colours are variables"
    assert "DejaVu" not in page, "so is the font"


def test_ids_are_unique_and_what_is_referred_to_is_there(tuned: RunDirectory) -> None:
    page = write_report(tuned).read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    referred = re.findall(r'(?:aria-labelledby="|href="#|url\(#)([^")]+)', page)
    assert len(referred) > 20
    assert not set(referred) - set(ids)


def test_a_run_that_trains_has_the_steps_so_far(run: RunDirectory) -> None:
    for stage in ("pretrain", "validate", "benchmark"):
        shutil.rmtree(run.stage(stage))
    lines = run.metrics.read_bytes().splitlines(keepends=True)
    run.metrics.write_bytes(b"".join(lines[:300]) + b'{"kind":"train","st')
    attempt = {
        "attempt": 7,
        "token": "new",
        "fingerprint": "x",
        "why": "requeued",
        "launched": None,
        "started": time.time(),
        "node": "n",
        "pid": 1,
        "job": None,
    }
    write_json(run.stage("pretrain") / "attempt.json", attempt)
    text = read(write_report(run)).text
    assert "Training: step 295 of 1,000" in text
    assert "damaged" not in text, "half a line at the end is being written"


# --- what is missing or damaged -------------------------------------------------------------------


def test_damaged_lines_are_left_out_and_counted(run: RunDirectory) -> None:
    lines = run.metrics.read_bytes().splitlines(keepends=True)
    lines[5:5] = [b"\x00\x00\n", b"[1]\n", b'{"kind":"train"}\n', b'{"kind":"train","step":1,"loss":"x"}\n', b"\xff\n"]
    run.metrics.write_bytes(b"".join(lines))
    curves = read_curves(run.metrics)
    assert curves.damaged == [6, 7, 8, 9, 10]
    assert curves.train["step"].tolist() == list(range(1, 1001))
    assert "5 lines of metrics.jsonl are damaged and left out, the first is line 6." in read(write_report(run)).text


def test_steps_that_stand_there_twice_count_once(tmp_path: Path) -> None:
    steps = [1, 2, 3, 4, 3, 4, 5, 2, 3]
    lines = [json.dumps({"kind": "train", "step": step, "loss": float(n)}) + "\n" for n, step in enumerate(steps)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    curves = read_curves(tmp_path / "metrics.jsonl")
    assert curves.train["step"].tolist() == [1, 2, 3]
    assert curves.train["loss"].tolist() == [0, 7, 8]
    assert curves.repeated == 6


def test_a_figure_that_is_not_finite_is_a_gap(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"kind":"train","step":1,"loss":null,"overflow":true}\n{"kind":"train","step":2,"loss":Infinity}\n'
        '{"kind":"train","step":3,"loss":2.5}\n',
        encoding="utf-8",
    )
    curves = read_curves(tmp_path / "metrics.jsonl")
    assert np.isnan(curves.train["loss"]).tolist() == [True, True, False]
    assert curves.overflows == 1


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("metrics.jsonl", "There is no metrics.jsonl with steps yet"),
        ("ledger.jsonl", "No attempt of the training is written down"),
        ("environment.txt", "There is no environment.txt"),
        ("preset.json", "Which experiment this one began as is not recorded"),
        ("stages/benchmark/results.json", "The stage benchmark has not measured anything yet"),
        ("stages/validate/results.json", "Measured while training, at step 1,000"),
    ],
)
def test_what_is_not_there_is_noted_and_the_rest_is_shown(run: RunDirectory, gone: str, said: str) -> None:
    (run.path / gone).unlink()
    text = read(write_report(run)).text
    assert said in text
    assert "This part cannot be shown" not in text
    assert "train.learning_rate" in text or gone == "preset.json"


def test_data_that_is_gone_is_noted(run: RunDirectory) -> None:
    config = run.config.read_text(encoding="utf-8")
    run.config.write_text(re.sub("(?m)^data_directory: .*", "data_directory: /nowhere", config), encoding="utf-8")
    text = read(write_report(run)).text
    for said in (
        "The corpus is not in /nowhere/corpora/",
        "The packed tokens are not in",
        "tokenizer's report is not in",
    ):
        assert said in text
    assert "This part cannot be shown" not in text


def test_nothing_but_a_configuration_is_a_page(run: RunDirectory) -> None:
    for path in run.path.iterdir():
        if path != run.config:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = read(write_report(run)).text
    assert "No step has been trained yet" in text
    assert "This part cannot be shown" not in text


def test_a_run_without_validation_has_the_curve_of_the_training(run: RunDirectory) -> None:
    lines = run.metrics.read_bytes().splitlines(keepends=True)
    run.metrics.write_bytes(b"".join(line for line in lines if b'"validation"' not in line))
    (run.stage("validate") / "results.json").unlink()
    text = read(write_report(run)).text
    assert "No validation is recorded" in text
    assert "Training loss: 11.764 at the first step" in text


def test_a_run_of_another_version_shows_what_can_be_read(run: RunDirectory) -> None:
    run.config.write_text(run.config.read_text(encoding="utf-8") + "new_section: {a: 1}\n", encoding="utf-8")
    write_json(run.stage("validate") / "results.json", {"overall": ["another"]})
    text = read(write_report(run)).text
    assert "The configuration cannot be read by this version" in text
    assert "new_section: unknown key" in text
    assert "This part cannot be shown: its files hold something else than was expected (AttributeError" in text
    assert "Training loss: 11.764 at the first step" in text


def test_a_damaged_ledger_leaves_the_curves(run: RunDirectory) -> None:
    run.ledger.write_bytes(b"{}\n" + run.ledger.read_bytes())
    text = read(write_report(run)).text
    assert "The life of the run cannot be told" in text
    assert "line 1 is damaged" in text
    assert "Training loss: 11.764 at the first step" in text


def test_files_that_hold_what_nobody_writes_leave_the_rest(run: RunDirectory) -> None:
    """Figures of another kind, and a million brackets, which no parser of JSON can follow."""
    odd = {"stage": "pretrain", "token": "x", "fingerprint": "f", "ended": "killed", "started": 1}
    lines = [{**odd, "seconds": None}, {**odd, "stage": 7, "seconds": 1}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + "[" * 1_000_000 + "\n"
    with run.ledger.open("a", encoding="utf-8") as file:
        file.write(text)
    write_json(run.done("validate"), {"fingerprint": 1, "finished": "never"})
    write_json(run.done("benchmark"), {"fingerprint": 1, "finished": 1e300})
    (run.stage("pack") / "attempt.json").write_text("[" * 1_000_000, encoding="utf-8")
    text = read(write_report(run)).text
    assert "The life of the run cannot be told" in text
    assert "The stage pretrain has not come to its end: unknown." in text
    assert "Training loss: 11.764 at the first step" in text


def test_where_there_was_no_git_no_commit_is_told(run: RunDirectory) -> None:
    run.environment.write_text("sllm: 0.1.0\ncommit: not a git checkout\npython: 3.11\n\n", encoding="utf-8")
    text = read(write_report(run)).text
    assert "not a git ch " not in text
    assert "git checkout COMMIT" in text


def test_metrics_that_cannot_be_read_leave_the_rest(run: RunDirectory) -> None:
    run.metrics.unlink()
    run.metrics.mkdir()
    text = read(write_report(run)).text
    assert "metrics.jsonl cannot be read: [Errno 21] Is a directory" in text
    assert "went into steps that are in the model" in text


def test_a_stage_that_failed_is_said_first(run: RunDirectory) -> None:
    run.done("benchmark").unlink()
    lines = run.ledger.read_text(encoding="utf-8").replace('"ended": "finished"', '"ended": "crash"')
    run.ledger.write_text(lines.replace('"ended":"finished"', '"ended":"crash"'), encoding="utf-8")
    assert "The stage benchmark has not come to its end: crash." in read(write_report(run)).text


def test_pictures_of_another_training_are_removed(run: RunDirectory) -> None:
    run.report.mkdir(exist_ok=True)
    (run.report / "gone.png").touch()
    write_report(run)
    assert not (run.report / "gone.png").exists()


# --- text -----------------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script>]]><!-- \u202eabc\x00\ud800 </style></svg>\" onload='x' &amp; {braces} $x$"


def test_text_of_files_cannot_become_markup(run: RunDirectory) -> None:
    plain = read(write_report(run))
    benchmark = json.loads((run.stage("benchmark") / "results.json").read_text(encoding="utf-8"))
    measured = benchmark["tasks"]["measured"]
    measured["arc_easy"] |= {"licence": HOSTILE, "metric": HOSTILE}
    benchmark["tasks"]["not_measured"] = {"haerae": HOSTILE}
    (run.stage("benchmark") / "results.json").write_text(json.dumps(benchmark), encoding="utf-8")
    ledger = run.ledger.read_text(encoding="utf-8").replace('"message":"SIGUSR2"', f'"message":{json.dumps(HOSTILE)}')
    run.ledger.write_text(ledger.replace('"node":"gpu02"', f'"node":{json.dumps(HOSTILE)}'), encoding="utf-8")
    metrics = run.metrics.read_text(encoding="utf-8")
    hostile = json.dumps(HOSTILE)
    metrics = metrics.replace('"대한민국의 수도는"', hostile).replace('"ko": {"loss"', f'{hostile}: {{"loss"')
    run.metrics.write_text(metrics, encoding="utf-8")
    run.environment.write_bytes(run.environment.read_bytes() + HOSTILE.encode("utf-8", "surrogatepass"))
    page = write_report(run)
    reader = read(page)
    assert not {"script"} & set(reader.names)
    assert "onload" not in reader.attributes
    assert reader.names.count("bdi") >= plain.names.count("bdi")
    assert reader.open == []
    assert "This part cannot be shown" not in reader.text
    assert reader.text.count("<script>alert(1)</script>]]><!-- \\u202eabc\\u0000\\ud800 </style></svg>") >= 5
    assert not re.search("[\x00\u202e]", page.read_text(encoding="utf-8"))


@given(st.text(st.characters(), max_size=60))
def test_any_text_is_read_back_as_it_was_but_for_what_cannot_be_seen(text: str) -> None:
    html = element("p", text, title=text)
    assert html.encode("utf-8")
    seen: list[str] = []
    parser = HTMLParser()
    parser.handle_data = seen.append  # type: ignore[method-assign]
    parser.feed(html)
    parser.close()
    assert html.count("<") == 2
    shown = str(escape(text))
    assert "".join(seen) == unescape(shown)


def test_a_builder_escapes_all_but_its_own() -> None:
    assert element("p", "1 < 2", element("br"), class_="a") == '<p class="a">1 &lt; 2<br></p>'
    assert element("a", None, ["x", [1, 2.5]], href='"', hidden=True, title=None) == '<a href="&quot;" hidden>x12.5</a>'
    assert join(Markup("<b>"), "<b>") == "<b>&lt;b&gt;"


def test_every_word_is_in_both_languages() -> None:
    names = {key: [set(re.findall(r"\{(\w*)\}", words)) for words in pair] for key, pair in WORDS.items()}
    assert not [key for key, (english, korean) in names.items() if english != korean]
    assert not [key for key, pair in WORDS.items() if not all(words.strip() for words in pair)]
    hangul = re.compile("[가-힣]")
    assert not [key for key, (english, _) in WORDS.items() if hangul.search(english)]
    assert [key for key, (_, korean) in WORDS.items() if not hangul.search(korean)] == ["mfu_is"]


def test_every_word_is_used() -> None:
    sources = [
        path.read_text(encoding="utf-8") for path in (ROOT / "sllm" / "report").glob("*.py") if path.stem != "words"
    ]
    text = "\n".join(sources)
    begun = ("is_", "reason_", "span_", "over_", "languages_", "save_")  # put together where they are used
    unused = [
        key
        for key in WORDS
        if f'"{key}"' not in text
        and not key.startswith(begun)
        and not key.endswith(("_unit", " since the start"))
        and key not in ("ko", "en")
    ]
    assert unused == []


def test_values_stand_in_both_languages() -> None:
    told = both("at_step", step="<7>")
    assert told.count("&lt;7&gt;") == 2
    assert 'lang="ko"' in told
    assert 'lang="en"' in told


# --- curves ---------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=300), st.integers(1, 50))
def test_a_thinned_curve_keeps_every_extreme(values: list[float], buckets: int) -> None:
    y = np.array(values)
    thinned = thin(np.arange(len(y), dtype=float), y, buckets)
    assert len(thinned.x) <= buckets
    assert thinned.steps_a_bucket == -(-len(y) // buckets)
    width = thinned.steps_a_bucket
    for n in range(len(thinned.x)):
        part = y[n * width : (n + 1) * width]
        part = part[np.isfinite(part)]
        if len(part):
            assert (thinned.low[n], thinned.high[n]) == (part.min(), part.max())
            np.testing.assert_allclose(thinned.mean[n], part.mean(), rtol=1e-9, atol=1e-9)
        else:
            assert np.isnan([thinned.low[n], thinned.mean[n], thinned.high[n]]).all()


def test_hours_are_those_of_the_steps_and_tokens_those_up_to_them(made: RunDirectory) -> None:
    data = read_run(made)
    curves = data.curves
    assert curves.at(np.array([1000.0]), "tokens") == 1000 * 240 * 2048
    # Steps 1 to 480 were taken on two ranks, at 3.1 s, the others on four.
    np.testing.assert_allclose(
        curves.at(np.array([480.0, 1000.0]), "hours"), [480 * 3.1 / 3600, (480 * 3.1 + 520 * 1.55) / 3600]
    )
    # Of 7 G tokens those of ko-web, a tenth, weigh half.
    assert data.epochs["ko-web"] == pytest.approx([1000 * 240 * 2048 * 0.5 / 6.65e9] * 2, rel=1e-3)


def test_every_one_of_many_runs_is_drawn(made: RunDirectory) -> None:
    curves = read_curves(made.metrics)
    figure = losses({f"run {number}": curves for number in range(12)}, "tokens")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"run {number}" for number in range(12)]
    looks = {
        (line.get_color(), line.get_marker()) for line in figure.axes[0].get_lines() if line.get_marker() != "None"
    }
    assert len(looks) == 12
