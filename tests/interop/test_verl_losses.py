"""Policy losses for verl without verl: against our own exact update, its options, its micro-batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rekindle import methods
from rekindle.core.aggregate import FixedLength, SequenceMean, TokenMean
from rekindle.core.method import PolicyGradient
from rekindle.errors import InputError
from rekindle.interop.verl.handed import row_ids
from rekindle.interop.verl.losses import PolicyLoss
from rekindle.interop.verl.shares import actor_options
from rekindle.methods.clip_cov import ClipCov
from rekindle.methods.kl_cov import KLCov
from tests.batches import make_batch, make_now

ROWS, WIDTH = 12, 7


def record(name: str, **slots: Any) -> PolicyGradient:
    made = methods.load(name).method()
    assert isinstance(made, PolicyGradient)
    return made.replace(**slots).at(0.0)


def call(
    method: PolicyGradient, pieces: int = 1, weights: bool = False, seed: int = 0, **config: Any
) -> tuple[Any, ...]:
    """(loss, gradient, metrics of the last piece) of the method as a policy loss, the pieces' losses added up."""
    batch = make_batch(ROWS, WIDTH, seed=seed)
    leaf = make_now(batch, seed=seed + 1, requires_grad=False).logp.clone().requires_grad_()
    info = {"dp_size": 1, "batch_num_tokens": int(batch.mask.sum()), "global_batch_size": ROWS}
    given = {**actor_options(method), "loss_scale_factor": 9, "global_batch_info": info if pieces > 1 else {}, **config}
    function, total, metrics = PolicyLoss(method=method, name="ours"), 0.0, {}
    extra = torch.rand(ROWS, WIDTH, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for rows in torch.arange(ROWS).chunk(pieces):
        loss, metrics = function(
            old_log_prob=batch.logp_old[rows],
            log_prob=leaf[rows],
            advantages=batch.advantage[rows],
            response_mask=batch.mask[rows].long(),
            loss_agg_mode=given["loss_agg_mode"],
            config=given,
            rollout_is_weights=extra[rows] if weights else None,
        )
        loss.backward()
        total += loss.item()
    return total, leaf.grad, metrics


def own(method: PolicyGradient, seed: int = 0) -> tuple[float, Tensor]:
    """Loss and gradient by the record itself."""
    batch = make_batch(ROWS, WIDTH, seed=seed)
    now = make_now(batch, seed=seed + 1, requires_grad=False)
    now = replace(now, logp=now.logp.clone().requires_grad_())
    batch = batch.with_columns(limit=torch.full((ROWS,), 9.0, dtype=torch.float64))
    method = method.replace(terms=())
    loss, _ = method.loss(now, method.weigh(batch, now.detach()))
    loss.backward()
    assert now.logp.grad is not None
    return loss.item(), now.logp.grad


@pytest.mark.parametrize("pieces", [1, 3, 5])
@pytest.mark.parametrize("name", ["grpo", "dapo", "evol_rl", "gspo", "sapo", "cispo", "dr_grpo", "gppo", "gpg"])
def test_a_loss_of_tokens_is_our_own_however_it_is_cut(name: str, pieces: int) -> None:
    method = record(name)
    (loss, gradient, _), (want, want_gradient) = call(method, pieces), own(method)
    assert loss == pytest.approx(want, abs=1e-12)
    torch.testing.assert_close(gradient, want_gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["clip_cov", "kl_cov", "bapo"])
def test_an_objective_of_the_whole_minibatch_is_our_own_uncut(name: str) -> None:
    method = record(name)
    if isinstance(method.objective, ClipCov):  # more may be dropped than are eligible: nothing is drawn
        method = method.replace(objective=replace(method.objective, share=0.9, above=0.1))
    assert call(method)[0] == pytest.approx(own(method)[0], abs=1e-12)


class LessLikely:
    """Keeps the less likely tokens."""

    def __call__(self, now: Any, batch: Any) -> Tensor:
        return batch.live & (now.logp < -1.5)


def test_tokens_that_a_part_drops_are_in_no_sum() -> None:
    method = record("grpo", keep=(LessLikely(),))
    (loss, gradient, metrics), (want, want_gradient) = call(method), own(method)
    assert loss == pytest.approx(want, abs=1e-12) != call(record("grpo"))[0]
    torch.testing.assert_close(gradient, want_gradient, rtol=0, atol=1e-12)
    assert 0.3 < metrics["actor/kept"] < 0.9
    assert abs(call(method, 3)[0] - want) > 1e-6, "cut, the average is that of each micro-batch, as the page says"


def test_a_row_without_advantage_is_in_no_pool() -> None:
    method = record("kl_cov", objective=KLCov(share=0.3))
    values = -torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).unbind(-1)[0]
    logp, mask = values - 0.3 * values.flip(0), torch.ones(3, 4)
    advantages = torch.tensor([1.5, -0.5, 0.0], dtype=torch.float64)[:, None].expand(3, 4)
    info = {"global_batch_info": {"batch_num_tokens": 12}}
    function = PolicyLoss(method=method, name="ours")
    whole = function(values, logp, advantages, mask, "token-mean", info)[0]
    alive = function(values[:2], logp[:2], advantages[:2], mask[:2], "token-mean", info)[0]
    assert whole.item() == pytest.approx(alive.item(), abs=1e-12)
    shifted = function(values, logp, advantages + 0.01, mask, "token-mean", info)[0]
    assert shifted.item() != pytest.approx(alive.item(), abs=1e-3)


