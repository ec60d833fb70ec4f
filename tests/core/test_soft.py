"""Soft steps: the worked example, Gumbel facts by simulation, and that the score estimator is the pathwise gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rekindle.core.objectives import Clip
from rekindle.core.soft import Scored, SoftClip, Thinking, density, mixture_metrics
from rekindle.core.types import MissingColumn, Now, Seen
from tests.batches import hand_batch

P = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64)
EPS = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64)
Q = torch.tensor([[0.65, 0.25, 0.10]], dtype=torch.float64)
IDS, ON = torch.arange(3)[None], torch.ones(1, 3, dtype=torch.bool)
NOISY = (P + 1e-6).log() + EPS
DRAWS = 400_000


def gumbel(rows: int, ids: int, seed: int = 0) -> Tensor:
    u = torch.rand(rows, ids, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return u.clamp(1e-12, 1 - 1e-12)


@pytest.mark.parametrize(
    ("tau", "want"),
    [(0.1, (0.999993, 6.6e-6, 2e-9)), (0.5, (0.9004, 0.0828, 0.0168)), (1.0, (0.6946, 0.2106, 0.0948))],
)
def test_the_mixture_of_the_worked_example(tau: float, want: tuple[float, ...]) -> None:
    got = Thinking(tau=tau).mixture(NOISY)[0]
    assert torch.allclose(got, torch.tensor(want, dtype=torch.float64), rtol=5e-2, atol=6e-5)


def test_the_density_of_the_worked_example_and_its_ratio() -> None:
    each = [density(P.log(), IDS[:, i : i + 1], EPS[:, i : i + 1], ON[:, :1], "sum").item() for i in range(3)]
    assert each == pytest.approx([-1.04082, -1.02140, -1.00484], abs=2e-5), "one id alone has q = 1"
    old, new = (density(p.log(), IDS, NOISY, ON, "sum").item() for p in (P, Q))
    assert old == pytest.approx(-3.06706, abs=2e-5)
    assert math.exp(new - old) == pytest.approx(1.04035, abs=2e-5)
    assert new == pytest.approx(-1.02251 - 1.00016 - 1.00484, abs=2e-5)
    old, new = (density(p.log(), IDS, NOISY, ON, "mean").item() for p in (P, Q))
    assert math.exp(new - old) == pytest.approx(1.01327, abs=2e-5)


def test_the_gradient_of_the_worked_example() -> None:
    logits = P.log().requires_grad_()
    (total,) = torch.autograd.grad(density(logits, IDS, NOISY, ON, "sum").sum(), logits)
    assert total[0].tolist() == pytest.approx([0.17942, -0.26129, 0.08187], abs=2e-5)
    (mean,) = torch.autograd.grad(density(logits, IDS, NOISY, ON, "mean").sum(), logits)
    assert torch.allclose(mean, total / 3, atol=1e-9), "the mean over K is 1 / K of the sum"


def test_the_heaviest_token_is_drawn_by_its_share_at_any_temperature() -> None:
    free = Thinking(clamp=(-100.0, 100.0))
    noisy = free.perturbed(P.expand(DRAWS, 3), gumbel(DRAWS, 3))
    for tau in (0.1, 1.0, 3.0):
        heaviest = Thinking(tau=tau).mixture(noisy).argmax(dim=1)
        share = torch.bincount(heaviest, minlength=3).double() / DRAWS
        assert torch.allclose(share, P[0], atol=4e-3)


def test_the_noise_has_mean_zero_in_the_gradient_and_nearly_so_with_the_clamp() -> None:
    eps = -(-gumbel(DRAWS, 1).log()).log()
    assert (1 - (-eps).exp()).mean().item() == pytest.approx(0.0, abs=6e-3)
    assert (1 - (-eps.clamp(-1.5, 3.0)).exp()).mean().item() == pytest.approx(0.010, abs=4e-3)


def test_the_score_estimator_is_the_pathwise_gradient_and_that_of_the_heaviest_token_is_not() -> None:
    logits = torch.tensor([[0.5, 0.0, -0.5, -1.0]], dtype=torch.float64, requires_grad=True)
    worth, rows = torch.tensor([0.0, 1.0, 0.3, -0.5], dtype=torch.float64), 8 * DRAWS
    how = Thinking(top_k=4, top_p=1.0, tau=0.5, clamp=(-100.0, 100.0))
    eps = -(-gumbel(rows, 4, seed=1).log()).log()
    share = torch.softmax(logits, dim=1)
    reward = (how.mixture((share + 1e-6).log() + eps) @ worth).square()
    (path,) = torch.autograd.grad(reward.mean(), logits)
    noisy = ((share + 1e-6).log() + eps).detach()
    over, ids = (reward - reward.mean()).detach(), torch.arange(4).expand(rows, 4)
    on = torch.ones(rows, 4, dtype=torch.bool)
    many = logits.expand(rows, 4)
    (score,) = torch.autograd.grad((over * density(many, ids, noisy, on, "sum")).mean(), logits, retain_graph=True)
    assert path[0].tolist() == pytest.approx([-0.0932, 0.1383, -0.0207, -0.0244], abs=2e-3)
    assert torch.allclose(score, path, atol=2e-3)
    free = (-100.0, 100.0)
    (mean,) = torch.autograd.grad(
        (over * density(many, ids, noisy, on, "mean", free)).mean(), logits, retain_graph=True
    )
    assert torch.allclose(mean, score / 4, atol=1e-9)
    picked = torch.log_softmax(many, dim=1).gather(1, noisy.argmax(dim=1, keepdim=True))[:, 0]
    (biased,) = torch.autograd.grad((over * picked).mean(), logits)
    assert biased[0].tolist() == pytest.approx([-0.0855, 0.1154, -0.0195, -0.0104], abs=2e-3)
    assert (biased - path).abs().max() > 0.015


def test_the_likely_ids_are_cut_by_top_k_and_then_by_top_p() -> None:
    logits = torch.tensor([[0.05, 0.5, 0.25, 0.15, 0.05]], dtype=torch.float64).log()
    ids, share = Thinking(top_k=3, top_p=0.8).likely(logits)
    assert ids.tolist() == [[1, 2, 3]] and share[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])
    ids, share = Thinking(top_k=5, top_p=1.0).likely(logits)
    assert share.sum().item() == pytest.approx(1.0) and (share > 0).all()
    few = Thinking(top_k=9).likely(logits)[0]
    assert few.shape == (1, 5), "no more ids than there are tokens"


def test_mixtures_lie_in_the_convex_hull_and_turn_into_tokens() -> None:
    noisy = Thinking().perturbed(P.expand(500, 3), gumbel(500, 3))
    for tau in (0.01, 0.5, 5.0):
        weight = Thinking(tau=tau).mixture(noisy)
        assert (weight >= 0).all() and torch.allclose(weight.sum(dim=1), torch.ones(500, dtype=torch.float64))
    sharp = Thinking(tau=1e-4).mixture(noisy)
    assert (sharp.amax(dim=1) > 0.999).double().mean() > 0.99
    still = Thinking(noise=0.0)
    assert torch.equal(still.perturbed(P, gumbel(1, 3)), still.perturbed(P, gumbel(1, 3, seed=5)))


def test_what_is_cut_by_top_p_counts_in_no_sum() -> None:
    """Its g' lies near log 1e-6; against a q above 0 its e would be near -10 and swamp everything."""
    share = torch.tensor([[0.7, 0.3, 0.0]], dtype=torch.float64)
    noisy, on = Thinking().perturbed(share, gumbel(1, 3)), share > 0
    two = density(P.log(), IDS, noisy, on, "sum").item()
    assert abs(two) < 10 < abs(density(P.log(), IDS, noisy, ON, "sum").item())
    logits = P.log().requires_grad_()
    (grad,) = torch.autograd.grad(density(logits, IDS, noisy, on, "mean").sum(), logits)
    assert grad.isfinite().all() and density(P.log(), IDS, noisy, torch.zeros_like(on), "mean") == 0.0


