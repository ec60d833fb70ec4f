"""JSON against a schema, strictly: one payload, no NaN, no key twice, no property missing or added. Runs in a worker,
for a schema may hold a pattern that takes for ever."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

MAX_DEPTH = 64
"""Levels of nesting of a payload or a schema."""

_DATA = ("const", "enum", "default", "examples")
_TESTS = ("not", "if", "then", "else", "contains", "dependentSchemas", "dependencies", "propertyNames")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_TOGETHER = ("allOf", "anyOf", "oneOf")
_SILENT = {
    *("title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions"),
    *("deprecated", "readOnly", "writeOnly", "format"),
}
"""Keywords that refuse nothing."""

_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def valid(schema_text: str, payload: str) -> dict[str, Any]:
    """{"success": bool, "why": str}, or {"success": None, "why"} where the schema itself cannot be used."""
    import referencing.exceptions

    try:
        validator = checker(schema_text)
    except ValueError as error:
        return {"success": None, "why": str(error)}
    try:
        found = load(payload)
    except ValueError as error:
        return {"success": False, "why": str(error)[:200]}
    try:
        fault = first_fault(validator, found)
    except referencing.exceptions.Unresolvable as error:
        return {"success": None, "why": f"the schema cannot be followed: {error}"[:200]}
    except (RecursionError, ArithmeticError, ValueError, TypeError) as error:
        # `checker` has tried the schema alone: a number of 400 digits, or nesting, is the doing of the payload.
        fault = f"it cannot be checked: {type(error).__name__}"
    return {"success": fault is None, "why": fault or ""}


def ready() -> None:
    """Load what is slow to load."""
    valid('{"type": "integer"}', "1")


def check(schema_text: str) -> dict[str, Any]:
    """Whether a schema can be used."""
    try:
        checker(schema_text)
    except ValueError as error:
        return {"success": None, "why": str(error)}
    return {"success": True, "why": ""}


def first_fault(validator: Any, found: Any) -> str | None:
    """The first reason why a payload does not fit."""
    error = next(iter(validator.iter_errors(found)), None)
    return None if error is None else f"{error.json_path}: {error.message}"[:200]


def checker(schema_text: str) -> Any:
    """The validator of a schema, made strict; ValueError where it is none, or accepts everything."""
    import jsonschema
    import referencing
    from jsonschema.validators import validator_for

    schema = load(schema_text)
    if not isinstance(schema, dict) or not schema:
        raise ValueError("the schema is empty or no object: it would accept anything")
    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"no JSON schema: {error.message}"[:200]) from None
    if not schema.keys() - _SILENT:
        raise ValueError("the schema constrains nothing: it would accept anything")
    # An empty registry: a reference to another address is an error, never a download.
    made = strict(schema)
    if "unevaluatedProperties" in json.dumps(made) and "unevaluatedProperties" not in kind.VALIDATORS:
        raise ValueError("the schema joins parts of one object, which its draft cannot close: use draft 2020-12")
    validator = kind(made, registry=referencing.Registry())
    _try_alone(validator, schema)
    return validator


def _try_alone(validator: Any, schema: Any) -> None:
    """ValueError where a schema fails whatever is checked: a pattern that is none, a reference that leads nowhere."""
    import referencing.exceptions
    from referencing.jsonschema import DRAFT202012

    whole = referencing.Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    try:
        for pattern in _each(schema, "pattern"):
            re.compile(pattern)
        for link in [] if _each(schema, "$id") else _each(schema, "$ref"):
            whole.lookup(link)
        for probe in (None, True, 0, "", [], {}):
            first_fault(validator, probe)
    except (referencing.exceptions.Unresolvable, re.error, RecursionError) as error:
        raise ValueError(f"the schema cannot be followed: {error}"[:200]) from None


def _each(schema: Any, keyword: str) -> list[str]:
    """The texts that stand under a keyword at any level."""
    if isinstance(schema, list):
        return [text for item in schema for text in _each(item, keyword)]
    if not isinstance(schema, dict):
        return []
    own = [schema[keyword]] if isinstance(schema.get(keyword), str) else []
    own += list(schema.get("patternProperties", {})) if keyword == "pattern" else []
    return own + [text for name, value in schema.items() if name not in _DATA for text in _each(value, keyword)]


def strict(schema: Any, closed: bool = True) -> Any:
    """The schema with every property required and no other allowed, in all objects that it describes.

    Not in what only tests a value (`not`, `if`, ...), whose meaning that would turn round. closed: False in parts that
    describe one object together (`allOf`): their properties are required, and others are refused by the whole.
    ValueError where such a part is a `$ref`, which other places may use alone.
    """
    if isinstance(schema, list):
        return [strict(item, closed) for item in schema]
    if not isinstance(schema, dict):
        return schema
    parts = _parts(schema)
    together = len(parts) > 1
    if together and any("$ref" in one for part in parts for one in part):
        raise ValueError("the schema joins a $ref with other parts of one object: write its properties out")
    out = {name: _inner(name, value, closed and not together) for name, value in schema.items()}
    properties = schema.get("properties")
    named = isinstance(properties, dict) and "object" in schema.get("type", "object")
    if named:
        # Without a type, a schema of properties accepts whatever is no object.
        out |= {"type": schema.get("type", "object"), "required": sorted(properties or ())}
    if closed and together and any("properties" in one for part in parts for one in part):
        out["unevaluatedProperties"] = False
    elif closed and named:
        out["additionalProperties"] = False
    return out


def _parts(schema: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """What of a schema describes one object together; each with its alternatives."""
    own = [[{name: schema[name]}] for name in ("properties", "$ref") if name in schema]
    joined = [[part] for part in schema.get("allOf", [])]
    either = [list(schema[name]) for name in ("anyOf", "oneOf") if name in schema]
    return [[one for one in part if isinstance(one, dict)] for part in (*own, *joined, *either)]


def _inner(name: str, value: Any, closed: bool) -> Any:
    """What stands under a keyword, made strict."""
    if name in _DATA or name in _TESTS:
        return value
    if name in _NAMED and isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    return strict(value, closed or name not in _TOGETHER)


def load(text: str) -> Any:
    """One JSON value; ValueError for NaN, Infinity, numbers beyond a double, a key twice, deep nesting, and more."""
    depth = deepest = 0
    for token in _BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group(), 0)
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise ValueError(f"nested {deepest} levels deep, at most {MAX_DEPTH}")
    return json.loads(text, parse_constant=_constant, parse_float=_finite, object_pairs_hook=_once)


def canonical(text: str) -> str | None:
    """One JSON value with its keys in order and no white space: equal for answers that say the same. None of none."""
    try:
        return json.dumps(load(text), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number beyond the range of a double")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key '{twice}' occurs twice in one object")
    return found
