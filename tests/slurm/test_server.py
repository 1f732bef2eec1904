"""sbatch/serve.sbatch on a cluster: a server that listens on loopback alone, is reached where the log says, and ends by
scancel. vLLM, which needs a GPU, is stood in for."""

import json
import re
import sys
import urllib.request
from pathlib import Path

from waiting import wait

from jobs.tools.dev_cluster import DevCluster

SCRIPT = Path(__file__).parents[2] / "sbatch" / "serve.sbatch"

VLLM = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

options = dict(zip(sys.argv[3::2], sys.argv[4::2]))


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["model"] == options["--served-model-name"]
        message = {{"role": "assistant", "content": asked["messages"][0]["content"][::-1]}}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({{"choices": [{{"message": message}}]}}).encode())


HTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
"""


def test_a_server_of_an_exported_model(cluster: DevCluster, tmp_path: Path) -> None:
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "config.json").write_text('{"model_type": "qwen3"}', encoding="utf-8")
    (tmp_path / "vllm").write_text(VLLM.format(python=sys.executable), encoding="utf-8")
    (tmp_path / "vllm").chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    log = tmp_path / "serve.log"
    small = ("--mem=200M", "--cpus-per-task=1", "--time=20", f"--output={log}", f"--export=PATH={path}")
    job = cluster.run("sbatch", "--parsable", *small, str(SCRIPT), str(tmp_path / "exported")).strip()
    try:
        line = wait(
            lambda: re.search(r"127\.0\.0\.1:(\d+) ", log.read_text("utf-8") if log.exists() else ""), "its log"
        )
        request = urllib.request.Request(
            f"http://127.0.0.1:{line[1]}/v1/chat/completions",
            json.dumps({"model": "sllm", "messages": [{"role": "user", "content": "가나"}]}).encode(),
        )

        def answer() -> bytes | None:
            try:
                with urllib.request.urlopen(request) as response:
                    return bytes(response.read())
            except OSError:  # not yet
                return None

        assert json.loads(wait(answer, "its answer"))["choices"][0]["message"]["content"] == "나가"
    finally:
        cluster.run("scancel", job)
    wait(lambda: not cluster.run("squeue", "-h", "-j", job), "its end")
    assert answer() is None
