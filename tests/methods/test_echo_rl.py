"""EchoRL: the hand example exactly, its host at coefficient 0, which step wins, and where its gradient lies."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rekindle.core.echo import EchoNLL, MineEcho
from rekindle.core.segments import segments
from rekindle.core.types import Batch, Now
from rekindle.methods import echo_rl, grpo
from rekindle.tokens.rollouts import Rollouts
from tests.batches import hand_batch
from tests.methods.made import group_rollouts
from tests.methods.stage import collected, on_leaves, table_stage

METHOD = echo_rl.method()
R0, R1, R2 = [5, 6, 9, 4, 9, 2], [5, 7, 9, 3, 3, 9, 2], [8, 8, 9, 2]
H0, H1, H2 = [0.20, 0.10, 0.30, 0.90, 0.50, 0.05], [0.20, 0.60, 0.10, 1.10, 0.40, 0.30, 0.05], [2.0, 2.0, 2.0, 0.1]
LOGP0 = [-0.22, -0.11, -0.36, -1.20, -0.60, -0.02]


def rows(values: list[list[float]]) -> Tensor:
    """Ragged rows as a padded float64 tensor."""
    width = max(map(len, values))
    return torch.tensor([row + [0.0] * (width - len(row)) for row in values], dtype=torch.float64)


def echo_batch(
    tokens: list[list[int]], entropy: list[list[float]], score: list[float], group: list[int] | None = None
) -> Batch:
    """A batch whose delimiter is token 9, scored where it was sampled with log-probs of -0.5."""
    batch = hand_batch(score, [len(row) for row in tokens], group)
    action = rows([[float(t) for t in row] for row in tokens]).long()
    columns = {"entropy_old": rows(entropy), "segment": segments(batch.mask, action == 9)}
    old = torch.full(batch.mask.shape, -0.5, dtype=torch.float64).where(batch.mask, 0.0)
    return replace(batch, action=action).with_columns(logp_old=old, **columns)


def mined(batch: Batch, scope: str = "any_success") -> list[tuple[int, int]]:
    """(uid, length of the clip) of every clip, by uid."""
    echo = MineEcho(scope=scope)(batch).column("echo")  # type: ignore[arg-type]
    sizes = (echo > 0).sum(dim=1)
    assert ((echo == 0) | (echo == 1 / sizes.clamp(min=1)[:, None].double())).all()
    return sorted((int(u), int(n)) for u, n in zip(batch.uid, sizes, strict=True) if n)


HAND = echo_batch([R0, R1, R2], [H0, H1, H2], [1.0, 1.0, 0.0])


def at_weights(batch: Batch) -> Now:
    return Now(logp=batch.logp_old, entropy=torch.ones_like(batch.logp_old).where(batch.mask, 0.0))


def test_hand_example() -> None:
    assert mined(HAND) == [(0, 5)]
    logp = HAND.logp_old.clone()
    logp[0, :6] = torch.tensor(LOGP0, dtype=torch.float64)
    now = Now(logp=logp, entropy=torch.zeros_like(logp))
    batch = METHOD.credit(HAND)
    _, metrics = METHOD.loss(now, METHOD.weigh(batch))
    assert metrics["loss/EchoNLL"][0] == pytest.approx(0.000498, rel=1e-12)
    one = METHOD.replace(terms=(EchoNLL(coef=1.0),))
    assert one.loss(now, one.weigh(batch))[1]["loss/EchoNLL"][0] == pytest.approx(2.49 / 5, rel=1e-12)
    assert metrics["echo/rows"] == (1.0, 3.0)


def test_the_gradient_is_minus_coef_over_length_and_clips_on_the_clip_only() -> None:
    batch = echo_batch([R0, R1] * 2, [H0, H1] * 2, [1.0] * 4, [0, 0, 1, 1])
    batch = METHOD.credit(batch)
    assert (batch.advantage == 0).all(), "the host gives nothing"
    loss, grad, by_entropy = on_leaves(METHOD, batch, at_weights(batch))
    want = torch.zeros_like(grad)
    want[0, :5] = want[2, :5] = -0.001 / (5 * 2)
    torch.testing.assert_close(grad, want, rtol=1e-14, atol=0)
    assert torch.equal(grad == 0, want == 0) and (by_entropy == 0).all() and loss == pytest.approx(0.0005)


def test_coefficient_zero_is_the_host_bit_by_bit() -> None:
    neutral = METHOD.replace(terms=(EchoNLL(coef=0.0),))
    rollouts = Rollouts.concat([group_rollouts(g) for g in (2, 5, 6)])
    (stage, ours), (_, theirs) = collected(neutral, rollouts), collected(grpo.method(), rollouts)
    assert (ours.column("echo") > 0).any() and torch.equal(ours.advantage, theirs.advantage)
    now = stage.policy(ours).detach()
    got, want = on_leaves(neutral, ours, now), on_leaves(grpo.method(), theirs, now)
    assert got[0] == want[0] and torch.equal(got[1], want[1]) and torch.equal(got[2], want[2])
    assert (want[1] != 0).any() and not torch.equal(on_leaves(METHOD, ours, now)[1], want[1])


def test_no_success_is_exactly_no_echo() -> None:
    batch = METHOD.credit(replace(HAND, success=torch.zeros(3, dtype=torch.bool), score=torch.zeros(3).double()))
    loss, grad, _ = on_leaves(METHOD, batch, at_weights(batch))
    assert loss == 0.0 and (grad == 0).all() and (batch.column("echo") == 0).all()


@pytest.mark.parametrize(
    ("score", "any_success", "all_success"),
    [
        ([1.0, 1.0, 0.0], [(0, 5)], []),
        ([0.0, 1.0, 0.0], [(1, 6)], []),
        ([1.0, 1.0, 1.0], [(2, 3)], [(2, 3)]),
        ([0.0, 0.0, 0.0], [], []),
    ],
)
def test_scope_and_who_wins(score: list[float], any_success: list, all_success: list) -> None:
    batch = echo_batch([R0, R1, R2], [H0, H1, H2], score)
    assert mined(batch) == any_success, "a failed row never wins, whatever its entropy"
    assert mined(batch, "all_success") == all_success


def test_an_ungraded_row_neither_wins_nor_spoils_all_success() -> None:
    graded = torch.tensor([True, True, False])
    batch = replace(HAND, graded=graded)
    assert mined(batch) == mined(batch, "all_success") == [(0, 5)]


def test_each_prompt_has_one_clip() -> None:
    batch = echo_batch([R0, R1, R2, R1, R2], [H0, H1, H2, H1, H2], [1, 1, 0, 1, 0], [4, 4, 4, 9, 9])
    assert mined(batch) == [(0, 5), (3, 6)] and mined(batch, "all_success") == []


def test_ties_go_to_the_lowest_uid_then_to_the_earliest_step() -> None:
    same = [0.5, 0.5, 0.1, 0.7, 0.3, 0.5]
    batch = echo_batch([[5, 9, 5, 9, 5, 9]] * 3, [same] * 3, [1.0, 1.0, 1.0])
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        assert mined(batch.take(torch.tensor(order))) == [(0, 2)]
    renamed = replace(batch, uid=torch.tensor([7, 3, 5]))
    assert mined(renamed) == [(3, 2)]


def test_the_winner_has_the_highest_step_mean_of_all_successes() -> None:
    batch = collected(METHOD, Rollouts.concat([group_rollouts(g) for g in (0, 1, 2, 5, 6)]))[1]
    echo, entropy, segment = (batch.column(n) for n in ("echo", "entropy_old", "segment"))
    for row in (echo > 0).any(dim=1).nonzero()[:, 0].tolist():
        last = segment[row][echo[row] > 0].max()
        winner = entropy[row][segment[row] == last].mean().item()
        for other in ((batch.group == batch.group[row]) & batch.success).nonzero()[:, 0].tolist():
            steps = segment[other][batch.mask[other]].unique().tolist()
            assert all(entropy[other][segment[other] == s].mean().item() <= winner + 1e-12 for s in steps)
        assert batch.success[row]
    assert (echo > 0).any(dim=1).sum() == len(batch.group[batch.success].unique())


def test_without_a_delimiter_the_whole_response_is_echoed() -> None:
    assert mined(echo_batch([[5, 6, 7, 2]], [[0.1, 0.2, 0.3, 0.4]], [1.0])) == [(0, 4)]


def test_a_gap_in_the_mask_is_not_echoed() -> None:
    mask = HAND.mask.clone()
    mask[0, 1] = False
    batch = replace(HAND, mask=mask).with_columns(segment=segments(mask, HAND.action == 9))
    echo = MineEcho()(batch).column("echo")
    assert echo[0].tolist() == [0.25, 0, 0.25, 0.25, 0.25, 0, 0]


def test_a_minibatch_divides_by_its_own_clips_and_keeps_the_mask_mined_on_whole_groups() -> None:
    batch = METHOD.credit(echo_batch([R0, R1] * 2, [H0, H1] * 2, [1.0] * 4, [0, 0, 1, 1]))
    for rows_of in ([0, 1], [0, 1, 3], [0]):
        part = batch.take(torch.tensor(rows_of))
        _, grad, _ = on_leaves(METHOD, part, at_weights(part))
        assert grad[0, :5].tolist() == pytest.approx([-0.001 / 5] * 5) and (grad[1:] == 0).all()
    part = batch.take(torch.tensor([1, 3]))
    loss, grad, _ = on_leaves(METHOD, part, at_weights(part))
    assert loss == 0.0 and (grad == 0).all(), "no winner in this minibatch"


def test_steps_are_cut_where_the_tasks_delimiters_are() -> None:
    stage = table_stage(METHOD)
    batch = METHOD.collect(stage)
    rollouts = stage.seen[0][0]
    column = METHOD.collect.columns[0](rollouts, stage)
    want = segments(rollouts.mask, rollouts.ids == 16)
    assert torch.equal(column, want) and torch.equal(batch.column("segment"), want) and want.amax() > 1
    other = SimpleNamespace(tokenizer=stage.tokenizer, verifier=SimpleNamespace(step_delimiters=("a", "b")))
    assert torch.equal(
        METHOD.collect.columns[0](rollouts, other),
        segments(rollouts.mask, (rollouts.ids == 3) | (rollouts.ids == 4)),
    )
