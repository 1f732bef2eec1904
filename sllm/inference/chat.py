"""A chat in a terminal: a conversation with a tuned model, or a text that a base model writes with its reader."""

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator

from sllm.errors import UserError
from sllm.inference.context import fit, fit_conversation, kept_free
from sllm.inference.generator import REPLY_TOKENS, TextGenerator
from sllm.inference.sampling import LARGEST_SEED, Sampling, check_seed
from sllm.tokenizer.template import ASSISTANT, ENDS, SYSTEM, USER, problem, special_token_in

BASE_REPLY_TOKENS = 128

GREETING = """\
A tuned model: ask it something, in Korean or English, and it answers. Commands: /help
대화를 배운 모델입니다. 한국어나 영어로 말을 걸면 대답합니다. 명령어: /help"""

HELP = """\
Enter   after a line: the model answers · 모델이 대답합니다
/new    forget this conversation, begin another · 지금까지의 대화를 잊고 새로 시작합니다
/help   this list · 이 도움말
/quit   end, as Ctrl-D does · 끝냅니다 (Ctrl-D도 같습니다)
Ctrl-C  stop this reply · 지금 나오는 대답을 멈춥니다"""

BASE_GREETING = """\
A base model: begin a text, in Korean or English, and it goes on. Commands: /help
대화가 아니라 글을 배운 모델입니다. 글을 시작하면 이어서 씁니다. 명령어: /help"""

BASE_HELP = """\
Enter   after a line, or alone: the model goes on · 모델이 글을 이어 씁니다
/new    forget this text, begin another · 지금까지의 글을 잊고 새로 시작합니다
/help   this list · 이 도움말
/quit   end, as Ctrl-D does · 끝냅니다 (Ctrl-D도 같습니다)
Ctrl-C  stop this reply · 지금 나오는 글을 멈춥니다"""

NEW = "Forgotten: begin anew · 새로 시작합니다"
NO_COMMAND = "{}: no such command, see /help · 없는 명령어입니다. /help를 보세요."
HOW_TO_END = "/quit or Ctrl-D ends · 끝내려면 /quit 또는 Ctrl-D"
SPECIAL = "{} is a mark of the model's own, which no text may hold · 모델이 쓰는 표시라서 글에 넣을 수 없습니다."
TOO_LONG = "{} · 너무 길어서 읽을 수 없습니다. 줄여 주세요."
TAKEN_BACK = "No answer: this turn is forgotten · 대답이 없어서 이 말은 잊었습니다."
LINE_CUT = "Longer than the model can read ({} tokens): it saw the end · 너무 길어서 끝부분만 읽었습니다."


def _show(text: str) -> None:
    print(text, end="", flush=True)


def _tell(text: str) -> None:
    """Say something that is no part of the text."""
    print(text, file=sys.stderr, flush=True)


def chat(
    generator: TextGenerator,
    *,
    system: str | None = None,
    read: Callable[[str], str] = input,
    write: Callable[[str], object] = _show,
    tell: Callable[[str], object] = _tell,
    reply_tokens: int | None = None,
    sampling: Sampling | None = None,
    seed: int | None = None,
) -> None:
    """Talk with a tuned model, or write a text together with a base model, turn by turn.

    A tuned model answers each line, and knows what was said before; when that leaves less than a quarter of the context
    for a reply, the oldest exchanges are forgotten. A reply that Ctrl-C ends stays as far as it came; a line to which
    nothing was said is taken back.

    A base model has learnt text, not dialogue: it sees the whole transcript, as plain paragraphs, and continues the
    line you just wrote until a line end, `<eos>`, `reply_tokens` or the end of the context. When the transcript leaves
    less than a quarter of the context for a reply, its oldest turns are forgotten; the line just written is cut only if
    it is longer than the context.

    `/new`, `/help` and `/quit` are commands; Ctrl-C ends a reply, Ctrl-D the chat.

    Args:
        system: what a tuned model is told before the conversation.
        read: asks for a line, given a prompt; EOFError ends the chat.
        write: shows a piece of the reply.
        tell: shows a line that is no part of the text: the greeting, answers to commands.
        reply_tokens: of a reply, at most; default, REPLY_TOKENS, or BASE_REPLY_TOKENS of a base model.

    Raises:
        UserError: `system` for a base model, or one that is no message.
    """
    check_seed(seed)
    sampling = sampling or Sampling()
    if generator.tuned:
        reply_tokens = reply_tokens or REPLY_TOKENS
        _converse(generator, system, read, write, tell, reply_tokens, sampling, seed)
    elif system is not None:
        raise UserError("system: a base model has learnt no conversations, so nothing can be told to it; leave it out")
    else:
        _write_together(generator, read, write, tell, reply_tokens or BASE_REPLY_TOKENS, sampling, seed)


