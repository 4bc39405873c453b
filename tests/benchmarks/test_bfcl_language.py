"""The pattern of BFCL's calls against Python's own reading of them."""

import ast
import random
import re
import sys
from pathlib import Path

import pytest

from dllm_agents.agents import tool_calling
from dllm_agents.benchmarks.bfcl_language import call_pattern
from dllm_agents.config import Agent
from dllm_agents.decoding.constraints import language
from dllm_agents.decoding.constraints.automata import compile_expression
from dllm_agents.records import Call, Task

FUNCTIONS = [
    {
        "name": "math.area",
        "parameters": {
            "type": "dict",
            "properties": {"base": {"type": "integer"}, "unit": {"type": "string", "enum": ["cm", "it's"]}, "exact": {"type": "boolean"}},
            "required": ["base"],
        },
    },
    {"name": "now", "parameters": {"type": "dict", "properties": {}, "required": []}},
    {
        "name": "send",
        "parameters": {
            "type": "dict",
            "properties": {
                "to": {"type": "array", "items": {"type": "string"}},
                "size": {"type": "float"},
                "place": {"type": "tuple", "items": {"type": "float"}},
                "options": {"type": "dict", "properties": {"deep": {"type": "boolean"}}},
            },
            "required": ["to", "size"],
        },
    },
]
sys.path.insert(0, str(Path(__file__).parents[1] / "decoding"))
from languages import Texts  # noqa: E402

READ = [
    "[math.area(base=3)]",
    "[math.area(unit='cm', base=3), now()]",
    'math.area( exact = True ,base=-3, unit="it\'s" )',
    "```[send(to=['a', \"b\"], size=2.50, place=(1, 2.5), options={'deep': False})]```",
    "[send(to=[], size=1e3)]",
]
NOT_READ = [
    "[area(base=3)]",
    "[math.area(unit='cm')]",
    "[math.area(base=3, base=4)]",
    "[math.area(base='3')]",
    "[math.area(base=03)]",
    "[math.area(base=3, unit='m')]",
    "I will call [now()]",
    "[now(]",
    "[]",
]


@pytest.fixture(scope="module")
def automaton():
    return compile_expression(language({"regex": call_pattern(FUNCTIONS)}))


def test_calls_as_they_may_be_written(automaton):
    pattern = re.compile(call_pattern(FUNCTIONS))
    assert all(automaton.accepts(text.encode()) and pattern.fullmatch(text) for text in READ)
    assert not any(automaton.accepts(text.encode()) or pattern.fullmatch(text) for text in NOT_READ)


def test_every_text_is_calls_that_python_reads(automaton):
    texts = Texts(automaton, random.Random(0))
    names = set()
    for _ in range(300):
        text = texts.text(80).decode().strip("`\n ")
        for call in ast.parse(f"[{text.removeprefix('[').removesuffix(']')}]", mode="eval").body.elts:
            names.add(ast.unparse(call.func))
            keys = [keyword.arg for keyword in call.keywords]
            assert len(keys) == len(set(keys)) and not call.args
            for keyword in call.keywords:
                ast.literal_eval(keyword.value)
    assert names == {"math.area", "now", "send"}


class Prompting:
    """A benchmark that only writes its prompt."""

    def messages(self, task):
        return [{"role": "user", "content": task.goal}]


@pytest.mark.parametrize(
    "category, language_, held", [("simple", "Python", True), ("irrelevance", "Python", False), ("java", "Java", False)]
)
def test_an_agent_is_held_to_calls_where_one_is_wanted(category, language_, held, monkeypatch):
    data = {"functions": FUNCTIONS, "language": language_}
    task = Task(id="bfcl/x", benchmark="bfcl", category=category, split="test", goal="go", data=data, seed=0, version="1")
    monkeypatch.setattr(tool_calling.prompts, "tool_messages", lambda style, benchmark, task: benchmark.messages(task))
    heard = []

    def complete(messages, *, seed, constraint=None):
        heard.append(constraint)
        return Call(role="policy", seed=seed, text="[now()]")

    for constrain in (Agent(policy="x", constrain=True).constrain, Agent(policy="x").constrain):
        tool_calling.answer(Prompting(), task, complete, style="", seed=0, constrain=constrain)
    assert heard == [{"regex": call_pattern(FUNCTIONS)} if held else None, None]
