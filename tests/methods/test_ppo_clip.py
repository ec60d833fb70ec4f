"""PPO: the value loss on paper and by a slow loop, where its gradient goes, and a real run with its head resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rekindle.core.advantages import Score
from rekindle.core.gae import OverValue, Returns
from rekindle.core.types import Batch, Now
from rekindle.methods import grpo, ppo_clip
from rekindle.methods.ppo_clip import ValueLoss
from tests.batches import hand_batch, make_batch, make_now
from tests.methods.resumed import assert_alike, run_twice
from tests.methods.stage import table_stage

METHOD = ppo_clip.method()


def valued(batch: Batch, now: Now, seed: int = 2) -> tuple[Batch, Now]:
    rng = torch.Generator().manual_seed(seed)
    old, value = (torch.randn(batch.mask.shape, generator=rng, dtype=torch.float64) for _ in range(2))
    said = Now(logp=now.logp, entropy=now.entropy, extra={"value": value.requires_grad_()})
    return METHOD.credit(batch.with_columns(value_old=old)), said


def slow_value_loss(batch: Batch, value: Tensor, coef: float, clip: float) -> float:
    total, count = 0.0, 0
    for b in range(len(batch)):
        for t in range(batch.mask.shape[1]):
            if not batch.live[b, t]:
                continue
            v, old = value[b, t].item(), batch.column("value_old")[b, t].item()
            target = batch.column("returns")[b, t].item()
            near = min(max(v, old - clip), old + clip)
            total, count = total + coef * max((v - target) ** 2, (near - target) ** 2), count + 1
    return total / count


def test_the_value_loss_is_that_of_the_slow_loop() -> None:
    batch, now = valued(make_batch(ungraded=True, shaped=True), make_now(make_batch(ungraded=True)))
    term = ValueLoss(coef=0.5, clip=0.2)
    got = (term.weights(batch) * term.per_token(now, batch)[0]).sum()
    assert got.item() == pytest.approx(slow_value_loss(batch, now.extra["value"], 0.5, 0.2), rel=1e-12)
    assert term.heads == METHOD.heads() == ("value",)


def test_a_value_that_ran_ahead_of_its_old_one_gets_no_gradient() -> None:
    """Return 1, old value 0: 0.4 still moves, 0.6 is beyond 0.5 and the clipped error is the larger one."""
    batch = METHOD.prepared(hand_batch([1.0, 1.0, 1.0], value_old=torch.zeros(3, 1, dtype=torch.float64)))
    value = torch.tensor([[0.4], [0.6], [-0.6]], dtype=torch.float64, requires_grad=True)
    now = Now(logp=torch.zeros(3, 1), entropy=torch.zeros(3, 1), extra={"value": value})
    loss, metrics = ValueLoss().per_token(now, batch)
    assert loss.flatten().tolist() == pytest.approx([0.18, 0.125, 1.28])
    assert metrics["value/error"] == (pytest.approx(0.36 + 0.16 + 2.56), 3.0)
    (grad,) = torch.autograd.grad(loss.sum(), value)
    assert grad.flatten().tolist() == pytest.approx([-0.6, 0.0, -1.6]), "away from the return it is pulled back"


def test_a_batch_that_is_all_right_teaches_where_the_value_was_wrong() -> None:
    value = torch.tensor([[0.9, 0.9], [0.1, 0.1]], dtype=torch.float64)
    batch = METHOD.credit(hand_batch([1.0, 1.0], [2, 2], group=[0, 1], value_old=value))
    assert (batch.advantage[0] < 0).all() and (batch.advantage[1] > 0).all()


def test_with_no_whitening_and_no_values_the_update_is_that_of_the_bare_score() -> None:
    plain = METHOD.replace(prepare=(Returns(lam=1.0),), advantage=OverValue(whiten=False), terms=())
    batch = make_batch(shaped=True)
    ours = plain.credit(batch.with_columns(value_old=torch.zeros_like(batch.logp_old)))
    assert torch.equal(ours.advantage, grpo.method().replace(advantage=Score()).credit(batch).advantage)


def test_the_head_learns_what_prompts_are_worth() -> None:
    stage = table_stage(METHOD, lr=0.2)
    errors = []
    for _ in range(12):
        stage.drawn = 0
        metrics = METHOD.step(stage)
        errors.append(metrics["value/error"][0] / metrics["value/error"][1])
    assert errors[-1] < 0.5 * errors[0]


def test_a_real_run_resumes_with_its_head(tmp_path: Path) -> None:
    whole, cut = run_twice("ppo_clip", tmp_path, descent__head_lr=0.005)
    assert_alike(whole, cut)
    state = whole / "checkpoints" / "step-000004" / "state"
    assert load_file(state / "heads.safetensors")["value.weight"].abs().max() > 1e-3
    assert "heads.value.weight.exp_avg" in load_file(state / "optimizer.safetensors")
