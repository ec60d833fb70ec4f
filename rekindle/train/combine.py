"""`A+B`: a record that keeps A and takes over B's essence, slot by slot; two ideas for one slot are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rekindle import methods
from rekindle.core.evolution import Evolution
from rekindle.core.method import Card, PolicyGradient
from rekindle.errors import InputError
from rekindle.train import options

_STATUS = ("exact", "close", "partial")


def combine(names: tuple[str, ...]) -> PolicyGradient:
    """The record of the first method with the essences of the others merged in, in the order they are named.

    Parts of tuple slots are added; any other slot has one owner. InputError, with the way out, where two methods claim
    one slot with different parts, bring two parts of one kind, or both set the score.
    """
    records = {name: _single(name) for name in names}
    record = records[names[0]]
    owner = dict.fromkeys(methods.load(names[0]).CARD.essence, names[0])
    for name in names[1:]:
        for slot in methods.load(name).CARD.essence:
            claims = {s: who for s, who in owner.items() if who not in _elders(name)}
            record = _put(record, slot, _merged(_get(record, slot), slot, (_owner(claims, slot), name)))
            owner[slot] = name
    _refuse_two_scores(record, names)
    return record


def combined_card(names: tuple[str, ...]) -> Card:
    """What is known of a combination: the cards' own statements, joined; its sources follow the parts that moved."""
    cards = [methods.load(name).CARD for name in names]
    record, sources = combine(names), dict(cards[0].sources)
    for name, card in zip(names[1:], cards[1:], strict=True):
        sources |= _moved(card.sources, _single(name), record)
    there = options.flatten(record)
    slots = [slot for card in cards for slot in card.essence]
    return Card(
        title=" + ".join(card.title for card in cards),
        summary=" ".join(card.summary for card in cards),
        authors="; ".join(dict.fromkeys(card.authors for card in cards)),
        year=max(card.year for card in cards),
        arxiv=None,
        code=None,
        parent=names[0],
        essence=tuple(dict.fromkeys(slots)),
        status=max((card.status for card in cards), key=_STATUS.index),
        deviations=tuple(dict.fromkeys(d for card in cards for d in card.deviations)),
        version=max(card.version for card in cards),
        sources={path: text for path, text in sources.items() if path in there},
    )


def _single(name: str) -> PolicyGradient:
    """The record of a method that is one from start to end."""
    record = methods.load(name).method()
    if isinstance(record, Evolution):
        raise InputError(
            f"'{name}' searches without a gradient, and shares no slot with a method that descends: train by one of "
            "the two, and then by the other from its model (--model RUN/final)"
        )
    if not isinstance(record, PolicyGradient):
        raise InputError(
            f"'{name}' changes its method during a run and is not combined: name it alone, or write a method file "
            "that says what each stage is (FILE.py:function)"
        )
    return record


def _own(name: str, slot: str, parts: tuple[Any, ...]) -> list[Any]:
    """The parts of a tuple slot that are the idea: those that are not the parent's, or are the parent's idea, too."""
    card = methods.load(name).CARD
    if card.parent is None:
        return list(parts)
    theirs = _get(_single(card.parent), slot)
    idea = _own(card.parent, slot, theirs) if slot in methods.load(card.parent).CARD.essence else []
    inherited = [options.flatten(part, "x") for part in theirs if part not in idea]
    return [part for part in parts if options.flatten(part, "x") not in inherited]


def _elders(name: str) -> list[str]:
    """The parent of a method, its parent's parent, ...: what a child changes of them is its idea and no clash."""
    parent = methods.load(name).CARD.parent
    return [] if parent is None else [parent, *_elders(parent)]


def _owner(owner: Mapping[str, str], slot: str) -> str | None:
    """Who has claimed a slot, a part of it, or what it is a part of."""
    near = [s for s in owner if s == slot or s.startswith(f"{slot}.") or slot.startswith(f"{s}.")]
    return owner[near[0]] if near else None


def _merged(ours: Any, slot: str, names: tuple[str | None, str]) -> Any:
    """What stands in a slot after an idea came in. names: the slot's owner so far, and who brings it."""
    theirs = _get(_single(names[1]), slot)
    if isinstance(theirs, tuple):
        return (*ours, *_added(ours, _own(names[1], slot, theirs), slot, names))
    if names[0] is not None and options.flatten(ours, "x") != options.flatten(theirs, "x"):
        raise _clash(names, slot, ours, theirs)
    return theirs


def _added(ours: tuple[Any, ...], new: list[Any], slot: str, names: tuple[str | None, str]) -> list[Any]:
    fresh = []
    for part in new:
        same = [p for p in ours if type(p) is type(part)]
        if same and options.flatten(same[0], "x") != options.flatten(part, "x"):
            raise _clash(names, slot, same[0], part)
        fresh += [] if same else [part]
    return fresh


def _clash(names: tuple[str | None, str], slot: str, ours: Any, theirs: Any) -> InputError:
    first = names[0] or "the first method"
    return InputError(
        f"'{first}' and '{names[1]}' both claim the slot '{slot}' ({options.show(ours)} and {options.show(theirs)}): "
        "name one of the two, or write a method file that decides (FILE.py:function)"
    )


def _refuse_two_scores(record: PolicyGradient, names: tuple[str, ...]) -> None:
    """A part that gives a score of its own undoes what stands before it: it comes first, and there is one.

    `shape` parts act before `prepare` parts, in whatever order their methods are named.
    """
    collect: Any = record.collect
    reading = [p for p in record.prepare if _says(p, "sets_score") or _says(p, "reads_score")]
    scoring = [*collect.shape, *reading]
    late = next((part for part in scoring[1:] if _says(part, "sets_score")), None)
    if late is None:
        return
    fixed = late in reading and bool(collect.shape)
    remedy = "name only one of the two methods" if fixed else "name its method first, or only one of the two"
    raise InputError(
        f"'{'+'.join(names)}': {type(late).__name__} gives a score of its own, after {type(scoring[0]).__name__} has "
        f"shaped or read it: {remedy}"
    )


def _says(part: Any, trait: str) -> bool:
    return vars(type(part)).get(trait) is True


def _moved(sources: Mapping[str, str], record: PolicyGradient, merged: PolicyGradient) -> dict[str, str]:
    """Sources of a merged method, with the indices that its tuple parts have in the merged record."""
    found = {}
    for path, text in sources.items():
        keys = path.split(".")
        at = next((i for i, key in enumerate(keys) if key.isdigit()), None)
        if at is not None:
            slot = ".".join(keys[:at])
            part = _get(record, slot)[int(keys[at])]
            places = [i for i, p in enumerate(_get(merged, slot)) if type(p) is type(part)]
            keys[at] = str(places[0]) if places else keys[at]
        found[".".join(keys)] = text
    flat = options.flatten(merged)
    return {path: text for path, text in found.items() if path in flat}


def _get(record: Any, slot: str) -> Any:
    for key in slot.split("."):
        record = dict(options.children(record))[key]
    return record


def _put(record: Any, slot: str, value: Any) -> Any:
    key, _, rest = slot.partition(".")
    return replace(record, **{key: _put(_get(record, key), rest, value) if rest else value})
