"""The Self-Healing Router on BFCL's conversations with tools that fail: Dijkstra's path, and when the backbone is asked again."""

import itertools
import random

import pytest
from games import Scripted

from dllm_agents.agents.game import Game
from dllm_agents.agents.recording import Recording
from dllm_agents.agents.workflows import self_healing
from dllm_agents.benchmarks import bfcl_faults
from dllm_agents.benchmarks.bfcl import BFCL
from dllm_agents.config import Agent, BFCLOptions
from dllm_agents.config.roles import WORKFLOWS


def functions(*names):
    return [{"name": name, "parameters": {"properties": {"x": {"type": "string"}}}} for name in names]


def shortest(layers, broken):
    """The cheapest choice of one tool in each layer, by trying all."""
    choices = itertools.product(*([(tool, cost) for tool, cost in layer.items() if tool not in broken] for layer in layers))
    return min((sum(cost for _, cost in choice) for choice in choices), default=None)


def test_the_path_is_the_cheapest_that_avoids_broken_tools():
    generator = random.Random(1)
    for _ in range(100):
        layers = [{f"t{n}{m}": generator.randint(1, 9) for m in range(generator.randint(1, 3))} for n in range(generator.randint(0, 4))]
        broken = [tool for layer in layers for tool in layer if generator.random() < 0.3]
        path = self_healing.cheapest(layers, broken)
        expected = shortest(layers, broken)
        assert (path is None) == (expected is None)
        if path is not None:
            assert sum(layer[tool] for layer, tool in zip(layers, path, strict=True)) == expected and not set(path) & set(broken)


def test_a_reply_goes_along_the_new_path_and_there_is_none_without_an_alternative():
    offered = functions("cd", "cd_backup", "ls", "cd_other")
    assert self_healing.alternatives("cd", offered) == {"cd": 1, "cd_backup": 2, "cd_other": 3}
    mended = "[cd_backup(x='a'), ls(x='c'), cd_backup(x='b')]"
    assert self_healing.rerouted("[cd(x='a'), ls(x='c'), cd(x='b')]", offered, {"cd"}) == mended
    assert self_healing.rerouted("[cd(x='a')]", offered, {"cd", "cd_backup"}) == "[cd_other(x='a')]"
    assert self_healing.rerouted("[ls(x='a')]", offered, {"ls"}) is None
    quoted = r"""[{}(x='say cd(x) and \'cd(y)\''), ls(x="cd(z)")]"""
    assert self_healing.rerouted(quoted.format("cd"), offered, {"cd"}) == quoted.format("cd_backup")


def test_the_fault_switch_offers_a_backup_for_every_function_that_fails():
    offered, faulty = bfcl_faults.with_faults(functions(*"abcdefgh"), 0.5, "seed")
    assert len(faulty) == 4 and len(offered) == 12 and bfcl_faults.with_faults(functions(*"abcdefgh"), 0.5, "seed")[1] == faulty
    assert all(f"{name}_backup" in {function["name"] for function in offered} for name in faulty)
    problem = bfcl_faults.failing(f"[{faulty[0]}(x='1')]", faulty)
    assert bfcl_faults.failed_tool(problem) == faulty[0] and bfcl_faults.failing(f"[{faulty[0]}_backup(x='1')]", faulty) is None
    assert bfcl_faults.without_backups(f"[{faulty[0]}_backup(x='1')]", faulty) == f"[{faulty[0]}(x='1')]"
    assert bfcl_faults.failed_tool("all is well") is None
    said = f"<think>{faulty[0]}(x='1') fails</think>[{faulty[0]}_backup(x='{faulty[0]}_backup(x=2) and {faulty[0]}(x=1)')]"
    assert bfcl_faults.failing(said, faulty) is None
    assert bfcl_faults.without_backups(said, faulty) == said.replace(f"[{faulty[0]}_backup(", f"[{faulty[0]}(")


@pytest.fixture(scope="module")
def bfcl():
    benchmark = BFCL(BFCLOptions(per_category=1, categories=["multi_turn_base"], faults=1.0, tasks=1))
    yield benchmark
    benchmark.checker.close()


def converse(bfcl, reply, retries=3, faulty=None):
    """(outcome, calls) on BFCL's own simulators, all of whose functions fail; `reply` is a function of the conversation."""
    task = bfcl.tasks("test")[0]
    if faulty is not None:
        task = task.model_copy(update={"data": task.data | {"faulty": faulty}})
    with bfcl.environment(task) as conversation:
        roles = Recording(Scripted(policy=[lambda prompt: reply(conversation)]))
        game = Game("self_healing", task, bfcl, conversation, roles, Agent(policy="m"), "react", 1, {"retries": retries})
        return game.play(self_healing.play), roles.in_order()


def teacher(conversation):
    return conversation.expert_action()[1]


def test_a_task_whose_tools_fail_is_solved_over_their_backups_without_asking_again(bfcl):
    outcome, calls = converse(bfcl, teacher)
    assert outcome.success and outcome.counts["reroutes"] >= 1 and "escalations" not in outcome.counts
    assert len(calls) + outcome.counts["reroutes"] == len(outcome.steps) and "_backup(" in " ".join(step.action for step in outcome.steps)
    whole, _ = converse(bfcl, teacher, faulty=[])
    assert whole.success and "reroutes" not in whole.counts


def test_a_tool_that_fails_forever_is_escalated_and_ends_in_bounds(bfcl):
    names = sorted({function["name"] for function in bfcl.tasks("test")[0].data["functions"]})
    outcome, calls = converse(bfcl, lambda conversation: f"[{names[0]}()]", faulty=names)
    assert not outcome.success and outcome.counts["escalations"] >= 1 and outcome.ended == "done"
    assert len(calls) <= (bfcl.max_steps + 1) * 10 and outcome.tools.error_type


def test_without_faults_the_tasks_are_the_published_ones():
    plain = BFCL(BFCLOptions(per_category=1, categories=["multi_turn_base"], tasks=1))
    task = plain.tasks("test")[0]
    assert "faulty" not in task.data and "faults" not in plain.version and WORKFLOWS["self_healing"].plays == ("tool_calling",)
