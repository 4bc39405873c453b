"""Paper scale is the published experiment: every published setting is the recipe's, or says why not."""

from pathlib import Path

import pytest

from dllm_agents import catalogue
from dllm_agents.config import load
from dllm_agents.reporting.captions import caption
from dllm_agents.reporting.deviations import is_published, published_settings, value_at

ROOT = Path(__file__).parents[1]
RECIPES = ("diffuagent", "dllm_searcher", "dllm_agent")
SETTINGS = published_settings()


@pytest.fixture(scope="module")
def recipes():
    return {name: load([ROOT / "config" / f"{name}.yaml"]) for name in (*RECIPES, "paper")}


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row["key"])
def test_a_published_setting_is_ours_or_says_why_not(recipes, row):
    for recipe in (row["recipe"], "paper"):
        value, published = value_at(recipes[recipe], row["key"]), is_published(recipes[recipe], row)
        if row["reason"]:
            assert not published, f"{recipe}: {row['key']} is as published; drop the reason"
        else:
            assert published, f"{recipe}: {row['key']} is {value!r}, published: {row['value']} ({row['source']})"


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


@pytest.mark.parametrize("row", [row for row in SETTINGS if row["reason"]], ids=lambda row: row["key"])
def test_captions_say_of_a_setting_that_is_changed_by_choice_what_was_published_and_why(recipes, row):
    benchmark = row["key"].split(".")[1]
    entries = [entry for entry in catalogue.TABLES.values() if entry.paper == row["paper"]]
    reading = [entry for entry in entries if {benchmark, "embodied", "all"} & set(entry.needs.values())]
    said = f"published: {row['value']} ({row['reason']})."
    assert any(f"{row['key']}: " in (text := caption(entry, recipes[row["recipe"]])) and said in text for entry in reading)


def test_captions_say_what_a_run_changes_of_its_own_accord():
    config = load([ROOT / "config" / "diffuagent.yaml"], {"backbones": {"qwen3-8b": {"thinking": True}}})
    said = caption(catalogue.TABLES["diffuagent_table1"], config)
    assert "backbones.qwen3-8b.thinking: true, published: false" in said
    assert "qwen3-8b.thinking" not in caption(catalogue.TABLES["diffuagent_table1"], load([ROOT / "config" / "diffuagent.yaml"]))


def test_captions_say_which_slots_of_a_prompt_are_filled_and_how_far_back_an_agent_sees(tmp_path):
    said = caption(catalogue.TABLES["diffuagent_table3"], load([ROOT / "config" / "diffuagent.yaml"]))
    assert "prompt react with an instruction and an example of our own for ALFWorld, ScienceWorld, BabyAI" in said
    assert "agents see all earlier steps; those without memory (w/o) the last 2" in said
    (tmp_path / "embodied.j2").write_text("{{ goal }} {{ steps }}")
    own = load([ROOT / "config" / "diffuagent.yaml"], {"backbones": {"qwen3-8b": {"prompt": str(tmp_path)}}})
    assert f"prompt {tmp_path} without instruction and example" in caption(catalogue.TABLES["diffuagent_table1"], own)
