"""G2RL: the gradient feature against autograd, novelty against a slow loop, the two signs, and GRPO at weight 0."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rekindle.core.advantages import GroupNormalized
from rekindle.core.types import Seen
from rekindle.methods import g2rl, grpo
from rekindle.methods.g2rl import GradientNovelty, row_gradient
from rekindle.tokens.rollouts import Rollouts
from tests.batches import hand_batch
from tests.methods.made import group_rollouts
from tests.methods.stage import collected, on_leaves

METHOD = g2rl.method()


def slow(gradient: list[list[float]], right: list[float]) -> list[float]:
    """Novelty before it is scaled, in plain Python."""
    unit = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in gradient]
    out = []
    for i in range(len(unit)):
        others = [j for j in range(len(unit)) if j != i]
        total = sum(math.exp(right[j]) for j in others)
        same = sum(
            math.exp(right[j]) / total * sum(a * b for a, b in zip(unit[i], unit[j], strict=True)) ** 2 for j in others
        )
        out.append(max(1 - same, 0.0))
    return out


def drawn(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    right = (torch.rand(n, generator=rng) < 0.6).double() * 2 - 1
    return torch.randn(n, 5, generator=rng, dtype=torch.float64), right


def scores(gradient: Tensor, right: Tensor, part: GradientNovelty | None = None) -> Tensor:
    batch = hand_batch([float(r > 0) for r in right]).with_columns(gradient_old=gradient)
    return (part or GradientNovelty())(batch).score


def test_the_feature_is_the_gradient_of_the_log_prob_to_the_hidden_state() -> None:
    rng = torch.Generator().manual_seed(0)
    weight, hidden = (torch.randn(n, 4, generator=rng, dtype=torch.float64) for n in (7, 6))
    action = torch.randint(7, (6,), generator=rng)
    hidden.requires_grad_()
    logits = hidden @ weight.T / 0.5
    torch.log_softmax(logits, dim=1).gather(1, action[:, None]).sum().backward()
    seen = Seen({"policy": logits.detach()}, {}, {"policy": weight}, {}, action)
    torch.testing.assert_close(row_gradient(seen), hidden.grad * 0.5, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_novelty_against_a_slow_loop(seed: int) -> None:
    gradient, right = drawn(6, seed)
    raw = slow(gradient.tolist(), right.tolist())
    want = [(v - min(raw)) / (max(raw) - min(raw)) for v in raw]
    got = GradientNovelty().novelty(gradient, right)
    assert got.tolist() == pytest.approx(want, abs=1e-12) and got.aminmax() == (0.0, 1.0)


def test_a_row_that_points_elsewhere_is_the_new_one() -> None:
    gradient = torch.tensor([[1.0, 0], [1.0, 0.1], [-1.0, 0], [0, 1.0]], dtype=torch.float64)
    got = scores(gradient, torch.ones(4).double())
    assert got[3].item() == pytest.approx(1.5) and got[:3].max().item() < 1.05, "the opposite direction is not new"


def test_wrong_rows_lose_less_as_printed_and_more_by_the_prose() -> None:
    gradient, right = drawn(8)
    less, more = (scores(gradient, right, GradientNovelty(wrong=sign)) for sign in ("less", "more"))  # type: ignore[arg-type]
    novelty = GradientNovelty().novelty(gradient, right)
    assert (right > 0).any() and (right < 0).any()
    torch.testing.assert_close(less, right + 0.5 * novelty, rtol=0, atol=1e-12)
    torch.testing.assert_close(more, right * (1 + 0.5 * novelty), rtol=0, atol=1e-12)


def test_scores_are_bounded() -> None:
    gradient, right = drawn(8)
    got = scores(gradient, right, GradientNovelty(weight=10.0))
    assert got.max().item() == 3.0 and got.min().item() >= -3.0


@pytest.mark.parametrize("rows", [[[1.0, 2.0]] * 4, [[1.0, 2.0]], [[0.0, 0.0]] * 3])
def test_equal_gradients_are_plain_right_and_wrong(rows: list[list[float]]) -> None:
    right = torch.tensor([1.0, -1.0, 1.0, -1.0])[: len(rows)].double()
    noise = 1e-9 * torch.arange(len(rows) * 2).view(-1, 2)
    assert scores(torch.tensor(rows, dtype=torch.float64) + noise * (rows[0][0] != 0), right).tolist() == right.tolist()


def test_the_scale_of_a_gradient_and_the_row_order_do_not_matter() -> None:
    gradient, right = drawn(7)
    want = scores(gradient, right)
    scale = torch.linspace(0.1, 50, 7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(scores(gradient * scale, right), want, rtol=0, atol=1e-12)
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    torch.testing.assert_close(scores(gradient[order], right[order]), want[order], rtol=0, atol=1e-12)


def test_weight_0_is_grpo() -> None:
    neutral = METHOD.replace(prepare=(GradientNovelty(weight=0.0),), advantage=GroupNormalized(eps=0.0))
    host = grpo.method().replace(advantage=GroupNormalized(eps=0.0))
    rollouts = Rollouts.concat([group_rollouts(g) for g in (0, 2, 5)])
    (stage, ours), (_, theirs) = collected(neutral, rollouts), collected(host, rollouts)
    torch.testing.assert_close(ours.advantage, theirs.advantage, rtol=1e-12, atol=1e-12)
    now = stage.policy(ours).detach()
    got, want = on_leaves(neutral, ours, now), on_leaves(host, theirs, now)
    torch.testing.assert_close(got[1], want[1], rtol=1e-11, atol=1e-14)
    assert (want[1] != 0).any() and not torch.equal(collected(METHOD, rollouts)[1].advantage, ours.advantage)


def test_a_group_that_is_all_right_still_teaches() -> None:
    _, batch = collected(METHOD, group_rollouts(2))
    assert batch.success.all() and (batch.advantage > 0).any() and (batch.advantage < 0).any()
