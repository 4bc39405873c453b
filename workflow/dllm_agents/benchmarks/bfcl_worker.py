"""The process that runs BFCL's own code: prompts, decoder, checkers, multi-turn simulators.

Started by `isolation.Worker` as `python -m dllm_agents.benchmarks.bfcl_worker JOB SCRATCH OUTSIDE`. It imports bfcl-eval, puts
`bfcl_parser` where the official code says `eval`, seals itself, and answers JSON requests `[operation, ...arguments]`.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import copy
import inspect
import os
import re
import sys
import types
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from dllm_agents import thoughts
from dllm_agents.benchmarks import bfcl_data, isolation, worker
from dllm_agents.benchmarks.bfcl_parser import Evaluator, Refused

CPU_SECONDS = 1.0  # an honest answer takes a millisecond, the first of a category 50
LONGEST_COMPLETION = 1_000_000
LONGEST_OBSERVATION = 100_000  # characters; the longest that a ground truth gets is 31,986
MODEL = "dllm_agents"


# bfcl-eval's modules, there once `import_bfcl` ran.
ast_checking: Any
decoding: Any
official: Any
simulation: Any
turns_checking: Any


def import_bfcl(scratch: Path) -> None:
    """Import what is used of bfcl-eval, without the vendors' SDKs that its model table would import."""
    global ast_checking, decoding, official, simulation, turns_checking
    os.environ["BFCL_PROJECT_ROOT"] = str(scratch)  # it makes its result folders there on import
    table = types.ModuleType("bfcl_eval.constants.model_config")
    table.MODEL_CONFIG_MAPPING = defaultdict(lambda: types.SimpleNamespace(underscore_to_dot=False))  # type: ignore[attr-defined]
    sys.modules[table.__name__] = table
    ast_checking = import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")
    decoding = import_module("bfcl_eval.model_handler.utils")
    official = import_module("bfcl_eval.utils")
    simulation = import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils")
    turns_checking = import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker")


def replace_eval() -> None:
    """Put the safe parser where the official code says `eval`, and make sure that it is met there."""
    # Inside the decoder `value` is the syntax node at hand: an operand that nothing can be computed with.
    decoding.eval = Evaluator({**vars(builtins), **vars(decoding), "value": lambda: None})
    simulation.eval = call_simulator
    with contextlib.suppress(Refused):
        decoding.default_decode_ast_prompting("f(x=len('ab')+1)")
        raise SystemExit("bfcl-eval's decoder did not use the safe parser; install the pinned version of bfcl-eval")
    if simulation.execute_multi_turn_func_call(["len('abc')"], {}, [], MODEL, "canary")[0] == ["3"]:
        raise SystemExit("bfcl-eval's executor did not use the safe parser; install the pinned version of bfcl-eval")


# ------------------------------------------------------------------------------------------------------------- single answers


def messages(functions: list[Any], question: list[dict[str, str]], category: str) -> list[dict[str, str]]:
    """The official prompt of prompt mode (BFCL's base handler): system prompt with the function docs, then the question."""
    functions = decoding.func_doc_language_specific_pre_processing(copy.deepcopy(functions), category)
    return list(decoding.system_prompt_pre_processing_chat_model(question, functions, category))


def judge(category: str, identifier: str, completion: str) -> str | None:
    """The official verdict on one answer: None when valid, else the error type. Follows BFCL's eval_runner, entry by entry."""
    if bfcl_data.is_relevance(category):
        return judge_generated(category, [], [], completion)
    functions = bfcl_data.entry(category, bfcl_data.index_of(category)[identifier])["function"]
    return judge_generated(category, functions, bfcl_data.answers(category)[identifier], completion)


def judge_generated(category: str, functions: list[Any], truth: list[Any], completion: str) -> str | None:
    """The official verdict on an answer to a task that is in none of BFCL's files, given its functions and right calls."""
    completion = read_reply(completion)
    try:
        if len(completion) > LONGEST_COMPLETION:
            raise Refused("too long")
        calls, error = decode(completion, bfcl_data.language(category)), None
    except Refused:
        return "isolation:refused"
    except Exception:  # the official runner's own rule: any exception is a failed decoding
        calls, error = None, "ast_decoder:decoder_failed"
    if bfcl_data.is_relevance(category):
        called = error is None and not official.is_empty_output(calls)
        if "irrelevance" in category:
            return "irrelevance_error:decoder_success" if called else None
        return None if called else "relevance_error:decoder_failed"
    if error is not None:
        return error
    if not official.is_function_calling_format_output(calls):
        return "ast_decoder:decoder_wrong_output_format"
    try:
        result = ast_checking.ast_checker(functions, calls, truth, bfcl_data.language(category), category, MODEL)
    except Exception as failure:  # the official runner would stop here; the answer is at fault, the run goes on
        return f"checker_exception:{type(failure).__name__}"
    return None if result["valid"] else str(result["error_type"])


def read_reply(completion: str) -> str:
    """What BFCL decodes of a reply: its handlers of reasoning models (`qwen`, `deepseek_reasoning`) pass on what stands behind the last
    `</think>`. Nobody wrote a handler for LLaDA or Dream, so every backbone is read by this rule."""
    return thoughts.behind(completion).lstrip("\n")


def decode(completion: str, language: str) -> Any:
    """The official decoder's calls: [{name: {argument: value}}]."""
    return decoding.default_decode_ast_prompting(completion, language)


# ----------------------------------------------------------------------------------------------------------------- multi-turn


