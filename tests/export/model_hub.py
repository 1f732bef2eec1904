"""A stand-in on loopback for the hub's model repositories: what `huggingface_hub` asks when it uploads, without Xet."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hub import running

TOKEN = "hf_" + "secret" * 6


class ModelHub:
    """Repositories by name, their files, and how requests are refused."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}
        """What came by LFS, by its SHA-256."""
        self.refuse: dict[str, int] = {}
        """The status that requests to paths with this in them get."""
        self.requests: list[str] = []
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def serving() -> Iterator[ModelHub]:
    hub = ModelHub()
    with running(hub.server):
        yield hub


class Handler(BaseHTTPRequestHandler):
    hub: ModelHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.respond(b"")

    def do_POST(self) -> None:
        self.respond(self.body())

    def do_PUT(self) -> None:
        content = self.body()
        self.hub.requests.append(f"PUT {self.path}")
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.large[oid] = content
        self.answer(200, {})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def respond(self, body: bytes) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        hub.requests.append(f"{self.command} {path}")
        refused = next((status for part, status in hub.refuse.items() if part in path), None)
        if refused is not None:
            self.answer(refused, {"error": "refused"}, error=f"refused to {TOKEN}")  # as a careless proxy may say it
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid username or password."}, error="Invalid username or password.")
        elif path == "/api/whoami-v2":
            self.answer(200, {"type": "user", "name": "me", "orgs": []})
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            content = json.loads(body)["content"]
            self.answer(200 if content.startswith("---\n") else 400, {"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit|revision)/main)?", path):
            self.repository(*found.groups(), body)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = json.loads(body)["objects"]
            known = [item for item in objects if item["oid"] in hub.large]
            actions = [
                {**item, "actions": {"upload": {"href": f"{hub.url}/put/{item['oid']}"}}}
                for item in objects
                if item not in known
            ]
            self.answer(200, {"transfer": "basic", "objects": known + actions})
        else:
            self.answer(404, {"error": path}, error="Not found")

    def create(self, form: dict[str, Any]) -> None:
        name = f"{form['organization']}/{form['name']}"
        if name in self.hub.repositories:
            self.answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
            return
        self.hub.repositories[name] = {}
        self.hub.private[name] = bool(form.get("private")) or form.get("visibility") == "private"
        self.answer(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": "1"})

    def repository(self, name: str, what: str | None, body: bytes) -> None:
        files = self.hub.repositories.get(name)
        if files is None:
            self.answer(404, {"error": "Repository not found"}, error="Repository not found", code="RepoNotFound")
        elif what == "preupload":
            asked = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in asked
            ]
            self.answer(200, {"files": modes})
        elif what == "commit":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.hub.large[value["oid"]]
            oid = hashlib.sha1(body).hexdigest()
            self.answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})
        else:
            self.answer(
                200, {"id": name, "modelId": name, "private": self.hub.private[name], "tags": [], "siblings": []}
            )

    def answer(self, status: int, value: Any, *, error: str | None = None, code: str | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        if error:
            self.send_header("X-Error-Message", error)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
