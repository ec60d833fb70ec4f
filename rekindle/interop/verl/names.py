"""verl's metrics by our names, where both mean the same number."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

OURS: Mapping[str, str] = MappingProxyType(
    {
        "actor/entropy": "entropy",
        "actor/grad_norm": "grad_norm",
        "actor/lr": "lr",
        "actor/kl_loss": "kl_ref",
        "critic/score/mean": "score",
        "response_length/mean": "length",
        "response_length/clip_ratio": "truncated",
    }
)
"""Not the same number, so under verl's own names: `actor/pg_clipfrac` counts tokens clipped on either side among all,
ours a side each among those with an advantage; `actor/pg_loss` is without KL and entropy bonus."""
_RATIOS = ("clip_high", "clip_low", "clip_dual", "outside", "ratio", "update_kl_k3")
REGISTERED = (*_RATIOS, "kept", "cov", "kl_cov", "cov_dropped", "cov_eligible")
"""What a policy loss of ours reports under `actor/`."""


def ours(name: str) -> str:
    """Our name of a metric of verl; its own where we have none."""
    tail = name.removeprefix("actor/")
    return tail if name != tail and tail in REGISTERED else OURS.get(name, name)