def opening(category: str, functions: list[Any], turns: list[list[Any]], held_back: dict[str, list[Any]]) -> list[list[dict[str, str]]]:
    """The messages that open every turn, as BFCL's base handler words them; functions held back are offered in a turn of their own."""
    offer = import_module("bfcl_eval.constants.default_prompts").DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_PROMPTING
    opened = [
        [{"role": "user", "content": offer.format(functions=held_back[str(index)])}] if str(index) in held_back else list(turn)
        for index, turn in enumerate(turns)
    ]
    return [messages(functions, opened[0], category), *opened[1:]]


_executed: dict[str, int] = {}  # episode -> steps its simulators have seen


def play(episode: str, identifier: str, history: list[list[str]], completion: str) -> dict[str, Any] | None:
    """Decode one answer of a multi-turn episode and run its calls on the episode's simulators; None when it holds no call.

    `history` is what ran before: a worker that does not know the episode, or is out of step with it, plays that first.
    """
    try:
        if len(completion) > LONGEST_COMPLETION:
            raise Refused("too long")
        calls = decoding.default_decode_execute_prompting(read_reply(completion))
    except Refused as refusal:
        return {"refused": str(refusal)}
    except Exception:  # the official handler's own rule: any exception ends the turn
        return None
    if simulation.is_empty_execute_response(calls):
        return None
    if sum(map(len, calls)) > LONGEST_OBSERVATION:
        return {"refused": "the calls are too long"}  # short to write, long once their arguments are computed
    if _executed.get(episode) != len(history):
        forget(episode)
        for earlier in history:
            _execute(episode, identifier, earlier)
    results = _execute(episode, identifier, calls)
    _executed[episode] = len(history) + 1
    shown = [_cut(result, LONGEST_OBSERVATION) for result in results]
    observation = _cut(decoding.format_execution_results_prompting({}, shown, {"model_responses_decoded": calls}), LONGEST_OBSERVATION)
    return {"calls": calls, "observation": observation, "failed": any(result.startswith("Error during execution") for result in results)}


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}... ({len(text) - length} characters cut)"


def _execute(episode: str, identifier: str, calls: list[str]) -> list[str]:
    entry = _entry(identifier)
    results, _ = simulation.execute_multi_turn_func_call(
        calls, entry["initial_config"], entry["involved_classes"], episode, identifier, long_context="long_context" in identifier
    )
    return list(results)


def forget(episode: str) -> None:
    """Drop an episode's simulators, which the official executor keeps as globals of its module."""
    _executed.pop(episode, None)
    for name in [name for name in vars(simulation) if name.startswith(f"{episode}_") and name.endswith("_instance")]:
        del vars(simulation)[name]


def judge_turns(run: str, identifier: str, turns: list[list[list[str]]]) -> str | None:
    """The official verdict on a multi-turn episode, the decoded calls per turn and step: None when valid, else the error type."""
    truth = bfcl_data.answers(_category(identifier))[identifier]
    if len(turns) != len(truth):
        return "multi_turn:force_terminated"
    try:
        result = turns_checking.multi_turn_checker(turns, truth, _entry(identifier), _category(identifier), run)
    except Exception as error:
        return f"checker_exception:{type(error).__name__}"
    finally:
        forget(run)
    return None if result["valid"] else str(result["error_type"])


def reference_turns(identifier: str) -> list[list[str]]:
    """The ground truth's calls per turn with all arguments by name: the official decoder drops positional ones."""
    entry = _entry(identifier)
    classes = [getattr(import_module(simulation.CLASS_FILE_PATH_MAPPING[name]), name) for name in entry["involved_classes"]]
    methods = [method for class_ in classes for method in inspect.getmembers(class_, inspect.isfunction)]
    parameters = {name: list(inspect.signature(method).parameters)[1:] for name, method in methods}
    return [[_by_name(call, parameters) for call in turn] for turn in bfcl_data.answers(_category(identifier))[identifier]]


def _by_name(call: str, parameters: dict[str, list[str]]) -> str:
    tree = ast.parse(call, mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            named = [ast.keyword(arg=name, value=value) for name, value in zip(parameters[node.func.id], node.args, strict=False)]
            node.args, node.keywords = [], named + node.keywords
    return ast.unparse(tree)


def _category(identifier: str) -> str:
    return identifier.rpartition("_")[0]


@lru_cache(maxsize=64)
def _entry(identifier: str) -> dict[str, Any]:
    category = _category(identifier)
    return bfcl_data.entry(category, bfcl_data.index_of(category)[identifier])


def call_simulator(text: str) -> Any:
    """Run one method call on the simulators; takes the place of `eval` in the official executor."""
    instances = {name: vars(simulation)[name] for name in re.findall(r"\b\w+_instance\b", text) if name in vars(simulation)}
    methods = {
        owner: {name: method for name, method in inspect.getmembers(instance, inspect.ismethod) if not name.startswith("_")}
        for owner, instance in instances.items()
    }
    return Evaluator({**vars(builtins), **vars(simulation)}, methods)(text)


OPERATIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (messages, judge, judge_generated, opening, play, forget, judge_turns, reference_turns)
}


def answer(request: list[Any]) -> Any:
    """The reply to [operation, ...arguments]."""
    decoding.eval.begin()
    return OPERATIONS[request[0]](*request[1:])


def main() -> None:
    worker.follow_job()
    scratch, outside = map(Path, sys.argv[2:])
    warnings.simplefilter("ignore")  # parsing model output warns, and keeps every warning
    import_bfcl(scratch)
    replace_eval()
    replies = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # the official code prints
    os.dup2(nowhere, 2)
    layers = isolation.confine(scratch)
    ready = {"layers": layers, "blocked": isolation.probe(outside, layers), "version": bfcl_data.version()}
    worker.serve(answer, ready, replies, CPU_SECONDS)


if __name__ == "__main__":
    main()
