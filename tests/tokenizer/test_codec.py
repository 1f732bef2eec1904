"""Encoding and decoding, against tokenizers and transformers reading our tokenizer.json."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from texts import any_text, well_formed
from transformers import PreTrainedTokenizerFast

from sllm.data.embedded.generator import documents
from sllm.errors import UserError
from sllm.manifests import sha256
from sllm.records import read_zstd_lines
from sllm.tokenizer import Tokenizer, codec
from sllm.tokenizer.codec import FIRST_BYTE, FIRST_MERGE, FORMER_SPECIAL_TOKENS, SPECIAL_TOKENS
from sllm.tokenizer.training import train


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    texts = [
        *documents("ko", 0.3, seed=1),
        *documents("en", 0.3, seed=1),
        "👨\u200d👩\u200d👧 ㅋㅋㅋ e\u0301 漢字 aaaa\n\n\t" * 50,
    ]
    return train(texts, 2000)


def with_former_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer that was learnt from the same text before there were tokens for conversations."""
    fewer = len(SPECIAL_TOKENS) - len(FORMER_SPECIAL_TOKENS)
    merges = [(a - fewer, b - fewer) for a, b in tokenizer.merges]
    return Tokenizer(merges, tokenizer.pattern, FORMER_SPECIAL_TOKENS)


@pytest.fixture(scope="module", params=[True, False], ids=["16 special tokens", "4 special tokens"])
def path(request: pytest.FixtureRequest, trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    (trained if request.param else with_former_special_tokens(trained)).save(file)
    return file


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.load(path)


@pytest.fixture(scope="module")
def peer(path: Path) -> tokenizers.Tokenizer:
    peer = tokenizers.Tokenizer.from_file(str(path))
    peer.encode_special_tokens = True  # a special token written in the text is text
    return peer


@pytest.fixture(scope="module")
def transformers_peer(path: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_file=str(path),
        split_special_tokens=True,
        **dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), FORMER_SPECIAL_TOKENS, strict=True)),
    )


def assert_equal_to_peers(text: str, tokenizer: Tokenizer, peer: Any, transformers_peer: Any) -> None:
    ids = tokenizer.encode(text)
    assert ids == tokenizer.encode_to_numpy(text).tolist()
    assert ids == peer.encode(text, add_special_tokens=False).ids
    assert ids == transformers_peer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == peer.decode(ids, skip_special_tokens=False) == normalize("NFC", text)


# --- equal to the peers ---------------------------------------------------------------------------


@given(text=well_formed)
def test_adversarial_text(text: str, tokenizer: Tokenizer, peer: Any, transformers_peer: Any) -> None:
    assert_equal_to_peers(text, tokenizer, peer, transformers_peer)


@pytest.mark.parametrize("language", ["ko", "en"])
def test_documents(language: Any, tokenizer: Tokenizer, peer: Any, transformers_peer: Any) -> None:
    for text in documents(language, 0.2, seed=2):
        assert_equal_to_peers(text, tokenizer, peer, transformers_peer)


@pytest.mark.parametrize("text", ["a" * 30_000, "ㅋ" * 10_000, "\n" * 5000, " " * 5000, "ab" * 5000 + "é" * 999])
def test_long_runs(text: str, tokenizer: Tokenizer, peer: Any, transformers_peer: Any) -> None:
    assert_equal_to_peers(text, tokenizer, peer, transformers_peer)


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """White space is cut out from two characters on."""
    monkeypatch.setattr(codec, "LONG_RUN", 2)
    codec._long_runs.cache_clear()
    yield
    codec._long_runs.cache_clear()


SPACES = [
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\u3000",
    "\u2028",
    "\x1c",
    "\x85",
    "a",
    "가",
    "는",
    "1",
    ".",
    "'s",
    "🦜",
    "<bos>",
]


@pytest.mark.usefixtures("short_runs")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from(SPACES), max_size=30))
def test_white_space_cut_out(parts: list[str], tokenizer: Tokenizer, peer: Any, transformers_peer: Any) -> None:
    text = "".join(parts)
    assert_equal_to_peers(text, tokenizer, peer, transformers_peer)
    ids = [i for part in text.split("<bos>") for i in (2, *tokenizer.encode(part))]
    assert tokenizer.encode(text, allowed_special={"<bos>"}) == ids[1:]


