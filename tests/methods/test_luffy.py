"""LUFFY: the demonstration's place in its group, its shaped weight, no clip elsewhere, and the tasks that have one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rekindle.core.types import Batch, Now
from rekindle.errors import InputError
from rekindle.methods import dr_grpo, luffy
from rekindle.methods.luffy import OneDemonstrated, ShapedOffPolicy
from rekindle.tokens.demonstrations import Shown, encoded, first_rows
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.tasks import load_task
from tests.batches import hand_batch, make_batch, make_now
from tests.methods.made import group_rollouts
from tests.methods.resumed import assert_alike, run_twice
from tests.methods.stage import on_leaves, table_stage
from tests.methods.streams import table_of, table_run

METHOD = luffy.method()


def with_demonstrations(g: int, **changes: Any) -> Rollouts:
    rows = group_rollouts(g)
    meta = {"demonstration": "abcdef"}
    return replace(rows, example=[Example(e.id, e.prompt, e.answer, meta) for e in rows.example], **changes)


def marked(batch: Batch, rows: Sequence[int]) -> Batch:
    shown = torch.zeros(len(batch), dtype=torch.bool)
    shown[list(rows)] = True
    return batch.with_columns(demonstration=shown)


def slow(now: Now, batch: Batch, gamma: float) -> Tensor:
    out = torch.zeros_like(now.logp)
    for b, t in batch.live.nonzero().tolist():
        logp, a = now.logp[b, t].item(), batch.advantage[b, t].item()
        p = torch.tensor(logp).double().exp().item()
        ratio = torch.tensor(logp - batch.logp_old[b, t].item()).double().exp().item()
        out[b, t] = -a * (p / (p + gamma) if batch.column("demonstration")[b] else ratio)
    return out


def test_the_loss_is_that_of_the_slow_loop() -> None:
    batch = marked(make_batch(ungraded=True), [0, 3, 7])
    now = make_now(batch, spread=1.0, requires_grad=False)
    got, metrics = ShapedOffPolicy()(now, batch)
    torch.testing.assert_close(got, slow(now, batch, 0.1), rtol=1e-6, atol=1e-7)
    assert metrics["demonstration/p"][1] == batch.live[[0, 3, 7]].sum()
    assert metrics["clip_high"][0] == metrics["clip_low"][0] == 0, "nothing is clipped"


def test_the_shaped_weight_pulls_unlikely_tokens_the_most() -> None:
    """d/dlogp of p / (p + g) is g p / (p + g)^2: of its p, a token of p = 0.01 gets more than one of p = 0.9."""
    old = torch.full((1, 3), -1.0, dtype=torch.float64)
    batch = marked(hand_batch([1.0], [3], logp_old=old, advantage=torch.ones(1, 3, dtype=torch.float64)), [0])
    p = torch.tensor([[0.01, 0.1, 0.9]], dtype=torch.float64)
    logp = p.log().requires_grad_()
    loss, _ = ShapedOffPolicy()(Now(logp=logp, entropy=torch.zeros_like(p)), batch)
    (grad,) = torch.autograd.grad(loss.sum(), logp)
    torch.testing.assert_close(grad, -0.1 * p / (p + 0.1) ** 2, rtol=1e-12, atol=0)
    assert loss[0].tolist() == pytest.approx([-1 / 11, -0.5, -0.9])
    assert grad.argmin() == 1, "the most where p is gamma"


def test_a_demonstration_in_a_group_that_is_all_wrong_gets_seven_eighths() -> None:
    batch = marked(hand_batch([1.0, *[0.0] * 7]), [0])
    assert METHOD.credit(batch).advantage[:, 0].tolist() == pytest.approx([0.875] + [-0.125] * 7)
    solved = METHOD.credit(marked(hand_batch([1.0] * 8), [0]))
    assert (solved.advantage == 0).all(), "nothing for what is all right"


def test_without_demonstrations_the_gradient_at_the_sampling_weights_is_dr_grpos_advantage() -> None:
    batch = marked(make_batch(), [])
    now = Now(logp=batch.logp_old, entropy=torch.zeros_like(batch.logp_old))
    host = dr_grpo.method().replace(aggregate=METHOD.aggregate)
    ours, theirs = (on_leaves(m, m.credit(batch), now) for m in (METHOD, host))
    torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-12)
    assert (ours[1] != 0).any()


def test_the_first_response_of_each_group_is_replaced() -> None:
    stage = table_stage(METHOD)
    sampled = Rollouts.concat([with_demonstrations(g) for g in (5, 6)])
    sampled = sampled.take(torch.randperm(len(sampled), generator=torch.Generator().manual_seed(2)))
    stage.sample = lambda examples: sampled  # type: ignore[method-assign]
    got = OneDemonstrated()(stage, [], lambda rollouts: None)  # type: ignore[arg-type, return-value]
    shown = Shown()(got, stage)
    assert got.uid[shown].sort().values.tolist() == [30, 36] and len(got) == len(sampled)
    assert sorted(got.uid.tolist()) == sorted(sampled.uid.tolist()) and got.group[shown].unique().numel() == 2
    row = int(shown.nonzero()[0, 0])
    ids = got.ids[row][got.mask[row]].tolist()
    assert got.text[row] == "abcdef" and stage.tokenizer.decode(ids[:-1]).replace(" ", "") == "abcdef"
    assert ids[-1] == stage.tokenizer.eos_token_id and (got.logp[row] == 0).all()
    assert sorted(first_rows(sampled).tolist()) == sorted((sampled.uid % 6 == 0).nonzero()[:, 0].tolist())


@pytest.mark.parametrize(("meta", "words"), [({}, "no demonstration"), ({"demonstration": "a" * 40}, "max_tokens")])
def test_a_demonstration_that_is_missing_or_too_long_is_refused(meta: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        encoded(Example("7", "x", "5", meta), table_stage(METHOD))


def test_gamma_is_above_zero() -> None:
    with pytest.raises(ValueError, match="above 0"):
        ShapedOffPolicy(gamma=0.0)


@pytest.mark.parametrize("name", ["reduce", "digit_sum"])
def test_the_tasks_demonstrations_are_right_and_always_the_same(name: str) -> None:
    task = load_task(name)
    examples, again = (task.split("heldout")[:60] for _ in range(2))
    for one, two in zip(examples, again, strict=True):
        text = one.meta["demonstration"]
        assert task.grade(task.extract(text), one.answer) is True and text == two.meta["demonstration"]
    assert len({e.meta["demonstration"] for e in examples}) > 40


def test_demonstrations_teach_what_is_hardly_ever_sampled() -> None:
    """Group of two: one is shown, the other nearly always wrong on the hard half of the prompts."""
    runs = [table_run(m, group=2, prompts=16, questions=16) for m in (METHOD, dr_grpo.method())]
    for run in runs:
        for _ in range(12):
            run.step()
    shares = [torch.softmax(run.policy.table.detach(), dim=1)[:8, 0].mean().item() for run in runs]
    assert shares[0] > shares[1] + 0.03


def test_a_real_run_resumes_and_the_same_seed_is_the_same_run(tmp_path: Path) -> None:
    assert_alike(*run_twice("luffy", tmp_path))
    tables = []
    for _ in range(2):
        run = table_run(METHOD)
        run.step()
        run.step()
        tables.append(table_of(run))
    assert torch.equal(*tables)
