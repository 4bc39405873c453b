"""Every table and figure of the three papers has a line for every recipe: produced by, or not, because.

A changed line is stored by `dllm-agents coverage --config config/<recipe>.yaml > tests/reporting/coverage/<recipe>.txt`.
"""

import csv
from pathlib import Path

import pytest

from dllm_agents import catalogue
from dllm_agents.cli import main
from dllm_agents.config import load
from dllm_agents.layout import PUBLISHED
from dllm_agents.reporting.coverage import UNREPEATED, coverage

ROOT = Path(__file__).parents[2]
RECIPES = ("diffuagent", "dllm_searcher", "dllm_agent", "paper")
PAPER = {name for entries in (catalogue.TABLES, catalogue.FIGURES) for name, entry in entries.items() if entry.paper}


@pytest.fixture(scope="module")
def lines():
    return {recipe: coverage(load([ROOT / "config" / f"{recipe}.yaml"])) for recipe in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES)
def test_lines_are_those_stored(recipe, lines):
    assert list(map(str, lines[recipe])) == (Path(__file__).parent / "coverage" / f"{recipe}.txt").read_text().splitlines()


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_table_and_figure_of_a_paper_has_a_line(recipe, lines):
    assert {line.result for line in lines[recipe]} >= PAPER
    assert all(": produced by " in str(line) or ": not, because " in str(line) for line in lines[recipe])


def test_every_published_row_is_repeated_but_for_weights_that_nobody_has(lines):
    own = {"diffuagent": "diffuagent_", "dllm_searcher": "searcher_", "dllm_agent": "dllm_agent_"}
    for recipe, beginning in own.items():
        for line in lines[recipe]:
            assert not line.result.startswith(beginning) or UNREPEATED not in line.absent, line


def test_a_result_whose_agents_do_not_run_is_not_produced():
    config = load([ROOT / "config" / "diffuagent.yaml"], {"run": {"agents": ["qwen3-8b"], "verification": {"agents": []}}})
    by_name = {line.result: line for line in coverage(config)}
    assert by_name["diffuagent_table1"].agents == ("qwen3-8b",)
    assert by_name["diffuagent_table1"].absent == {UNREPEATED: ["Ministral-8B", "Llada-8B", "Dream-7B", "FdLLM-7B", "DVar-8B"]}
    assert str(by_name["diffuagent_table3"]) == "diffuagent_table3: not, because the run has no agent with a memory module"
    assert "verifier replayed" in by_name["diffuagent_figure6"].why


def test_what_no_configuration_produces_names_a_published_row():
    with open(PUBLISHED / "absent.csv", newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            assert row["why"]
            if row["row"]:
                with open(PUBLISHED / f"{row['result']}.csv", newline="", encoding="utf-8") as values:
                    assert any(value["agent"] == row["row"] for value in csv.DictReader(values)), row


def test_the_command_prints_the_lines(capsys, lines):
    main(["coverage", "--config", str(ROOT / "config" / "dllm_agent.yaml")])
    assert capsys.readouterr().out.splitlines() == list(map(str, lines["dllm_agent"]))
