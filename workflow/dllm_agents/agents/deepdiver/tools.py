"""The tools of planner and seekers, each typed once by a JSON Schema: what is offered, what is accepted, what it does.

Names and arguments are DeepDiver-V2's (its published tool schemas). Every tool answers {success, data} or {success, error}; a call
that does not fit its schema is refused in the same words whichever backbone wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from jsonschema import Draft202012Validator

from dllm_agents.agents.deepdiver.workspace import Workspace, WorkspaceError
from dllm_agents.benchmarks.search import Passage

ASSIGN, PLANNER_DONE = "assign_multi_objective_tasks_to_info_seeker", "planner_objective_task_done"
SEEKER_DONE = "info_seeker_objective_task_done"
MAX_TASKS, MAX_QUERIES, MAX_DOCUMENTS = 5, 8, 10
MAX_READ_CHARACTERS = 15_000
CHARACTERS_PER_TOKEN = 4
GO_ON = "Noted. Go on."

Result = dict[str, Any]


class Library(Protocol):
    """Where seekers look things up. Both may be called from several threads at once."""

    def search(self, query: str, count: int) -> list[Passage]:
        """The best passages for a query."""

    def document(self, url: str) -> str | None:
        """The text behind a link of a search result; None when it is not there."""

    @property
    def progress(self) -> float:
        """The share of what the question needs that some search has shown."""


@dataclass
class Desk:
    """What a tool of one agent works with. `ask` answers a question from a document by another call of the agent's backbone."""

    workspace: Workspace
    library: Library
    ask: Callable[[str, str], str]


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] = {}) -> dict[str, Any]:
    return {"type": "object", "properties": {**required, **optional}, "required": list(required), "additionalProperties": True}


_TEXT = {"type": "string"}
_PATH = {"type": "string", "minLength": 1, "maxLength": 200}
_STATUS = {"enum": ["completed", "partial", "failed"]}
_KEY_FILES = {"type": "array", "maxItems": 50, "items": _object({"file_path": _PATH})}
_DONE = {"task_summary": _TEXT, "task_name": _TEXT, "key_files": _KEY_FILES, "completion_status": _STATUS}
_TASK = _object(
    {"task_content": {"type": "string", "minLength": 1, "maxLength": 2_000}},
    dict.fromkeys(("task_steps_for_reference", "deliverable_contents", "current_task_status", "acceptance_checking_criteria"), _TEXT),
)


def _list(items: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "maxItems": most, "items": items}


SCHEMAS: dict[str, dict[str, Any]] = {
    "think": _object({"thought": _TEXT}),
    "reflect": _object({"reflect": _TEXT}),
    ASSIGN: _object({"tasks": _list(_TASK, MAX_TASKS)}),
    PLANNER_DONE: _object({**_DONE, "final_answer": {"type": "string", "minLength": 1, "maxLength": 4_000}}),
    SEEKER_DONE: _object(_DONE),
    "batch_web_search": _object(
        {"queries": _list({"type": "string", "minLength": 1, "maxLength": 500}, MAX_QUERIES)},
        {"max_results_per_query": {"type": "integer", "minimum": 1, "maximum": 10}},
    ),
    "url_crawler": _object(
        {"documents": _list(_object({"url": {"type": "string", "maxLength": 2_000}, "file_path": _PATH}), MAX_DOCUMENTS)},
        {"max_tokens_per_url": {"type": "integer", "minimum": 1, "maximum": 20_000}},
    ),
    "document_qa": _object({"tasks": _list(_object({"file_path": _PATH, "question": {"type": "string", "maxLength": 2_000}}), 5)}),
    "file_read": _object({"file_path": _PATH}),
    "file_write": _object({"file_path": _PATH, "content": _TEXT}),
    "list_workspace": _object({}, {"path": {"type": "string", "maxLength": 200}}),
    "file_find_by_name": _object({"name_pattern": {"type": "string", "maxLength": 200}}),
    "str_replace_based_edit_tool": _object(
        {"action": {"enum": ["create", "view", "str_replace", "append", "delete"]}, "file_path": _PATH},
        {"content": _TEXT, "old_str": _TEXT, "new_str": _TEXT},
    ),
}
_FILES = ("file_read", "file_write", "list_workspace", "file_find_by_name", "str_replace_based_edit_tool")
OFFERED = {
    "planner": ("think", "reflect", ASSIGN, "document_qa", *_FILES, PLANNER_DONE),
    "seeker": ("think", "reflect", "batch_web_search", "url_crawler", "document_qa", *_FILES, SEEKER_DONE),
}
DONE = {"planner": PLANNER_DONE, "seeker": SEEKER_DONE}


