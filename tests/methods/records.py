"""The records that methods train by: a label for each, of a method with several stages one for every stage.

Which contract a method owes follows from what its record is: those with a label have a loss, so that their updates
depend on nothing but the rollouts; those in SEARCHING try candidates.
"""

from __future__ import annotations

from rekindle import methods
from rekindle.core.evolution import Evolution
from rekindle.core.method import PolicyGradient

SEARCHING = tuple(name for name in methods.names() if isinstance(methods.load(name).method(), Evolution))
"""Methods whose path depends on nothing but the seed and the order of the candidates by fitness."""


def labels() -> tuple[str, ...]:
    """`grpo`, and for a method of two stages `NAME@0` and `NAME@1`."""
    return tuple(label for name in methods.names() for label in labels_of(name))


def labels_of(name: str) -> tuple[str, ...]:
    """The labels of one method; none where it has no loss."""
    record = methods.load(name).method()
    if isinstance(record, Evolution):
        return ()
    return (name,) if isinstance(record, PolicyGradient) else tuple(f"{name}@{i}" for i in range(len(record.methods)))


def record_of(label: str) -> PolicyGradient:
    """The record that a label stands for."""
    name, _, stage = label.partition("@")
    record = methods.load(name).method()
    assert not isinstance(record, Evolution), f"{name} has no loss"
    return record.methods[int(stage or 0)]
