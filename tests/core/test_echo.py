"""Echoes: which piece wins by each choice, how evenly chance chooses, and what is logged of the winners."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rekindle.core.echo import EchoNLL, MineEcho, step_sizes
from rekindle.core.segments import segments
from rekindle.core.types import Batch, Now, mean_metrics
from tests.batches import hand_batch

ENDS = 9


def batch_of(tokens: list[list[int]], entropy: list[list[float]], right: list[float], group: list[int]) -> Batch:
    """Rows whose steps end with token 9."""
    batch = hand_batch(right, [len(row) for row in tokens], group)
    width = batch.mask.shape[1]
    action = torch.tensor([row + [0] * (width - len(row)) for row in tokens])
    column = torch.tensor([row + [0.0] * (width - len(row)) for row in entropy], dtype=torch.float64)
    return replace(batch, action=action).with_columns(
        entropy_old=column, segment=segments(batch.mask, (action == ENDS) & batch.mask)
    )


TOKENS = [[5, 6, 9, 4, 9, 2], [5, 7, 9, 3, 3, 9, 2], [8, 8, 9, 2]]
ENTROPY = [[0.2, 0.1, 0.3, 0.9, 0.5, 0.05], [0.2, 0.6, 0.1, 1.1, 0.4, 0.3, 0.95], [2.0, 2.0, 2.0, 0.1]]
HAND = batch_of(TOKENS, ENTROPY, [1, 1, 0], [0, 0, 0])


def clips(batch: Batch, part: MineEcho) -> list[tuple[int, int, int]]:
    """(uid, length of the clip, length of the winning step), by uid."""
    mined = part(batch)
    echo, step = mined.column("echo"), mined.column("echo_step")
    assert echo.sum(dim=1).tolist() == pytest.approx((echo > 0).any(dim=1).double().tolist())
    assert (step <= (echo > 0)).all()
    sizes = zip(batch.uid.tolist(), (echo > 0).sum(dim=1).tolist(), step.sum(dim=1).tolist(), strict=True)
    return sorted((uid, n, s) for uid, n, s in sizes if n)


def at_key(batch: Batch, key: int) -> Batch:
    return replace(batch, key=torch.tensor(key))


def test_a_short_step_wins_unless_it_is_too_short() -> None:
    assert clips(HAND, MineEcho()) == [(1, 7, 1)]
    assert clips(HAND, MineEcho(min_step_tokens=2)) == [(0, 5, 2)]
    assert clips(HAND, MineEcho(min_step_tokens=3)) == [(1, 6, 3)]
    assert clips(HAND, MineEcho(min_step_tokens=4)) == [], "no step is long enough"
    with pytest.raises(ValueError, match="at least 1 token"):
        MineEcho(min_step_tokens=0)


def test_step_sizes() -> None:
    got = step_sizes(HAND.live, HAND.column("segment"))
    assert got[0].tolist() == [3, 3, 3, 2, 2, 1, 0] and got[2].tolist() == [3, 3, 3, 1, 0, 0, 0]


def test_a_random_step_is_any_step_of_the_right_rows_equally_often() -> None:
    count = Counter(clips(at_key(HAND, key), MineEcho(choose="random"))[0] for key in range(1200))
    steps = {(0, 3, 3), (0, 5, 2), (0, 6, 1), (1, 3, 3), (1, 6, 3), (1, 7, 1)}
    assert count.keys() == steps
    assert all(150 <= n <= 250 for n in count.values()), "expected 200, deviation 13"


def test_a_whole_response_is_any_right_row_to_its_end() -> None:
    part = MineEcho(choose="whole")
    bare = replace(HAND, extra={"entropy_old": HAND.column("entropy_old")})
    count = Counter(clips(at_key(bare, key), part)[0] for key in range(600))
    assert count.keys() == {(0, 6, 6), (1, 7, 7)}, "steps are not looked at"
    assert all(240 <= n <= 360 for n in count.values())


@pytest.mark.parametrize("choose", ["entropy", "random", "whole"])
def test_row_order_and_the_other_prompts_do_not_matter(choose: str) -> None:
    both = batch_of(TOKENS + TOKENS, ENTROPY + ENTROPY, [1, 1, 0, 1, 1, 1], [4, 4, 4, 2, 2, 2])
    part = MineEcho(choose=choose)  # type: ignore[arg-type]
    for key in range(5):
        batch = at_key(both, key)
        want = clips(batch, part)
        assert clips(batch.take(torch.tensor([5, 0, 3, 2, 4, 1])), part) == want and len(want) == 2
        assert clips(batch.take(torch.tensor([3, 4, 5])), part) == [c for c in want if c[0] > 2]


def test_chance_is_by_key_and_not_the_samplers() -> None:
    seen = {clips(at_key(HAND, key), MineEcho(choose="random"))[0] for key in range(40)}
    assert len(seen) > 3
    assert clips(at_key(HAND, 3), MineEcho(choose="random")) == clips(at_key(HAND, 3), MineEcho(choose="random"))


@pytest.mark.parametrize("choose", ["random", "whole"])
def test_scope_holds_for_every_choice(choose: str) -> None:
    part = MineEcho(choose=choose, scope="all_success")  # type: ignore[arg-type]
    assert clips(HAND, part) == []
    right = replace(HAND, success=torch.ones(3, dtype=torch.bool))
    assert len(clips(right, part)) == 1
    wrong = replace(HAND, success=torch.zeros(3, dtype=torch.bool))
    assert clips(wrong, MineEcho(choose=choose)) == []  # type: ignore[arg-type]


def logged(batch: Batch) -> dict[str, float]:
    zeros: Tensor = torch.zeros(batch.mask.shape, dtype=torch.float64)
    return mean_metrics(EchoNLL(0.001).per_token(Now(logp=zeros, entropy=zeros), batch)[1])


def test_length_and_place_of_the_winning_steps_are_logged() -> None:
    both = batch_of(TOKENS[:2] * 2, ENTROPY[:2] * 2, [1, 0, 0, 1], [0, 0, 1, 1])
    mined = MineEcho()(both)
    assert clips(both, MineEcho()) == [(0, 5, 2), (3, 7, 1)]
    assert logged(mined) == pytest.approx({"echo/rows": 0.5, "echo/step_tokens": 1.5, "echo/position": (5 / 6 + 1) / 2})
    none = MineEcho()(replace(both, success=torch.zeros(4, dtype=torch.bool)))
    assert logged(none) == {"echo/rows": 0.0}, "no clip has no length"


def test_an_echo_is_a_positive_signal() -> None:
    assert EchoNLL.positive_signal and not EchoNLL.regularizes
