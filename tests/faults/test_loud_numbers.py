"""A number that is none, wherever it comes from, stops the run before the update and is traced to its first part."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rekindle.errors import GuardStop
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.train import update
from rekindle.train.retention import checkpoints
from rekindle.train.update import updated as real_update
from tests.faults.conftest import Fault
from tests.faults.runs import method_file, run

SCORE = """
@dataclass(frozen=True)
class Poison:
    def __call__(self, rollouts, verdicts, run):
        bad = (torch.arange(len(rollouts)) == 3) & (run.step_index == 1)
        return replace(verdicts, score=verdicts.score.masked_fill(bad, torch.inf))

def method():
    base = grpo.method()
    return base.replace(collect=base.collect.replace(shape=(Poison(),)))
"""
ADVANTAGE = """
def poison(advantage, batch):
    return advantage.masked_fill(batch.uid[:, None] == 9, torch.nan)

def method():
    return grpo.method().replace(modulate=(poison,))
"""
COLUMN = """
from rekindle.core.terms import KLToReference

def poison(batch, run):
    bad = run.step_index == 1
    name = "{name}"
    value = batch.column(name).clone()
    value[1, 0] = torch.nan if bad else value[1, 0]
    return batch.with_columns(**{{name: value}})

def method():
    base = grpo.method()
    return base.replace(source=(poison,), terms=(KLToReference(coef=0.1),))
"""
OBJECTIVE = """
@dataclass(frozen=True)
class Broken:
    inner: object
    separable = True

    def __call__(self, now, batch):
        values, metrics = self.inner(now, batch)
        return values / torch.where(batch.uid[:, None] == 10, 0.0, 1.0), metrics

def method():
    base = grpo.method()
    return base.replace(objective=Broken(base.objective))
"""
SHAPE = """
def cut(batch, run):
    return batch.with_columns(logp_old=batch.logp_old[:, :-1]) if run.step_index == 1 else batch

def method():
    return grpo.method().replace(source=(cut,))
"""

FIRST = (
    ("a score of inf in one row", SCORE, r"score is inf in 1 of 8 rows \(1 of 8 rows: uid 11 of prompt train-\d+\)"),
    ("an advantage of nan in one row", ADVANTAGE, r"advantage is nan in \d+ of \d+ tokens \(1 of 8 rows: uid 9 of"),
    ("a nan in logp_old", COLUMN.format(name="logp_old"), r"logp_old is nan in 1 of \d+ tokens \(1 of 8 rows: uid 9 "),
    ("a nan in the reference's log-probs", COLUMN.format(name="logp_ref"), r"logp_ref is nan in 1 of .*reference's"),
    (
        "an objective that divides by 0 in one row",
        OBJECTIVE,
        r"the loss of Broken is -?(inf|nan) in \d+ of .*uid 10 of",
    ),
)


@pytest.mark.parametrize(("what", "code", "said"), FIRST, ids=[what for what, *_ in FIRST])
def test_the_first_part_is_named_and_nothing_trains_on_it(
    tmp_path: Path, fault: Fault, what: str, code: str, said: str
) -> None:
    with pytest.raises(GuardStop, match=r"step 1, update 0: " + said) as stop:
        run(method_file(tmp_path, code), tmp_path)
    refuse_harm(tmp_path, 1)
    batch = load_file(tmp_path / "run" / "bad-batch-step-000001-update-0.safetensors")
    assert batch["uid"].tolist() == list(range(8, 16)), "the batch of the step is kept"
    fault("numbers", f"{what} at step 1", "GuardStop before the update, batch kept, weights as before", str(stop.value))


def refuse_harm(folder: Path, steps: int) -> None:
    """The last checkpoint is that of the step before, and finite."""
    kept = checkpoints(folder / "run" / "checkpoints")[-1]
    assert kept.name == f"step-{steps:06d}" and not (folder / "run" / "final").exists()
    tensors = {**load_file(kept / "model.safetensors"), **load_file(kept / "state" / "optimizer.safetensors")}
    assert all(value.isfinite().all() for value in tensors.values())


def test_a_sampler_whose_log_prob_is_none(tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    real = LocalSampler.sample

    def sample(self, *args, **kw):
        rollouts = real(self, *args, **kw)
        rollouts.logp_sampled[2, 0] = -torch.inf
        return rollouts

    monkeypatch.setattr(LocalSampler, "sample", sample)
    with pytest.raises(
        GuardStop, match=r"logp_sampled is -inf in 1 of \d+ tokens \(1 of 8 rows: uid 2 of prompt"
    ) as stop:
        run("grpo", tmp_path)
    fault("numbers", "the sampler gives a drawn token -inf", "GuardStop naming row and prompt", str(stop.value))


def test_a_column_of_another_shape(tmp_path: Path, fault: Fault) -> None:
    with pytest.raises(GuardStop, match=r"step 1: column 'logp_old' is of shape \(8, \d+\), not \(8, \d+\)") as stop:
        run(method_file(tmp_path, SHAPE), tmp_path)
    fault("numbers", "logp_old one token short", "GuardStop naming both shapes", str(stop.value))


def test_log_probs_of_the_policy_that_are_none(tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    real = update.backward

    def backward(policy, batch, method, micro_batch, **how):
        loss, now, metrics = real(policy, batch, method, micro_batch, **how)
        now.logp[3, 0] = torch.nan
        return loss, now, metrics

    monkeypatch.setattr(update, "backward", backward)
    with pytest.raises(
        GuardStop, match=r"the policy's log-prob is nan in 1 of \d+ tokens \(1 of 8 rows: uid 3 "
    ) as stop:
        run("grpo", tmp_path)
    fault("numbers", "the policy says nan of one token, and the loss is finite", "GuardStop naming it", str(stop.value))


def test_a_gradient_that_is_none_names_its_tensor(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = update.clip

    def clip(parameters, limit):
        parameters[1].grad[0] = torch.nan
        return real(parameters, limit)

    monkeypatch.setattr(update, "clip", clip)
    with pytest.raises(GuardStop, match=r"gradient norm nan \(first in that of '[\w.]+', of \d+ tensors\)") as stop:
        run("grpo", tmp_path)
    fault("numbers", "one gradient is nan though the loss is not", "GuardStop naming its tensor", str(stop.value))


@pytest.mark.parametrize("what", ["a weight", "a moment of Adam"])
def test_what_an_update_leaves_is_looked_at(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    real = torch.optim.AdamW.step

    def step(self, *args, **kw):
        real(self, *args, **kw)
        parameter = self.param_groups[0]["params"][0]
        found = parameter.data if what == "a weight" else self.state[parameter]["exp_avg_sq"]
        found.view(-1)[5] = math.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(GuardStop, match=r"step 1 left weights that are not finite: .* in 1 of \d+ numbers") as stop:
        run("grpo", tmp_path)
    assert ("exp_avg_sq" in str(stop.value)) == (what != "a weight")
    assert not checkpoints(tmp_path / "run" / "checkpoints")
    fault("numbers", f"an update leaves {what} at inf", "GuardStop, nothing is saved of it", str(stop.value))


def test_moments_that_are_large_but_finite_are_no_overflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def large(run, part, method, index):
        update = real_update(run, part, method, index)
        for state in run.optimizer.state.values():
            state["exp_avg_sq"].fill_(1e30)  # its norm is above what float32 holds
        return update

    monkeypatch.setattr("rekindle.train.run.updated", large)
    run("grpo", tmp_path)
