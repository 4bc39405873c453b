"""A MkDocs hook: the parts of the documentation that are made from the package and from files with a home elsewhere.

A page's `<!-- name -->` is replaced by what the function of that name returns. Whole pages are the commands, the tables and figures, and
the files of PAGES.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from dllm_agents import catalogue, cli
from dllm_agents.analysis.failures import TAXONOMY
from dllm_agents.config.roles import WORKFLOWS
from dllm_agents.decoding.settings import Decoding
from dllm_agents.decoding.strategies import strategy_of
from dllm_agents.models.families import FAMILIES

ROOT = Path(__file__).parents[1]
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reference/security.md",
    "config/README.md": "reference/configuration.md",
    "tests/faults/README.md": "reference/faults.md",
    "benchmarks/RESULTS.md": "reference/measurements.md",
}
"""File of the repository -> page that shows it."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that have no file in docs/."""
    pages = {page: _moved(source, page) for source, page in PAGES.items()}
    pages |= {"reference/cli.md": commands(), "reference/results.md": results()}
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in the generated parts. Raises PluginError for a part that nothing makes."""

    def part(match: re.Match[str]) -> str:
        if match[1] not in PARTS:
            raise PluginError(f"{page.file.src_uri}: no generated part {match[1]!r}; allowed: {', '.join(PARTS)}")
        return PARTS[match[1]]()

    return markdown if page.file.src_uri in PAGES.values() else re.sub(r"<!-- ([a-z]+) -->", part, markdown)


def _moved(source: str, page: str) -> str:
    """A file's text with its links as seen from the page; what has no page there keeps its text and loses its link."""

    def link(match: re.Match[str]) -> str:
        text, target = match.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target.partition("#")[0]))
        there = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        return f"[{text}]({posixpath.relpath(there, posixpath.dirname(page) or '.')})" if there else text

    text = (ROOT / source).read_text(encoding="utf-8")
    return re.sub(r"\[([^]]+)\]\((?!https?:|#)([^)]+)\)", link, text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def commands() -> str:
    """Every command with its arguments."""
    parts = [
        "# Commands",
        "Each command names what it reads and writes and touches nothing else. `dllm-agents COMMAND --help` prints the same.",
    ]
    for name, command in cli.COMMANDS.items():
        parser = cli.parser(name)
        sub = next(action for action in parser._actions if action.dest == "STAGE" or action.choices).choices[name]  # type: ignore[index]
        rows = [
            (
                ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.dest}`",
                _argument(action),
                escape(action.help or ""),
            )
            for action in sub._actions
            if action.dest != "help"
        ]
        parts += [f"## `{name}`", command.help[0].upper() + command.help[1:] + ".", table(("argument", "value", "meaning"), rows)]
    return "\n\n".join(parts)


def _argument(action: Any) -> str:
    if action.choices:
        return ", ".join(map(str, action.choices))
    kind = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    return kind + " (required)" * action.required


def results() -> str:
    """Every table and figure."""
    parts = [
        "# Tables and figures",
        "Names are those of files below `results/<scale>/tables` and `figures`, of targets and of `report.tables`.",
    ]
    for title, entries in (("Tables", catalogue.TABLES), ("Figures", catalogue.FIGURES)):
        rows = [
            (f"`{entry.name}`", entry.title.strip(), ", ".join(f"{kind} ({where})" for kind, where in entry.needs.items()))
            for entry in entries.values()
        ]
        parts += [f"## {title}", table(("name", "what it shows", "made from (benchmarks)"), rows)]
    return "\n\n".join(parts)


def families() -> str:
    rows = ((f"`{name}`", family.attention.replace("_", "-"), f"`{family.strategy}`") for name, family in FAMILIES.items())
    return table(("`model_type` in config.json", "attention", "strategy by default"), rows)


def workflows() -> str:
    rows = (
        (f"`{name}`", *(", ".join(f"`{key}`" for key in keys) for keys in (flow.roles, flow.keys, flow.options)))
        for name, flow in WORKFLOWS.items()
    )
    return table(("workflow", "roles", "other keys of an agent that it reads", "its options"), rows)


def strategies() -> str:
    names = Decoding.model_json_schema()["properties"]["strategy"]["anyOf"][0]["enum"]
    rows = []
    for name in names:
        strategy = strategy_of(name)
        source = (ROOT / f"workflow/dllm_agents/decoding/strategies/{name}.py").read_text(encoding="utf-8")
        summary = " ".join((ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].split())
        rows.append(
            (f"`{name}`", ", ".join(strategy.attention).replace("_", "-"), strategy.block_length or "", ", ".join(strategy.caches), summary)
        )
    return table(("strategy", "attention", "block length", "caches", "what it is"), rows)


def failures() -> str:
    return table(("class", "what it is"), ((f"`{name}`", text) for name, text in TAXONOMY.items()))


def rooms() -> str:
    """The rooms of the package as a drawing: a room imports only those above it."""
    tree = ast.parse((ROOT / "tests/test_arrows.py").read_text(encoding="utf-8"))
    value = next(node.value for node in tree.body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ROOMS")
    levels = [[f"<span>{escape(room)}</span>" for room in line if not room.startswith("__")] for line in ast.literal_eval(value)]
    rows = [f"<div>{''.join(level)}</div>" for level in levels if level]
    return f'<div class="rooms" role="img" aria-label="Rooms of the package, imports going up">{"↑".join(rows)}</div>'


PARTS: dict[str, Callable[[], str]] = {part.__name__: part for part in (families, workflows, strategies, failures, rooms)}
