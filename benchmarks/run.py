"""Speed as ratios of paired runs, for absolute times mean little on a shared machine. Writes benchmarks/results.json.

Our sampler against `transformers`' generate (same prompts, same number of responses, same limit), and the two-pass
update against the one-pass update of the same loss.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rekindle.core.descend import backward
from rekindle.core.random import pack_key
from rekindle.methods import grpo
from rekindle.tokens.collect import to_batch
from rekindle.tokens.labels import Verified
from rekindle.tokens.loader import Loaded, load_model
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.tokens.tasks import load_task
from rekindle.tokens.verify import Verifier

PAIRS = 7
PROMPTS, RESPONSES, LIMIT = 8, 64, 80
RESULTS = Path(__file__).with_name("results.json")


def ratio(a: Callable[[], Any], b: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a over seconds of b, pair by pair after one warm-up of each."""
    found = []
    for pair in range(PAIRS + 1):
        times = []
        for work in (a, b):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        if pair:
            found.append(times[0] / times[1])
    return {"min": min(found), "median": statistics.median(found), "max": max(found), "pairs": PAIRS}


def sampling(loaded: Loaded) -> dict[str, float]:
    """generate / ours."""
    examples = load_task("reduce").split("train")[:PROMPTS]
    sampler = LocalSampler(loaded.model, loaded.tokenizer, loaded.encode)
    settings = Sampling(max_tokens=LIMIT)
    tokens = loaded.tokenizer([e.prompt for e in examples], return_tensors="pt", padding=True, padding_side="left")

    def theirs() -> None:
        with torch.no_grad():
            loaded.model.generate(
                **tokens, do_sample=True, top_k=0, num_return_sequences=RESPONSES, max_new_tokens=LIMIT
            )

    return ratio(theirs, lambda: sampler.sample(examples, RESPONSES, settings, pack_key(0, 0, 0), 0))


def update(loaded: Loaded) -> dict[str, float]:
    """two passes / one pass."""
    task, method = load_task("reduce"), grpo.method()
    sampler = LocalSampler(loaded.model, loaded.tokenizer, loaded.encode)
    rollouts = sampler.sample(task.split("train")[:2], 32, Sampling(max_tokens=LIMIT), pack_key(0, 0, 0), 0)
    batch = to_batch(rollouts, Verified()(rollouts, Verifier(task)), pack_key(0, 0, 0))
    policy = LMPolicy(loaded.model)
    batch = batch.with_columns(**policy.columns(batch, method.needs(), {}))
    batch = method.credit(batch)

    def once(two_pass: bool) -> Callable[[], Any]:
        return lambda: backward(policy, batch, method, 32, two_pass=two_pass)

    return ratio(once(True), once(False))


def main() -> None:
    """Measure, print and store."""
    loaded = load_model("embedded", task_name="reduce")
    found = {"transformers generate / local sampler": sampling(loaded), "two-pass / one-pass update": update(loaded)}
    for name, numbers in found.items():
        print(f"{name}: {numbers['median']:.2f} ({numbers['min']:.2f} to {numbers['max']:.2f}, {PAIRS} pairs)")
    result = {"threads": torch.get_num_threads(), "ratios": found}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
