"""Replay: the stored answers fed back give the same episodes, byte for byte but for times, for every workflow."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dllm_agents import benchmarks
from dllm_agents.agents.deepdiver import tools
from dllm_agents.agents.recording import timeless
from dllm_agents.agents.rollout import Shard, rollout
from dllm_agents.client.client import Client, ServerFault
from dllm_agents.config import Config
from dllm_agents.config.roles import WORKFLOWS
from dllm_agents.errors import StageError
from dllm_agents.files import read_jsonl, write_jsonl
from dllm_agents.records import Episode, EpisodeStep, Trajectory
from dllm_agents.tool_calls import call_text

OPTIONS = {
    "babyai": {"levels": ["GoToRedBallNoDists"], "seeds": [1234, 1235, 1236], "max_steps": 8},
    "bfcl": {"categories": ["multiple", "multi_turn_base", "multi_turn_miss_func"], "per_category": 2},
    "multihop_qa": {"tasks": 3, "tool_delay": [0.01, 0.0]},
}
AGENTS = {
    "react": ("babyai", {"history": "recent"}),
    "memory and verifier": ("babyai", {"memory": {"backbone": "m", "every": 2}, "verifier": {"backbone": "m", "every": 3}}),
    "limited": ("babyai", {"max_tokens": 5}),
    "tool calling": ("bfcl", {}),
    "selector": ("bfcl", {"selector": {"backbone": "m"}}),
    "editor": ("bfcl", {"editor": {"backbone": "m"}}),
    "selector and editor": ("bfcl", {"selector": {"backbone": "m"}, "editor": {"backbone": "m"}}),
    "search": ("multihop_qa", {}),
    "p_react": ("multihop_qa", {"acting": "p_react"}),
    "tool_first": ("multihop_qa", {"acting": "tool_first"}),
    "deepdiver": ("multihop_qa", {"workflow": "deepdiver", "seeker": "m"}),
    "planner": ("multihop_qa", {"workflow": "planner", "seeker": "m"}),
    "search_r1": ("multihop_qa", {"dialect": "search_r1"}),
    **{
        name: (where, {"workflow": name})
        for name, where in {
            **dict.fromkeys(["iter_retgen", "ircot", "sure", "selective_context", "adaptive_rag", "search_o1"], "multihop_qa"),
            **dict.fromkeys(["llm_compiler", "multi_llm", "router"], "multihop_qa"),
            **dict.fromkeys(["maker", "autotool", "threats"], "babyai"),
            "self_healing": "bfcl",
        }.items()
    },
}
WEB_SEARCH = call_text({"name": "batch_web_search", "arguments": {"queries": ["mother of Adela"]}})
WRITE = call_text({"name": "file_write", "arguments": {"file_path": "notes.md", "content": "Zora"}})
FINISHED = {"task_summary": "Zora", "task_name": "", "key_files": [], "completion_status": "completed"}
REPORT = WRITE + call_text({"name": tools.SEEKER_DONE, "arguments": FINISHED})
DONE = call_text({"name": tools.PLANNER_DONE, "arguments": {**FINISHED, "final_answer": "Zora"}})
ASSIGN = call_text({"name": tools.ASSIGN, "arguments": {"tasks": [{"task_content": "mother of Adela"}, {"task_content": "who is Adela?"}]}})
CALL = '<think>I look.</think>\n<tool_call>{"name": "search", "arguments": {"query": ["mother of Adela"]}}</tool_call>'


def says(prompt: str) -> str | int:
    """Something of use to every role; not always the same, and sometimes a refusal, so that a replay has something to miss."""
    if "decide whether it should stop" in prompt:
        return "YES\nIt goes in circles." if prompt.count("Action:") >= 6 else "NO"
    if "You keep the memory" in prompt:
        return f"{len(prompt)} letters were read"
    if "Choose the tools" in prompt:
        return json.dumps([prompt.partition("Tools:\n- ")[2].partition(":")[0]])
    if "You correct the format" in prompt:
        return "UNCHANGED" if len(prompt) % 2 else "[cd(folder='temp')]"
    if "You plan how a question is researched" in prompt:
        return DONE if "info_seeker" in prompt.partition("Question: ")[2] or prompt.count("<tool_response>") > 1 else ASSIGN
    if "You are an information seeker" in prompt:
        return REPORT if "<tool_response>" in prompt else WEB_SEARCH
    if "You plan how" in prompt:
        return "<plan>[]</plan>" if "Finding:" in prompt else '<plan>["mother of Adela", "birthplace of #1"]</plan>'
    if "Answer the question from the findings" in prompt:
        return "<answer>Zora</answer>"
    if "You act in a text environment" in prompt:
        if prompt.rpartition("Now it is your turn")[2].count("Action:") > 2:
            return 400
        return "no idea" if len(prompt) % 3 == 0 else "Thought: on.\nAction: move forward"
    if "You plan how a question is answered" in prompt:
        return "Next: summariser." if "Results:" in prompt else "I need the mother. Next: caller."
    if "Plan how to answer the question by calls" in prompt:
        return '1. search("mother of Adela")\n2. search("birthplace of $1")\n3. search("teacher of Adela")\n4. join()'
    if "Replan(what is missing)" in prompt:
        return "Replan(more)" if len(prompt) % 2 else "Finish(Zora)"
    if "<search>" in prompt:
        return "<search> mother of Adela </search>"
    if "search engine" in prompt or "<tool_response>" in prompt:
        return "<think>Found.</think><answer>Zora</answer>" if "mother of Adela" in prompt or "Adela" in prompt else CALL
    return "Done." if '"role": "tool"' in prompt or "'role': 'tool'" in prompt else "[cd(folder='document')]"


def taught(config: Config, name: str) -> list[Trajectory]:
    """A few tasks as the teacher plays them, for the workflows that learn."""
    benchmark = benchmarks.load(name, config)
    found = []
    for task in [] if name == "bfcl" else benchmark.tasks("train")[:4]:
        with benchmark.environment(task) as environment:
            opened = environment.reset()
            steps = [EpisodeStep(index=0, action=(environment.expert_action() or ("", ""))[1])]
            steps[0].observation = environment.step(steps[0].action or "").observation
        fields = {"teacher": "teacher", "seed": 1, "success": True, "progress": 1.0}
        found.append(Trajectory(task=task, initial_observation=opened, steps=steps, **fields))
    return found


@pytest.mark.parametrize("name", AGENTS)
def test_stored_answers_give_the_same_episodes(tmp_path: Path, said_by_prompt: Callable[..., str], name: str) -> None:
    benchmark, fields = AGENTS[name]
    asked: list[str] = []
    url = said_by_prompt(lambda prompt: (asked.append(prompt), says(prompt))[1])
    config = Config.model_validate(
        {
            "benchmarks": OPTIONS,
            "backbones": {"m": {"url": url}},
            "agents": {"a": {"policy": "m", **fields}},
            "run": {"agents": ["a"], "benchmarks": [benchmark]},
        }
    )
    write_jsonl(tmp_path / "tasks.jsonl", benchmarks.load(benchmark, config).tasks("test"))
    write_jsonl(tmp_path / "accepted.jsonl", taught(config, benchmark))
    shard = partial(Shard, tmp_path / "tasks.jsonl", trajectories=tmp_path / "accepted.jsonl")
    rollout(config, "a", shard(tmp_path / "one.jsonl"))
    answered = len(asked)
    rollout(config, "a", shard(tmp_path / "two.jsonl", replay=tmp_path / "one.jsonl"))
    first, second = (read_jsonl(tmp_path / part, Episode) for part in ("one.jsonl", "two.jsonl"))
    assert len(asked) == answered and all(item.calls and item.ended != "error" for item in first)
    assert [json.dumps(timeless(item)) for item in first] == [json.dumps(timeless(item)) for item in second]
    roles = {role for item in first for role in item.usage}
    assert {role for role in ("memory", "verifier", "selector", "editor", "seeker") if role in fields} <= roles
    assert {item.ended for item in first} >= {"limited": {"token_limit"}, "memory and verifier": {"early_exit"}}.get(name, set())


@pytest.mark.parametrize("name", [name for name, (_, fields) in AGENTS.items() if fields.get("workflow") == name and name in WORKFLOWS])
def test_a_rollout_that_was_stopped_goes_on_to_the_same_episodes(
    tmp_path: Path, said_by_prompt: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    benchmark, fields = AGENTS[name]
    agents = {"a": {"policy": "m", "concurrency": 1, **fields}}
    config = Config.model_validate({"benchmarks": OPTIONS, "backbones": {"m": {"url": said_by_prompt(says)}}, "agents": agents})
    write_jsonl(tmp_path / "tasks.jsonl", benchmarks.load(benchmark, config).tasks("test"))
    write_jsonl(tmp_path / "accepted.jsonl", taught(config, benchmark))
    shard = partial(Shard, tmp_path / "tasks.jsonl", trajectories=tmp_path / "accepted.jsonl")
    rollout(config, "a", shard(tmp_path / "whole.jsonl"))
    whole = [json.dumps(timeless(item)) for item in read_jsonl(tmp_path / "whole.jsonl", Episode)]
    left = iter(range(sum(len(json.loads(item)["calls"]) for item in whole) // 2))
    complete = Client.complete

    def stops(self: Client, *arguments: object, **more: object) -> object:
        if next(left, None) is None:
            raise ServerFault("killed")
        return complete(self, *arguments, **more)

    monkeypatch.setattr(Client, "complete", stops)
    with pytest.raises((StageError, ServerFault)):
        rollout(config, "a", shard(tmp_path / "again.jsonl"))
    monkeypatch.undo()
    rollout(config, "a", shard(tmp_path / "again.jsonl"))
    assert [json.dumps(timeless(item)) for item in read_jsonl(tmp_path / "again.jsonl", Episode)] == whole


def test_a_replay_of_other_tasks_or_another_agent_is_refused(tmp_path: Path, said_by_prompt: Callable[..., str]) -> None:
    agents = {"a": {"policy": "m"}, "b": {"policy": "m"}}
    fields = {"benchmarks": OPTIONS, "backbones": {"m": {"url": said_by_prompt(says)}}, "agents": agents}
    config = Config.model_validate(fields)
    tasks = benchmarks.load("babyai", config).tasks("test")
    write_jsonl(tmp_path / "tasks.jsonl", tasks)
    write_jsonl(tmp_path / "fewer.jsonl", tasks[:1])
    rollout(config, "a", Shard(tmp_path / "fewer.jsonl", tmp_path / "one.jsonl"))
    with pytest.raises(StageError, match="no whole episode is stored"):
        rollout(config, "a", Shard(tmp_path / "tasks.jsonl", tmp_path / "two.jsonl", replay=tmp_path / "one.jsonl"))
    with pytest.raises(StageError, match="was played by a, not b"):
        rollout(config, "b", Shard(tmp_path / "fewer.jsonl", tmp_path / "two.jsonl", replay=tmp_path / "one.jsonl"))
    one = read_jsonl(tmp_path / "one.jsonl", Episode)[0]
    write_jsonl(tmp_path / "one.jsonl", [one.model_copy(update={"calls": one.calls[:2]})])
    with pytest.raises(StageError, match="has no answer of policy"):
        rollout(config, "a", Shard(tmp_path / "fewer.jsonl", tmp_path / "two.jsonl", replay=tmp_path / "one.jsonl"))
