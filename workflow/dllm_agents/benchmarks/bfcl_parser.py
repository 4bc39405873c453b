"""What stands in for `eval` where BFCL's decoder and executor would evaluate model output.

The official decoder evaluates binary operations inside arguments (`x=2*3`), the official executor whole method calls
(`cd(folder='tmp')`). Both get these functions instead: the text is parsed, and only constants, containers, size-bounded
arithmetic and public methods of the simulators are computed. What Python itself would fail on fails with the same exception, so that
merely wrong answers get the official verdict; what Python would run and we will not is `Refused`.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

LARGEST_INTEGER_BITS = 100_000
LARGEST_WEIGHT = 1_000_000
LARGEST_SUM = 10_000_000  # of the weights of all that one answer has computed
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Pow: operator.pow, ast.MatMult: operator.matmul, ast.LShift: operator.lshift, ast.RShift: operator.rshift,
    ast.BitOr: operator.or_, ast.BitXor: operator.xor, ast.BitAnd: operator.and_,
}  # fmt: skip
_SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Invert: operator.invert, ast.Not: operator.not_,
}  # fmt: skip


class Refused(Exception):
    """Text that Python would evaluate and this parser will not."""


class Evaluator:
    """Evaluates one expression. `names` is what `eval` would see; `methods` maps an object's name to the methods that may run."""

    def __init__(self, names: Mapping[str, Any], methods: Mapping[str, Mapping[str, Callable[..., Any]]] | None = None) -> None:
        self.names = names
        self.methods = methods or {}
        self.computed = 0

    def begin(self) -> None:
        """Another answer is to be read: what it may compute is counted afresh."""
        self.computed = 0

    def __call__(self, text: str) -> Any:
        """The value of `text`. Raises Refused, or whatever Python raises on it (SyntaxError, NameError, TypeError, ...)."""
        return self._value(ast.parse(text, filename="<string>", mode="eval").body)

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self._name(node.id)
            case ast.UnaryOp():
                return _SIGNS[type(node.op)](self._value(node.operand))
            case ast.BinOp():
                value = _bounded(type(node.op), *self._values([node.left, node.right]))
                self.computed += _weight(value)
                if self.computed > LARGEST_SUM:
                    raise Refused("the values are too large together")
                return value
            case ast.List():
                return self._values(node.elts)
            case ast.Tuple():
                return tuple(self._values(node.elts))
            case ast.Set():
                return set(self._values(node.elts))
            case ast.Dict():
                if None not in node.keys:
                    return dict(zip(self._values(key for key in node.keys if key), self._values(node.values), strict=True))
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=method)) if method in self.methods.get(owner, {}):
                return self.methods[owner][method](
                    *self._values(node.args), **{str(keyword.arg): self._value(keyword.value) for keyword in node.keywords}
                )
        return self._refuse(node)

    def _values(self, nodes: Iterable[ast.expr]) -> list[Any]:
        """All values in order; a refusal waits for the others, for where one of them fails Python would have failed as well."""
        values: list[Any] = []
        refusal: Refused | None = None
        for node in nodes:
            try:
                values.append(self._value(node))
            except Refused as error:
                refusal = refusal or error
        if refusal:
            raise refusal
        return values

    def _name(self, name: str) -> Any:
        if name not in self.names:
            raise NameError(f"name '{name}' is not defined")
        value = self.names[name]
        if callable(value) or isinstance(value, ModuleType):
            return value  # as an operand harmless: a type error, or a union of types
        raise Refused(f"the name '{name}' is not available here")

    def _refuse(self, node: ast.expr) -> Any:
        values = self._values(_parts(node))
        if isinstance(node, ast.Attribute):
            getattr(values[0], node.attr)  # AttributeError where there is none
        raise Refused(f"{type(node).__name__} is not available here")


def _parts(node: ast.expr) -> list[ast.expr]:
    """The sub-expressions that Python certainly evaluates, in order."""
    match node:
        case ast.Call():
            return [
                node.func,
                *(argument for argument in node.args if not isinstance(argument, ast.Starred)),
                *(k.value for k in node.keywords),
            ]
        case ast.Attribute() | ast.Starred() | ast.FormattedValue() | ast.NamedExpr():
            return [node.value]
        case ast.Subscript():
            return [node.value] if isinstance(node.slice, ast.Slice) else [node.value, node.slice]
        case ast.BoolOp():
            return node.values[:1]
        case ast.Compare():
            return [node.left, node.comparators[0]]
        case ast.IfExp():
            return [node.test]
        case ast.JoinedStr():
            return [part for part in node.values if isinstance(part, ast.FormattedValue)]
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            return [node.generators[0].iter]
    return []


def _bounded(kind: type[ast.operator], left: Any, right: Any) -> Any:
    """left <kind> right, refused before it is computed when the result could be huge."""
    if isinstance(left, int) and isinstance(right, int):
        unit = left in (0, 1, -1)
        bits = {
            ast.Mult: left.bit_length() + right.bit_length(),
            ast.Pow: 0 if unit else left.bit_length() * max(right, 0),
            ast.LShift: left.bit_length() + max(right, 0),
        }
        if bits.get(kind, 0) > LARGEST_INTEGER_BITS:
            raise Refused("the integer is too large")
    elif kind is ast.Mult and isinstance(left, int) != isinstance(right, int):
        count, repeated = (left, right) if isinstance(left, int) else (right, left)
        if isinstance(repeated, (str, bytes, list, tuple)) and max(count, 0) * _weight(repeated) > LARGEST_WEIGHT:
            raise Refused("the repetition is too long")
    elif kind is ast.Mod and isinstance(left, (str, bytes)) and _longest_format(left, right) > LARGEST_WEIGHT:
        raise Refused("the format is too wide")
    value = _OPERATORS[kind](left, right)
    if _weight(value) > LARGEST_WEIGHT:
        raise Refused("the value is too large")
    return value


_CONVERSION = re.compile(r"[#0\- +]*(\*|\d*)(?:\.(\*|\d*))?")


def _longest_format(pattern: str | bytes, values: Any) -> int:
    """A bound on the characters of `pattern % values`: the pattern, widths and precisions, and the values as often as they are named."""
    pattern = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    widths, named, at = 0, 0, 0
    while (at := pattern.find("%", at) + 1) > 0:
        if pattern.startswith("(", at):
            named += 1
            depth = 1
            at += 1
            while depth and at < len(pattern):
                depth += {"(": 1, ")": -1}.get(pattern[at], 0)
                at += 1
        match = _CONVERSION.match(pattern, at)
        assert match is not None
        if "*" in match.groups():
            return LARGEST_WEIGHT + 1
        widths += sum(int(number[:9]) if len(number) < 10 else LARGEST_WEIGHT + 1 for number in match.groups() if number)
        at = match.end() + 1
    return len(pattern) + widths + max(1, named) * _printed(values)


def _printed(value: Any) -> int:
    """A bound on the characters that a value is printed with, `\\U0010ffff` for a character among them."""
    if isinstance(value, (str, bytes)):
        return 10 * len(value) + 3
    if isinstance(value, int):
        return value.bit_length() + 3
    if isinstance(value, dict):
        return 2 + sum(_printed(key) + _printed(item) + 4 for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return 5 + sum(_printed(item) + 2 for item in value)
    return 400  # a float in full, `%f` of 1e308, or a name


def _weight(value: Any) -> int:
    """Characters and items in a value, shared parts counted each time they show."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return 1 + sum(_weight(key) + _weight(item) for key, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return 1 + sum(map(_weight, value))
    return 1