def test_other_ranks_and_weights_of_the_sampler_are_verls() -> None:
    method = record("grpo")
    plain, gradient, _ = call(method, 3)
    info = {"dp_size": 4, "batch_num_tokens": 100, "global_batch_size": 50}
    tokens = int(make_batch(ROWS, WIDTH, seed=0).mask.sum())
    assert call(method, 3, global_batch_info=info)[0] == pytest.approx(plain * tokens / 100 * 4)
    sequence = record("grpo", aggregate=SequenceMean())
    assert call(sequence, 3, global_batch_info=info)[0] == pytest.approx(call(sequence, 3)[0] * ROWS / 50 * 4)
    weights = torch.rand(ROWS, WIDTH, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    torch.testing.assert_close(call(method, 3, weights=True)[1], gradient * weights, rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="4 ranks needs batch_num_tokens in verl's global_batch_info"):
        call(method, global_batch_info={"dp_size": 4, "global_batch_size": 50})


def test_without_a_global_batch_each_micro_batch_is_a_mean_of_its_own() -> None:
    method = record("grpo")
    assert abs(call(method, 3, global_batch_info={"dp_size": 1})[0] / 3 - call(method)[0]) > 1e-4


@pytest.mark.parametrize(
    ("name", "config", "sentence"),
    [
        (
            "grpo",
            {"loss_agg_mode": "seq-mean-token-mean"},
            "ours wants actor_rollout_ref.actor.loss_agg_mode=token-mean",
        ),
        ("grpo", {"entropy_coeff": 0.01}, "actor.entropy_coeff=0.0, but verl was started with 0.01"),
        ("grpo", {"use_kl_loss": True}, "actor.use_kl_loss=false, but verl was started with True"),
        ("evol_rl", {"entropy_coeff": 0}, "entropy_coeff=0.003, but verl was started with 0"),
        ("evol_rl", {"use_kl_loss": None}, "use_kl_loss=true, but verl was started with None"),
        ("evol_rl", {"kl_loss_coef": 0.01}, "kl_loss_coef=0.001"),
        ("evol_rl", {"kl_loss_type": "kl"}, "kl_loss_type=k3, but verl was started with kl"),
        ("dr_grpo", {"loss_scale_factor": None}, "loss_scale_factor to data.max_response_length"),
    ],
)
def test_what_verl_adds_has_to_be_what_the_method_says(name: str, config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        call(record(name), **config)


def test_verls_older_names_of_estimates_are_known() -> None:
    assert call(record("evol_rl"), kl_loss_type="low_var_kl")[0] == call(record("evol_rl"))[0]


def test_a_loss_without_configuration_is_refused() -> None:
    zeros = torch.zeros(1, 2)
    with pytest.raises(InputError, match="called without verl's configuration"):
        PolicyLoss(method=record("grpo"), name="ours")(zeros, zeros, zeros, torch.ones(1, 2))


def test_fixed_length_takes_its_own_length_first() -> None:
    fixed = record("dr_grpo", aggregate=FixedLength(4))
    assert actor_options(fixed)["loss_scale_factor"] == 4
    assert call(fixed, loss_scale_factor=4)[0] == pytest.approx(call(record("dr_grpo"))[0] * 9 / 4)
    with pytest.raises(InputError, match="loss_scale_factor=4, but verl was started with 9"):
        call(fixed)


def test_metrics_are_numbers_under_actor_and_the_same_names_always() -> None:
    full, empty = call(record("grpo"))[2], PolicyLoss(method=record("grpo"), name="ours")
    zeros = torch.zeros(2, 3)
    loss, none = empty(zeros, zeros, zeros, zeros, "token-mean", {})
    assert loss.item() == 0 and none.keys() == full.keys() and set(none.values()) <= {0.0}
    assert {"actor/clip_high", "actor/clip_dual", "actor/ppo_kl", "actor/kept"} <= full.keys()
    assert full["actor/kept"] == 1.0
    batch = make_batch(ROWS, WIDTH, seed=0)
    moved = (make_now(batch, seed=1, requires_grad=False).logp - batch.logp_old)[batch.mask]
    assert full["actor/ppo_kl"] == pytest.approx(-moved.mean().item())


def test_what_lies_off_the_mask_changes_no_draw() -> None:
    method = record("clip_cov")
    assert isinstance(method.objective, ClipCov)
    method = method.replace(objective=replace(method.objective, share=0.2, above=0.0, below=99.0))
    old = -torch.rand(6, 5, generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(5) < torch.tensor([5, 4, 3, 5, 2, 4])[:, None]).long()
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, -2.0])[:, None].expand(6, 5)
    found = []
    for beyond in (0.0, -3.0):
        logp = torch.where(mask.bool(), 1.5 * old, beyond)
        found.append(PolicyLoss(method=method, name="ours")(old, logp, advantages, mask, "token-mean", {})[0].item())
    assert found[0] == found[1]


