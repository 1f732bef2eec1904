"""A stand-in for the Hugging Face hub on loopback: parquet datasets in its layout, and the faults of a bad network.

Answers what `huggingface_hub` and `datasets` ask: the commit of a revision, the tree, files by ranges.
"""

import hashlib
import json
import re
import shutil
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

Fault = Callable[["Handler", bytes], bool]
"""What happens instead of an answer to a request for a part of a file: done with it (True), or answer after all."""


def write_parquet(path: Path, texts: list[Any], column: str = "text", rows: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": [f"{number}" for number in range(len(texts))], column: texts})
    pq.write_table(table, path, row_group_size=rows)


def add_dataset(
    root: Path, name: str, configs: dict[str, dict[str, list[list[Any]]]], column: str = "text", rows: int = 100
) -> Path:
    """A dataset of parquet files: for each configuration and split, the texts of each of its files. Its README names
    the configurations, as on the hub."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, files in splits.items():
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
            for number, texts in enumerate(files):
                file = f"{split}-{number:05d}-of-{len(files):05d}.parquet"
                write_parquet(root / name / config / file, texts, column, rows)
    (root / name / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
    return root / name


class Hub:
    """Serves the datasets below `root`, each a folder owner/name; a file `.gated` or `.private` in it makes it so."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: Counter[str] = Counter()
        """How many there were, by method and path."""
        self.sent = 0
        """Bytes of parts of files."""
        self.faults: list[Fault] = []
        """One for each request for a part of a parquet file, in turn, until none is left."""
        self.before: Callable[[str], object] = lambda path: None
        """Called with the path of each request before it is answered."""
        self.kept: dict[str, Path] = {}
        """The files of commits that the branch has left."""
        self.pinned: set[str] = set()
        """Other names of the commit that the branch of a dataset names."""
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler_", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients are killed
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def commit(self, dataset: str) -> str:
        """A name that changes with the files."""
        files = sorted(path for path in (self.root / dataset).rglob("*") if path.is_file())
        return hashlib.sha1("".join(f"{path} {path.stat().st_size}" for path in files).encode()).hexdigest()

    def keep(self, dataset: str) -> str:
        """Keep what the branch names now under its commit, which is returned: the branch may move on."""
        commit = self.commit(dataset)
        self.kept[commit] = self.root.parent / "commits" / commit
        shutil.copytree(self.root / dataset, self.kept[commit])
        return commit

    def next_fault(self) -> Fault | None:
        with self.lock:
            return self.faults.pop(0) if self.faults else None


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    hub = Hub(root)
    with running(hub.server):
        yield hub


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[None]:
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer, sent in two pieces, waits 40 ms for the first to be acknowledged

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        form = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        self.do_GET(form)

    def do_GET(self, form: dict[str, Any] | None = None) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        with self.hub.lock:
            self.hub.requests[f"{self.command} {path}"] += 1
            self.hub.before(path)
        if api := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/(.*))?", path):
            dataset, what, rest = api.groups()
            if not self.may_read(dataset):
                return
            revision, folder, inside = self.revision(dataset, rest or "main")
            if revision is None:
                self.error(404, "RevisionNotFound", f"Invalid rev id: {rest}")
            elif what == "tree":
                recursive = parse_qs(address.query).get("recursive", ["False"])[0].lower() in ("true", "1")
                self.tree(folder, inside, recursive)
            elif what == "paths-info":
                assert form is not None
                self.json([entry(folder, folder / name) for name in form["paths"] if (folder / name).exists()])
            else:
                files = [{"rfilename": p.relative_to(folder).as_posix()} for p in folder.rglob("*") if p.is_file()]
                about = {"id": dataset, "sha": revision, "siblings": files, "private": False, "gated": False}
                self.json({**about, "cardData": card(folder)})
        elif resolve := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/(.*)", path):
            dataset, rest = resolve.groups()
            if not self.may_read(dataset, file=True):
                return
            revision, folder, inside = self.revision(dataset, rest)
            file = folder / inside
            if revision is None:
                self.error(404, "RevisionNotFound", "Invalid rev id")
            elif not file.is_file():
                self.error(404, "EntryNotFound", "Entry not found")
            else:
                self.file(file, revision)
        else:
            self.error(404, None, "Not found")

    def may_read(self, dataset: str, file: bool = False) -> bool:
        folder = self.hub.root / dataset
        token = self.headers.get("Authorization")
        if not folder.is_dir() or ((folder / ".private").exists() and not token):
            self.error(401 if not token else 404, "RepoNotFound", "Repository not found")
        elif file and (folder / ".gated").exists():
            self.error(403 if token else 401, "GatedRepo", f"Access to dataset {dataset} is restricted")
        else:
            return True
        return False

    def revision(self, dataset: str, rest: str) -> tuple[str | None, Path, str]:
        """The commit that the beginning of `rest` names, the folder of its files, and what follows it."""
        folder = self.hub.root / dataset
        commit = self.hub.commit(dataset)
        names = {
            commit: commit,
            "main": commit,
            "refs/convert/parquet": commit,
            **dict.fromkeys(self.hub.pinned, commit),
            **{kept: kept for kept in self.hub.kept},
        }
        for name, found in names.items():
            if rest == name or rest.startswith(name + "/"):
                return found, self.hub.kept.get(found, folder), rest[len(name) + 1 :]
        return None, folder, ""

    def tree(self, folder: Path, inside: str, recursive: bool) -> None:
        if not (folder / inside).is_dir():
            self.error(404, "EntryNotFound", "Entry not found")
            return
        paths = sorted((folder / inside).rglob("*") if recursive else (folder / inside).iterdir())
        self.json([entry(folder, path) for path in paths])

    def file(self, file: Path, commit: str) -> None:
        content = file.read_bytes()
        status, span = 200, self.headers.get("Range")
        extra = {"ETag": f'"{len(content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if span and (found := re.fullmatch(r"bytes=(\d+)-(\d*)", span)):
            first, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
            extra["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[first : last + 1]
            if file.suffix == ".parquet" and (fault := self.hub.next_fault()) and fault(self, content):
                return
            self.hub.sent += len(content)
        self.answer(status, content, **extra)

    # --- answers

    def json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def error(self, status: int, code: str | None, message: str) -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.answer(status, json.dumps({"error": message}).encode(), **headers)

    def answer(self, status: int, content: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def card(folder: Path) -> dict[str, Any]:
    """What stands in front of the text of a README."""
    readme = folder / "README.md"
    parts = readme.read_text(encoding="utf-8").split("---\n") if readme.is_file() else []
    return yaml.safe_load(parts[1]) if len(parts) > 2 else {}


def entry(folder: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    oid = hashlib.sha1(name.encode()).hexdigest()
    if path.is_dir():
        return {"type": "directory", "oid": oid, "size": 0, "path": name}
    return {"type": "file", "oid": oid, "size": path.stat().st_size, "path": name}


# --- faults ---------------------------------------------------------------------------------------


def fails(status: int, **headers: str) -> Fault:
    """The server answers with an error."""

    def fault(handler: Handler, content: bytes) -> bool:
        handler.answer(status, b"", **{name.replace("_", "-"): value for name, value in headers.items()})
        return True

    return fault


def cut(handler: Handler, content: bytes) -> bool:
    """The connection breaks in the middle of the answer."""
    handler.answer(206, content[: len(content) // 2], length=len(content))
    reset(handler, content)
    return True


def reset(handler: Handler, content: bytes) -> bool:
    """The connection is reset."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True
    return True


def truncated(handler: Handler, content: bytes) -> bool:
    """Half of what was asked for comes, as if it were all."""
    handler.answer(206, content[: len(content) // 2])
    return True


def hangs(seconds: float) -> Fault:
    """Nothing comes for a while."""

    def fault(handler: Handler, content: bytes) -> bool:
        threading.Event().wait(seconds)  # not time.sleep, which a test may have made fast
        return False

    return fault


def waits(release: threading.Event, most: float = 5.0) -> Fault:
    """Nothing comes before the release, or before a client would give up; the next request then waits as well."""

    def fault(handler: Handler, content: bytes) -> bool:
        if not release.wait(most):
            with handler.hub.lock:
                handler.hub.faults.insert(0, fault)
        return False

    return fault


# --- fixtures -------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that this process talks to."""
    with serving(tmp_path / "hub") as served:
        use(served.url, tmp_path / "hf", monkeypatch)
        yield served


def use(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the libraries, which may have been imported long ago, and the processes we start to `url`."""
    import datasets
    import huggingface_hub
    from huggingface_hub import HfFileSystem, constants, file_download

    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_HOME", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", url)
    for module in (constants, file_download):  # of older clients both have it
        if hasattr(module, template := "HUGGINGFACE_CO_URL_TEMPLATE"):
            monkeypatch.setattr(module, template, url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", url)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)
    HfFileSystem.clear_instance_cache()
