"""OTR and DFT beside SFT: identities through whole records, both ways of averaging, draws in any cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rekindle.core.aggregate import SequenceMean
from rekindle.core.method import PolicyGradient
from rekindle.methods import dft, otr, sft
from rekindle.train.options import override
from tests.methods.stage import by_descend, difference, direct, staged, table_stage

METHOD = otr.method()


def set_to(**options: object) -> PolicyGradient:
    """OTR with other settings of its objective."""
    method = METHOD
    for name, value in options.items():
        method = override(method, f"objective.{name}", value)
    return method


def gradient(method: PolicyGradient, seed: int = 0) -> torch.Tensor:
    """The gradient of a whole step's batch."""
    stage = table_stage(method, seed=seed)
    return direct(stage, method.credit(method.collect(stage)))


def test_dft_is_sft_where_every_token_is_certain_and_p_times_it_elsewhere() -> None:
    assert dft.method().replace(objective=sft.method().objective) == sft.method()
    stage, batch = staged("dft", torch.float64, table=True)
    batch = stage.method.credit(batch)
    now = stage.policy(batch)
    plain, mine = (m.objective(now, batch)[0] for m in (sft.method(), dft.method()))
    torch.testing.assert_close(mine, now.logp.detach().exp() * plain)


@pytest.mark.parametrize("beta", [-0.5, 0.0, 0.9])
def test_at_kappa_one_it_is_dft_times_one_minus_beta(beta: float) -> None:
    want = (1 - beta) * gradient(dft.method())
    assert difference(gradient(set_to(kappa=1.0, beta=beta)), want) < 1e-12
    assert difference(gradient(set_to(kappa=1.3, beta=-0.5)), 1.5 * gradient(dft.method())) > 1e-2
    assert gradient(set_to(kappa=1.0, beta=1.0)).abs().max() < 1e-15


def test_both_ways_of_averaging_are_there() -> None:
    by_sequence = override(METHOD, "aggregate", "sequence_mean")
    assert isinstance(by_sequence.aggregate, SequenceMean)
    assert difference(gradient(by_sequence), gradient(METHOD)) > 1e-3
    stage = table_stage(by_sequence)
    batch = by_sequence.credit(by_sequence.collect(stage))
    now = stage.scores(batch)
    rows = [now.extra["one_token"][i][batch.live[i]].mean() for i in range(len(batch)) if batch.live[i].any()]
    loss = by_sequence.loss(now, by_sequence.weigh(batch))[0]
    torch.testing.assert_close(loss, torch.stack(rows).mean())


def test_draws_do_not_depend_on_the_cut_of_the_batch() -> None:
    method = set_to(estimator="sampled", draws=16)
    stage = table_stage(method)
    batch = method.credit(method.collect(stage))
    want = direct(stage, batch)
    assert want.abs().max() > 1e-3
    for micro in (1, 3, 100):
        assert difference(by_descend(stage, batch, micro, False), want) < 1e-12
    assert difference(want, gradient(METHOD)) > 1e-3
    other = batch.take(torch.arange(len(batch)).flip(0))
    assert difference(direct(stage, other), want) < 1e-12


def test_draws_are_new_in_every_step_and_epoch() -> None:
    method = set_to(estimator="sampled", draws=2)
    method = method.replace(descent=replace(method.descent, epochs=2))
    found = []
    for key in (5, 5, 6):
        stage = table_stage(method, key=torch.tensor(key))
        batch = method.credit(method.collect(stage))
        found.append([direct(stage, part) for part in method.descent.split(batch)])
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][0], found[0][1]) and not torch.equal(found[0][0], found[2][0])
