"""Arithmetic written as text, such as `0.5 * (1 + cos(pi * t))`: parsed, held against a list of what it may be, run.

No text is ever run as Python. It is parsed into a tree, each node of which must be arithmetic on floats, a comparison,
a choice, or a call of one of `FUNCTIONS`; the tree becomes a function made of small functions. Floats, because they
overflow where whole numbers would grow until the memory is full: `9 ** 9 ** 9` is an error.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Collection, Mapping

from lossbench.errors import ConfigError, did_you_mean

Values = Mapping[str, float]
Expression = Callable[[Values], float]

LONGEST, DEEPEST = 1000, 100  # characters of a text, and operations within each other

CONSTANTS = {"pi": math.pi, "e": math.e}

# Each with the least and the largest number of its arguments.
FUNCTIONS: dict[str, tuple[Callable[..., float], int, float]] = {
    "sin": (math.sin, 1, 1),
    "cos": (math.cos, 1, 1),
    "tan": (math.tan, 1, 1),
    "exp": (math.exp, 1, 1),
    "log": (math.log, 1, 2),
    "sqrt": (math.sqrt, 1, 1),
    "abs": (abs, 1, 1),
    "min": (min, 2, math.inf),
    "max": (max, 2, math.inf),
    "floor": (lambda x: float(math.floor(x)), 1, 1),
    "ceil": (lambda x: float(math.ceil(x)), 1, 1),
}

# `math.pow`: with `**` the root of a negative number would be complex.
BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: math.pow,
}
UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: lambda x: float(not x),
}
COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def parse(path: str, text: str, variables: Collection[str]) -> Expression:
    """A function of the variables' values, which gives a float; a comparison gives 1 or 0.

    The function raises ArithmeticError or ValueError where there is no result, as for `1 / 0` and `log(-1)`.

    Args:
        path: the config key, for the messages.

    Raises:
        ConfigError: the text is no expression, or holds what it may not.
    """
    text = text.strip()
    if len(text) > LONGEST:
        raise ConfigError(f"{path} is longer than {LONGEST} characters; write a function instead")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python has advice for programmers
            tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConfigError(f"{path}: {shown(text)} is not an expression ({reason})") from error
    return _Parser(path, text, variables).read(tree.body, 1)


class _Parser:
    """Turns a tree into a function, node by node."""

    def __init__(self, path: str, text: str, variables: Collection[str]) -> None:
        self.path, self.text, self.variables = path, text, variables

    def read(self, node: ast.expr, depth: int) -> Expression:
        if depth > DEEPEST:
            raise ConfigError(
                f"{self.path}: more than {DEEPEST} operations within each other; write a function instead"
            )
        match node:
            case ast.Constant(value=value):
                number = self._number(value)
                return lambda values: number
            case ast.Name(id=name):
                return self._name(name)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in BINARY:
                return _binary(BINARY[type(sign)], self.read(left, depth + 1), self.read(right, depth + 1))
            case ast.UnaryOp(op=mark, operand=operand) if type(mark) in UNARY:
                return _unary(UNARY[type(mark)], self.read(operand, depth + 1))
            case ast.BoolOp(op=word, values=parts):
                return _either([self.read(part, depth + 1) for part in parts], until=isinstance(word, ast.Or))
            case ast.Compare(left=left, ops=signs, comparators=rest) if all(
                type(sign) in COMPARISONS for sign in signs
            ):
                compared = [self.read(part, depth + 1) for part in (left, *rest)]
                return _chain([COMPARISONS[type(sign)] for sign in signs], compared)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return _choice(*(self.read(part, depth + 1) for part in (test, body, orelse)))
            case ast.Call(func=ast.Name(id=name), args=given, keywords=[]):
                return self._call(name, given, depth)
        source = ast.get_source_segment(self.text, node) or self.text
        raise ConfigError(f"{self.path}: {shown(source)} is not arithmetic ({self._allowed()})")

    def _number(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"{self.path}: {shown(repr(value))} is not a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isinf(number):
            raise ConfigError(f"{self.path}: {shown(repr(value))} is too large a number")
        return number

    def _name(self, name: str) -> Expression:
        if name in self.variables:
            return operator.itemgetter(name)
        if name in CONSTANTS:
            number = CONSTANTS[name]
            return lambda values: number
        if name in FUNCTIONS:
            raise ConfigError(f"{self.path}: {name} is a function; write {name}(...)")
        near = did_you_mean(name, (*self.variables, *CONSTANTS, *FUNCTIONS))
        raise ConfigError(f"{self.path}: unknown name {shown(name)}{near} ({self._allowed()})")

    def _call(self, name: str, given: list[ast.expr], depth: int) -> Expression:
        if name not in FUNCTIONS:
            near = did_you_mean(name, FUNCTIONS)
            raise ConfigError(f"{self.path}: unknown function {shown(name)}{near} (has: {', '.join(FUNCTIONS)})")
        function, least, most = FUNCTIONS[name]
        if not least <= len(given) <= most:
            takes = f"{least}" if least == most else f"{least} or more" if math.isinf(most) else f"{least} or {most}"
            raise ConfigError(f"{self.path}: {name} takes {takes} numbers, got {len(given)}")
        arguments = [self.read(part, depth + 1) for part in given]
        if len(arguments) == 1:
            return _unary(function, arguments[0])
        return lambda values: function(*(argument(values) for argument in arguments))

    def _allowed(self) -> str:
        return f"has: {', '.join((*self.variables, *CONSTANTS))}, and {', '.join(FUNCTIONS)}"


def _binary(of: Callable[[float, float], float], left: Expression, right: Expression) -> Expression:
    return lambda values: of(left(values), right(values))


def _unary(of: Callable[[float], float], operand: Expression) -> Expression:
    return lambda values: of(operand(values))


def _either(parts: list[Expression], *, until: bool) -> Expression:
    """The first part that is true (`or`) or not true (`and`), else the last, as in Python."""

    def run(values: Values) -> float:
        for part in parts:
            found = part(values)
            if bool(found) == until:
                break
        return found

    return run


def _chain(signs: list[Callable[[float, float], bool]], parts: list[Expression]) -> Expression:
    """`a < b <= c`: 1 where every comparison holds, else 0."""

    def run(values: Values) -> float:
        left = parts[0](values)
        for holds, part in zip(signs, parts[1:], strict=True):
            right = part(values)
            if not holds(left, right):
                return 0.0
            left = right
        return 1.0

    return run


def _choice(test: Expression, body: Expression, orelse: Expression) -> Expression:
    return lambda values: body(values) if test(values) else orelse(values)


def shown(text: str) -> str:
    """Quoted, and cut where it is long."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
