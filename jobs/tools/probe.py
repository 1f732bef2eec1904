"""What one machine can do for a run. `sllm doctor` calls it where it is, and sends its text to compute nodes, where
nothing of ours may be visible: so the standard library alone, and torch only tried."""

import fcntl
import importlib
import importlib.util
import json
import os
import platform
import shutil
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

MODULES = ("numpy", "numba", "pydantic", "regex", "safetensors", "submitit", "tiktoken", "yaml", "zstandard")
MEGABYTES = 32
REPLACEMENTS = 200
CONNECT_SECONDS = 3.0


def look(directory: str, token: str, host: str, data: str = "") -> dict[str, Any]:
    """Everything there is to know, as JSON values.

    `directory` holds a file named `token` with that text, and nothing more when this is done; without a token files
    are not looked at. `host` is the name, perhaps with a port, of who would be asked on the internet. `data` is where
    the data will be, if that is to be known.
    """
    return {
        "node": os.environ.get("SLURMD_NODENAME", platform.node()),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "missing": [name for name in MODULES if importlib.util.find_spec(name) is None],
        **_torch(),
        "reaches": _reaches(host),
        **_files(Path(directory), token, Path(data or directory)),
    }


def _torch() -> dict[str, Any]:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        torch = importlib.import_module("torch")
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return {"torch": torch.__version__, "torch_error": "", "gpus": gpus, "given": given}
    except Exception as error:  # ImportError, or OSError for a library that does not load, or a driver's RuntimeError
        says = f"{type(error).__name__}: {error}".split("\n")[0]
        return {"torch": "", "torch_error": says, "gpus": [], "given": given}


def _reaches(host: str) -> bool:
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port or 443)), CONNECT_SECONDS).close()
        return True
    except OSError:
        return False


def _files(directory: Path, token: str, data: Path) -> dict[str, Any]:
    if not token:
        return {}
    try:
        shared = (directory / token).read_text(encoding="utf-8") == token
    except OSError:
        return {"shared": False}
    while not data.is_dir():
        data = data.parent
    same = data.stat().st_dev == directory.stat().st_dev
    found: dict[str, Any] = {"shared": shared, "free": _free(directory), "data_free": None if same else _free(data)}
    own = directory / f"{platform.node()}-{os.getpid()}"
    try:
        own.mkdir()
        try:
            return {**found, "write_error": "", **_writing(own)}
        finally:
            shutil.rmtree(own)
    except OSError as error:
        return {**found, "write_error": error.strerror or str(error)}


def _free(directory: Path) -> int:
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def _writing(directory: Path) -> dict[str, Any]:
    data = os.urandom(1 << 20)
    started = time.perf_counter()
    with (directory / "large").open("wb") as file:
        for _ in range(MEGABYTES):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    locks = ""
    with (directory / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            locks = error.strerror or str(error)
    return {
        "bytes_per_second": MEGABYTES * len(data) / seconds,
        "locks_error": locks,
        "replaces": _replaces(directory),
    }


def _replaces(directory: Path) -> bool:
    """Whether who reads a file while it is replaced, again and again, always finds it there and whole."""
    path, whole = directory / "read", 1000

    def replace() -> None:
        for number in range(REPLACEMENTS):
            new = directory / "new"
            new.write_text(f"{number:03}" * whole, encoding="utf-8")
            new.replace(path)

    path.write_text("abc" * whole, encoding="utf-8")
    writer = threading.Thread(target=replace)
    writer.start()
    try:
        while writer.is_alive():
            text = path.read_text(encoding="utf-8")
            if text != text[:3] * whole:
                return False
    except FileNotFoundError:
        return False
    finally:
        writer.join()
    return True


if __name__ == "__main__":
    print(json.dumps(look(*sys.argv[1:])))
