"""Losses that rank tokens or look at a whole minibatch: how little the cut into micro-batches changes them, printed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rekindle.core.descend import backward
from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch
from rekindle.methods import kl_cov
from rekindle.methods.bapo import Balanced
from rekindle.methods.clip_cov import ClipCov
from rekindle.methods.forking_tokens import TopEntropy
from rekindle.methods.kl_cov import KLCov
from tests.methods.stage import Stage, by_descend, difference, direct, gradients, staged

GATE = {torch.float64: 1e-10, torch.float32: 5e-6}
STRONG: dict[str, dict[str, Any]] = {
    "kl_cov": {"objective": KLCov(share=0.2)},
    "clip_cov": {"objective": ClipCov(share=0.2, above=0.05)},
    "bapo": {"objective": Balanced(target=0.6)},
    "forking_tokens": {"keep": (TopEntropy(share=0.2),)},
    "echo_rl": {},
}


def strong(name: str, dtype: torch.dtype) -> tuple[Stage, Batch]:
    """A stage of the method at a setting that acts on a small batch."""
    stage, batch = staged(name, dtype)
    stage = replace(stage, method=stage.method.replace(**STRONG[name]))
    return stage, stage.method.credit(batch)


def per_piece(stage: Stage, batch: Batch) -> Tensor:
    """What one gets whose selection is made in each row alone: its own denominators, its own ranks."""

    def work() -> None:
        for row in torch.arange(len(batch)).split(1):
            part = batch.take(row)
            now = stage.scores(part)
            loss = stage.method.loss(now, stage.method.weigh(part, now.detach()))[0] / len(batch)
            if loss.requires_grad:
                loss.backward()

    return gradients(stage.parameters, work)


@pytest.mark.parametrize("dtype", GATE, ids=["float64", "float32"])
@pytest.mark.parametrize("name", STRONG)
def test_one_row_at_a_time_is_the_whole_minibatch(name: str, dtype: torch.dtype) -> None:
    stage, batch = strong(name, dtype)
    whole = by_descend(stage, batch, len(batch), not stage.method.separable)
    one = by_descend(stage, batch, 1, not stage.method.separable)
    apart = difference(one, whole)
    naive = difference(per_piece(stage, batch), whole)
    print(f"\n{name} {str(dtype)[6:]}: micro-batch 1 against whole {apart:.1e}; row by row it were {naive:.0%}")
    assert apart <= GATE[dtype] and difference(direct(stage, batch), whole) <= GATE[dtype]
    assert naive > 0.01, "the setting acts: the cut would matter"


def on_policy(dtype: torch.dtype, noise: float, fresh: bool, method: PolicyGradient) -> tuple[Tensor, float]:
    """(gradient, mean penalty |log ratio|) of the first update, with a `logp_old` that is off by `noise`."""
    stage, batch = staged("kl_cov", dtype)
    batch = method.credit(stage.score(batch))
    rng = torch.Generator().manual_seed(0)
    wrong = batch.logp_old + noise * torch.randn(batch.mask.shape, generator=rng, dtype=torch.float64).to(dtype)
    batch = batch.with_columns(logp_sampled=wrong, logp_old=wrong)
    found = []
    grad = gradients(
        stage.parameters, lambda: found.append(backward(stage.policy, batch, method, micro_batch=3, fresh=fresh))
    )
    metrics = found[0][2]
    return grad, metrics["kl_cov"][0] / metrics["kl_cov"][1]


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-6])
@pytest.mark.parametrize("dtype", GATE, ids=["float64", "float32"])
def test_kl_covs_penalty_is_exactly_zero_on_policy(dtype: torch.dtype, noise: float) -> None:
    """Whatever the sampler's log-probs and the rounding of the scoring pass: the first update has its own."""
    strict, free = (kl_cov.method().replace(objective=KLCov(share=0.2, beta=b)) for b in (100.0, 0.0))
    (grad, penalty), (want, _) = on_policy(dtype, noise, True, strict), on_policy(dtype, noise, True, free)
    assert penalty == 0.0 and torch.equal(grad, want) and (want != 0).any()
    loud, sign = on_policy(dtype, noise, False, strict)
    print(f"\nlogp_old off by {noise:g}: penalty {penalty}; unguarded {sign:.1e}, {difference(loud, want):.0%} off")
    if noise > 5e-7:  # less is lost in single precision
        assert sign > 0 and difference(loud, want) > 1, "a rounding error would become a full-size gradient"
