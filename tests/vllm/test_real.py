"""Real vLLM: what it samples is what is trained, after every push; and what is not is caught.

One engine serves all tests of this file: it starts once, and a push brings it to any weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rekindle.api import train
from rekindle.core.random import pack_key
from rekindle.errors import GuardStop, InputError
from rekindle.tokens.loader import load_model
from rekindle.tokens.lora import plain_weights
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.engine import About, Ask, Got, How
from rekindle.tokens.sampling.fingerprints import Prints
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.tokens.sampling.vllm import Probe, VllmSampler
from rekindle.tokens.sampling.vllm_engine import Start, VllmEngine
from rekindle.tokens.tasks import load_task
from rekindle.train import samplers
from rekindle.train.events import read_events

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
EXAMPLES = load_task("reduce").split("train")[:16]
KEY = pack_key(3, 1, 4)


class Faulty:
    """The real engine with a fault. keep: pushes are not made. heat: factor on the temperature."""

    def __init__(self, inner: VllmEngine, keep: bool = False, heat: float = 1.0) -> None:
        self.inner, self.keep, self.heat = inner, keep, heat
        self.seen: Prints = {}

    @property
    def about(self) -> About:
        return self.inner.about

    def generate(self, asks: Sequence[Ask], how: How) -> list[Got]:
        return self.inner.generate(asks, replace(how, temperature=how.temperature * self.heat))

    def load(self, weights: Mapping[str, Tensor]) -> Prints:
        if not self.keep or not self.seen:
            self.seen = self.inner.load(weights)
        return self.seen

    def sleep(self) -> None:
        self.inner.sleep()

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def engine() -> VllmEngine:
    return VllmEngine(Start(model=load_model("embedded").model.name_or_path, max_model_len=192))


def made(engine: Any, probed: int = 8, temperature: float = 1.0) -> VllmSampler:
    loaded = load_model("embedded")
    probe = Probe(prompts=tuple(tuple(loaded.encode(e)) for e in EXAMPLES[:probed]), temperature=temperature)
    return VllmSampler(loaded.model, loaded.tokenizer, loaded.encode, engine, probe)


def nudge(sampler: VllmSampler, by: float) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in sampler.model.parameters():
            parameter.mul_(1 + by * torch.randn_like(parameter))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_those_of_the_training_model_after_a_push(engine: VllmEngine, temperature: float) -> None:
    sampler = made(engine, temperature=temperature)
    nudge(sampler, 0.05)
    told = sampler.push()
    assert told["sampler/probe_max"][0] < 1e-4 and told["sampler/probe_mean"][0] < 1e-5
    found = sampler.sample(EXAMPLES, 8, Sampling(temperature=temperature, max_tokens=96), KEY, 0)
    gaps = [
        sampler._gap(prompt, Got(ids[m].tolist(), logp[m].tolist(), ""), temperature)
        for prompt, ids, logp, m in zip(found.prompt.ids, found.ids, found.logp_sampled, found.mask, strict=True)
    ]
    gap = torch.cat(gaps)
    print(f"temperature {temperature}: {len(gap)} tokens, mean {gap.mean():.2g}, largest {gap.max():.2g}")
    assert gap.max() < 1e-4 and gap.mean() < 1e-6
    again = sampler.sample(EXAMPLES, 8, Sampling(temperature=temperature, max_tokens=96), KEY, 0)
    assert torch.equal(found.ids, again.ids)


def test_texts_and_ends_are_as_the_local_samplers(engine: VllmEngine) -> None:
    """Greedy, where both draw the same tokens: ids, texts, stop strings, finish reasons."""
    sampler = made(engine)
    sampler.push()
    local = LocalSampler(sampler.model, sampler.tokenizer, sampler.encode)
    for settings in (
        Sampling(top_k=1, max_tokens=96),
        Sampling(top_k=1, max_tokens=7),
        Sampling(top_k=1, max_tokens=96, stop=(";", "]")),
        Sampling(top_k=1, max_tokens=96, stop=("=1", "-4;")),
    ):
        ours, theirs = (s.sample(EXAMPLES, 1, settings, KEY, 0) for s in (sampler, local))
        assert ours.text == theirs.text and ours.finish == theirs.finish
        assert torch.equal(ours.ids, theirs.ids) and torch.equal(ours.mask, theirs.mask)
        assert torch.equal(ours.uid, theirs.uid) and ours.prompt.ids == theirs.prompt.ids


@pytest.mark.parametrize("by", [1e-5, 0.05])
def test_an_engine_that_is_not_told_is_caught(engine: VllmEngine, by: float) -> None:
    sampler = made(Faulty(engine, keep=True))
    sampler.push()
    nudge(sampler, by)
    with pytest.raises(GuardStop, match="computes with other weights than the training model"):
        sampler.push()


def test_a_stale_packed_copy_is_caught(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM itself does on a CPU: told a table alone, a tied output layer multiplies by its old packed copy."""
    from rekindle.tokens.sampling import vllm_engine

    def plain(worker: Any, weights: Mapping[str, Tensor]) -> Prints:
        worker.reload_weights(weights_iterator=iter([w for w in weights.items() if w[0] != "lm_head.weight"]))
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        return vllm_engine.engine_prints(worker.get_model(), shapes, worker.get_model().packed_modules_mapping)

    sampler = made(engine)
    sampler.push()
    nudge(sampler, 0.05)
    monkeypatch.setattr(vllm_engine, "_load", plain)
    with pytest.raises(GuardStop, match=r"1 of 36 tensors \(lm_head.weight"):
        sampler.push()


