"""A thought is told from the rest of a reply in one place."""

import re
from pathlib import Path

import pytest

from dllm_agents import prompts, thoughts
from dllm_agents.benchmarks.search_reply import THINK_FORMAT_ERROR, parse_reply

PACKAGE = Path(thoughts.__file__).parent


@pytest.mark.parametrize(
    ("text", "read", "unclosed"),
    [
        ("Go.", None, False),
        ("<think> a </think>b", ("", "a", "b"), False),
        ("x<think>a", ("x", "a", None), True),
        ("<think>a<think>b</think>c", ("", "a<think>b", None), False),
        ("<think>a</think>b<think>c", ("", "a", "b<think>c"), True),
        ("a</think>b", None, False),
    ],
)
def test_a_thought_is_read(text, read, unclosed):
    assert thoughts.first(text) == read
    assert thoughts.unclosed(text) == unclosed


def test_what_is_written_is_read_back():
    assert thoughts.first(thoughts.written("a") + "b") == ("", "a", "b")


def test_an_action_inside_a_thought_is_none():
    reply = "Thought: left\nAction: turn left"
    assert prompts.parse_react(f"<think>Thought: no Action: drop</think>\n{reply}") == ("left", "turn left")
    assert prompts.parse_react(f"<think>maybe\n{reply}") is None
    assert parse_reply('<think>maybe <tool_call>{"name": "search", "arguments": {"query": "a"}}</tool_call>') == THINK_FORMAT_ERROR


def test_no_other_file_spells_the_closing_tag():
    """But for the tokenizer and the chat templates, which hold the tags as tokens, and what cuts a reply into parts by any tag."""
    spelling = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if re.search(r'"[^"`\n]*</think>', path.read_text())]
    assert sorted(spelling) == ["serving/templates.py", "thoughts.py", "training/tokenizer.py"]
