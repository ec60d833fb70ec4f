"""A causal LM split into backbone (tokens -> hidden) and head (hidden -> logits), checked against the whole.

Splitting lets logits be computed chunk by chunk. Models that scale or soft-cap their logits make a naive split
silently wrong, so the split is compared with `model(...).logits` once, with hidden states large enough to feel a cap.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from rekindle.errors import InputError

_MULTIPLIERS = ("logit_scale", "lm_head_multiplier", "output_multiplier")  # Cohere, Falcon-H1, Muse
_DIVISORS = ("logits_scaling",)  # Granite
_CAPS = ("final_logit_softcapping", "logits_soft_cap")  # Gemma 2 and later, RecurrentGemma
_OFF_PATH = ("classifier", "summary", "qa_")  # dropouts of heads that a causal LM does not have
_PROBE_LOGIT = 100.0


Precision = Literal["full", "bf16"]


def precise(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """What a model computes in: "full" the dtype of its weights, "bf16" products in bfloat16 (autocast)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@runtime_checkable
class Wrapper(Protocol):
    """What a PEFT model has."""

    def get_base_model(self) -> nn.Module:
        """The model under the adapters, their layers in it."""
        ...


@dataclass(frozen=True, eq=False)
class SplitLM:
    """`backbone` and `head` are modules of one model and are called as modules, so LoRA and hooks act.

    logits = cap * tanh(head(hidden) * scale / cap), without the tanh where `cap` is None.
    """

    backbone: nn.Module
    head: nn.Module
    scale: float
    cap: float | None
    vocabulary: int

    @property
    def device(self) -> torch.device:
        """Where the model expects its tokens."""
        return next(self.backbone.parameters()).device

    @property
    def plain_weight(self) -> Float[Tensor, "V D"] | None:
        """The head's matrix where logits are `scale` times its product with the hidden states and nothing else."""
        head = self.head
        if type(head) is not nn.Linear or head.bias is not None or self.cap is not None:
            return None
        return None if head._forward_hooks or head._forward_pre_hooks else head.weight

    def hidden(self, ids: Int[Tensor, "B W"]) -> Float[Tensor, "B W D"]:
        """Last hidden states of right-padded rows; a causal model needs no mask for padding at the right."""
        return self.backbone(input_ids=ids, use_cache=False, return_dict=True).last_hidden_state

    def logits(self, hidden: Float[Tensor, "*S D"]) -> Float[Tensor, "*S V"]:
        """The model's logits at temperature 1; float64 stays, anything narrower comes out as float32."""
        raw = self.head(hidden)
        scaled = raw if self.scale == 1.0 else raw * self.scale
        capped = scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap
        return capped if capped.dtype == torch.float64 else capped.float()


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper (its LoRA layers included), or the model itself."""
    inner = model.get_base_model() if isinstance(model, Wrapper) else model
    if not isinstance(inner, PreTrainedModel):
        raise InputError(f"'{type(inner).__name__}' is no transformers model; load one with AutoModelForCausalLM")
    return inner


def split(model: nn.Module, probe: bool = True) -> SplitLM:
    """`model` as backbone and head.

    With `probe`, raises `InputError` where the split's logits differ from the model's own. Neither the random state
    nor the train mode is touched.
    """
    inner = unwrapped(model)
    head = inner.get_output_embeddings()
    if head is None or inner.base_model is inner:
        raise InputError(f"architecture '{type(inner).__name__}' has no separate language-model head; use a causal LM")
    values = inner.config.to_dict()
    scale = _product(values, _MULTIPLIERS) / _product(values, _DIVISORS)
    caps = [float(values[name]) for name in _CAPS if values.get(name) is not None]
    weight = head.weight
    assert isinstance(weight, Tensor)
    parts = SplitLM(inner.base_model, head, scale, caps[0] if caps else None, weight.shape[0])
    if probe:
        _check(inner, parts)
    return parts


def _product(values: Mapping[str, Any], names: tuple[str, ...]) -> float:
    product = 1.0
    for name in names:
        product *= float(values[name]) if values.get(name) is not None else 1.0
    return product


def _check(model: PreTrainedModel, parts: SplitLM) -> None:
    """Compares logits on hidden states blown up to raw logits of about 100, where a cap of any size shows."""
    ids = torch.tensor([[parts.vocabulary // 3, 2 * parts.vocabulary // 3, parts.vocabulary // 2]], device=parts.device)
    seen: list[Tensor] = []

    def blow_up(_module: nn.Module, _args: object, output: Any) -> Any:
        hidden = output.last_hidden_state
        factor = _PROBE_LOGIT / parts.head(hidden).abs().max().clamp(min=1e-6)
        output["last_hidden_state"] = (hidden * factor).to(hidden.dtype)
        seen.append(output.last_hidden_state)
        return output

    devices = [parts.device] if parts.device.type == "cuda" else []
    handle = parts.backbone.register_forward_hook(blow_up)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            whole = model(input_ids=ids, use_cache=False, return_dict=True).logits
            mine = parts.logits(seen[0]).to(whole.dtype)
    finally:
        handle.remove()
    tolerance = 1e-4 if whole.dtype in (torch.float32, torch.float64) else 1e-2
    if mine.shape != whole.shape or not torch.allclose(mine, whole, rtol=tolerance, atol=tolerance):
        raise InputError(
            f"architecture '{type(model).__name__}' transforms its logits in a way Rekindle does not know, "
            "so chunked log-probs would be wrong; use another architecture or report this one"
        )


def refuse_dropout(model: nn.Module) -> None:
    """Raises `InputError` where the config or any module drops activations: log-probs would be random in train mode."""
    values = unwrapped(model).config.to_dict()
    found = {name for name, value in values.items() if _drops(name, value)}
    if not found:
        for path, module in model.named_modules():
            inside = isinstance(module, nn.Dropout) and module.p > 0
            found |= {path} if inside else {f"{path}.{n}" for n, v in vars(module).items() if _drops(n, v)}
    if found:
        remedy = ", ".join(f"{name}=0" for name in sorted(found)[:6])
        raise InputError(f"the model drops activations in train mode, so its log-probs would be random: set {remedy}")


def _drops(name: str, value: object) -> bool:
    return isinstance(value, float) and value > 0 and "drop" in name and not name.startswith(_OFF_PATH)
