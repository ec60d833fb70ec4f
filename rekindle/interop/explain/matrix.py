"""The rows of the conformance matrix that bear on a record: measured differences that no flag takes away."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rekindle.interop.explain.said import slots

STORE = Path(__file__).parent / "conformance.json"
"""What explain needs of docs/conformance.json: written by scripts/explain_data.py."""
RIVALS = {"trl": "TRL", "verl": "verl"}
DEFAULTS = {"epsilon_high": 0.2}
"""What a setting that does not name it has, of the flags whose default is another in meaning than ours."""
PLAIN = {"true": True, "false": False}
MEASURES = ("trl-group-eps", "verl-reinforce-pp-ddof", "verl-reinforce-pp-baseline-ddof")
"""Rows about a number that the rival fixes: they bear on a record that has another, which its translator says."""
WIDTHS = ("length",)
"""A row's numbers that are the width of its inputs, which stand for the limit of a response."""
NONE = "none"
"""How the matrix prints None, and a choice of that name: which of the two it is, the part knows."""


@dataclass(frozen=True)
class Shown:
    """A part as the matrix prints it."""

    name: str
    pairs: tuple[tuple[str, Any], ...]

    @property
    def options(self) -> dict[str, Any]:
        """Its options by name."""
        return dict(self.pairs)


@dataclass(frozen=True)
class Row:
    """A row: our parts, the rival's setting, the inputs, the largest differences, and why the sides differ."""

    key: str
    rival: str
    parts: tuple[Shown, ...]
    besides: tuple[str, ...]
    setting: str
    kinds: tuple[str, ...]
    size: Mapping[str, float]
    reason: str
    equal: bool

    @property
    def given(self) -> dict[str, Any]:
        """The flags that the setting names; what else it says is left out."""
        said = re.split(r"[,;] ", self.setting)
        pairs = (piece.partition("=") for piece in said if re.fullmatch(r"[a-z_]+=\S+", piece))
        return {name: _value(text) for name, _, text in pairs}

    @property
    def cut(self) -> bool:
        """Whether it is of a minibatch in several forward passes."""
        return "micro-batches" in self.setting


@functools.cache
def rows() -> tuple[Row, ...]:
    """All rows that compare with TRL or verl."""
    stored = json.loads(STORE.read_text(encoding="utf-8"))["rows"]
    return tuple(_row(key, row) for key, row in stored.items())


def rivals() -> list[str]:
    """The versions that were compared with."""
    return json.loads(STORE.read_text(encoding="utf-8"))["rivals"]


def _row(key: str, row: Mapping[str, Any]) -> Row:
    pieces = row["flags"].split("; ")
    shown = tuple(parse(piece) for piece in pieces if piece[0].isupper())
    besides = tuple(piece for piece in pieces if not piece[0].isupper())
    equal = row["verdict"] == "equal"
    return Row(
        key,
        row["rival"],
        shown,
        besides,
        row["setting"],
        tuple(row["kinds"]),
        row["difference"],
        row["reason"],
        equal,
    )


def parse(text: str) -> Shown:
    """`Clip(low=0.8, dual=none)` as a name and its options; a part inside is a `Shown`."""
    name, _, inside = text.partition("(")
    pieces = re.split(r", (?![^(]*\))", inside[:-1]) if inside != ")" else []
    pairs = (piece.partition("=") for piece in pieces)
    return Shown(name, tuple((key, _value(value)) for key, _, value in pairs))


def _value(text: str) -> Any:
    if "(" in text:
        return parse(text)
    if text.lower() in PLAIN:
        return PLAIN[text.lower()]
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return text


def touching(record: Any, rival: str, translate: Callable[[Any], Mapping[str, Any]], pieces: int) -> list[Row]:
    """The rows that differ, whose parts are the record's and whose setting is what `translate` says of such parts.

    pieces: forward passes a minibatch; a row about cutting bears on several only. Numbers may be others than the row's.
    """
    own = [part for _, part in slots(record)]
    found = []
    for row in rows():
        mates = [next((part for part in own if _alike(shown, part, row)), None) for shown in row.parts]
        if row.rival != RIVALS[rival] or row.equal or row.key in MEASURES or None in mates or (row.cut and pieces == 1):
            continue
        numbered = [_numbered(part, shown) for part, shown in zip(mates, row.parts, strict=True)]
        if _same_words(row, {name: value for part in numbered for name, value in translate(part).items()}):
            found.append(row)
    return found


def _numbered(part: Any, shown: Shown) -> Any:
    """The part with the row's numbers, of the kinds that it has."""
    plain = {n: value for n, value in shown.options.items() if n not in WIDTHS and not isinstance(value, Shown)}
    there = {n: None if v == NONE and not isinstance(vars(part)[n], str) else v for n, v in plain.items()}
    reals = {n: v / 1.0 for n, v in there.items() if isinstance(vars(part)[n], float) and isinstance(v, int | float)}
    return replace(part, **{**there, **reals})


def _same_words(row: Row, said: Mapping[str, Any]) -> bool:
    """Whether the setting is how we say the row's parts: a row about another flag than ours bears on nothing."""
    ours = {name.rpartition(".")[2]: value for name, value in said.items()}
    given = {**DEFAULTS, **row.given}
    told = all(ours.get(name) == value for name, value in row.given.items())
    return bool(row.given) and told and all(given.get(name, value) == value for name, value in ours.items())


def _alike(shown: Shown, part: Any, row: Row) -> bool:
    """Whether the part is the row's but for numbers; beyond +-20 a bound, or none, makes all the difference."""
    if type(part).__name__ != shown.name:
        return False
    for f in fields(part):
        ours, theirs = vars(part)[f.name], shown.options.get(f.name, NONE)
        ours = NONE if ours is None else ours
        if isinstance(theirs, Shown) or (_number(ours) and _number(theirs)):
            continue
        loose = NONE in (ours, theirs) and (_number(ours) or _number(theirs)) and "beyond 20" not in row.kinds
        if not (isinstance(ours, str | bool) and ours == theirs) and not loose:
            return False
    return True


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
