"""The card of a model: what it says by the files of a run, and that nothing in them becomes markup or YAML."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from sllm.artifacts import Artifacts
from sllm.card.facts import read_facts
from sllm.card.licences import MEANING, NAMED, kinds
from sllm.card.markdown import _UNSEEN, block, code, front_matter, plain, table
from sllm.card.text import LANGUAGES, card, refresh_card
from sllm.card.words import WORDS
from sllm.config import ModelConfig, load_experiment, write_experiment
from sllm.errors import UserError
from sllm.export.transformers import export
from sllm.files import fenced_by, read_json, write_json, write_text
from sllm.manifests import CARD, read_manifest
from sllm.model.families import make_model
from sllm.model.storage import load_pair, save_model
from sllm.run_directory import RunDirectory
from sllm.tokenizer import Tokenizer
from sllm.training.best import BestModel

CONFIGS = Path(__file__).parents[2] / "configs"
SIZES = {"d_model": 32, "n_layers": 2, "n_heads": 2, "d_ff": 64, "context_length": 64}
HOSTILE = "a|b\n# <script>alert(1)</script> [x](http://evil) `c` ---\nlicense: mit"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Of the default experiment, as a validation leaves it; none of the data is there."""
    run = RunDirectory(tmp_path / "runs" / "mine")
    experiment = load_experiment(
        CONFIGS / "default.yaml", ["name=mine", "train.max_steps=2000", f"data_directory={tmp_path / 'data'}"]
    )
    write_text(run.config, write_experiment(experiment))
    Tokenizer([]).save(tmp_path / "tokenizer.json")
    save(run, 500, 3.25)
    write_text(run.environment, "sllm: 0.1.0\ncommit: abcdef0123\ndirty: yes\n\ntorch==2.11\n")
    figures = {"loss": 3.125, "perplexity": 22.75, "bits_per_byte": 1.0625, "accuracy": 0.4375, "tokens": 4096}
    languages = {"ko": {**figures, "bits_per_byte": 1.25}, "en": {**figures, "bits_per_byte": None}}
    write_json(run.stage("validate") / "results.json", {"step": 500, "overall": figures, "languages": languages})
    task = {
        "language": "ko",
        "metric": "f1",
        "score": 0.5125,
        "stderr": 0.0125,
        "guess": 0.5,
        "few_shot": 0,
        "items": 500,
    }
    published = [{"model": "polyglot-ko-1.3B", "score": 0.7196, "metric": "f1", "few_shot": 0, "source": "its card"}]
    tasks = {
        "measured": {
            "kobest_copa": {**task, "revision": "0123abcd", "published": published},
            HOSTILE: {**task, "published": [{"model": HOSTILE, "score": None}]},
            "broken": {"score": None},
        },
        "not_measured": {"piqa": HOSTILE},
    }
    write_json(run.stage("benchmark") / "results.json", {"step": 500, "tasks": tasks})
    return run


def save(run: RunDirectory, step: int, loss: float) -> None:
    torch.manual_seed(step)
    model = make_model(ModelConfig.model_validate(SIZES), Tokenizer([]).vocab_size)
    save_model(run.best, model, run.path.parents[1] / "tokenizer.json", step=step, loss=loss, trajectory="t")


def sections(text: str) -> list[str]:
    """The Korean and the English half."""
    halves = re.split(r"^## (?:한국어|English)$", text.partition("\n## 설정")[0], flags=re.MULTILINE)[1:]
    assert len(halves) == len(LANGUAGES)
    return halves


def test_the_metadata_is_what_the_hub_reads(run: RunDirectory) -> None:
    data = ModelCard(card(read_facts(run.best), hub_id="me/mine")).data
    assert (data.language, data.license, data.to_dict()["library_name"]) == (["ko", "en"], "other", "sllm")
    assert "wikimedia/wikipedia" in data.datasets
    assert len(data.datasets) == len(set(data.datasets))
    assert data.model_name == "me/mine"
    [copa, hostile] = data.eval_results
    assert (copa.dataset_type, copa.dataset_revision, copa.metric_type) == ("skt/kobest_v1", "0123abcd", "f1")
    assert copa.metric_value == 0.5125
    assert hostile.dataset_name == HOSTILE.replace("\n", " "), "in one line, and no key of its own"
    assert "base_model" not in data.to_dict(), "what a training begins with is no model of the hub"


