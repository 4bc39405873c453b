"""The catalogue: a table or figure is one function and one entry; a bad entry is one clear line."""

import sys
from types import ModuleType

import pytest
from synthetic_run import configuration

from dllm_agents import catalogue
from dllm_agents.errors import StageError
from dllm_agents.reporting.figures import plot
from dllm_agents.reporting.layout import Block, Layout, Line, Table
from dllm_agents.reporting.rows import success_row
from dllm_agents.reporting.tables import tabulate

ENTRIES = """
tables:
  scores: {source: mine.scores, title: Scores of ours., needs: {scores: all}}
figures:
  drawn: {source: mine.drawn, title: Scores drawn., needs: {scores: babyai}, size: [2.0, 1.0]}
"""


def scores(inputs):
    """Success on BabyAI."""
    lines = [Line(agent, [success_row(inputs, agent, "babyai")]) for agent in inputs.agents]
    return Table([line.cells[0] for line in lines], Layout("Agent", [("", "Success")], [Block("", lines)]))


def drawn(inputs, figure):
    """The same as bars."""
    figure.subplots().bar(inputs.agents, [success_row(inputs, agent, "babyai").value or 0.0 for agent in inputs.agents])


def test_a_table_and_a_figure_are_one_function_and_one_entry_each(finished, tmp_path, monkeypatch):
    mine = ModuleType("dllm_agents.reporting.mine")
    mine.scores, mine.drawn = scores, drawn
    monkeypatch.setitem(sys.modules, mine.__name__, mine)
    tables, figures = catalogue.read(ENTRIES)
    monkeypatch.setitem(catalogue.TABLES, "scores", tables["scores"])
    monkeypatch.setitem(catalogue.FIGURES, "drawn", figures["drawn"])
    config = configuration(tables=["scores"], figures=["drawn"])  # known to the configuration at once
    paths = tabulate("scores", config, finished, tmp_path / "scores")
    assert {path.suffix for path in paths} == {".csv", ".md", ".tex", ".html"}
    assert "Scores of ours." in paths[1].read_text() and "agent=tiny-ar&amp;benchmark=babyai" in paths[3].read_text()
    assert all(path.stat().st_size for path in plot("drawn", config, finished, tmp_path / "drawn"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: Scores of ours., ", "", "scores: title is missing"),
        ("title: Scores", "size: [1, 1], title: Scores", "scores: unknown key 'size'"),
        (", size: [2.0, 1.0]", "", "drawn: size is missing"),
        ("scores: all", "score: all", "scores: unknown kind of result 'score'; did you mean scores"),
    ],
)
def test_a_bad_entry_is_one_line_that_names_it(old, new, message):
    with pytest.raises(StageError, match=f"catalogue.yaml: {message}") as caught:
        catalogue.read(ENTRIES.replace(old, new, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["diffuagent.table99", "nowhere.table1"])
def test_an_entry_without_its_function_is_one_line(source, tmp_path, monkeypatch):
    tables, _ = catalogue.read(ENTRIES.replace("mine.scores", source))
    monkeypatch.setitem(catalogue.TABLES, "scores", tables["scores"])
    with pytest.raises(StageError, match=f"catalogue.yaml: scores: no function {source.partition('.')[2]} in dllm_agents.reporting"):
        tabulate("scores", configuration(), tmp_path, tmp_path / "t")
