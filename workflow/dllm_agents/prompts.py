"""Prompts as files: what the policy reads, the same at training and at rollout, and how its reply is parsed.

A prompt style is a folder with one Jinja template per workflow (`embodied.j2`, ...) and optionally two texts for each embodied benchmark:
`instructions/<benchmark>.txt`, what the task is and which actions there are, and `examples/<benchmark>.txt`, an example of it.
Templates see `goal`, `initial_observation`, `observation` (the latest), `steps` (the kept history), `valid_actions`, `example`
and `memory`. The style's hash goes into every episode.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import Environment as Jinja
from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, meta

from dllm_agents import thoughts
from dllm_agents.benchmarks.search_reply import parse_reply, reply_text
from dllm_agents.config.roles import WORKFLOWS
from dllm_agents.errors import StageError
from dllm_agents.layout import PROMPTS
from dllm_agents.records import EpisodeStep, Task

if TYPE_CHECKING:
    from dllm_agents.benchmarks.base import Benchmark

History = Literal["full", "recent"]
KEPT_STEPS: dict[str, int | None] = {"full": None, "recent": 2}


MODULE_STYLE = "react"
"""The prompt style of DiffuAgent's modules, whatever the policy's own."""
# Workflow, module or judge -> the files of a style that it alone reads, where they are not a folder of its name; what else a style holds,
# any template may include.
TEMPLATES = {
    "react": ("embodied.j2", "examples"),
    "tool_calling": ("tool_calling.j2",),
    "search": ("search.j2", "search_turn.j2"),
    "planner": ("planner.j2", "writer.j2"),
    "deepdiver": ("deepdiver_planner.j2", "deepdiver_seeker.j2", "deepdiver_turn.j2", "document_qa.j2"),
    "memory": ("memory.j2", "exemplars/memory.txt"),
    "verifier": ("early_exit.j2",),
    "selector": ("selector.j2",),
    "editor": ("editor.j2",),
    "judge": ("verdict.j2",),
}
DIALECTS = "dialects"
"""The folder of the prompts that teach a dialect's tags."""
SLOTS = ("instructions", "examples")
"""Folders of a style that hold a text for each embodied benchmark."""


@cache
def slot(style: str, folder: str, benchmark: str) -> str:
    """A style's own text for a benchmark, `instructions` or `examples`; empty where it has none."""
    path = style_folder(style) / folder / f"{benchmark}.txt"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


NEEDED: dict[str, dict[str, tuple[set[str], ...]]] = {
    "react": {"embodied.j2": ({"goal"}, {"observation", "steps"})},
    "search": {"search.j2": ({"goal"},)},
    "tool_calling": {"tool_calling.j2": ({"question"}, {"functions"})},
    "planner": {"planner.j2": ({"goal"},), "writer.j2": ({"goal"}, {"findings"})},
    "memory": {"memory.j2": ({"goal"}, {"steps"})},
    "verifier": {"early_exit.j2": ({"goal"}, {"steps"})},
    "selector": {"selector.j2": ({"functions"}, {"user", "history"})},
    "editor": {"editor.j2": ({"output"},)},
}
"""Workflow or module -> its templates, and the slots of which each must have one."""


def check(style: str, workflow: str, benchmark: str, context: int) -> None:
    """Raise StageError for a template without the slots that a workflow or module fills, or without that of a text which the style has for
    the benchmark; and for an example that cannot fit a context of so many tokens, having more words."""
    folder = style_folder(style)
    for template, needed in NEEDED.get(workflow, {}).items():
        path = folder / template
        if not path.is_file():
            continue  # a workflow without it is refused when it is rendered, or has the benchmark's own prompt
        named = [{name.removesuffix("s")} for name in SLOTS if workflow == "react" and slot(style, name, benchmark)]
        try:
            slots = _slots(style, template)
        except TemplateError as error:
            raise StageError(f"{path}: {type(error).__name__}: {error}") from None
        for names in (*needed, *named):
            if not names & slots:
                placeholders = " or ".join("{{ " + name + " }}" for name in sorted(names))
                raise StageError(f"{path}: has no slot {placeholders}; write it where the text is to stand")
    words = len(slot(style, "examples", benchmark).split()) if workflow == "react" else 0
    if words > context:
        raise StageError(f"{folder / 'examples' / benchmark}.txt: {words} words do not fit a context of {context} tokens; shorten it")


