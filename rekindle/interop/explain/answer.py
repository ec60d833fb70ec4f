"""`explain`: a resolved run as the flags of TRL or verl, what these lack, and where the numbers differ all the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from rekindle.core.evolution import Evolution, Method
from rekindle.core.stages import Stages
from rekindle.errors import unknown
from rekindle.interop.explain import trl_parts, trl_run, verl_credit, verl_parts, verl_run
from rekindle.interop.explain.batches import cut
from rekindle.interop.explain.bridged import OWN, SLOTS, bridge
from rekindle.interop.explain.matrix import Row, rows, touching
from rekindle.interop.explain.said import Fixed, Place, Said, Table, Value, key_of, lacks, slots
from rekindle.train import options
from rekindle.train.config import Resolved

Rival = Literal["trl", "verl"]
TABLES: Mapping[str, Table] = {
    "trl": {**trl_parts.TABLE, **trl_run.TABLE},
    "verl": {**verl_parts.TABLE, **verl_credit.TABLE, **verl_run.TABLE},
}
RUNS = {"trl": trl_run.run, "verl": verl_run.run}


@dataclass(frozen=True)
class Item:
    """What became of the part in one slot. shown: the part."""

    path: str
    shown: str
    said: Said


@dataclass(frozen=True)
class Answer:
    """A run in the words of `rival`, slot by slot. rows: of the matrix."""

    method: str
    rival: str
    items: tuple[Item, ...]
    rows: tuple[Row, ...]
    config: Any

    @property
    def said(self) -> Said:
        """All of it together."""
        return sum((item.said for item in self.items), Said())

    @property
    def flags(self) -> dict[str, Value]:
        """The other trainer's flags, in the order of the slots."""
        return dict(self.said.flags)

    @property
    def complete(self) -> bool:
        """Whether the flags say all of the record; they may still lead to other numbers."""
        return not self.said.lacking

    @property
    def origins(self) -> dict[str, str]:
        """Flag -> the slot that it comes from."""
        found: dict[str, str] = {}
        for item in self.items:
            for name in item.said.flags:
                found.setdefault(name, item.path)
        return found


def explain(resolved: Resolved, rival: str) -> Answer:
    """The answer for a resolved run. InputError for another trainer than the two."""
    if rival not in TABLES:
        raise unknown("trainer", rival, TABLES)
    name, record = resolved.config.method, resolved.record
    stages = record.methods
    first = stages[0]
    items = _bridged(_items(first, rival, resolved), rival, name, record)
    if isinstance(record, Stages):
        items = [Item(f"methods.0.{i.path}" if i.path else "", i.shown, i.said) for i in items]
        items += _later(record, resolved, name)
    said = sum((item.said for item in items), Said())
    pieces = 1 if isinstance(first, Evolution) else cut(first.descent, _place("descent", first, resolved)).pieces
    found = touching(first, rival, _words(first, rival, resolved), pieces)
    measured = {row.key: row for row in rows()}
    used = [measured[fixed.row] for fixed in said.fixed if fixed.row]
    return Answer(name, rival, tuple(items), (*used, *found), resolved.config)


def _words(record: Method, rival: str, resolved: Resolved) -> Callable[[Any], Mapping[str, Value]]:
    """Part -> the flags that it would have in the record."""
    table = TABLES[rival]

    def words(part: Any) -> Mapping[str, Value]:
        translate = table.get(type(part))
        return translate(part, _place("", record, resolved)).flags if translate else {}

    return words


def _place(path: str, record: Method, resolved: Resolved) -> Place:
    return Place(path=path, record=record, config=resolved.config)


def _items(record: Method, rival: str, resolved: Resolved) -> list[Item]:
    """What each part translates itself to; a part whose class is in no table is lacking, by its name."""
    found = []
    for path, part in slots(record):
        place = _place(path, record, resolved)
        if isinstance(record, Evolution):
            said = lacks(place, "a search without a gradient: both trainers descend", part)
        else:
            translate = TABLES[rival].get(key_of(part))
            said = translate(part, place) if translate else lacks(place, f"{_title(rival)} has nothing like it", part)
        found.append(Item(path, options.show(part), said))
    if not isinstance(record, Evolution):
        found.append(Item("", "the run", RUNS[rival](_place("", record, resolved))))
    return found


def _later(record: Stages, resolved: Resolved, name: str) -> list[Item]:
    """The stages after the first: what they change, and when."""
    reason, bridge = "a trainer keeps its flags for the whole run", OWN.format(name=name)
    found = []
    for i, method in enumerate(record.methods[1:], 1):
        place = Place(path="until", record=method, config=resolved.config)
        said = lacks(place, reason, f"stage {i} begins at {record.until[i - 1]:.12g} of the run", bridge=bridge)
        for change in options.diff(record.methods[i - 1], method, f"methods.{i}"):
            place = Place(path=change.path, record=method, config=resolved.config)
            said += lacks(place, reason, change.new, bridge=bridge)
        found.append(Item(f"methods.{i}", type(method).__name__, said))
    return found


def _bridged(items: list[Item], rival: str, name: str, record: Any) -> list[Item]:
    """The items, each with what does its lacks all the same. record: the method's, with all its stages."""
    slotted = [item.path.partition(".")[0] in SLOTS for item in items]
    own = OWN.format(name=name)
    wanted = any(item.said.lacking for item, slot in zip(items, slotted, strict=True) if slot)
    found = bridge(rival, name, record) if wanted else own
    return [_does(item, found if slot else own) for item, slot in zip(items, slotted, strict=True)]


def _does(item: Item, told: str) -> Item:
    """The item with `told` as what does each lack that names nothing."""
    lacking = tuple(
        lack if lack.bridge else replace(lack, path=lack.path.lstrip("."), bridge=told) for lack in item.said.lacking
    )
    return replace(item, said=replace(item.said, lacking=lacking))


def _title(rival: str) -> str:
    return {"trl": "TRL", "verl": "verl"}[rival]


def as_json(answer: Answer) -> dict[str, Any]:
    """The answer as JSON holds it."""
    return {
        "method": answer.method,
        "as": answer.rival,
        "complete": answer.complete,
        "flags": answer.flags,
        "from": answer.origins,
        "rewards": [list(pair) for pair in answer.said.rewards],
        "same": {item.path: item.said.same for item in answer.items if item.said.same},
        "lacking": [asdict(lack) for lack in answer.said.lacking],
        "fixed": [_plain(fixed) for fixed in answer.said.fixed],
        "differs": [
            {"row": r.key, "where": list(r.kinds), "size": dict(r.size), "reason": r.reason} for r in answer.rows
        ],
    }


def _plain(found: Fixed) -> dict[str, Any]:
    return {**asdict(found), "ours": options.show(found.ours), "theirs": options.show(found.theirs)}
