"""Whether each worker of a fleet computes with the weights that it was given: checked after every load."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rekindle.core.types import Metrics
from rekindle.errors import GuardStop
from rekindle.tokens.sampling.crew import Told
from rekindle.tokens.sampling.engine import Got
from rekindle.tokens.sampling.fingerprints import Prints, differing, exact
from rekindle.tokens.sampling.vllm import Tolerance


@runtime_checkable
class Proves(Protocol):
    """What a fleet's sampler expects of its workers. `expect` in the run's thread, the call in the fleet's."""

    def expect(self, version: int, weights: Mapping[str, Tensor]) -> None:
        """Weights that are about to be published."""
        ...

    def __call__(self, version: int, told: Told) -> None:
        """What a worker said after it took them; `GuardStop` with the numbers where it has others."""
        ...

    def proved(self, version: int) -> Metrics:
        """What the checks of this version showed so far."""
        ...


class Exact:
    """Workers that hold the very tensors of the run: every one must have the same bits.

    back: how many versions before the newest may still be loaded.
    """

    def __init__(self, back: int = 0) -> None:
        self.back = back
        self._prints: dict[int, Prints] = {}

    def expect(self, version: int, weights: Mapping[str, Tensor]) -> None:
        """See `Proves`."""
        self._prints[version] = {name: {"hash": exact(value)} for name, value in weights.items()}
        for old in [one for one in self._prints if one < version - self.back]:
            del self._prints[old]

    def __call__(self, version: int, told: Told) -> None:
        """See `Proves`."""
        mine = self._prints[version]
        wrong = [name for name, print_ in mine.items() if told.prints.get(name) != print_]
        if wrong:
            raise _others(wrong, len(mine))

    def proved(self, version: int) -> Metrics:
        """The number of tensors."""
        return {"sampler/tensors": (float(len(self._prints[version])), 1.0)}


class Probed:
    """Engines with tensors of their own kind: fingerprints, then log-probs of tokens that the engine drew.

    The log-probs are computed by `model` where it is at the version that is checked (nothing is sampled while it
    trains), and otherwise, where `back` is above 0, by `model` as a copy of its own that takes the version's weights.
    """

    def __init__(self, model: nn.Module, tolerance: Tolerance, temperature: float, back: int = 0) -> None:
        """back: how many versions before the newest may still be loaded. Weights are in the engine's number format."""
        self.tolerance, self.temperature, self.back = tolerance, temperature, back
        self._model = model
        self._weights: dict[int, dict[str, Tensor]] = {}
        self._gaps: dict[int, tuple[float, float]] = {}
        self._holds = -1

    def expect(self, version: int, weights: Mapping[str, Tensor]) -> None:
        """See `Proves`."""
        self._weights[version] = {name: value.detach().clone() for name, value in weights.items()}
        for old in [one for one in self._weights if one < version - self.back]:
            del self._weights[old]
            self._gaps.pop(old, None)

    def __call__(self, version: int, told: Told) -> None:
        """See `Proves`."""
        weights = self._weights[version]
        wrong = differing(weights, told.prints, self.tolerance.weights)
        if wrong:
            raise _others(wrong, len(weights))
        if told.got:
            self._compare(version, told)

    def proved(self, version: int) -> Metrics:
        """The number of tensors, and the gaps of the probe."""
        found: Metrics = {"sampler/tensors": (float(len(self._weights[version])), 1.0)}
        if version in self._gaps:
            mean, most = self._gaps[version]
            found |= {"sampler/probe_mean": (mean, 1.0), "sampler/probe_max": (most, 1.0)}
        return found

    @torch.no_grad()
    def _compare(self, version: int, told: Told) -> None:
        if self.back and self._holds != version:
            self._model.load_state_dict(self._weights[version], strict=False)
            self._holds = version
        pairs = zip(told.asked, told.got, strict=True)
        gaps = torch.cat([gap(self._model, ask.prompt, got, self.temperature) for ask, got in pairs])
        mean, most, allowed = gaps.mean().item(), gaps.max().item(), self.tolerance
        if not (mean <= allowed.mean and most <= allowed.most):
            raise GuardStop(
                f"after a push, a sampler of the fleet and the training model disagree on the log-probs of {len(gaps)} "
                f"tokens drawn at temperature {self.temperature:g}: mean difference {mean:.2g} (allowed "
                f"{allowed.mean:g}), largest {most:.2g} (allowed {allowed.most:g}); check that both run the same model "
                "at one temperature and number format (vllm.dtype), or raise vllm.tolerance"
            )
        self._gaps[version] = (mean, most)


def gap(model: nn.Module, prompt: tuple[int, ...], got: Got, temperature: float) -> Float[Tensor, " T"]:
    """|engine - model| of each token's log-prob; infinite where the engine's is no number."""
    ids = torch.tensor([[*prompt, *got.ids]], device=next(model.parameters()).device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float() / temperature
    ours = logits.log_softmax(dim=-1).gather(1, ids[0, len(prompt) :, None])[:, 0].cpu()
    return (ours - torch.tensor(got.logp)).abs().nan_to_num(nan=math.inf)


def _others(wrong: list[str], count: int) -> GuardStop:
    return GuardStop(
        f"after a push, a sampler of the fleet computes with other weights than the training model in {len(wrong)} of "
        f"{count} tensors ({', '.join(wrong[:3])}): see that all machines have the run's own model, or use --sampler "
        "local"
    )
