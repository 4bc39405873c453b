"""A table's rows as files: tidy CSV, and Markdown and LaTeX (booktabs) laid out like the paper's."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from dllm_agents.errors import StageError
from dllm_agents.records import TableRow

NOT_RUN = "not run"
CSV_COLUMNS = ("agent", "benchmark", "category", "metric", "n", "value", "low", "high", "published")


@dataclass(frozen=True)
class Block:
    """Rows under one heading: (row label, cells)."""

    title: str
    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Layout:
    """What a reader sees: columns as (group, name) pairs after the first, and blocks of rows."""

    corner: str
    columns: list[tuple[str, str]]
    blocks: list[Block]


@dataclass(frozen=True)
class Table:
    """A table: its tidy rows, what it looks like, and rows that hold wall-clock values. `episodes`: row label -> the episode that the row's
    example is, as the browser's link says it."""

    rows: list[TableRow]
    layout: Layout
    timing: list[TableRow] = field(default_factory=list)
    notes: str = ""
    episodes: dict[str, dict[str, str]] = field(default_factory=dict)


def number(value: float) -> str:
    """A value with one decimal, or with three significant digits when it is small."""
    return f"{value:.1f}" if value == 0 or abs(value) >= 0.1 else f"{value:.2g}"


def cell(row: TableRow | None) -> str:
    """A tidy row as a cell: value with its interval, the published value for a published row, or why there is none."""
    if row is None or (row.value is None and row.published is None):
        return NOT_RUN if row is None else row.missing
    if row.value is None:
        return number(float(row.published or 0.0))
    interval = f" [{number(row.low)}, {number(row.high)}]" if row.low is not None and row.high is not None else ""
    beside = f" (published {number(row.published)})" if row.published is not None else ""
    return f"{number(row.value)}{interval}{beside}"


def to_csv(rows: Iterable[TableRow]) -> str:
    """Tidy CSV with fixed number formats, so that equal rows are equal bytes. Raises StageError for a value that is not finite."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        values = [_plain(row, name) for name in ("value", "low", "high", "published")]
        if row.value is None:
            values[0] = row.missing
        writer.writerow([row.agent, row.benchmark, row.category, row.metric, "" if row.n is None else row.n, *values])
    return out.getvalue()


def to_markdown(layout: Layout, caption: str) -> str:
    """Pipe table; the blocks' titles stand in rows of their own."""
    header = [layout.corner, *(f"{group} {name}".strip() for group, name in layout.columns)]
    lines = [_pipe(header), _pipe([":--", *("--:" for _ in layout.columns)])]
    for block in layout.blocks:
        if block.title:
            lines.append(_pipe([f"**{_escape_markdown(block.title)}**", *("" for _ in layout.columns)]))
        lines += [_pipe([_escape_markdown(label), *map(_escape_markdown, cells)]) for label, cells in block.rows]
    return "\n".join(lines) + f"\n\n{caption}\n"


def to_html(layout: Layout, caption: str, name: str, link: Callable[[str, str, tuple[str, str]], str | None]) -> str:
    """A page of its own. `link(block title, row label, column)` says where a cell's number comes from: a part of the episode browser."""
    escape = html.escape
    head = [layout.corner, *(f"{group} {column}".strip() for group, column in layout.columns)]
    lines = ["<tr>" + "".join(f"<th>{escape(text)}</th>" for text in head) + "</tr>"]
    for block in layout.blocks:
        if block.title:
            lines.append(f'<tr><td colspan="{len(head)}"><em>{escape(block.title)}</em></td></tr>')
        for label, cells in block.rows:
            made = [f"<td>{escape(label)}</td>"]
            for column, text in zip(layout.columns, cells, strict=True):
                target = link(block.title, label, column) if text not in ("", NOT_RUN) else None
                made.append(f'<td><a href="{escape(target)}">{escape(text)}</a></td>' if target else f"<td>{escape(text)}</td>")
            lines.append("<tr>" + "".join(made) + "</tr>")
    body = "\n".join(lines)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title>\n'
        "<style>main { font: 14px/1.4 system-ui, sans-serif; margin: 8px; } main table { border-collapse: collapse; }\n"
        "main th, main td { padding: 3px 8px; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }\n"
        "main a { color: #0b5cad; }</style>\n"
        f"</head><body>\n<main>\n<table>\n{body}\n</table>\n<p>{escape(caption)}</p>\n</main>\n</body></html>\n"
    )


def to_latex(layout: Layout, caption: str, label: str) -> str:
    """A booktabs table environment, column groups over a cmidrule; needs the booktabs and graphicx packages."""
    groups = [(group, len(list(items))) for group, items in groupby(layout.columns, key=lambda column: column[0])]
    rules, start = [], 2
    for group, width in groups:
        if group:
            rules.append(f"\\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\begin{table*}[t]",
        "\\centering",
        "\\resizebox{\\textwidth}{!}{%",
        f"\\begin{{tabular}}{{l{'r' * len(layout.columns)}}}",
        "\\toprule",
    ]
    if any(group for group, _ in groups):
        lines.append(" & ".join(["", *(f"\\multicolumn{{{width}}}{{c}}{{{_escape_latex(group)}}}" for group, width in groups)]) + " \\\\")
        lines.append("".join(rules))
    lines.append(" & ".join(map(_escape_latex, [layout.corner, *(name for _, name in layout.columns)])) + " \\\\")
    for block in layout.blocks:
        lines.append("\\midrule")
        if block.title:
            lines.append(f"\\multicolumn{{{len(layout.columns) + 1}}}{{l}}{{\\emph{{{_escape_latex(block.title)}}}}} \\\\")
        lines += [" & ".join(map(_escape_latex, [label_, *cells])) + " \\\\" for label_, cells in block.rows]
    lines += ["\\bottomrule", "\\end{tabular}}", f"\\caption{{{_escape_latex(caption)}}}", f"\\label{{tab:{label}}}", "\\end{table*}", ""]
    return "\n".join(lines)


def _plain(row: TableRow, name: str) -> str:
    value = getattr(row, name)
    if value is None:
        return ""
    if value != value or value in (float("inf"), float("-inf")):
        raise StageError(f"table: {row.metric} of {row.agent} on {row.benchmark} is {value} ({name}); score the agent again")
    return f"{value:.6g}"


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape_markdown(text: str) -> str:
    return re.sub(r"([|*_<>`\\])", r"\\\1", text.replace("\n", " "))


def _escape_latex(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text.replace("\n", " "))
