"""YAML text as values with lines: numbers, positions, and refusal of everything that is not a plain space file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.space.document import (
    MAX_BYTES,
    MAX_FAULTS,
    MAX_NUMBER,
    SpaceError,
    parse_count,
    parse_document,
    parse_number,
    read_document,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", 5), ("-5", -5), ("+5", 5), ("1_000", 1000), ("1.5", 1.5), (".5", 0.5), ("5.", 5.0), ("1e-5", 1e-5),
        ("1E3", 1000.0), ("27M", 27_000_000), ("27 M", 27_000_000), ("1.1K", 1100), ("1.1M", 1_100_000),
        ("500K", 500_000), ("3B", 3_000_000_000), ("3G", 3_000_000_000), ("1T", 10**12), ("1.5KiB", 1536),
        ("12 GiB", 12 * 2**30), ("12 GB", 12 * 10**9), ("2MB", 2_000_000), ("5 %", 0.05), ("7%", 0.07),
        ("0.0001K", 0.1), ("wide", None), ("", None), ("-", None), ("1x", None), ("1 2", None),
        ("27m", 27_000_000), ("12gib", 12 * 2**30), ("12gb", 12 * 10**9), ("12 Gb", 12 * 10**9), ("1kib", 1024),
        ("0x10", 16), ("0XfF", 255), ("-0b101", -5), ("0o17", 15), ("0x1_0", 16), ("0x", None), ("0xg", None),
        ("0b2", None), ("0x10K", None), ("1e6", 1e6), ("1e3K", 1_000_000), ("1,000", None),
        ("nan", None), (".inf", None), ("٣", None), ("1" * 65, None),
    ],
)  # fmt: skip
def test_numbers_are_read_with_their_units_and_exactly(text: str, expected: float | None):
    number = parse_number(text)
    assert number == expected
    assert type(number) is type(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e6", 1_000_000), ("27m", 27_000_000), ("0x10", 16), ("1_000", 1000), ("1.5K", 1500), ("3", 3),
        ("0", None), ("-5", None), ("1.5", None), ("1e999", None), ("many", None), ("", None), ("50 %", None),
    ],
)  # fmt: skip
def test_a_count_is_whole_and_from_one_however_it_is_written(text: str, expected: int | None):
    assert parse_count(text) == expected


@given(st.integers(-MAX_NUMBER, MAX_NUMBER) | st.floats(-1e15, 1e15, allow_nan=False))
def test_what_python_writes_as_a_number_is_read_as_that_number(number: float):
    assert parse_number(repr(number)) == number


def test_every_entry_has_the_line_of_its_key():
    document = parse_document("a: 1\nb:\n  c: [2,\n    3]\n  d: {e: 4}\n")
    assert document.value == {"a": 1, "b": {"c": [2, 3], "d": {"e": 4}}}
    assert document.lines["a",] == 1
    assert document.lines["b", "c", 1] == 4
    assert document.lines["b", "d", "e"] == 5
    assert document.fault(("b", "d", "missing"), "gone").render("f.yaml") == "f.yaml:5: b.d.missing: gone"


def test_scalars_are_numbers_truth_or_text_and_quotes_make_text():
    document = parse_document("{a: 1e-5, b: '1e-5', c: true, d: yes, e: \"true\", f: 12 GiB, 3: x}")
    assert document.value == {"a": 1e-5, "b": "1e-5", "c": True, "d": "yes", "e": "true", "f": 12 * 2**30, "3": "x"}


def test_tags_that_say_what_a_value_is_anyway_are_read():
    document = parse_document("{a: !!float 1e-3, b: !!float 1, c: !!int 27M, d: !!str 5, e: !!bool true, f: ! x}")
    assert document.value == {"a": 1e-3, "b": 1.0, "c": 27_000_000, "d": "5", "e": True, "f": "x"}
    assert isinstance(document.value["b"], float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "s: is empty"),
        ("# nothing\n", "s: is empty"),
        ("- a", "s:1: a space is a mapping, `family: ...` and so on"),
        ("\nwords", "s:2: a space is a mapping, `family: ...` and so on"),
        ("a: [1", "s:1: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\n b: 2\n", "s:2: not YAML: mapping values are not allowed here"),
        ("\ta: 1", "s:1: not YAML: found character '\\t' that cannot start any token"),
        ("a: 1\nb: \x07", "s:2: the character U+0007 is not allowed"),
        ("a: 1\n---\nb: 1", "s:2: ---: a second document begins here; a file holds one space"),
        ("a: 1\na: 2", "s:2: a: is given twice; first in line 1"),
        ("a: &x 1\nb: *x", "s:2: b: anchors and aliases are not supported; write the value again"),
        ("a: &x [*x]", "s:1: a.0: anchors and aliases are not supported; write the value again"),
        ("a: !!python/none 5", "s:1: a: tags such as !!python/none are not supported; quote what is text"),
        ("a: !!int 5.5", "s:1: a: 5.5 is not int; leave the tag out, or fix the value"),
        ("a: [1, null]", "s:1: a.1: has no value; write what it stands for, such as 0 for off, or leave it out"),
        ("!!python/object/apply:os.system ['x']", "s:1: a space is a mapping, `family: ...` and so on"),
        ("a:\nb: ~\n",
         "s:1: a: has no value; give one, or leave it out\ns:2: b: has no value; give one, or leave it out"),
        ("a: {max: min(b, c - 1)}", "s:1: a.c - 1): has no value; put an expression that has a comma in quotes"),
        ("? [a]\n: 1", "s:1: ?: a key must be a plain name"),
        ("a: 1e999", "s:1: a: 1e999 is too large; at most 2**53 is read"),
        ("a: 9007199254740993", "s:1: a: 9007199254740993 is too large; at most 2**53 is read"),
        ("a: " + "{b: {c: " * 7 + "1" + "}}" * 7, "s:1: a.b.c: nested more than 12 deep"),
        ('"a\\nb":', "s:1: a\\nb: has no value; give one, or leave it out"),
    ],
)  # fmt: skip
def test_what_is_no_plain_mapping_is_refused_at_its_line(text: str, message: str):
    with pytest.raises(SpaceError) as error:
        parse_document(text, "s")
    assert str(error.value) == message


@pytest.mark.parametrize(
    "text",
    ["[" * 60_000, "{a: " * 15_000, "- " * 30_000, "a: 1\n" * 12_000, "? " * 30_000, "a" * 60_000 + ": 1",
     "&a " * 20_000,
     "".join(f"k{i}:\n" for i in range(9_000)), "a: '" + "x\n\n" * 20_000, "a: >\n" + " x\n" * 20_000 + "b: *x",
     "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 2_000)), "a" * (MAX_BYTES + 1)],
    ids=range(12),
)  # fmt: skip
def test_no_text_takes_many_steps_to_refuse(text: str):
    num_calls = 0

    def count(*_: object) -> None:
        nonlocal num_calls
        num_calls += 1

    sys.setprofile(count)
    try:
        with pytest.raises(SpaceError) as error:
            parse_document(text)
    finally:
        sys.setprofile(None)
    assert num_calls < 40 * MAX_BYTES  # 26 for the worst of these
    if len(error.value.faults) > 1:
        assert error.value.faults[-1].message in (
            f"and perhaps more; these are the first {MAX_FAULTS} faults",
            "nested more than 12 deep",
        )
    assert len(error.value.faults) <= MAX_FAULTS + 1 and len(str(error.value)) < 20_000


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path):
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe9\n")
    (tmp_path / "large.yaml").write_text("a" * (MAX_BYTES + 1))
    for name, expected in {
        "none.yaml": "no such file or directory",
        ".": "is a folder; give the space's YAML file",
        "a\0b": "embedded null byte",
        "latin.yaml": "byte 8 is not UTF-8",
        "large.yaml": "is larger than 65,536 bytes, too large for a space",
    }.items():
        with pytest.raises(SpaceError) as error:
            read_document(f"{tmp_path}/{name}")
        assert str(error.value).endswith(f": {expected}"), name


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.text("ab:-?[]{}&*!|>'\"#%@,\n\t 01~\\", max_size=60))
def test_any_text_is_a_mapping_or_a_located_error(text: str):
    try:
        assert isinstance(parse_document(text).value, dict)
    except SpaceError as error:
        num_lines = max(1, len(text.splitlines()))
        assert error.faults
        assert all(fault.line is None or 1 <= fault.line <= num_lines for fault in error.faults)
