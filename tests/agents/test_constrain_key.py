"""What constrained agents are held to, against the readers of their replies."""

import ast
import random
import re
import sys
from functools import partial
from pathlib import Path

import pytest

from dllm_agents import prompts
from dllm_agents.agents import react, search, tool_calling
from dllm_agents.benchmarks.base import Step
from dllm_agents.benchmarks.bfcl_language import call_pattern
from dllm_agents.benchmarks.search_reply import Reply, format_failure, parse_reply
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
    "[\nmath.area(\nbase=1) , now() \n]",
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
    "[ now()]",
    "[now(),\nnow()]",
    "[now()\n ]",
]


@pytest.fixture(scope="module")
def automaton():
    return compile_expression(language({"regex": call_pattern(FUNCTIONS)}))


def test_calls_as_they_may_be_written(automaton):
    pattern = re.compile(call_pattern(FUNCTIONS))
    assert all(automaton.accepts(text.encode()) and pattern.fullmatch(text) for text in READ)
    assert not any(automaton.accepts(text.encode()) or pattern.fullmatch(text) for text in NOT_READ)


def test_every_text_is_calls_that_the_official_decoder_reads(automaton):
    """A blank behind the first bracket and a line's end between two calls are Python, and the official decoder reads neither."""
    decoder = pytest.importorskip("bfcl_eval.model_handler.utils")
    texts = Texts(automaton, random.Random(0))
    names = set()
    for _ in range(2000):
        text = texts.text(80).decode()
        assert decoder.default_decode_ast_prompting(text), text
        inside = text.strip("`\n ").removeprefix("[").removesuffix("]")
        for call in ast.parse(f"[{inside}]", mode="eval").body.elts:
            names.add(ast.unparse(call.func))
            keys = [keyword.arg for keyword in call.keywords]
            assert len(keys) == len(set(keys)) and not call.args
            for keyword in call.keywords:
                ast.literal_eval(keyword.value)
    assert names == {"math.area", "now", "send"}
    assert not automaton.accepts(f"[ {inside}]".encode()) and not automaton.accepts(f"[{inside}\n, {inside}]".encode())


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


SEARCHES = [
    '<think>who?</think>\n<tool_call>{"name": "search", "arguments": {"query": ["Ada \\"L\\"", "x"]}}</tool_call>',
    '<tool_call>\n{"arguments": {"query": "b é"}, "name": "search"}\n</tool_call>\n<think>why</think>',
    "Well. <think>done</think> <answer> 1815 </answer>",
]
NO_SEARCHES = [
    "<think>who?</think>",
    "<think>who?<answer>x</answer>",
    "<answer> </answer>",
    '<tool_call>{"name": "find", "arguments": {"query": ["a"]}}</tool_call>',
    '<tool_call>{"name": "search", "arguments": {"query": []}}</tool_call>',
    '<tool_call>{"name": "search", "arguments": {"query": [" "]}}</tool_call>',
]


def test_a_search_agent_is_held_to_replies_that_can_be_read():
    automaton = compile_expression(language(search.HELD_TO))
    assert all(automaton.accepts(text.encode()) and isinstance(parse_reply(text), Reply) for text in SEARCHES)
    assert not any(automaton.accepts(text.encode()) or isinstance(parse_reply(text), Reply) for text in NO_SEARCHES)
    texts, acted = Texts(automaton, random.Random(0)), set()
    for _ in range(300):
        text = texts.text(160).decode()
        assert format_failure(text) is None, text
        acted.add(parse_reply(text).answer is None)
    assert acted == {True, False}


@pytest.mark.parametrize("actions", [(), ("go to desk 1", "look (around)", "look")])
def test_an_embodied_agent_is_held_to_replies_with_an_action(actions):
    automaton = compile_expression(language({"regex": prompts.react_pattern(actions)}))
    written = prompts.react_completion("To act: look. It: dark.", "look")
    assert automaton.accepts(written.encode()) and automaton.accepts(f"Well.\n{written}\nObservation: dark".encode())
    assert not automaton.accepts(b"Thought: x\nAction:\nlook") and not automaton.accepts(b"Action: look")
    assert automaton.accepts(b"Thought: x\nAction: sit") != bool(actions)
    texts, read = Texts(automaton, random.Random(0)), set()
    for _ in range(300):
        reply = prompts.parse_react(texts.text(120).decode())
        assert reply is not None
        read.add(reply[1])
    assert not actions or read <= set(actions)
    assert all(automaton.accepts(prompts.react_completion("x", action).encode()) for action in actions)


def test_a_long_list_of_actions_is_left_open():
    heard = []

    def complete(messages, *, seed, constraint=None):
        heard.append(constraint)
        return Call(role="policy", seed=seed, text="Thought: x\nAction: a1")

    class Room(react.Environment):
        def reset(self):
            return "Here."

        def step(self, action):
            return Step("Here.", 0.0, False, True)

        def valid_actions(self):
            return [f"a{i}" for i in range(react.MAX_LISTED - 1 + len(heard))]

    task = Task(id="x/y/1", benchmark="scienceworld", category="y", split="test", goal="go", seed=0, version="1")
    play = partial(react.play, Room(), task, complete, style="react", list_actions=True, max_steps=3)
    play(constrain=True)
    assert [len(constraint["regex"]) > 1000 for constraint in heard] == [True, True, False]
    heard.clear()
    play()
    assert heard == [None] * 3
