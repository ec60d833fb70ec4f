"""Masked positions leak neither value nor gradient; empty and constant inputs have a defined result."""

from __future__ import annotations

import pytest
import torch

from rekindle.core.masked import masked_mean, masked_sum, masked_var, whiten

X = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_values() -> None:
    assert masked_sum(X, MASK).item() == 11
    assert masked_sum(X, MASK, 1).tolist() == [3, 8]
    assert masked_mean(X, MASK).item() == pytest.approx(11 / 3)
    assert masked_mean(X, MASK, 1).tolist() == [1.5, 8]
    assert masked_var(X, MASK).item() == pytest.approx(torch.tensor([1.0, 2.0, 8.0]).var(correction=0).item())
    assert masked_var(X, MASK, 1).item() == pytest.approx(torch.tensor([1.0, 2.0, 8.0]).var().item())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("function", [masked_sum, masked_mean, masked_var, lambda x, m: whiten(x, m).square().sum()])
def test_masked_entries_never_leak(bad: float, function) -> None:
    clean = X.clone().requires_grad_()
    dirty = X.where(MASK, bad).requires_grad_()
    want, got = function(clean, MASK), function(dirty, MASK)
    assert got.item() == want.item()
    want.backward()
    got.backward()
    assert torch.equal(dirty.grad, clean.grad)
    assert (dirty.grad[~MASK] == 0).all()


def test_empty_mask_is_zero() -> None:
    none = torch.zeros_like(MASK)
    assert masked_sum(X, none).item() == masked_mean(X, none).item() == masked_var(X, none, 1).item() == 0
    assert masked_mean(X, none, 1).tolist() == [0, 0]
    assert whiten(X, none).abs().sum() == 0


def test_whiten() -> None:
    white = whiten(X, MASK, ddof=1, eps=0.0)
    inside = white[MASK]
    assert inside.mean().item() == pytest.approx(0, abs=1e-15) and inside.var().item() == pytest.approx(1)
    assert (white[~MASK] == 0).all()


def test_whiten_constant_is_exactly_zero_in_float32() -> None:
    x = torch.full((1, 16), 0.7)
    assert (x - x.mean()).abs().max() > 0, "the trap: rounding leaves a spread"
    assert whiten(x, torch.ones(1, 16, dtype=torch.bool), eps=1e-12).abs().sum() == 0


def test_whiten_one_value() -> None:
    assert whiten(X, torch.tensor([[True, False, False], [False] * 3]), ddof=1).abs().sum() == 0
