"""The process that runs BFCL's own code: prompts, decoder, checkers, multi-turn simulators.

Started by `isolation.Worker` as `python -m dllm_agents.benchmarks.bfcl_worker SCRATCH OUTSIDE`. It imports bfcl-eval, puts
`bfcl_parser` where the official code says `eval`, seals itself, and answers JSON requests `[operation, ...arguments]`.
"""

from __future__ import annotations

import builtins
import contextlib
import copy
import inspect
import os
import sys
import types
import warnings
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from dllm_agents.benchmarks import bfcl_data, isolation
from dllm_agents.benchmarks.bfcl_parser import Evaluator, Refused

CPU_SECONDS = 3.0
LONGEST_COMPLETION = 1_000_000
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
    return check(category, identifier, calls)


def decode(completion: str, language: str) -> Any:
    """The official decoder's calls: [{name: {argument: value}}]."""
    return decoding.default_decode_ast_prompting(completion, language)


def check(category: str, identifier: str, calls: list[Any]) -> str | None:
    truth = bfcl_data.answers(category)[identifier]
    functions = bfcl_data.entry(category, bfcl_data.index_of(category)[identifier])["function"]
    try:
        result = ast_checking.ast_checker(functions, calls, truth, bfcl_data.language(category), category, MODEL)
    except Exception as error:  # the official runner would stop here; the answer is at fault, the run goes on
        return f"checker_exception:{type(error).__name__}"
    return None if result["valid"] else str(result["error_type"])


# ----------------------------------------------------------------------------------------------------------------- multi-turn


def call_simulator(text: str) -> Any:
    """Run one method call on the simulators; takes the place of `eval` in the official executor."""
    instances = {name: value for name, value in vars(simulation).items() if name.endswith("_instance")}
    methods = {name: dict(_public_methods(instance)) for name, instance in instances.items()}
    return Evaluator({**vars(builtins), **vars(simulation)}, methods)(text)


def _public_methods(instance: Any) -> list[tuple[str, Any]]:
    return [(name, method) for name, method in inspect.getmembers(instance, inspect.ismethod) if not name.startswith("_")]


OPERATIONS: dict[str, Callable[..., Any]] = {"messages": messages, "judge": judge}


def main() -> None:
    scratch, outside = Path(sys.argv[1]), Path(sys.argv[2])
    warnings.simplefilter("ignore")  # parsing model output warns, and keeps every warning
    import_bfcl(scratch)
    replace_eval()
    replies = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # the official code prints
    os.dup2(nowhere, 2)
    layers = isolation.confine(scratch)
    ready = {"layers": layers, "blocked": isolation.probe(outside), "version": bfcl_data.version()}
    isolation.serve(lambda request: OPERATIONS[request[0]](*request[1:]), ready, replies, CPU_SECONDS)


if __name__ == "__main__":
    main()