def test_a_wrong_temperature_is_caught_by_the_probe(engine: VllmEngine) -> None:
    for heat in (0.95, 1.05):
        with pytest.raises(GuardStop, match="disagree on the log-probs"):
            made(Faulty(engine, heat=heat)).push()


def test_a_wrong_temperature_is_caught_by_a_steps_own_tokens(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(samplers, "make_engine", lambda *_: Faulty(engine, heat=1.05))
    options = {"rollout.sampler": "vllm", "vllm.probe": 0, "evaluate.baseline": False}
    with pytest.raises(GuardStop, match=r"log-probs of this step's \d+ tokens are not those"):
        train("evol_rl", steps=2, out=tmp_path / "run", options=options)


def test_ten_steps_of_evol_rl(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(samplers, "make_engine", lambda *_: Faulty(engine))
    options = {"rollout.sampler": "vllm", "evaluate.every": 5, "evaluate.samples": 8, "evaluate.baseline": False}
    root = train("evol_rl", steps=10, out=tmp_path / "run", options=options)
    steps = [event for event in read_events(root / "events.jsonl") if event["kind"] == "step"]
    assert len(steps) == 10
    for event in steps:
        assert event["sampler/tensors"] == 36 and event["sampler/probe_max"] < 1e-3, "every push is checked"
        assert event["sampler/gap"] < 1e-5 and event["sampler/capped"] == 0
        assert abs(event["sampler/ratio"] - 1) < 1e-4 and event["sampler/ratio_max"] < 1.01
    trained, start = load_model(str(root / "final")), load_model("embedded")
    moved = [not torch.equal(a, b) for a, b in zip(trained.model.parameters(), start.model.parameters(), strict=True)]
    assert all(moved)


def test_an_adapter_is_pushed_as_merged_weights(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(samplers, "make_engine", lambda *_: Faulty(engine))
    options = {"rollout.sampler": "vllm", "lora.rank": 4, "descent.lr": 2e-3, "evaluate.baseline": False}
    root = train("evol_rl", steps=3, out=tmp_path / "run", options=options)
    steps = [event for event in read_events(root / "events.jsonl") if event["kind"] == "step"]
    assert len(steps) == 3
    for event in steps:
        assert event["sampler/tensors"] == 36 and event["sampler/probe_max"] < 1e-3, "every push is checked"
        assert event["sampler/gap"] < 1e-5 and event["sampler/capped"] == 0
    trained, start = plain_weights(load_model(str(root / "final")).model), load_model("embedded").model.state_dict()
    far = max(float((trained[name] - value).abs().max()) for name, value in start.items())
    assert trained.keys() == start.keys() and far > 1e-3, "the base that vLLM began with would have been caught"


def test_a_model_that_vllm_refuses(tmp_path: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=30, hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=12, max_position_embeddings=64, eos_token_id=1,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    load_model("embedded").tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"heads of size 32, 64, .* have 12: use --sampler local"):
        VllmEngine(Start(model=str(tmp_path), max_model_len=32))
