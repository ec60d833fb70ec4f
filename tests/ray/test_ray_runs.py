"""Real actors: what they draw is what the local sampler draws, also after one was killed or stopped in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from rekindle.core.random import pack_key
from rekindle.errors import EngineDead, InputError
from rekindle.tokens.loader import Loaded, load_model
from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.crew import Block
from rekindle.tokens.sampling.fleet import Fleet
from rekindle.tokens.sampling.foreman import Rules
from rekindle.tokens.sampling.hands import LocalPlan
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.tokens.sampling.proofs import Exact
from rekindle.tokens.sampling.ray_fleet import Place, RayCrew, import_ray
from rekindle.tokens.sampling.ray_sampler import RaySampler
from rekindle.tokens.tasks import load_task
from rekindle.train import fleets
from rekindle.train.ahead import staleness_histogram
from rekindle.train.events import timeless
from scripts.fleet_throughput import TARGET, seconds
from tests.ray.test_fleet import until
from tests.train.test_ahead import equal, nothing_lost_or_repeated, run, sampled, steps_of

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
EXAMPLES = load_task("reduce").split("train")[:12]
KEY = pack_key(3, 1, 4)
LONG = Sampling(max_tokens=96, block=1)
TEN = {"task": "reduce", "rollout.prompts": 4, "rollout.max_tokens": 40, "ray.health": 20.0, "checkpoint.every": 5}


def made(loaded: Loaded, size: int = 2, address: str | None = None, **rules: Any) -> tuple[RayCrew, RaySampler]:
    plan = LocalPlan(model=str(Path(loaded.model.name_or_path).resolve()))
    crew, proof = RayCrew(plan, size, Place(address=address), 10**7), Exact()
    sampler = RaySampler(
        loaded.model, loaded.encode, Fleet(crew, Rules(**rules), proof), proof, apart=None, together=True
    )
    sampler.push()
    return crew, sampler


def drawn_alone(loaded: Loaded, n: int, settings: Sampling) -> Rollouts:
    return LocalSampler(loaded.model, loaded.tokenizer, loaded.encode).sample(EXAMPLES, n, settings, KEY, 7)


def identical(a: Rollouts, b: Rollouts) -> bool:
    names = ("ids", "mask", "logp", "logp_sampled", "entropy", "group", "uid")
    tensors = all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)
    return tensors and a.text == b.text and a.finish == b.finish and a.example == b.example and a.prompt == b.prompt


@dataclass
class Strike:
    """What was done to an actor. pids: signalled, each while it had a block to draw; replaced: workers given up."""

    pids: list[int] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)


def signalled(crew: RayCrew, number: int, worker: int = 0, after: float = 0.01, draws: int = 1) -> Strike:
    """Sends a signal to the worker's process while it has something in hand, from its block number `draws` on.

    Looks every `after` seconds, and stops the process before it looks: on a fast machine a block may be drawn by then,
    and killing an actor that has nothing to lose would show nothing. Then it goes on, and is looked at again.
    """
    done, pending, draw, kill = Strike(), list[Future[Rollouts]](), crew.draw, crew.kill

    def struck(pid: int) -> bool:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.05)  # what it had sent before arrives
        busy = any(not future.done() for future in pending)
        os.kill(pid, number if busy else signal.SIGCONT)
        return busy

    def strike(pid: int) -> None:
        for _ in range(500):
            time.sleep(after)
            if any(not future.done() for future in pending) and struck(pid):
                done.pids.append(pid)
                return

    def drawing(who: int, block: Block) -> Future[Rollouts]:
        future = draw(who, block)
        if who == worker:
            pending.append(future)
            if len(pending) == draws:
                threading.Thread(target=strike, args=(crew.pids()[worker],), daemon=True).start()
        return future

    def killing(who: int) -> None:
        done.replaced.append(who)
        kill(who)

    crew.draw, crew.kill = drawing, killing  # type: ignore[method-assign]
    return done


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_actors_draw_bit_for_bit_what_the_local_sampler_draws() -> None:
    loaded = load_model("embedded")
    _, sampler = made(loaded)
    try:
        for settings in (
            Sampling(max_tokens=48, block=5),
            Sampling(max_tokens=48, block=2, temperature=0.7, stop=("=",)),
        ):
            assert identical(sampler.sample(EXAMPLES, 4, settings, KEY, 7), drawn_alone(loaded, 4, settings))
        with torch.no_grad():
            for parameter in loaded.model.parameters():
                parameter.mul_(1.01)
        old = drawn_alone(load_model("embedded"), 4, LONG)
        assert sampler.push()["sampler/tensors"][0] > 10
        assert identical(sampler.sample(EXAMPLES, 4, LONG, KEY, 7), drawn_alone(loaded, 4, LONG))
        assert not identical(sampler.sample(EXAMPLES, 4, LONG, KEY, 7), old), "the push changed something"
        named = "|".join(example.id for example in EXAMPLES)  # of the blocks' first prompts, whichever actor is faster
        with pytest.raises(InputError, match=rf"the prompt of example '({named})' has \d+ tokens, which with"):
            sampler.sample(EXAMPLES, 1, Sampling(max_tokens=100_000), KEY, 0)
        assert sampler.clocked()["fleet/restarts"] == 0
        with pytest.raises(InputError, match="Ray runs in this process already"):
            made(loaded, 1, "127.0.0.1:6379")
    finally:
        sampler.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_actor_that_dies_or_hangs_in_mid_generation_is_replaced_and_nothing_changes(number: int) -> None:
    loaded = load_model("embedded")
    crew, sampler = made(loaded, health=20.0)
    try:
        sent = signalled(crew, number)
        got = sampler.sample(EXAMPLES, 48, LONG, KEY, 7)
        told = sampler.clocked()
        assert len(sent.pids) == 1 and told["fleet/restarts"] == 1 and told["fleet/reissued"] >= 1
        assert crew.pids().get(0) != sent.pids[0]
        until(lambda: not alive(sent.pids[0]))
        assert len(set(got.uid.tolist())) == len(got) == 48 * len(EXAMPLES)
        assert identical(got, drawn_alone(loaded, 48, LONG))
    finally:
        sampler.close()


def test_an_actor_that_always_dies_ends_the_run() -> None:
    loaded = load_model("embedded")
    crew, sampler = made(loaded, size=1, restarts=0)
    try:
        signalled(crew, signal.SIGKILL)
        with pytest.raises(EngineDead, match="after 0 restarts"):
            sampler.sample(EXAMPLES, 48, LONG, KEY, 7)
    finally:
        sampler.close()


def test_what_the_fleet_costs_is_small_beside_the_engine() -> None:
    least = {actors: min(seconds(actors, each=12) for _ in range(3)) for actors in (1, 4)}
    assert least[1] >= 0.8 * TARGET * least[4], "4 actors do the work of 4, but for the noise of a shared machine"


def test_ten_steps_on_two_actors_are_those_of_the_local_sampler(tmp_path: Path) -> None:
    many = run(tmp_path / "many", 10, **TEN)
    alone = run(tmp_path / "alone", 10, **{**TEN, "rollout.sampler": "local"})
    told = steps_of(many)
    assert len(told) == 10 and all(event.pop("sampler/tensors") > 10 for event in told)
    assert equal(many, alone) and timeless(told) == timeless(steps_of(alone))


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_run_goes_on_where_an_actor_is_killed_in_mid_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, staleness: int
) -> None:
    asked = {**TEN, "ray.staleness": staleness}
    whole = run(tmp_path / "whole", 10, **asked)
    sent: list[Strike] = []

    def faulty(*given: Any) -> RayCrew:
        crew = RayCrew(*given)
        sent.append(signalled(crew, signal.SIGKILL, after=0.01, draws=8))
        return crew

    monkeypatch.setattr(fleets, "RayCrew", faulty)
    again = run(tmp_path / "again", 10, **asked)
    assert len(sent[0].pids) == 1 and sent[0].replaced == [0], "it was killed while it drew"
    assert equal(whole, again) and timeless(steps_of(whole)) == timeless(steps_of(again))
    nothing_lost_or_repeated(again, 10, prompts=4, task="reduce")
    assert all(event["responses"] == 12 for event in steps_of(again))
    if staleness:
        assert staleness_histogram(steps_of(again)) == {0: 0.1, 1: 0.1, 2: 0.8}
    assert len(sampled(again)) == 10


def test_a_cluster_that_is_there_already() -> None:
    import_ray()
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    loaded = load_model("embedded")
    try:
        with pytest.raises(InputError, match="3 samplers of 1 CPU each need more than the 2 of Ray"):
            made(loaded, 3, cluster.address)
        _, sampler = made(loaded, 2, cluster.address)
        got = sampler.sample(EXAMPLES, 2, LONG, KEY, 7)
        sampler.close()
        assert identical(got, drawn_alone(loaded, 2, LONG))
    finally:
        cluster.shutdown()


def test_no_cluster_there() -> None:
    with pytest.raises(InputError, match=r"Ray cannot be reached at '127\.0\.0\.1:1'"):
        made(load_model("embedded"), 1, "127.0.0.1:1")
    with pytest.raises(InputError, match="Ray's client"):
        made(load_model("embedded"), 1, "ray://127.0.0.1:1")