def _slots(style: str, template: str) -> set[str]:
    """The variables of a template and of those that it includes."""
    tree = _jinja(style).parse((style_folder(style) / template).read_text(encoding="utf-8"))
    included = (name for name in meta.find_referenced_templates(tree) if name is not None)
    return meta.find_undeclared_variables(tree).union(*(_slots(style, name) for name in included if has_template(style, name)))


@cache
def style_folder(style: str) -> Path:
    """The folder of a prompt style, given by path or by name. Raises StageError when there is none."""
    for folder in (Path(style), Path("config/prompts") / style, PROMPTS / style):
        if folder.is_dir():
            return folder
    styles = ", ".join(sorted(path.name for path in PROMPTS.iterdir() if path.is_dir()))
    raise StageError(f"prompt style {style!r}: no such folder; give a path or one of: {styles}")


@cache
def style_sha256(style: str) -> str:
    """SHA-256 over the names and contents of a style's files."""
    folder = style_folder(style)
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def readers_sha256(style: str, readers: tuple[str, ...], benchmark: str = "") -> str:
    """SHA-256 over those of a style's files that some of the TEMPLATES' keys read, on a benchmark that may have an example of its own."""
    folder = style_folder(style)
    others = {name for reader in {*TEMPLATES, *WORKFLOWS, DIALECTS} - {*readers} for name in TEMPLATES.get(reader, (reader,))}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    digest = hashlib.sha256()
    for path in files:
        name = path.relative_to(folder).as_posix()
        foreign = name in others or name.partition("/")[0] in others or (name.startswith(SLOTS) and path.stem != benchmark)
        if not foreign:
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    for reader in readers:  # a folder that the style lacks is read from the full style
        if reader not in TEMPLATES and style_of(style, reader) != style:
            digest.update(readers_sha256(MODULE_STYLE, (reader,), benchmark).encode())
    return digest.hexdigest()[:16]


def style_of(style: str, folder: str) -> str:
    """The style whose prompts of a workflow are read: the policy's own where it has a folder of that name, else the full one."""
    return style if (style_folder(style) / folder).is_dir() else MODULE_STYLE


