"""Ratios: GSPO's worked example, the clamp, and the token form of a shared ratio."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rekindle.core.ratios import log_ratio, segment_ratio, sequence_ratio, token_form, token_ratio
from rekindle.core.types import Now
from tests.batches import assert_alive, hand_batch, make_batch, make_now, poisoned


def gspo():
    old, new = torch.tensor([[0.5, 0.4, 0.1]]).double().log(), torch.tensor([[0.6, 0.3, 0.2]]).double().log()
    return hand_batch([1.0], [3], logp_old=old), Now(logp=new.requires_grad_(), entropy=torch.zeros_like(new))


def test_gspo_example() -> None:
    batch, now = gspo()
    torch.testing.assert_close(token_ratio(now, batch), torch.tensor([[1.2, 0.75, 2.0]]).double(), rtol=1e-6, atol=0)
    assert sequence_ratio(now, batch).item() == pytest.approx(1.216440, abs=1e-6)


def test_log_ratio_is_clamped_and_silent_beyond() -> None:
    old = torch.tensor([[-30.0, -0.5, -1.0]]).double()
    now = Now(logp=torch.tensor([[-0.5, -30.0, -2.0]]).double().requires_grad_(), entropy=torch.zeros(1, 3))
    moved = log_ratio(now, hand_batch([1.0], [3], logp_old=old))
    assert moved.tolist() == [[20, -20, -1]]
    moved.sum().backward()
    assert now.logp.grad is not None and now.logp.grad.tolist() == [[0, 0, 1]]


def test_one_off_live_positions_whatever_lies_there() -> None:
    batch = make_batch(ungraded=True)
    assert_alive(batch)
    dirty, now = poisoned(batch, make_now(batch))
    off = ~dirty.live
    assert off.any()
    segment = dirty.column("segment")
    for ratio in (token_ratio(now, dirty), segment_ratio(now, dirty, segment)):
        assert (ratio[off] == 1).all() and ratio.isfinite().all()
    assert (sequence_ratio(now, dirty)[~dirty.graded] == 1).all()


def test_segment_ratio_reduces_to_sequence_and_token() -> None:
    batch = make_batch()
    now = make_now(batch)
    rows, tokens = batch.mask.shape
    whole = torch.zeros(rows, tokens, dtype=torch.int64).where(batch.mask, -1)
    sequence = sequence_ratio(now, batch)[:, None].expand(-1, tokens).where(batch.live, 1.0)
    torch.testing.assert_close(segment_ratio(now, batch, whole), sequence, rtol=1e-12, atol=0)
    each = torch.arange(tokens).expand(rows, -1).where(batch.mask, -1)
    torch.testing.assert_close(segment_ratio(now, batch, each), token_ratio(now, batch), rtol=1e-12, atol=0)


def test_segment_ids_off_the_mask_do_not_count() -> None:
    batch = make_batch(ungraded=True)
    now = make_now(batch)
    segment = batch.column("segment")
    careless = segment.where(batch.mask, 0)
    assert not torch.equal(careless, segment)
    assert torch.equal(segment_ratio(now, batch, careless), segment_ratio(now, batch, segment))


def test_token_form_has_the_shared_value_and_the_same_mean_gradient() -> None:
    batch, now = gspo()
    shared = sequence_ratio(now, batch)
    (want,) = torch.autograd.grad(shared.sum(), now.logp)
    form = token_form(now, batch, sequence_ratio(now, batch)[:, None].expand(1, 3))
    torch.testing.assert_close(form, shared.detach()[:, None].expand(1, 3))
    (got,) = torch.autograd.grad(form.mean(), now.logp)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    (own,) = torch.autograd.grad(token_form(now, batch, shared[:, None].expand(1, 3))[0, 1], now.logp)
    assert own[0, 0] == own[0, 2] == 0 and own[0, 1].item() == pytest.approx(shared.item())


def test_an_empty_row_has_ratio_one() -> None:
    batch, now = gspo()
    empty = replace(batch, mask=torch.zeros_like(batch.mask))
    assert sequence_ratio(now, empty).item() == 1 and math.isclose(token_ratio(now, empty).sum().item(), 3)
