"""Imports go one way: a room imports those before it, and no file imports itself by a detour."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "workflow" / "dllm_agents"
# A room may import the rooms on the lines before its own, and those of its own line that make no circle.
ROOMS = [
    ["errors", "__init__", "layout", "tool_calls"],
    ["records", "lifeline", "progress", "provenance", "catalogue", "decoding.settings", "models.families", "frames", "files"],
    ["config"],
    ["benchmarks"],
    ["prompts"],
    ["dependencies"],
    ["models"],
    ["decoding"],
    ["engine"],
    ["client"],
    ["serving", "download", "preflight"],
    ["agents"],
    ["trajectories", "pairs"],
    ["training"],
    ["analysis"],
    ["reporting", "dag", "schemas"],
    ["cli"],
    ["__main__"],
]
LINE = {room: line for line, rooms in enumerate(ROOMS) for room in rooms}


def module(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module(path): path for path in PACKAGE.rglob("*.py")}


def room(name):
    return name if name in LINE else name.split(".")[0]


def imports(path):
    """Modules of the package that a file imports, anywhere in it but under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dllm_agents":
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] == "dllm_agents"}
    for name in names:
        inner = name.removeprefix("dllm_agents").removeprefix(".")
        while inner and inner not in MODULES:
            inner = inner.rpartition(".")[0]
        yield inner or "__init__"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_file_imports_no_later_room(name):
    later = [other for other in imports(MODULES[name]) if LINE[room(other)] > LINE[room(name)]]
    assert not later, f"{name} imports {', '.join(later)}"


def test_no_file_imports_itself_by_a_detour():
    graph = {name: {other for other in imports(path) if other != name and other != "__init__"} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
