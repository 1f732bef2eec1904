"""llama.cpp's own reading of our GGUF files, beside ours: `python bench/llama.py runs/smoke/best [MODEL …]`.

Needs llama-cpp-python (`pip install llama-cpp-python` compiles llama.cpp, for some ten minutes on two cores; therefore
no test does this, and tests/export/test_gguf.py reads the file's tensors back instead). Of each model, as f16 and as
q8_0:

- logits of random tokens over the whole context, how far they are from ours, as a share of our logits' deviation;
- greedy text from the same token ids: for how many tokens it is the same, and where it is not, how much less likely
  than the likeliest, by our logits, the token is that llama.cpp took;
- text: how many of our tokens are others when llama.cpp cuts the text into words, and whether it makes of it what
  PRE_TOKENIZER's pattern makes of it;
- a tuned model: whether a conversation becomes the same tokens through the template in the file, but for those words.
"""

import argparse
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import tiktoken
import torch
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from rich.console import Console
from rich.table import Table

from sllm.data.embedded.generator import documents
from sllm.data.sources import read_file
from sllm.export.gguf import PRE_TOKENIZER, TYPES, export
from sllm.inference.generator import continue_ids
from sllm.inference.sampling import Sampling
from sllm.model.shared import LanguageModel
from sllm.model.storage import load_pair
from sllm.origin import is_tuned
from sllm.tokenizer import Tokenizer
from sllm.tokenizer.template import END_ID, ROLE_IDS

PROMPTS = ("민수는 오늘 아침에", "나는 학교에서", "In the morning, Anna", "The")
GREEDY = Sampling(temperature=0, valid_utf8=False)
CONVERSATION = [
    {"role": "system", "content": "짧게 답하세요."},
    {"role": "user", "content": "Where is Anna?"},
    {"role": "assistant", "content": "학교에 있어요."},
    {"role": "user", "content": " 2024 cats?\n"},
]
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""Of PRE_TOKENIZER."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--text", nargs="*", type=Path, help=".jsonl.zst; default: generated text")
    parser.add_argument("--tokens", type=int, default=64, help="of a greedy text")
    arguments = parser.parse_args()
    table = Table(title=f"llama.cpp (llama-cpp-python {llama_cpp.__version__}) and sllm")
    for heading in ("model", "type", "MB", "logits off, rms", "at most", "greedy tokens alike", "less likely by"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as directory:
        for path in arguments.models:
            model, tokenizer = load_pair(path, None, "cpu")
            for type in TYPES:
                file = Path(directory) / "model.gguf"
                export(path, file, type=type)
                theirs = load(file)
                cells = [*logits(theirs, model), *greedy(theirs, model, tokenizer, arguments.tokens)]
                table.add_row(str(path), type, f"{file.stat().st_size / 1e6:.1f}", *cells)
                if type == TYPES[0]:
                    words(theirs, tokenizer, arguments.text or [])
                    if is_tuned(path):
                        template(theirs, tokenizer)
                theirs.close()
    Console(width=130).print(table)


def load(file: Path) -> Any:
    # Keys and values in fp32 as ours; the context is that of the training.
    fp32 = llama_cpp.GGML_TYPE_F32
    return llama_cpp.Llama(str(file), n_ctx=0, logits_all=True, type_k=fp32, type_v=fp32, verbose=False)


@torch.inference_mode()
def logits(theirs: Any, model: LanguageModel) -> list[str]:
    length = model.config.context_length
    tokens = torch.randint(model.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    theirs.reset()
    theirs.eval(tokens[0].tolist())
    ours = model(tokens)[0].numpy()
    off = (np.array(theirs.scores[:length]) - ours) / ours.std()
    return [f"{np.sqrt((off**2).mean()):.3%}", f"{abs(off).max():.2%}"]


@torch.inference_mode()
def greedy(theirs: Any, model: LanguageModel, tokenizer: Tokenizer, limit: int) -> list[str]:
    alike = wanted = 0
    worst = 0.0
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt, bos=True)
        room = min(limit, model.config.context_length - len(ids))
        [ours] = continue_ids(model, [ids], [room], (), GREEDY)
        found: list[int] = []
        theirs.reset()
        for token in theirs.generate(ids, temp=0, repeat_penalty=1.0):
            found.append(token)
            if len(found) == room:
                break
        same = next((i for i, pair in enumerate(zip(ours, found, strict=True)) if pair[0] != pair[1]), room)
        alike, wanted = alike + same, wanted + room
        if same < room:
            scores = model(torch.tensor([ids + found[:same]]))[0, -1]
            worst = max(worst, (scores.max() - scores[found[same]]).item())
    return [f"{alike} of {wanted}", f"{worst:.4f}" if alike < wanted else "–"]


def pattern_of(tokenizer: Tokenizer) -> tiktoken.Encoding:
    """Our merges within the words of llama.cpp's pattern."""
    ranks = {token: i for i, token in enumerate(tokenizer.token_bytes) if token}
    return tiktoken.Encoding(PRE_TOKENIZER, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})


def words(theirs: Any, tokenizer: Tokenizer, files: list[Path]) -> None:
    pattern = pattern_of(tokenizer)
    for name, texts in read(files):
        tokens = others = unlike = count = 0
        for text in texts:
            text = unicodedata.normalize("NFC", text)
            ours, found = tokenizer.encode(text), theirs.tokenize(text.encode(), add_bos=False, special=False)
            unlike += found != pattern.encode_ordinary(text)
            places = set(spans(tokenizer, found))
            others += sum(span not in places for span in spans(tokenizer, ours))
            tokens, count = tokens + len(ours), count + 1
        print(
            f"{name}: of {tokens:,} tokens {others / tokens:.2%} are others with {PRE_TOKENIZER}; "
            f"{unlike} of {count:,} texts are not what its pattern makes of them"
        )


def read(files: list[Path]) -> Iterator[tuple[str, Iterator[str]]]:
    if files:
        for file in files:
            yield file.name, read_file(file, "text")
    else:
        yield "generated Korean", documents("ko", 0.3, 0)
        yield "generated English", documents("en", 0.3, 0)


def spans(tokenizer: Tokenizer, ids: list[int]) -> Iterator[tuple[int, int]]:
    """Where each token begins and ends in the bytes."""
    start = 0
    for token in ids:
        end = start + len(tokenizer.token_bytes[token])
        yield start, end
        start = end


def template(theirs: Any, tokenizer: Tokenizer) -> None:
    names = [theirs._model.token_get_text(token) for token in (tokenizer.eos_id, tokenizer.bos_id)]
    formatter = Jinja2ChatFormatter(theirs.metadata["tokenizer.chat_template"], *names)
    prompt = formatter(messages=CONVERSATION)
    found = theirs.tokenize(prompt.prompt.encode(), add_bos=not prompt.added_special, special=True)
    ours = [tokenizer.bos_id]
    for message in CONVERSATION:
        text = pattern_of(tokenizer).encode_ordinary(message["content"])
        ours += [ROLE_IDS[message["role"]], *text, END_ID]
    ours.append(ROLE_IDS["assistant"])
    print(
        f"a conversation is {'the same' if found == ours else 'NOT the same'} {len(ours)} tokens through the template"
    )


if __name__ == "__main__":
    main()
