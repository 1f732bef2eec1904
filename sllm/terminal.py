"""Standard output and error that outlive whoever reads them, for work that must not end with its terminal."""

import errno
import io
import os
import sys
from typing import Any


def outlive_readers() -> None:
    """From now on a line that cannot be written is lost, and the work goes on: the terminal has been closed, `head` has
    read enough, or the disk that the output is sent to is full."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is not io.TextIOWrapper:
            continue  # someone else has taken it, a test for example
        stream.flush()
        raw = _Lasting(stream.fileno(), "w", closefd=False)
        lasting = io.TextIOWrapper(
            raw if isinstance(stream.buffer, io.RawIOBase) else io.BufferedWriter(raw),  # raw: PYTHONUNBUFFERED
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, lasting)


class _Lasting(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in (errno.EIO, errno.EPIPE):  # nobody will ever read from it again
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.fileno())
                os.close(null)
            return memoryview(data).nbytes
