"""Imports go one way: a room imports those before it, and no file imports itself by a detour."""

import ast
import importlib.util
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "workflow" / "dllm_agents"
# A room may import the rooms on the lines before its own, and those of its own line that make no circle.
ROOMS = [
    ["errors", "__init__", "foreign", "retry", "layout", "commands", "tool_calls", "thoughts"],
    ["records", "stage_records", "lifeline", "progress", "provenance", "catalogue", "frames", "files"],
    ["decoding.settings", "models.families"],
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


@pytest.mark.parametrize(
    "arguments, absent",
    [(["--help"], ["torch", "pandas", "pydantic"]), (["tabulate", "--help"], ["torch"]), (["score", "--help"], ["torch"])],
)
def test_a_command_imports_its_own_stage_alone(arguments, absent):
    """`tabulate` never loads torch, and the list of commands no stage at all."""
    stage = arguments[0] if len(arguments) > 1 else ""
    program = f"""import sys, dllm_agents.cli
try:
    dllm_agents.cli.parser({stage!r}).parse_args()
except SystemExit:
    print([name for name in {absent} if name in sys.modules], file=sys.stderr)"""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


LONGEST_FILE, LONGEST_FUNCTION = 450, 60


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_file_and_its_functions_can_be_read_at_a_sitting(name):
    text = MODULES[name].read_text()
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]
    assert not long
    assert len(text.splitlines()) <= LONGEST_FILE


# A mechanism, by a word that no way of building it can do without, and the files it may stand in.
HOMES = {
    "a process is started": (r"\bPopen\b", {"benchmarks.worker", "benchmarks.scienceworld", "lifeline", "serving.launch"}),
    "a process ends with its parent": (r"PDEATHSIG|pidfd_open", {"lifeline"}),
    "a request is made again": (r"\bbackoff \*", {"retry"}),
    "a file or folder is written aside": (r"\bmkstemp\b|\bmkdtemp\b", {"files"}),
    "a file's content is hashed": (r"\bfile_digest\b", {"provenance"}),
    "a list of AgentBoard's is read": (r"not a task of AgentBoard", {"benchmarks.agentboard"}),
}


@pytest.mark.parametrize(("word", "files"), HOMES.values(), ids=HOMES)
def test_a_mechanism_has_one_home(word, files):
    """A simulator's JVM is py4j's to start; a server is another program, which a guard in `lifeline` starts for `serving.launch`."""
    assert {name for name, path in MODULES.items() if re.search(word, path.read_text())} == files


@pytest.mark.parametrize("script", sorted((PACKAGE.parents[1] / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_import_what_the_package_has(script):
    """They run by hand, where a name that has moved would be seen last."""
    for node in ast.parse(script.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dllm_agents"):
            module = importlib.import_module(node.module)
            names = [alias.name for alias in node.names]
            missing = [name for name in names if not hasattr(module, name) and not importlib.util.find_spec(f"{node.module}.{name}")]
            assert not missing, f"{script.name}: {node.module} has no {', '.join(missing)}"
