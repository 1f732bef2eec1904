"""sbatch/serve.sbatch with something else in the place of vLLM; tests/slurm/test_server.py sends it to a cluster."""

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "sbatch" / "serve.sbatch"
VLLM = '#!/bin/bash\nprintf "<%s>" "$@"; echo; echo "$HF_HUB_OFFLINE $$"\n'


def serve(tmp_path: Path, *words: str, vllm: bool = True) -> subprocess.CompletedProcess[str]:
    """What the script says where sbatch would run it: without its folder, with a number."""
    path = "/usr/bin:/bin"
    if vllm:
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / "vllm").write_text(VLLM, encoding="utf-8")
        (tmp_path / "bin" / "vllm").chmod(0o755)
        path = f"{tmp_path / 'bin'}:{path}"
    return subprocess.run(
        ["bash", "-c", 'echo $$; exec bash "$0" "$@"', str(SCRIPT), *words],
        env={
            "PATH": path,
            "SLURM_JOB_ID": "123456",
            "SLURM_SUBMIT_HOST": "login1",
            "LANG": os.environ.get("LANG", "C"),
        },
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def exported(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"model_type": "qwen3"}', encoding="utf-8")
    return directory


@pytest.mark.parametrize("name", ["exported", "with $(touch owned) ; 'quotes' 한글", "-dash"])
def test_what_vllm_is_called_with(tmp_path: Path, name: str) -> None:
    exported(tmp_path / name)
    done = serve(tmp_path, name, "--dtype", "float16", "--chat template")
    assert (done.returncode, done.stderr) == (0, "")
    number, ssh, _, called, environment = done.stdout.splitlines()
    assert called == (
        f"<serve><{name}><--host><127.0.0.1><--port><23456><--served-model-name><sllm><--dtype><bfloat16>"
        "<--dtype><float16><--chat template>"
    )
    assert environment == f"1 {number}", "the server is the job's own process, which scancel reaches"
    assert re.fullmatch(r"From your own machine:  ssh -N -J login1 -L 8080:127\.0\.0\.1:23456 \S+@\S+", ssh)
    assert not (tmp_path / "owned").exists()


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    exported(tmp_path / "exported")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "config.json").write_text('{"model": {}, "vocab_size": 300}', encoding="utf-8")
    for words, vllm, told in (
        ([], True, "which model?"),
        (["nowhere"], True, "nowhere: no exported model; sllm export "),
        (["ours"], True, "ours: no exported model; sllm export "),
        (["exported"], False, "vllm is not on the PATH of this job; pip install vllm"),
    ):
        done = serve(tmp_path, *words, vllm=vllm)
        assert done.returncode == 2
        assert done.stderr.startswith(f"serve.sbatch: {told}")
        assert done.stderr.count("\n") == 1
        assert len(done.stdout.splitlines()) == 1
