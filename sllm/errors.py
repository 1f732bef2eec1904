"""The two ways a stage ends early that are nobody's bug."""


class UserError(Exception):
    """Something the user can put right.

    The message is one line (or one line per problem) that names the file, key or command and the way out.
    The command line prints it without a traceback and exits with code 2.
    """


class Stopped(Exception):  # noqa: N818 - not an error: someone asked us to stop, and we did
    """A stop was requested (signal or deadline) and everything worth keeping is on disk."""
