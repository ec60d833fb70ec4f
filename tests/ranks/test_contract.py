"""What every method owes several ranks: the gradient and the updates of one, to rounding. Real processes, no mock."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rekindle.core.ranks import Alone
from tests.methods.records import labels
from tests.methods.stage import difference
from tests.ranks.start import ended, start
from tests.ranks.worker import all_results

NAMES = labels()
GATE = {"float64": 1e-10, "float32": 5e-6}


def by_ranks(folder: Path, count: int, kinds: str, names: list[str]) -> dict[str, dict[str, Tensor]]:
    """Kind -> what `count` processes find, started once for all kinds and methods."""
    for code, _, err in ended(start(count, "-m", "tests.ranks.worker", str(folder), kinds, ",".join(names)), 500):
        assert code == 0, err
    return {kind: load_file(folder / f"{kind}.safetensors") for kind in kinds.split(",")}


def apart(got: dict[str, Tensor], want: dict[str, Tensor], name: str) -> dict[str, float]:
    """How far gradient, weights and their movement lie from one rank's, relative to the largest."""
    return {what: difference(got[f"{name}.{what}"], want[f"{name}.{what}"]) for what in ("grad", "weights")}


def compare(got: dict[str, dict[str, Tensor]], names: list[str]) -> None:
    """Every kind and method within its gate, losses equal bit for bit on all ranks."""
    worst: dict[str, tuple[float, str]] = {}
    known: dict[str, dict[str, Tensor]] = {}
    for kind, found in got.items():
        dtype = kind.partition("-")[2]
        want = known.setdefault(dtype, all_results(names, f"ddp-{dtype}", Alone()))
        for name in names:
            assert want[f"{name}.grad"].abs().max() > 1e-3 and want[f"{name}.moved"].abs().max() > 1e-4
            losses = found[f"{name}.loss"]
            assert (losses[:, 0] == want[f"{name}.loss"][0, 0]).all(), f"{kind} {name}: the first loss, bit for bit"
            assert (losses == losses[0]).all(), f"{kind} {name}: a loss differs between ranks"
            off = apart(found, want, name)
            assert max(off.values()) <= GATE[dtype], f"{kind} {name}: {off}"
            worst[kind] = max(worst.get(kind, (0.0, "")), (max(off.values()), name))
    print(f"\n{worst}")


def test_two_ranks_take_the_update_of_one(tmp_path: Path) -> None:
    compare(by_ranks(tmp_path, 2, "ddp-float64", NAMES), NAMES)


def test_three_ranks_and_shares_agree_and_a_mean_where_a_sum_belongs_is_caught(tmp_path: Path) -> None:
    some = NAMES[::24]  # `more_ranks` below has all of them
    got = by_ranks(tmp_path, 3, "ddp-float64,fsdp-float64,fsdp-float32,mean-float64,fsdpmean-float64", some)
    compare({kind: got[kind] for kind in ("ddp-float64", "fsdp-float64", "fsdp-float32")}, some)
    for kind in ("mean-float64", "fsdpmean-float64"):
        for name in some:
            off = apart(got[kind], got["ddp-float64"], name)
            assert off["grad"] == pytest.approx(2 / 3, rel=1e-6) and off["weights"] > 1e-5
        with pytest.raises(AssertionError, match=some[0]):
            compare({kind: got[kind]}, some)


@pytest.mark.heavy
@pytest.mark.parametrize("count", [2, 3])
def test_more_ranks_and_single_precision(tmp_path: Path, count: int) -> None:
    kinds = "ddp-float64,fsdp-float64,ddp-float32,fsdp-float32"
    compare(by_ranks(tmp_path, count, kinds, NAMES), NAMES)


def test_the_difference_is_one_of_numbers() -> None:
    want = {"a.grad": torch.tensor([2.0, 1.0]), "a.weights": torch.tensor([4.0, 0.0])}
    got = {"a.grad": torch.tensor([2.0, 1.5]), "a.weights": torch.tensor([4.0, 1.0])}
    assert apart(got, want, "a") == {"grad": 0.25, "weights": 0.25}
