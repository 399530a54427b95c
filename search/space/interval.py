"""Interval arithmetic on the checked tree: the range of an expression, given the ranges of its parameters.

Optuna needs one fixed range for each parameter, also for a bound such as `n_layers - 1`. The result contains every
value of the expression (Moore, Interval Analysis, 1966), and is the narrowest such range if each name occurs once.
Evaluating corners instead would miss the middle of `n * (10 - n)`, and the work would double with each parameter.
"""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Callable

from search.space.expression import FUNCTIONS, MAX_EXPONENT, MAX_MAGNITUDE, Expression, ExpressionError

Interval = tuple[float, float]  # both ends are included
TRUTH: Interval = (0, 1)
LOG2_SMALLEST = -1074  # exponent of the smallest float above 0


def interval(expression: Expression, range_of: Callable[[str], Interval]) -> Interval:
    """The range of the expression's values; `range_of` gives a parameter's. Raises ExpressionError if unbounded."""
    try:
        return _interval(expression.tree, range_of)
    except (ValueError, OverflowError) as error:
        raise ExpressionError(f"{expression}: {error}") from None


def _interval(node: ast.expr, range_of: Callable[[str], Interval]) -> Interval:
    match node:
        case ast.Constant(value=str()):
            raise ValueError(f"{node.value!r} is not a number")
        case ast.Constant(value=bool() | int() | float() as number):
            return number, number
        case ast.Name():
            return range_of(node.id)
        case ast.Compare() | ast.UnaryOp(op=ast.Not()):
            return TRUTH
        case ast.UnaryOp():
            low, high = _interval(node.operand, range_of)
            return (-high, -low) if isinstance(node.op, ast.USub) else (low, high)
        case ast.BoolOp():
            return _hull(*(_interval(part, range_of) for part in node.values))
        case ast.IfExp():
            return _hull(_interval(node.body, range_of), _interval(node.orelse, range_of))
        case ast.BinOp():
            return _bounded(_arithmetic(node, _interval(node.left, range_of), _interval(node.right, range_of)))
        case ast.Call(func=ast.Name(id=name)):
            return _called(name, [_interval(arg, range_of) for arg in node.args])
    raise AssertionError(f"unchecked node {ast.dump(node)}")


def _arithmetic(node: ast.BinOp, left: Interval, right: Interval) -> Interval:
    match node.op:
        case ast.Add():
            return left[0] + right[0], left[1] + right[1]
        case ast.Sub():
            return left[0] - right[1], left[1] - right[0]
        case ast.Mult():
            return _corners(lambda a, b: a * b, left, right)
        case ast.Pow():
            return _power(left, right)
    if right[0] <= 0 <= right[1]:
        raise ValueError(f"{ast.unparse(node.right)} can be 0, and nothing is divided by 0")
    if isinstance(node.op, ast.Div):
        return _corners(lambda a, b: a / b, left, right)
    if isinstance(node.op, ast.FloorDiv):
        return _corners(lambda a, b: a // b, left, right)
    if 0 <= left[0] and left[1] < right[0]:
        return left  # the left side is smaller than any divisor
    return (0, right[1]) if right[0] > 0 else (right[0], 0)


def _power(base: Interval, exponent: Interval) -> Interval:
    if max(map(abs, exponent)) > MAX_EXPONENT:
        raise ValueError(f"an exponent can be beyond {MAX_EXPONENT}")
    is_whole = exponent[0] == exponent[1] == int(exponent[0])
    if base[0] <= 0 and (exponent[0] < 0 or not (is_whole or base[0] == 0)):
        raise ValueError("a power can have no value: its base can be 0 or less")
    low, high = _corners(lambda a, b: a**b, base, exponent)
    if base[0] <= 0 <= base[1]:  # the corners of an even power miss 0, and those of 0 ** 0 miss 1
        low, high = min(low, 0), max(high, 1 if exponent[0] == 0 else high)
    return low, high


def _called(name: str, args: list[Interval]) -> Interval:
    (low, high), function = args[0], FUNCTIONS[name]
    match name:
        case "min" | "max":
            return function(a for a, _ in args), function(b for _, b in args)
        case "abs":
            ends = sorted((abs(low), abs(high)))
            return (0 if low <= 0 <= high else ends[0]), ends[1]
        case "sqrt" | "log2" if high < 0 or (name == "log2" and high == 0):
            raise ValueError(f"{name} has no value here")
        case "sqrt":
            return math.sqrt(max(low, 0)), math.sqrt(high)
        case "log2":
            return (math.log2(low) if low > 0 else LOG2_SMALLEST), math.log2(high)
    return function(low), function(high)  # monotonic: round, floor, ceil


def _corners(operation: Callable[[float, float], float], left: Interval, right: Interval) -> Interval:
    results = [operation(a, b) for a, b in itertools.product(left, right)]
    return min(results), max(results)


def _hull(*parts: Interval) -> Interval:
    return min(low for low, _ in parts), max(high for _, high in parts)


def _bounded(found: Interval) -> Interval:
    if max(map(abs, found)) > MAX_MAGNITUDE:
        raise ValueError(f"it can be beyond {MAX_MAGNITUDE:g}")
    return found
