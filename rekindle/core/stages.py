"""Several methods one after another, each for its share of the run and with its schedules stretched over that share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from rekindle.core.method import PolicyGradient
from rekindle.core.types import Need


@dataclass(frozen=True, kw_only=True)
class Stages:
    """`methods[i]` trains up to the share `until[i]` of the run (0 to 1, ascending); the last one to the end.

    An end of 1.0 may come early: the methods after it take no step. The optimiser is made once, from the first method's
    descent: its state goes on over the border of two stages.
    """

    methods: tuple[PolicyGradient, ...]
    until: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.methods or len(self.until) != len(self.methods) or self.until[-1] != 1.0:
            raise ValueError(f"{len(self.methods)} methods need as many ends, the last of them 1.0, not {self.until}")
        if any(not (a < b <= 1 or a == b == 1) for a, b in pairwise((0.0, *self.until))):
            raise ValueError(f"the ends of stages are shares of the run that ascend from above 0, not {self.until}")

    def at(self, progress: float) -> PolicyGradient:
        """The method at `progress` (0 at the first step, 1 at the last), its schedules resolved to plain numbers."""
        start = 0.0
        for method, end in zip(self.methods, self.until, strict=True):
            if progress < end or end == 1.0:
                return method.at((progress - start) / (end - start))
            start = end
        raise ValueError(f"progress runs from 0 to 1, not {progress}")

    def each(self, change: Callable[[PolicyGradient], PolicyGradient]) -> Stages:
        """A copy with every method as `change` makes it."""
        return replace(self, methods=tuple(change(method) for method in self.methods))

    def heads(self) -> tuple[str, ...]:
        """The scalar heads that some stage wants on the policy, each once."""
        return tuple(dict.fromkeys(head for method in self.methods for head in method.heads()))

    def needs(self) -> tuple[Need, ...]:
        """Every column that some stage asks for, each once."""
        return tuple(dict.fromkeys(need for method in self.methods for need in method.needs()))

    def passes(self) -> set[str]:
        """The names of the weights that some need of some stage looks at."""
        return set().union(*(method.passes() for method in self.methods))

    def joint(self) -> tuple[Need, ...]:
        """What some stage wants of every pass of the policy, each once."""
        return tuple(dict.fromkeys(need for method in self.methods for need in method.joint()))
