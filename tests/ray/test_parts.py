"""The parts of a fleet one by one: the cut, the weights on their way, what a worker holds, what it must prove."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rekindle.api import train
from rekindle.core.random import pack_key
from rekindle.errors import EngineDead, GuardStop, InputError
from rekindle.tokens.loader import load_model
from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.sampling.base import Clocked, Sampler, Sampling
from rekindle.tokens.sampling.crew import Crew, Told, WorkerGone, cut
from rekindle.tokens.sampling.engine import Ask, Got
from rekindle.tokens.sampling.hands import Hand, LocalHand, VllmHand, named, nameless
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.tokens.sampling.proofs import Exact, Probed, Proves
from rekindle.tokens.sampling.ray_actor import Actor, packed, unpacked
from rekindle.tokens.sampling.ray_fleet import Place, RayCrew, _meaning, refuse_small_memory, store_of
from rekindle.tokens.sampling.ray_sampler import RaySampler
from rekindle.tokens.sampling.simulated import SimulatedPlan
from rekindle.tokens.sampling.vllm import TOLERANCE, Probe
from rekindle.tokens.tasks import load_task
from tests.ray.crews import WEIGHTS, ThreadCrew, blocks
from tests.ray.test_fleet import fleet
from tests.tokens.engines import CopyEngine

EXAMPLES = load_task("digit_sum").split("train")[:5]
KEY = pack_key(1, 2, 3)


def test_the_cut_is_that_of_the_local_sampler_and_carries_no_answers() -> None:
    made = cut(["a", "b", "c"], [(1,), (2, 3), (4,)], 2, Sampling(block=2), KEY, 10, 7)
    assert [(b.place, b.first_group, b.prompts, b.names, b.version) for b in made] == [
        (0, 10, ((1,), (2, 3)), ("a", "b"), 7),
        (1, 12, ((4,),), ("c",), 7),
    ]
    assert all(block.key == int(KEY) for block in made)
    assert [(e.id, e.prompt, e.answer) for e in nameless(made[0])] == [("a", "", None), ("b", "", None)]


def test_a_workers_copy_draws_what_the_model_draws_block_by_block() -> None:
    loaded, settings = load_model("embedded", task_name="digit_sum"), Sampling(max_tokens=6, block=2)
    hand = LocalHand(load_model("embedded", task_name="digit_sum"))
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(1.02)
    hand.load(1, loaded.model.state_dict())
    prompts = [tuple(loaded.encode(e)) for e in EXAMPLES]
    cuts = cut([e.id for e in EXAMPLES], prompts, 3, settings, KEY, 4, 1)
    got = named(Rollouts.concat([hand.draw(block) for block in cuts]), list(EXAMPLES))
    alone = LocalSampler(loaded.model, loaded.tokenizer, loaded.encode).sample(EXAMPLES, 3, settings, KEY, 4)
    assert torch.equal(got.ids, alone.ids) and torch.equal(got.logp, alone.logp) and got.example == alone.example
    assert torch.equal(got.uid, alone.uid) and got.text == alone.text and got.prompt == alone.prompt


def test_a_copy_says_what_it_lacks_and_what_it_does_not_know() -> None:
    hand = LocalHand(load_model("embedded", task_name="digit_sum"))
    weights = dict(hand.model.state_dict())
    told = hand.load(1, {**weights, "other.weight": torch.zeros(2)})
    assert told.prints["other.weight"] == {"hash": None}
    proof = Exact()
    proof.expect(1, {**weights, "other.weight": torch.zeros(2)})
    with pytest.raises(GuardStop, match=r"in 1 of \d+ tensors \(other.weight\)"):
        proof(1, told)
    left = next(name for name in weights if "layers" in name)
    with pytest.raises(InputError, match=f"the weights lack '{left}'"):
        hand.load(2, {name: value for name, value in weights.items() if name != left})


def test_exact_proof_sees_the_last_bit() -> None:
    weights, proof = {"w": torch.tensor([1.0, 2.0])}, Exact(back=1)
    proof.expect(1, weights)
    honest = Told({"w": SimulatedPlan().build().load(1, weights).prints["w"]})
    proof(1, honest)
    other = {"w": torch.tensor([1.0, 2.0000002])}
    proof.expect(2, other)
    with pytest.raises(GuardStop):
        proof(2, honest)
    proof(1, honest)
    assert proof.proved(1) == {"sampler/tensors": (1.0, 1.0)}
    proof.expect(3, weights)
    with pytest.raises(KeyError):
        proof.proved(1)


@pytest.mark.parametrize("back", [0, 2])
def test_probed_compares_with_the_version_that_was_loaded(back: int) -> None:
    loaded = load_model("embedded", task_name="digit_sum")
    probe = Probe(prompts=(tuple(loaded.encode(EXAMPLES[0])),), tokens=4)
    hand = VllmHand(CopyEngine(loaded.model), loaded.tokenizer, tuple(loaded.tokenizer.all_special_ids), probe)
    scorer = load_model("embedded", task_name="digit_sum").model if back else loaded.model
    proof = Probed(scorer, TOLERANCE["float32"], 1.0, back)
    first = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    proof.expect(1, first)
    if back:  # the model has moved on when the worker speaks
        with torch.no_grad():
            for parameter in loaded.model.parameters():
                parameter.mul_(1.05)
        proof.expect(2, loaded.model.state_dict())
    told = hand.load(1, first)
    assert len(told.got) == len(told.asked) == 1 and len(told.got[0].ids) <= 4
    proof(1, told)
    assert proof.proved(1)["sampler/probe_max"][0] < 1e-5
    wrong = Told(told.prints, told.asked, (Got(told.got[0].ids, [p - 0.5 for p in told.got[0].logp], "eos"),))
    with pytest.raises(GuardStop, match=r"mean difference 0\.5 \(allowed 0\.0001\)"):
        proof(1, wrong)
    nan = Told(told.prints, (Ask(told.asked[0].prompt, 1),), (Got([1], [float("nan")], "eos"),))
    with pytest.raises(GuardStop, match="mean difference inf"):
        proof(1, nan)


def test_weights_travel_bit_for_bit() -> None:
    weights = {
        "a": torch.tensor([[1.5, -0.0], [float("inf"), 3e-39]]),
        "b": torch.tensor([1.0, 1e-3], dtype=torch.bfloat16),
        "c": torch.tensor(2.5, dtype=torch.float64),
        "d": torch.arange(6.0).reshape(2, 3).t(),
    }
    back = unpacked(packed(weights))
    assert {n: v.dtype for n, v in back.items()} == {n: v.dtype for n, v in weights.items()}
    assert all(torch.equal(back[n], weights[n]) and back[n].shape == weights[n].shape for n in weights)
    back["a"].zero_()
    assert weights["a"][0, 0] == 1.5


def test_an_actor_is_a_hand_in_a_process() -> None:
    actor = Actor(SimulatedPlan())
    actor.hand = SimulatedPlan().build()
    assert actor.load(3, packed(WEIGHTS)).prints == SimulatedPlan().build().load(3, WEIGHTS).prints
    assert (actor.draw(blocks(1, version=3)[0]).ids.max() >= 3000) and actor.ping() > 0
    assert isinstance(actor.hand, Hand)
    with pytest.raises(RuntimeError, match="a block of version 2 reached an actor with version 3"):
        actor.draw(blocks(1, version=2)[0])


def test_the_store_holds_all_versions_before_ray_would_write_to_disk(tmp_path: Path) -> None:
    for weights in (10**7, 10**9, 3 * 10**10):
        for versions in (1, 3):
            assert weights * (versions + 1) < 0.8 * store_of(weights, versions)
    free = shutil.disk_usage(tmp_path).free
    refuse_small_memory(free // 2, tmp_path)
    with pytest.raises(InputError, match=r"needs .* GiB for the weights and .* --shm-size"):
        refuse_small_memory(2 * free, tmp_path)
    refuse_small_memory(2 * free, tmp_path / "a system without it")


class Raised(Exception):
    """As Ray wraps what an actor's method raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("a long\ntraceback")
        self.cause = cause