def _seed_of(turn: int, seed: int | None) -> int | None:
    """Each turn draws anew, and one seed repeats all."""
    return None if seed is None else (seed + turn) % (LARGEST_SEED + 1)


def _converse(
    generator: TextGenerator,
    system: str | None,
    read: Callable[[str], str],
    write: Callable[[str], object],
    tell: Callable[[str], object],
    reply_tokens: int,
    sampling: Sampling,
    seed: int | None,
) -> None:
    beginning = [] if system is None else [{"role": SYSTEM, "content": system}]
    if beginning and (wrong := problem(beginning, ends_with=SYSTEM)):
        raise UserError(f"system: {wrong}")
    messages = beginning
    turn = 0
    tell(GREETING)
    for line in _lines(HELP, read, write, tell):
        if line is None:
            messages = beginning
            continue
        if not line.strip():
            continue
        if token := special_token_in(line):
            tell(SPECIAL.format(token))
            continue
        asked = [*messages, {"role": USER, "content": line}]
        length = generator.model.config.context_length
        said = ""
        try:
            ids, room = fit_conversation(generator.tokenizer, asked, length, reply_tokens)
            with contextlib.closing(generator.stream_ids(ids, room, sampling, _seed_of(turn, seed), ENDS)) as reply:
                for piece in reply:
                    said += piece
                    write(piece)
        except KeyboardInterrupt:
            pass  # what was said so far stays
        except UserError as error:
            tell(TOO_LONG.format(error))
            continue
        write("\n")
        turn += 1
        answered = [*asked, {"role": ASSISTANT, "content": said}]
        # A model may also spell a special token, which could be told to it no more.
        if problem(answered, ends_with=ASSISTANT):
            tell(TAKEN_BACK)
        else:
            messages = answered


def _write_together(
    generator: TextGenerator,
    read: Callable[[str], str],
    write: Callable[[str], object],
    tell: Callable[[str], object],
    reply_tokens: int,
    sampling: Sampling,
    seed: int | None,
) -> None:
    turns: list[str] = []
    turn = 0
    tell(BASE_GREETING)
    for line in _lines(BASE_HELP, read, write, tell):
        if line is None:
            turns = []
            continue
        turns.append(line)
        with contextlib.suppress(KeyboardInterrupt):  # what was said so far stays in the transcript
            ids, room = _fit_turns(generator, turns, reply_tokens, tell)
            with contextlib.closing(_reply(generator, ids, room, sampling, _seed_of(turn, seed))) as reply:
                for piece in reply:
                    turns[-1] += piece
                    write(piece)
        turns[-1] += "\n"
        write("\n")
        turn += 1


def _lines(
    help: str, read: Callable[[str], str], write: Callable[[str], object], tell: Callable[[str], object]
) -> Iterator[str | None]:
    """The lines that are typed, until Ctrl-D or /quit; None where all before is to be forgotten."""
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
        tell({"/new": NEW, "/help": help}.get(command, NO_COMMAND.format(command)))


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
