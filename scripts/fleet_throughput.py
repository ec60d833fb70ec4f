"""Responses a second of 1, 2, 4 and 16 actors of fixed latency: what the fleet itself costs. Prints the ratios.

`python scripts/fleet_throughput.py`. The actors sleep, so more of them than cores may run; the target is 0.9 N.
"""

from __future__ import annotations

import sys
import time

import torch

from rekindle.core.random import pack_key
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.crew import cut
from rekindle.tokens.sampling.fleet import Fleet
from rekindle.tokens.sampling.foreman import Rules
from rekindle.tokens.sampling.proofs import Exact
from rekindle.tokens.sampling.ray_fleet import Place, RayCrew
from rekindle.tokens.sampling.simulated import SimulatedPlan

ACTORS = (1, 2, 4, 16)
SECONDS, EACH = 0.25, 24
"""Latency of a block, and blocks for each actor."""
TARGET = 0.9
WEIGHTS = {"w": torch.zeros(1000)}


def seconds(actors: int, each: int = EACH) -> float:
    """How long `each` blocks for each of the actors take, once all have come up and have the weights."""
    proof = Exact()
    crew = RayCrew(SimulatedPlan(SECONDS), actors, Place(cpus=0.1))
    fleet = Fleet(crew, Rules(), proof)
    try:
        proof.expect(1, WEIGHTS)
        fleet.publish(1, WEIGHTS)
        fleet.settle(1)
        count = each * actors
        names, prompts = [str(i) for i in range(count)], [(1, 2, 3)] * count
        blocks = cut(names, prompts, 8, Sampling(max_tokens=64, block=1), pack_key(0, 0, 0), 0, 1)
        began = time.perf_counter()
        got = fleet.take(fleet.submit(blocks))
        took = time.perf_counter() - began
    finally:
        fleet.close()
    uids = torch.cat([rollouts.uid for rollouts in got])
    assert len(uids.unique()) == len(uids) == 8 * count, "every response once"
    return took


def main() -> int:
    """Measure and print; 1 where a ratio is below the target."""
    rates = {actors: EACH * actors / seconds(actors) for actors in ACTORS}
    missed = 0
    for actors, rate in rates.items():
        ratio = rate / rates[1]
        missed += ratio < TARGET * actors
        print(f"{actors:>3} actors: {rate:7.2f} blocks/s, {ratio:6.2f} x of one ({ratio / actors:.3f} N)")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
