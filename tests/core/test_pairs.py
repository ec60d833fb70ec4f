"""Pairs of live rows: which there are, in any row order, and the means over pairs and prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from rekindle.core.pairs import (
    PairedPrompts,
    Pairs,
    all_pairs,
    of_prompts,
    preferred_pairs,
    ranked_pairs,
    row_log_ratio,
    row_sum,
)
from rekindle.core.types import Batch, Now
from tests.batches import hand_batch, make_batch, make_now, poisoned

MAKERS = (all_pairs, ranked_pairs, preferred_pairs)


def uids(batch: Batch, pairs: Pairs) -> list[tuple[int, int]]:
    """The uids of each pair, in the order of the pairs."""
    return list(zip(batch.uid[pairs.first].tolist(), batch.uid[pairs.second].tolist(), strict=True))


def by_hand(batch: Batch) -> set[frozenset[int]]:
    """Every two live rows of one group, by uid."""
    rows = batch.live_rows.nonzero()[:, 0].tolist()
    both = [(i, j) for i, j in combinations(rows, 2) if batch.group[i] == batch.group[j]]
    return {frozenset((int(batch.uid[i]), int(batch.uid[j]))) for i, j in both}


@pytest.mark.parametrize("ungraded", [False, True])
def test_all_pairs_of_live_rows_of_one_group_each_once(ungraded: bool) -> None:
    batch = make_batch(B=17, ungraded=ungraded)
    batch.mask[5] = False
    found = uids(batch, all_pairs(batch))
    assert {frozenset(pair) for pair in found} == by_hand(batch) and len(found) == len(by_hand(batch)) > 10
    assert all(a < b for a, b in found), "the smaller uid first"
    assert not ungraded or not any(int(batch.uid[~batch.graded][0]) in pair for pair in found)


def test_ranked_pairs_have_the_better_first_and_among_equals_the_smaller_uid() -> None:
    batch = make_batch(B=17, ungraded=True)
    score = dict(zip(batch.uid.tolist(), batch.score.tolist(), strict=True))
    found = uids(batch, ranked_pairs(batch))
    assert {frozenset(pair) for pair in found} == by_hand(batch)
    assert all((-score[a], a) < (-score[b], b) for a, b in found)
    some = uids(batch, preferred_pairs(batch))
    assert some == [(a, b) for a, b in found if score[a] > score[b]] and 0 < len(some) < len(found)


def test_equal_responses_state_no_preference_though_their_scores_differ() -> None:
    batch = hand_batch([1.0, 0.0, 0.5], [2, 2, 1])
    assert uids(batch, preferred_pairs(batch)) == [(0, 2), (2, 1)], "rows 0 and 1 say the same"
    other = replace(batch, action=torch.tensor([[1, 1], [1, 2], [1, 7]]))
    assert len(preferred_pairs(other)) == 3
    hidden = replace(batch, action=torch.tensor([[1, 1], [1, 1], [1, 9]]), mask=torch.tensor([[True, False]] * 3))
    assert len(preferred_pairs(hidden)) == 0, "what is off the mask is not compared"


@pytest.mark.parametrize("make", MAKERS)
def test_row_order_is_invisible(make: Callable[[Batch], Pairs]) -> None:
    batch = make_batch(B=17, ungraded=True)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(4))
    assert uids(batch, make(batch)) == uids(batch.take(order), make(batch.take(order)))


@pytest.mark.parametrize("make", MAKERS)
def test_no_pairs_in_groups_of_one_and_in_nothing(make: Callable[[Batch], Pairs]) -> None:
    for batch in (hand_batch([1.0, 0.0], group=[0, 1]), make_batch().take(torch.tensor([], dtype=torch.int64))):
        pairs = make(batch)
        assert len(pairs) == 0 and (pairs.count() == 0).all()
        assert (pairs.prompt_mean(torch.zeros(0)) == 0).all()
        assert (PairedPrompts()(batch, batch.live) == 0).all()


def test_means_over_the_pairs_of_a_prompt() -> None:
    batch = hand_batch([3.0, 1.0, 0.0, 5.0, 4.0, 9.0], group=[2, 2, 2, 5, 5, 8])
    pairs = all_pairs(batch)
    gap = batch.score[pairs.first] - batch.score[pairs.second]
    assert sorted(gap.tolist()) == [1.0, 1.0, 2.0, 3.0]
    assert pairs.prompt_mean(gap).tolist() == [2.0, 2.0, 2.0, 1.0, 1.0, 0.0]
    assert pairs.count().tolist() == [3, 3, 3, 1, 1, 0]


def test_weights_count_prompts_that_have_a_pair_and_nothing_else() -> None:
    batch = hand_batch([1.0, 1.0, 0.0, 0.0, 1.0], [3, 1, 2, 2, 4], group=[0, 0, 1, 1, 2])
    batch = replace(batch, action=torch.arange(20).view(5, 4))
    weight = PairedPrompts()(batch, batch.live)
    assert weight.sum(dim=1).tolist() == pytest.approx([3 / 8, 1 / 8, 1 / 4, 1 / 4, 0])
    assert (PairedPrompts(which="preferred")(batch, batch.live) == 0).all()
    better = replace(batch, score=torch.tensor([1.0, 0.5, 0.0, 0.0, 1.0]))
    assert PairedPrompts(which="preferred")(better, batch.live).sum(dim=1).tolist() == [0.75, 0.25, 0.0, 0.0, 0.0]
    loss = torch.tensor([6.0, 6.0, 2.0, 2.0, float("inf")])
    spread = of_prompts(loss, batch)
    assert (weight * spread.where(weight != 0, 0.0)).sum().item() == pytest.approx(4.0), "the mean over two prompts"


def test_row_sums_see_live_positions_only() -> None:
    batch = make_batch(ungraded=True)
    now = make_now(batch)
    dirty, said = poisoned(batch, now)
    for mean in (False, True):
        clean = row_log_ratio(now, batch, "logp_old", mean)
        assert torch.equal(row_log_ratio(said, dirty, "logp_old", mean), clean)
        row = int(batch.live_rows.nonzero()[0])
        moved = (now.logp - batch.logp_old)[row][batch.live[row]]
        assert clean[row].item() == pytest.approx((moved.mean() if mean else moved.sum()).item())
    assert row_sum(now.logp, batch)[~batch.graded].tolist() == [0.0]
    narrow = Now(logp=now.logp.float(), entropy=now.entropy)
    assert row_sum(narrow.logp, batch).dtype == torch.float64, "long rows are summed in the score's precision"
