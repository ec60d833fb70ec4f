"""Every card is complete: what it claims about slots, parents and numbers is there."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from rekindle import methods
from rekindle.errors import InputError
from rekindle.train.options import flatten
from rekindle.train.staged import unstaged

NAMES = methods.names()
every = pytest.mark.parametrize("name", NAMES)


def numbers(name: str) -> dict[str, float]:
    """Path -> number of a method's record, of several stages each; true and false are choices, not numbers."""
    flat = flatten(methods.load(name).method())
    return {p: v for p, v in flat.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def sourced(name: str, path: str, value: float) -> bool:
    """Whether a card of the line of parents names the source of this number, of its stage or of all."""
    card = methods.load(name).CARD
    if path in card.sources or unstaged(path) in card.sources:
        return True
    path = unstaged(path)
    return card.parent is not None and numbers(card.parent).get(path) == value and sourced(card.parent, path, value)


def has_slot(record: Any, path: str) -> bool:
    """Whether a record has the slot; those of a record of several stages are its own and those of its stages."""
    key, _, rest = path.partition(".")
    return key in record.__dataclass_fields__ and (not rest or has_slot(getattr(record, key), rest))


def inside(record: Any, path: str) -> dict[str, Any]:
    """What stands in a slot."""
    return {p: v for p, v in flatten(record).items() if p == path or p.startswith(path + ".")}


@every
def test_fields_are_filled(name: str) -> None:
    card = methods.load(name).CARD
    for text in (card.title, card.summary, card.authors):
        assert text and text == text.strip()
    assert 2014 <= card.year <= 2100
    assert card.arxiv is None or re.fullmatch(r"\d{4}\.\d{4,5}", card.arxiv)
    assert card.status in ("exact", "close", "partial")
    assert card.version >= 1 and card.essence
    assert card.status == "exact" or card.deviations, "what is not exact says where it differs"
    assert all(d and d.endswith(".") for d in card.deviations) and isinstance(card.deviations, tuple)


@every
def test_parents_exist_and_end(name: str) -> None:
    line = [name]
    while (parent := methods.load(line[-1]).CARD.parent) is not None:
        assert parent in NAMES and parent not in line
        line.append(parent)


@every
def test_essence_names_slots_that_differ_from_the_parent_or_are_its_idea_too(name: str) -> None:
    card, record = methods.load(name).CARD, methods.load(name).method()
    records = {id(r): r for r in (record, *record.methods)}.values()
    for path in card.essence:
        assert any(has_slot(r, path) for r in records), f"{name} has no slot {path}"
    if card.parent is not None:
        parent = methods.load(card.parent)
        for path in (p for p in card.essence if p not in parent.CARD.essence):
            ours = [inside(r, path) for r in records if has_slot(r, path)]
            assert any(one != inside(parent.method(), path) for one in ours), f"{path} of {name} is its parent's"


@every
def test_every_number_has_a_source(name: str) -> None:
    lacking = [path for path, value in numbers(name).items() if not sourced(name, path, value)]
    assert not lacking


@every
def test_sources_name_paths_of_the_record(name: str) -> None:
    flat = flatten(methods.load(name).method())
    paths = {*flat, *(unstaged(path) for path in flat)}
    assert all(path in paths and text for path, text in methods.load(name).CARD.sources.items())


@every
def test_the_module_is_short_and_says_its_idea(name: str) -> None:
    source = inspect.getsource(methods.load(name))  # type: ignore[arg-type]
    assert len(source.splitlines()) <= 90
    opening = ast.get_docstring(ast.parse(source)) or ""
    card = methods.load(name).CARD
    assert opening.split("\n")[0].endswith(".") and (card.arxiv is None or card.arxiv in opening)


def test_names_are_the_modules_and_unknown_ones_are_told() -> None:
    folder = Path(methods.__file__).parent
    assert set(NAMES) == {p.stem for p in folder.glob("*.py")} - {"__init__"}
    assert methods.load("evol-rl") is methods.load("evol_rl")
    with pytest.raises(InputError, match="'evol_rl'"):
        methods.load("evol_lr")
