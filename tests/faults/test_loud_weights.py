"""Weights that an update leaves as they were, or that change without one, and a sampler that draws from others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rekindle.errors import GuardStop
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.train.moved import NO_GRADIENT, NO_WEIGHT, TOO_SMALL, ZERO_RATE
from tests.faults.conftest import Fault
from tests.faults.runs import method_file, named, run, warnings

STILL = "updates change nothing"
ZERO = """
@dataclass(frozen=True)
class Zero:
    separable = True

    def __call__(self, now, batch):
        return 0.0 * now.logp, {}

def method():
    return grpo.method().replace(objective=Zero())
"""
UNWEIGHED = """
@dataclass(frozen=True)
class Nothing:
    def __call__(self, batch, kept):
        return torch.zeros_like(batch.advantage)

def method():
    return grpo.method().replace(aggregate=Nothing())
"""
CASES = (
    ("a learning rate of 0", None, {"descent.lr": 0.0}, ZERO_RATE),
    ("an objective without a gradient", ZERO, {}, NO_GRADIENT),
    ("an aggregate that weighs every token 0", UNWEIGHED, {}, NO_WEIGHT),
    (
        "a learning rate below what float32 can hold",
        None,
        {"descent.lr": 1e-30, "descent.weight_decay": 0.0},
        TOO_SMALL,
    ),
)


@pytest.mark.parametrize(("what", "code", "options", "cause"), CASES, ids=[what for what, *_ in CASES])
def test_updates_that_change_nothing(
    tmp_path: Path, fault: Fault, what: str, code: str | None, options: dict[str, float], cause: str
) -> None:
    method = "grpo" if code is None else method_file(tmp_path, code)
    more = {**options, "rollout.prompts": 8, "rollout.group": 8, "guards.still": 3}
    with pytest.raises(GuardStop, match=r"no update changed anything in the last 3 steps, though there was") as stop:
        run(method, tmp_path, steps=9, options=more)
    assert cause in str(stop.value)
    (told,) = named(tmp_path, STILL)
    assert (told["step"], told["numbers"]["steps"], told["numbers"]["why"]) == (2, 2, cause)
    fault("numbers", what, "a warning at the second such step, GuardStop after guards.still", str(stop.value))


def test_a_single_still_step_is_no_warning(tmp_path: Path) -> None:
    late = """
@dataclass(frozen=True)
class Late:
    inner: object
    separable = True

    def __call__(self, now, batch):
        values, metrics = self.inner(now, batch)
        return values * (0.0 if int(batch.uid.min()) == 0 else 1.0), metrics

def method():
    base = grpo.method()
    return base.replace(objective=Late(base.objective))
"""
    run(method_file(tmp_path, late), tmp_path, options={"rollout.prompts": 8, "rollout.group": 8})
    assert named(tmp_path, STILL) == []


@pytest.mark.parametrize("what", ["the optimiser holds copies of the weights", "every weight is frozen"])
def test_an_optimiser_over_other_tensors(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def other(model, record, heads=None):
        copies = [torch.nn.Parameter(p.detach().clone()) for p in model.parameters()]
        model.requires_grad_(what != "every weight is frozen")
        return torch.optim.AdamW([{"params": copies}], lr=1.0)

    monkeypatch.setattr("rekindle.train.build.make_optimizer", other)
    with pytest.raises(GuardStop, match=r"update 0 changed no weight: the optimiser holds none of the tensors") as stop:
        run("grpo", tmp_path, options={"rollout.prompts": 8})
    fault("numbers", what, "GuardStop at the first update", str(stop.value))


def test_a_write_between_updates(tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = LocalSampler.sample, []

    def sample(self, *args, **kw):
        seen.append(1)
        if len(seen) == 3:
            dict(self.model.named_parameters())["model.norm.weight"].data.view(-1)[0] += 1e-6
        return real(self, *args, **kw)

    monkeypatch.setattr(LocalSampler, "sample", sample)
    with pytest.raises(GuardStop, match=r"step 2: 1 of 13 tensors changed since the last update.*model\.norm") as stop:
        run("grpo", tmp_path, steps=4)
    fault(
        "numbers",
        "1e-6 is added to one number of the weights between two steps",
        "GuardStop naming the tensor",
        str(stop.value),
    )


@pytest.mark.parametrize("minibatches", [1, 2])
@pytest.mark.parametrize(("off", "stops"), [(0.002, False), (0.05, True)])
def test_a_local_sampler_that_draws_from_other_weights(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch, off: float, stops: bool, minibatches: int
) -> None:
    real = LocalSampler.sample

    def sample(self, *args, **kw):
        rollouts = real(self, *args, **kw)
        assert rollouts.logp is not None
        rollouts.logp[rollouts.mask] -= off
        return rollouts

    monkeypatch.setattr(LocalSampler, "sample", sample)
    options = {"descent.minibatches": minibatches}
    if stops:
        with pytest.raises(GuardStop, match=r"step 0: the sampler's log-probs of \d+ tokens are not those") as stop:
            run("grpo", tmp_path, options=options)
        said, does = str(stop.value), "GuardStop before the first update"
    else:
        run("grpo", tmp_path, options=options)
        (told,) = warnings(tmp_path)
        assert told["step"] == 1 and told["numbers"]["mean"] == pytest.approx(off, rel=0.01), "once, not every step"
        said, does = f"{told['what']}: {told['numbers']}", "one warning with the numbers"
    what = f"the local sampler's log-probs are off by {off} nats ({minibatches} updates a step)"
    fault("numbers", what, does, said)
