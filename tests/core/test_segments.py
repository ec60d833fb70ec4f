"""Steps of a response: EchoRL's example by hand and every edge of a delimiter run."""

from __future__ import annotations

import pytest
import torch

from rekindle.core.segments import segment_mean, segment_spread, segment_totals, segments

D = 9


def steps(tokens: list[int], mask: list[int] | None = None) -> list[int]:
    action = torch.tensor([tokens])
    on = torch.tensor([mask or [1] * len(tokens)]).bool()
    return segments(on, action == D)[0].tolist()


@pytest.mark.parametrize(
    ("tokens", "want"),
    [
        ([5, 6, 9, 4, 9, 2], [0, 0, 0, 1, 1, 2]),
        ([5, 7, 9, 3, 3, 9, 2], [0, 0, 0, 1, 1, 1, 2]),
        ([5, 6, 7], [0, 0, 0]),  # no delimiter: one step
        ([5, 9], [0, 0]),  # ends with its delimiter
        ([5, 9, 9, 9, 6], [0, 0, 0, 0, 1]),  # a run belongs to the step before it
        ([5, 9, 6, 9, 9], [0, 0, 1, 1, 1]),  # also at the end
        ([9, 9, 5, 6, 9, 7], [0, 0, 0, 0, 0, 1]),  # leading delimiters stay with the first step
        ([9, 9, 9], [0, 0, 0]),  # delimiters only
        ([5], [0]),
        ([9], [0]),
    ],
)
def test_delimiters(tokens: list[int], want: list[int]) -> None:
    assert steps(tokens) == want


def test_off_the_mask_is_minus_one_and_a_gap_is_not_there() -> None:
    assert steps([5, 9, 6, 7], [1, 1, 0, 1]) == [0, 0, -1, 1]
    assert steps([5, 9, 6, 7], [1, 0, 1, 1]) == [0, -1, 0, 0], "a delimiter off the mask closes nothing"
    assert steps([5, 9, 8, 9, 6], [1, 1, 0, 1, 1]) == [0, 0, -1, 0, 1], "a run goes on across a gap"
    assert steps([9, 5, 0, 0], [1, 1, 0, 0]) == [0, 0, -1, -1]
    assert steps([5, 9], [0, 0]) == [-1, -1]


def test_step_entropies_of_the_echo_example() -> None:
    action = torch.tensor([[5, 6, 9, 4, 9, 2, 0], [5, 7, 9, 3, 3, 9, 2], [8, 8, 9, 2, 0, 0, 0]])
    mask = action > 0
    entropy = torch.tensor(
        [
            [0.20, 0.10, 0.30, 0.90, 0.50, 0.05, 7.0],
            [0.20, 0.60, 0.10, 1.10, 0.40, 0.30, 0.05],
            [2.0, 2.0, 2.0, 0.1, 7.0, 7.0, 7.0],
        ],
        dtype=torch.float64,
    )
    got = segment_mean(entropy, segments(mask, action == D))
    want = [
        [0.2, 0.2, 0.2, 0.7, 0.7, 0.05, 0],
        [0.3, 0.3, 0.3, 0.6, 0.6, 0.6, 0.05],
        [2, 2, 2, 0.1, 0, 0, 0],
    ]
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-12)


def test_segment_mean_shares_the_gradient_and_ignores_what_is_outside() -> None:
    x = torch.tensor([[1.0, 3.0, float("nan"), 7.0]], requires_grad=True)
    mean = segment_mean(x, torch.tensor([[2, 2, -1, 0]]))
    assert mean.tolist() == [[2, 2, 0, 7]]
    mean[0, 0].backward()
    assert x.grad.tolist() == [[0.5, 0.5, 0, 0]]


def test_totals_stand_at_their_number_and_spread_to_their_positions() -> None:
    x = torch.tensor([[1.0, 3.0, float("nan"), 7.0]])
    segment = torch.tensor([[2, 2, -1, 0]])
    total = segment_totals(x, segment)
    assert total.tolist() == [[7, 0, 4, 0]], "number 1 is nobody's"
    assert segment_spread(total, segment).tolist() == [[4, 4, 0, 7]]
