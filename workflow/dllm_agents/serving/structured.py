"""What an answer must match, as OpenAI's and vLLM's clients ask for it, as the decoder's one constraint."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from dllm_agents.decoding.constraints import Bounds, ConstraintError, check, json_text
from dllm_agents.decoding.settings import Decoding, DecodingError
from dllm_agents.serving.api import BadRequest, ChatRequest, CompletionRequest

JSON_OBJECT = {"type": "object"}
ALIASES = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice"}


def constrained(request: ChatRequest | CompletionRequest, decoding: Decoding, resolve: Callable[[Decoding], Any]) -> Decoding:
    """The settings with the constraint that the request asks for, if any, and that `resolve` carries out.

    Raises BadRequest, with `param` and `code`, for more than one constraint and for one that cannot be carried out.
    """
    answers = _of_answer(request)
    tools = _of_tools(request) if isinstance(request, ChatRequest) else None
    if len(answers) > 1:
        raise BadRequest(f"{' and '.join(answers)} both say what the answer must match; give one of them", list(answers)[1])
    param, constraint = next(iter(answers.items()), ("constraint", decoding.constraint))
    if tools is not None and constraint is not None and param != "constraint":
        constraint = {**tools, "answer": constraint}
    elif tools is not None and (_binds(request) or param == "tool_choice"):
        param, constraint = "tool_choice" if tools["required"] else "tools", tools
    if constraint is None:
        return decoding
    if request.stop_strings() and param not in ("tool_choice", "tools"):  # beside calls only the text around them is searched
        raise BadRequest(
            "a stop string could cut an answer that must match as a whole; leave one of them out", "stop", "stop_with_constraint"
        )
    decoding = decoding.model_copy(update={"constraint": constraint})
    try:
        resolve(decoding)
    except ConstraintError as error:
        limits = [name for name in ("max_tokens", "max_completion_tokens") if getattr(request, name, None)]
        param = {"constraint": param, "max_new_tokens": (limits or ["max_new_tokens"])[0]}.get(error.field, error.field)
        raise BadRequest(str(error), param, error.code) from None
    except DecodingError as error:
        raise BadRequest(str(error), str(error).partition(":")[0]) from None
    return decoding


def _of_answer(request: Any) -> dict[str, Any]:
    """The constraints of the whole answer by the field that asks for them."""
    answers: dict[str, Any] = {}
    form = request.response_format
    if form is not None and form.type == "json_object":
        answers["response_format"] = JSON_OBJECT
    elif form is not None and form.type == "json_schema":
        answers["response_format"] = True if form.json_schema.schema_ is None else form.json_schema.schema_
    rule = request.structured_outputs
    for name in ("json", "regex", "choice", "json_object"):
        value = getattr(rule, f"{name}_" if name == "json" else name, None)
        if value not in (None, False):
            answers[f"structured_outputs.{name}"] = _one(name, value, f"structured_outputs.{name}")
    for alias, name in ALIASES.items():
        if getattr(request, alias) is not None:
            answers[alias] = _one(name, getattr(request, alias), alias)
    return answers | ({"constraint": request.constraint} if request.constraint is not None else {})


def _one(name: str, value: Any, param: str) -> Any:
    if name == "json_object":
        return JSON_OBJECT
    if name != "json":
        return {name: value}
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"no JSON Schema: {error}", param, "unsupported_schema") from None


def _binds(request: Any) -> bool:
    """Whether the request asks for calls that are valid, or for a call at all."""
    return request.tool_choice not in (None, "auto") or any(tool.function.strict for tool in request.tools)


def _of_tools(request: ChatRequest) -> dict[str, Any] | None:
    """The turn that may, or must, call the tools that are offered; None where none may be called."""
    choice = request.tool_choice
    if not request.tools:
        if choice not in (None, "auto", "none"):
            raise BadRequest("there are no tools to choose from", "tool_choice")
        return None
    if choice == "none":
        return None
    functions = [tool.function for tool in request.tools]
    if choice is not None and not isinstance(choice, str):
        functions = [function for function in functions if function.name == choice.function.name]
        if not functions:
            raise BadRequest(f"no tool is named {choice.function.name!r:.100}", "tool_choice")
    several = request.parallel_tool_calls is not False and (choice is None or isinstance(choice, str))
    bounds = Bounds()
    tools = [{"name": function.name, "parameters": _parameters(function, bounds)} for function in functions]
    return {"tools": tools, "required": choice not in (None, "auto"), "several": several}


def _parameters(function: Any, bounds: Bounds) -> dict[str, Any] | None:
    """A function's parameters; of one that is not strict only where they can be held to within what all tools together may take."""
    if function.strict or not function.parameters:
        return function.parameters
    try:
        check(function.parameters)
        json_text(function.parameters, bounds=bounds)
    except ConstraintError:
        return None
    return function.parameters
