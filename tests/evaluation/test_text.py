"""Models on any text: figures against a direct computation, ours beside the same model in Transformers."""

import gzip
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file
from tokenizers import Tokenizer as TheirTokenizer
from tokenizers import models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from sllm.config import ModelConfig
from sllm.data.text import normalise
from sllm.errors import UserError
from sllm.evaluation.text import evaluate_texts, table, windows
from sllm.evaluation.validation import ModelValidator
from sllm.export.transformers import export
from sllm.model.families import make_model
from sllm.model.storage import load_pair, save_model
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.codec import FIRST_BYTE

CONTEXT = 24
DOCUMENTS = [
    "민수는 오늘 아침에 학교에 갔다.",
    "a",
    "The quick brown fox jumps over the lazy dog, and <eos> is three letters in brackets. " * 3,
    "Zeilen\r\nund\u200b mehr  \n\n\n\nEnde 🎈\n",
]


def save(directory: Path, kind: str) -> Path:
    """A random model in which every tensor matters."""
    sizes: dict[str, Any] = {"d_ff": 64} if kind == "gpt2" else {"d_ff": 48, "dropout": 0.0, "tie_embeddings": False}
    shape = {"d_model": 32, "n_layers": 2, "n_heads": 2, "context_length": CONTEXT}
    config = ModelConfig.model_validate({"family": kind, **shape, **sizes})
    tokenizer = Tokenizer([(FIRST_BYTE + ord("t"), FIRST_BYTE + ord("h")), (FIRST_BYTE + 0xEA, FIRST_BYTE + 0xB0)])
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(directory / "tokenizer.json")
    torch.manual_seed(0)
    model = make_model(config, tokenizer.vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    save_model(directory / "best", model, directory / "tokenizer.json")
    return directory / "best"


@pytest.fixture(scope="module", params=["gpt2", "qwen3"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and its export."""
    directory = tmp_path_factory.mktemp(request.param)
    ours = save(directory, request.param)
    export(ours, directory / "hf")
    return ours, directory / "hf"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"), "gpt2")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS), encoding="utf-8")
    return path


def by_hand(path: Path, context: int = CONTEXT) -> dict[str, float]:
    """The rule, straight from its words: token after token, each in the first window that has it."""
    model, tokenizer = load_pair(path, None, "cpu")
    nats = right = tokens = size = 0.0
    for text in map(normalise, DOCUMENTS):
        ids = tokenizer.encode(text)
        size += len(text.encode())
        for place, target in enumerate(ids):
            # How many half contexts further than the first window it lies, and where that window ends.
            shifts = max(0, math.ceil((place + 1 - context) / (context // 2)))
            end = min(len(ids), context + shifts * (context // 2))
            read = [tokenizer.bos_id, *ids[max(0, end - context) : place]]
            with torch.no_grad():
                row = model(torch.tensor([read]))[0, -1].double().log_softmax(-1)
            nats -= row[target].item()
            right += row.argmax().item() == target
            tokens += 1
    return {
        "loss": nats / tokens,
        "perplexity": math.exp(nats / tokens),
        "bits_per_byte": nats / math.log(2) / size,
        "accuracy": right / tokens,
        "tokens": tokens,
        "bytes": size,
    }


def figures(results: dict[str, Any], number: int = 0) -> dict[str, float]:
    return {
        name: value for name, value in results["models"][number].items() if name not in ("model", "context", "changed")
    }


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("context", [None, 7])
def test_figures_are_those_of_a_direct_computation(model: Path, texts: Path, context: int | None, batch: int) -> None:
    results = evaluate_texts([model], [texts], context=context, batch=batch)
    assert figures(results) == pytest.approx(by_hand(model, context or CONTEXT), rel=1e-5)
    assert (results["files"], results["documents"], results["empty"]) == (1, 4, 0)
    assert results["models"][0]["changed"] == 0


def test_the_same_model_in_transformers_has_the_same_figures(both: tuple[Path, Path], texts: Path) -> None:
    results = evaluate_texts(both, [texts])
    ours, theirs = figures(results, 0), figures(results, 1)
    assert theirs == pytest.approx(ours, rel=1e-5)
    assert theirs["tokens"] == ours["tokens"], "`<eos>` in a text is text for both"
    assert [row["model"] for row in results["models"]] == list(map(str, both))


def foreign(directory: Path, **special: str) -> Path:
    """A model of Transformers' with a word-level vocabulary."""
    vocabulary = {"<s>": 0, "[UNK]": 1, "the": 2, "sea": 3, "tree": 4}
    tokenizer = TheirTokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=5, n_positions=8, n_embd=8, n_layer=1, n_head=1)).save_pretrained(directory)
    return directory


def test_a_model_with_another_tokenizer_is_measured_on_the_same_bytes(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("the sea the tree " * 5 + "boat", encoding="utf-8")
    theirs = foreign(tmp_path / "theirs", bos_token="<s>", unk_token="[UNK]")
    results = evaluate_texts([model, theirs], [path])
    first, second = results["models"]
    assert first["bytes"] == second["bytes"] == path.stat().st_size
    assert (second["tokens"], second["context"], second["changed"]) == (21, 8, 1)
    assert second["bits_per_byte"] == pytest.approx(second["loss"] * 21 / math.log(2) / second["bytes"])
    console = Console(width=100, file=io.StringIO())
    console.print(table(results))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert re.search(r"does\s+not\s+give\s+back\s+1\s+of", text)
    assert f"{first['bits_per_byte']:.4f}" in text
    assert f"{second['bits_per_byte']:.4f}" in text


def test_a_model_without_a_first_token_begins_with_its_last(tmp_path: Path, texts: Path) -> None:
    with pytest.raises(UserError, match="neither a first nor a last token"):
        evaluate_texts([foreign(tmp_path / "none", unk_token="[UNK]")], [texts])
    beginning = evaluate_texts([foreign(tmp_path / "bos", bos_token="<s>", unk_token="[UNK]")], [texts])
    ending = evaluate_texts([foreign(tmp_path / "eos", eos_token="<s>", unk_token="[UNK]")], [texts])
    assert figures(beginning) == figures(ending)


@given(st.lists(st.integers(1, 99), max_size=60), st.integers(2, 12))
def test_every_token_is_predicted_once_from_half_a_context_at_least(ids: list[int], context: int) -> None:
    found: list[int] = []
    for tokens, new in windows(ids, 0, context):
        assert tokens[0] == 0
        assert 1 <= new < len(tokens) <= context + 1
        assert len(tokens) - 1 - new >= min(len(found), context - context // 2), "what it reads before the first"
        found += tokens[-new:]
    assert found == ids


def test_all_kinds_of_files_patterns_and_folders(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "below").mkdir(parents=True)
    (folder / "a.txt").write_text("바다", encoding="utf-8")
    (folder / "below" / "b.jsonl").write_text(
        '{"text": "sea", "body": "two"}\n{"text": "", "body": ""}\n', encoding="utf-8"
    )
    pq.write_table(pa.table({"text": ["tree"], "body": ["x"]}), folder / "c.parquet")
    (folder / "notes.md").write_text("not a kind that is read", encoding="utf-8")
    results = evaluate_texts([model], [folder])
    assert (results["files"], results["documents"], results["empty"], results["bytes"]) == (3, 3, 1, 6 + 3 + 4)
    assert evaluate_texts([model], [f"{folder}/*.txt", folder / "a.txt"])["bytes"] == 6, "each once"
    assert evaluate_texts([model], [f"{folder}/**/*.jsonl", f"{folder}/*.parquet"], text_field="body")["bytes"] == 4
    assert ModelValidator(model).evaluate_text([folder])["bits_per_byte"] == results["models"][0]["bits_per_byte"]


def test_bad_texts_are_told_before_a_model_is_read(tmp_path: Path) -> None:
    def problem(name: str, content: bytes | None) -> str:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError) as found:
            evaluate_texts([tmp_path / "no model"], [path])
        return str(found.value)

    assert problem("empty.txt", b"") == "no text: 1 file with 1 empty document"
    assert problem("none.jsonl", b"") == "no text: 1 file with 0 empty documents"
    assert "not valid UTF-8" in problem("cp949.txt", "한국".encode("cp949"))
    assert "is gzip; unpack it" in problem("zipped.txt", gzip.compress(b"text"))
    assert "no field 'text'" in problem("field.jsonl", b'{"body": "text"}')
    assert problem("missing.txt", None).startswith("no file matches ")
    assert "cannot be read; valid are .txt" in problem("picture.png", b"\x89PNG")
    (tmp_path / "folder").mkdir()
    assert problem("folder", None).startswith("no file in ")


def test_bad_models_are_one_line_each(model: Path, tmp_path: Path, texts: Path) -> None:
    def problem(path: Path, **more: Any) -> str:
        with pytest.raises(UserError) as found:
            evaluate_texts([path], [texts], **more)
        assert "\n" not in str(found.value)
        return str(found.value)

    def change(path: Path, **values: Any) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")

    assert "no model here" in problem(tmp_path / "nothing")
    assert "context: 99, but" in problem(model, context=99)
    kept = {"bos_token": "<s>", "unk_token": "[UNK]"}
    no_tokenizer = foreign(tmp_path / "no tokenizer", **kept)
    (no_tokenizer / "tokenizer.json").unlink()
    assert "no tokenizer beside the model" in problem(no_tokenizer)
    pickled = foreign(tmp_path / "pickled", **kept)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert "no weights in safetensors" in problem(pickled)
    with pytest.raises(UserError) as found:  # before anything is read, and all of them
        evaluate_texts([model, no_tokenizer, pickled], [tmp_path / "no text.txt"])
    assert [line.partition(":")[0] for line in str(found.value).splitlines()] == [str(no_tokenizer), str(pickled)]
    (pickled / "other.safetensors").touch()
    assert "Transformers cannot load it" in problem(pickled)
    coded = foreign(tmp_path / "coded", **kept)
    change(coded / "config.json", model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
    (coded / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    assert "Transformers cannot load it" in problem(coded)
    assert not (tmp_path / "ran").exists()
    damaged = foreign(tmp_path / "damaged", **kept)
    (damaged / "model.safetensors").write_bytes(b"damaged")
    assert "Transformers cannot load it" in problem(damaged)
    small = foreign(tmp_path / "small", **kept)
    change(small / "config.json", vocab_size=4)
    GPT2LMHeadModel(GPT2Config(vocab_size=4, n_positions=8, n_embd=8, n_layer=1, n_head=1)).save_pretrained(small)
    assert "its tokenizer has 5 tokens, the model 4" in problem(small)
