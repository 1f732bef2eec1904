"""The command line: `sllm …`. Reads arguments, calls one function, prints; decides nothing.

Nothing heavy is imported before a command runs, so that `sllm --help` answers at once.
"""

import errno
import sys
from typing import Annotated

import typer

from jobs.cli import machine, models, running, stages
from jobs.cli.options import examples
from sllm.errors import UserError, storage_as_user_error
from sllm.utf8 import as_typed, set_up_streams, start_in_utf8_mode

app = typer.Typer(
    name="sllm",
    help="Train a Korean-English small language model from scratch, on one machine or on a Slurm cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("sllm submit smoke", "sllm status", "sllm generate 'In the morning' --model smoke"),
)
for part in (running, stages, models, machine):  # in the order of `sllm --help`
    app.add_typer(part.app)


def main() -> None:
    """Entry point. A UserError is printed, one line a problem, without a traceback; exit code 2."""
    start_in_utf8_mode()
    set_up_streams()
    sys.argv[1:] = map(as_typed, sys.argv[1:])
    try:
        with storage_as_user_error():
            app()
    except UserError as error:
        for line in str(error).split("\n"):
            print(f"sllm: {line}", file=sys.stderr)
        from jobs.run import leave

        leave(2)  # one of several ranks may have begun
    except OSError as error:  # a path that was typed; what a stage runs into is told in its log
        if error.errno not in (errno.ENAMETOOLONG, errno.EACCES):
            raise
        print(f"sllm: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)


def _print_version(wanted: bool) -> None:
    if wanted:
        from jobs.launch.prepare import commit
        from sllm import __version__

        print(f"sllm {__version__}" + (f" (commit {known})" if (known := commit()) else ""))
        raise typer.Exit


@app.callback()
def every_command(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    pass