@pytest.mark.parametrize("run", [" ", "\u3000", "\r\n ", "ㅋ", "뷁", "🦜", "\u0301\u0316"])
def test_runs_of_a_million(run: str, tokenizer: Tokenizer) -> None:
    """What no library takes is one thing less to fear: it comes back, and costs its neighbours nothing."""
    text = f"앞 글{run * (1_100_000 // len(run))}뒤 글"
    ids = tokenizer.encode_to_numpy(text)
    assert tokenizer.decode(ids.tolist()) == codec.nfc(text)
    assert tokenizer.decode(ids[-4:].tolist()).endswith("글")


MARKED = st.lists(
    st.sampled_from("\u0301\u0316\u0334\u0f71\u0f73\u0344\u302e\U0001d165" + "aé\u1100\u1161가"), max_size=40
).map("".join)


@given(before=MARKED, long=MARKED, after=MARKED)
def test_marks_in_canonical_order(before: str, long: str, after: str) -> None:
    text = before + 8 * long + after
    assert codec.nfc(text) == normalize("NFC", text)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.corpus
def test_a_whole_corpus(tmp_path: Path) -> None:
    def texts() -> Iterator[str]:
        for file in sorted(Path(os.environ["SLLM_CORPUS"]).glob("*.jsonl.zst")):
            yield from (json.loads(line)["text"] for line in read_zstd_lines(file))

    tokenizer = train(texts(), 32_000)
    file = tmp_path / "tokenizer.json"
    tokenizer.save(file)
    peer = tokenizers.Tokenizer.from_file(str(file))
    peer.encode_special_tokens = True
    transformers_peer = PreTrainedTokenizerFast(tokenizer_file=str(file), split_special_tokens=True)
    for text in texts():
        assert_equal_to_peers(text, tokenizer, peer, transformers_peer)


def test_transformers_knows_the_special_tokens(tokenizer: Tokenizer, transformers_peer: Any) -> None:
    assert transformers_peer.pad_token_id == tokenizer.pad_id == 0
    assert transformers_peer.unk_token_id == tokenizer.unk_id == 1
    assert transformers_peer.bos_token_id == tokenizer.bos_id == 2
    assert transformers_peer.eos_token_id == tokenizer.eos_id == 3
    assert len(transformers_peer) == tokenizer.vocab_size == len(tokenizer.special_tokens) + 1984


def test_peers_begin_with_bos_as_the_training_does(tokenizer: Tokenizer, peer: Any, transformers_peer: Any) -> None:
    first, second = "하나 <bos> 둘", "three"
    alone = tokenizer.encode(first, bos=True)
    pair = [*alone, *tokenizer.encode(second, bos=True)]
    assert peer.encode(first).ids == transformers_peer(first).input_ids == alone
    assert peer.encode(first, second).ids == transformers_peer(first, second).input_ids == pair
    assert [encoding.ids for encoding in peer.encode_batch([first, (first, second)])] == [alone, pair]
    assert transformers_peer([first, second]).input_ids == [alone, tokenizer.encode(second, bos=True)]


def test_a_tokenizer_of_before_stays_what_it_was(tmp_path: Path) -> None:
    """The fingerprint and the file's checksum are those of the code that wrote such tokenizers."""
    t, h, e, i, n = (4 + byte for byte in b"thein")
    old = Tokenizer([(t, h), (i, n), (260, e)], special_tokens=FORMER_SPECIAL_TOKENS)
    assert old.fingerprint == "b58459b8f23363022b5b6601fb10b6a217d36592ef10710eae81b3c6ba7f81ad"
    old.save(tmp_path / "tokenizer.json")
    assert sha256(tmp_path / "tokenizer.json") == "338666aa6a41d5711877a092edd3d04ff442c233aec77e45decb3854b96b9c61"
    ids = Tokenizer.load(tmp_path / "tokenizer.json").encode("the <bos>in", bos=True)
    assert ids == [2, 262, 36, 64, 102, 115, 119, 66, 261]