def test_it_tells_in_both_languages_what_is_known(run: RunDirectory) -> None:
    text = card(read_facts(run.best))
    tokens = 500 * load_experiment(run.config).train.global_batch * SIZES["context_length"]
    korean, english = sections(text)
    for half in (korean, english):
        for told in ("500", "2,000", f"{tokens:,}", "3.1250", "1.0625", "1.2500", "43.75%", "4,096", "`abcdef0123`"):
            assert told in half, told
        assert "| kobest\\_copa | f1 | polyglot-ko-1.3B 72.0 | 0 | 500 | 51.2 ± 1.2 | 50.0 |" in half
        assert "wikimedia/wikipedia (b04c8d1c)" in half
        assert "CC BY-SA 3.0, GFDL" in half
        assert "piqa" in half
    for language, half in zip(LANGUAGES, (korean, english), strict=True):
        for kind in ("share_alike", "terms", "unknown", "attribution", "free"):
            assert MEANING[language][kind] in half
        assert MEANING[language]["non_commercial"] not in half
        assert WORDS[language]["changed"] in half
    assert "broken" not in text
    settings = yaml.safe_load(text.rpartition("```yaml")[2].rpartition("```")[0])
    assert settings["train"]["max_steps"] == 2000
    assert str(Path.cwd()) not in text, "nothing of the machine"
    assert str(run.path.parent) not in text


def test_corpora_are_those_that_were_had(run: RunDirectory) -> None:
    artifacts = Artifacts.of_run(run)
    names = [source.name for source in load_experiment(run.config).data.sources if source.name != "ko-conversation"]
    entry = {"language": "ko", "documents": 1234567, "bytes": 7654321, "revision": "fedcba9876"}
    write_json(artifacts.corpus / "manifest.json", {"files": [], "sources": dict.fromkeys(names, entry)})
    packed = {"train": {"tokens": 2345678}, "validation": {"tokens": 99}}
    write_json(artifacts.packed / "manifest.json", {"files": [], "sources": dict.fromkeys(names, packed)})
    text = card(read_facts(run.best))
    assert "ko-conversation" not in text, "an optional source"
    assert MEANING["en"]["terms"] not in text
    assert "wikimedia/wikipedia (fedcba98) | CC BY-SA 3.0, GFDL | 1,234,567 | 7,654,321 | 2,345,678 |" in text


def test_where_it_began_is_told_without_the_folder(run: RunDirectory) -> None:
    experiment = load_experiment(run.config, ["train.init_from=/secret/runs/mother/best"])
    write_text(run.config, write_experiment(experiment))
    text = card(read_facts(run.best))
    assert WORDS["en"]["origin"].format(origin="mother") in text
    assert WORDS["ko"]["taken"] in text
    assert "secret" not in text


def test_where_there_was_no_git_no_commit_is_told(run: RunDirectory) -> None:
    write_text(run.environment, "sllm: 0.1.0\ncommit: not a git checkout\n\ntorch==2.11\n")
    text = card(read_facts(run.best))
    assert "By sllm 0.1.0.\n" in text
    assert "not a git" not in text


def test_what_stands_in_files_is_text(run: RunDirectory) -> None:
    text = card(read_facts(run.best))
    html = MarkdownIt("commonmark").enable("table").render(ModelCard(text).text)
    assert "<script" not in html
    assert 'evil"' not in html
    assert html.count("<h1>") == 1, "no heading of its own"


