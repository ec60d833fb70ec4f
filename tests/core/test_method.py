"""The record: what a step does and in which order, what it asks for, how it splits, weighs and adds up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from rekindle.core.advantages import GroupNormalized
from rekindle.core.aggregate import FixedLength, TokenMean
from rekindle.core.method import Descent, PolicyGradient, weighted_sum
from rekindle.core.objectives import Clip
from rekindle.core.opened import Opened
from rekindle.core.terms import EntropyBonus, KLToReference
from rekindle.core.types import (
    ENTROPY_OLD,
    LOGP_OLD,
    LOGP_REF,
    Batch,
    MissingColumn,
    Need,
    Now,
    Update,
    add_metrics,
    concat_sequences,
    mean_metrics,
)
from tests.batches import assert_alive, make_batch, make_now


@dataclass(frozen=True)
class Doubled:
    """A prepare part: adds the column `double`, and asks for the entropy."""

    needs: ClassVar[tuple[Need, ...]] = (ENTROPY_OLD,)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `double`."""
        return batch.with_columns(double=2 * batch.score)


@dataclass
class FakeRun:
    """Notes what a method asks of a run."""

    batch: Batch
    told: list[str] = field(default_factory=list)

    def gather(self, batch: Batch) -> Batch:
        self.told.append("gather")
        return batch

    def opened(self) -> None:
        pass

    def between(self, opened: Opened) -> None:
        pass

    def descend(self, part: Batch, method: PolicyGradient, index: int) -> Update:
        self.told.append(f"descend {index}")
        assert part.advantage.shape == part.mask.shape
        now = make_now(part).detach()
        return Update(batch=part, now=now, metrics={"rows": (float(len(part)), 1.0)}, index=index, last=False)


def record(**slots: Any) -> PolicyGradient:
    def collect(run: Any) -> Batch:
        run.told.append("collect")
        return run.batch

    return PolicyGradient(collect=collect, advantage=GroupNormalized(), objective=Clip()).replace(**slots)


def live_batch(**changes: Any) -> Batch:
    batch = make_batch(**{"B": 14, "shaped": True, **changes})
    assert_alive(batch)
    return batch


def test_a_step_is_collect_source_gather_credit_descend_after() -> None:
    def source(batch: Batch, run: Any) -> Batch:
        run.told.append("source")
        return batch

    def after(run: Any, update: Update) -> None:
        run.told.append(f"after {update.index}")

    run = FakeRun(live_batch())
    method = record(source=(source,), after=(after,), descent=Descent(minibatches=2, epochs=2))
    metrics = method.step(run)
    updates = [word for i in range(4) for word in (f"descend {i}", f"after {i}")]
    assert run.told == ["collect", "source", "gather", *updates]
    assert metrics["rows"] == (28.0, 4.0), "every row once an epoch"


def test_needs_are_asked_for_once() -> None:
    terms = (KLToReference(coef=0.1), EntropyBonus(coef=0.1), KLToReference(coef=0.2))
    assert record(terms=terms, prepare=(Doubled(), Doubled())).needs() == (LOGP_OLD, ENTROPY_OLD, LOGP_REF)
    assert record().needs() == (LOGP_OLD,)


def test_credit_prepares_then_estimates_then_modulates_in_order() -> None:
    batch = live_batch()
    add, double = (lambda a, b: a + b.column("double")[:, None]), (lambda a, b: 2 * a)
    plain = record().credit(batch).advantage
    got = record(prepare=(Doubled(),), modulate=(add, double)).credit(batch)
    torch.testing.assert_close(got.advantage, 2 * (plain + 2 * batch.score[:, None]))
    leaf = replace(batch, score=batch.score.clone().requires_grad_())
    assert not record().credit(leaf).advantage.requires_grad


def test_keep_parts_are_anded_with_live_and_need_now() -> None:
    batch = live_batch(ungraded=True)
    first = lambda now, b: torch.arange(b.mask.shape[1]) < torch.full((len(b), 1), 6)  # noqa: E731
    high = lambda now, b: now.entropy > 0.7  # noqa: E731
    method, now = record(keep=(first, high), aggregate=FixedLength(10)), make_now(batch).detach()
    weight = method.weigh(batch, now).column("weight")
    kept = batch.live & (torch.arange(batch.mask.shape[1]) < 6) & (now.entropy > 0.7)
    assert torch.equal(weight > 0, kept) and kept.any() and not torch.equal(kept, batch.live)
    assert not method.separable and record().separable
    with pytest.raises(ValueError, match="keep"):
        method.weigh(batch)


def test_a_non_separable_part_makes_the_record_so() -> None:
    @dataclass(frozen=True)
    class Whole(EntropyBonus):
        separable: ClassVar[bool] = False

    assert not record(terms=(Whole(coef=0.1),)).separable