class Lost(Exception):
    """As Ray says that an actor is gone."""


def test_errors_arrive_in_the_houses_kinds() -> None:
    kinds: Any = SimpleNamespace(RayTaskError=Raised, RayError=Lost)
    refused = InputError("a prompt is too long")
    assert _meaning(Raised(refused), kinds) is refused
    dead = _meaning(Raised(EngineDead("vLLM failed")), kinds)
    assert isinstance(dead, WorkerGone) and str(dead) == "vLLM failed"
    gone = _meaning(Lost("The actor died.\n pid: 7"), kinds)
    assert isinstance(gone, WorkerGone) and str(gone) == "The actor died. pid: 7"
    fault = ZeroDivisionError()
    assert _meaning(fault, kinds) is fault


def test_without_ray_a_run_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else real(name, *more))
    with pytest.raises(InputError, match=r"pip install 'rekindle\[ray\]'"):
        train("evol_rl", task="digit_sum", out=tmp_path / "x", options={"rollout.sampler": "ray"})
    assert not (tmp_path / "x").exists()
    with pytest.raises(InputError, match="needs Ray"):
        RayCrew(SimulatedPlan(), 1, Place())


def test_a_sampler_without_weights_or_prompts_says_so() -> None:
    loaded, proof = load_model("embedded", task_name="digit_sum"), Exact()
    crew = ThreadCrew(SimulatedPlan(), 1)
    with fleet(crew) as there:
        made = RaySampler(loaded.model, loaded.encode, there, proof, apart=None, together=False)
        assert isinstance(made, Sampler) and isinstance(made, Clocked) and isinstance(proof, Proves)
        assert isinstance(crew, Crew) and made.apart is None
        with pytest.raises(InputError, match="no weights yet: push"):
            made.sample(EXAMPLES, 1, Sampling(), KEY, 0)
        with pytest.raises(InputError, match="0 prompts with 2 responses each"):
            made.sample([], 2, Sampling(), KEY, 0)
        assert made.clocked() == {"fleet/restarts": 0.0, "fleet/reissued": 0.0, "fleet/balance": 1.0}
