"""Another trainer's configuration as a run.toml, with what is to be known of it at its top."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tomli_w

from rekindle.errors import InputError, unknown
from rekindle.interop.explain import from_trl, from_verl
from rekindle.interop.explain.given import Given, read
from rekindle.interop.explain.reach import Reached, reach
from rekindle.interop.explain.wanted import Wanted
from rekindle.train import options
from rekindle.train.config import Resolved, resolve
from rekindle.train.find import find_method, make_method
from rekindle.train.runfile import parse

READERS: Mapping[str, Callable[[Given], Wanted]] = {"trl": from_trl.wanted, "verl": from_verl.wanted}


@dataclass(frozen=True)
class Imported:
    """A configuration as a run: the text of its run.toml, and what it resolves to."""

    method: str
    text: str
    notes: tuple[str, ...]
    resolved: Resolved


def imported(path: str, rival: str) -> Imported:
    """The configuration at `path`, of "trl" or "verl". InputError, one sentence with file and line, for a bad one."""
    if rival not in READERS:
        raise unknown("trainer", rival, READERS)
    given = read(path)
    try:
        wanted = READERS[rival](given)
    except InputError:
        raise
    except ValueError as error:  # a part of ours that cannot have such a number
        raise InputError(f"{path}: {error}: correct the number") from error
    reached = reach(wanted)
    given.rest()
    notes = tuple(_notes(given, reached))
    text = "\n".join([f"# {note}" for note in notes] + ["", *_lines(reached, wanted.config), ""])
    return Imported(reached.method, text, notes, _resolved(reached, text, path))


def _resolved(reached: Reached, text: str, path: str) -> Resolved:
    """The run that the text makes, which is checked to be the one that was wanted."""
    found = find_method(reached.method)
    try:
        resolved = resolve(found.name, make_method(found), essence=found.essence, toml=parse(text, path))
    except InputError as error:  # options that are no run together
        raise error if str(error).startswith(path) else InputError(f"{path}: {error}") from error
    missed = [change for change in options.diff(reached.record, resolved.record) if change.path != "aggregate"]
    if missed:
        raise InputError(f"{path}: {missed[0].path} cannot be set as the file wants ({missed[0]}): set it by hand")
    return resolved


def _notes(given: Given, reached: Reached) -> Iterator[str]:
    yield f"from {given.file}; run: rekindle train {reached.method} --config THIS_FILE"
    idea = [slot for slot in find_method(reached.method).essence if slot in reached.options]
    if idea:
        told = ", ".join(f"{slot}={reached.options[slot]}" for slot in idea)
        yield f"{reached.method} is taken for its other parts: its own idea is replaced ({told})"
    sections = (
        ("left out", [f"{label}: no method here has it beside the rest" for label in reached.dropped]),
        ("not understood", given.unread),
        ("left at our default", given.left),
        ("means something else here", given.means),
    )
    for title, told in sections:
        for text in dict.fromkeys(told):
            yield f"{title}: {' '.join(text.split())}"


def _lines(reached: Reached, config: Mapping[str, Any]) -> Iterator[str]:
    """One option a line. A part that is named and then given options has its path in quotes: it is no table."""
    yield f'method = "{reached.method}"'
    said = {**config, **reached.options}
    named = [path for path in said if any(other.startswith(f"{path}.") for other in said)]
    for path, value in said.items():
        inside = any(f"{path}.".startswith(f"{part}.") for part in named)
        value = "none" if value is None else list(value) if isinstance(value, tuple) else value
        yield f'"{path}" = {_toml(value)}' if inside else f"{path} = {_toml(value)}"


def _toml(value: Any) -> str:
    return tomli_w.dumps({"it": value}, multiline_strings=False).partition("=")[2].strip()
