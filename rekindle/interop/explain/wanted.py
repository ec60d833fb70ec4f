"""The record that a configuration asks for, with the pieces that can be left out of it where no method has them all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rekindle.core.method import PolicyGradient

Change = Callable[[PolicyGradient], PolicyGradient]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """base: the record without the optional pieces; optional: a piece -> how it is put in; config: of the run."""

    base: PolicyGradient
    optional: Mapping[str, Change] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def without(self, dropped: Collection[str]) -> PolicyGradient:
        """The record with all optional pieces but those."""
        record = self.base
        for label, put in self.optional.items():
            record = record if label in dropped else put(record)
        return record


def term(part: Any) -> Change:
    """Puts a term behind the others."""
    return lambda record: replace(record, terms=(*record.terms, part))


def shape(part: Any) -> Change:
    """Puts a part behind those that shape scores."""
    return lambda record: _collected(record, shape=(*vars(record.collect)["shape"], part))


def select(part: Any) -> Change:
    """Another selection of prompts."""
    return lambda record: _collected(record, select=part)


def _collected(record: PolicyGradient, **slots: Any) -> PolicyGradient:
    collect: Any = record.collect
    return replace(record, collect=replace(collect, **slots))


def rate(lr: Any) -> Change:
    """Another learning rate."""
    return lambda record: replace(record, descent=replace(record.descent, lr=lr))


def slot(**parts: Any) -> Change:
    """Other parts in slots."""
    return lambda record: replace(record, **parts)
