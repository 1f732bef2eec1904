"""The floors of the house and which file imports which: `python tests/floors.py` prints them as a page."""

import ast
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[1]

# The lowest first, each with what stands on it. A file imports from its own floor or below.
FLOORS = [
    line.split()
    for line in """
sllm
sllm.config
sllm.device sllm.distributed sllm.tokenizer
sllm.artifacts sllm.data sllm.model sllm.origin
sllm.inference
sllm.card sllm.evaluation
sllm.training
sllm.benchmark sllm.export sllm.report sllm.speed
jobs
""".strip().split("\n")
]

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("sllm", "jobs")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def floor(module: str) -> int:
    """Of the longest name that the module's begins with. Files of `sllm/` itself are at the bottom unless named."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        for number, rooms in enumerate(FLOORS):
            if name in rooms and (name != "sllm" or MODULES.get(module, ROOT).parent == ROOT / "sllm"):
                return number
    raise LookupError(f"{module} has no floor: FLOORS in tests/floors.py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Modules imported anywhere in a file, in functions too, or only where it begins; ours by file, others by name."""
    found = set()
    for node in tree(path).body if top_level else ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            files = names & MODULES.keys()
            found |= files if files == names else files | {node.module}
    return found


def graph() -> dict[str, set[str]]:
    """Of each file of ours those that it imports."""
    return {module: imports(path) & MODULES.keys() for module, path in MODULES.items()}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Files that import one another, however long the way round (strongly connected components, after Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for imported in sorted(graph[module]):
            if imported not in index:
                visit(imported)
                low[module] = min(low[module], low[imported])
            elif imported in stack:
                low[module] = min(low[module], index[imported])
        if low[module] == index[module]:
            component = [stack.pop()]
            while component[-1] != module:
                component.append(stack.pop())
            if len(component) > 1 or module in graph[module]:
                found.append(sorted(component))

    for module in graph:
        if module not in index:
            visit(module)
    return found


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions() -> Iterator[tuple[int, str]]:
    """Length in lines and name of every function."""
    for module, path in MODULES.items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                yield node.end_lineno - node.lineno + 1, f"{module}.{node.name}"


def page() -> str:
    """Floor by floor from the top, the files of each folder with their lines; then what is longest."""
    text = []
    for number in range(len(FLOORS) - 1, -1, -1):
        paths = [path for module, path in MODULES.items() if floor(module) == number]
        paths.sort(key=lambda path: (path.parent, path.stem))
        text.append(f"{number}  {', '.join(FLOORS[number]).replace('.', '/')}: {sum(map(lines, paths)):,} lines")
        for folder, files in groupby(paths, key=lambda path: path.parent.relative_to(ROOT)):
            shown = ", ".join(f"{path.stem} {lines(path)}" for path in files if lines(path) > 1)
            text.append(textwrap.fill(f"{folder}/  {shown}", 120, initial_indent=" " * 5, subsequent_indent=" " * 12))
    longest = sorted(((lines(path), str(path.relative_to(ROOT))) for path in MODULES.values()), reverse=True)[:5]
    text.append(f"{sum(map(lines, MODULES.values())):,} lines in {len(MODULES)} files")
    text.append("longest files: " + ", ".join(f"{name} {length}" for length, name in longest))
    text.append("longest functions: " + ", ".join(f"{name} {length}" for length, name in sorted(functions())[:-6:-1]))
    text += [f"circle: {', '.join(circle)}" for circle in circles(graph())]
    return "\n".join(text)


if __name__ == "__main__":
    print(page())
