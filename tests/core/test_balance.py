"""The share of right answers at many clip bounds: against loops, with the bounds themselves clipped."""

from __future__ import annotations

import pytest
import torch

from rekindle.core.balance import positive_share


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_against_loops(value: bool, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    ratio = (torch.randn(30, generator=rng).double() / 2).exp()
    advantage = torch.randint(-1, 2, (30,), generator=rng).double() * torch.rand(30, generator=rng)
    bounds = torch.stack(
        [0.5 + torch.rand(9, generator=rng).double() / 2, 1 + torch.rand(9, generator=rng).double()], 1
    )
    want = []
    for low, high in bounds.tolist():
        plus = minus = 0.0
        for r, a in zip(ratio.tolist(), advantage.tolist(), strict=True):
            if a > 0:
                plus += a * (min(r, high) if value else r * (r < high))
            else:
                minus -= a * (max(r, low) if value else r * (r > low))
        want.append(plus / (plus + minus))
    assert positive_share(ratio, advantage, bounds, value).tolist() == pytest.approx(want, abs=1e-12)


def test_a_ratio_on_a_bound_is_clipped_and_no_mass_is_a_share_of_one() -> None:
    ratio, advantage = torch.tensor([1.2, 0.8]).double(), torch.tensor([1.0, -1.0]).double()
    bounds = torch.tensor([[0.7, 1.3], [0.8, 1.3], [0.7, 1.2], [0.8, 1.2]]).double()
    exact = torch.stack([ratio[1], ratio[0]])[None].repeat(4, 1)
    bounds = torch.where((bounds - exact).abs() < 1e-6, exact, bounds)
    assert positive_share(ratio, advantage, bounds).tolist() == pytest.approx([0.6, 1.0, 0.0, 1.0])
    nothing = positive_share(ratio[:0], advantage[:0], bounds)
    assert nothing.tolist() == [1.0] * 4
