"""The fused head against log-softmax by autograd: values, gradients, chunks, and what it does not compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rekindle.core.types import entropy_of, taken
from rekindle.tokens import scores
from rekindle.tokens.scores import HeadScores, chunk_of


def case(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 6, dtype=dtype, generator=rng)
    weight = torch.randn(19, 6, dtype=dtype, generator=rng)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(0, 19, (11,), generator=rng)


def naive(hidden: Tensor, weight: Tensor, action: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    logp = torch.log_softmax(hidden @ weight.T * factor, dim=-1)
    return taken(logp, action), entropy_of(logp)


@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
@pytest.mark.parametrize("use", ["logp", "entropy", "both"])
@pytest.mark.parametrize("factor", [1.0, 1.6])
def test_values_and_gradients(chunk: int, use: str, factor: float) -> None:
    hidden, weight, action = case()
    by = torch.randn(2, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for logp, entropy in (
        naive(hidden, weight, action, factor),
        HeadScores.apply(hidden, weight, action, factor, chunk),
    ):
        parts = {"logp": (by[0] * logp).sum(), "entropy": (by[1] * entropy.square()).sum()}
        loss = sum(parts.values()) if use == "both" else parts[use]
        found.append((logp.detach(), entropy.detach(), *torch.autograd.grad(loss, (hidden, weight))))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
        assert float(theirs.abs().max()) > 0.1


def test_gradcheck() -> None:
    hidden, weight, action = case()
    assert torch.autograd.gradcheck(lambda h, w: HeadScores.apply(h, w, action, 0.7, 3), (hidden, weight))


def test_twice_through_the_same_graph_gives_the_same_gradient() -> None:
    hidden, weight, action = case()
    logp, _ = HeadScores.apply(hidden, weight, action, 1.0, 100)
    first = torch.autograd.grad(logp.sum(), (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(logp.sum(), (hidden, weight))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, action = case()
    logp, _ = HeadScores.apply(hidden, weight.detach(), action, 1.0, 4)
    (slope,) = torch.autograd.grad(logp.sum(), (hidden,))
    theirs = torch.autograd.grad(naive(hidden, weight, action, 1.0)[0].sum(), (hidden,))[0]
    torch.testing.assert_close(slope, theirs, rtol=1e-12, atol=1e-13)


def test_the_gradient_of_the_entropy_costs_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bool, bool]] = []
    plain = scores._slope

    def spy(logp: Tensor, entropy: Tensor, action: Tensor, by_logp: Tensor | None, by_entropy: Tensor | None) -> Tensor:
        asked.append((by_logp is not None, by_entropy is not None))
        return plain(logp, entropy, action, by_logp, by_entropy)

    monkeypatch.setattr(scores, "_slope", spy)
    hidden, weight, action = case()
    HeadScores.apply(hidden, weight, action, 1.0, 100)[0].sum().backward()
    HeadScores.apply(hidden, weight, action, 1.0, 100)[1].sum().backward()
    assert asked == [(True, False), (False, True)]


def test_no_more_logits_than_a_chunk_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = scores._logits

    def spy(hidden: Tensor, weight: Tensor, factor: float) -> Tensor:
        out = plain(hidden, weight, factor)
        seen.append(out.numel())
        return out

    monkeypatch.setattr(scores, "_logits", spy)
    hidden, weight, action = case()
    HeadScores.apply(hidden, weight, action, 1.0, 4)[0].sum().backward()
    assert seen == [4 * 19, 4 * 19, 3 * 19] * 2  # computed again in the backward pass
    seen.clear()
    HeadScores.apply(hidden, weight, action, 1.0, 11)[0].sum().backward()
    assert seen == [11 * 19]  # one chunk: kept


def test_chunks_shrink_with_the_vocabulary() -> None:
    assert chunk_of(151_936, 1024) == 110 and chunk_of(2**26, 5) == 1 and chunk_of(1000, 33_554) == 33_554
    assert chunk_of(1000, 33_555) == 16_777 and chunk_of(10, 0) == 1


def test_peaked_distributions_have_exact_small_entropies() -> None:
    hidden = torch.eye(2, dtype=torch.float32) * 200
    logp, entropy = HeadScores.apply(hidden, torch.eye(2), torch.tensor([0, 0]), 1.0, 2)
    assert logp.tolist() == [0.0, -200.0] and entropy.tolist() == [0.0, 0.0]
