"""What one token's own gradient step on the language model head would change: a cheap model of curvature.

Melo, Abate, Gal, arXiv 2510.00819, with plain gradient descent as the optimiser: the step of a token with hidden state
h, probabilities pi and advantage A is lr * A * outer(v, h), v = onehot(action) - pi, so all is in closed form.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rekindle.core.types import Batch, Need, Seen


def _error(seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
    """pi, v and |h|^2."""
    pi = torch.softmax(seen.logits["policy"], dim=-1)
    error = torch.nn.functional.one_hot(seen.action, pi.shape[1]) - pi
    return pi, error, seen.hidden["policy"].to(pi.dtype).square().sum(dim=1)


def _size(seen: Seen) -> Tensor:
    _, error, norm = _error(seen)
    return error.square().sum(dim=1) * norm


def _curve(seen: Seen) -> Tensor:
    pi, error, norm = _error(seen)
    variance = (pi * error.square()).sum(dim=1) - (pi * error).sum(dim=1).square()
    return variance.clamp(min=0.0) * norm.square()


HEAD_SIZE = Need("head_size", _size)
"""|v|^2 |h|^2: the squared gradient of the action's log-prob in the head, at temperature 1."""
HEAD_CURVE = Need("head_curve", _curve)
"""|h|^4 v^T F v, F = diag(pi) - pi pi^T."""


def head_shifts(batch: Batch) -> Float[Tensor, "2 B T"]:
    """m_F and m_H of each token, 0 off live positions: how far it moves the policy (nats) and the surrogate.

    m_F = (lr A |v|^2 |h|^2)^2 / 2; m_H = lr A^2 |v|^2 |h|^2 + lr^2 A^3 |h|^4 (|v|^4 - v^T F v) / 2. Reads the columns
    `head_size`, `head_curve`, `advantage` and `step_lr` [B], the learning rate.
    """
    live, rate = batch.live, batch.column("step_lr")[:, None]
    advantage = batch.advantage.where(live, 0.0)
    size, curve = (batch.column(need.name).where(live, 0.0) for need in (HEAD_SIZE, HEAD_CURVE))
    second = rate.square() * advantage**3 * (size.square() - curve) / 2
    return torch.stack([(rate * advantage * size).square() / 2, rate * advantage.square() * size + second])


def head_excess(batch: Batch) -> Float[Tensor, "B T"]:
    """The larger of m_F / `limit_f` and |m_H| / `limit_h` (columns [B]): a token is within its trust region below 1."""
    limits = torch.stack([batch.column("limit_f"), batch.column("limit_h")])
    return (head_shifts(batch).abs() / limits[:, :, None]).amax(dim=0)
