"""Where macro actions end: every rule by hand, at its edges, and the same whatever stands off live positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rekindle.core.macro import FixedMacros, PerplexityMacros, RandomMacros, last_apart, live_place, macro_starts
from rekindle.core.types import Batch
from tests.batches import hand_batch, make_batch, make_now, pad

RULES = {
    "fixed": FixedMacros(n=3),
    "one": FixedMacros(n=1),
    "whole": FixedMacros(n=None),
    "random": RandomMacros(lengths=(1, 2, 3), repeat=1),
    "rise": PerplexityMacros(),
    "before": PerplexityMacros(starts="before_rise"),
}
every = pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
PERPLEXITY = [3.0, 2.5, 2.7, 1.9, 1.5, 4.0, 2.0]


def starts(batch: Batch, row: int = 0) -> list[int]:
    """Where the macro actions of a row begin."""
    return macro_starts(batch.column("macro"), batch.live)[row].nonzero()[:, 0].tolist()


def hard(perplexity: list[float]) -> Batch:
    logp = -torch.tensor([perplexity], dtype=torch.float64).log()
    return hand_batch([1.0], [len(perplexity)], logp_ref=logp)


def test_a_macro_action_ends_every_n_tokens() -> None:
    batch = hand_batch([1.0, 0.0, 1.0], [7, 3, 1])
    assert FixedMacros(n=3)(batch).column("macro").tolist() == [
        [0, 0, 0, 1, 1, 1, 2],
        [0, 0, 0, -1, -1, -1, -1],
        [0, -1, -1, -1, -1, -1, -1],
    ]
    assert FixedMacros(n=1)(batch).column("macro")[0].tolist() == list(range(7))
    assert FixedMacros(n=None)(batch).column("macro").clamp(min=0).sum() == 0
    assert starts(FixedMacros(n=100)(batch)) == starts(FixedMacros(n=7)(batch)) == [0]


def test_the_published_perplexities_cut_where_they_rise() -> None:
    batch = hard(PERPLEXITY)
    assert starts(PerplexityMacros()(batch)) == [0, 2, 5]
    official = PerplexityMacros(starts="before_rise")(batch)
    assert starts(official) == [0, 1, 4]
    apart = last_apart(official.column("macro"), batch.live)
    assert starts(batch.with_columns(macro=apart)) == [0, 1, 4, 6], "official code has the last token by itself"


@pytest.mark.parametrize(
    ("perplexity", "rise", "before"),
    [
        ([2.0, 2.0, 2.0], [0], [0]),  # equal does not rise
        ([1.0, 2.0, 3.0], [0, 1, 2], [0, 1]),  # before a rise from the start there is nothing to cut off
        ([3.0, 2.0, 1.0], [0], [0]),
        ([5.0], [0], [0]),
        ([1.0, math.inf, math.inf, 2.0], [0, 1], [0]),  # the reference rules two out
    ],
)
def test_edges_of_the_perplexity_rule(perplexity: list[float], rise: list[int], before: list[int]) -> None:
    batch = hard(perplexity)
    assert starts(PerplexityMacros()(batch)) == rise
    assert starts(PerplexityMacros(starts="before_rise")(batch)) == before


def test_random_lengths_are_each_used_as_often_as_said_and_then_the_rest_is_one() -> None:
    batch = hand_batch([1.0] * 40, [75] * 40)
    macro = RandomMacros(lengths=(1, 2, 3, 5, 10), repeat=3)(batch).column("macro")
    orders = set()
    for row in macro:
        sizes = row.bincount().tolist()
        assert sizes[15:] == [12] and sorted(sizes[:15]) == sorted([1, 2, 3, 5, 10] * 3)
        orders.add(tuple(sizes))
    assert len(orders) == 40, "each row has an order of its own"
    again = RandomMacros()(replace(batch, key=batch.key + 1)).column("macro")
    assert not torch.equal(again, macro), "another step, other orders"
    assert RandomMacros(lengths=(4,), repeat=1)(batch).column("macro")[0].bincount().tolist() == [4, 71]


@every
def test_the_numbers_part_each_row(rule: Callable[[Batch], Batch]) -> None:
    batch = make_batch(B=30, T=23, seed=4, ungraded=True)
    macro = rule(batch).column("macro")
    assert (macro[~batch.live] == -1).all()
    for row, live in zip(macro, batch.live, strict=True):
        inside = row[live]
        sizes = inside.bincount()
        assert sizes.sum() == live.sum() and (sizes > 0).all(), "lengths sum to T, none is 0"
        assert len(inside) == 0 or inside[0] == 0
        assert set((inside[1:] - inside[:-1]).tolist()) <= {0, 1}, "side by side, in order"


@every
def test_neither_padding_nor_a_gap_nor_other_rows_move_an_end(rule: Callable[[Batch], Batch]) -> None:
    batch = make_batch(B=16, T=21, seed=2)
    macro = rule(batch).column("macro")
    assert torch.equal(rule(pad(batch, make_now(batch), 5)[0]).column("macro")[:, :21], macro)
    rows = torch.tensor([7, 3, 11])
    assert torch.equal(rule(batch.take(rows)).column("macro"), macro[rows])
    dirty = batch.with_columns(logp_ref=batch.column("logp_ref").where(batch.live, float("nan")))
    assert torch.equal(rule(dirty).column("macro"), macro)
    for b, live in enumerate(batch.live):
        whole = squeezed(batch, b, live)
        assert rule(whole).column("macro")[0].tolist() == macro[b][live].tolist(), "as if the gaps were not there"


def squeezed(batch: Batch, row: int, live: Tensor) -> Batch:
    """One row without its gaps."""
    one = batch.take(torch.tensor([row]))
    columns = {name: value[:, live] for name, value in one.extra.items() if isinstance(value, Tensor)}
    return replace(one, action=one.action[:, live], mask=one.mask[:, live], extra=columns)


def test_the_last_token_apart_leaves_no_macro_action_empty() -> None:
    for length in range(1, 12):
        batch = hand_batch([1.0], [length])
        for n in (1, 2, 3, 5, None):
            macro = last_apart(FixedMacros(n=n)(batch).column("macro"), batch.live)
            sizes = macro[0].bincount().tolist()
            assert sum(sizes) == length and min(sizes) > 0 and sizes[-1] == 1
            assert len(sizes) == (1 if length == 1 else 1 + math.ceil((length - 1) / (n or length)))


def test_numbers_may_skip_some() -> None:
    live = torch.tensor([[True, True, False, True, True]])
    macro = torch.tensor([[2, 2, -1, 2, 7]])
    assert macro_starts(macro, live).tolist() == [[True, False, False, False, True]]
    assert last_apart(macro, live).tolist() == [[0, 0, -1, 0, 1]]
    assert live_place(live).tolist() == [[0, 1, -1, 2, 3]]


@pytest.mark.parametrize("n", [0, -1])
def test_lengths_that_are_none_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"a whole number of tokens from 1 up, or none .*, not {n}: 5 is usual"):
        FixedMacros(n=n)


def test_other_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="random lengths"):
        RandomMacros(lengths=())
    with pytest.raises(ValueError, match="random lengths"):
        RandomMacros(lengths=(2, 0))
    with pytest.raises(ValueError, match="repeated 1 time or more"):
        RandomMacros(repeat=0)
