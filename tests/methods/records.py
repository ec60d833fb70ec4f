"""The records that methods train by: a label for each, of a method with several stages one for every stage."""

from __future__ import annotations

from rekindle import methods
from rekindle.core.method import PolicyGradient


def labels() -> tuple[str, ...]:
    """`grpo`, and for a method of two stages `NAME@0` and `NAME@1`."""
    return tuple(label for name in methods.names() for label in labels_of(name))


def labels_of(name: str) -> tuple[str, ...]:
    """The labels of one method."""
    record = methods.load(name).method()
    return (name,) if isinstance(record, PolicyGradient) else tuple(f"{name}@{i}" for i in range(len(record.methods)))


def record_of(label: str) -> PolicyGradient:
    """The record that a label stands for."""
    name, _, stage = label.partition("@")
    return methods.load(name).method().methods[int(stage or 0)]
