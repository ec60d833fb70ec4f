"""The slots of a method: what each kind of part takes and gives."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from rekindle.core.types import Batch, Metrics, Need, Now


@runtime_checkable
class Collect(Protocol):
    """Run -> Batch."""

    def __call__(self, run: Any) -> Batch:
        """A batch with every column that the run's record needs."""
        ...


@runtime_checkable
class Advantage(Protocol):
    """Batch -> A [B T] without gradient, on the whole batch. `needs_group`: a group of one has no advantage."""

    needs_group: ClassVar[bool]

    def __call__(self, batch: Batch) -> Float[Tensor, "B T"]:
        """Advantages, 0 off live positions."""
        ...


@runtime_checkable
class Objective(Protocol):
    """(Now, Batch) -> (per-token loss [B T], metrics). `separable`: a token's loss depends on its own row only."""

    separable: ClassVar[bool]

    def __call__(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """The loss of each token, and metrics as sums and counts."""
        ...


@runtime_checkable
class TokenTerm(Protocol):
    """A term that is a weighted sum over tokens: its weights are taken once a minibatch, over its own mask.

    regularizes: it says nothing about the answers (an entropy bonus, a KL), so alone it gives no signal.
    """

    separable: ClassVar[bool]
    regularizes: ClassVar[bool]
    needs: ClassVar[tuple[Need, ...]]

    def weights(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The weight of each token of a minibatch."""
        ...

    def per_token(self, now: Now, batch: Batch) -> tuple[Float[Tensor, "B T"], Metrics]:
        """What is weighted, and metrics as sums and counts."""
        ...


@runtime_checkable
class Prepare(Protocol):
    """Batch -> Batch, once, on the whole batch before the split; may replace `score`. `needs`: the columns it reads."""

    needs: ClassVar[tuple[Need, ...]]

    def __call__(self, batch: Batch) -> Batch:
        """The batch with more columns."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """A part that has something to say of every credited batch, before the split."""

    def report(self, batch: Batch) -> Metrics:
        """Metrics as sums and counts."""
        ...
