"""Where this package differed from the papers when it was read line by line against them: for each finding the test that fails on what it
was then. What no other file tests is tested here."""

import re
from pathlib import Path

import pytest

from dllm_agents import prompts
from dllm_agents.config import load
from dllm_agents.reporting import published
from dllm_agents.reporting.claims import load_claims
from dllm_agents.reporting.dllm_agent import attention_rows
from dllm_agents.reporting.inputs import Inputs

TESTS = Path(__file__).parent
RECIPE = TESTS.parent / "config" / "diffuagent.yaml"
SETTINGS = "test_published_settings.py::test_a_published_setting_is_ours_or_says_why_not"
FINDINGS = {
    "1 Qwen3 thinks": "serving/test_launch.py::test_thinking_is_switched_by_the_template_alone",
    "2 prompts without instruction, example and action list": "test_fidelity.py::test_a_prompt_holds_instruction_example_and_actions",
    "3 DLLM-Searcher's own rows": "test_published_settings.py::test_a_searcher_decodes_one_token_a_step",
    "4 strict and modest exchanged": "test_fidelity.py::test_strict_leaves_for_any_reason_and_modest_for_a_good_one",
    "5 tokens of BFCL answers": SETTINGS,
    "6 one context for all benchmarks": "serving/test_launch.py::test_each_benchmark_has_its_own_context",
    "7 block lengths and caches of the release": SETTINGS,
    "8 averages of search agents": "reporting/test_beside_published.py::test_the_average_of_our_search_agents_is_the_mean_of_four_sets",
    "9 recent agents outside Table 3": "reporting/test_beside_published.py::test_agents_that_see_recent_steps_alone_stand_in_table_3_only",
    "10 Figure 7's bars": "reporting/test_beside_published.py::test_figure_7_has_a_bar_of_the_agent_alone",
    "11 published twins": "reporting/test_beside_published.py::test_published_numbers_stand_beside_ours_in_tables_3_and_6",
    "12 noise that does not act": "training/test_stage.py::test_as_shipped_replies_begin_with_a_block_and_what_follows_in_it_is_masked",
    "13 one draw for SFT and VRPO": "benchmarks/test_multihop_qa.py::test_preferences_have_a_draw_of_their_own",
    "14 systems without code": "reporting/test_coverage.py::test_every_published_row_is_repeated_but_for_weights_that_nobody_has",
    "15 DLLM Agent without training": "test_fidelity.py::test_the_teams_of_dllm_agent_are_trained_alike_and_their_attention_is_read",
    "16 claims that test something else": "test_fidelity.py::test_claims_name_the_categories_and_constants_of_their_statements",
    "17 steps in neither memory nor window": "agents/test_modules.py::test_every_interaction_is_in_the_memory_or_in_the_window",
    "18 windows that no caption names": "test_published_settings.py::"
    "test_captions_say_which_slots_of_a_prompt_are_filled_and_how_far_back_an_agent_sees",
    "19 a selector that sees one request": "agents/test_tool_calling.py::"
    "test_the_selector_is_asked_before_every_reply_with_what_was_done_so_far",
    "20 calls forced on every turn": "decoding/test_tool_prefill.py::test_the_turn_rule_says_which_tags_a_turn_gets",
    "21 one reading of ACC_R": "reporting/test_beside_published.py::test_word_cover_stands_beside_containment",
    "22 generated data": "test_preflight.py::test_stand_ins_and_counts_above_what_exists_are_noted",
    "23 inconsistencies": "test_fidelity.py::test_inconsistencies_are_those_of_the_papers_own_tables",
}


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_has_its_test(finding):
    file, _, name = FINDINGS[finding].partition("::")
    assert re.search(rf"^def {name}\(", (TESTS / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize("benchmark", ["alfworld", "babyai", "scienceworld"])
def test_a_prompt_holds_instruction_example_and_actions(benchmark):
    style = load([RECIPE]).backbones["qwen3-8b"].prompt
    instruction, example = (prompts.slot(style, folder, benchmark) for folder in prompts.SLOTS)
    (message,) = prompts.embodied_messages(style, benchmark, "the goal", "You stand here.", [])
    assert instruction in message["content"] and example in message["content"]
    assert re.search(r"Thought: .*\n+Action: ", example) and "action" in instruction.lower()
    if benchmark == "babyai":
        assert all(action in instruction for action in ("turn left", "turn right", "move forward", "go to", "pickup", "toggle"))


def test_strict_leaves_for_any_reason_and_modest_for_a_good_one():
    strict, modest = (
        prompts.render("react", "early_exit.j2", goal="g", initial_observation="o", steps=[], strength=strength, instruction="Do it.")
        for strength in ("strict", "modest")
    )
    assert "YES if any one of these holds" in strict and len(re.findall(r"^\d\. ", strict, re.MULTILINE)) == 4
    assert "YES only if there is good reason" in modest and "1." not in modest
    assert all("Do it." in text and "say why" in text for text in (strict, modest))


def test_the_teams_of_dllm_agent_are_trained_alike_and_their_attention_is_read():
    config = load([TESTS.parent / "config" / "dllm_agent.yaml"])
    teams = {agent: config.backbones[config.agents[agent].policy].training for agent in config.trained_teams("multihop_qa")}
    assert {"pangu-ar-team", "pangu-dllm-team", *(f"pangu-block{switch}-team" for switch in ("", "-noisy", "-naive"))} <= set(teams)
    alike = ("mixture", "budget_factor", "learning_rate", "warmup")
    assert len({str([getattr(training, name) for name in alike]) for training in teams.values()}) == 1
    inputs = Inputs(config, Path("no-results"))
    assert {(agent, stage) for agent, stage in attention_rows(inputs)} == {
        (agent, stage) for agent in teams for stage in ("plan", "search")
    }


def test_claims_name_the_categories_and_constants_of_their_statements():
    claims = load_claims()
    (loops,) = claims["dllms_loop_more"].tests
    assert loops.published == 60.0, "1142 of 1344 episodes against 168 of 672"
    assert claims["dllms_stay_below_ten_percent"].tests[0].expect == "mostly_at_most"
    assert all(set(test.categories) and "java" not in test.categories for test in claims["malformed_calls_and_values_dominate"].tests)
    assert claims["speed_does_not_buy_performance"].premise[0].metric == "tokens_per_second"
    teams = [claim for claim in claims.values() if claim.source.startswith("DLLM Agent")]
    assert teams and all(test.benchmarks != "embodied" for claim in teams for test in claim.tests)


def test_inconsistencies_are_those_of_the_papers_own_tables():
    listed = {(row["source"], row["where"]): row["finding"] for row in published.oddities()}
    musique = next(text for (_, where), text in listed.items() if where == "section 5.2" and "Musique" in text or "31.4" in text)
    table = {(value.agent, value.category, value.metric): value.value for value in published.values("searcher_table1")}
    ours, theirs = ((table[agent, "musique", "acc_l"], table[agent, "musique", "acc_r"]) for agent in ("DLLM-Searcher", "R1Searcher"))
    assert ours[0] < theirs[0] and ours[1] > theirs[1]
    assert all(f"{number}" in musique for number in (*ours, *theirs))
    assert not any("ReARTeR" in finding and "Musique" in finding for finding in listed.values())
