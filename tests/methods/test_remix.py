"""ReMix: two stages, one replaying and one on-policy; what is left of it at its neutral setting is GRPO with a KL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rekindle.core.method import PolicyGradient
from rekindle.core.stages import Stages
from rekindle.core.terms import KLToReference
from rekindle.core.types import Batch
from rekindle.methods import grpo, remix
from rekindle.prove.beds import load_bed
from rekindle.prove.run import TableRun
from rekindle.train.options import diff, override
from rekindle.train.staged import places

METHOD = remix.method()


def with_options(record: Any, options: dict[str, Any]) -> Any:
    for path, value in options.items():
        for place in places(path, record):
            record = override(record, place, value)
    return record


def trained(method: PolicyGradient | Stages, steps: int, **bed: Any) -> tuple[TableRun, list[Batch], list[Tensor]]:
    """A run on digits, the batches that it trained on, and the reference after each step.

    bed: its options; `epochs` of the first stage.
    """
    epochs = bed.pop("epochs", 1)
    of = load_bed("digits").with_options({"steps": steps, "prompts": 5, "group": 4, "blocks": 2, **bed})
    record = of.setting.fitted(method)
    record = with_options(record, {"methods.0.descent.epochs": epochs}) if isinstance(record, Stages) else record
    run, batches, bases = TableRun(of.task.world(0), of.setting, record, 0), [], []
    run.gather = lambda batch: batches.append(batch) or batch  # type: ignore[method-assign]
    for _ in range(steps):
        run.step()
        bases.append(run.references["reference"].table.detach().clone())
    return run, batches, bases


def test_what_each_stage_changes_of_its_parent() -> None:
    paths = [[change.path for change in diff(grpo.method(), stage)] for stage in METHOD.methods]
    both = {"source.0", "source.1", "source.2", "terms.0", "terms.1"}
    assert set(paths[0]) == {"collect.prompts", "objective", "descent.epochs", *both} and set(paths[1]) == both
    assert METHOD.methods[0].descent.epochs == 2 and METHOD.methods[1].descent.epochs == 1


NEUTRAL = {
    "methods.0.collect.prompts.share": 0.0,
    "source.1.floor": 1.0,
    "terms.1.coef": 0.0,
    "until": (1.0, 1.0),
    "terms.0.coef": 0.05,
}


@pytest.mark.parametrize("adam", [True, False])
def test_without_replay_reuse_annealing_and_switch_it_is_grpo_with_a_kl_bit_for_bit(adam: bool) -> None:
    parent = grpo.method().replace(terms=(KLToReference(coef=0.05),))
    ours, ours_batches, _ = trained(with_options(METHOD, NEUTRAL), 6, adam=adam)
    theirs, _, _ = trained(parent, 6, adam=adam)
    assert torch.equal(ours.policy.table, theirs.policy.table) and ours.sampled == theirs.sampled
    assert all((batch.column("age") == 0).all() for batch in ours_batches)
    assert not torch.equal(ours.policy.table, trained(grpo.method(), 6, adam=adam)[0].policy.table)
    assert [t["loss"] for t in ours.trained] == [t["loss"] for t in theirs.trained]


@pytest.mark.parametrize(
    "change",
    [{"methods.0.collect.prompts.share": 0.4}, {"source.1.start": 0, "source.1.floor": 0.5}, {"until": (0.5, 1.0)}],
)
def test_each_of_its_ideas_acts(change: dict[str, Any]) -> None:
    neutral, _, _ = trained(with_options(METHOD, NEUTRAL), 6)
    other, _, _ = trained(with_options(METHOD, {**NEUTRAL, **change}), 6)
    assert not torch.equal(neutral.policy.table, other.policy.table)


def test_the_batch_is_used_twice_in_the_first_stage() -> None:
    run, _, _ = trained(with_options(METHOD, {"until": (1.0, 1.0)}), 3, epochs=2)
    other, _, _ = trained(with_options(METHOD, {"until": (1.0, 1.0)}), 3, epochs=1)
    assert run.sampled == other.sampled and not torch.equal(run.policy.table, other.policy.table)


def test_responses_are_saved_up_to_the_switch_and_nothing_is_replayed_after_it() -> None:
    run, batches, _ = trained(METHOD, 9, epochs=2)  # progress is below a half in the first four
    ages = [b.column("age") if "age" in b.extra else torch.zeros(1) for b in batches]
    assert [bool((age > 0).any()) for age in ages] == [False, True, True, True, *[False] * 5]
    assert run.sampled == 4 * (5 + 3 * 3 + 5 * 5)
    assert all(len(batch) == 20 for batch in batches) and not run.kept
    assert max(int(age.max()) for age in ages) <= 2
    assert ["age" in batch.extra for batch in batches] == [True] * 4 + [False] * 5


def changes(values: Sequence[Tensor]) -> list[int]:
    return [i for i in range(1, len(values)) if not torch.equal(values[i - 1], values[i])]


def test_the_base_changes_exactly_once() -> None:
    run, batches, bases = trained(METHOD, 9, epochs=2)
    assert changes(bases) == [4] and run.memory["reincarnated"] == 4
    assert torch.equal(bases[0], load_bed("digits").with_options({"blocks": 2}).task.world(0).table)
    assert torch.equal(batches[4].column("logp_ref"), batches[4].logp_old), "scored under its new base"
    assert not torch.equal(batches[5].column("logp_ref"), batches[5].logp_old)
    assert run.optimizer.state_dict()["state"][0]["step"] == 4 * 2 * 4 + 5 * 4, "the optimiser's state goes on"


def test_lam_counts_the_steps_of_the_run_over_the_border() -> None:
    _, batches, _ = trained(METHOD, 72, epochs=1, prompts=2, group=2)
    lam = [batch.column("lam")[0].item() for batch in batches]
    assert lam[:50] == [1.0] * 50 and lam[50:60] == pytest.approx([0.9] * 10)
    assert lam[60:70] == pytest.approx([0.8] * 10) and lam[70:] == pytest.approx([0.7] * 2)


def test_the_first_update_of_a_step_clips_nothing_of_a_replayed_row() -> None:
    run, batches, _ = trained(with_options(METHOD, {"until": (1.0, 1.0), "objective.dual": "none"}), 4, lr=0.5)
    batch, stage = batches[-1], run.record
    with torch.no_grad():  # back at the weights that the batch was scored under, on which it is about to be trained
        run.policy.table.copy_(run.references["previous"].table)
    batch = stage.credit(batch)
    old = batch.column("age") > 0
    assert (batch.column("drift")[old].abs() > 0.2).any(), "stale far beyond the width"
    now = replace(run.policy(batch).detach(), logp=run.policy(batch).logp.detach().requires_grad_())
    loss, metrics = stage.objective(now, batch)
    assert metrics["outside"][0] == 0
    grad = torch.autograd.grad(loss.sum(), now.logp)[0]
    want = (-batch.column("drift").exp() * batch.advantage).where(batch.live, 0.0)
    torch.testing.assert_close(grad, want, rtol=1e-9, atol=1e-9)
