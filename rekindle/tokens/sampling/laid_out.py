"""Linear layers with weights laid out once for oneDNN's products, while the weights stay as they are (on a CPU)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_LEAST = 1 << 16  # weights in a layer below which the laid-out product is not faster


@contextmanager
def laid_out(model: nn.Module) -> Iterator[None]:
    """Larger linear layers of `model` use a copy of their weight while inside; to be used without gradients.

    A product of a few hundred rows spends a quarter of its time on bringing the weight into the order that it wants.
    Hooks and adapters around a layer act as always. Costs the memory of one more copy of these weights.
    """
    layers = [layer for layer in model.modules() if _gains(layer)]
    try:
        for layer in layers:
            layer.forward = _forward(layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _gains(layer: nn.Module) -> bool:
    weight = layer._parameters.get("weight") if type(layer) is nn.Linear else None
    if weight is None or weight.device.type != "cpu" or weight.numel() < _LEAST or "forward" in vars(layer):
        return False
    dtype = _dtype(weight)
    return torch.backends.mkldnn.is_available() and (
        dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def _dtype(weight: Tensor) -> torch.dtype:
    """What the product computes in: autocast leaves float64 alone."""
    casts = torch.is_autocast_enabled("cpu") and weight.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if casts else weight.dtype


def _forward(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    weight, bias = layer._parameters["weight"], layer._parameters.get("bias")
    assert weight is not None
    dtype = _dtype(weight)
    laid = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), None)
    bias = None if bias is None else bias.detach().to(dtype)

    def forward(x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.to(dtype), laid, bias, "none", [], "")

    return forward
