"""The arithmetic of rules, bounds, conditions and derived values: parsed into a checked tree, never evaluated as
Python.

Python's own parser reads the text, so precedence and chained comparisons are Python's. Only the node types below are
allowed. Length, depth, exponents and the size of numbers are bounded, so no expression can stall a search.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_LENGTH = 400
MAX_DEPTH = 100
MAX_EXPONENT = 64
MAX_MAGNITUDE = 1e30

_BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARE = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
    "log2": math.log2,
    "sqrt": math.sqrt,
}
_ARE_MANY = ("min", "max")  # take two or more values; the others take one
_FOREIGN = {"&&": "and", "||": "or", "!": "not", "^": "**", "?": "A if CONDITION else B", "=": "=="}
"""Operators of other languages, and the form here; longest first, so that `!=` never counts as `!`."""


class ExpressionError(ValueError):
    """A text that is not an expression, or an expression without a value for these parameters."""


@dataclass(frozen=True)
class Expression:
    """A parsed expression: `names` are the parameters it reads, `evaluate` gives its value."""

    text: str
    names: frozenset[str]
    tree: ast.expr = field(compare=False, repr=False)  # not compared: trees are equal only to themselves

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """The value for these parameters. Raises ExpressionError if a name is missing or the arithmetic fails."""
        try:
            return _evaluate(self.tree, values)
        except ZeroDivisionError:
            raise ExpressionError(f"{self.text}: division by zero") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise ExpressionError(f"{self.text}: {error}") from None

    def __str__(self) -> str:
        return self.text


def parse_expression(text: str) -> Expression:
    """Parse `text`. Raises ExpressionError, saying which part is not allowed."""
    text = " ".join(text.split())
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"is longer than {MAX_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python only warns about `1if a else 2` and "\d"
            tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ExpressionError(f"{text!r} is not an expression{_advice(text)}") from None
    names: set[str] = set()
    _check(tree, names, 0)
    return Expression(text, frozenset(names), tree)


def _advice(text: str) -> str:
    comparing = text
    for known in ("==", "!=", "<=", ">="):
        comparing = comparing.replace(known, " ")
    return next((f"; write {ours} for {theirs}" for theirs, ours in _FOREIGN.items() if theirs in comparing), "")


def _check(node: ast.AST, names: set[str], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ExpressionError(f"is nested more than {MAX_DEPTH} deep")
    children: list[ast.AST]
    match node:
        case ast.Constant(value=bool() | int() | float() | str()):
            if isinstance(node.value, (int, float)) and not abs(node.value) <= MAX_MAGNITUDE:
                raise ExpressionError(f"has a number beyond {MAX_MAGNITUDE:g}")
            children = []
        case ast.Name():
            names.add(node.id)
            children = []
        case ast.BinOp() if type(node.op) in _BINARY:
            children = [node.left, node.right]
        case ast.UnaryOp() if type(node.op) in _UNARY:
            children = [node.operand]
        case ast.BoolOp():
            children = list(node.values)
        case ast.Compare() if all(type(op) in _COMPARE for op in node.ops):
            children = [node.left]
            for op, side in zip(node.ops, node.comparators, strict=True):
                listed = side.elts if isinstance(side, (ast.List, ast.Tuple)) else None
                if (listed is not None) != isinstance(op, (ast.In, ast.NotIn)):
                    raise ExpressionError(f"{ast.unparse(node)!r}: `in` and a list such as [1, 2] go together")
                children += [side] if listed is None else listed
        case ast.IfExp():
            children = [node.test, node.body, node.orelse]
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in FUNCTIONS:
            if (len(node.args) >= 2) != (name in _ARE_MANY) or not node.args:
                raise ExpressionError(f"{name} takes {'two values or more' if name in _ARE_MANY else 'one value'}")
            children = list(node.args)
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            raise ExpressionError(f"no function {name!r}; there are {', '.join(sorted(FUNCTIONS))}")
        case ast.BinOp(op=ast.BitXor()):
            raise ExpressionError(f"{ast.unparse(node)!r} is not allowed here; write ** for ^")
        case _:
            raise ExpressionError(
                f"{ast.unparse(node)!r} is not allowed here; use arithmetic, comparisons, and/or/not, if/else"
            )
    for child in children:
        _check(child, names, depth + 1)


def _evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            if node.id not in values:
                raise ValueError(f"{node.id} has no value")
            return values[node.id]
        case ast.BinOp():
            return _arithmetic(type(node.op), _evaluate(node.left, values), _evaluate(node.right, values))
        case ast.UnaryOp():
            return _UNARY[type(node.op)](_evaluate(node.operand, values))
        case ast.BoolOp():
            is_and = isinstance(node.op, ast.And)
            result: Any = is_and
            for part in node.values:
                result = _evaluate(part, values)
                if bool(result) != is_and:
                    break
            return result
        case ast.Compare():
            left = _evaluate(node.left, values)
            for op, comparator in zip(node.ops, node.comparators, strict=True):
                right = _evaluate(comparator, values)
                if not _COMPARE[type(op)](left, right):
                    return False
                left = right
            return True
        case ast.IfExp():
            return _evaluate(node.body if _evaluate(node.test, values) else node.orelse, values)
        case ast.List() | ast.Tuple():
            return [_evaluate(item, values) for item in node.elts]
        case ast.Call(func=ast.Name(id=name)):
            return FUNCTIONS[name](*(_evaluate(arg, values) for arg in node.args))
    raise AssertionError(f"unchecked node {ast.dump(node)}")


def _arithmetic(op: type[ast.operator], left: Any, right: Any) -> Any:
    for side in (left, right):
        if isinstance(side, str):
            raise ValueError(f"arithmetic on {side!r}")
    if op is ast.Pow and abs(right) > MAX_EXPONENT:
        raise ValueError(f"exponent {right} is beyond {MAX_EXPONENT}")
    result = _BINARY[op](left, right)
    if isinstance(result, complex):
        raise ValueError(f"{left} ** {right} is not a real number")
    if abs(result) > MAX_MAGNITUDE:
        raise ValueError(f"the result is beyond {MAX_MAGNITUDE:g}")
    return result
