"""Masks from a copy of the policy: the worked numbers, ties, floating point, and the objective within them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rekindle.core.allowed import MASK, Allowed, Masked, WithinMask, with_tokens, within
from rekindle.core.objectives import Clip
from rekindle.core.types import Now, Seen
from tests.batches import hand_batch, make_batch, make_now

PSI = torch.tensor([[0.5, 0.25, 0.15, 0.06, 0.04]], dtype=torch.float64)
PI = torch.tensor([[0.3, 0.1, 0.2, 0.3, 0.1]], dtype=torch.float64)
LATER = torch.tensor([[0.36, 0.1, 0.2, 0.24, 0.1]], dtype=torch.float64)
KEPT = torch.tensor([[True, True, False, False, False]])
NONE = torch.zeros(1, 0, dtype=torch.int64)


def seen(pi: Tensor, action: int = 0, psi: Tensor = PSI, special: Tensor = NONE, **columns: Tensor) -> Seen:
    logits = {"policy": pi.log(), MASK: psi.log()}
    return Seen(logits, {}, {}, {}, torch.tensor([action]), {"special": special, **columns})


def test_the_token_that_crosses_p_is_kept() -> None:
    assert torch.equal(Allowed(p=0.7, min_keep=1)(PSI.log()), KEPT)
    assert Allowed(p=0.3, min_keep=1)(PSI.log()).sum() == 1
    assert Allowed(p=0.7, min_keep=4)(PSI.log()).tolist() == [[True, True, True, True, False]]
    assert Allowed(p=0.95, min_keep=1)(PSI.log()).sum() == 4


def test_a_prefix_of_exactly_p_keeps_one_more() -> None:
    even = torch.full((1, 4), 0.25, dtype=torch.float64)
    assert Allowed(p=0.5, min_keep=1)(even.log()).tolist() == [[True, True, True, False]]
    assert Allowed(p=0.49, min_keep=1)(even.log()).tolist() == [[True, True, False, False]], "equal ones go by id"


def test_the_other_kinds_keep_so_many() -> None:
    shuffled = PSI[:, [3, 0, 4, 1, 2]]
    assert Allowed(kind="learned_top_k", k=2, min_keep=1)(shuffled.log()).tolist() == [
        [False, True, False, True, False]
    ]
    assert Allowed(kind="learned_top_k", k=2, min_keep=3)(PSI.log()).sum() == 3
    assert Allowed(kind="topk", k=2)(PSI.log()).sum() == 2, "min_keep is of the copy's masks"


def test_p_of_one_switches_the_mask_off_where_a_sum_in_single_precision_overshoots() -> None:
    wide = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(0))
    off = Allowed(p=1.0, min_keep=1)
    assert off.off and not off.learned and off(wide).all()
    summed = torch.softmax(wide, dim=-1).sort(descending=True)[0].cumsum(dim=-1)
    assert not Allowed(p=0.9999, min_keep=1)(wide).all()
    assert summed[0, -1] != 1.0, "which is why it is told by a flag"


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"p": 0.0}, {"k": 0}, {"min_keep": 0}):
        with pytest.raises(ValueError, match="at least one token"):
            Allowed(**wrong)


def test_log_probs_within_the_mask() -> None:
    inside, entropy = within(PI.log(), KEPT)
    assert inside.exp().tolist() == [[pytest.approx(0.75), pytest.approx(0.25), 0.0, 0.0, 0.0]]
    assert entropy.item() == pytest.approx(0.562335, abs=1e-6) and entropy.item() <= math.log(2)
    again = within(LATER.log(), KEPT)[0].exp()
    assert again[0, 0].item() == pytest.approx(0.782609, abs=1e-6)
    assert (again[0, 0] / inside[0, 0].exp()).item() == pytest.approx(1.043478, abs=1e-6)


def test_the_official_release_does_not_renormalise() -> None:
    logp, entropy = within(PI.log(), KEPT, renormalize=False)
    assert logp[0, 0].item() == pytest.approx(math.log(0.3)) and logp[0, 2] == -torch.inf
    assert entropy.item() == pytest.approx(1.479, abs=1e-3)
    ratio = within(LATER.log(), KEPT, renormalize=False)[0][0, 0] - logp[0, 0]
    assert ratio.exp().item() == pytest.approx(1.2), "the unmasked ratio"


def test_a_mask_that_allows_nothing_raises_and_one_token_has_no_gradient() -> None:
    with pytest.raises(ValueError, match="allows no token"):
        within(PI.log(), torch.zeros_like(KEPT))
    logits = PI.log().requires_grad_()
    inside, entropy = within(logits, torch.tensor([[False, True, False, False, False]]))
    assert inside[0, 1] == 0.0 and entropy == 0.0
    (grad,) = torch.autograd.grad(inside[0, 1] + entropy.sum(), logits)
    assert (grad == 0).all()


def test_entropy_within_a_mask_is_at_most_the_log_of_its_size() -> None:
    rng = torch.Generator().manual_seed(1)
    pi, psi = (torch.randn(200, 30, generator=rng, dtype=torch.float64) for _ in range(2))
    allowed = Allowed(p=0.8, min_keep=1)(psi)
    inside, entropy = within(pi, allowed)
    assert (entropy <= allowed.sum(dim=1).double().log() + 1e-12).all()
    assert (inside.exp()[~allowed] == 0).all()
    assert torch.allclose(inside.exp().sum(dim=1), torch.ones(200, dtype=torch.float64))


def test_special_tokens_and_the_action_are_always_in_the_mask() -> None:
    assert with_tokens(KEPT, torch.tensor([[4, -1]])).tolist() == [[True, True, False, False, True]]
    assert torch.equal(with_tokens(KEPT, NONE), KEPT)
    score = Masked(Allowed(p=0.7, min_keep=1), renormalize=True)
    assert score(seen(PI)).exp().item() == pytest.approx(0.75)
    assert score(seen(PI, special=torch.tensor([[4]]))).exp().item() == pytest.approx(0.6)
    assert score(seen(PI, action=3)).exp().item() == pytest.approx(0.3 / 0.7)
    own = Masked(Allowed(kind="topk", k=2), renormalize=True)
    assert own(seen(PI, kept_ids=torch.tensor([[0, 2]]))).exp().item() == pytest.approx(0.6)


def test_the_objective_takes_the_ratio_within_the_mask() -> None:
    objective = WithinMask(allowed=Allowed(p=0.7, min_keep=1), inner=Clip(low=0.8, high=1.2))
    old, now = (need for need in objective.needs)
    assert (old.when, now.when) == ("rollout", "now") and set(old.passes) == {"policy", MASK}
    batch = hand_batch([1.0], logp_old=torch.tensor([[math.log(0.3)]]), advantage=torch.tensor([[2.0]]).double())
    batch = batch.with_columns(logp_masked_old=old.compute(seen(PI))[None])
    said = Now(
        logp=LATER[:, :1].log(), entropy=torch.zeros(1, 1), extra={"logp_masked": now.compute(seen(LATER))[None]}
    )
    loss, metrics = objective(said, batch)
    assert loss.item() == pytest.approx(-2 * 1.043478, abs=1e-5)
    assert metrics["ratio"][0] == pytest.approx(1.043478, abs=1e-6)


def test_an_entropy_bonus_within_the_mask() -> None:
    plain, paid = (WithinMask(allowed=Allowed(p=0.7, min_keep=1), entropy=coef) for coef in (0.0, 0.5))
    assert [need.name for need in paid.needs] == ["logp_masked_old", "logp_masked", "entropy_masked"]
    batch = make_batch()
    said = make_now(batch)
    said = Now(logp=said.logp, entropy=said.entropy, extra={"logp_masked": said.logp, "entropy_masked": said.entropy})
    batch = batch.with_columns(logp_masked_old=batch.logp_old)
    (without, _), (loss, metrics) = plain(said, batch), paid(said, batch)
    assert torch.allclose(loss, without - 0.5 * said.entropy.where(batch.live, 0.0))
    assert metrics["entropy_masked"][1] == float(batch.live.sum())


def test_with_the_mask_off_it_is_the_other_objective_to_the_last_bit() -> None:
    batch, inner = make_batch(ungraded=True), Clip(low=0.8, high=1.2)
    now = make_now(batch)
    off = WithinMask(allowed=Allowed(p=1.0), inner=inner)
    assert off.needs == ()
    (ours, told), (theirs, known) = off(now, batch), inner(now, batch)
    assert torch.equal(ours, theirs) and told == known
