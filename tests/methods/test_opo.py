"""OPO: the length-weighted baseline on paper, its invariant, and one update a batch."""

from __future__ import annotations

import pytest
import torch

from rekindle.core.types import Now
from rekindle.methods import dr_grpo, gpg, grpo, opo
from tests.batches import hand_batch, make_batch
from tests.methods.stage import on_leaves, table_stage

METHOD = opo.method()


def test_one_right_answer_in_four() -> None:
    batch = hand_batch([1.0, 0.0, 0.0, 0.0], [2, 4, 3, 1])
    got = METHOD.credit(batch).advantage
    want = torch.tensor([[0.8], [-0.2], [-0.2], [-0.2]], dtype=torch.float64).where(batch.mask, 0.0)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)


def test_weighted_by_length_advantages_cancel_and_follow_the_formula() -> None:
    batch = make_batch(B=17, ungraded=True, shaped=True)
    got, length = METHOD.credit(batch).advantage, batch.live.sum(dim=1)
    for group in batch.group.unique():
        rows = ((batch.group == group) & batch.graded).nonzero()[:, 0]
        baseline = (length[rows] * batch.score[rows]).sum() / length[rows].sum()
        varied = len(rows) > 1
        for i in rows.tolist():
            want = (batch.score[i] - baseline).item() if varied else 0.0
            assert got[i][batch.live[i]].tolist() == pytest.approx([want] * int(length[i]), abs=1e-12)
        assert got[rows].sum().item() == pytest.approx(0, abs=1e-12)


def test_at_equal_lengths_it_is_dr_grpos_advantage() -> None:
    batch = hand_batch([1.0, 0.0, 0.25, 1.0, 0.0], [3] * 5, [0, 0, 0, 1, 1])
    torch.testing.assert_close(
        METHOD.credit(batch).advantage, dr_grpo.method().credit(batch).advantage, rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("score", [[0.7] * 6, [0.1] * 6, [1.0]])
def test_equal_scores_and_a_group_of_one_give_exactly_nothing(score: list[float]) -> None:
    batch = hand_batch(score, list(range(1, len(score) + 1)), dtype=torch.float32)
    assert (METHOD.credit(batch).advantage == 0).all()


def test_a_row_without_tokens_is_nowhere() -> None:
    batch = hand_batch([1.0, 0.0, 0.5], [2, 3, 0])
    assert METHOD.credit(batch).advantage[:, 0].tolist() == pytest.approx([0.6, -0.4, 0.0])


def test_a_step_is_one_exactly_on_policy_update() -> None:
    stage = table_stage(METHOD)
    METHOD.step(stage)
    assert len(stage.updates) == 1 and len(stage.updates[0].batch) == stage.prompts_per_step * stage.group_size
    assert stage.updates[0].metrics["outside"][0] == 0
    more = table_stage(grpo.method())
    grpo.method().step(more)
    assert len(more.updates) > 1


def test_there_its_clipped_ratio_is_the_plain_policy_gradient() -> None:
    batch = METHOD.credit(make_batch())
    here = Now(logp=batch.logp_old, entropy=torch.zeros_like(batch.logp_old))
    plain = METHOD.replace(objective=gpg.Likelihood())
    torch.testing.assert_close(on_leaves(METHOD, batch, here)[1], on_leaves(plain, batch, here)[1], rtol=1e-12, atol=0)
