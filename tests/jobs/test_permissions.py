"""Who may read what a run has written: those whom the umask lets."""

import subprocess
from pathlib import Path

import tiny
from conftest import command, variables

UMASK = 0o027


def test_everything_follows_the_umask(tmp_path: Path, texts: dict[str, Path]) -> None:
    config = tiny.write_experiment(tmp_path, texts, max_steps=4, checkpoint={"every": 2})
    best = tmp_path / "runs" / "tiny" / "best"
    for arguments in (["submit", config, "--on", "local"], ["export", "--model", best, "--output", tmp_path / "out"]):
        done = subprocess.run(
            command(*arguments), cwd=tmp_path, env=variables(), umask=UMASK, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    written = [path for name in ("runs", "data", "out") for path in (tmp_path / name).rglob("*")]
    assert {"model.safetensors", "optimizer.safetensors", "done.json", "ledger.jsonl", ".lock"} <= {
        path.name for path in written
    }
    wrong = {
        str(path.relative_to(tmp_path)): oct(path.stat().st_mode & 0o777)
        for path in written
        if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~UMASK
    }
    assert not wrong
