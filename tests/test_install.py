"""An install that is not editable has all that a checkout has, in whatever folder it is used."""

import shutil
import subprocess
import sys
import venv
from importlib.metadata import distributions
from pathlib import Path

import pytest
from needs import cannot_run

from sllm import __version__

ROOT = Path(__file__).parents[1]
NOT_SOURCES = shutil.ignore_patterns(".*", "runs", "data-*", "build", "*.egg-info", "__pycache__", "tests", "bench")

TINY = """data.sources.0.megabytes=0.1 data.sources.1.megabytes=0.1 tokenizer.vocab_size=300 model.d_model=16
model.n_layers=1 model.n_heads=2 model.d_ff=32 train.max_steps=5 train.warmup_steps=0 train.checkpoint.every=5
validate.every=5 validate.tokens=512 wandb.mode=disabled"""


@pytest.fixture(scope="module")
def sllm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a wheel, installed into a virtual environment that takes all other packages from this one."""
    # Not imported: setuptools fails to be once anything has imported distutils. No setuptools counts as an old one.
    versions = {found.name: found.version for found in distributions() if found.name in ("pip", "setuptools")}
    if "pip" not in versions or int(versions.get("setuptools", "0").split(".")[0]) < 77:
        cannot_run(f"needs pip and setuptools 77 or newer, has {versions}")
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, place / "source", symlinks=True, ignore=NOT_SOURCES)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", place, place / "source"], check=True)
    shutil.rmtree(place / "source")
    venv.create(place / "venv", symlinks=True)
    python = place / "venv" / "bin" / "python"
    (wheel,) = place.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", *offline, wheel], check=True)
    (packages,) = (place / "venv" / "lib").glob("*/site-packages")
    for source in {path.parents[1] for package in ("sllm", "jobs") for path in (ROOT / package).rglob("*.nbi")}:
        installed = packages / source.relative_to(ROOT)  # what numba has compiled is for a file of this time and size
        for compiled in source.glob("__pycache__/*.nb[ci]"):
            shutil.copy(compiled, installed / "__pycache__")
        for file in source.glob("*.py"):
            shutil.copystat(file, installed / file.name)
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(others) + "\n", encoding="utf-8")
    return place / "venv" / "bin" / "sllm"


@pytest.mark.slow
def test_a_wheel_submits_a_preset_from_an_empty_folder(sllm: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = subprocess.run([sllm, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert run("--version") == f"sllm {__version__}\n"
    run("submit", "smoke", "--until", "pretrain", *TINY.split())
    code = tmp_path / "runs" / "smoke" / "code"
    assert {path.name for path in code.iterdir()} == {"sllm", "jobs", "manifest.json"}
    assert f"commit: not a git checkout\ndirty: unknown\npython: {sys.version.split()[0]} ({sllm.parent}" in (
        code.parent / "environment.txt"
    ).read_text("utf-8")
    assert "no such file" not in run("config", "default"), "its catalogue of sources is there too"
    scripts = sllm.parents[1] / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "jobs" / "sbatch"
    assert {path.name for path in scripts.iterdir()} == {path.name for path in (ROOT / "sbatch").iterdir()}
    assert "pipeline.sh" in run("prepare", "--help")
