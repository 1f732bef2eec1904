"""The ways a stage ends early that are nobody's bug."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can put right.

    The message is one line (or one line per problem) that names the file, key or command and the way out.
    The command line prints it without a traceback and exits with code 2.
    """


class Stopped(Exception):  # noqa: N818 - not an error: someone asked us to stop, and we did
    """A stop was requested (signal or deadline) and everything worth keeping is on disk."""


class Superseded(Exception):  # noqa: N818 - no error either
    """The run belongs to another attempt by now: this one may write nothing more, and ends."""


@contextmanager
def storage_as_user_error() -> Iterator[None]:
    """A disk that is full, over its quota or read-only is for the user to put right: raises UserError in place of such
    an OSError. Also a decorator."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        place = error.filename2 or error.filename or "the run or data directory"
        room = "" if error.errno == errno.EROFS else "make room there, or "
        raise UserError(
            f"{place}: {error.strerror}; {room}write somewhere else (runs_directory=…, data_directory=…)"
        ) from error
