"""Dotted paths over trees of frozen dataclasses, tuples and mappings: read, set, compare and hash a record by name.

A part (a dataclass) in a slot shows as the slot with the part's class name, plus its fields: `objective` = "Clip",
`objective.high` = 1.2. A tuple of parts shows by index (`terms.0.coef`); a tuple of plain values is one value.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import itertools
import json
import operator
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rekindle.errors import InputError, unknown
from rekindle.train.partnames import named_part, part_names

PLAIN = (str, bool, int, float, type(None))
Record = typing.TypeVar("Record")
KINDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "none"}


@dataclass(frozen=True)
class Change:
    """One difference of two records: the path, and what stands there (None where nothing does)."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path}: {show(self.old)} -> {show(self.new)}"


def flatten(record: Any, path: str = "") -> dict[str, Any]:
    """Dotted path -> number, string, bool, None or a tuple of these; parts and functions appear by their bare name."""
    if _is_plain(record):
        return {path: record}
    flat: dict[str, Any] = {}
    if path and not isinstance(record, (tuple, Mapping)):
        flat[path] = _name(record)
    for key, child in children(record):
        flat |= flatten(child, f"{path}.{key}" if path else key)
    return flat


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(v, PLAIN) for v in value)
    return isinstance(value, PLAIN)


def children(node: Any) -> list[tuple[str, Any]]:
    """(key, child) of a mapping (by key), a tuple (by index) or a part (by field, in order); a leaf has none."""
    if isinstance(node, Mapping):
        return [(str(key), node[key]) for key in sorted(node)]
    if isinstance(node, tuple):
        return [(str(i), child) for i, child in enumerate(node)]
    if is_dataclass(node) and not isinstance(node, type):
        return [(f.name, getattr(node, f.name)) for f in fields(node)]
    return []


def _name(value: Any) -> str:
    named = isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType))
    return value.__name__ if named else type(value).__name__


def show(value: Any) -> str:
    """A value as it is printed: `none`, `true`, `1e-06`, `text`, `(1, 2)`, `Clip(low=0.8, high=1.2)`."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, (str, int)):
        return str(value)
    if isinstance(value, tuple):
        return "(" + ", ".join(show(v) for v in value) + ")"
    inside = ", ".join(f"{key}={show(child)}" for key, child in children(value))
    return f"{_name(value)}({inside})" if is_dataclass(value) and not isinstance(value, type) else _name(value)


def override(record: Record, path: str, value: Any) -> Record:
    """A copy of `record` with `value` at `path`, checked against the field's annotation.

    A whole number is taken for a float, a bool never for a number, the word "none" for None where None is allowed.
    Raises InputError for an unknown path (naming the nearest) and for a value of another kind.
    """
    known = flatten(record)
    if path not in known:
        raise unknown_option(path, known)
    return _put(record, type(record), path.split("."), path, value)


def unknown_option(path: str, known: Iterable[str]) -> InputError:
    """The error for an option that is not among `known`: names those that end like it, else the nearest."""
    names = list(known)
    tail = path.rpartition(".")[2]
    return unknown("option", path, [n for n in names if n.rpartition(".")[2] == tail] or names)


def _put(node: Any, hint: Any, keys: list[str], path: str, value: Any) -> Any:
    if not keys:
        return _checked(node, hint, path, value)
    key, rest = keys[0], keys[1:]
    child = dict(children(node))[key]
    new = _put(child, _hint(node, hint, key), rest, path, value)
    if isinstance(node, Mapping):
        return {**node, key: new}
    if isinstance(node, tuple):
        return (*node[: int(key)], new, *node[int(key) + 1 :])
    try:
        return replace(node, **{key: new})
    except ValidationError as error:
        raise InputError(f"option '{path}' {_reason(error)}, not {show(value)}") from error
    except ValueError as error:
        raise InputError(f"option '{path}' cannot be {show(value)}: {error}") from error


def _hint(node: Any, hint: Any, key: str) -> Any:
    """The annotation of a child: of a field by the class, of an element by the container's own annotation."""
    if not isinstance(node, (tuple, Mapping)):
        return typing.get_type_hints(type(node), include_extras=True)[key]
    inside = typing.get_args(hint)
    if not inside:
        return Any
    if isinstance(node, tuple) and inside[-1] is not Ellipsis:
        return inside[int(key)]
    return inside[0] if isinstance(node, tuple) else inside[1]


