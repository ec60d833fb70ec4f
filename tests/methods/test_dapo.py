"""DAPO: the overlong penalty's numbers, dynamic sampling, and GRPO at the neutral setting."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rekindle.core.types import Now
from rekindle.errors import GuardStop
from rekindle.methods import dapo, grpo
from rekindle.methods.dapo import Overlong
from rekindle.tokens.collect import Answers, MixedGroups
from rekindle.tokens.labels import Verdicts, Verified
from rekindle.tokens.rewards import Reward, Rewards
from rekindle.tokens.rollouts import Rollouts
from rekindle.tokens.verify import Verifier
from tests.batches import hand_batch
from tests.methods.made import Said, group_rollouts, spoken
from tests.methods.stage import Stage, collected, on_leaves, table_stage

METHOD = dapo.method()


def penalties(lengths: list[int], limit: int, part: Overlong) -> list[float]:
    rollouts = spoken(["x=5"] * len(lengths), lengths=lengths)
    verdicts = Verdicts.of(["5"] * len(lengths), [True] * len(lengths), {})
    shaped = part(rollouts, verdicts, SimpleNamespace(max_tokens=limit))
    assert torch.equal(shaped.success, verdicts.success)
    return (shaped.score - 1.0).tolist()


def test_overlong_numbers_of_the_recipe() -> None:
    lengths = [1, 16384, 17408, 18432, 20480]
    assert penalties(lengths, 20480, Overlong()) == pytest.approx([0.0, 0.0, -0.25, -0.5, -1.0], abs=1e-12)
    assert penalties([20480], 20480, Overlong(factor=0.5)) == pytest.approx([-0.5])
    assert penalties([6, 8, 10], 10, Overlong(cache_share=0.4)) == pytest.approx([0.0, -0.5, -1.0])


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_cache_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Overlong(cache_share=share)


def test_clip_higher_and_the_recipes_dual_clip() -> None:
    batch = METHOD.credit(hand_batch([1.0, 0.0], [3, 3]))
    old = torch.zeros(2, 3, dtype=torch.float64)
    ratio = torch.tensor([1.25, 9.0, 11.0], dtype=torch.float64)
    _, grad, _ = on_leaves(METHOD, batch.with_columns(logp_old=old), Now(logp=old + ratio.log(), entropy=old))
    a = batch.advantage[0, 0].item()
    assert grad.flatten().tolist() == pytest.approx([-a * 1.25 / 6, 0, 0, a * 1.25 / 6, a * 9 / 6, 0])


def stream(kinds: str) -> Stage:
    """Prompts that are mixed (m), all right (r) or all wrong (w), four responses each, for ever."""
    said = {"m": "5757", "r": "5555", "w": "7777"}

    def source(g: int) -> Rollouts:
        rows = spoken([f"a={c}" for c in said[kinds[g % len(kinds)]]], group=[g] * 4, truth="5")
        return replace(rows, uid=rows.uid + 4 * g)

    return table_stage(METHOD, source=source, prompts_per_step=3, group_size=4)


def test_dynamic_sampling_trains_on_exactly_p_mixed_prompts() -> None:
    stage = stream("rmwrmmmm")
    batch = METHOD.collect(stage)
    assert batch.group.unique().tolist() == [1, 4, 5], "the first mixed ones; the surplus is left"
    assert len(batch) == 12 and len(batch.uid.unique()) == 12
    assert (METHOD.credit(batch).advantage != 0).all()
    assert [len(rollouts) for rollouts, _, _ in stage.seen] == [12, 12], "two rounds, each seen whole"


def test_enough_at_once_takes_one_round() -> None:
    stage = stream("m")
    assert METHOD.collect(stage).group.unique().tolist() == [0, 1, 2] and len(stage.seen) == 1


@pytest.mark.parametrize("kinds", ["r", "w", "rw", "r" * 29 + "m" * 2])
def test_saturated_data_stops_with_a_sentence(kinds: str) -> None:
    stage = stream(kinds)
    with pytest.raises(GuardStop, match=r"of 3 prompts gave a mixed group in 10 rounds"):
        METHOD.collect(stage)
    assert stage.drawn == 30


def test_a_length_penalty_makes_no_group_mixed() -> None:
    rows = spoken(["a=5"] * 4, lengths=[2, 9, 9, 3], truth="5")
    stage = table_stage(METHOD, source=lambda g: replace(rows, group=rows.group + g), prompts_per_step=1)
    with pytest.raises(GuardStop):
        METHOD.collect(stage)
    assert stage.seen[0][1].score.unique().numel() > 1, "the scores differ all the same"


def test_unequal_rewards_of_the_users_functions_make_a_group_mixed() -> None:
    def vary(completions: list[str]) -> list[float]:
        return [0.1 * len(text) for text in completions]

    def source(g: int) -> Rollouts:
        rows = spoken(["a", "ab", "abc", "abcd"] if g % 2 else ["ab"] * 4, lengths=[2, 9, 9, 3], group=[g] * 4)
        return replace(rows, uid=rows.uid + 4 * g)

    stage = table_stage(METHOD, source=source, prompts_per_step=2, group_size=4)
    stage.verifier = Verifier(Said(), Rewards((Reward("vary", vary),)))
    batch = METHOD.collect(stage)
    assert batch.group.unique().tolist() == [1, 3] and not batch.success.any()
    assert (METHOD.credit(batch).advantage != 0).any()
    assert stage.seen[0][1].metrics["reward/vary"] == pytest.approx((1.8, 8))


def test_neutral_dapo_is_grpo() -> None:
    collect = Answers(label=Verified(), shape=(Overlong(factor=0.0),), select=MixedGroups(max_rounds=1))
    neutral = METHOD.replace(collect=collect, objective=grpo.method().objective)
    rollouts = Rollouts.concat([group_rollouts(g) for g in (5, 6, 7)])
    (stage, ours), (_, theirs) = collected(neutral, rollouts), collected(grpo.method(), rollouts)
    assert torch.equal(ours.advantage, theirs.advantage) and (ours.advantage != 0).any()
    now = stage.policy(ours).detach()
    got, want = on_leaves(neutral, ours, now), on_leaves(grpo.method(), theirs, now)
    assert got[0] == want[0] and torch.equal(got[1], want[1]) and (want[1] != 0).any()
    assert not torch.equal(on_leaves(METHOD, ours, now)[1], want[1]), "its own bounds are wider"
