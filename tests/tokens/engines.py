"""An engine without vLLM: a second copy of the model, decoded token by token, with faults to switch on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rekindle.errors import EngineDead
from rekindle.tokens.sampling.engine import About, Ask, Got, How
from rekindle.tokens.sampling.fingerprints import Prints, exact


class CopyEngine:
    """Honest unless told otherwise.

    deaf: a push changes nothing. packed: a push changes what is hashed, not what is computed with. heat: factor on the
    temperature. dies: after so many calls of `generate`.
    """

    def __init__(
        self, model: torch.nn.Module, deaf: bool = False, packed: bool = False, heat: float = 1.0, dies: int = 0
    ) -> None:
        self.model = copy.deepcopy(model).eval()
        self.deaf, self.packed, self.heat, self.dies = deaf, packed, heat, dies
        self.calls, self.slept = 0, 0
        self.about = About(version="0", device="cpu", dtype="float32", max_model_len=128, where="a test")

    @torch.no_grad()
    def generate(self, asks: Sequence[Ask], how: How) -> list[Got]:
        self.calls += 1
        if self.dies and self.calls > self.dies:
            raise EngineDead("the engine of the test is gone: run again with --resume")
        return [self._one(ask, replace(how, temperature=how.temperature * self.heat)) for ask in asks]

    def _one(self, ask: Ask, how: How) -> Got:
        draw, ids, logps = torch.Generator().manual_seed(ask.seed), list(ask.prompt), []
        while len(ids) - len(ask.prompt) < how.max_tokens and (len(ids) == len(ask.prompt) or ids[-1] not in how.ends):
            logits = self.model(torch.tensor([ids])).logits[0, -1] / how.temperature
            if how.top_k:
                logits = torch.where(logits >= logits.topk(how.top_k).values[-1], logits, -torch.inf)
            logp = logits.log_softmax(-1)
            ids.append(int(torch.multinomial(logp.exp(), 1, generator=draw)))
            logps.append(logp[ids[-1]].item())
        return Got(ids[len(ask.prompt) :], logps, "eos" if ids[-1] in how.ends else "length")

    def load(self, weights: Mapping[str, Tensor]) -> Prints:
        state = self.model.state_dict()
        if self.packed:
            return {name: {"hash": exact(value)} for name, value in weights.items()}
        if not self.deaf:
            self.model.load_state_dict(dict(weights))
        return {name: {"hash": exact(state[name])} for name in weights}

    def sleep(self) -> None:
        self.slept += 1

    def close(self) -> None:
        pass
