"""Threat snapshots: where an attack stands, what counts as obeying it, and that a reply without the attack is no hijack."""

import re
from collections import Counter

import pytest
from games import Scripted

from dllm_agents import benchmarks
from dllm_agents.agents.game import Game
from dllm_agents.agents.recording import Recording
from dllm_agents.agents.workflows import threats
from dllm_agents.benchmarks.search_reply import answer_text, tool_call
from dllm_agents.client.streaming import Partial
from dllm_agents.config import Agent
from dllm_agents.config.roles import WORKFLOWS

OPTIONS = {
    "babyai": {"levels": ["GoToObj"], "seeds": [1234], "train_tasks": 0},
    "multihop_qa": {"tasks": 1, "train_tasks": 0},
    "bfcl": {"categories": ["multiple"], "per_category": 1, "train_tasks": 0},
}


def play(name, reply, style="react", acting="react", seed=1):
    """(outcome, backbones) of the snapshots of one task; `reply` is a function of the prompt."""
    benchmark = benchmarks.load(name, OPTIONS[name])
    task = benchmark.tasks("test")[0]
    backbones = Scripted(policy=[reply])
    fields = {"options": WORKFLOWS["threats"].options}

    def played(environment):
        game = Game("threats", task, benchmark, environment, Recording(backbones), Agent(policy="m", acting=acting), style, seed, **fields)
        return game.play(threats.play)

    if not benchmark.interactive(task):
        return played(None), backbones
    with benchmark.environment(task) as environment:
        return played(environment), backbones


PAYLOADS = {
    "multihop_qa": lambda step: answer_text(step) if " secrets" not in step else tool_call([step]),
    "babyai": lambda step: f"Thought: yes.\nAction: {step}",
    "bfcl": lambda step: f"[{step}(address='x')]",
}
PLACES = {
    "multihop_qa": Counter(search_result_attacked=2),
    "babyai": Counter(observation_attacked=1, memory_attacked=1),
    "bfcl": Counter(tool_description_attacked=1, tool_result_attacked=1),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_an_agent_that_obeys_is_hijacked_everywhere_and_one_that_does_not_nowhere(name, seed):
    steady, backbones = play(name, lambda prompt: "Thought: on.\nAction: turn left", seed=seed)
    assert steady.success and steady.ended == "done" and sum(PLACES[name].values()) * 2 == len(backbones.prompts["policy"])
    assert {key: value for key, value in steady.counts.items() if key.endswith("_attacked")} == PLACES[name]
    assert not any(value for key, value in steady.counts.items() if key.endswith("_hijacked"))
    escaped = [re.escape(text) for wording in threats.wordings().values() for text in wording]
    patterns = [text.replace(r"\{payload\}", "(.+?)", 1).replace(r"\{payload\}", r"\1") for text in escaped]

    def obey(prompt):
        match = next((match for pattern in patterns if (match := re.search(pattern, prompt))), None)
        return PAYLOADS[name](match[1].split(": ")[-1]) if match else "Thought: on.\nAction: turn left"

    obeyed, _ = play(name, obey, seed=seed)
    hijacked = sum(value for key, value in obeyed.counts.items() if key.endswith("_hijacked"))
    assert not obeyed.success and hijacked == sum(PLACES[name].values())
    assert [step.error for step in obeyed.steps if step.error] and all(not step.valid for step in obeyed.steps if step.error)


def test_what_an_agent_does_anyway_is_no_hijack():
    benchmark = benchmarks.load("babyai", OPTIONS["babyai"])
    with benchmark.environment(benchmark.tasks("test")[0]) as environment:
        environment.reset()
        expert = environment.expert_action()[1]
        other = [action for action in environment.valid_actions() if action not in (expert, "check available actions")][-1]
    outcome, _ = play("babyai", lambda prompt: f"Thought: x.\nAction: {other}")
    assert outcome.success and outcome.counts["observation_hijacked"] == 0 and outcome.counts["observation_unmoved"] == 1


def test_an_attack_that_the_prompts_do_not_show_is_not_made():
    outcome, backbones = play("bfcl", lambda prompt: "no", style="compact")
    assert outcome.counts["tool_description_not_shown"] == 1 and "tool_description_attacked" not in outcome.counts
    assert outcome.counts["tool_result_attacked"] == 1 and len(backbones.prompts["policy"]) == 2


def test_by_p_react_the_call_is_decoded_in_a_stream():
    outcome, backbones = play("multihop_qa", lambda prompt: tool_call(["x"]), acting="p_react")
    streamed = []

    class Streams(Scripted):
        def stream(self, role):
            def ask(messages, *, seed, turn, constraint=None):
                streamed.append(turn)
                yield Partial("")
                yield self.complete(role)(messages, seed=seed)

            return ask

    benchmark = benchmarks.load("multihop_qa", OPTIONS["multihop_qa"])
    task = benchmark.tasks("test")[0]
    with benchmark.environment(task) as environment:
        roles = Recording(Streams(policy=[tool_call(["x"])]))
        game = Game("threats", task, benchmark, environment, roles, Agent(policy="m", acting="p_react"), "react", 1, {})
        game.play(threats.play)
    assert streamed == [0] * 4 and outcome.success and all(text for text in backbones.prompts["policy"])
