"""Imports go one way, and the command line starts without the heavy libraries."""

import ast
import subprocess
import sys

import pytest
from floors import MODULES, circles, floor, graph, imports, lines, page

LINES = 400
ALGORITHMS = {"sllm.tokenizer.merges", "sllm.tokenizer.words"}
FORBIDDEN_IN_SLLM = {"submitit", "wandb", "jobs"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    for imported in imports(MODULES[module]):
        if imported.split(".")[0] in ("sllm", "jobs"):
            assert floor(imported) <= floor(module), f"{module} imports {imported}, which is above it"


def test_no_circles_between_files() -> None:
    """Nor inside functions."""
    assert circles({"a": {"b", "d"}, "b": {"c"}, "c": {"b"}, "d": {"d"}, "e": {"a"}}) == [["b", "c"], ["d"]]
    assert sum(map(len, graph().values())) > 200
    assert not circles(graph())


def test_a_file_has_one_subject_and_so_many_lines() -> None:
    """Two are one algorithm each."""
    assert not [module for module, path in MODULES.items() if lines(path) > LINES and module not in ALGORITHMS]


def test_the_page_of_floors_names_every_file() -> None:
    shown = " ".join(page().split())
    for module, path in MODULES.items():
        assert lines(path) <= 1 or f" {path.stem} {lines(path)}" in shown, module


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("sllm")])
def test_the_library_knows_no_cluster(module: str) -> None:
    tops = {name.split(".")[0] for name in imports(MODULES[module], top_level=True)}
    assert not tops & FORBIDDEN_IN_SLLM


@pytest.mark.parametrize("module", MODULES)
def test_nothing_read_can_execute(module: str) -> None:
    """No pickle, no torch.load, no eval: loading a file runs nothing."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert not {"pickle", "dill", "cloudpickle", "shelve", "joblib"} & imports(MODULES[module])
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "torch.load", "np.load", "yaml.unsafe_load", "yaml.full_load")
            assert not any(k.arg == "allow_pickle" for k in node.keywords)
            assert not any(k.arg == "shell" and ast.unparse(k.value) == "True" for k in node.keywords)


@pytest.mark.parametrize("module", MODULES)
def test_text_has_an_encoding(module: str) -> None:
    """Else it would be the locale's."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        given = {keyword.arg for keyword in node.keywords}
        called = ast.unparse(node.func)
        assert not given & {"text", "universal_newlines"} or not called.startswith("subprocess."), ast.unparse(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("read_text", "write_text"):
            assert "encoding" in given, ast.unparse(node)
        if called.rpartition(".")[2] == "open" and called not in ("os.open", "PackedData.open", "webbrowser.open"):
            assert "encoding" in given or any("b" in mode for mode in _strings(node)), ast.unparse(node)


def _strings(call: ast.Call) -> list[str]:
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    return [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]


def test_the_command_line_starts_light() -> None:
    code = "import sys, jobs.cli; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "jobs" in loaded
    assert not {"torch", "numba", "datasets", "wandb", "submitit", "matplotlib", "pyarrow", "tiktoken"} & set(loaded)
