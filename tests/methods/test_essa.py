"""ESSA: its record, its defaults, and what it does to a real adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rekindle.core.evolution import Evolution
from rekindle.methods import essa
from rekindle.tokens.cma import CMA
from rekindle.tokens.factors import SingularValues
from rekindle.tokens.lora import adapt, adapted_layers
from rekindle.tokens.trials import Responses
from rekindle.train.candidates import factor_pairs
from rekindle.train.options import flatten
from tests.methods.searching import ToyRun
from tests.tiny_models import build

IDS = torch.tensor([[9, 17, 3, 12, 21, 22, 6]])


@pytest.fixture(scope="module")
def model() -> Any:
    """A tiny model with a rank-4 adapter that says something."""
    found = adapt(build("llama"), 4, None, ("all-linear",), 0)
    with torch.no_grad():
        for seed, (_, b) in enumerate(factor_pairs(found)):
            b.copy_(0.1 * torch.randn(b.shape, generator=torch.Generator().manual_seed(seed)))
    return found


@torch.no_grad()
def said(model: Any) -> Tensor:
    return model(input_ids=IDS).logits.log_softmax(-1)


def test_the_record() -> None:
    method = essa.method()
    assert isinstance(method, Evolution) and isinstance(method.collect, Responses)
    assert method.space == SingularValues(share=1.0)
    assert method.search == CMA(population=96, sigma=0.2, covariance="auto")
    assert method.collect.greedy and method.collect.label.needs_truth and not method.collect.label.votes
    assert flatten(method)["space"] == "SingularValues" and essa.CARD.parent is None


def test_no_offset_is_the_start_model_and_the_base_never_moves(model: Any) -> None:
    before = said(model)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if "lora_" not in n}
    pairs = factor_pairs(model)
    run = ToyRun(pairs=pairs)
    place = essa.method().space(run)
    assert place.size == len(pairs) * 2 * 4 and len(pairs) == 7 * 2
    place.put(torch.zeros(place.size, dtype=torch.float64))
    torch.testing.assert_close(said(model), before, rtol=1e-5, atol=1e-5)
    place.put(torch.full((place.size,), 0.5, dtype=torch.float64))
    assert (said(model) - before).abs().max() > 1e-2, "the tensors are the model's own"
    place.put(torch.zeros(place.size, dtype=torch.float64))
    torch.testing.assert_close(said(model), before, rtol=1e-5, atol=1e-5)
    now = dict(model.named_parameters())
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())


def test_the_scale_of_the_adapter_is_left_alone(model: Any) -> None:
    layers = list(adapted_layers(model).values())
    assert {layer.scaling["default"] for layer in layers} == {2.0}, "lora.alpha / rank, whatever is searched"
    pairs = factor_pairs(model)
    assert all(a.shape[0] == b.shape[1] == 4 for a, b in pairs)
    assert len({a.data_ptr() for a, _ in pairs}) == len(pairs) == len(layers)


def test_an_adapter_of_an_embedding_is_searched_too() -> None:
    found = adapt(build("llama"), 2, None, ("embed_tokens", "q_proj"), 0)
    pairs = factor_pairs(found)
    assert len(pairs) == 3 and all(min(a.shape) == min(b.shape) == 2 for a, b in pairs)
    assert factor_pairs(build("llama")) == []
