"""The exact update by ranks that are threads: who computes what, what comes back, and the watched term's norms."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rekindle.core.descend import backward
from rekindle.core.echo import EchoNLL
from rekindle.core.method import PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.ranks import sum_gradients
from rekindle.core.types import Batch, Metrics, Now
from rekindle.core.watch import watched
from rekindle.methods import echo_rl, kl_cov
from rekindle.tokens.rollouts import Rollouts
from tests.core.test_descend import RECORDS, Constant, ReadsExtra, Rows, live_batch, method, run
from tests.methods.made import group_rollouts
from tests.methods.stage import collected, gradients
from tests.ranks.team import Member, together

Told = tuple[float, Now, Metrics, Tensor | None, list[int]]


def by_ranks(
    count: int, batch: Batch, record: PolicyGradient, micro: int, sharded: bool = False, **how: bool
) -> list[Told]:
    """What each rank has after the update; with shares, the gradients are summed here as the policy would."""

    def work(rank: Member) -> Told:
        policy = Rows(with_extra=any(isinstance(t, ReadsExtra) for t in record.terms))
        loss, now, metrics = backward(policy, batch, record, micro, ranks=rank, **how)
        sum_gradients([policy.table], replace(rank, sharded=False))
        return loss, now, metrics, policy.table.grad, policy.rows

    return together(count, work, sharded)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("name", RECORDS)
def test_ranks_have_the_update_of_one(name: str, count: int, sharded: bool) -> None:
    record, extra = RECORDS[name]
    policy, batch = Rows(extra), live_batch()
    for micro in (1, 5, 100):
        for two_pass in (None, True):
            found: list = []
            want = run(policy, lambda: found.append(backward(policy, batch, record, micro, two_pass=two_pass)))  # noqa: B023
            loss, now, metrics = found[0]
            for got in by_ranks(count, batch, record, micro, sharded, two_pass=two_pass):  # type: ignore[arg-type]
                assert got[0] == loss and got[2] == metrics, "the same bits, in the order of the pieces"
                assert torch.equal(got[1].logp, now.logp) and torch.equal(got[1].entropy, now.entropy)
                assert got[1].extra.keys() == now.extra.keys()
                assert got[3] is not None and (got[3] - want).abs().max() <= 1e-12 * want.abs().max()


def test_work_is_shared_and_shares_run_equally_often() -> None:
    batch = live_batch()
    whole = by_ranks(2, batch, method(), 5)
    assert [rows for *_, rows in whole] == [[5, 2], [5]]
    shares = by_ranks(2, batch, method(), 5, sharded=True)
    assert [rows for *_, rows in shares] == [[5, 2], [5, 2]], "an idle pass over the last piece"
    twice = by_ranks(2, batch, RECORDS["keep"][0], 5, sharded=True)
    assert [rows for *_, rows in twice] == [[5, 2] * 2, [5, 2] * 2]


def test_a_fresh_minibatch_takes_logp_old_from_all_ranks() -> None:
    policy, batch = Rows(), live_batch()
    batch = replace(batch, extra={n: v for n, v in batch.extra.items() if n != "logp_old"})
    for record in (method(), method(objective=kl_cov.method().objective), method(objective=Clip(dual=3.0))):
        want = run(policy, lambda record=record: backward(policy, batch, record, 5, fresh=True))
        for got in by_ranks(3, batch, record, 5, fresh=True):
            assert got[3] is not None and (got[3] - want).abs().max() <= 1e-12 * want.abs().max()


def test_a_loss_without_gradient_leaves_none_on_any_rank() -> None:
    for sharded in (False, True):
        for got in by_ranks(2, live_batch(), method(objective=Constant(), terms=()), 4, sharded):
            assert got[0] == pytest.approx(2.0) and got[3] is None


@pytest.mark.parametrize("count", [2, 3])
def test_the_norms_of_a_watched_term_are_those_of_one_rank(count: int) -> None:
    record = echo_rl.method().replace(terms=(EchoNLL(coef=0.5, watch=True),))
    stage, batch = collected(record, Rollouts.concat([group_rollouts(g) for g in (2, 5, 6)]))
    gradients(stage.parameters, lambda: backward(stage.policy, batch, record, 3))
    want = watched(stage.policy, batch, record.terms, stage.parameters, 3)
    twins = [copy.deepcopy(stage.policy) for _ in range(count)]

    def work(rank: Member) -> Metrics:
        policy = twins[rank.index]
        parameters = [p for p in policy.parameters() if p.requires_grad]
        for parameter in parameters:
            parameter.grad = None
        backward(policy, batch, record, 3, ranks=rank)
        sum_gradients(parameters, rank)
        before = [p.grad.clone() for p in parameters if p.grad is not None]
        told = watched(policy, batch, record.terms, parameters, 3, rank)
        after = [p.grad for p in parameters if p.grad is not None]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        return told

    for got in together(count, work):
        assert got.keys() == want.keys() == {"grad/EchoNLL", "grad_ratio/EchoNLL"}
        assert all(got[name] == pytest.approx(want[name], rel=1e-10) for name in want)
    assert want["grad/EchoNLL"][0] > 1e-3
