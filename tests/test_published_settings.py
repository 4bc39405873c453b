"""Paper scale is the published experiment: every published setting is the recipe's, or says why not."""

import csv
from pathlib import Path

import pytest
import yaml

from dllm_agents.config import load

ROOT = Path(__file__).parents[1]
RECIPES = ("diffuagent", "dllm_searcher", "dllm_agent")
with (ROOT / "paper" / "published" / "settings.csv").open(encoding="utf-8", newline="") as handle:
    SETTINGS = list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def recipes():
    return {name: load([ROOT / "config" / f"{name}.yaml"]) for name in (*RECIPES, "paper")}


def ours(config, key):
    """The value at a dotted key of a checked configuration."""
    value = config
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


def same(value, published):
    read = yaml.safe_load(published)
    if isinstance(value, list):
        return value == published.split(",")
    if isinstance(value, float):
        return value == pytest.approx(float(published))
    return value == read


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row["key"])
def test_a_published_setting_is_ours_or_says_why_not(recipes, row):
    for recipe in (row["recipe"], "paper"):
        value = ours(recipes[recipe], row["key"])
        if row["reason"]:
            assert recipe == "paper" or not same(value, row["value"]), "is as published; drop the reason"
        else:
            assert same(value, row["value"]), f"{recipe}: {row['key']} is {value!r}, published: {row['value']} ({row['source']})"


def test_every_row_names_its_source():
    assert SETTINGS and all(row["source"].strip() and row["paper"] and row["key"] for row in SETTINGS)
    assert len({(row["recipe"], row["key"]) for row in SETTINGS}) == len(SETTINGS)


def test_the_joined_recipe_plays_what_the_three_play(recipes):
    played = {
        name: {(agent, benchmark) for agent in c.run.agents for benchmark in c.agent_benchmarks(agent)} for name, c in recipes.items()
    }
    parts = set().union(*(played[name] for name in RECIPES))
    scripted = {pair for pair in played["paper"] if pair[0] in ("random", "empty", "teacher")}
    assert played["paper"] - scripted == {pair for pair in parts if pair[0] not in ("random", "empty", "teacher")}


def test_no_table_plans_agents_that_it_does_not_show(recipes):
    assert set(recipes["diffuagent"].run.benchmarks) == {"alfworld", "scienceworld", "babyai", "bfcl"}
    assert recipes["dllm_searcher"].run.benchmarks == ["multihop_qa"]


def test_trained_searchers_act_in_both_ways(recipes):
    agents = recipes["dllm_searcher"].run.agents
    assert {f"sdar-8b{stage}-{acting}" for stage in ("", "-sft", "-vrpo") for acting in ("react", "p-react")} <= set(agents)


def test_a_searcher_decodes_one_token_a_step(recipes):
    """128 steps in a block of 128 (section 5.1.3), in every agent that is run."""
    config = recipes["dllm_searcher"]
    for agent in config.run.agents:
        if agent.startswith("sdar"):
            decoding = config.decoding(agent, "policy", "multihop_qa")
            assert (decoding.block_length, decoding.steps_per_block, decoding.steps) == (128, 128, None), agent
