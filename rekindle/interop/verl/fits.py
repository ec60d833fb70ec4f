"""What of a method fits into verl's two functions, found out as it is registered: by what parts ask for, and by trial.

A trial calls a part on four made-up rows twice, with another value of what verl does not hand over in the second call:
a part whose answer differs reads it. So nothing depends on a list of methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rekindle.core.method import PolicyGradient
from rekindle.core.returns import KLInReward
from rekindle.core.terms import EntropyBonus, KLToReference
from rekindle.core.types import Batch, Headed, MissingColumn, Needy, Now
from rekindle.errors import InputError
from rekindle.interop.verl.handed import batch_of, loss_batch
from rekindle.interop.verl.shares import MODES
from rekindle.tokens.collect import Answers, Once

Slotted = tuple[str, Any]
"""(the slot, the part in it)."""


def refuse_loss(method: PolicyGradient, name: str) -> None:
    """InputError naming the part that a policy loss of verl cannot hold; nothing where the method fits."""
    parts = [("objective", method.objective), *(("keep", part) for part in method.keep)]
    for slot, part in [*parts, ("aggregate", method.aggregate)]:
        _refuse_asking(name, slot, part)
    if type(method.aggregate) not in MODES:
        raise _refusal(name, "aggregate", method.aggregate, "has no counterpart among verl's loss_agg_mode")
    for term in method.terms:
        _refuse_term(method, name, term)
    for slot, part in parts:
        for what, others in _other_rows():
            _try(name, slot, part, what, lambda rows, part=part: _said(part, *rows), (_rows(), others))


def refuse_estimator(method: PolicyGradient, name: str) -> None:
    """InputError naming the part that an advantage estimator of verl cannot hold; nothing where the method fits."""
    charged = any(isinstance(part, KLInReward) for part in method.prepare)
    own = [("prepare", part) for part in method.prepare if not isinstance(part, KLInReward)]
    if charged and own:
        raise _refusal(name, "prepare", own[0][1], "changes rewards that verl has already charged the KL to")
    own = [*own, ("advantage", method.advantage), *(("modulate", part) for part in method.modulate)]
    for slot, part in own:
        _refuse_asking(name, slot, part)
    rows = batch_of(torch.ones(4, 3), torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([0, 0, 0, 1]))
    rows = rows.with_columns(reward=torch.zeros(4, 3) + rows.score[:, None] / 3)
    for what, others in (("success", replace(rows, success=~rows.success)), ("action", _acted(rows))):
        for n, (slot, part) in enumerate(own, start=1):
            _try(name, slot, part, what, lambda batch, n=n: _credited(own[:n], batch), (rows, others))


def refuse_run(method: PolicyGradient, name: str) -> None:
    """InputError naming a part that acts outside of both functions, or numbers that move over a run."""
    for slot, parts in (("source", method.source), ("after", method.after)):
        if parts:
            raise _refusal(name, slot, parts[0], "reads and writes the memory of a run, which verl does not keep")
    collect = method.collect
    if isinstance(collect, Answers) and not isinstance(collect.draw, Once):
        raise _refusal(name, "collect.draw", collect.draw, "brings other rows than verl's sampling")
    start, end = method.at(0.0), method.at(1.0)
    for slot in ("objective", "aggregate", "keep", "terms", "prepare", "advantage", "modulate"):
        if vars(start)[slot] != vars(end)[slot]:
            raise InputError(f"{name}: a number in {slot} follows a schedule, and verl does not say how far a run is")


def _refuse_asking(name: str, slot: str, part: Any) -> None:
    asked = [need.name for need in part.needs if need.name != "logp_old"] if isinstance(part, Needy) else []
    if asked:
        raise _refusal(name, slot, part, f"reads '{asked[0]}', which verl does not hand over")
    if isinstance(part, Headed) and part.heads:
        raise _refusal(name, slot, part, f"needs the head '{part.heads[0]}' on the policy, which verl has not")


def _refuse_term(method: PolicyGradient, name: str, term: Any) -> None:
    if not isinstance(term, EntropyBonus | KLToReference):
        raise _refusal(name, "terms", term, "is neither verl's entropy bonus nor its KL to the reference")
    if term.aggregate != method.aggregate:
        raise _refusal(name, "terms", term, "averages otherwise than the objective, and verl has one loss_agg_mode")
    if sum(isinstance(other, type(term)) for other in method.terms) > 1:
        raise _refusal(name, "terms", term, "is there twice, and verl adds one")


def _refusal(name: str, slot: str, part: Any, why: str) -> InputError:
    what = vars(part).get("__name__", type(part).__name__)
    return InputError(f"{name}: its {slot} {what} {why}: put another part in its place, or train with rekindle train")


# --- trials -----------------------------------------------------------------------------------------------------------


def _rows() -> tuple[Now, Batch]:
    old = -torch.arange(1.0, 13.0, dtype=torch.float64).reshape(4, 3) / 7
    advantage = torch.tensor([1.5, -0.5, 0.75, -2.0], dtype=torch.float64)[:, None].expand(4, 3)
    moved = torch.tensor([0.5, -0.7, 0.1], dtype=torch.float64)
    batch, now = loss_batch(old, old + moved, advantage, torch.ones(4, 3), 3)
    return now, batch


def _other_rows() -> Iterator[tuple[str, tuple[Now, Batch]]]:
    """(what verl does not hand over to a loss, the rows with another value of it)."""
    now, batch = _rows()
    yield "group", (now, replace(batch, group=torch.tensor([0, 0, 1, 1])))
    yield "score", (now, replace(batch, score=batch.score + torch.arange(4.0)))
    yield "success", (now, replace(batch, success=torch.tensor([True, False, True, True])))
    yield "action", (now, _acted(batch))
    yield "entropy", (replace(now, entropy=now.entropy + torch.arange(12.0).reshape(4, 3)), batch)


def _acted(batch: Batch) -> Batch:
    return replace(batch, action=batch.action + torch.arange(12).reshape(4, 3))


def _said(part: Callable[[Now, Batch], Any], now: Now, batch: Batch) -> Tensor:
    """What an objective, or a keep, says of the rows."""
    said = part(now, batch)
    return said[0] if isinstance(said, tuple) else said


def _credited(parts: Sequence[Slotted], batch: Batch) -> Tensor:
    """What the parts make of the scores, one after another."""
    found = batch.score[:, None]
    for slot, part in parts:
        if slot == "prepare":
            batch = part(batch)
            found = batch.score[:, None]
        else:
            found = part(batch) if slot == "advantage" else part(found, batch)
    return found


def _try(name: str, slot: str, part: Any, what: str, call: Callable[[Any], Tensor], rows: tuple[Any, Any]) -> None:
    try:
        same = torch.equal(call(rows[0]), call(rows[1]))
    except MissingColumn as error:
        column = str(error).partition("'")[2].partition("'")[0]
        raise _refusal(name, slot, part, f"reads '{column}', which verl does not hand over") from error
    if not same:
        raise _refusal(name, slot, part, f"reads the '{what}' of rows, which verl does not hand over")
