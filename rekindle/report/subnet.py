"""What training changed in the weights: sparsity, rank and overlap of the update, tensor by tensor.

Mukherjee et al., "Reinforcement Learning Finetunes Small Subnetworks in LLMs" (arXiv 2505.11711): a delta is taken in
the compare dtype, and sparsity is the share of entries with |delta| <= tolerance, pooled over all entries. The number
is a function of learning rate, steps, weight scale and dtype, so both bf16 and fp32 are measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rekindle.errors import InputError
from rekindle.report.delta import (
    Count,
    Overlap,
    Rank,
    count_within,
    difference,
    intersection,
    matrices,
    matrix_rank,
    overlap,
)
from rekindle.report.weights import Weights, skipped, tied

TOLERANCES = (0.0, 1e-8, 1e-6, 1e-5, 1e-4)
DTYPES: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
KINDS: Mapping[str, re.Pattern[str]] = {
    "norm": re.compile(r"norm|(^|\.)ln_"),
    "embed": re.compile(r"embed(?!_out)|(^|\.)w[tp]e\."),
    "q": re.compile(r"\.(q_proj|query|wq)\."),
    "k": re.compile(r"\.(k_proj|key|wk)\."),
    "v": re.compile(r"\.(v_proj|value|wv)\."),
    "o": re.compile(r"\.(o_proj|out_proj|wo|attn\.c_proj|attention\.dense)\."),
    "gate": re.compile(r"\.(gate_proj|w1)\."),
    "up": re.compile(r"\.(up_proj|w3|c_fc|dense_h_to_4h)\."),
    "down": re.compile(r"\.(down_proj|w2|mlp\.c_proj|dense_4h_to_h)\."),
}
"""Kind -> what the name of its tensors holds; the first that fits, "other" where none does (fused ones, the head)."""
LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")
LOW_RANK, FULL_RANK, DENSE = 0.25, 0.9, 0.5


def kind_of(name: str) -> str:
    """q, k, v, o, gate, up, down, embed, norm or other."""
    return next((kind for kind, pattern in KINDS.items() if pattern.search(name)), "other")


def layer_of(name: str) -> int | None:
    """The number of the layer that a tensor belongs to, None outside the layers."""
    found = LAYER.search(f".{name}")
    return int(found.group(1)) if found else None


@dataclass(frozen=True)
class Lens:
    """What one compare dtype shows. tensors: name -> count. overlaps: update set beyond a tolerance -> overlap."""

    tensors: Mapping[str, Count]
    ranks: Mapping[str, tuple[Rank, ...]]
    overlaps: Mapping[float, Overlap] = field(default_factory=dict)

    @property
    def total(self) -> Count:
        """All entries pooled."""
        return sum(self.tensors.values(), Count())

    def by(self, key: Callable[[str], str | int | None]) -> dict[str | int, Count]:
        """Entries pooled by kind or layer; those without one are left out."""
        pooled: dict[str | int, Count] = {}
        for name, count in self.tensors.items():
            place = key(name)
            if place is not None:
                pooled[place] = pooled.get(place, Count()) + count
        return pooled

    def nonzero_by_layer(self, column: int) -> dict[int, float]:
        """Layer -> the unweighted mean over its tensors of the changed share, as the paper's script has it."""
        shares: dict[int, list[float]] = {}
        for name, count in self.tensors.items():
            layer = layer_of(name)
            if layer is not None:
                shares.setdefault(layer, []).append(1 - count.sparsity[column])
        return {layer: math.fsum(found) / len(found) for layer, found in sorted(shares.items())}

    @property
    def rank(self) -> Rank | None:
        """The unweighted mean over matrices; None where there is none, or ranks were not asked for."""
        every = [rank for found in self.ranks.values() for rank in found]
        if not every:
            return None
        means = [
            math.fsum(values) / len(every)
            for values in zip(*((r.share, r.stable, r.energy) for r in every), strict=True)
        ]
        return Rank(*means)


@dataclass(frozen=True)
class Subnet:
    """A measured update. lenses: "bf16" and "fp32". skipped: tensor -> why it was not compared."""

    tolerances: tuple[float, ...]
    lenses: Mapping[str, Lens]
    skipped: Mapping[str, str]

    @property
    def low_rank(self) -> bool:
        """Whether the fp32 update is dense and of low rank, as that of a merged LoRA is."""
        lens = self.lenses["fp32"]
        return lens.rank is not None and lens.rank.share < LOW_RANK and 1 - lens.total.sparsity[0] > DENSE

    @property
    def sparse_and_full(self) -> bool:
        """Whether the bf16 update is sparse and yet of nearly full rank, which chance alone gives."""
        lens = self.lenses["bf16"]
        return lens.rank is not None and lens.rank.share > FULL_RANK and lens.total.sparsity[0] > DENSE


def measure(
    base: Weights,
    tuned: Weights,
    other: Weights | None = None,
    *,
    atol: float = 1e-5,
    ranks: bool = True,
    heard: Callable[[str], None] = lambda name: None,
) -> Subnet:
    """Compare models of one architecture, holding one tensor at a time. `other` starts from `base` too: overlap.

    heard: called with the name of each tensor. InputError where nothing can be compared or a change is not finite.
    """
    tolerances = tuple(sorted({*TOLERANCES, atol}))
    models = [base, tuned] + ([] if other is None else [other])
    left_out = skipped(models)
    names = [name for name in base.names if name not in left_out]
    tallies = {lens: Tally(tolerances, atol) for lens in DTYPES}
    for name in names:
        heard(name)
        tensors = [model.read(name) for model in models]
        same = tied(name, names, models, tensors)
        if same is not None:
            left_out[name] = same
            continue
        for lens, dtype in DTYPES.items():
            deltas = [difference(name, tensors[0], tensor, dtype) for tensor in tensors[1:]]
            tallies[lens].add(name, deltas, ranks)
    if not tallies["fp32"].tensors:
        raise InputError(
            f"{base.folder} and {tuned.folder} share no tensor of one shape: give models of one architecture"
        )
    return Subnet(tolerances, {lens: tally.lens() for lens, tally in tallies.items()}, left_out)


@dataclass
class Tally:
    """The running counts of one compare dtype; `both` holds (n, |I1|, |I2|, |both|) by tensor for each update set."""

    tolerances: tuple[float, ...]
    atol: float
    tensors: dict[str, Count] = field(default_factory=dict)
    ranks: dict[str, tuple[Rank, ...]] = field(default_factory=dict)
    both: dict[float, list[tuple[int, int, int, int]]] = field(default_factory=dict)

    def add(self, name: str, deltas: Sequence[Tensor], ranks: bool) -> None:
        """Count one tensor: deltas of the tuned model and, maybe, of the other one."""
        self.tensors[name] = count_within(deltas[0], self.tolerances)
        if ranks and deltas[0].ndim >= 2 and kind_of(name) != "norm":
            self.ranks[name] = tuple(matrix_rank(delta) for delta in matrices(deltas[0]))
        if len(deltas) == 2:
            for tolerance in sorted({0.0, self.atol}):
                self.both.setdefault(tolerance, []).append(intersection(*(d.abs() > tolerance for d in deltas)))

    def lens(self) -> Lens:
        """What was counted."""
        return Lens(self.tensors, self.ranks, {tolerance: overlap(rows) for tolerance, rows in self.both.items()})
