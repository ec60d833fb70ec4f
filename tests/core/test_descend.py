"""The exact update: cuts, the two passes, columns of Now, losses without a gradient, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from rekindle.core.advantages import GroupNormalized
from rekindle.core.aggregate import SequenceMean
from rekindle.core.descend import backward, micro_batches
from rekindle.core.method import PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.terms import EntropyBonus, KLToReference
from rekindle.core.types import Batch, Metrics, MissingColumn, Need, Now, mean_metrics
from tests.batches import assert_alive, make_batch

CUTS = (1, 2, 5, 12)


class Rows(nn.Module):
    """Logits by action of the position before; counts its forward passes and the rows of each."""

    def __init__(self, with_extra: bool = False) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(10, 10, generator=rng, dtype=torch.float64) / 2)
        self.with_extra = with_extra
        self.rows: list[int] = []

    def forward(self, batch: Batch) -> Now:
        self.rows.append(len(batch))
        before = torch.nn.functional.pad(batch.action[:, :-1], (1, 0))
        logp = torch.log_softmax(self.table[before], dim=-1)
        taken = logp.gather(2, batch.action[..., None])[..., 0].where(batch.mask, 0.0)
        entropy = -(logp.exp() * logp).sum(dim=-1).where(batch.mask, 0.0)
        extra = {"first": logp[..., 4].where(batch.mask, 0.0)} if self.with_extra else {}
        return Now(logp=taken, entropy=entropy, extra=extra)


@dataclass(frozen=True)
class ReadsExtra:
    """A term on a column of Now."""

    separable: ClassVar[bool] = True
    regularizes: ClassVar[bool] = False
    needs: ClassVar[tuple[Need, ...]] = ()

    def weights(self, batch: Batch) -> Tensor:
        """As the sequence mean."""
        return SequenceMean()(batch, batch.live)

    def per_token(self, now: Now, batch: Batch) -> tuple[Tensor, Metrics]:
        """The column itself."""
        return now.extra["first"], {}


@dataclass(frozen=True)
class Uncertain:
    """Keep the half of the live tokens with the highest entropy in the whole minibatch."""

    share: float = 0.5

    def __call__(self, now: Now, batch: Batch) -> Tensor:
        """Bool [B T]."""
        return now.entropy >= now.entropy[batch.live].quantile(1 - self.share)


def never(run: object) -> Batch:
    raise AssertionError("nothing is collected here")


def method(**slots: object) -> PolicyGradient:
    terms = (EntropyBonus(coef=0.05), KLToReference(coef=0.1))
    base = PolicyGradient(collect=never, advantage=GroupNormalized(), objective=Clip(dual=3.0), terms=terms)
    return base.replace(**slots)


def live_batch() -> Batch:
    batch = make_batch(ungraded=True, shaped=True)
    assert_alive(batch)
    return batch


def run(policy: Rows, work: Callable[[], object]) -> Tensor:
    policy.table.grad = None
    work()
    assert policy.table.grad is not None
    return policy.table.grad.clone()


def whole(policy: Rows, batch: Batch, record: PolicyGradient) -> Tensor:
    def work() -> None:
        now = policy(batch)
        record.loss(now, record.weigh(batch, now.detach()))[0].backward()

    return run(policy, work)


RECORDS = {
    "separable": (method(), False),
    "sequence mean": (method(aggregate=SequenceMean()), False),
    "keep": (method(keep=(Uncertain(),)), False),
    "extra": (method(terms=(ReadsExtra(),)), True),
}


@pytest.mark.parametrize("two_pass", [None, True])
@pytest.mark.parametrize("name", RECORDS)
def test_every_cut_gives_the_gradient_of_the_whole(name: str, two_pass: bool | None) -> None:
    record, extra = RECORDS[name]
    policy, batch = Rows(extra), live_batch()
    want = whole(policy, batch, record)
    assert want.abs().max() > 1e-3
    for cut in CUTS:
        got = run(policy, lambda cut=cut: backward(policy, batch, record, cut, two_pass=two_pass))
        assert (got - want).abs().max() <= 1e-12 * want.abs().max()


@pytest.mark.parametrize("name", RECORDS)
def test_loss_now_and_metrics_do_not_depend_on_the_cut(name: str) -> None:
    record, extra = RECORDS[name]
    policy, batch = Rows(extra), live_batch()
    full = policy(batch).detach()
    losses, metrics = [], []
    for cut in CUTS:
        loss, now, more = backward(policy, batch, record, cut)
        assert torch.equal(now.logp, full.logp) and torch.equal(now.entropy, full.entropy), "rows are back in order"
        assert now.extra.keys() == full.extra.keys() and not now.logp.requires_grad
        losses.append(loss)
        metrics.append(mean_metrics(more))
    assert losses == pytest.approx([losses[0]] * len(CUTS), rel=1e-12)
    assert all(m == pytest.approx(metrics[0], rel=1e-12) for m in metrics)


def test_metrics_of_the_loss_are_the_loss() -> None:
    record, policy = method(), Rows()
    loss, _, metrics = backward(policy, live_batch(), record, 3)
    parts = [total for name, (total, _) in metrics.items() if name.startswith("loss/")]
    assert len(parts) == 3 and sum(parts) == pytest.approx(loss, rel=1e-12)


def test_passes_are_as_many_as_needed() -> None:
    policy, batch = Rows(), live_batch()
    backward(policy, batch, method(), 5)
    assert policy.rows == [5, 5, 2], "a separable loss takes one pass"
    policy.rows.clear()
    backward(policy, batch, method(keep=(Uncertain(),)), 5)
    assert policy.rows == [5, 5, 2] * 2


def test_gradients_add_to_what_is_there() -> None:
    policy, batch = Rows(), live_batch()
    once = run(policy, lambda: backward(policy, batch, method(), 4))
    backward(policy, batch, method(), 4)
    torch.testing.assert_close(policy.table.grad, 2 * once, rtol=1e-12, atol=0)


def test_micro_batches_hold_every_row_once_and_the_longest_group_first() -> None:
    batch = live_batch()
    last = torch.where(batch.mask, torch.arange(1, 10), 0).amax(dim=1)
    pieces = list(micro_batches(batch, 5))
    assert [len(p) for p in pieces] == [5, 5, 2]
    order = torch.cat(pieces)
    assert sorted(order.tolist()) == list(range(12))
    group = batch.group[order]
    assert int((group.diff() != 0).sum()) == len(group.unique()) - 1 > 1  # the rows of a group lie side by side
    starts = [0, *((group.diff() != 0).nonzero()[:, 0] + 1).tolist()]
    longest = [int(last[batch.group == group[start]].max()) for start in starts]
    assert longest == sorted(longest, reverse=True) and [int(last[order[start]]) for start in starts] == longest


def test_micro_batches_are_made_on_the_device_of_the_batch() -> None:
    batch = live_batch()
    mask = batch.mask.to("meta")  # a device whose tensors do not mix with those of the CPU
    pieces = list(micro_batches(replace(batch, mask=mask), 5))
    assert [(len(rows), rows.device.type) for rows in pieces] == [(5, "meta"), (5, "meta"), (2, "meta")]


@pytest.mark.parametrize("size", [0, -1])
def test_a_micro_batch_holds_a_row(size: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        backward(Rows(), live_batch(), method(), size)


def test_one_pass_is_refused_where_it_would_be_wrong() -> None:
    with pytest.raises(ValueError, match="separable"):
        backward(Rows(), live_batch(), method(keep=(Uncertain(),)), 4, two_pass=False)


@dataclass(frozen=True)
class Constant:
    """An objective without any gradient."""

    separable: ClassVar[bool] = True
    value: float = 2.0
    names: tuple[str, ...] = field(default=())

    def __call__(self, now: Now, batch: Batch) -> tuple[Tensor, Metrics]:
        """The same loss everywhere."""
        return torch.full(batch.mask.shape, self.value, dtype=torch.float64), {}


@pytest.mark.parametrize("two_pass", [False, True])
def test_a_loss_without_gradient_leaves_none(two_pass: bool) -> None:
    policy = Rows()
    loss, _, _ = backward(policy, live_batch(), method(objective=Constant(), terms=()), 4, two_pass=two_pass)
    assert loss == pytest.approx(2.0) and policy.table.grad is None


@pytest.mark.parametrize("two_pass", [False, True])
def test_a_batch_without_actions_or_rows_gives_zero(two_pass: bool) -> None:
    batch = live_batch()
    empty = replace(batch, mask=torch.zeros_like(batch.mask))
    for some in (empty, batch.take(torch.arange(0))):
        policy = Rows()
        loss, now, _ = backward(policy, some, method(), 4, two_pass=two_pass)
        assert loss == 0.0 and now.logp.shape == some.mask.shape
        assert policy.table.grad is None or (policy.table.grad == 0).all()


@pytest.mark.parametrize("two_pass", [False, True])
@pytest.mark.parametrize("micro_batch", [1, 5, 12])
def test_a_first_update_takes_logp_old_from_its_own_pass(two_pass: bool, micro_batch: int) -> None:
    policy, batch, clip = Rows(), live_batch(), method()
    with torch.no_grad():
        known = batch.with_columns(logp_old=policy(batch).logp)
    unknown = replace(batch, extra={n: v for n, v in batch.extra.items() if n != "logp_old"})
    found = []
    for given in (known, unknown):
        gradient = run(
            policy,
            lambda given=given: found.append(backward(policy, given, clip, micro_batch, two_pass=two_pass, fresh=True)),
        )
        found.append(gradient)
    torch.testing.assert_close(found[1], found[3], rtol=1e-12, atol=0)
    assert found[0][0] == pytest.approx(found[2][0], rel=1e-12) and found[1].abs().max() > 0
    with pytest.raises(MissingColumn, match="logp_old"):
        backward(policy, unknown, clip, micro_batch, two_pass=two_pass)
