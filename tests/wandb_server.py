"""A stand-in for the W&B server on loopback: what the real client asks for when it starts, resumes, feeds and looks
at runs. Requests are as wandb 0.31 makes them."""

import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HISTORY, SUMMARY = "wandb-history.jsonl", "wandb-summary.json"


class WandbServer:
    """`behaviour` is "answers", "refuses" (the key) or "hangs"."""

    def __init__(self) -> None:
        self.behaviour = "answers"
        self.files: dict[str, dict[str, list[str]]] = {}
        """Lines of each run's streamed files, as the client placed them by their offsets."""
        self.configs: dict[str, str] = {}
        self.uploads: dict[str, bytes] = {}
        self.posts = 0
        """How often a run's files were streamed to."""
        self.misplaced: list[str] = []
        """Rows of history put at the place of another step's row, or after a gap."""
        self._released = threading.Event()
        self._lock = threading.Lock()

    def history(self) -> list[dict[str, Any]]:
        """The rows of the only run there is."""
        assert self.misplaced == []
        (files,) = self.files.values()
        return [json.loads(line) for line in files.get(HISTORY, [])]

    # --- what it answers --------------------------------------------------------------------------

    def stream(self, run: str, files: dict[str, Any]) -> None:
        with self._lock:
            self.posts += 1
            for name, chunk in files.items():
                lines = self.files[run].setdefault(name, [])
                start, new = chunk["offset"], chunk["content"]
                if name == HISTORY:
                    if start > len(lines):
                        self.misplaced.append(f"line {start} after only {len(lines)}")
                    for old, line in zip(lines[start:], new, strict=False):
                        if json.loads(old)["_step"] != json.loads(line)["_step"]:
                            self.misplaced.append(f"{line} in the place of {old}")
                lines[start : start + len(new)] = new

    def query(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        run = variables.get("name") or ""
        if name == "UpsertBucket":
            inserted = run not in self.files
            self.files.setdefault(run, {})
            self.configs[run] = variables["config"]
            entity = {"id": "e", "name": variables["entity"] or "someone"}
            bucket = {
                "id": f"id-{run}",
                "name": run,
                "displayName": run,
                "description": "",
                "config": self.configs[run],
                "sweepName": None,
                "project": {"id": "p", "name": variables["project"], "entity": entity},
                "historyLineCount": len(self.files[run].get(HISTORY, [])),
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
        if name == "RunResumeStatus":
            return {
                "model": {"id": "p", "name": "p", "entity": {"id": "e", "name": "someone"}, "bucket": self._run(run)}
            }
        if name == "Run":
            found = {"projectId": "1", "state": "running", "user": {"name": "someone", "username": "someone"}}
            return {
                "project": {"run": found | {"id": f"id-{run}", "name": run, "tags": []} if run in self.files else None}
            }
        if name == "RunHistoryKeys":
            last = [json.loads(line)["_step"] for line in self.files[run].get(HISTORY, [])[-1:]]
            return {"project": {"run": {"historyKeys": {"lastStep": last[0]} if last else None}}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/upload/{file}"} for file in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if name in ("Viewer", "GetDefaultEntity"):
            viewer = {"id": "u", "entity": "someone", "username": "someone", "email": "", "flags": "{}"}
            return {"viewer": viewer | {"teams": {"edges": []}}}
        return {}

    def _run(self, run: str) -> dict[str, Any] | None:
        if run not in self.files:
            return None
        history = self.files[run].get(HISTORY, [])
        return {
            "id": f"id-{run}",
            "name": run,
            "displayName": run,
            "summaryMetrics": (self.files[run].get(SUMMARY) or ["{}"])[-1],
            "historyLineCount": len(history),
            "historyTail": json.dumps(history[-1:]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
            "config": self.configs[run],
            "wandbConfig": '{"t": 1}',
            "tags": [],
            "notes": None,
        }

    # --- HTTP -------------------------------------------------------------------------------------

    @contextmanager
    def serve(self) -> Iterator["WandbServer"]:
        listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        listener.daemon_threads = True
        self.url = f"http://127.0.0.1:{listener.server_port}"
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self._released.set()
            listener.shutdown()
            listener.server_close()

    def _handler(server) -> type[http.server.BaseHTTPRequestHandler]:  # noqa: N805 - the handler has a self of its own
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if server.behaviour == "hangs":
                    server._released.wait(60)
                if server.behaviour != "answers":
                    return self.answer({"errors": [{"message": "bad key"}]}, 401)
                if self.path.endswith("/graphql"):
                    asked = json.loads(body)
                    found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                    assert found
                    return self.answer({"data": server.query(found[1], asked.get("variables") or {})})
                if self.path.endswith("/file_stream"):
                    server.stream(self.path.split("/")[-2], json.loads(body).get("files", {}))
                return self.answer({})

            def do_PUT(self) -> None:
                name = self.path.removeprefix("/upload/")
                server.uploads[name] = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.answer({})

            def answer(self, value: dict[str, Any], status: int = 200) -> None:
                content = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
