"""The frame of workflows: one file, one prompt folder, one line of the table; and what is refused before a run."""

import json

import pytest
from games import Scripted, World, game, play

from dllm_agents import benchmarks, prompts
from dllm_agents.agents import workflows
from dllm_agents.agents.rollout import Shard, rollout
from dllm_agents.config import Config, load
from dllm_agents.config.roles import WORKFLOWS, Workflow
from dllm_agents.errors import StageError
from dllm_agents.files import read_jsonl, write_jsonl
from dllm_agents.layout import PROMPTS
from dllm_agents.records import Episode

OWN = '''
"""Asks twice."""

def play(game):
    for _ in range(game.options["times"]):
        reply = game.ask("ask")
    game.answer(reply.text)
'''


def test_adding_a_workflow_is_one_file_one_prompt_folder_and_one_line(tmp_path, monkeypatch, said_by_prompt):
    (tmp_path / "twice.py").write_text(OWN)
    (tmp_path / "style" / "twice").mkdir(parents=True)
    (tmp_path / "style" / "twice" / "ask.j2").write_text("Say something of: {{ question }}")
    monkeypatch.setitem(WORKFLOWS, "twice", Workflow(options={"times": 2}))
    monkeypatch.setattr(workflows, "__path__", [*workflows.__path__, str(tmp_path)])
    url = said_by_prompt(lambda prompt: "Zora" if prompt.startswith("Say something of: ") else 500)
    (tmp_path / "c.yaml").write_text(
        json.dumps(
            {
                "benchmarks": {"multihop_qa": {"tasks": 2}},
                "backbones": {"m": {"url": url, "prompt": str(tmp_path / "style")}},
                "agents": {"a": {"policy": "m", "workflow": "twice", "options": {"times": 3}}},
                "run": {"agents": ["a"], "benchmarks": ["multihop_qa"]},
            }
        )
    )
    config = load([tmp_path / "c.yaml"])
    write_jsonl(tmp_path / "tasks.jsonl", benchmarks.load("multihop_qa", config).tasks("test"))
    rollout(config, "a", Shard(tmp_path / "tasks.jsonl", tmp_path / "episodes.jsonl"))
    episodes = read_jsonl(tmp_path / "episodes.jsonl", Episode)
    assert [(len(episode.calls), episode.answer, episode.ended) for episode in episodes] == [(3, "Zora", "answered")] * 2


def test_every_workflow_has_its_module_and_its_prompts_read_by_it_alone():
    own = [name for name, workflow in WORKFLOWS.items() if workflow.plays and name not in ("planner", "deepdiver")]
    for name in own:
        module = workflows.load(name)
        assert callable(module.play) and module.__doc__ and callable(getattr(module, "learn", None)) == WORKFLOWS[name].learns
    folders = {path.name for path in (PROMPTS / "react").iterdir() if path.is_dir() and path.name in WORKFLOWS}
    for name in folders:
        hashes = {reader: prompts.readers_sha256("react", ("search", reader)) for reader in ("search", name)}
        assert hashes["search"] != hashes[name]
        compact = PROMPTS / "compact" / name
        if compact.is_dir():
            assert {path.name for path in compact.iterdir()} == {path.name for path in (PROMPTS / "react" / name).iterdir()}
    assert prompts.readers_sha256("turns", ("search", "sure")) != prompts.readers_sha256("turns", ("search",)), "borrowed from react"


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ("workflow: search_01", r"agents\.a\.workflow: unknown workflow 'search_01'; did you mean search_o1"),
        ("workflow: react", r"agents\.a\.workflow: unknown workflow 'react'"),
        ("workflow: sure, options: {candidate: 3}", r"agents\.a\.options: unknown option 'candidate'; allowed: candidates, passages"),
        ("workflow: sure, options: {candidates: many}", r"agents\.a\.options\.candidates: is 'many'; write one such as 2"),
        ("workflow: sure, options: {candidates: -1}", r"agents\.a\.options\.candidates: is -1"),
        ("options: {candidates: 2}", r"agents\.a\.options: unknown option 'candidates'; allowed: none is defined"),
        ("workflow: multi_llm, roles: {seeker: m}", r"agents\.a\.roles: unknown role 'seeker'; allowed: caller, planner, summariser"),
        ("workflow: multi_llm, roles: {caller: n}", r"agents\.a\.caller: unknown backbone 'n'"),
        ("workflow: maker, benchmarks: [multihop_qa]", r"agents\.a\.workflow: multihop_qa cannot use it"),
    ],
)
def test_what_does_not_fit_a_workflow_is_one_line(tmp_path, agent, said):
    path = tmp_path / "c.yaml"
    path.write_text(f"backbones: {{m: {{url: 'http://x'}}}}\nagents: {{a: {{policy: m, {agent}}}}}\nrun: {{agents: [a]}}\n")
    with pytest.raises(StageError, match=said) as caught:
        load([path])
    assert "\n" not in str(caught.value)


def test_roles_fall_to_the_policy_or_to_what_is_named():
    agents = {"a": {"policy": "m", "workflow": "multi_llm", "roles": {"caller": "n"}}}
    config = Config.model_validate({"backbones": {"m": {"url": "http://x"}, "n": {"url": "http://y"}}, "agents": agents})
    assert config.agent_backbones("a", "multihop_qa") == {"planner": "m", "caller": "n", "summariser": "m"}
    assert config.workflow("a", "babyai") == "react" and config.agent_backbones("a", "babyai") == {"policy": "m"}


def test_a_workflow_without_a_module_is_one_line(monkeypatch):
    monkeypatch.setitem(WORKFLOWS, "nothing", Workflow())
    with pytest.raises(StageError, match=r"workflow nothing: no module agents/workflows/nothing\.py"):
        workflows.load("nothing")


def test_searches_side_by_side_are_recorded_in_their_order_and_counted():
    world = World(first="one", second="two")
    played = game("sure", Scripted(policy=["x"]), world)
    found = played.search_all(["second", "first", " " * 3 + "third" * 200], 3)
    assert [[passage.text for passage in passages] for passages in found] == [["two"], ["one"], []]
    assert ["second" in played.outcome.steps[0].action, played.outcome.steps[1].observation] == [True, "1. T1: one"]
    assert len(played.outcome.steps[2].action) < 400 and played.counts["searches"] == 3


def test_a_prompt_that_does_not_fit_ends_the_episode():
    from dllm_agents.client.client import PromptTooLong

    def refuse(prompt):
        raise PromptTooLong("no")

    outcome, calls = play("ircot", Scripted(policy=[refuse]), World())
    assert outcome.ended == "prompt_too_long" and calls[-1].refused == "prompt_too_long"
