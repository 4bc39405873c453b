"""The manuscript: built from what is there, the rest "not run", equal bytes, numbers in sentences from the tables."""

import shutil

import pytest
from synthetic_run import configuration

from dllm_agents.errors import StageError
from dllm_agents.reporting import paper
from dllm_agents.reporting.paper import build
from dllm_agents.reporting.tables import tabulate


@pytest.fixture(scope="module")
def results(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    for name in ("diffuagent_table1", "claims", "failures"):
        tabulate(name, configuration(), finished, folder / "tables" / name)
    return folder


def test_equal_results_give_equal_bytes_without_a_date(results, tmp_path):
    first = build(configuration(), results, tmp_path / "a.pdf").read_bytes()
    assert first == build(configuration(), results, tmp_path / "b.pdf").read_bytes()
    assert first.startswith(b"%PDF")


def test_numbers_in_sentences_follow_the_tables(results, tmp_path):
    changed = tmp_path / "results"
    shutil.copytree(results, changed)
    table = changed / "tables/diffuagent_table1.csv"
    text = table.read_text()
    row = next(line for line in text.splitlines() if line.startswith("tiny-ar,babyai,,success_rate"))
    table.write_text(text.replace(row, row.replace(row.split(",")[5], "12.3456")))
    assert (
        build(configuration(), changed, tmp_path / "a.pdf").read_bytes() != build(configuration(), results, tmp_path / "b.pdf").read_bytes()
    )


def test_a_run_without_results_still_makes_a_manuscript(tmp_path):
    assert build(configuration(), tmp_path / "none", tmp_path / "p.pdf").stat().st_size > 10_000


def test_a_broken_table_is_one_line(results, tmp_path):
    broken = tmp_path / "results"
    shutil.copytree(results, broken)
    (broken / "tables/claims.csv").write_bytes(b"\xff\xfe not text")
    with pytest.raises(StageError, match="paper.typ") as caught:
        build(configuration(), broken, tmp_path / "p.pdf")
    assert "\n" not in str(caught.value)


def test_the_manuscript_cites_only_tables_and_figures_that_exist():
    import re

    from dllm_agents.reporting.figures import FIGURES
    from dllm_agents.reporting.tables import TABLES

    text = paper.MANUSCRIPT.read_text()
    cited = set(re.findall(r'(?:result-table|listing|rows)\("([a-z0-9_]+)"', text))
    assert cited <= {*TABLES, *(f"{name}_timing" for name in TABLES)}
    assert set(re.findall(r'result-figure\("([a-z0-9_]+)"', text)) <= set(FIGURES)
