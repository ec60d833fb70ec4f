"""SofT-GRPO: stored trajectories are scored as they were drawn, on a table, a language model and in a whole run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rekindle.core.ratios import log_ratio
from rekindle.core.soft import SoftClip, Thinking, density
from rekindle.core.types import Batch, MissingColumn, Now
from rekindle.errors import InputError
from rekindle.methods import grpo, soft_grpo
from rekindle.prove.chains import Chains, run_chains
from rekindle.prove.runner import check
from rekindle.tokens.sampling.soft import Soft, SoftSteps
from rekindle.train.build import make_run
from rekindle.train.start import Asked, prepare
from tests.methods.made import group_rollouts
from tests.methods.resumed import SMALL, assert_alike, run_twice
from tests.methods.stage import by_descend, collected, difference

METHOD = soft_grpo.method()


def real_run(**options: Any) -> Any:
    """A run on digit_sum, not begun."""
    more = {path.replace("__", "."): value for path, value in options.items()}
    return make_run(
        *prepare(Asked("soft_grpo", {**SMALL, "checkpoint.every": 0, "task": "digit_sum", "steps": 3, **more}))
    )


def soft_rows(batch: Batch) -> torch.Tensor:
    return batch.column("soft_on").any(dim=2) & batch.mask


def test_without_soft_steps_its_update_is_that_of_grpo() -> None:
    bare = METHOD.replace(objective=replace(METHOD.objective, kl=0.0))
    ours, batch = collected(bare, group_rollouts(0))
    zero = {n: torch.zeros_like(batch.column(n)) for n in ("soft_ids", "soft_weight", "soft_noise", "soft_on")}
    batch = batch.with_columns(**zero, logp_soft_old=batch.logp_old)
    host = grpo.method().replace(descent=bare.descent)
    theirs, same = collected(host, group_rollouts(0))
    assert difference(by_descend(ours, batch, 3, False), by_descend(theirs, same, 3, False)) <= 1e-12


@pytest.mark.parametrize("score", ["mean", "sum"])
def test_the_update_clips_densities_of_the_soft_steps(score: str) -> None:
    method = METHOD.replace(objective=replace(METHOD.objective, score=score))
    stage, batch = collected(method, group_rollouts(0))
    soft, now = soft_rows(batch), stage.scores(batch)
    assert soft.any() and (batch.mask & ~soft).any()
    assert torch.allclose(now.extra["logp_soft"][~soft], now.logp[~soft])
    logits = stage.policy.logits(batch)[soft]
    columns = (batch.column(name)[soft] for name in ("soft_ids", "soft_noise", "soft_on"))
    assert torch.allclose(now.extra["logp_soft"][soft], density(logits, *columns, score))
    said = Now(logp=now.extra["logp_soft"], entropy=now.entropy)
    ratio = log_ratio(said, batch.with_columns(logp_old=batch.column("logp_soft_old"))).exp()
    assert (ratio[soft] - 1).abs().max() > 0.02
    loss, metrics = method.objective(now, batch)
    assert metrics["soft/heaviest"][1] == float((soft & batch.live).sum()) and loss.isfinite().all()
    assert metrics["kl_ref"][0] > 0


def test_a_stored_trajectory_is_scored_as_it_was_drawn_and_its_first_ratio_is_one() -> None:
    """The sampler's pass, the scoring pass and the pass of the update agree on every soft step."""
    run = real_run(objective__thinking__tau=0.5)
    run.record = run.record.replace(descent=replace(run.record.descent, minibatches=1))
    batch = run.record.credit(run.record.collect(run))
    soft = soft_rows(batch)
    assert soft.float().mean() > 0.5 and batch.column("soft_noise").dtype == torch.float32
    now = run.policy(batch, run.record.joint(), run.references)
    assert torch.allclose(now.extra["logp_soft"], batch.column("logp_soft_old"), atol=1e-5)
    assert torch.allclose(batch.column("logp_soft_ref"), batch.column("logp_soft_old"), atol=1e-5), "the start weights"
    rolls = run.last_rollouts[0][0]
    assert rolls.logp is not None
    order = torch.argsort(batch.uid)
    assert torch.allclose(
        batch.take(order).mask * run.policy(batch.take(order)).logp, rolls.logp * rolls.mask, atol=1e-4
    )
    weight = run.record.objective.thinking.mixture(batch.column("soft_noise")[soft])
    assert torch.allclose(weight, batch.column("soft_weight")[soft], atol=1e-6)


