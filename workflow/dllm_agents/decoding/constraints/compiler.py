"""From a constraint as it is asked for to its automaton, kept for the next request. Imports no torch."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from dllm_agents.decoding.constraints.automata import Bounds, compile_expression
from dllm_agents.decoding.constraints.expressions import ConstraintError, Expression, alt, lit
from dllm_agents.decoding.constraints.json_schema import ANY_DEPTH, json_text
from dllm_agents.decoding.constraints.patterns import compile_pattern
from dllm_agents.decoding.constraints.tokens import FAR, TokenAutomaton
from dllm_agents.decoding.constraints.turns import CLOSE, call_schema, tool_turn
from dllm_agents.decoding.constraints.vocabulary import Vocabulary

LONGEST = 1 << 18
CACHE_BYTES = 256 << 20
JSON_OBJECT = {"type": "object"}
JSON_OBJECT_DEPTH = 4


def language(constraint: Any, bounds: Bounds | None = None) -> Expression:
    """The texts a constraint allows: a JSON Schema, {"regex": text}, {"choice": [text, ...]}, or a turn that may call tools,
    {"tools": [{name, parameters}, ...], "required": false, "several": true}; with "answer" (a constraint) one without a call matches that.

    Raises ConstraintError.
    """
    bounds = bounds or Bounds()
    match constraint:
        case {"regex": str() as pattern} if len(constraint) == 1:
            return compile_pattern(pattern)
        case {"choice": [*texts]} if len(constraint) == 1:
            if not texts or not all(isinstance(text, str) for text in texts):
                raise ConstraintError("unsupported_schema", "choice", "a list of at least one text is wanted")
            return alt(*map(lit, texts))
        case {"tools": [*tools]}:
            if not tools or not all(isinstance(tool, Mapping) and isinstance(tool.get("name"), str) for tool in tools):
                raise ConstraintError("unsupported_schema", "tools", "a list of at least one tool with a name is wanted")
            return _turn(constraint, tools, bounds)
    return json_text(constraint, JSON_OBJECT_DEPTH if constraint == JSON_OBJECT else ANY_DEPTH, bounds=bounds)


def _turn(constraint: Mapping[str, Any], tools: list[Any], bounds: Bounds) -> Expression:
    try:
        call = json_text(call_schema(tools), barred=CLOSE.encode(), bounds=bounds)
    except ConstraintError as error:
        where = re.sub(r"^#/anyOf/(\d+)/properties/arguments", r"#/tools/\1/parameters", error.where)
        raise ConstraintError(error.code, where, str(error).partition(f"{error.where}: ")[2]) from None
    answer = constraint.get("answer")
    turn = tool_turn(call, bool(constraint.get("required")) or answer is not None, bool(constraint.get("several", True)))
    return turn if answer is None else alt(language(answer, bounds), turn)


class Cache:
    """Automata by tokenizer and constraint, the least recently used dropped past `most` bytes. Safe to use from several threads.

    `hits`, `misses` and `seconds` (of processor time compiling) count what it did.
    """

    def __init__(self, most: int = CACHE_BYTES) -> None:
        self.most = most
        self.hits = self.misses = 0
        self.seconds = 0.0
        self._automata: OrderedDict[tuple[Any, ...], TokenAutomaton] = OrderedDict()
        self._vocabularies: WeakKeyDictionary[Any, Vocabulary] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def automaton(self, constraint: Any, tokenizer: Any, size: int, stop_ids: Sequence[int], mask_id: int | None = None) -> TokenAutomaton:
        """The automaton of `constraint` over the tokenizer's first `size` tokens. Raises ConstraintError."""
        text = check(constraint)
        words = self._vocabulary(tokenizer, size)
        key = (id(words), text, tuple(stop_ids), mask_id)
        with self._lock:
            if key in self._automata:
                self.hits += 1
                self._automata.move_to_end(key)
                return self._automata[key]
        started = time.thread_time()
        automaton = _compile(constraint, words, stop_ids, mask_id)
        with self._lock:
            self.misses += 1
            self.seconds += time.thread_time() - started
            self._automata[key] = automaton
            while len(self._automata) > 1 and self.nbytes > self.most:
                self._automata.popitem(last=False)
        return automaton

    @property
    def nbytes(self) -> int:
        return sum(automaton.nbytes for automaton in self._automata.values())

    def _vocabulary(self, tokenizer: Any, size: int) -> Vocabulary:
        with self._lock:
            if tokenizer not in self._vocabularies or self._vocabularies[tokenizer].size != size:
                self._vocabularies[tokenizer] = Vocabulary.read(tokenizer, size)
            return self._vocabularies[tokenizer]


CACHE = Cache()


def check(constraint: Any) -> str:
    """The constraint as text. Raises ConstraintError when it is no JSON object or too large to look at."""
    if not isinstance(constraint, Mapping | bool):
        raise ConstraintError("unsupported_schema", "#", "a constraint is a JSON object")
    try:
        text = json.dumps(constraint, allow_nan=False)
    except RecursionError:
        raise ConstraintError("schema_too_large", "#", "nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise ConstraintError("unsupported_schema", "#", f"no JSON ({error})") from None
    if len(text) > LONGEST:
        raise ConstraintError("schema_too_large", "#", f"{len(text)} characters; at most {LONGEST}")
    return text


def _compile(constraint: Any, words: Vocabulary, stop_ids: Sequence[int], mask_id: int | None) -> TokenAutomaton:
    bounds = Bounds()
    try:
        d = compile_expression(language(constraint, bounds), bounds)
    except RecursionError:
        raise ConstraintError("schema_too_large", "#", "nested too deeply") from None
    if d.empty:
        raise ConstraintError("unsatisfiable_schema", "#", "no text satisfies it")
    automaton = TokenAutomaton(d, words, stop_ids, mask_id)
    if automaton.shortest >= FAR:
        raise ConstraintError("unsatisfiable_schema", "#", "the tokenizer can write no text that satisfies it")
    return automaton
