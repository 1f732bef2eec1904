"""YAML is read as its writer means it, and what is written reads back, here and elsewhere."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sllm.config.yaml_text import dump_yaml, parse_yaml
from sllm.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e3", 1e3),
        ("1_000", 1000),
        (".5", 0.5),
        ("-1.5E+2", -150.0),
        ("0x1F", 31),
        ("0o17", 15),
        ("010", "010"),
        ("2:00:00", "2:00:00"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("~", None),
        ("=", "="),
        ("<<", "<<"),
        ("1.2.3", "1.2.3"),
        ("!!str 5", "5"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert parse_yaml(f"a: {text}", "x") == {"a": value}
    assert type(parse_yaml(f"a: {text}", "x")["a"]) is type(value)


def test_keys_are_text() -> None:
    assert parse_yaml("{1: a, on: b, null: c, 2026-01-01: d}", "x") == {
        "1": "a",
        "on": "b",
        "null": "c",
        "2026-01-01": "d",
    }


def test_a_byte_order_mark_and_nothing_at_all() -> None:
    assert parse_yaml("\ufeffa: 1\r\n", "x") == {"a": 1}
    assert parse_yaml("# nothing\n", "x") is None


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x85", "\u2028"])
def test_the_line_of_a_problem_is_found_whatever_ends_lines(end: str) -> None:
    with pytest.raises(UserError, match=r"^x:3: not valid YAML: .*; put text with signs"):
        parse_yaml(f"a: 1{end}b: 2{end}c: @", "x")


MERGES = """
defaults: &defaults {cpus: 4, memory: 8G, partition: cpu}
large: &large {<<: *defaults, memory: 64G}
deep: {inner: &inner {<<: *large, cpus: 9}}
stages:
  pretrain: {partition: gpu, <<: *large}
  both: {<<: [{cpus: 1}, *inner]}
"""


def test_merge_keys() -> None:
    """The key that stands there outdoes one that is merged, of those the first (https://yaml.org/type/merge.html).
    `yaml.safe_load` is no oracle: PyYAML 6.0.4 takes the last of a list."""
    values = parse_yaml(MERGES, "x")
    assert values["large"] == {"cpus": 4, "memory": "64G", "partition": "cpu"}
    assert values["deep"]["inner"] == {"cpus": 9, "memory": "64G", "partition": "cpu"}
    assert values["stages"]["pretrain"] == {"cpus": 4, "memory": "64G", "partition": "gpu"}
    assert values["stages"]["both"] == {"cpus": 1, "memory": "64G", "partition": "cpu"}


def test_aliases_are_copies() -> None:
    values = parse_yaml("a: &a {x: 1}\nb: *a", "x")
    values["b"]["x"] = 2
    assert values["a"] == {"x": 1}


NESTED = "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefg", "bcdefgh", strict=True))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2", "x:2: not valid YAML: the key 'a' stands twice"),
        ("b: {<<: {}, <<: {}}", "the key '<<' stands twice"),
        (
            "a: {{ NAME }}",
            "x:1: not valid YAML: a key is a word, not a list or a mapping; fill in the template {{ … }}",
        ),
        ("? [a]\n: 1", "a key is a word"),
        ("a: !!python/object/apply:os.system [ls]", "the tag '!!python/object/apply:os.system' has no meaning here"),
        ("a: !!timestamp 2026", "has no meaning here"),
        ("a: !env HOME", "the tag '!env' has no meaning here"),
        (r'a: "\0"', r"'\x00' is not text that a file can hold"),
        (r'"\ud800": 1', r"'\ud800' is not text that a file can hold"),
        ("a: !!int x", "'x' is not an integer that can be read"),
        ("a: " + "9" * 5000, "(5,000 characters) is not an integer that can be read"),
        ("a:\n\tb: 1", "x:2: not valid YAML: found character '\\t' that cannot start any token; indent with spaces"),
        ("a: *.txt", "put text with signs"),
        ("a: b: c", "put text with signs"),
        ("a: @b", "put text with signs"),
        ("a: 1\nb: \x00", "x:2: not valid YAML: the character U+0000 is not allowed"),
        ("a: 1\n---\nb: 2", "x:2: not valid YAML: a second document begins here"),
        ("[" * 5000, "x: nested too deeply"),
        ("a: &a [*a]", "an alias (*name) stands inside what it names"),
        ("a: &a {b: {<<: *a}}", "<< merges a mapping"),
        ("a: {<<: 3}", "<< merges a mapping"),
        (f"a: &a [1, 2]\n{NESTED}", "more than 1,000,000 values"),
    ],
)
def test_what_cannot_be_read_is_one_line(text: str, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "x")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    | st.from_regex(r"[-+]?[0-9_.:eExob]{1,8}", fullmatch=True)
    | st.floats(allow_nan=False)
    | st.integers()
    | st.sampled_from(["on", "~", "=", "<<", "2026-01-01", "1e3"])
)
def test_what_is_written_reads_back_here_and_elsewhere(value: object) -> None:
    text = dump_yaml({"a": [value]})
    assert parse_yaml(text, "x") == yaml.safe_load(text) == {"a": [value]}
