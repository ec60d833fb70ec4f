"""Factors by their singular values: the worked example, what stays, how many are searched; and the search by CMA-ES."""

from __future__ import annotations

import math
import sys
from typing import Any

import cmaes
import pytest
import torch
from torch import Tensor

from rekindle.core.evolution import Place, Search
from rekindle.core.ranks import Alone
from rekindle.errors import InputError
from rekindle.tokens.cma import CMA, FULL
from rekindle.tokens.factors import Basis, Factors, SingularValues, count_of
from tests.methods.searching import LAYERS, RANK, ToyRun, made
from tests.ranks.team import Member, together

A, B = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])


def placed(share: float = 1.0, run: ToyRun | None = None) -> Factors:
    return SingularValues(share=share)(run or ToyRun())


def point(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_worked_example() -> None:
    run = ToyRun(pairs=[(A.clone(), B.clone())])
    place = placed(run=run)
    assert isinstance(place, Place) and place.size == 4 and place.scale == 2.5
    before = B @ A
    assert before.tolist() == [[6, 0], [0, 1], [0, 0]]
    place.put(point(1, 0, 0, -1))
    a, b = run.pairs[0]
    torch.testing.assert_close(a, torch.diag(torch.tensor([4.0, 1.0])))
    torch.testing.assert_close(b, torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(b @ a, torch.tensor([[8.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))


def test_no_offset_is_the_adapter_that_was_there() -> None:
    run = ToyRun()
    before = [(a.clone(), b.clone()) for a, b in run.pairs]
    placed(run=run).put(torch.zeros(2 * LAYERS * RANK, dtype=torch.float64))
    for pair, old in zip(run.pairs, before, strict=True):
        torch.testing.assert_close(pair, old, rtol=1e-6, atol=1e-6)


def test_directions_stay_and_the_rank_does_not_grow() -> None:
    run = ToyRun()
    place = placed(run=run)
    kept = {name: value.clone() for name, value in run.kept.items()}
    assert len(kept) == 3 * 2 * LAYERS and all(value.dtype == torch.float64 for value in kept.values())
    for seed in range(5):
        rng = torch.Generator().manual_seed(seed)
        place.put(3 * torch.randn(place.size, generator=rng, dtype=torch.float64))
        assert placed(run=run).bases[0].s.tolist() == place.bases[0].s.tolist(), "not decomposed again"
        for basis, tensor in zip(place.bases, place.tensors, strict=True):
            inside = basis.u.T @ tensor.detach().double() @ basis.v.T
            torch.testing.assert_close(basis.u @ inside @ basis.v, tensor.detach().double(), rtol=1e-5, atol=1e-5)
            off = inside - torch.diag(inside.diagonal())
            assert off.abs().max() < 1e-5, "only the values have changed"
        assert all(torch.linalg.matrix_rank((b @ a).detach()) <= RANK for a, b in run.pairs)
    assert all(torch.equal(value, kept[name]) for name, value in run.kept.items())


def test_each_matrix_has_its_a_part_then_its_b_part() -> None:
    run = ToyRun()
    place = placed(0.7, run)
    assert place.counts == [2] * 2 * LAYERS
    start = [basis.moved(point()) for basis in place.bases]
    for i in range(place.size):
        offsets = torch.zeros(place.size, dtype=torch.float64)
        offsets[i] = 0.5
        place.put(offsets)
        moved = [not torch.allclose(t.double(), s, atol=1e-5) for t, s in zip(place.tensors, start, strict=True)]
        assert moved == [j == i // 2 for j in range(2 * LAYERS)]
    layers = [tensor for pair in run.pairs for tensor in pair]
    assert all(a is b for a, b in zip(place.tensors, layers, strict=True))


def test_how_many_values_are_searched() -> None:
    class Shapes:
        ranks, kept = Alone(), {}  # type: ignore[var-annotated]

        def factors(self) -> list[tuple[Tensor, Tensor]]:
            return [(torch.ones(8, 9), torch.ones(9, 8))] * (32 * 4)

    assert placed(1.0, Shapes()).size == 2048  # type: ignore[arg-type]
    assert [count_of(share, 10) for share in (0.1, 0.3, 0.7, 1.0)] == [1, 3, 7, 10]
    assert (count_of(0.29, 100), count_of(0.4, 8)) == (29, 3)
    with pytest.raises(
        InputError, match=r"the singular-value count is zero: space.share=0.1 of rank 8 .*=0.13 or more"
    ):
        count_of(0.1, 8)
    with pytest.raises(InputError, match="singular-value count is zero"):
        _ = placed(0.1).size
    assert count_of(0.13, 8) == 1


def test_values_may_become_negative_and_equal_ones_keep_their_directions() -> None:
    basis = Basis.of(torch.eye(3))
    moved = basis.moved(point(-2))
    torch.testing.assert_close(torch.linalg.svdvals(moved), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(torch.linalg.det(moved), -torch.linalg.det(basis.moved(point())))
    run = ToyRun(pairs=[(torch.eye(3), torch.eye(3))])
    first = placed(run=run)
    first.put(point(1, 0, 0, 0, 0, 0))
    again = placed(run=run)
    assert all(torch.equal(a.u, b.u) and torch.equal(a.v, b.v) for a, b in zip(first.bases, again.bases, strict=True))


def test_an_adapter_that_says_nothing_is_told_of() -> None:
    space, pairs = SingularValues(share=1.0), made(0)
    assert space.told(ToyRun()) == ()
    zero = ToyRun(pairs=[(a, torch.zeros_like(b)) for a, b in pairs])
    assert "no warm start" in space.told(zero)[0] and "--model FOLDER" in space.told(zero)[0]
    place = placed(run=zero)
    place.put(torch.zeros(place.size, dtype=torch.float64))
    assert zero.weights.count_nonzero() == 0 and place.scale > 0
    with pytest.raises(InputError, match="there is none: add --lora RANK"):
        placed(run=ToyRun(pairs=[]))
    for share in (0.0, 1.1, -1.0):
        with pytest.raises(ValueError, match="share of singular values"):
            SingularValues(share=share)


def test_ranks_search_along_the_directions_of_the_first() -> None:
    def work(rank: Member) -> dict[str, Tensor]:
        run = ToyRun(ranks=rank, pairs=made(rank.index))
        placed(run=run)
        return run.kept

    first, second = together(2, work)
    assert first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# --- the search -----------------------------------------------------------------------------------------------------


def test_which_form_of_the_search_it_is() -> None:
    def form(size: int, **how: Any) -> Any:
        return type(CMA(population=4, sigma=0.2, **how)(size, 1.0, 0).inner)

    assert form(FULL) is cmaes.CMA and form(FULL + 1) is cmaes.SepCMA
    assert form(4, covariance="separable") is cmaes.SepCMA and form(FULL + 1, covariance="full") is cmaes.CMA
    assert isinstance(CMA(population=4, sigma=0.2), Search)
    assert CMA(population=4, sigma=0.2)(3, 2.5, 0).spread == 0.5


def test_the_constants_are_those_of_the_tutorial() -> None:
    """n = 2048, population 96, positive weights: the covariance hardly moves, so the separable form loses nothing."""
    inner = CMA(population=96, sigma=0.2, covariance="full")(64, 1.0, 0).inner
    n, lam = 64, 96
    raw = math.log((lam + 1) / 2) - torch.log(torch.arange(1, lam // 2 + 1).double())
    w = raw / raw.sum()
    e = 1 / w.square().sum().item()
    assert inner._c_sigma == pytest.approx((e + 2) / (n + e + 5))
    assert inner._cc == pytest.approx((4 + e / n) / (n + 4 + 2 * e / n))
    assert inner._c1 == pytest.approx(2 / ((n + 1.3) ** 2 + e))
    assert inner._cmu == pytest.approx(min(1 - inner._c1, 2 * (e - 2 + 1 / e) / ((n + 2) ** 2 + e)))
    assert inner._weights[: lam // 2] == pytest.approx(w.numpy())
    assert 2 / ((2048 + 1.3) ** 2 + e) == pytest.approx(5e-7, rel=0.06)
    assert 2 * (e - 2 + 1 / e) / ((2048 + 2) ** 2 + e) == pytest.approx(1e-5, rel=0.3)


@pytest.mark.parametrize("covariance", ["full", "separable"])
def test_candidates_are_the_seeds_and_told_values_move_the_mean(covariance: Any) -> None:
    def search(seed: int) -> Any:
        return CMA(population=6, sigma=0.3, covariance=covariance)(4, 2.0, seed)

    one, same, other = search(1), search(1), search(2)
    asked = [s.ask() for s in (one, same, other)]
    assert all(torch.equal(a, b) for a, b in zip(asked[0], asked[1], strict=True))
    assert not torch.equal(asked[0][0], asked[2][0]) and asked[0][0].dtype == torch.float64
    before = one.mean
    assert before.tolist() == [0.0] * 4
    one.tell(asked[0], [p[0].item() for p in asked[0]])
    assert before.tolist() == [0.0] * 4, "a mean that was given out does not change"
    assert one.mean[0] > 0 and one.generation == 1


def test_too_few_candidates_and_no_step_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="a population of 4 or more, not 3"):
        CMA(population=3, sigma=0.2)
    with pytest.raises(ValueError, match="first step size is a share of the scale above 0, not 0"):
        CMA(population=4, sigma=0.0)
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(InputError, match=r"pip install 'rekindle\[train\]'"):
        CMA(population=4, sigma=0.2)(3, 1.0, 0)
