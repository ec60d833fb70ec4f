"""The closed-form curvature of the head: worked numbers, autograd, exact KLs, and how it scales."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rekindle.core.curvature import HEAD_CURVE, HEAD_SIZE, head_excess, head_shifts
from rekindle.core.types import Batch, Seen
from tests.batches import hand_batch, make_batch

WEIGHT = torch.tensor([[0.2, -0.1], [0.0, 0.3], [-0.4, 0.1]], dtype=torch.float64)
HIDDEN = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
ACTION = torch.tensor([1])


def seen(weight: Tensor, hidden: Tensor, action: Tensor) -> Seen:
    return Seen(
        logits={"policy": hidden @ weight.T},
        hidden={"policy": hidden},
        weight={"policy": weight},
        values={},
        action=action,
    )


def token(
    advantage: float, lr: float, weight: Tensor = WEIGHT, hidden: Tensor = HIDDEN, action: Tensor = ACTION
) -> Batch:
    """A batch of one token with its columns."""
    said = seen(weight, hidden, action)
    columns = {need.name: need.compute(said)[None] for need in (HEAD_SIZE, HEAD_CURVE)}
    rows = {
        "advantage": torch.tensor([[advantage]], dtype=torch.float64),
        "step_lr": torch.tensor([lr], dtype=torch.float64),
    }
    return hand_batch([1.0]).with_columns(**columns, **rows)


def test_worked_example() -> None:
    fisher, objective = head_shifts(token(0.5, 0.1)).flatten().tolist()
    assert (fisher, objective) == (pytest.approx(0.00440724, abs=5e-9), pytest.approx(0.0469338, abs=5e-8))
    assert token(0.5, 0.1).column("head_size").item() * 0.25 == pytest.approx(0.469427, abs=5e-7)
    fisher, objective = head_shifts(token(0.5, 1.5e-5)).flatten().tolist()
    assert (fisher, objective) == (pytest.approx(9.91629e-11, rel=1e-5), pytest.approx(7.04141e-6, rel=1e-5))


def test_the_predictions_are_near_the_true_changes() -> None:
    old = torch.log_softmax(WEIGHT @ HIDDEN[0], 0)
    error = torch.nn.functional.one_hot(ACTION, 3)[0] - old.exp()
    new = torch.log_softmax((WEIGHT + 0.1 * 0.5 * torch.outer(error, HIDDEN[0])) @ HIDDEN[0], 0)
    assert (0.5 * ((new - old)[1].exp() - 1)).item() == pytest.approx(0.0467962, abs=5e-8)
    assert (old.exp() * (old - new)).sum().item() == pytest.approx(0.00441739, abs=5e-9)


@pytest.mark.parametrize("seed", range(5))
def test_against_autograd(seed: int) -> None:
    """Gradient and Hessian of W -> A pi_W(a) / pi_old(a) at W_old, along the token's own gradient."""
    rng = torch.Generator().manual_seed(seed)
    weight, hidden = torch.randn(6, 3, generator=rng).double(), torch.randn(1, 3, generator=rng).double()
    advantage, lr, action = float(torch.randn((), generator=rng)), 0.05, torch.tensor([seed % 6])
    old = torch.softmax(weight @ hidden[0], 0)[action]

    def surrogate(w: Tensor) -> Tensor:
        return (advantage * torch.softmax(w @ hidden[0], 0)[action] / old).sum()

    leaf = weight.clone().requires_grad_()
    grad = torch.autograd.grad(surrogate(leaf), leaf, create_graph=True)[0]
    along = torch.autograd.grad((grad * grad.detach()).sum(), leaf)[0]
    first, second = grad.square().sum(), (along * grad).sum()
    fisher, objective = head_shifts(token(advantage, lr, weight, hidden, action)).flatten()
    torch.testing.assert_close(objective, lr * first + lr**2 / 2 * second, rtol=1e-10, atol=1e-14)
    assert fisher.item() == pytest.approx(0.5 * (lr * first.item() / advantage) ** 2, rel=1e-10)


def test_how_it_scales() -> None:
    one, two = head_shifts(token(0.5, 0.1)), token(0.5, 0.1)
    wide = two.with_columns(head_size=two.column("head_size") * 9, head_curve=two.column("head_curve") * 81)
    assert (head_shifts(wide)[0] / one[0]).item() == pytest.approx(3**4), "hidden states three times as long"
    assert (head_shifts(token(0.0, 0.1)) == 0).all() and (head_shifts(token(0.5, 0.0)) == 0).all()
    small = token(0.5, 1e-9)
    assert (head_shifts(small)[1] / (1e-9 * 0.25 * small.column("head_size"))).item() == pytest.approx(1.0, abs=1e-8)
    assert head_shifts(token(-2.0, 0.1))[0] >= 0


def test_the_excess_is_the_larger_of_the_two_and_dead_positions_count_nothing() -> None:
    batch = make_batch(ungraded=True)
    rng = torch.Generator().manual_seed(0)
    shape = batch.mask.shape
    columns = {name: torch.rand(shape, generator=rng).double() for name in ("head_size", "head_curve")}
    rows = {
        name: torch.full_like(batch.score, v) for name, v in {"step_lr": 0.3, "limit_f": 0.01, "limit_h": 0.2}.items()
    }
    batch = batch.with_columns(**columns, **rows)
    fisher, objective = head_shifts(batch)
    torch.testing.assert_close(head_excess(batch), torch.maximum(fisher / 0.01, objective.abs() / 0.2))
    dirty = batch.with_columns(**{n: v.where(batch.live, float("nan")) for n, v in columns.items()})
    assert torch.equal(head_excess(dirty), head_excess(batch)) and (head_excess(batch)[~batch.live] == 0).all()
    free = batch.with_columns(limit_f=rows["limit_f"] * torch.inf, limit_h=rows["limit_h"] * torch.inf)
    assert (head_excess(free) == 0).all()
