"""EVOL-RL with one idea taken out at a time: each function is a method that the command line takes by name.

    rekindle compare evol_rl ttrl_entropy examples/03_evol_rl_ablation.py:no_entropy --seeds 3

`ttrl_entropy` is EVOL-RL without its novelty.
"""

from __future__ import annotations

from dataclasses import replace

from rekindle.core.method import PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.methods import evol_rl, ttrl
from rekindle.methods.evol_rl import NoveltyBands


def no_entropy() -> PolicyGradient:
    """Without the entropy bonus."""
    return evol_rl.method().replace(terms=ttrl.method().terms)


def no_clip_higher() -> PolicyGradient:
    """With TTRL's symmetric clip."""
    return evol_rl.method().replace(objective=Clip(low=0.8, high=1.2, dual=3.0))


def local_only() -> PolicyGradient:
    """Novelty is distance from the mean of one's own side only."""
    return _novelty(alpha=1.0)


def global_only() -> PolicyGradient:
    """Novelty is distance from the nearest response only."""
    return _novelty(alpha=0.0)


def _novelty(alpha: float) -> PolicyGradient:
    method = evol_rl.method()
    return method.replace(collect=replace(method.collect, shape=(NoveltyBands(alpha=alpha),)))
