"""YAML 1.2 core schema, refusals with their places, and bounds."""

import time

import pytest

from controlplane.spec.codes import Code
from controlplane.spec.places import positions
from controlplane.spec.yaml import MAX_DEPTH, MAX_DOCUMENT, Loaded, load


def data(text: str) -> object:
    loaded = load(text)
    assert loaded.faults == ()
    return loaded.data


def codes(text: str) -> list[Code]:
    return [fault.code for fault in load(text).faults]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("012", "012"),
        ("00", "00"),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("-0x1", "-0x1"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2001-01-01", "2001-01-01"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1.2.3", "1.2.3"),
        ("15s", "15s"),
        ("=", "="),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("! 12", "12"),
        ("!!int 12", 12),
        ("!!float 12", 12.0),
        ("|\n  a\n", "a\n"),
        ("é", "é"),
    ],
)
def test_scalars_are_those_of_the_core_schema(text: str, value: object) -> None:
    found = data(f"key: {text}")["key"]  # type: ignore[index]
    assert found == value
    assert type(found) is type(value)


def test_keys_that_yaml_1_1_takes_for_booleans_are_texts() -> None:
    assert data("on: 1\nno: 2\ny: 3") == {"on": 1, "no": 2, "y": 3}


def test_aliases_repeat_their_value() -> None:
    assert data("a: &x {b: [1]}\nc: *x\nd: &y text\ne: *y") == {
        "a": {"b": [1]},
        "c": {"b": [1]},
        "d": "text",
        "e": "text",
    }


@pytest.mark.parametrize(
    ("text", "code", "line", "column"),
    [
        ("a: 1\nb: 2\na: 3", Code.DUPLICATE_KEY, 2, 0),
        ("a:\n  <<: {b: 1}", Code.MERGE_KEY, 1, 2),
        ("1: a", Code.KEY, 0, 0),
        ("true: a", Code.KEY, 0, 0),
        ("[a]: b", Code.KEY, 0, 0),
        ("{{a: 1}: b}", Code.KEY, 0, 1),
        ("? \n: b", Code.KEY, 0, 1),
        ("a: !!python/object:os.system x", Code.TAG, 0, 3),
        ("a: !!set {b}", Code.TAG, 0, 3),
        ("a: !mine [b]", Code.TAG, 0, 3),
        ("a: !!binary aGk=", Code.TAG, 0, 3),
        ("a: !!int x", Code.TAG, 0, 3),
        ("a: *nothing", Code.ALIAS, 0, 3),
        ("a: &x [*x]", Code.ALIAS, 0, 7),
        ("a: 1e999", Code.NUMBER, 0, 3),
        ("a: .inf", Code.NUMBER, 0, 3),
        ("a: .nan", Code.NUMBER, 0, 3),
        ("a: 123456789012345678901234567890", Code.NUMBER, 0, 3),
        ("a:\n\t- b", Code.TAB, 1, 0),
        ("a: b: c", Code.SYNTAX, 0, 4),
        ("a: [1", Code.SYNTAX, 0, 3),
        ("a: {b: 1\n\n", Code.SYNTAX, 0, 3),
        ("a: [1\nb: 2", Code.SYNTAX, 1, 1),
        ("a: 'x\nb: 2", Code.SYNTAX, 0, 3),
        ("a: @x", Code.SYNTAX, 0, 3),
        ("é: \x01", Code.CONTROL_CHARACTER, 0, 3),
        ("a\nb\x00", Code.CONTROL_CHARACTER, 1, 1),
        ("a: \ud800", Code.NOT_UTF8, 0, 3),
        ("a: 1\r---\rb: 2", Code.SYNTAX, 1, 0),
    ],
)
def test_refusals_say_where(text: str, code: Code, line: int, column: int) -> None:
    (fault,) = load(text).faults
    assert (fault.code, fault.line, fault.column) == (code, line, column)


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029"])
def test_a_line_ends_where_people_see_it(character: str) -> None:
    """libyaml ends lines at three more characters, as YAML 1.1 did: what stood behind one in a comment was a value."""
    text = f"a: 1 # no{character}b: 2\nc: x{character}y\nd: 1\nd: 2\n"
    loaded = load(text)
    assert loaded.data.keys() == {"a", "c", "d"}
    found = [(fault.code, fault.line, fault.column) for fault in loaded.faults]
    assert sorted(found) == [
        (Code.CONTROL_CHARACTER, 0, 9),
        (Code.CONTROL_CHARACTER, 1, 4),
        (Code.DUPLICATE_KEY, 3, 0),
    ]
    assert f'write "\\u{ord(character):04X}" in double quotes' in loaded.faults[0].help
    assert positions(text, [("c",), ("d",)]) == {("c",): (1, 3), ("d",): (2, 3)}
    assert load(f'a: "\\u{ord(character):04x}"') == Loaded({"a": character})


def test_a_syntax_error_behind_other_line_ends_has_its_place() -> None:
    *_, fault = load("é: \u2028\nb: {c: 1\n").faults
    assert (fault.code, fault.line, fault.column) == (Code.SYNTAX, 1, 3)


def test_refusals_say_the_path() -> None:
    (fault,) = load("a:\n  - x\n  - {b: 1, b: 2}").faults
    assert fault.path == ("a", 1)


def test_everything_refused_is_found_at_once() -> None:
    assert codes("a: 1\na: 2\n1: x\nb: !x y\nc: .inf") == [Code.DUPLICATE_KEY, Code.KEY, Code.TAG, Code.NUMBER]


def test_a_duplicate_keeps_the_first_value() -> None:
    assert load("a: 1\na: 2").data == {"a": 1}


@pytest.mark.parametrize("text", ["hosts: [*]", "hosts: *.example.com", "hosts:\n- *\n"])
def test_a_wildcard_without_quotes_is_told_to_have_some(text: str) -> None:
    (fault,) = load(text).faults
    assert (fault.message, fault.help) == (
        "a text that begins with * or & needs quotes",
        'write "*" or "*.example.com"',
    )


def test_what_stands_before_a_syntax_error_is_readable_when_complete() -> None:
    """The identity of a broken document is taken from it, so a half-read mapping must not be in it."""
    assert load("metadata: {name: a}\nother: {name: b, x: [").data == {"metadata": {"name": "a"}}


LIMITS = {
    "deep flow": "[" * 100_000,
    "deep block": "- " * 100_000,
    "deep mapping": "{a: " * 100_000,
    "deep keys": "? " * 100_000,
    "alias bomb": "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)),
    "alias chain": "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200)),
    "aliases of a large text": f"a: &a {'x' * 1_000_000}\nb: [{','.join(['*a'] * 1000)}]",
    "many nodes": "[" + "a," * 2_000_000 + "]",
    "a large text": "a: " + "x" * 50_000_000,
    "many duplicates": "{" + "a: ," * 100_000 + "}",
    "many tags": "[" + "!x a," * 100_000 + "]",
}


@pytest.mark.parametrize("text", LIMITS.values(), ids=LIMITS.keys())
def test_hostile_documents_are_refused_quickly(text: str) -> None:
    began = time.process_time()
    loaded = load(text)
    assert loaded.faults
    assert time.process_time() - began < 3
    assert len(loaded.faults) <= 101


def test_depth_is_bounded_exactly() -> None:
    assert codes("[" * MAX_DEPTH + "]" * MAX_DEPTH) == []
    assert codes("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)) == [Code.TOO_DEEP]


def test_size_is_bounded() -> None:
    assert codes("#" * (MAX_DOCUMENT + 1)) == [Code.TOO_LARGE]
