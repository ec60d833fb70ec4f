"""Replay: whole groups of the last steps come again, evenly drawn, once; what comes again is scored under now."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rekindle.core.aggregate import SamplerWeighted, TokenMean
from rekindle.core.mixed import Anneal, Follow, KLConvex
from rekindle.core.random import pack_key
from rekindle.core.types import Batch
from rekindle.errors import InputError
from rekindle.methods import grpo
from rekindle.prove.run import TableRun
from rekindle.tokens.collect import Answers
from rekindle.tokens.replay import (
    Reincarnate,
    Replay,
    RoomForReplay,
    drawn_step,
    held,
    joined,
    recalled,
    remember,
    stacked,
)
from rekindle.tokens.rollouts import PromptRows
from rekindle.train.build import make_run
from rekindle.train.start import Asked, prepare
from tests.batches import make_batch
from tests.methods.streams import table_run


def replaying(share: float, window: int, prompts: int = 5, group: int = 3) -> tuple[TableRun, list[Batch]]:
    """A run on the bed of difficulties, and the batches that it will train on."""
    collect = Answers(prompts=RoomForReplay(share=share))
    run = table_run(
        grpo.method().replace(collect=collect, source=(Replay(window=window),)), prompts=prompts, group=group
    )
    batches: list[Batch] = []

    def gather(batch: Batch) -> Batch:
        batches.append(batch)
        return batch

    run.gather = gather  # type: ignore[method-assign]
    return run, batches


@pytest.mark.parametrize(
    ("share", "window", "fresh"), [(0.4, 1, 3), (0.4, 2, 3), (0.4, 3, 3), (0.2, 2, 4), (0.0, 2, 5)]
)
def test_a_share_of_every_batch_is_of_the_last_steps(share: float, window: int, fresh: int) -> None:
    run, batches = replaying(share, window)
    told, sampled = {}, []
    for step in range(12):
        run.step()
        told[step] = set(run.kept[f"replay.{step}.uid"].tolist())
        sampled.append(run.sampled)
        assert held(run.kept, run.step_index) == list(range(max(0, step - window + 1), step + 1))
    assert [(b - a) // 3 for a, b in zip([0, *sampled], sampled, strict=False)] == [5, *[fresh] * 11]
    for step, batch in enumerate(batches):
        age = batch.column("age")
        assert len(batch) == 15 and len(batch.uid.unique()) == 15 and len(batch.group.unique()) == 5
        assert set(Counter(batch.group.tolist()).values()) == {3}, "whole groups"
        assert age.max() <= min(window, step) and set(batch.uid[age == 0].tolist()) == told[step], "only fresh are kept"
        for uid, old in zip(batch.uid.tolist(), age.tolist(), strict=True):
            assert uid in told[step - old]
    ages = set(torch.cat([batch.column("age") for batch in batches]).tolist())
    assert ages == set(range(window + 1 if fresh < 5 else 1))


def test_where_a_step_has_too_few_groups_more_are_rolled_out() -> None:
    run, batches = replaying(0.8, 1)
    for _ in range(3):
        run.step()
    assert [int((b.column("age") == 0).sum()) // 3 for b in batches] == [5, 1, 4], "then one group is all there is"


def test_replayed_rows_are_scored_under_the_policy_of_now_and_keep_their_groups_advantage() -> None:
    run, batches = replaying(0.4, 2)
    said: dict[int, tuple[Tensor, Tensor]] = {}
    for _ in range(5):
        with torch.no_grad():
            start = run.policy.table.clone()
        run.step()
        batch, end = batches[-1], run.policy.table.detach().clone()
        with torch.no_grad():
            run.policy.table.copy_(start)
            now = run.policy(batch).logp
            run.policy.table.copy_(end)
        torch.testing.assert_close(batch.logp_old, now, rtol=0, atol=1e-12)
        advantage = run.record.credit(batch).advantage
        for i, uid in enumerate(batch.uid.tolist()):
            if batch.column("age")[i] == 0:
                said[uid] = (batch.logp_old[i], advantage[i])
                assert (batch.column("drift")[i] == 0).all()
                continue
            torch.testing.assert_close(batch.logp_old[i] - batch.column("drift")[i], said[uid][0], rtol=0, atol=1e-12)
            torch.testing.assert_close(advantage[i], said[uid][1], rtol=0, atol=1e-12)
    assert any((b.column("drift") != 0).any() for b in batches)


def test_metrics_say_how_much_and_how_old() -> None:
    run, batches = replaying(0.4, 2)
    run.step()
    run.step()
    assert run.trained[0]["replay/rows"] == 0.0 and "replay/age" not in run.trained[0]
    assert run.trained[1]["replay/rows"] == pytest.approx(0.4) and run.trained[1]["replay/age"] == 1.0
    old = batches[1].column("age") > 0
    ratio = batches[1].column("drift")[old][batches[1].mask[old]].exp().mean().item()
    assert run.trained[1]["replay/ratio"] == pytest.approx(ratio)


def memory(step: int = 4, groups: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """What one step of ragged prompts leaves."""
    kept: dict[str, Tensor] = {}
    remember(kept, step, prompted(groups, seed), {"logp_old", "logp_ref"})
    return kept


def prompted(groups: int = 6, seed: int = 0) -> Batch:
    """Rows with prompts of different lengths, two a group."""
    batch = make_batch(B=2 * groups, seed=seed)
    rows = tuple(tuple(range(3, 4 + g % 3)) for g in range(groups) for _ in range(2))
    group = torch.arange(groups).repeat_interleave(2) + 100
    return Batch(
        **{n: getattr(batch, n) for n in ("action", "mask", "uid", "success", "graded", "score", "key", "extra")},
        prompt=PromptRows(rows),
        group=group,
    )


def test_what_is_kept_comes_back_as_it_was() -> None:
    batch, kept = prompted(), memory()
    back = recalled(kept, 4, 6, pack_key(0, 5, 0))
    assert back.prompt == batch.prompt and "logp_ref" not in back.extra and "logp_old" not in back.extra
    for name in ("action", "mask", "uid", "group", "success", "graded", "score"):
        assert torch.equal(getattr(back, name), getattr(batch, name)), name
    assert torch.equal(back.column("logp_behaviour"), batch.logp_old)
    assert torch.equal(back.column("segment"), batch.column("segment")), "columns that text gave"


def test_groups_are_drawn_evenly_and_without_replacement() -> None:
    kept = memory()
    counts: Counter[int] = Counter()
    for step in range(600):
        back = recalled(kept, 4, 2, pack_key(0, step, 0))
        groups = back.group.unique().tolist()
        assert len(groups) == 2 and len(back) == 4
        counts.update(groups)
    assert all(abs(count - 200) < 50 for count in counts.values()) and len(counts) == 6


def test_steps_are_drawn_evenly_among_those_there_are() -> None:
    kept = {**memory(3), **memory(4), **memory(5)}
    runs = [SimpleNamespace(kept=kept, step_index=5, key=pack_key(0, i, 0)) for i in range(400)]
    found = Counter(drawn_step(run) for run in runs)
    assert set(found) == {3, 4}, "the rows of this very step, from a try that was cut off, are not old"
    assert abs(found[3] - 200) < 50
    assert drawn_step(SimpleNamespace(kept={}, step_index=5, key=pack_key(0, 0, 0))) is None


def test_rows_of_different_widths_are_padded() -> None:
    short, long = (torch.ones(2, width, dtype=torch.bool) for width in (3, 5))
    assert stacked(short, long).sum(dim=1).tolist() == [3, 3, 5, 5] and stacked(short, long).dtype == torch.bool
    assert stacked(torch.ones(1, 2, 4), torch.ones(1, 3, 4)).shape == (2, 3, 4)
    narrow, wide = prompted(2), prompted(3, seed=1)
    narrow = narrow.take(torch.arange(4))
    both = joined(narrow, wide, wide.extra)
    assert len(both) == 10 and len(both.prompt) == 10 and torch.equal(both.key, narrow.key)
    with pytest.raises(InputError, match="'odd'"):
        joined(narrow.with_columns(odd=narrow.score), wide, wide.extra)


def test_prompts_that_are_no_token_ids_are_refused() -> None:
    with pytest.raises(InputError, match="PlainRows"):
        remember({}, 0, make_batch(), set())
    with pytest.raises(InputError, match="the column 'asked' holds prompts"):
        remember({}, 0, prompted().with_columns(asked=prompted().prompt), set())


def test_paper_rollouts() -> None:
    """Of the fresh share of 0.6, over steps that replay and steps that do not."""

    def rollouts(size: int, replaying: int, rest: int) -> float:
        kept = {"replay.0.group": torch.arange(size)}
        run = SimpleNamespace(kept=kept, step_index=1, key=pack_key(0, 1, 0), prompts_per_step=size)
        fresh = RoomForReplay(share=0.4).wanted(run)
        assert fresh == size - round(0.4 * size)
        return replaying * fresh + rest * size

    for size, replayed, rest, want in (
        (256, 100, 250, 79_360),
        (256, 50, 50, 20_480),
        (256, 75, 0, 11_520),
        (1024, 100, 100, 163_840),
    ):
        assert rollouts(size, replayed, rest) == pytest.approx(want, abs=0.5 * replayed), "to a rounded group a step"


def test_the_policy_becomes_its_own_reference_once_and_the_step_is_scored_after_that() -> None:
    method = grpo.method().replace(source=(Reincarnate(), Anneal(), Follow()), terms=(KLConvex(coef=0.1),))
    run, batches = table_run(method, prompts=4, group=4), []
    with torch.no_grad():
        run.policy.table += (
            torch.linspace(0, 3, run.policy.table.numel(), dtype=torch.float64).sin().view_as(run.policy.table)
        )
    start, run.kept["replay.0.group"] = run.policy.table.detach().clone(), torch.arange(3)
    run.gather = lambda batch: batches.append(batch) or batch  # type: ignore[method-assign]
    for _ in range(12):  # over all 40 prompts
        run.step()
        assert torch.equal(run.references["reference"].table, start)
    assert run.memory["reincarnated"] == 0 and not run.kept
    assert torch.equal(batches[0].column("logp_ref"), batches[0].logp_old)
    assert not torch.equal(batches[-1].column("logp_ref"), batches[-1].logp_old)


def test_a_policy_without_a_reference_only_drops_what_is_kept() -> None:
    options = {"task": "digit_sum", "rollout.prompts": 2, "rollout.group": 2, "rollout.max_tokens": 8}
    resolved, task = prepare(Asked("grpo", options))
    run = make_run(replace(resolved, record=resolved.record.replace(source=(Reincarnate(),))), task)
    run.step_index, run.kept["replay.0.group"] = 1, torch.arange(3)
    run.record.step(run)
    assert run.memory["reincarnated"] == 1 and not run.kept and run.references == {}


def test_the_previous_policy_is_that_of_the_step_before() -> None:
    method = grpo.method().replace(source=(Anneal(), Follow()), terms=(KLConvex(coef=0.1),))
    run, batches, starts = table_run(method, prompts=4, group=4), [], []
    run.gather = lambda batch: batches.append(batch) or batch  # type: ignore[method-assign]
    for _ in range(4):
        starts.append(run.policy.table.detach().clone())
        run.step()
    for k, batch in enumerate(batches):
        with torch.no_grad():
            run.policy.table.copy_(starts[max(0, k - 1)])
            want = run.policy(batch).logp
        torch.testing.assert_close(batch.column("logp_previous"), want, rtol=0, atol=1e-12)


def test_a_correction_for_another_sampler_is_that_of_the_sampling_weights() -> None:
    batch = make_batch()
    sampled = batch.logp_old + 0.1
    drift = torch.full_like(batch.logp_old, 0.7)
    weights = SamplerWeighted(inner=TokenMean(), level="token")
    want = weights(batch.with_columns(logp_sampled=sampled), batch.live)
    moved: Any = batch.with_columns(logp_sampled=sampled, drift=drift, logp_old=batch.logp_old + drift)
    torch.testing.assert_close(weights(moved, batch.live), want, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "make", [lambda: RoomForReplay(share=1.0), lambda: RoomForReplay(share=-0.1), lambda: Replay(window=0)]
)
def test_settings_that_cannot_be(make) -> None:
    with pytest.raises(ValueError, match=r"share of replayed groups|window of a replay"):
        make()
