"""How long and how fast the two arms of a bed train."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar, cast

from rekindle.core.method import PolicyGradient
from rekindle.core.stages import Stages

Record = TypeVar("Record", bound=PolicyGradient | Stages)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How long and how fast both arms of a bed train; everything else is the records' own.

    A step rolls out `prompts` x `group` responses (`votes` a prompt where a method votes) and descends at `lr`
    in `minibatches` updates, `reuse` times over. budget: a run ends once it has drawn so many responses (0: never).
    adam: False descends by the plain gradient, whose steps Adam would level out.
    """

    steps: int = 200
    prompts: int = 16
    group: int = 8
    votes: int = 16
    lr: float = 0.05
    minibatches: int = 4
    reuse: int = 1
    budget: int = 0
    adam: bool = True

    def fitted(self, record: Record) -> Record:
        """The record with this setting's descent, heads at the same lr; weight decay off: it moves what is fixed.

        Of several stages, each.
        """

        def fit(method: PolicyGradient) -> PolicyGradient:
            size = {"minibatches": self.minibatches, "epochs": self.reuse}
            return method.replace(descent=replace(method.descent, lr=self.lr, head_lr=None, weight_decay=0.0, **size))

        return cast(Record, record.each(fit))
