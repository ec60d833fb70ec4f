"""Which operators the time of a piece of work goes to: one run under torch's profiler, outside everything timed."""

from __future__ import annotations

from collections.abc import Callable

import torch

COUNT = 8


def operators(work: Callable[[], object], count: int = COUNT) -> dict[str, float]:
    """Operator -> its share of the time on the calling thread, of the `count` largest; "other" has the rest."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as seen:
        work()
    spent = {event.key: float(event.self_cpu_time_total) for event in seen.key_averages()}
    return shares(spent, count)


def shares(spent: dict[str, float], count: int = COUNT) -> dict[str, float]:
    """Parts of a whole, largest first, the small ones summed up as "other"."""
    whole = sum(spent.values())
    if whole <= 0:
        return {}
    ranked = sorted(spent.items(), key=lambda pair: (-pair[1], pair[0]))
    found = {name: value / whole for name, value in ranked[:count]}
    rest = sum(value for _, value in ranked[count:]) / whole
    return found | ({"other": rest} if rest > 0 else {})
