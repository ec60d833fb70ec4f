"""The bed `factors`: a linear classifier that knows six classes, and a low-rank update for four more to be searched.

The small experiment behind ESSA (Korotyshova et al., arXiv 2507.04453): images are drawn around a prototype of their
class. Some supervised steps give the update its directions; how many decides what a search of its values can find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rekindle.core.evolution import Evolution
from rekindle.core.random import pack_key
from rekindle.core.ranks import Alone, Together
from rekindle.core.types import mean_metrics
from rekindle.errors import InputError
from rekindle.prove.bed import LOGGED, logged, unknown_name
from rekindle.train.find import find_method, make_method
from rekindle.train.options import flatten, override

PIXELS, CLASSES, KNOWN = 64, 10, 6
"""As scikit-learn's digits, of which 0 to 5 are known."""
NOISE, ROWS, TEST = 0.5, 300, 1000
BASE_STEPS, BASE_LR = 300, 0.5


@dataclass(frozen=True, eq=False)
class Images:
    """Pixels and classes."""

    pixels: Float[Tensor, "N D"]
    classes: Int[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, rows: Tensor) -> Images:
        """Some of them."""
        return Images(self.pixels[rows], self.classes[rows])


def drawn(prototypes: Float[Tensor, "C D"], classes: range, count: int, generator: torch.Generator) -> Images:
    """`count` images of these classes, evenly."""
    of = torch.tensor(list(classes)).repeat(-(-count // len(classes)))[:count]
    noise = torch.randn(count, prototypes.shape[1], generator=generator, dtype=torch.float64)
    return Images(prototypes[of] + NOISE * noise, of)


def descend(
    tensors: Sequence[Tensor], weight: Callable[[], Tensor], images: Images, batches: Sequence[Tensor], lr: float
) -> None:
    """Supervised steps of plain SGD, a batch of rows each, on what makes up the classifier's weight; in place."""
    for rows in batches:
        some = images.take(rows)
        leaves = [tensor.requires_grad_() for tensor in tensors]
        loss = torch.nn.functional.cross_entropy(some.pixels @ weight().T, some.classes)
        slopes = torch.autograd.grad(loss, leaves)
        for tensor, slope in zip(tensors, slopes, strict=True):
            tensor.requires_grad_(False).sub_(lr * slope)


@dataclass(eq=False)
class FactorRun:
    """A run on the bed: what a search asks of it. logits: x (W + B A)^T."""

    base: Float[Tensor, "C D"]
    a: Float[Tensor, "R D"]
    b: Float[Tensor, "C R"]
    train: Images
    test: Images
    seed: int
    prompts_per_step: int
    ranks: Together = field(default_factory=Alone)
    step_index: int = 0
    drawn: int = 0
    stale: bool = False
    memory: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    live: dict[str, Any] = field(default_factory=dict)
    trained: list[dict[str, float]] = field(default_factory=list)

    @property
    def key(self) -> Tensor:
        """The counter-based key of this step."""
        return pack_key(self.seed, self.step_index, 0)

    def factors(self) -> list[tuple[Tensor, Tensor]]:
        """The one update."""
        return [(self.a, self.b)]

    def right(self, images: Images) -> float:
        """Accuracy among all classes."""
        logits = images.pixels @ (self.base + self.b @ self.a).T
        return (logits.argmax(dim=1) == images.classes).double().mean().item()

    def step(self, method: Evolution) -> None:
        """One generation."""
        self.trained.append(mean_metrics(method.step(self)))
        self.step_index += 1


@dataclass(frozen=True)
class Accuracy:
    """A candidate is worth its accuracy on a batch of new classes that all candidates of a generation share."""

    def examples(self, run: FactorRun) -> Images:
        """A random batch of the training images."""
        generator = torch.Generator().manual_seed(int(run.key) % 2**63)
        return run.train.take(torch.randperm(ROWS, generator=generator)[: run.prompts_per_step])

    def __call__(self, run: FactorRun, examples: Images) -> float:
        """Accuracy, 0 to 1."""
        return run.right(examples)


@dataclass(frozen=True, kw_only=True)
class FactorBed:
    """sft: supervised steps of the update, at `lr` on `batch` images each; rank: of the update; steps: generations.

    prompts: images that a generation is tried on.
    """

    name: str = "factors"
    about: str = "a classifier of six classes and a low-rank update for four more"
    sft: int = 20
    rank: int = 4
    lr: float = 0.05
    batch: int = 32
    steps: int = 60
    prompts: int = 64

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that there are, besides `train/NAME` and `max/NAME`."""
        return ("accuracy",)

    def options(self) -> dict[str, Any]:
        """Option -> value."""
        return {name: value for name, value in flatten(self).items() if name not in ("name", "about")}

    def with_options(self, given: Mapping[str, Any]) -> FactorBed:
        """The bed with other options; InputError naming the ones it has."""
        bed = self
        for name, value in given.items():
            if name not in self.options():
                raise unknown_name(f"option of the bed '{self.name}'", name, list(self.options()))
            bed = override(bed, name, value)
        return bed

    def check_metric(self, metric: str) -> None:
        """InputError where no run of this bed has the metric."""
        if metric not in self.metrics and not metric.startswith(LOGGED):
            raise unknown_name(f"metric of the bed '{self.name}'", metric, [*self.metrics, "train/NAME", "max/NAME"])

    def start(self, seed: int) -> FactorRun:
        """The classifier of the known classes, and the update after its supervised steps on the new ones."""
        generator = torch.Generator().manual_seed(seed)
        prototypes = torch.rand(CLASSES, PIXELS, generator=generator, dtype=torch.float64)
        known = drawn(prototypes, range(KNOWN), 2 * ROWS, generator)
        base = torch.zeros(CLASSES, PIXELS, dtype=torch.float64)
        batches = [torch.arange(len(known))] * BASE_STEPS
        descend([base], lambda: base, known, batches, BASE_LR)
        a = torch.randn(self.rank, PIXELS, generator=generator, dtype=torch.float64) / PIXELS**0.5
        b = torch.zeros(CLASSES, self.rank, dtype=torch.float64)
        new, test = (drawn(prototypes, range(KNOWN, CLASSES), n, generator) for n in (ROWS, TEST))
        batches = [torch.randperm(ROWS, generator=generator)[: self.batch] for _ in range(self.sft)]
        descend([a, b], lambda: base + b @ a, new, batches, self.lr)
        return FactorRun(base, a, b, new, test, seed, self.prompts)

    def run(
        self, method: str, options: Mapping[str, Any], seed: int, train: bool = True, short: bool = False
    ) -> dict[str, float]:
        """Search by `method` from the start of one seed (or stay there); metric -> value."""
        record = make_method(find_method(method))
        if not isinstance(record, Evolution):
            raise InputError(f"'{method}' takes gradients: the bed 'factors' is for methods that search")
        for path, value in options.items():
            record = override(record, path, value)
        run, record = self.start(seed), record.replace(collect=Accuracy())
        for _ in range(self.steps if train else 0):
            run.step(record)
        return {"accuracy": run.right(run.test), **logged(run.trained)}


BED = FactorBed()