def failure(error: str) -> Result:
    """The answer of a tool that could not do what it was asked for."""
    return {"success": False, "error": error[:500]}


def refusal(role: str, name: str, arguments: Any) -> str | None:
    """Why a call is no call of a role's tools; None when it is one."""
    if name not in OFFERED[role]:
        return f"{name[:60]}: no such tool; the tools are {', '.join(OFFERED[role])}"
    error = next(_validator(name).iter_errors(arguments), None)
    if error is None:
        return None
    place = ".".join(map(str, error.absolute_path)) or "arguments"
    return f"{name}: {place}: {error.message[:200]}"


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(SCHEMAS[name])


def run(name: str, arguments: Mapping[str, Any], desk: Desk) -> Result:
    """Run a tool that works for one agent alone; its arguments fit its schema."""
    try:
        return {"success": True, "data": TOOLS[name](desk, arguments)}
    except WorkspaceError as error:
        return failure(str(error))


def _search(desk: Desk, arguments: Mapping[str, Any]) -> Any:
    count = arguments.get("max_results_per_query", 4)
    return [
        {"query": query, "results": [{"title": p.title, "link": p.link, "snippet": p.text} for p in desk.library.search(query, count)]}
        for query in arguments["queries"]
    ]


def _crawl(desk: Desk, arguments: Mapping[str, Any]) -> Any:
    limit = arguments.get("max_tokens_per_url", 4_000) * CHARACTERS_PER_TOKEN
    return [_fetch(desk, document["url"], document["file_path"], limit) for document in arguments["documents"]]


def _fetch(desk: Desk, url: str, path: str, limit: int) -> dict[str, Any]:
    text = desk.library.document(url)
    if text is None:
        return {"url": url, "success": False, "error": "no such document"}
    try:
        length = desk.workspace.write(path, text[:limit])
    except WorkspaceError as error:
        return {"url": url, "success": False, "error": str(error)}
    return {"url": url, "success": True, "file_path": path, "characters": length, "truncated": len(text) > limit}


def _answer(desk: Desk, path: str, question: str) -> dict[str, Any]:
    try:
        text = desk.workspace.read(path)[:MAX_READ_CHARACTERS]
    except WorkspaceError as error:
        return {"file_path": path, "success": False, "error": str(error)}
    return {"file_path": path, "success": True, "answer": desk.ask(text, question)}


def _read(desk: Desk, arguments: Mapping[str, Any]) -> Any:
    text = desk.workspace.read(arguments["file_path"])
    if len(text) <= MAX_READ_CHARACTERS:
        return text
    return f"{text[:MAX_READ_CHARACTERS]}\n... cut at {MAX_READ_CHARACTERS} of {len(text)} characters; ask document_qa about the rest"


def _edit(desk: Desk, arguments: Mapping[str, Any]) -> Any:
    path, action = arguments["file_path"], arguments["action"]
    if action == "view":
        return _read(desk, arguments)
    if action == "delete":
        desk.workspace.delete(path)
        return f"{path} deleted"
    if action in ("create", "append"):
        method = desk.workspace.write if action == "create" else desk.workspace.append
        return f"{path}: {method(path, arguments.get('content', ''))} characters"
    text, old = desk.workspace.read(path), arguments.get("old_str", "")
    if not old or text.count(old) != 1:
        raise WorkspaceError(f"{path}: old_str stands {text.count(old) if old else 0} times there; it must stand exactly once")
    return f"{path}: {desk.workspace.write(path, text.replace(old, arguments.get('new_str', '')))} characters"


TOOLS: dict[str, Callable[[Desk, Mapping[str, Any]], Any]] = {
    "think": lambda desk, arguments: GO_ON,
    "reflect": lambda desk, arguments: GO_ON,
    "batch_web_search": _search,
    "url_crawler": _crawl,
    "document_qa": lambda desk, arguments: [_answer(desk, task["file_path"], task["question"]) for task in arguments["tasks"]],
    "file_read": _read,
    "file_write": lambda desk, arguments: (
        f"{arguments['file_path']}: {desk.workspace.append(arguments['file_path'], arguments['content'])} characters"
    ),
    "list_workspace": lambda desk, arguments: desk.workspace.listing(arguments.get("path", "")),
    "file_find_by_name": lambda desk, arguments: desk.workspace.matching(arguments["name_pattern"]),
    "str_replace_based_edit_tool": _edit,
}
