"""A directory that exists is complete, and damage to it is found."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sllm.files import CorruptError, remove_leftovers
from sllm.manifests import atomic_directory, link_directory, read_manifest


def test_a_failed_directory_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with atomic_directory(path, about="first") as temporary:
        (temporary / "a").write_bytes(b"1")
    with pytest.raises(RuntimeError, match="midway"), atomic_directory(path) as temporary:
        (temporary / "a").write_bytes(b"2")
        raise RuntimeError("midway")
    assert (path / "a").read_bytes() == b"1"
    assert read_manifest(path, checksums=True)["about"] == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from sllm.manifests import atomic_directory\n"
        "with atomic_directory(Path(sys.argv[1]) / 'd') as t:\n"
        "    (t / 'big').write_bytes(bytes(1000)); print('writing', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "d").exists()
    assert len(list(tmp_path.iterdir())) == 1
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["shorten", "flip", "delete", "manifest", "manifest garbage"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "d"
    with atomic_directory(path) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "data").write_bytes(bytes(range(256)))
    file = path / "sub" / "data"
    if damage == "shorten":
        os.truncate(file, 255)
    elif damage == "flip":
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(content)
    elif damage == "delete":
        file.unlink()
    elif damage == "manifest":
        (path / "manifest.json").unlink()
    else:
        (path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(CorruptError):
        read_manifest(path, checksums=True)


def test_directories_follow_the_umask(tmp_path: Path) -> None:
    """Whatever wrote the files: safetensors makes them private, a copy keeps the permissions of its source."""
    for umask, expected in ((0o022, 0o644), (0o027, 0o640), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            with atomic_directory(tmp_path / "d") as temporary:
                (temporary / "below").mkdir()
                for name, mode in (("private", 0o600), ("below/program", 0o755), ("below/readonly", 0o444)):
                    (temporary / name).write_text(name, encoding="utf-8")
                    (temporary / name).chmod(mode)
        finally:
            os.umask(before)
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "d").rglob("*") if path.is_file()}
        assert modes == dict.fromkeys(("private", "program", "readonly", "manifest.json"), expected)
        read_manifest(tmp_path / "d", checksums=True)


@pytest.mark.parametrize("links", [True, False])
def test_a_directory_linked_under_another_name_keeps_its_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    """So that what was damaged before is found there, too."""
    with atomic_directory(tmp_path / "a", step=3) as temporary:
        (temporary / "weights").write_bytes(b"12")
        (temporary / "state.json").write_text("{}", encoding="utf-8")
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", _refuse)
    assert link_directory(tmp_path / "a", tmp_path / "b", {"state.json": {"of": "b"}}, step=4) == links
    assert read_manifest(tmp_path / "b", checksums=True)["step"] == 4
    assert read_manifest(tmp_path / "a", checksums=True)["step"] == 3
    assert (tmp_path / "b" / "weights").samefile(tmp_path / "a" / "weights") == links
    assert (tmp_path / "a" / "state.json").read_text(encoding="utf-8") == "{}"
    (tmp_path / "a" / "weights").write_bytes(b"13")
    link_directory(tmp_path / "a", tmp_path / "b")
    with pytest.raises(CorruptError, match="checksum"):
        read_manifest(tmp_path / "b", checksums=True)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def _refuse(*_: object) -> None:
    raise PermissionError