def test_mixtures_that_nobody_drew_are_an_error() -> None:
    stage, batch = collected(METHOD, group_rollouts(0))
    extra = {name: value for name, value in batch.extra.items() if not name.startswith("soft_")}
    with pytest.raises(MissingColumn, match="not drawn by soft thinking"):
        stage.scores(replace(batch, extra=extra))


def test_the_marker_is_looked_up_and_refused_where_it_is_no_token() -> None:
    run = real_run(objective__thinking__end="=")
    assert SoftSteps().rule(run) == Soft(run.record.objective.thinking, run.tokenizer("=").input_ids[0])
    run = real_run(objective__thinking__end="</think>", objective__thinking__steps=0)
    with pytest.raises(InputError, match=r"objective\.thinking\.end is '</think>', which is 8 tokens"):
        run.record.collect(run)


def test_a_real_run_learns_softly_and_resumes(tmp_path: Any) -> None:
    whole, cut = run_twice("soft_grpo", tmp_path, objective__thinking__steps=2, descent__lr=0.005)
    assert_alike(whole, cut)
    events = (whole / "events.jsonl").read_text()
    assert '"soft/heaviest"' in events and '"kl_ref"' in events


def test_the_chains_are_sums_that_the_warm_start_writes_down() -> None:
    task = Chains()
    example = task.split("train")[0]
    terms = [int(term) for term in example.prompt.rstrip("=").split("+")]
    assert len(terms) == 5 and str(sum(terms) % 10) == example.answer
    assert task.extract("7562>2") == "2" and task.extract("7562") is None
    assert task.grade("2", "2") and not task.grade("3", "2") and task.grade("3", None) is None
    assert task.well_formed("7562>2") and not task.well_formed("75") and task.steps("75>2") == "75"
    pairs = [pair for pair, _ in zip(task.warm_examples(0), range(500), strict=False)]
    right = [said[-1] == str(sum(map(int, asked.rstrip("=").split("+"))) % 10) for asked, said in pairs]
    assert 0.3 < sum(right) / 500 < 0.8 and all(len(said) == 6 and said[4] == ">" for _, said in pairs)
    with pytest.raises(ValueError, match="no split 'test'"):
        task.split("test")


def test_the_bed_trains_and_evaluates_by_soft_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from rekindle.prove import chains

    chains.start_model.cache_clear()
    monkeypatch.setattr(
        chains, "RECIPE", {**chains.RECIPE, "steps": 3, "hidden": 32, "layers": 1, "heads": 1, "kv_heads": 1}
    )
    options = {"objective.thinking.end": ">"}
    found = run_chains({"steps": 2, "rollout.prompts": 2, "rollout.group": 4}, "soft_grpo", options, 0, True)
    chains.start_model.cache_clear()
    assert 0 <= found["pass@1"] <= found["pass@16"] <= 1 and found["train/soft/heaviest"] > 0.5
    assert 1 < found["length"] <= 7
    for effect in soft_grpo.CARD.effects:
        check(effect)


def test_the_paper_numbers_are_the_defaults() -> None:
    objective: Any = METHOD.objective
    assert isinstance(objective, SoftClip) and objective.score == "mean" and objective.kl == 1e-3
    assert objective.thinking == Thinking(top_k=5, top_p=0.95, noise=1.0, clamp=(-1.5, 3.0), tau=0.1, steps=4)
