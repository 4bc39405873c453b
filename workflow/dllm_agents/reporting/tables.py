"""Writes the tables of the catalogue."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from dllm_agents.catalogue import TABLES, Entry, unnamed
from dllm_agents.commands import add_result, say
from dllm_agents.config import Config, load
from dllm_agents.errors import StageError
from dllm_agents.files import write_aside
from dllm_agents.reporting.captions import own_caption, setting
from dllm_agents.reporting.inputs import Inputs
from dllm_agents.reporting.layout import Table, to_csv, to_html, to_latex, to_markdown


def function(entry: Entry) -> Callable[..., Any]:
    """What makes a table or figure. Raises StageError where the catalogue names a function that is not there."""
    module, _, name = entry.source.partition(".")
    try:
        return getattr(import_module(f"dllm_agents.reporting.{module}"), name)
    except (ModuleNotFoundError, AttributeError):
        raise StageError(f"catalogue.yaml: {entry.name}: no function {name} in dllm_agents.reporting.{module}") from None


def make(name: str, inputs: Inputs) -> Table:
    """A table of a run. Raises StageError for an unknown one."""
    if name not in TABLES:
        raise StageError(unnamed(name, "table", TABLES))
    table: Table = function(TABLES[name])(inputs)
    return table


def tabulate(name: str, config: Config, results_dir: str | Path, output_base: str | Path) -> list[Path]:
    """Write a table from a run's results as `<output_base>.csv`, `.md`, `.tex` and `.html`, and `<output_base>_timing.csv` where it has
    wall-clock metrics; returns the paths. Missing scores make exactly the cells "not run". Raises StageError for an unknown table."""
    table = make(name, Inputs(config, Path(results_dir)))
    own, shared = f"{own_caption(TABLES[name])} {table.notes}".strip(), setting(TABLES[name], config)
    text = "\n\n".join(filter(None, (own, shared)))
    base = Path(output_base)
    texts = {
        f"{base}.csv": to_csv(table.rows),
        f"{base}.md": to_markdown(table.layout, text),
        f"{base}.tex": to_latex(table.layout, " ".join(text.split()), name),
        f"{base}.html": to_html(table.layout, text, name, config.run.agents),
    }
    if table.timing:
        texts[f"{base}_timing.csv"] = to_csv(table.timing)
    for path, content in texts.items():
        with write_aside(path) as handle:
            handle.write(content)
    return [Path(path) for path in texts]


add_arguments = add_result


def run(args: argparse.Namespace) -> None:
    tabulate(args.name, load(args.config), args.results, args.output)
    say(f"{args.output}.csv: written")