@given(st.text() | st.text("\\`*_[]()<>|#~!&$@:/w.-+=\n a1"))
def test_any_text_is_text_in_a_paragraph_and_in_a_cell(text: str) -> None:
    parser = MarkdownIt("commonmark").enable("table")
    [_, paragraph, _] = parser.parse(f"x {plain(text)} x")
    found = paragraph.children or []
    assert {token.type for token in found} <= {"text", "text_special"}
    assert "".join(token.content for token in found).split() == f"x {_bare(text)} x".split()
    cells = [token for token in parser.parse(table(["a", "b"], [[f"x{text}", "end"]], 1)) if token.type == "inline"]
    assert len(cells) == 4
    assert "".join(token.content for token in cells[2].children or []).split() == _bare(f"x{text}").split()


def _bare(text: str) -> str:
    return re.sub(r"\\([!-/:-@[-`{-~])", r"\1", plain(text))


@given(st.text() | st.text("`~\n a"))
@example("a\n```\nb")
def test_any_text_is_itself_in_code(text: str) -> None:
    [_, paragraph, _] = MarkdownIt("commonmark").parse(f"x {code(text + 'x')} x")
    assert [token.type for token in paragraph.children or []] == ["text", "code_inline", "text"]
    parsed = MarkdownIt("commonmark").parse(f"{block('', text)}\n\nx")
    assert [token.type for token in parsed] == ["fence", "paragraph_open", "inline", "paragraph_close"]


@given(st.text())
@example("a\n---\nlicense: mit")
def test_any_text_is_itself_in_the_metadata(text: str) -> None:
    lines = front_matter({"name": text, "end": 1}).split("\n")
    assert lines[0] == lines[-1] == "---"
    assert "---" not in lines[1:-1]
    assert yaml.safe_load("\n".join(lines[1:-1])) == {"name": _UNSEEN.sub(" ", text), "end": 1}


def test_licences_are_told_by_their_names() -> None:
    assert kinds("cc-by-nc-sa-4.0") == ["non_commercial", "share_alike"]
    assert kinds("CC_BY_NC_ND 4.0") == ["non_commercial", "no_derivatives"]
    assert kinds("CC BY 4.0") == kinds("ODC-By 1.0") == ["attribution"]
    assert kinds("unknown (the publishers')") == kinds("  ") == kinds(None) == ["unknown"]
    assert kinds("Apache-2.0") == kinds("CC0 1.0 (the collection)") == ["free"]
    assert kinds("AI Hub terms of use (no redistribution)") == ["terms"]
    assert kinds("submitted by hand to Band") == ["attribution"], "told by words"
    assert kinds("something else") == ["other"]
    assert MEANING["ko"].keys() == MEANING["en"].keys() == {"own", "other", *(kind for kind, _ in NAMED)}
    assert WORDS["ko"].keys() == WORDS["en"].keys()


# --- in the folder of the model -------------------------------------------------------------------


def test_refresh_leaves_the_model_whole(run: RunDirectory) -> None:
    before = (run.best / "manifest.json").read_bytes()
    assert not (run.best / CARD).exists(), "as a version without cards has left it"
    load_pair(run.best, None, "cpu")
    assert refresh_card(run) == run.best / CARD
    assert (run.best / "manifest.json").read_bytes() == before
    (run.best / CARD).write_text("edited", encoding="utf-8")
    read_manifest(run.best, checksums=True)
    load_pair(run.best, None, "cpu")
    refresh_card(run)
    assert "1.0625" in (run.best / CARD).read_text(encoding="utf-8")
    save(run, 1000, 3.0)
    refresh_card(run)
    text = (run.best / CARD).read_text(encoding="utf-8")
    assert "1,000" in text
    assert "3.0000" in text
    assert "1.0625" not in text, "the validation of another step's model"
    assert "kobest" not in text
    metrics = [{"kind": "validation", "step": step, "loss": step / 400, "languages": {}} for step in (500, 1000, 1500)]
    run.metrics.write_text(
        "".join(json.dumps(line) + "\n" for line in metrics) + '{"kind":"validation', encoding="utf-8"
    )
    refresh_card(run)
    assert "2.5000" in (run.best / CARD).read_text(encoding="utf-8"), "of the training, while the stage has not run"