@cache
def _jinja(style: str) -> Jinja:
    # Prompts are plain text, never HTML, so nothing is escaped.
    jinja = Jinja(
        loader=FileSystemLoader(style_folder(style)), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    jinja.globals["zip"] = zip
    jinja.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    return jinja


def has_template(style: str, template: str) -> bool:
    """Whether a style has a template of its own."""
    return (style_folder(style) / template).is_file()


def render(style: str, template: str, **values: Any) -> str:
    """A template of a style, filled in. Raises StageError naming the file when it is missing or does not fit."""
    try:
        return _jinja(style).get_template(template).render(**values).strip()
    except TemplateError as error:
        raise StageError(f"{style_folder(style) / template}: {type(error).__name__}: {error}") from None


def request(style: str, template: str, **values: Any) -> list[dict[str, str]]:
    """A template of a style, filled in, as the one message of a chat."""
    return [{"role": "user", "content": render(style, template, **values)}]


def embodied_messages(
    style: str,
    benchmark: str,
    goal: str,
    initial_observation: str,
    steps: Sequence[EpisodeStep],
    valid_actions: Sequence[str] = (),
    history: History | int = "full",
    memory: str = "",
    observation: str | None = None,
) -> list[dict[str, str]]:
    """The chat messages a ReAct policy reads before its next step (DiffuAgent section 2.1). `observation` is the latest one where the
    steps given do not end with it, because they were dropped to fit the context."""
    kept = history if isinstance(history, int) else KEPT_STEPS[history]
    return request(
        style,
        "embodied.j2",
        goal=goal,
        initial_observation=initial_observation,
        observation=observation if observation is not None else steps[-1].observation if steps else initial_observation,
        steps=list(steps if kept is None else steps[len(steps) - kept if kept < len(steps) else 0 :]),
        all_steps=list(steps),
        valid_actions=list(valid_actions),
        instruction=slot(style, "instructions", benchmark),
        example=slot(style, "examples", benchmark),
        memory=memory,
    )


def tool_messages(style: str, benchmark: Benchmark, task: Task) -> list[dict[str, str]]:
    """The chat messages of a single-answer tool-calling task: the style's own `tool_calling.j2` where it has one (short prompts for
    tiny models), else the benchmark's official prompt."""
    if not has_template(style, "tool_calling.j2"):
        return benchmark.messages(task)
    return request(style, "tool_calling.j2", question=task.goal, functions=task.data["functions"])


def search_messages(style: str, goal: str, steps: Sequence[EpisodeStep], max_steps: int, tool_first: bool = False) -> list[dict[str, str]]:
    """The chat messages a search agent reads before its next turn (DLLM-Searcher section 3.2).

    A style with a `search_turn.j2` gets one assistant and one tool-response message per turn so far; any other tells the whole
    state in `search.j2` (`goal`, the `queries` made, the latest `observation`). `tool_first` asks for the call before the thought.
    """
    replies = [parse_reply(step.action or "") for step in steps]
    queries = [query for reply in replies if not isinstance(reply, str) for query in reply.queries]
    latest = steps[-1].observation if steps else ""
    messages = request(style, "search.j2", goal=goal, queries=queries, observation=latest, max_steps=max_steps, tool_first=tool_first)
    if not has_template(style, "search_turn.j2"):
        return messages
    for step in steps:
        messages.append({"role": "assistant", "content": reply_text(step.thought or "", step.action or "", tool_first)})
        messages += request(style, "search_turn.j2", observation=step.observation)
    return messages


def dialect_messages(
    style: str, dialect: str, goal: str, turns: Sequence[tuple[str, str]], max_steps: int, growing: bool
) -> list[dict[str, str]]:
    """What an agent reads in a dialect: its opening, and the turns so far as (reply, block of results), each a message or, where the
    dialect has one `growing` reply, all of them that reply."""
    opening = request(style_of(style, DIALECTS), f"{DIALECTS}/{dialect}.j2", goal=goal, max_steps=max_steps)
    if growing:
        return [*opening, {"role": "assistant", "content": "".join(map("".join, turns))}] if turns else opening
    spoken = [message for reply, results in turns for message in (("assistant", reply), ("user", results))]
    return [*opening, *({"role": role, "content": text} for role, text in spoken)]


def team_messages(style: str, role: Literal["planner", "writer"], goal: str, findings: Sequence[object]) -> list[dict[str, str]]:
    """What the planner or writer of a team is asked: the question, and what was found so far as (question, answer or None)."""
    return request(style, f"{role}.j2", goal=goal, findings=findings)


def react_completion(thought: str, action: str) -> str:
    """The reply that `parse_react` reads back."""
    return f"Thought: {thought}\nAction: {action}"


def parse_react(text: str) -> tuple[str, str] | None:
    """(thought, action) of a ReAct reply, behind what the model may have thought in tags, or None when no "Thought: ... Action: ..." is
    found (DiffuAgent, released agent)."""
    if text.lstrip().startswith(thoughts.OPEN):
        leading = thoughts.first(text)
        text = (leading and leading.behind) or ""
    # Plain finds, since a regular expression takes quadratic time on a reply that repeats "Thought:" without end.
    _, mark, rest = text.partition("Thought:")
    thought, follows, tail = rest.partition("Action:")
    action = tail.strip().splitlines()[0].strip() if follows and tail.partition("\n")[0].strip() else ""
    return (thought.strip(), action) if mark and action else None


def react_pattern(actions: Sequence[str] = ()) -> str:
    """The replies that `parse_react` reads an action from, one of `actions` where there are any, as a regular expression. Before the
    thought stands no "t:" and no tag, in it no "n:", so that the first "Thought:" and "Action:" are the ones meant."""
    before, thought = "(?:[^t<]|t+[^t:<])*t*", "(?:[^n]|n+[^n:])*n*"
    listed = "|".join(map(re.escape, actions)) or r"[!-~][^\n]*"
    return rf"{before}Thought:{thought}Action:[ \t]*(?:{listed})[ \t]*(?:\n[\s\S]*)?"


def exemplars(style: str, name: str) -> list[str]:
    """The exemplars of a module, cut at lines of `---`; none where the style has no file for them."""
    path = style_folder(style) / "exemplars" / f"{name}.txt"
    return [part.strip() for part in path.read_text(encoding="utf-8").split("\n---\n")] if path.is_file() else []
