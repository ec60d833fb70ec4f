"""What a translator says of a part: the other trainer's flags, what these cannot say, and what they say otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import FunctionType
from typing import Any

from rekindle.core.aggregate import SamplerWeighted
from rekindle.core.evolution import Method
from rekindle.core.method import PolicyGradient
from rekindle.core.schedules import Schedule
from rekindle.tokens.collect import Answers
from rekindle.train.options import show
from rekindle.train.settings import RunConfig

Value = bool | int | float | str | list[Any] | dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a part stands: the dotted path of its slot, the record around it, and the options of the run."""

    path: str
    record: Any
    config: RunConfig

    @property
    def mean(self) -> object:
        """How the record's loss is averaged, whatever its tokens weigh besides."""
        mean = self.record.aggregate
        return mean.inner if isinstance(mean, SamplerWeighted) else mean


@dataclass(frozen=True, kw_only=True)
class Lacking:
    """A part, or an option of one, that the other trainer has no flag for. bridge: what does it all the same."""

    path: str
    what: str
    reason: str
    bridge: str = ""


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """An option that the other trainer has at a number of its own, whatever its flags say.

    row: of the conformance matrix, which measured the difference. matters: False where the update stays the same.
    """

    path: str
    ours: Any
    theirs: Any
    reason: str
    row: str = ""
    matters: bool = True


@dataclass(frozen=True, kw_only=True)
class Said:
    """A part in the other trainer's words. rewards: what goes into its list of reward functions, each with its weight.

    same: what it does without a flag. A part may have flags and lack something at once.
    """

    flags: Mapping[str, Value] = field(default_factory=dict)
    same: str = ""
    rewards: tuple[tuple[str, float], ...] = ()
    lacking: tuple[Lacking, ...] = ()
    fixed: tuple[Fixed, ...] = ()

    def __add__(self, other: Said) -> Said:
        """Both; of two values of a flag the first stays, and the clash is a lack."""
        clash = [name for name in other.flags if name in self.flags and self.flags[name] != other.flags[name]]
        lost = tuple(
            Lacking(path=name, what=f"{name}={other.flags[name]}", reason=f"another part sets it to {self.flags[name]}")
            for name in clash
        )
        return Said(
            flags={**self.flags, **{name: value for name, value in other.flags.items() if name not in self.flags}},
            same="; ".join(filter(None, (self.same, other.same))),
            rewards=self.rewards + other.rewards,
            lacking=self.lacking + other.lacking + lost,
            fixed=self.fixed + other.fixed,
        )


Translator = Callable[[Any, Place], Said]
Table = Mapping[Any, Translator]
"""The class of a part (or a function that stands in a slot) -> what translates it."""


def flags(**given: Value) -> Said:
    """Flags alone."""
    return Said(flags=given)


def same(text: str) -> Translator:
    """A part that needs no flag, whatever its numbers."""
    return lambda part, place: Said(same=text)


def lacks(place: Place, reason: str, what: Any = None, at: str = "", bridge: str = "") -> Said:
    """A lack of the part at `place`, or of its option `at`. what: the part or the value."""
    path = f"{place.path}.{at}" if at else place.path
    return Said(lacking=(Lacking(path=path, what=show(what), reason=reason, bridge=bridge),))


def fixed(place: Place, at: str, ours: Any, theirs: Any, reason: str, row: str = "", matters: bool = True) -> Said:
    """The option `at` of the part, where it is not what the other trainer has; nothing where it is."""
    if ours == theirs:
        return Said()
    found = Fixed(path=f"{place.path}.{at}", ours=ours, theirs=theirs, reason=reason, row=row, matters=matters)
    return Said(fixed=(found,))


def schedules(part: Any, place: Place) -> Said:
    """A lack for each number of the part that changes over the run."""
    said = Said()
    for f in fields(part):
        value = vars(part)[f.name]
        if isinstance(value, Schedule):
            said += lacks(place, "a number that changes over the run has no flag", value, at=f.name)
    return said


def slots(record: Method) -> Iterator[tuple[str, Any]]:
    """(dotted path, part) of all that stands in a slot: those of `collect` one by one, a tuple's parts by index."""
    for f in fields(record):
        part = vars(record)[f.name]
        if isinstance(part, Answers):
            for inner in fields(part):
                yield from _each(f"collect.{inner.name}", vars(part)[inner.name])
        else:
            yield from _each(f.name, part)


def _each(path: str, part: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(part, tuple):
        yield path, part
        return
    for i, one in enumerate(part):
        yield f"{path}.{i}", one


def key_of(part: Any) -> Any:
    """What a table is looked up by: the part's class, or the function itself."""
    return part if isinstance(part, FunctionType) else type(part)


def held(record: PolicyGradient, kind: type) -> bool:
    """Whether a part of this class stands in some slot."""
    return any(isinstance(part, kind) for _, part in slots(record))
