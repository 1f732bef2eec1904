"""Ask the person who typed the command."""

import signal
import sys

from rich.console import Console
from rich.prompt import Confirm
from rich.text import Text


def is_interactive() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str) -> bool:
    """On standard error, so that it is seen when standard output goes elsewhere. Ctrl-C is an answer too, whoever else
    waits for it: KeyboardInterrupt."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return Confirm.ask(Text(question), console=Console(stderr=True), default=False)
    except EOFError:
        return False
    finally:
        signal.signal(signal.SIGINT, handler)
