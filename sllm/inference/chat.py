"""A chat in a terminal: a text that the model and its reader write in turns."""

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator

from sllm.inference.context import fit, kept_free
from sllm.inference.generator import TextGenerator
from sllm.inference.sampling import LARGEST_SEED, Sampling, check_seed

GREETING = """\
A base model: begin a text, in Korean or English, and it goes on. Commands: /help
대화가 아니라 글을 배운 모델입니다. 글을 시작하면 이어서 씁니다. 명령어: /help"""

HELP = """\
Enter   after a line, or alone: the model goes on · 모델이 글을 이어 씁니다
/new    forget this text, begin another · 지금까지의 글을 잊고 새로 시작합니다
/help   this list · 이 도움말
/quit   end, as Ctrl-D does · 끝냅니다 (Ctrl-D도 같습니다)
Ctrl-C  stop this reply · 지금 나오는 글을 멈춥니다"""

NEW = "Another text · 새 글"
NO_COMMAND = "{}: no such command, see /help · 없는 명령어입니다. /help를 보세요."
HOW_TO_END = "/quit or Ctrl-D ends · 끝내려면 /quit 또는 Ctrl-D"
LINE_CUT = "Longer than the model can read ({} tokens): it saw the end · 너무 길어서 끝부분만 읽었습니다."


def _show(text: str) -> None:
    print(text, end="", flush=True)


def _tell(text: str) -> None:
    """Say something that is no part of the text."""
    print(text, file=sys.stderr, flush=True)


def chat(
    generator: TextGenerator,
    *,
    read: Callable[[str], str] = input,
    write: Callable[[str], object] = _show,
    tell: Callable[[str], object] = _tell,
    reply_tokens: int = 128,
    sampling: Sampling | None = None,
    seed: int | None = None,
) -> None:
    """Write a text together with the model, turn by turn: you begin a paragraph, it goes on.

    The model has learnt text, not dialogue: it sees the whole transcript, as plain paragraphs, and continues the line
    you just wrote until a line end, `<eos>`, `reply_tokens` or the end of the context. When the transcript leaves less
    than a quarter of the context for a reply, its oldest turns are forgotten; the line just written is cut only if it
    is longer than the context. `/new`, `/help` and `/quit` are commands; Ctrl-C ends a reply, Ctrl-D the chat.

    Args:
        read: asks for a line, given a prompt; EOFError ends the chat.
        write: shows a piece of the reply.
        tell: shows a line that is no part of the text: the greeting, answers to commands.
    """
    check_seed(seed)
    sampling = sampling or Sampling()
    turns: list[str] = []
    turn = 0
    tell(GREETING)
    for line in _lines(read, write, tell):
        if line is None:
            turns = []
            continue
        turns.append(line)
        turn_seed = None if seed is None else (seed + turn) % (LARGEST_SEED + 1)
        with contextlib.suppress(KeyboardInterrupt):  # what was said so far stays in the transcript
            ids, room = _fit_turns(generator, turns, reply_tokens, tell)
            with contextlib.closing(_reply(generator, ids, room, sampling, turn_seed)) as reply:
                for piece in reply:
                    turns[-1] += piece
                    write(piece)
        turns[-1] += "\n"
        write("\n")
        turn += 1


def _lines(
    read: Callable[[str], str], write: Callable[[str], object], tell: Callable[[str], object]
) -> Iterator[str | None]:
    """The lines of text that are typed, until Ctrl-D or /quit; None where another text begins."""
    while True:
        try:
            line = read("> ")
        except EOFError:
            write("\n")
            return
        except KeyboardInterrupt:
            write("\n")
            tell(HOW_TO_END)
            continue
        command = line.strip()
        if not command.startswith("/") or "/" in command[1:]:  # /usr/bin is text
            yield line
            continue
        if command == "/quit":
            return
        if command == "/new":
            yield None
        tell({"/new": NEW, "/help": HELP}.get(command, NO_COMMAND.format(command)))


def _fit_turns(
    generator: TextGenerator, turns: list[str], reply_tokens: int, tell: Callable[[str], object]
) -> tuple[list[int], int]:
    """Token ids of the transcript and how many may follow; turns for which there is no room are removed."""
    length = generator.model.config.context_length
    while True:
        ids = generator.tokenizer.encode("".join(turns), bos=True)
        if len(turns) == 1 or len(ids) <= length - kept_free(length, reply_tokens):
            break
        del turns[0]
    if len(ids) >= length:
        tell(LINE_CUT.format(length))
    return fit(generator.tokenizer, ids, length, reply_tokens)


def _reply(
    generator: TextGenerator, ids: list[int], new_tokens: int, sampling: Sampling, seed: int | None
) -> Generator[str]:
    """Pieces of the reply, up to the first line end that follows any text."""
    said = False
    for piece in generator.stream_ids(ids, new_tokens, sampling, seed):
        before, line_end, _ = (piece if said else piece.lstrip("\r\n")).partition("\n")
        if before:
            said = True
            yield before
        if said and line_end:
            return
