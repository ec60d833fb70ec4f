"""Weights in shares (`shard=full`, FSDP2): each rank holds a part of every tensor, its gradient and its moments.

The layers are gathered one by one as they are needed; what lies outside of them (embeddings, last norm, head, scalar
heads) while a pass lasts. FSDP2 averages gradients unless told otherwise; here they are summed, as everywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from rekindle.core.types import Batch, Metrics, Need, Now
from rekindle.errors import InputError
from rekindle.tokens.heads import Wrapper, unwrapped
from rekindle.tokens.lora import Weights
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.base import Clocked, Sampler, Sampling

ADAPTER_IN_SHARES = "shard=full shares all weights, and of this model an adapter trains alone: set shard=none"


class Scored(nn.Module):
    """The root of the shares: while `forward` runs, what its modules hold outside of the layers is whole."""

    def __init__(self, model: nn.Module, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.model = model
        self.heads = heads

    def forward(self, work: Callable[[], Any]) -> Any:
        """What `work` gives: tensors in tuples and dictionaries, where FSDP2 looks for those with a gradient."""
        return work()


@dataclass(frozen=True, eq=False)
class ShardedPolicy:
    """A policy whose model lies in shares. All ranks call it equally often, each on rows of its own."""

    inner: LMPolicy
    root: Scored

    def __call__(
        self, batch: Batch, joint: Sequence[Need] = (), references: Mapping[str, Weights] = MappingProxyType({})
    ) -> Now:
        """As the policy inside."""
        logp, entropy, extra = self.root(lambda: _flat(self.inner(batch, joint, references)))
        return Now(logp=logp, entropy=entropy, extra=extra)

    def columns(
        self, batch: Batch, needs: Sequence[Need], references: Mapping[str, Weights], micro_batch: int = 32
    ) -> dict[str, Tensor]:
        """As the policy inside."""
        with torch.no_grad():
            return self.root(lambda: self.inner.columns(batch, needs, references, micro_batch))


def _flat(now: Now) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    return now.logp, now.entropy, dict(now.extra)


def sharded(policy: LMPolicy, device: str, ranks: int) -> ShardedPolicy:
    """Cut the policy's weights into shares, one a rank, in place; every rank must hold the same ones.

    InputError where the model does not say which of its modules are layers.
    """
    root = Scored(policy.model, policy.heads)
    mesh = init_device_mesh(torch.device(device).type, (ranks,))
    for layer in layers(policy.model):
        fully_shard(layer, mesh=mesh)
    fully_shard(root, mesh=mesh, reshard_after_forward=True)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return ShardedPolicy(policy, root)


def layers(model: nn.Module) -> list[nn.Module]:
    """The layers that transformers would not split either."""
    names = unwrapped(model)._no_split_modules or ()
    found = [module for module in model.modules() if type(module).__name__ in names]
    if not found:
        name = type(unwrapped(model)).__name__
        raise InputError(f"architecture '{name}' does not say which modules are its layers: set shard=none")
    return found


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may lie in shares; every rank calls it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Iterable[tuple[str, Tensor]], keep: bool) -> dict[str, Tensor]:
    """The named tensors whole, one after another, on the CPU where they lay in shares. keep: for this rank too."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors:
        full = whole(tensor.detach())
        if keep:
            found[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return found


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """`value`, the same on all ranks, in shares as `parameter` lies; a number stays whole."""
    value = value.to(parameter.device)
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


@dataclass(frozen=True, eq=False)
class Copy:
    """A whole copy of the model `of`, which lies in shares, on every rank: what samples, and what is saved."""

    model: nn.Module
    of: nn.Module

    @torch.no_grad()
    def refresh(self) -> nn.Module:
        """The copy with the weights that the model has now; every rank calls it together."""
        mine = dict(self.model.named_parameters())
        for name, parameter in self.of.named_parameters():
            mine[name].copy_(whole(parameter))
        return self.model


def copied(model: nn.Module) -> Copy:
    """The copy of a model, to be made before it is cut. InputError for a model with an adapter."""
    if isinstance(model, Wrapper):
        raise InputError(ADAPTER_IN_SHARES)
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return Copy(twin, model)


@dataclass(frozen=True, eq=False)
class CopySampler:
    """A sampler that draws from (or is brought up to date by) the whole copy: ranks decode different lengths, and a
    model in shares would make them wait for each other.
    """

    inner: Sampler
    copy: Copy

    @property
    def apart(self) -> float | None:
        """As the inner sampler."""
        return self.inner.apart

    def sample(
        self, examples: Sequence[Example], n: int, settings: Sampling, key: Int[Tensor, ""], first_group: int
    ) -> Rollouts:
        """As the inner sampler."""
        return self.inner.sample(examples, n, settings, key, first_group)

    def push(self) -> Metrics:
        """Gathers the weights, then as the inner sampler."""
        self.copy.refresh()
        return self.inner.push()

    def clocked(self) -> dict[str, float]:
        """What the inner sampler measures of a step; nothing where it measures nothing."""
        return self.inner.clocked() if isinstance(self.inner, Clocked) else {}

    def rest(self) -> None:
        """As the inner sampler."""
        self.inner.rest()

    def close(self) -> None:
        """As the inner sampler."""
        self.inner.close()
