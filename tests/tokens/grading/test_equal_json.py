"""JSON by schema: strict, one payload, and nothing that a lenient parser lets through."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rekindle.tokens.grading.equal_json import MAX_DEPTH, canonical, check, load, strict, valid

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"properties": {"x": {"type": "integer"}}}},
    },
}
SCHEMA = json.dumps(PERSON)


def test_every_property_is_required_and_no_other_allowed_at_every_level() -> None:
    made = strict({**PERSON, "$defs": {"d": {"type": "object", "properties": {"q": {}}}}})
    assert made["required"] == ["name", "tags"] and made["additionalProperties"] is False
    assert made["properties"]["tags"]["items"]["required"] == ["x"]
    assert made["$defs"]["d"]["additionalProperties"] is False
    assert strict({"enum": [{"properties": {"a": 1}}]}) == {"enum": [{"properties": {"a": 1}}]}, "data is no schema"
    untyped = strict({"properties": {"a": {}}})
    assert untyped["type"] == "object", "else it accepts whatever is no object"
    maybe = strict({"type": ["object", "null"], "properties": {"a": {}}})
    assert maybe["type"] == ["object", "null"] and maybe["required"] == ["a"]
    named = strict({"type": "object", "properties": {"properties": {"type": "string"}}})
    assert named["required"] == ["properties"] and named["properties"]["properties"] == {"type": "string"}


@pytest.mark.parametrize(
    ("payload", "success", "why"),
    [
        ('{"name": "a", "tags": [{"x": 1}]}', True, ""),
        ('{"name": "a", "tags": []}', True, ""),
        ('{"name": "a"}', False, "'tags' is a required property"),
        ('{"name": "a", "tags": [], "z": 1}', False, "'z' was unexpected"),
        ('{"name": "a", "tags": [{"x": 1, "y": 2}]}', False, "'y' was unexpected"),
        ('{"name": "a", "name": "b", "tags": []}', False, "'name' occurs twice"),
        ('{"name": NaN, "tags": []}', False, "NaN is no JSON"),
        ('{"name": -Infinity, "tags": []}', False, "-Infinity is no JSON"),
        ('{"name": 1e999, "tags": []}', False, "beyond the range"),
        ('{"name": "a", "tags": []} {}', False, "Extra data"),
        ("{'name': 'a', 'tags': []}", False, "Expecting property name"),
        ('{"name": "a", "tags": ' + "[" * 100 + "]" * 100 + "}", False, "nested"),
        ("1" * 5000, False, "digits"),
        ("", False, "Expecting value"),
        ("\ud800", False, "Expecting value"),
        ("[" * 50_000, False, "nested"),
    ],
)
def test_payloads(payload: str, success: bool, why: str) -> None:
    got = valid(SCHEMA, payload)
    assert got["success"] is success and why in got["why"]


@pytest.mark.parametrize(
    "schema",
    [
        "",
        "{}",
        "true",
        "7",
        "no json",
        '{"type": "nope"}',
        '{"$ref": "https://127.0.0.1/none.json"}',
        '{"pattern": "("}',
    ],
)
def test_a_schema_that_cannot_be_used_grades_nobody(schema: str) -> None:
    assert valid(schema, '"x"')["success"] is None


def test_schemas_are_checked_before_a_run() -> None:
    assert check(SCHEMA)["success"] is True and check("{}")["success"] is None


def nested(levels: int) -> Any:
    return json.loads("[" * levels + "]" * levels)


def test_brackets_inside_texts_do_not_nest() -> None:
    assert load(json.dumps("[" * 1000)) == "[" * 1000 and load(json.dumps('"[[' * 100)) == '"[[' * 100
    assert load(json.dumps(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(ValueError, match="at most 64"):
        load("[" * (MAX_DEPTH + 1))


K = {"type": "object", "properties": {"k": {}, "x": {}}, "if": {"properties": {"k": {"const": 1}}}}
NO = {"type": "object", "properties": {"a": {}, "b": {}}, "not": {"properties": {"a": {"const": 1}}}}


@pytest.mark.parametrize(
    ("schema", "payload", "success"),
    [
        ({**K, "then": {"required": ["x"]}}, '{"k":1,"x":2}', True),
        ({**K, "then": {"properties": {"x": {"const": 5}}}}, '{"k":1,"x":2}', False),
        (NO, '{"a":1,"b":2}', False),
        (NO, '{"a":2,"b":2}', True),
        ({"type": "array", "contains": {"properties": {"a": {"const": 1}}}}, '[{"a":1,"b":2}]', True),
    ],
)
def test_what_only_tests_a_value_keeps_its_meaning(schema: Any, payload: str, success: bool) -> None:
    assert valid(json.dumps(schema), payload)["success"] is success


A, B = {"properties": {"a": {"type": "integer"}}}, {"type": "object", "properties": {"b": {"type": "integer"}}}


@pytest.mark.parametrize(
    "schema", [{"allOf": [A, B]}, {"type": "object", **A, "allOf": [B]}, {**A, "oneOf": [B, {"properties": {"c": {}}}]}]
)
def test_parts_of_one_object_are_closed_together(schema: Any) -> None:
    given = ['{"a":1,"b":2}', '{"a":1}', '{"b":2}', '{"a":1,"b":2,"d":3}', '{"a":1,"b":"x"}']
    assert [valid(json.dumps(schema), text)["success"] for text in given] == [True, False, False, False, False]
    nested = {"type": "object", "properties": {"q": schema}}
    assert [valid(json.dumps(nested), f'{{"q": {text}}}')["success"] for text in given[:4]] == [
        True,
        False,
        False,
        False,
    ]


def test_alternatives_and_links_are_closed_each() -> None:
    either = json.dumps({"oneOf": [A, B]})
    assert [valid(either, text)["success"] for text in ('{"a":1}', '{"b":1}', '{"a":1,"b":1}')] == [True, True, False]
    link = json.dumps({"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": A}})
    assert [valid(link, text)["success"] for text in ('{"a":1}', '{"a":1,"b":2}', "{}")] == [True, False, False]
    joined = valid(json.dumps({"allOf": [{"$ref": "#/$defs/x"}, B], "$defs": {"x": A}}), "{}")
    assert joined["success"] is None and "joins a $ref" in joined["why"]
    old = check(json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", "allOf": [A, B]}))
    assert old["success"] is None and "draft 2020-12" in old["why"]


@pytest.mark.parametrize(
    "schema",
    [
        {"title": "x"},
        {"$schema": "http://json-schema.org/draft-07/schema#", "description": "x"},
        {"format": "date"},
        {"type": "object", "properties": {"a": {"pattern": "("}}},
        {"type": "object", "patternProperties": {"(": {}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}},
        {"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/x"}}},
    ],
)
def test_a_schema_is_found_broken_whatever_is_checked(schema: Any) -> None:
    """Else a response could choose to be ungraded."""
    assert check(json.dumps(schema))["success"] is None and valid(json.dumps(schema), '"x"')["success"] is None


def test_no_response_makes_itself_ungraded() -> None:
    half = json.dumps({"type": "object", "properties": {"a": {"type": "number", "multipleOf": 0.5}}})
    assert valid(half, '{"a":' + "9" * 400 + "}")["success"] is False and valid(half, '{"a": 1.5}')["success"] is True
    tree = {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}
    deep = '{"a":' * (MAX_DEPTH - 1) + "null" + "}" * (MAX_DEPTH - 1)
    assert valid(json.dumps(tree), deep)["success"] is not None and valid(json.dumps(tree), '{"a":null}')["success"]


def test_equal_values_have_one_text() -> None:
    assert canonical('{"b": 1, "a": [2]}') == canonical('{"a":[2],"b":1}') == '{"a":[2],"b":1}'
    assert canonical("{") is None and canonical('{"a":1,"a":2}') is None and canonical("1") != canonical('"1"')