def test_losses_of_pieces_add_up_and_terms_keep_their_own_denominators() -> None:
    batch = record().credit(live_batch())
    terms = (EntropyBonus(coef=0.5, aggregate=FixedLength(20)), EntropyBonus(coef=0.25, aggregate=TokenMean()))
    method, now = record(terms=terms), make_now(batch).detach()
    weighed = method.weigh(batch)
    total, metrics = method.loss(now, weighed)
    entropy = now.entropy[batch.live]
    surrogate = Clip()(now, batch)[0][batch.live].mean()
    want = surrogate - 0.5 * entropy.sum() / (20 * len(batch)) - 0.25 * entropy.mean()
    assert total.item() == pytest.approx(want.item(), rel=1e-12)
    pieces = 0.0
    for rows in torch.arange(len(batch)).split(5):
        part = Now(logp=now.logp[rows], entropy=now.entropy[rows])
        pieces += method.loss(part, weighed.take(rows))[0].item()
    assert pieces == pytest.approx(total.item(), rel=1e-12)
    assert metrics["loss/Clip"][0] == pytest.approx(surrogate.item(), rel=1e-12)


def test_a_zero_weight_hides_any_value_and_its_gradient() -> None:
    values = torch.tensor([[1.0, float("inf"), float("nan")]], requires_grad=True)
    loss = weighted_sum(torch.tensor([[0.5, 0.0, 0.0]]), values)
    loss.backward()
    assert loss.item() == 0.5 and values.grad is not None and values.grad.tolist() == [[0.5, 0.0, 0.0]]


def test_minibatches_are_whole_prompts_and_each_epoch_holds_each_row_once() -> None:
    batch, descent = live_batch(B=20), Descent(minibatches=3, epochs=2)
    parts = list(descent.split(batch))
    assert len(parts) == 6
    for epoch in (parts[:3], parts[3:]):
        assert sorted(u for p in epoch for u in p.uid.tolist()) == sorted(batch.uid.tolist())
        homes = [set(p.group.tolist()) for p in epoch]
        assert sum(map(len, homes)) == len(set(batch.group.tolist())), "a prompt lies in one minibatch"
    split = [{frozenset(p.group.tolist()) for p in epoch} for epoch in (parts[:3], parts[3:])]
    assert split[0] != split[1], "epochs are shuffled anew"


def test_groups_may_be_cut() -> None:
    batch = live_batch(B=20)
    parts = list(Descent(minibatches=4, cut_groups=True).split(batch))
    assert [len(p) for p in parts] == [5, 5, 5, 5]
    assert sorted(u for p in parts for u in p.uid.tolist()) == sorted(batch.uid.tolist())
    assert sum(len(p.group.unique()) for p in parts) > len(batch.group.unique())


def test_fewer_prompts_than_minibatches_leave_none_empty() -> None:
    batch = live_batch()
    prompts = len(batch.group.unique())
    parts = list(Descent(minibatches=50).split(batch))
    assert len(parts) == prompts and all(len(p) for p in parts)


def split_by(batch: Batch) -> list[list[int]]:
    return [sorted(p.uid.tolist()) for p in Descent(minibatches=3).split(batch)]


def test_the_split_depends_on_key_and_ids_only() -> None:
    batch = live_batch(B=24)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    assert split_by(batch) == split_by(batch.take(order))
    keys = {str(split_by(replace(batch, key=torch.tensor(k)))) for k in range(6)}
    assert len(keys) > 1, "another step is another split"


@pytest.mark.parametrize("read", [lambda b: b.column("nope"), lambda b: replace(b, extra={}).logp_old])
def test_a_column_that_nobody_asked_for_is_named(read: Callable[[Batch], Tensor]) -> None:
    with pytest.raises(MissingColumn, match=r"nope|logp_old"):
        read(live_batch())


def test_rows_are_taken_with_all_their_columns() -> None:
    batch = live_batch(ungraded=True)
    rows = torch.tensor([3, 0, 5])
    few = batch.take(rows)
    assert few.uid.tolist() == batch.uid[rows].tolist() and len(few.prompt) == 3
    assert torch.equal(few.logp_old, batch.logp_old[rows]) and few.key is batch.key
    assert torch.equal(batch.live, batch.mask & batch.graded[:, None])
    assert torch.equal(batch.live_rows, batch.graded & batch.mask.any(dim=1))


def test_metrics_are_sums_and_counts() -> None:
    total = add_metrics({"a": (1.0, 1.0)}, {"a": (5.0, 2.0), "b": (3.0, 0.0)})
    assert total == {"a": (6.0, 3.0), "b": (3.0, 0.0)}
    assert mean_metrics(total) == {"a": 2.0}, "a mean of nothing does not exist"


def test_ragged_pieces_are_padded_at_the_right() -> None:
    joined = concat_sequences([torch.ones(1, 2), torch.ones(2, 3)])
    assert joined.tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 1]]
