"""What a reader sees of a table, and its files: tidy CSV, Markdown, LaTeX (booktabs) and HTML laid out like the paper's. Cells stay rows
until they are written, so that a cell's link to its episodes comes from the row."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple
from urllib.parse import urlencode

from dllm_agents.analysis.metrics import Errors
from dllm_agents.errors import StageError
from dllm_agents.foreign import visible
from dllm_agents.records import TableRow
from dllm_agents.reporting.cells import NOT_RUN, Key, cell, counted

CSV_COLUMNS = ("agent", "benchmark", "category", "metric", "n", "value", "low", "high", "published")
PUBLISHED_BLOCK, BASELINE_BLOCK, OURS_BLOCK = "Published", "Baselines", "This run"
NO_MODULES = "no agent with such modules"


class Text(NamedTuple):
    """A cell that is not a row as it is: what it says, and the row or the episode (task, agent, benchmark) that it speaks of."""

    text: str
    about: TableRow | Mapping[str, str] | None = None


Cell = TableRow | Text | str


class Line(NamedTuple):
    """One line: its label, and a cell for every column."""

    label: str
    cells: Sequence[Cell]


class Block(NamedTuple):
    """Lines under one heading."""

    title: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Layout:
    """What a reader sees: columns as (group, name) pairs after the first, and blocks of lines."""

    corner: str
    columns: list[tuple[str, str]]
    blocks: list[Block]

    @property
    def heads(self) -> list[str]:
        """What stands over each column, the first one's too."""
        return [self.corner, *(f"{group} {name}".strip() for group, name in self.columns)]


@dataclass(frozen=True)
class Table:
    """A table: its tidy rows, what it looks like, and rows that hold wall-clock values."""

    rows: list[TableRow]
    layout: Layout
    timing: list[TableRow] = field(default_factory=list)
    notes: str = ""


def plain_heads(*names: str) -> list[tuple[str, str]]:
    """Columns without groups."""
    return [("", name) for name in names]


@dataclass
class Sheet:
    """A table while it is filled: the lines under each block's title, and the tidy rows behind them."""

    corner: str
    columns: list[tuple[str, str]]
    rows: list[TableRow] = field(default_factory=list)
    timing: list[TableRow] = field(default_factory=list)
    blocks: dict[str, list[Line]] = field(default_factory=dict)

    def line(self, label: str, cells: Sequence[Cell], rows: Iterable[TableRow] | None = None, block: str = "") -> None:
        """Add a line to a block; its tidy rows are those among its cells, where no others are named."""
        self.blocks.setdefault(block, []).append(Line(label, cells))
        self.rows += [cell for cell in cells if isinstance(cell, TableRow)] if rows is None else rows

    def table(self, notes: str = "", nobody: str = "", block: str = "", row: TableRow | None = None) -> Table:
        """The table. Where `nobody` has a line in the block a line says so, and where there is no row `row` stands for them."""
        if nobody and block not in self.blocks:
            self.blocks[block] = [Line(nobody, [NOT_RUN] * len(self.columns))]
        blocks = [Block(title, lines) for title, lines in (self.blocks or {"": []}).items()]
        return Table(self.rows or ([row] if row else []), Layout(self.corner, self.columns, blocks), self.timing, notes)


def arrange(
    rows: Iterable[TableRow],
    blocks: Sequence[tuple[str, Sequence[str]]],
    columns: Sequence[tuple[Key, tuple[str, str]]],
    corner: str,
    errors: Callable[[str, str], Errors],
    *,
    with_n: bool = False,
) -> Layout:
    """Tidy rows in the paper's layout: blocks of (title, agents) with a line per agent, a column per (key, label). With `with_n` each
    benchmark's group starts with the number of tasks; otherwise the line's largest n stands first. `errors` counts those of an agent on a
    benchmark."""
    by_key = {(row.agent, row.benchmark, row.category, row.metric): row for row in rows}
    firsts = {key[0]: key for key, _ in reversed(columns)}
    numbered = {key for benchmark, key in firsts.items() if with_n and benchmark != "average"}

    def line(agent: str, published: bool) -> Line:
        own = {key: by_key.get((agent, *key)) for key, _ in columns}
        largest = max((row for row in own.values() if row), key=lambda row: row.n or 0, default=None)
        cells: list[Cell] = [] if with_n else [count(largest, errors(agent, columns[0][0][0]))]
        for key, row in own.items():
            if key in numbered:
                cells.append(count(row, errors(agent, key[0])))
            cells.append(_placed(row, published))
        return Line(agent, cells)

    heads: list[tuple[str, str]] = [] if with_n else [("", "n")]
    for key, label in columns:
        heads += [(label[0], "n"), label] if key in numbered else [label]
    laid = [Block(title, [line(agent, title == PUBLISHED_BLOCK) for agent in agents]) for title, agents in blocks]
    return Layout(corner, heads, [block for block in laid if block.lines])


def _placed(row: TableRow | None, published: bool) -> Cell:
    """A row as it stands among published or own ones: what a paper leaves out reads "/", as it prints."""
    if published:
        return "" if row is None else "/" if row.published is None else row
    return NOT_RUN if row is None else row.missing if row.value is None else row