def seen(**columns: Tensor) -> Seen:
    return Seen({"policy": Q.log(), "reference": P.log()}, {}, {}, {}, torch.tensor([1]), columns)


def test_tokens_are_scored_as_ever() -> None:
    soft = {"soft_ids": IDS, "soft_noise": NOISY, "soft_on": ON}
    plain = {name: torch.zeros_like(value) for name, value in soft.items()}
    score = Scored("policy", "sum", (-1.5, 3.0))
    assert score(seen(**plain)).item() == pytest.approx(math.log(0.25))
    assert score(seen(**soft)).item() == pytest.approx(density(Q.log(), IDS, NOISY, ON, "sum").item())
    with pytest.raises(MissingColumn, match="not drawn by soft thinking"):
        score(seen())


def test_the_objective_clips_the_ratio_of_densities_and_pulls_to_the_reference() -> None:
    objective = SoftClip(inner=Clip(), kl=0.5, score="sum")
    old, now, ref = objective.needs
    columns = {"soft_ids": IDS, "soft_noise": NOISY, "soft_on": ON}
    values = [need.compute(seen(**columns)).double()[None] for need in (old, now, ref)]
    batch = hand_batch(
        [1.0],
        advantage=torch.ones(1, 1, dtype=torch.float64),
        logp_soft_old=values[2],
        logp_soft_ref=values[2],
        soft_weight=Thinking(tau=1.0).mixture(NOISY)[None],
    )
    loss, metrics = objective(Now(logp=values[0], entropy=values[0], extra={"logp_soft": values[1]}), batch)
    x = (values[2] - values[1]).item()
    assert loss.item() == pytest.approx(-1.04035 + 0.5 * (math.exp(x) - x - 1), abs=2e-5)
    assert metrics["soft/heaviest"] == (pytest.approx(0.6946, abs=1e-4), 1.0)
    assert [need.name for need in SoftClip(kl=0.0).needs] == ["logp_soft_old", "logp_soft"]


def test_how_soft_the_mixtures_are_is_told() -> None:
    """At tau .1 most steps are one token in all but name: .76 of them for these shares."""
    noisy = Thinking(clamp=(-100.0, 100.0)).perturbed(P.expand(20_000, 3), gumbel(20_000, 3))
    batch = hand_batch([1.0] * 20_000, soft_weight=Thinking(tau=0.1).mixture(noisy)[:, None])
    told = mixture_metrics(batch)
    assert told["soft/one_hot"][0] / told["soft/one_hot"][1] == pytest.approx(0.76, abs=0.01)
    none = mixture_metrics(batch.with_columns(soft_weight=torch.zeros(20_000, 1, 3, dtype=torch.float64)))
    assert none["soft/heaviest"] == (0.0, 0.0)


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"top_k": 0}, {"top_p": 0.0}, {"noise": -1.0}, {"tau": 0.0}, {"steps": -1}):
        with pytest.raises(ValueError, match="soft steps take"):
            Thinking(**wrong)
