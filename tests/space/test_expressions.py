"""Expressions and their intervals: against Python's own eval, and closed against everything else."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.space.expression import FUNCTIONS, Expression, ExpressionError, parse_expression
from search.space.interval import interval

NAMES = ("a", "b", "c")
SMALL = st.integers(-9, 9)
RANGES = {"a": (0, 4), "b": (-3, 3), "c": (1, 5)}


def texts() -> st.SearchStrategy[str]:
    """Expressions of the small language, with numbers, names, every operator and every function."""
    leaves = st.sampled_from(NAMES) | SMALL.map(str) | st.sampled_from(["0.5", "2.5", "True"])

    def wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        binary = st.sampled_from(["+", "-", "*", "/", "//", "%", "<", "<=", "==", "!=", ">", ">=", "and", "or"])
        return st.one_of(
            st.builds(lambda op, x, y: f"({x} {op} {y})", binary, inner, inner),
            st.builds(lambda x, n: f"(({x}) ** {n})", inner, st.integers(0, 3)),
            st.builds(lambda op, x: f"({op} {x})", st.sampled_from(["-", "+", "not"]), inner),
            st.builds(lambda x, y, z: f"({x} if {y} else {z})", inner, inner, inner),
            st.builds(lambda f, x, y: f"{f}({x}, {y})", st.sampled_from(["min", "max"]), inner, inner),
            st.builds(lambda f, x: f"{f}({x})", st.sampled_from(sorted(FUNCTIONS.keys() - {"min", "max"})), inner),
            st.builds(lambda x, y: f"({x} in [{y}, 2])", inner, inner),
        )

    return st.recursive(leaves, wider, max_leaves=8)


def outcome(compute) -> object:
    try:
        return compute()
    except (ExpressionError, ArithmeticError, ValueError, TypeError):
        return "no value"


@settings(max_examples=300, deadline=None)
@given(texts(), st.fixed_dictionaries({name: SMALL for name in NAMES}))
def test_an_expression_has_the_value_that_python_gives_it(text: str, values: dict[str, int]):
    ours = outcome(lambda: parse_expression(text).evaluate(values))
    theirs = outcome(lambda: eval(text, {"__builtins__": {}, **FUNCTIONS, **values}))
    too_large = isinstance(theirs, (int, float)) and abs(theirs) > 1e9
    assert ours == theirs or isinstance(theirs, complex) or too_large


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.text("abc+-*/%()[]<>=!.,'\"0123456789e _:\\#{}", max_size=60))
def test_any_text_is_an_expression_or_an_expression_error(text: str):
    try:
        expression = parse_expression(text)
        assert isinstance(expression, Expression)
        expression.evaluate({name: 2 for name in expression.names})
    except ExpressionError:
        pass


@settings(max_examples=300, deadline=None)
@given(texts())
def test_an_interval_holds_every_value_of_its_expression(text: str):
    expression = parse_expression(text)
    try:
        low, high = interval(expression, RANGES.__getitem__)
    except ExpressionError:
        return
    for a in range(0, 5):
        for b in range(-3, 4):
            for c in (1, 2.5, 5):
                value = outcome(lambda: expression.evaluate({"a": a, "b": b, "c": c}))  # noqa: B023
                if not isinstance(value, str):
                    assert low - 1e-9 <= value <= high + 1e-9, (a, b, c)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a - 1", (-1, 3)),
        ("a - c", (-5, 3)),
        ("min(2, a - 1)", (-1, 2)),
        ("8 // c", (1, 8)),
        ("a % 5", (0, 4)),
        ("b ** 2", (0, 9)),
        ("abs(b)", (0, 3)),
        ("-b", (-3, 3)),
        ("a > 2", (0, 1)),
        ("1 if a > 2 else 7", (1, 7)),
        ("sqrt(a)", (0, 2)),
    ],
)
def test_where_each_name_stands_once_the_interval_is_the_narrowest(text: str, expected: tuple[float, float]):
    assert interval(parse_expression(text), RANGES.__getitem__) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / b", "1 / b: b can be 0, and nothing is divided by 0"),
        ("a % b", "a % b: b can be 0, and nothing is divided by 0"),
        ("2 ** (a * 20)", "2 ** (a * 20): an exponent can be beyond 64"),
        ("b ** 0.5", "b ** 0.5: a power can have no value: its base can be 0 or less"),
        ("a ** -1", "a ** -1: a power can have no value: its base can be 0 or less"),
        ("c * 1e30", "c * 1e30: it can be beyond 1e+30"),
        ("'wide'", "'wide': 'wide' is not a number"),
        ("log2(-c)", "log2(-c): log2 has no value here"),
    ],
)
def test_what_has_no_bound_says_so(text: str, message: str):
    with pytest.raises(ExpressionError) as error:
        interval(parse_expression(text), RANGES.__getitem__)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1", "'a = 1' is not an expression; write == for ="),
        ("a && b", "'a && b' is not an expression; write and for &&"),
        ("!a", "'!a' is not an expression; write not for !"),
        ("a ? 1 : 2", "'a ? 1 : 2' is not an expression; write A if CONDITION else B for ?"),
        ("a ^ 2", "'a ^ 2' is not allowed here; write ** for ^"),
        ("", "'' is not an expression"),
        ("1if a else 2", "'1if a else 2' is not an expression"),
        ("a.b", "'a.b' is not allowed here; use arithmetic, comparisons, and/or/not, if/else"),
        ("a[0]", "'a[0]' is not allowed here; use arithmetic, comparisons, and/or/not, if/else"),
        ("lambda: 1", "'lambda: 1' is not allowed here; use arithmetic, comparisons, and/or/not, if/else"),
        ("None", "'None' is not allowed here; use arithmetic, comparisons, and/or/not, if/else"),
        ("open(a)", "no function 'open'; there are abs, ceil, floor, log2, max, min, round, sqrt"),
        ("max(a)", "max takes two values or more"),
        ("round(a, -10 ** 9)", "round takes one value"),
        ("a == [1]", "'a == [1]': `in` and a list such as [1, 2] go together"),
        ("a in 'abc'", "\"a in 'abc'\": `in` and a list such as [1, 2] go together"),
        ("1e31", "has a number beyond 1e+30"),
        ("1e999", "has a number beyond 1e+30"),
        ("a + " * 100 + "a", "is longer than 400 characters"),
        ("-" * 150 + "a", "is nested more than 100 deep"),
    ],
)
def test_a_faulty_expression_says_what_to_write(text: str, message: str):
    with pytest.raises(ExpressionError) as error:
        parse_expression(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a / 0", "a / 0: division by zero"),
        ("a + x", "a + x: x has no value"),
        ("a + 'b'", "a + 'b': arithmetic on 'b'"),
        ("9 ** 9 ** 9", "9 ** 9 ** 9: exponent 387420489 is beyond 64"),
        ("(9 ** 60) * a", "(9 ** 60) * a: the result is beyond 1e+30"),
        ("(-8) ** 0.5", "(-8) ** 0.5: -8 ** 0.5 is not a real number"),
    ],
)
def test_an_expression_without_a_value_says_why(text: str, message: str):
    with pytest.raises(ExpressionError) as error:
        parse_expression(text).evaluate({"a": 2})
    assert str(error.value) == message


def test_names_are_those_read_and_functions_are_none_of_them():
    assert parse_expression("min(a, b) if 'x' in ['x', c] else 2").names == {"a", "b", "c"}


def test_python_is_followed_in_precedence_and_chained_comparison():
    assert parse_expression("2 + 3 * 2 ** 2").evaluate({}) == 14
    assert parse_expression("1 < a < 3 != 4").evaluate({"a": 2}) is True
    assert parse_expression("-7 // 2").evaluate({}) == math.floor(-3.5)
