"""Policy losses and estimators for verl without verl: against our own exact update, its options, its micro-batches."""

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
from rekindle.interop.verl.estimators import Estimator
from rekindle.interop.verl.handed import groups_of, row_ids
from rekindle.interop.verl.losses import PolicyLoss
from rekindle.interop.verl.shares import actor_options, algorithm_options
from rekindle.methods.clip_cov import ClipCov
from tests.batches import make_batch, make_now

ROWS, WIDTH = 12, 7


def record(name: str, **slots: Any) -> PolicyGradient:
    made = methods.load(name).method()
    assert isinstance(made, PolicyGradient)
    return made.replace(**slots).at(0.0)


def nested(options: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, value in options.items():
        outer, _, last = path.rpartition(".")
        (found.setdefault(outer, {}) if outer else found)[last] = value
    return found


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
    assert full["actor/kept"] == 1.0 and full["actor/ppo_kl"] != 0


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


@pytest.mark.parametrize("name", ["grpo", "rloo", "opo", "gpg", "maxrl", "ngrpo", "dr_grpo", "sign_advantage"])
def test_advantages_are_our_own(name: str) -> None:
    method, batch = record(name), make_batch(ROWS, WIDTH, seed=3)
    last = batch.mask & (batch.mask.flip(1).cumsum(1).flip(1) == 1)
    rewards = torch.where(last, batch.score[:, None], 0.0)
    index = [f"p{g}" for g in batch.group.tolist()]
    found, returns = Estimator(method=method, name="ours")(rewards, batch.mask, index, {})
    batch = replace(batch, score=rewards.sum(dim=1), graded=torch.ones(ROWS, dtype=torch.bool))
    torch.testing.assert_close(found, method.credit(batch).advantage, rtol=0, atol=1e-12)
    assert torch.equal(found, returns) and found is not returns and (found != 0).any()


def test_a_kl_in_the_reward_is_verls_to_charge() -> None:
    method = record("reinforce_pp")
    options = algorithm_options(method)
    assert options == {"use_kl_in_reward": True, "kl_penalty": "k1", "kl_ctrl.type": "fixed", "kl_ctrl.kl_coef": 1e-4}
    rewards = torch.tensor([[0.1, -0.2, 1.0], [0.3, 0.5, 9.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    found, _ = Estimator(method=method, name="ours")(rewards, mask, None, nested(options))
    togo = torch.tensor([0.9, 0.8, 1.0, 0.8, 0.5])
    want = (togo - togo.mean()) / (togo.var(correction=0) + 1e-8).sqrt()
    torch.testing.assert_close(found[mask.bool()], want)
    with pytest.raises(InputError, match=r"ours wants algorithm.use_kl_in_reward=true"):
        Estimator(method=method, name="ours")(rewards, mask, None, {})
    with pytest.raises(InputError, match=r"ours wants algorithm.kl_ctrl.kl_coef=0.0001"):
        Estimator(method=method, name="ours")(rewards, mask, None, nested({**options, "kl_ctrl.kl_coef": 0.001}))
    with pytest.raises(InputError, match=r"ours wants algorithm.use_kl_in_reward=false"):
        Estimator(method=record("grpo"), name="ours")(rewards, mask, ["a", "a"], nested(options))


def test_rows_without_a_token_are_in_no_statistic() -> None:
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.0], [5.0, 5.0]])
    mask = torch.tensor([[1, 1], [1, 1], [0, 0]])
    found, _ = Estimator(method=record("grpo"), name="ours")(rewards, mask, ["a", "a", "a"], {})
    alone, _ = Estimator(method=record("grpo"), name="ours")(rewards[:2], mask[:2], ["a", "a"], {})
    assert torch.equal(found[:2], alone) and (found[2] == 0).all() and (alone != 0).all()


def test_groups_need_an_index() -> None:
    rewards, mask = torch.ones(2, 2), torch.ones(2, 2)
    with pytest.raises(InputError, match="verl gave no uid: pass index"):
        Estimator(method=record("grpo"), name="ours")(rewards, mask)
    assert groups_of(["b", "a", "b"], torch.device("cpu")).tolist() == [0, 1, 0]


def test_the_average_of_each_kind_has_verls_name() -> None:
    modes = [actor_options(record("grpo", aggregate=a))["loss_agg_mode"] for a in (TokenMean(), SequenceMean())]
    assert [*modes, actor_options(record("dr_grpo"))["loss_agg_mode"]] == [
        "token-mean",
        "seq-mean-token-mean",
        "seq-mean-token-sum-norm",
    ]