def count(row: TableRow | None, errors: Errors) -> Text:
    """The number of a row's episodes, and how many more ended in an error."""
    return Text(counted(row.n if row else 0, errors), row)


def shown(content: Cell) -> str:
    """What a cell says."""
    return cell(content) if isinstance(content, TableRow) else content.text if isinstance(content, Text) else content


def episodes(content: Cell, agents: Collection[str]) -> str | None:
    """Where the episodes behind a cell are in the browser; None where there are none: text, published values, what was not run."""
    about = content.about if isinstance(content, Text) else content
    if isinstance(about, TableRow):
        if about.agent not in agents or about.value is None:
            return None
        benchmark = "" if about.benchmark in ("average", "serving") else about.benchmark
        failure = about.category if about.metric == "episodes_with_failure" else ""
        about = {key: value for key, value in (("agent", about.agent), ("benchmark", benchmark), ("failure", failure)) if value}
    return f"../episodes.html#{urlencode(about)}" if isinstance(about, Mapping) else None


def to_csv(rows: Iterable[TableRow]) -> str:
    """Tidy CSV with fixed number formats, so that equal rows are equal bytes. Raises StageError for a value that is not finite."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        values = [_plain(row, name) for name in ("value", "low", "high", "published")]
        if row.value is None:
            values[0] = row.missing
        names = map(_named, (row.agent, row.benchmark, row.category, row.metric))
        writer.writerow([*names, "" if row.n is None else row.n, *values])
    return out.getvalue()


def _named(text: str) -> str:
    """A name without control characters, and with an apostrophe where a spreadsheet would take it for a formula."""
    return f"'{visible(text)}" if text[:1] in ("=", "+", "@") or (text[:1] == "-" and text[1:]) else visible(text)


def to_markdown(layout: Layout, caption: str) -> str:
    """Pipe table; the blocks' titles stand in rows of their own."""
    lines = [_pipe(map(_escape_markdown, layout.heads)), _pipe([":--", *("--:" for _ in layout.columns)])]
    for block in layout.blocks:
        if block.title:
            lines.append(_pipe([f"**{_escape_markdown(block.title)}**", *("" for _ in layout.columns)]))
        lines += [_pipe(map(_escape_markdown, (label, *map(shown, cells)))) for label, cells in block.lines]
    return "\n".join([*lines, "", *map(visible, caption.split("\n")), ""])


def to_html(layout: Layout, caption: str, name: str, agents: Collection[str] = ()) -> str:
    """A page of its own, in which the cells of these agents link to their episodes in the browser."""
    escape = html.escape
    lines = ["<tr>" + "".join(f"<th>{escape(text)}</th>" for text in layout.heads) + "</tr>"]
    for block in layout.blocks:
        if block.title:
            lines.append(f'<tr><td colspan="{len(layout.heads)}"><em>{escape(block.title)}</em></td></tr>')
        for label, cells in block.lines:
            cols = [f"<td>{escape(label)}</td>"]
            for content in cells:
                text, target = escape(shown(content)), episodes(content, agents)
                cols.append(
                    f'<td><a href="{escape(target)}">{text}</a></td>' if target and text not in ("", NOT_RUN) else f"<td>{text}</td>"
                )
            lines.append("<tr>" + "".join(cols) + "</tr>")
    body = "\n".join(lines)
    paragraphs = "\n".join(f"<p>{escape(part)}</p>" for part in caption.split("\n\n"))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title>\n'
        "<style>main { font: 14px/1.4 system-ui, sans-serif; margin: 8px; } main table { border-collapse: collapse; }\n"
        "main th, main td { padding: 3px 8px; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }\n"
        "main a { color: #0b5cad; }</style>\n"
        f"</head><body>\n<main>\n<table>\n{body}\n</table>\n{paragraphs}\n</main>\n</body></html>\n"
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
        lines += [" & ".join(map(_escape_latex, (label_, *map(shown, cells)))) + " \\\\" for label_, cells in block.lines]
    lines += ["\\bottomrule", "\\end{tabular}}", f"\\caption{{{_escape_latex(caption)}}}", f"\\label{{tab:{label}}}", "\\end{table*}", ""]
    return "\n".join(lines)


def _plain(row: TableRow, name: str) -> str:
    value = getattr(row, name)
    if value is None:
        return ""
    if value != value or value in (float("inf"), float("-inf")):
        raise StageError(f"table: {row.metric} of {row.agent} on {row.benchmark} is {value} ({name}); score the agent again")
    return f"{value:.6g}"


def _pipe(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape_markdown(text: str) -> str:
    """Text that no viewer makes a link, an image, markup or a formula of; addresses and names of people come alive by themselves."""
    return re.sub(r"([|*_<>`\\\[\]&$~@]|:(?=//)|(?<=\b[wW]{3})\.|(?<=\])\()", r"\\\1", visible(text))


def _escape_latex(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "[": "{[}",  # behind \\ it would open an option
        "*": "{*}",
    }
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in visible(text))
