"""Text is UTF-8, whatever the locale: files and their names, arguments, logs, pipes. A terminal alone has an encoding
of its own, and gets what it can show."""

import codecs
import locale
import os
import sys
from io import TextIOWrapper
from pathlib import Path


def start_in_utf8_mode() -> None:
    """Begin this program anew in Python's UTF-8 mode, if the locale has another encoding, and every process that it
    will start. How file names and arguments are encoded cannot be changed in a process that runs."""
    tried, os.environ["PYTHONUTF8"] = os.environ.get("PYTHONUTF8") == "1", "1"
    if sys.getfilesystemencoding() != "utf-8" and not tried and sys.executable:
        # As bytes: what the C library makes of them in a locale such as EUC-KR cannot always be turned back.
        _, *arguments, _ = Path("/proc/self/cmdline").read_bytes().split(b"\0")
        os.execv(sys.executable, [os.fsencode(sys.executable), *arguments])


def set_up_streams() -> None:
    """Standard streams that never fail for a character: UTF-8, or for a terminal the locale's encoding, where `?` (when
    reading, U+FFFD) stands for what does not fit."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding=_terminal_encoding() if stream.isatty() else "utf-8", errors="replace")


def as_typed(argument: str) -> str:
    """A command line argument as text: if it is not UTF-8, in the terminal's encoding, unless a file has that name."""
    raw = os.fsencode(argument)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return argument if os.path.lexists(raw) else raw.decode(_terminal_encoding(), "replace")


def _terminal_encoding() -> str:
    encoding = os.environ.get("PYTHONIOENCODING", "").partition(":")[0] or locale.getencoding()
    # The locale C says that nobody chose one (PEP 540), and not that the terminal shows nothing but ASCII.
    return encoding if codecs.lookup(encoding).name != "ascii" else "utf-8"
