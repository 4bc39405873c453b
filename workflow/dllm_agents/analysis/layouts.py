"""The layout of an answer's calls: parse every known layout, classify those that BFCL's decoder cannot read, and rewrite them in the one it
reads, so that a table can show how much of a score is due to layout. Nothing is evaluated."""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any, NamedTuple

from dllm_agents import thoughts, tool_calls

_FENCED = re.compile(r"```\w*\s*(.{0,20000}?)```", re.DOTALL)
_CALL_LIKE = re.compile(r"[A-Za-z_][\w.]{0,100}\s{0,3}\(|\"name\"\s{0,3}:")
# A call of Mistral's that is written like one of Python's.
_ARGUMENT_IN_BRACKETS = re.compile(r"(\[TOOL_CALLS\]\s{0,20}[\w.\-]{1,100})\s{0,20}\(\s{0,20}(?=\{)")
# ast.parse may exhaust the interpreter's stack on deep nesting; no honest call comes near this.
MAX_CALL_CHARACTERS = 20_000
MAX_NESTING = 50


class Call(NamedTuple):
    """A tool call as parsed from text."""

    name: str
    arguments: dict[str, Any]


def parse_calls(text: str) -> list[Call] | None:
    """The tool calls in an answer: BFCL's `[name(argument=value), ...]`, or any form of `dllm_agents.tool_calls`, bare JSON among them.
    Bare fences and missing outer brackets are forgiven, as BFCL's decoder does. None when the text is neither, or one of its calls
    cannot be read: values must be literals."""
    text = text.strip("` \t\r\n")
    if len(text) > MAX_CALL_CHARACTERS or _nesting(text) > MAX_NESTING:
        return None
    content, calls = tool_calls.read(text, bare=True)
    if calls:
        return None if any(mark in content for mark in tool_calls.MARKS) else [Call(call["name"], call["arguments"]) for call in calls]
    nodes = _call_nodes(text)
    parsed = None if nodes is None else [_python_call(node) for node in nodes]
    return None if parsed is None or None in parsed else [call for call in parsed if call is not None]


def layout(text: str) -> str:
    """How a single answer that the official decoder cannot read lays its calls out: calls in another layout, wrong
    call syntax, calls that a thought swallows, or no call. The official score is not affected."""
    return _read(text)[0]


def plain_layout(text: str, python: bool = True) -> str | None:
    """An answer's calls as BFCL's prompt asks for them, whatever their layout: behind a thought, fenced, a call a line, in JSON, or with
    text around them. None where there is no call that can be read. Of languages other than Python, whose values are not read here, what
    stands around the calls is taken away and no more."""
    if python:
        return _read(text)[1]
    parts = [part for part in _parts(thoughts.behind(text)) if _CALL_LIKE.search(part)]
    return None if thoughts.unclosed(text) or not parts else parts[-1]


def _read(text: str) -> tuple[str, str | None]:
    """An answer's layout, and its calls as BFCL's prompt asks for them."""
    if thoughts.unclosed(text):
        return "thinking not closed", None
    body = thoughts.behind(text)
    if not _CALL_LIKE.search(body) and _CALL_LIKE.search(text):
        return "calls in or before a thought", None
    parts = _parts(body)
    for part in parts:
        if plain := _json_text(part):
            return "calls as JSON", plain
    for number, part in enumerate(parts):
        if plain := _python_text(part) or _python_text(", ".join(part.split("\n")).strip(", ")):
            cut = number == len(parts) - 1 and number > 0
            return "calls with text around them" if cut else "calls in a layout that is not read", plain
    if plain := _json_text(body[body.find("{") : body.rfind("}") + 1]):
        return "calls as JSON", plain
    return "wrong call syntax" if _CALL_LIKE.search(body) else "no call", None


def _parts(body: str) -> list[str]:
    """Candidate parts of an answer for its calls: all of it, fenced code, and from the first bracket to the last."""
    first, last = body.find("["), body.rfind("]")
    parts = [body, *(fenced[1] for fenced in _FENCED.finditer(body)), body[first : last + 1] if 0 <= first < last else ""]
    return [stripped for part in parts if (stripped := part.strip("` \t\r\n")) and len(part) <= MAX_CALL_CHARACTERS]


def _json_text(part: str) -> str | None:
    if _nesting(part) > MAX_NESTING:
        return None
    _, calls = tool_calls.read(_ARGUMENT_IN_BRACKETS.sub(r"\1", part), bare=True)
    texts = [f"{call['name']}({', '.join(f'{name}={value!r}' for name, value in call['arguments'].items())})" for call in calls]
    return f"[{', '.join(texts)}]" if texts else None


def _python_text(text: str) -> str | None:
    nodes = _call_nodes(text.strip("` \t\r\n"))
    return f"[{', '.join(map(ast.unparse, nodes))}]" if nodes and all(not node.args for node in nodes) else None


def _call_nodes(text: str) -> list[ast.Call] | None:
    """The calls of a text that is nothing but a list of Python calls, with or without its brackets."""
    if len(text) > MAX_CALL_CHARACTERS or _nesting(text) > MAX_NESTING:
        return None
    try:
        with warnings.catch_warnings():  # the interpreter warns of odd literals, and remembers each
            warnings.simplefilter("ignore")
            tree = ast.parse(text if text.startswith("[") else f"[{text}]", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    nodes = tree.elts if isinstance(tree, ast.List) else [tree]
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    return calls if len(calls) == len(nodes) else None


def _python_call(node: ast.Call) -> Call | None:
    if node.args:
        return None
    try:
        arguments = {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg is not None}
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return Call(ast.unparse(node.func), arguments)


def _nesting(text: str) -> int:
    if sum(map(text.count, "([{")) <= MAX_NESTING:
        return 0  # too few brackets to be deep
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest
