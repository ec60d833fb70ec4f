"""What every method owes: an update that depends on nothing but the rollouts. No method is named here."""

from __future__ import annotations

import functools
import pickle
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from rekindle import methods
from rekindle.core.advantages import GroupNormalized, spread
from rekindle.core.method import PolicyGradient
from rekindle.core.ratios import log_ratio
from rekindle.core.types import LOGP_OLD, Batch, Metrics, Now
from rekindle.train.options import flatten
from tests.batches import make_now, pad, poisoned
from tests.methods.records import SEARCHING, labels, labels_of, record_of
from tests.methods.stage import Stage, by_descend, difference, direct, gradients, staged, table_stage

NAMES = labels()
every = pytest.mark.parametrize("name", NAMES)
MICRO = (1, 3, 8, 100)
GATE = {torch.float64: 1e-10, torch.float32: 5e-6}


def by_ranks(stage: Stage, batch: Batch, ranks: int = 2) -> Tensor:
    """Ranks gather log-probs, evaluate the same loss, and each backpropagates its own rows; gradients are summed."""
    shares = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1)).tensor_split(ranks)
    with torch.no_grad():
        parts = [stage.scores(batch.take(rows)) for rows in shares]
    back = torch.cat(shares).argsort()
    names = ("logp", "entropy", *parts[0].extra)
    said = [{"logp": p.logp, "entropy": p.entropy, **p.extra} for p in parts]
    leaves = [torch.cat([one[n] for one in said])[back].requires_grad_() for n in names]
    now = Now(logp=leaves[0], entropy=leaves[1], extra=dict(zip(names[2:], leaves[2:], strict=True)))
    loss, _ = stage.method.loss(now, stage.method.weigh(batch, now.detach()))
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)

    def rank(rows: Tensor) -> None:
        own = stage.scores(batch.take(rows))
        mine = (own.logp, own.entropy, *own.extra.values())
        outputs = [(o, g[rows]) for o, g in zip(mine, grads, strict=True) if g is not None]
        torch.autograd.backward([o for o, _ in outputs], [g for _, g in outputs])

    return torch.stack([gradients(stage.parameters, functools.partial(rank, rows)) for rows in shares]).sum(dim=0)


@every
def test_the_batch_is_alive(name: str) -> None:
    stage, batch = staged(name, torch.float64)
    batch = stage.method.credit(batch)
    now = stage.scores(batch).detach()
    assert batch.success[batch.graded].any() and (batch.advantage > 0).any()
    chosen = bool((batch.score >= 0).all()) and torch.equal(batch.advantage, spread(batch.score, batch))
    if len(batch.score.unique()) > 1 and not chosen:  # what has one score, or was chosen for it, has nothing worse
        assert not batch.success[batch.graded].all() and (batch.advantage < 0).any()
    assert (
        len(batch.mask.sum(dim=1).unique()) > min(3, len(batch) // 2)
        and len(batch.group.unique()) == stage.prompts_per_step
    )
    assert ((batch.mask.flip(1).cumsum(1).flip(1) > 0) & ~batch.mask).any(), "a gap in some mask"
    if len(batch) > stage.prompts_per_step:
        assert (batch.group[1:] != batch.group[:-1]).sum() >= stage.prompts_per_step, "rows are shuffled"
    moved = log_ratio(now, batch).exp()
    assert moved.max() > 1.3 and moved.min() < 0.75, "some ratios lie outside the clip bounds"
    assert direct(stage, batch).abs().max() > 1e-3


@every
def test_the_gradient_does_not_depend_on_how_a_batch_is_cut(name: str) -> None:
    stage, batch = staged(name, torch.float64)
    batch = stage.method.credit(batch)
    want = direct(stage, batch)
    kinds = (False, True) if stage.method.separable else (True,)
    worst = {(m, two): difference(by_descend(stage, batch, m, two), want) for m in MICRO for two in kinds}
    worst["ranks", True] = difference(by_ranks(stage, batch), want)
    print(f"\n{name}: float64, largest difference {max(worst.values()):.1e} at {max(worst, key=lambda k: worst[k])}")
    assert all(value <= GATE[torch.float64] for value in worst.values()), worst


@every
def test_the_gradient_hardly_depends_on_the_cut_in_single_precision(name: str) -> None:
    stage, batch = staged(name, torch.float32)
    batch = stage.method.credit(batch)
    want = direct(stage, batch)
    kinds = (False, True) if stage.method.separable else (True,)
    worst = {(m, two): difference(by_descend(stage, batch, m, two), want) for m in MICRO for two in kinds}
    print(f"\n{name}: float32, largest difference {max(worst.values()):.1e} at {max(worst, key=lambda k: worst[k])}")
    assert all(value <= GATE[torch.float32] for value in worst.values()), worst


@every
def test_padding_is_invisible(name: str) -> None:
    stage, batch = staged(name, torch.float64, table=True)
    wide, _ = pad(batch, make_now(batch), extra=4)
    got, want = (direct(stage, stage.method.credit(b)) for b in (wide, batch))
    assert difference(got, want) <= 1e-12


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_what_lies_off_live_positions_gets_exactly_no_gradient(name: str, bad: float) -> None:
    stage, batch = staged(name, torch.float64, table=True)
    now = stage.scores(batch).detach()
    extra = {name: value.requires_grad_() for name, value in now.extra.items()}
    now = Now(logp=now.logp.requires_grad_(), entropy=now.entropy.requires_grad_(), extra=extra)
    batch = replace(batch, graded=batch.graded & (batch.group != batch.group.unique()[1]))
    answers = []
    for some, said in ((batch, now), poisoned(batch, now, bad)):
        some = stage.method.credit(some)
        loss, _ = stage.method.loss(said, stage.method.weigh(some, said.detach()))
        leaves = [said.logp, said.entropy, *said.extra.values()]
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        answers.append([g if g is not None else torch.zeros_like(said.logp) for g in grads])
        assert all((g[~batch.live] == 0).all() for g in answers[-1])
    assert all(torch.equal(clean, dirty) for clean, dirty in zip(*answers, strict=True))
    assert any((g != 0).any() for g in answers[0])


@every
def test_row_order_is_invisible(name: str) -> None:
    stage, batch = staged(name, torch.float64, table=True)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(9))
    here, there = stage.method.credit(batch), stage.method.credit(batch.take(order))
    torch.testing.assert_close(there.advantage, here.advantage[order], rtol=1e-12, atol=1e-12)
    assert difference(direct(stage, there), direct(stage, here)) <= 1e-12
    parts = [[sorted(p.uid.tolist()) for p in stage.method.descent.split(b)] for b in (here, there)]
    every_epoch = sorted(batch.uid.tolist() * stage.method.descent.epochs)
    assert parts[0] == parts[1] and sorted(u for p in parts[0] for u in p) == every_epoch