def test_a_new_best_model_that_comes_meanwhile_has_its_own_card(run: RunDirectory) -> None:
    saved = []

    def come_between() -> None:
        if not saved:
            saved.append(True)
            save(run, 1500, 2.75)

    with fenced_by(come_between):
        assert refresh_card(run) == run.best / CARD
    assert read_json(run.best / "manifest.json")["step"] == 1500
    text = (run.best / CARD).read_text(encoding="utf-8")
    assert "1,500" in text
    assert sorted(path.name for path in run.best.iterdir()) == sorted(
        [CARD, "config.json", "manifest.json", "model.safetensors", "tokenizer.json"]
    )
    shutil.rmtree(run.best)
    assert refresh_card(run) is None


def test_a_new_best_model_brings_its_card(run: RunDirectory) -> None:
    model, _ = load_pair(run.best, None, "cpu")
    best = BestModel(run.best, run.path.parents[1] / "tokenizer.json", "t")
    measured = {"overall": {"loss": 2.5, "bits_per_byte": 0.875}, "languages": {"ko": {"bits_per_byte": 0.9375}}}
    kept = best.keep(750, 2.5, model, run.path / "none", measured)
    assert kept is not None
    assert kept.step == 750
    text = (run.best / CARD).read_text(encoding="utf-8")
    for told in ("750", "2.5000", "0.8750", "0.9375"):
        assert told in text
    (run.best / CARD).write_text("edited", encoding="utf-8")
    read_manifest(run.best, checksums=True)
    for damaged in ("name: [", "data: 1"):
        run.config.write_text(damaged, encoding="utf-8")
        assert best.keep(800, 2.0 - len(damaged) / 100, model, run.path / "none", measured) is not None
        assert "0.8750" in (run.best / CARD).read_text(encoding="utf-8"), "what there is"


def test_an_export_has_the_card_of_its_model(run: RunDirectory, tmp_path: Path) -> None:
    export(run.best, tmp_path / "exported")
    text = (tmp_path / "exported" / CARD).read_text(encoding="utf-8")
    assert ModelCard(text).data.to_dict()["library_name"] == "transformers"
    assert "AutoModelForCausalLM" in text
    assert "1.0625" in text
    export(run.best, tmp_path / "exported")  # is replaced as a whole
    (tmp_path / "exported" / CARD).write_text("edited", encoding="utf-8")
    with pytest.raises(UserError, match=r"holds files that no export wrote \(README\.md\)"):
        export(run.best, tmp_path / "exported")
    assert (tmp_path / "exported" / CARD).read_text(encoding="utf-8") == "edited"


def test_a_model_outside_of_a_run_has_a_card_of_what_there_is(run: RunDirectory, tmp_path: Path) -> None:
    shutil.copytree(run.best, tmp_path / "lonely")
    export(tmp_path / "lonely", tmp_path / "exported")
    text = (tmp_path / "exported" / CARD).read_text(encoding="utf-8")
    assert ModelCard(text).data.language == ["ko", "en"]
    assert ModelCard(text).data.license is None
    assert "# lonely" in text
    assert "3.2500" in text, "the loss that chose it"
    assert WORDS["en"]["corpora"] not in text


@pytest.mark.parametrize("what", ["benchmark", "validate"])
@pytest.mark.parametrize(
    "content",
    [
        '{"tasks": 1, "overall": 2}',
        "[]",
        "{",
        '{"tasks": {"measured": {"a": {"score": 1, "published": 3, "few_shot": []}}, "not_measured": []}}',
    ],
)
def test_damaged_results_are_left_out(run: RunDirectory, what: str, content: str) -> None:
    (run.stage(what) / "results.json").write_text(content, encoding="utf-8")
    refresh_card(run)
    data: Any = ModelCard((run.best / CARD).read_text(encoding="utf-8")).data
    assert data.license == "other"