def test_what_lies_off_the_mask_cannot_leak() -> None:
    old, logp = torch.full((2, 3), -1.0), torch.full((2, 3), -1.1)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    old[:, 2], logp[:, 2] = torch.inf, torch.nan
    advantages = torch.tensor([[1.0, 1.0, torch.nan], [-1.0, -1.0, torch.inf]])
    advantages[1, 1] = torch.nan
    leaf = logp.requires_grad_()
    loss, metrics = PolicyLoss(method=record("grpo"), name="ours")(old, leaf, advantages, mask, "token-mean", {})
    loss.backward()
    assert loss.isfinite() and leaf.grad is not None and leaf.grad.isfinite().all()
    assert all(value == value for value in metrics.values())


def test_rows_draw_by_their_own_bits() -> None:
    values = -torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    ids = row_ids(values, values + 1)
    assert len(set(ids.tolist())) == 6
    order = torch.tensor([3, 1, 5])
    assert torch.equal(row_ids(values[order], values[order] + 1), ids[order])
    padded = torch.nn.functional.pad(values, (0, 4))
    assert torch.equal(row_ids(padded, torch.nn.functional.pad(values + 1, (0, 4))), ids), "padding changes nothing"
    assert not (row_ids(values, values + 1.5) == ids).any(), "other weights draw others"


def test_the_average_of_each_kind_has_verls_name() -> None:
    modes = [actor_options(record("grpo", aggregate=a))["loss_agg_mode"] for a in (TokenMean(), SequenceMean())]
    assert [*modes, actor_options(record("dr_grpo"))["loss_agg_mode"]] == [
        "token-mean",
        "seq-mean-token-mean",
        "seq-mean-token-sum-norm",
    ]