@every
def test_the_same_seed_is_the_same_step(name: str) -> None:
    method = record_of(name)
    stages = [table_stage(method, seed=s) for s in (4, 4)]
    start = [p.clone() for p in stages[0].parameters]
    metrics = [method.step(stage) for stage in stages]
    assert metrics[0] == metrics[1]
    pairs = list(zip(*(stage.parameters for stage in stages), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(not torch.equal(a, b) for (a, _), b in zip(pairs, start, strict=True))


@every
def test_a_preset_is_a_value(name: str) -> None:
    method = record_of(name)
    assert flatten(pickle.loads(pickle.dumps(method))) == flatten(method) == flatten(record_of(name))
    other = method.replace(advantage=GroupNormalized(eps=0.25))
    assert flatten(other)["advantage.eps"] == 0.25 and flatten(method).get("advantage.eps") != 0.25
    assert other.objective is method.objective


@dataclass(frozen=True)
class TopShare:
    """A penalty on the tokens with the top `share` of ratios of the whole minibatch: no token can be judged alone."""

    share: float = 0.2
    separable: ClassVar[bool] = False

    def __call__(self, now: Now, batch: Batch) -> tuple[Tensor, Metrics]:
        """-A r, plus |log r| on the top share by value."""
        moved = log_ratio(now, batch)
        count = int(self.share * int(batch.live.sum()))
        top = moved.detach().masked_fill(~batch.live, -torch.inf).flatten().topk(count).indices
        chosen = torch.zeros(moved.numel(), dtype=torch.bool)
        chosen[top] = True
        penalty = moved.abs().where(chosen.view_as(batch.live), 0.0)
        return (-batch.advantage * moved.exp()).where(batch.live, 0.0) + penalty, {}


def test_a_loss_that_looks_at_the_whole_minibatch_stays_exact() -> None:
    stage, batch = staged("grpo", torch.float64, table=True)
    stage = replace(stage, method=stage.method.replace(objective=TopShare()))
    batch = stage.method.credit(batch)
    want = direct(stage, batch)

    def by_pieces() -> None:
        now = stage.scores(batch)
        weighed = stage.method.weigh(batch, now.detach())
        for rows in torch.arange(len(batch)).split(3):
            stage.method.loss(stage.scores(batch.take(rows)), weighed.take(rows))[0].backward()

    wrong = difference(gradients(stage.parameters, by_pieces), want)
    ours = max(difference(by_descend(stage, batch, m, True), want) for m in MICRO)
    print(f"\ntop share: per piece {wrong:.0%} off, ours {ours:.1e}")
    assert wrong > 0.05 and ours <= 1e-12
    assert difference(by_ranks(stage, batch), want) <= 1e-12
    with pytest.raises(ValueError, match="separable"):
        by_descend(stage, batch, 3, two_pass=False)


def test_there_are_methods_and_each_is_of_one_kind() -> None:
    assert len(NAMES) >= 8 and all(isinstance(record_of(n), PolicyGradient) for n in NAMES)
    others = [name for name in methods.names() if not labels_of(name)]
    assert tuple(others) == SEARCHING, "`tests/methods/test_searches.py` says what they owe"


@every
def test_a_step_of_one_update_needs_no_scoring_pass_of_its_own(name: str) -> None:
    """Whatever reads `logp_old` before the update says so; the weights end where a scored step ends."""
    ends = []
    for also in ((LOGP_OLD,), ()):
        method = record_of(name)
        method = method.replace(descent=replace(method.descent, epochs=1, minibatches=1))
        stage = table_stage(method, also=also)
        method.at(0.5).step(stage)
        assert len(stage.updates) == 1 and "logp_old" in stage.updates[0].batch.extra
        ends.append(torch.cat([p.detach().flatten() for p in stage.parameters]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-10, atol=1e-12)
