"""How a run holds its model, and the most that it computes at once: what its memory is counted from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a run holds its model. element: bytes of a weight. narrow: bfloat16 products by autocast beside it.

    base: bytes of a frozen weight under adapters of `lora` rank (0: all weights train). heads: parameters of scalar
    heads. copies: frozen ones of the whole model (a reference, snapshots). teacher: parameters of one. ranks: that
    share weights, gradients and optimiser (1: each has all). copy: bytes a weight of a whole copy that the sampler
    holds. tables: of logits that a scoring pass holds at a time (0: a step scores nothing by itself). engine: bytes of
    a sampling engine that stays in this process while the model trains. searches: no gradient is taken, and there are
    no moments; the adapter's directions are held beside it, in float64.
    """

    element: int = 4
    narrow: bool = False
    checkpointing: bool = False
    lora: int = 0
    targets: tuple[str, ...] = ("all-linear",)
    base: float = 4.0
    heads: int = 0
    copies: int = 0
    teacher: int = 0
    ranks: int = 1
    copy: int = 0
    tables: int = 0
    engine: int = 0
    gpu: bool = False
    searches: bool = False

    @property
    def trains(self) -> int:
        """Bytes of a weight that trains, of its gradient and of a moment: adapters and heads are never narrow."""
        return max(4, self.element) if self.lora else self.element


@dataclass(frozen=True, kw_only=True)
class Work:
    """The most that is computed at once, tokens a row at most. rows: of a forward pass, of prompts with `group` each.

    pieces: forward passes an update. block: prompts decoded together, `samples` of each; 0: nothing is sampled here.
    evaluated: samples of each prompt in an evaluation, 0: there is none here; at_start: only before the first step.
    engine: bytes that one in this process takes while it samples. pushed: of weights on their way to it. truncates:
    top-k or top-p. lockstep: models that decode side by side under a rule, each row with its prompt; 0: there is none.
    """

    rows: int
    group: int
    prompt: int
    response: int
    pieces: int = 2
    block: int = 0
    samples: int = 0
    evaluated: int = 0
    at_start: bool = False
    engine: int = 0
    pushed: int = 0
    truncates: bool = False
    lockstep: int = 0

    @property
    def prompts(self) -> int:
        """Different prompts of a forward pass."""
        return -(-self.rows // self.group)

    @property
    def tokens(self) -> int:
        """Tokens that a forward pass computes: each prompt once, and each row's response but its last token."""
        return self.prompts * self.prompt + self.rows * max(self.response - 1, 0)
