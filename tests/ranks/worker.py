"""One rank of a test: gradients and weights of every method, by ranks that share its micro-batches.

Called as `python -m tests.ranks.worker OUT KINDS NAMES` with RANK and WORLD_SIZE set; rank 0 writes
`OUT/KIND.safetensors` for each kind: "ddp-float64", "fsdp-float32", ... and the mistakes "mean-...", "fsdpmean-...".
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from rekindle.core.descend import backward
from rekindle.core.ranks import Together, sum_gradients
from rekindle.core.types import Batch
from rekindle.tokens.policy import LMPolicy
from rekindle.train.asked import asked
from rekindle.train.ranks import Processes, joined, place
from rekindle.train.shard import sharded, whole
from tests.methods.stage import Stage, staged

MICRO, LR, UPDATES = 7, 0.05, 3
"""Twenty rows make three pieces: no number of ranks under test shares them evenly."""


@dataclass(frozen=True)
class Averaging(Processes):
    """The mistake that the comparison must catch: a mean where a sum belongs."""

    def add_up(self, tensors: list[Tensor]) -> None:
        super().add_up(tensors)
        for tensor in tensors:
            tensor /= self.count


def averaged(root: nn.Module, count: int) -> None:
    """The same mistake with weights in shares: as FSDP2 does unless it is told."""
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(float(count))


def case(name: str, dtype: torch.dtype) -> tuple[Stage, Batch]:
    """The stage of the contract tests with a model of its own, and its credited batch."""
    stage, batch = staged(name, dtype)
    model, heads = copy.deepcopy((stage.policy.model, stage.policy.heads))
    policy = LMPolicy(model, heads=heads)
    parameters: list[nn.Parameter] = [*model.parameters(), *heads.parameters()]
    return Stage(stage.method, policy, stage.reference, parameters), stage.method.credit(batch)


def gradient(score: Callable, stage: Stage, batch: Batch, ranks: Together) -> tuple[Tensor, float]:
    """(the gradient of all parameters as one vector, the loss), left in `grad` too."""
    for parameter in stage.parameters:
        parameter.grad = None
    loss, _, _ = backward(score, batch, stage.method, MICRO, ranks=ranks)
    sum_gradients(stage.parameters, ranks)
    grads = [whole(p.grad) if p.grad is not None else torch.zeros(p.shape, dtype=p.dtype) for p in stage.parameters]
    return torch.cat([grad.flatten() for grad in grads]), loss


def trained(score: Callable, stage: Stage, batch: Batch, ranks: Together) -> dict[str, Tensor]:
    """The first gradient and loss, and all weights after a few updates of plain SGD."""
    sgd, found = torch.optim.SGD(stage.parameters, lr=LR), []
    start = torch.cat([whole(p.detach()).flatten() for p in stage.parameters])
    for _ in range(UPDATES):
        found.append(gradient(score, stage, batch, ranks))
        sgd.step()
    weights = torch.cat([whole(p.detach()).flatten() for p in stage.parameters])
    said = torch.tensor(ranks.exchange([loss for _, loss in found]), dtype=torch.float64)
    return {"grad": found[0][0], "weights": weights, "moved": weights - start, "loss": said}


def results(name: str, kind: str, ranks: Together) -> dict[str, Tensor]:
    """What is compared, of one method."""
    way, _, dtype = kind.partition("-")
    stage, batch = case(name, {"float64": torch.float64, "float32": torch.float32}[dtype])
    score: Callable = stage.policy
    if way.startswith("fsdp") and ranks.count > 1:
        shares = sharded(stage.policy, "cpu", ranks.count)
        score, stage.parameters = shares, list(shares.root.parameters())
        assert all(isinstance(p, DTensor) for p in stage.parameters), "every weight lies in shares"
        if way == "fsdpmean":
            averaged(shares.root, ranks.count)
    return trained(asked(score, stage.method, stage.references), stage, batch, ranks)


def all_results(names: list[str], kind: str, ranks: Together) -> dict[str, Tensor]:
    """`NAME.what` -> values, of all methods."""
    found = {name: results(name, kind, ranks) for name in names}
    return {f"{name}.{what}": value for name, one in found.items() for what, value in one.items()}


def main(out: str, kinds: str, names: str) -> None:
    """This rank's work."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    here = place()
    assert here is not None
    with joined(here.count, "cpu", False) as ranks:
        for kind in kinds.split(","):
            team: Together = replace(ranks, sharded=kind.startswith("fsdp"))
            if kind.startswith("mean"):
                team = Averaging(ranks.index, ranks.count)
            found = all_results(names.split(","), kind, team)
            if ranks.index == 0:
                save_file({name: value.clone() for name, value in found.items()}, Path(out) / f"{kind}.safetensors")
        ranks.exchange(None)


if __name__ == "__main__":
    main(*sys.argv[1:])