def _checked(old: Any, hint: Any, path: str, value: Any) -> Any:
    allowed = [member for member in _members(hint) if _is_plain_hint(member)]
    if type(None) in allowed and value == "none":
        return None
    if isinstance(value, str) and not _is_plain(old) and value == _name(old):
        return old
    if isinstance(value, str) and is_dataclass(old) and (part := named_part(old, hint, value)) is not None:
        return part
    if not allowed:
        inner = [f"{path}.{key}" for key, _ in children(old)]
        known = part_names(old, hint)
        remedy = f"set {' or '.join(inner[:3])}" if inner else "name another in a method file (FILE.py:function)"
        remedy += f", or choose {', '.join(known)}" if len(known) > 1 else ""
        raise InputError(f"option '{path}' holds {show(old)} and takes no plain value: {remedy}")
    value = tuple(value) if isinstance(value, list) else value
    try:
        good = TypeAdapter(functools.reduce(operator.or_, allowed)).validate_python(value, strict=True)
    except ValidationError as error:
        kinds = " or ".join(_kind(member) for member in allowed)
        raise InputError(f"option '{path}' is {kinds}, not {show(value)!r}") from error
    if isinstance(good, float) and good - good != 0:
        raise InputError(f"option '{path}' must be a finite number, not {good}")
    return good


def _members(hint: Any) -> list[Any]:
    if typing.get_origin(hint) is typing.Annotated:
        return _members(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [inner for member in typing.get_args(hint) for inner in _members(member)]
    return [hint]


def _is_plain_hint(hint: Any) -> bool:
    if typing.get_origin(hint) is tuple:
        return all(arg is Ellipsis or _is_plain_hint(arg) for arg in typing.get_args(hint))
    return hint in KINDS or typing.get_origin(hint) is typing.Literal


def _kind(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(f"'{value}'" for value in typing.get_args(hint))
    return KINDS[hint] if hint in KINDS else "a list of " + _kind(typing.get_args(hint)[0])


def _reason(error: ValidationError) -> str:
    message = error.errors()[0]["msg"]
    return "must be " + message.removeprefix("Input should be ")


def parse_assignment(text: str) -> tuple[str, Any]:
    """`PATH=VALUE` as (path, value). The value is read as TOML; what is no TOML value is a string.

    >>> parse_assignment("descent.lr=1e-4"), parse_assignment("model=embedded")
    (('descent.lr', 0.0001), ('model', 'embedded'))
    """
    path, equals, raw = (piece.strip() for piece in text.partition("="))
    if not equals or not path:
        raise InputError(f"--set takes PATH=VALUE, not '{text}'")
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        return path, _number_or_text(raw)
    except (ValueError, RecursionError):  # 4,300 digits, or brackets as deep as the stack
        raise InputError(f"--set {path}: the value is too long or too deep to be read: give a shorter one") from None
    value = parsed["value"]
    value = tuple(value) if isinstance(value, list) else value
    return path, value if len(parsed) == 1 and _is_plain(value) else raw


def _number_or_text(raw: str) -> float | str:
    """TOML refuses `.5` and `5.`, which people type; every other odd value is a string."""
    try:
        return float(raw) if raw[:1] in "+-.0123456789" else raw
    except ValueError:
        return raw


def diff(old: Any, new: Any, path: str = "") -> list[Change]:
    """What differs from `old` to `new`, in slot order; a part that was added, removed or exchanged is one change."""
    if isinstance(old, tuple) and isinstance(new, tuple) and not (_is_plain(old) and _is_plain(new)):
        return _diff_tuples(old, new, path)
    if _is_plain(old) or type(old) is not type(new) or not children(old):
        same = type(old) is type(new) and flatten(old, "x") == flatten(new, "x")
        return [] if same else [Change(path or "method", old, new)]
    ours, theirs = dict(children(old)), dict(children(new))
    changes: list[Change] = []
    for key in dict.fromkeys([*ours, *theirs]):
        changes += diff(ours.get(key), theirs.get(key), f"{path}.{key}" if path else key)
    return changes


def _diff_tuples(old: tuple[Any, ...], new: tuple[Any, ...], path: str) -> list[Change]:
    """Elements are paired by class, so that one inserted in front does not shift all others."""
    names = [_name(part) for part in old], [_name(part) for part in new]
    matcher = difflib.SequenceMatcher(None, *names, autojunk=False)
    changes: list[Change] = []
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            for i, j in zip(range(a, b), range(c, d), strict=True):
                changes += diff(old[i], new[j], f"{path}.{j}")
            continue
        pairs = itertools.zip_longest(old[a:b], new[c:d])
        changes += [Change(f"{path}.{c + k}", before, after) for k, (before, after) in enumerate(pairs)]
    return changes


def record_hash(record: Any) -> str:
    """A sha256 over all paths and values, the names of parts and functions included; equal on every machine."""
    return hashlib.sha256(json.dumps(flatten(record), sort_keys=True).encode()).hexdigest()