def test_a_file_from_before_bos_was_put_first(path: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_bytes(changed(lambda d: d.update(post_processor=None))(path.read_bytes()))
    old = Tokenizer.load(tmp_path / "old.json")
    assert old.fingerprint == tokenizer.fingerprint
    assert old.encode("하나 둘", bos=True) == tokenizer.encode("하나 둘", bos=True)


# --- there and back -------------------------------------------------------------------------------


@given(text=any_text)
def test_text_comes_back_as_nfc(text: str, tokenizer: Tokenizer) -> None:
    expected = normalize("NFC", text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(tokenizer.encode(text)) == expected


@given(data=st.binary())
def test_any_bytes_come_back(data: bytes, tokenizer: Tokenizer) -> None:
    ids = [len(tokenizer.special_tokens) + byte for byte in data]
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.decode(ids) == data.decode("utf-8", errors="replace")


@given(ids=st.lists(st.integers(0, 1987), max_size=40))
def test_a_stream_says_what_decode_says(ids: list[int], tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream_decoder()
    assert "".join(stream.feed(i) for i in ids) + stream.finish() == tokenizer.decode(ids)


def test_a_stream_holds_back_half_a_character(tokenizer: Tokenizer) -> None:
    stream = tokenizer.stream_decoder()
    first, second, third, a = (len(tokenizer.special_tokens) + byte for byte in "각a".encode())
    assert [stream.feed(i) for i in (first, second, third)] == ["", "", "각"]
    assert stream.finish() == ""
    assert stream.feed(first) == ""
    assert stream.feed(a) == "\ufffda"
    assert [stream.feed(first), stream.finish()] == ["", "\ufffd"]


def test_ids_outside_the_vocabulary(tokenizer: Tokenizer) -> None:
    with pytest.raises(IndexError):
        tokenizer.decode([tokenizer.vocab_size])


# --- special tokens -------------------------------------------------------------------------------


def test_bos_and_eos(tokenizer: Tokenizer) -> None:
    plain = tokenizer.encode("하나 둘")
    assert tokenizer.encode("하나 둘", bos=True, eos=True) == [2, *plain, 3]
    assert tokenizer.decode([0, 2, *plain, 3]) == "하나 둘"


@given(text=well_formed)
def test_a_special_token_in_the_text_is_text(text: str, tokenizer: Tokenizer) -> None:
    for token in SPECIAL_TOKENS:
        assert min(tokenizer.encode(token + text + token)) >= len(tokenizer.special_tokens)


def test_special_tokens_that_are_allowed(tokenizer: Tokenizer) -> None:
    text = "<bos>가<eos>"
    assert tokenizer.encode(text, allowed_special={"<bos>"}) == [2, *tokenizer.encode("가<eos>")]
    assert tokenizer.encode(text, allowed_special={"<bos>", "<eos>"}) == [2, *tokenizer.encode("가"), 3]
    with pytest.raises(ValueError, match="<other>"):
        tokenizer.encode("text without it", allowed_special={"<bos>", "<other>"})


@given(text=well_formed)
def test_all_that_are_allowed_are_those_of_the_peers(text: str, path: Path, tokenizer: Tokenizer) -> None:
    """Also beside a mark that makes one character of it and of what stands before."""
    text = text.replace("e\u0301", "<|end|>\u0338").replace("12345", "<|\u0301user|>")
    peer = tokenizers.Tokenizer.from_file(str(path))
    allowed = frozenset(tokenizer.special_tokens)
    ids = tokenizer.encode(text, allowed_special=allowed)
    assert ids == peer.encode(text, add_special_tokens=False).ids


def test_no_token_of_text_has_the_name_of_a_special_one(tmp_path: Path) -> None:
    """However often the text has it: `tokenizer.json` lists both in one vocabulary."""
    texts = [token * 3 + f" {token}, x{token}\n" for token in SPECIAL_TOKENS]
    with pytest.raises(UserError, match="use at most") as raised:
        train(texts, 10_000)
    tokenizer = train(texts, int(re.findall(r"at most (\d+)", str(raised.value))[0]))
    tokenizer.save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path / "tokenizer.json").fingerprint == tokenizer.fingerprint
    assert not {token.encode() for token in SPECIAL_TOKENS} & {*tokenizer.token_bytes}
    assert {b"<|", b"|>", b"assistant"} <= {*tokenizer.token_bytes}


def test_a_conversation() -> None:
    tokenizer = Tokenizer([])
    system, user, assistant, end = range(4, 8)
    text = "<|system|>s<|end|><|user|>u<|end|><|assistant|>a<|end|><|reserved_0|><|reserved_7|><|reserved_8|>"
    s, u, a = (FIRST_BYTE + byte for byte in b"sua")
    assert tokenizer.encode(text, allowed_special=set(SPECIAL_TOKENS)) == [
        *(system, s, end, user, u, end, assistant, a, end, 8, 15),
        *tokenizer.encode("<|reserved_8|>"),
    ]


# --- batches and files ----------------------------------------------------------------------------


def test_batches(tokenizer: Tokenizer) -> None:
    texts = list(documents("ko", 0.1, seed=3))
    for workers in (1, 3):
        assert tokenizer.encode_batch(texts, bos=True, eos=True, workers=workers) == [
            tokenizer.encode(text, bos=True, eos=True) for text in texts
        ]


def test_saving_keeps_everything(path: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "copy.json")
    copy = Tokenizer.load(tmp_path / "copy.json")
    for name in ("merges", "pattern", "special_tokens", "fingerprint"):
        assert getattr(copy, name) == getattr(tokenizer, name)
    assert (tmp_path / "copy.json").read_bytes() == path.read_bytes()


def test_the_fingerprint_is_of_the_content(tokenizer: Tokenizer) -> None:
    merges, pattern, special_tokens = tokenizer.merges, tokenizer.pattern, tokenizer.special_tokens
    assert Tokenizer(merges[:-1], pattern, special_tokens).fingerprint != tokenizer.fingerprint
    assert Tokenizer(merges, r"\S+|\s+", special_tokens).fingerprint != tokenizer.fingerprint
    assert Tokenizer(merges, pattern, special_tokens).fingerprint == tokenizer.fingerprint


def test_loads_what_transformers_saves(transformers_peer: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers_peer.save_pretrained(tmp_path)
    assert Tokenizer.load(tmp_path / "tokenizer.json").fingerprint == tokenizer.fingerprint


def changed(change: Callable[[Any], object]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        document = json.loads(data)
        change(document)
        return json.dumps(document).encode()

    return apply


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "not UTF-8": lambda data: data.replace("Ġ".encode(), b"\xff", 1),
    "a list": lambda data: b"[1, 2]",
    "another kind": changed(lambda d: d["model"].update(type="WordPiece", merges=None)),
    "no NFC": changed(lambda d: d.update(normalizer=None)),
    "another split": changed(lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed")),
    "a merge too many": changed(lambda d: d["model"]["merges"].append(["a", "nothing"])),
    "merges in another order": changed(lambda d: d["model"]["merges"].reverse()),
    "a merge missing": changed(lambda d: d["model"]["merges"].pop()),
    "a special token moved": changed(lambda d: d["added_tokens"][0].update(id=9)),
    "a special token renamed": changed(lambda d: d["added_tokens"][3].update(content="<end>")),
    "a special token missing": changed(lambda d: d["added_tokens"].pop()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_files_that_are_not_ours(damage: Callable[[bytes], bytes], path: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=str(file)) as raised:
        Tokenizer.load(file)
    assert "\n" not in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for file in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(UserError, match=str(file)):
            Tokenizer.load(file)


def test_merges_that_are_no_vocabulary() -> None:
    a = FIRST_BYTE + ord("a")
    for merges in ([(a, FIRST_MERGE)], [(0, a)], [(FIRST_BYTE - 1, a)], [(a, a), (a, a)], [(a, -1)]):
        with pytest.raises(ValueError, match=r"merge|same bytes"):
            Tokenizer(merges)


def test_other_libraries_are_imported_late() -> None:
    code = "import sys, sllm.tokenizer; print({'numba', 'tiktoken', 'regex', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_threads_share_a_tokenizer(path: Path) -> None:
    """The encoder is made on first use; many threads may be first."""
    texts = [f"{random.Random(i).random()} 글" for i in range(200)]
    expected = Tokenizer.load(path).encode_batch(texts)
    assert Tokenizer.load(path).encode_batch(texts, workers=8) == expected
