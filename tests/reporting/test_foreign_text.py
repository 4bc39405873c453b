"""Text of models and data files in what others open: tables, exports, figures and the terminal."""

import csv
import html
import io
import json
import re
import shutil

import matplotlib.pyplot as plt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from workflow_run import configuration, write_run

from dllm_agents.errors import StageError
from dllm_agents.foreign import visible
from dllm_agents.records import TableRow
from dllm_agents.reporting import show as showing
from dllm_agents.reporting.export import export
from dllm_agents.reporting.layout import Block, Layout, Line, to_csv, to_latex, to_markdown
from dllm_agents.reporting.style import theme

HOSTILE = [
    "![t](http://127.0.0.1:9/p.png)|[c](javascript:x)\r\r# h\x1b[31m",
    "[x]: http://evil.example 'a'",
    "<img src=x onerror=y>&#106; www.evil.example me@evil.example https://evil.example",
    "[1in] \u2028 \u2029 \x85 \x9b31m \u202e \x07 \0 \ud800",
    "*{[}] ~~a~~ `b` $\\input{/etc/passwd}$ \\write18{x} ^^41 %",
]
TEXT = st.text(st.characters() | st.sampled_from("[]()!<>&|*_`~$@:/\\.w#\r\x1b\u2028"), max_size=12) | st.sampled_from(HOSTILE)
# What viewers make links of by themselves.
ADDRESS = re.compile(r"(?<!\\)(?::(?=//)|@)|www\.", re.IGNORECASE)
TAGS = ("p", "table", "thead", "tbody", "tr", "th", "td", "strong")
VIEWER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def layout(text):
    text = f"x{text}"
    return Layout(text, [(text, text)], [Block(text, [Line(text, [text])])])


@given(TEXT)
def test_a_markdown_table_keeps_its_rows_and_nothing_in_it_comes_alive(text):
    page = to_markdown(layout(text), "A caption.")
    lines = page.splitlines()
    assert len(lines) == 6 and lines[4:] == ["", "A caption."]
    page.encode()
    assert not ADDRESS.search(page)
    seen = VIEWER.render(page)
    assert set(re.findall(r"<(/?\w+)", seen)) <= {f"{end}{tag}" for end in ("", "/") for tag in TAGS}
    corner = re.search(r"<th[^>]*>(.*?)</th>", seen)
    assert corner is not None
    assert html.unescape(corner[1]).split() == visible(f"x{text}").split()


@given(TEXT)
def test_a_latex_table_keeps_its_rows_and_runs_no_command_of_a_cell(text):
    page = to_latex(layout(text), "A caption.", "t")
    assert len(page.splitlines()) == len(to_latex(layout("x"), "A caption.", "t").splitlines())
    plain = to_latex(layout("x"), "A caption.", "t")
    own = set(re.findall(r"\\[a-zA-Z]+", plain)) | {
        rf"\text{name}" for name in ("backslash", "asciitilde", "asciicircum", "less", "greater")
    }
    assert set(re.findall(r"\\[a-zA-Z]+", page)) <= own
    assert not re.search(r"\\\\\s*[\[*]", page)
    page.encode()


@given(TEXT | st.sampled_from(["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "\r=1", "-"]))
def test_a_name_in_a_csv_file_is_no_formula_and_no_control_character(text):
    row = TableRow(agent=text, benchmark=text, category=text, metric=text, n=1, value=-1.0)
    (_, cells) = csv.reader(io.StringIO(to_csv([row])))
    for name in cells[:4]:
        assert not re.match(r"[=+@\t\r]|-.", name) and name.removeprefix("'") == visible(text).removeprefix("'") and visible(name) == name
    assert cells[5].startswith("-1")


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_table_shows_in_a_terminal_is_text(text, tmp_path):
    path = tmp_path / "scoreboard.md"
    path.write_text(f"| {text} |\n| next |\n".encode("utf-8", "replace").decode())
    printed = showing._text(path)
    assert "next" in printed and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", printed)


def test_a_figure_takes_a_dollar_sign_for_one():
    theme()
    figure, axes = plt.subplots()
    axes.set_title(r"$\frac{$ and $x")
    figure.canvas.draw()
    plt.close(figure)


@pytest.mark.parametrize("started", ["../../UP", "OUT/ABS", "x" * 400, "2026-01-01/00:00:00", "2026-01-01T00:00:00+00:00\n../x", "\0"])
def test_a_stored_episode_names_no_file_of_an_export(started, tmp_path):
    results = write_run(tmp_path / "run")
    path = next((results / "episodes").rglob("*.jsonl"))
    episodes = [json.loads(line) | {"started": started} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(episode) + "\n" for episode in episodes))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    for form in ("inspect", "datasets"):
        with pytest.raises(StageError, match=rf"{path.name}:1: not a TracedEpisode record \(started: "):
            export(configuration(), results, tmp_path / "out" / "here", form)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
