"""The decorator of the inner loops: compiled by numba, without the interpreter lock, and cached where that can be."""

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba caches beside the source or in HOME. Where neither can be written, as in many containers: in a temporary
    directory of this user."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "no locator available"
        directory = _private_directory()
        numba.config.CACHE_DIR = str(directory or "")  # type: ignore[attr-defined]
        return numba.njit(cache=directory is not None, nogil=True)(function)


def _private_directory() -> Path | None:
    """A temporary directory that nobody else can write to, because what is read from a cache is executed; None if there
    is no such place."""
    try:
        path = Path(tempfile.gettempdir()) / f"sllm-{os.getuid()}"
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError:
        return None
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return path if ours else None
