"""Strategies that damage bytes, JSON trees and TOML, whatever they are the content of."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

DEEP = 3_000
"""Levels of nesting that no parser here takes."""
JUNK = (
    b"\x00",
    b"\xff",
    b"\xfe\xff",
    b"\xed\xa0\x80",
    b"\xc3",
    b"{",
    b"}",
    b"[",
    b'"',
    b"\\",
    b",",
    b"\n",
    b"\r",
    b"nan",
)


class Raw(str):
    """A piece of JSON as it is written."""


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 0.5, -0.5, 1e308, 1e-320),
    *("", " ", "x", "-1", "1e9", "\ud800", "\x00", "e\u0301", "../x", "/dev/null", "a" * 3_000, "None"),
    *([], [[]], [None], [1, "x"], [{}], {}, {"": {}}, {"a": None}, {"x": [1]}),
    *(Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1" * 5_000), Raw("1e999"), Raw("01"), Raw("'x'"), Raw("tru")),
    *(Raw("[" * DEEP + "]" * DEEP), Raw('{"a":' * DEEP + "1" + "}" * DEEP), Raw('"\\ud800"'), Raw('"\\x"')),
)
"""Values that stand where others belong."""


def bytes_of(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` cut, stuffed, with other bytes, in another encoding, or something else altogether."""
    end = max(len(data), 1)
    at = st.integers(0, end - 1)
    stuffed = st.builds(lambda i, junk: data[:i] + junk + data[i:], at, st.sampled_from(JUNK))
    swapped = st.builds(lambda i, junk: data[:i] + junk + data[i + len(junk) :], at, st.sampled_from(JUNK))
    dropped = st.builds(lambda i, size: data[:i] + data[i + size :], at, st.integers(1, 40))
    doubled = st.builds(lambda i, size: data[: i + size] + data[i:], at, st.integers(1, 40))
    cut = at.map(lambda i: data[:i])
    other = st.sampled_from([encoded(data, name) for name in ("utf-16", "utf-16-le", "utf-32", "utf-7")])
    zipped = st.sampled_from([b"PK\x03\x04" + data, b"\x1f\x8b\x08" + data, b"\x80\x04" + data, b"\x00" * len(data)])
    noise = st.binary(min_size=1, max_size=200)
    return st.one_of(cut, stuffed, swapped, dropped, doubled, other, zipped, noise)


def encoded(data: bytes, name: str) -> bytes:
    """The text in another encoding, with a mark of the byte order where that encoding has one."""
    mark = codecs.BOM_UTF16_LE if name == "utf-16-le" else b""
    return mark + data.decode("utf-8", "replace").encode(name, "surrogatepass" if name != "utf-7" else "replace")


def written(value: Any) -> str:
    """`value` as JSON, with pieces that are no JSON as they are."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)


def places(tree: Any, most: int = 400) -> list[tuple[Any, ...]]:
    """The paths of all values of a tree, the first `most`."""

    def walk(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in inner:
            yield (*path, key)
            yield from walk(child, (*path, key))

    found = walk(tree, ())
    return [path for _, path in zip(range(most), found, strict=False)]


def changed(node: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A copy of the tree with `change` of the value at `path`; where that gives `changed` itself, without it."""
    key, *rest = path
    copy: Any = dict(node) if isinstance(node, dict) else list(node)
    new = changed(copy[key], tuple(rest), change) if rest else change(copy[key])
    if new is changed:
        del copy[key]
    else:
        copy[key] = new
    return copy


def tree_of(tree: Any, odd: tuple[Any, ...] = ODD) -> st.SearchStrategy[tuple[str, Any]]:
    """(name of the key that was damaged, the tree) with one value exchanged, dropped or wrapped."""
    values = st.sampled_from(odd)

    def damaged(path: tuple[Any, ...], how: str, value: Any) -> tuple[str, Any]:
        change = {"set": lambda old: value, "drop": lambda old: changed, "wrap": lambda old: [old]}[how]
        named = [key for key in path if isinstance(key, str)]
        return (named[-1] if named else str(path[-1])), changed(tree, path, change)

    how = st.sampled_from(("set", "set", "set", "set", "drop", "wrap"))
    return st.builds(damaged, st.sampled_from(places(tree)), how, values)
