"""NLPO: without a mask it is PPO, masks of a step are those of its copy, and the sampler draws by the refreshed one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rekindle.core.allowed import MASK, Allowed, WithinMask
from rekindle.core.gae import Returns
from rekindle.core.method import PolicyGradient
from rekindle.core.ratios import log_ratio
from rekindle.core.types import Now
from rekindle.errors import InputError
from rekindle.methods import nlpo, ppo_clip
from rekindle.prove.beds import load_bed
from rekindle.prove.numbers import NUMBERS, run_length
from rekindle.prove.run import TableRun
from rekindle.tokens.sampling.masked import InMask
from rekindle.tokens.sampling.rules import special_ids
from rekindle.train.build import make_run
from rekindle.train.evaluate import evaluation_sampling
from rekindle.train.options import override
from rekindle.train.ruled import evaluated_by, under
from rekindle.train.shared_sampler import SharedSampler
from rekindle.train.start import Asked, prepare
from tests.methods.made import group_rollouts
from tests.methods.resumed import SMALL, assert_alike, memory, run_twice
from tests.methods.stage import by_descend, collected, difference, table_stage

METHOD = nlpo.method()
NARROW = {"objective.allowed.p": 0.6, "objective.allowed.min_keep": 1}


def with_options(record: PolicyGradient, **options: Any) -> Any:
    for path, value in options.items():
        record = override(record, path.replace("__", "."), value)
    return record


def real_run(**options: Any) -> Any:
    """A run on digit_sum, not begun."""
    asked = {
        **SMALL,
        **NARROW,
        "task": "digit_sum",
        "steps": 4,
        **{k.replace("__", "."): v for k, v in options.items()},
    }
    asked["checkpoint.every"] = 0
    return make_run(*prepare(Asked("nlpo", asked)))


def digest(model: nn.Module) -> str:
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()


def test_without_a_mask_and_a_kl_its_update_is_that_of_ppo() -> None:
    free = with_options(METHOD, objective__allowed__p=1.0, source__0__start=0.0)
    free = free.replace(prepare=(free.prepare[0], Returns(by_token=True)))
    host = ppo_clip.method()
    host = host.replace(objective=free.objective.inner, descent=free.descent)
    (ours, batch), (theirs, same) = (collected(m, group_rollouts(0)) for m in (free, host))
    assert torch.equal(batch.advantage, same.advantage) and "logp_masked_old" not in batch.extra
    assert free.joint() == () and MASK not in free.passes()
    assert difference(by_descend(ours, batch, 3, False), by_descend(theirs, same, 3, False)) <= 1e-12


def test_a_mask_of_all_tokens_is_none() -> None:
    """min_keep of a whole vocabulary: the joint pass says what the policy says."""
    stage, batch = collected(METHOD, group_rollouts(0))
    now = stage.scores(batch)
    assert torch.allclose(now.extra["logp_masked"], now.logp, atol=1e-12)
    assert torch.allclose(batch.column("logp_masked_old"), batch.logp_old, atol=1e-12)


def test_the_ratio_is_one_before_the_first_update_and_lies_within_the_mask_after() -> None:
    method = with_options(METHOD, objective__allowed__p=0.5, objective__allowed__min_keep=1)
    stage = table_stage(method)
    batch = method.credit(method.source[0](method.collect(stage), stage))

    def ratio(now: Now) -> torch.Tensor:
        masked = Now(logp=now.extra["logp_masked"], entropy=now.entropy)
        return log_ratio(masked, batch.with_columns(logp_old=batch.column("logp_masked_old"))).exp()

    assert torch.allclose(ratio(stage.scores(batch)), torch.ones_like(batch.score)[:, None], atol=1e-12)
    assert (batch.column("logp_masked_old") - batch.logp_old).amax() > 0.1, "the mask takes something away"
    table = stage.parameters[0]
    with torch.no_grad():
        table += torch.linspace(0, 9, table.numel()).sin().view_as(table)
        table[:, ::3] -= 1.0
    moved = stage.scores(batch)
    assert (ratio(moved) - 1).abs().max() > 0.05
    assert (ratio(moved) - log_ratio(moved, batch).exp()).abs().max() > 0.01, "not the unmasked ratio"


def test_rewards_are_charged_by_unmasked_log_probs() -> None:
    ends = []
    for p in (1.0, 0.3):
        method = with_options(METHOD, objective__allowed__p=p, objective__allowed__min_keep=1)
        stage = table_stage(method)
        ends.append(method.credit(method.source[0](method.collect(stage), stage)))
    assert torch.equal(ends[0].column("reward"), ends[1].column("reward"))
    gap = ends[0].logp_old - ends[0].column("logp_ref")
    inner = ends[0].live & (ends[0].live.flip(1).cumsum(1).flip(1) > 1)
    assert torch.allclose(ends[0].column("reward")[inner], -0.1 * gap[inner])


def test_the_copy_stays_as_it_is_between_refreshes_and_the_sampler_draws_by_it(tmp_path: Path) -> None:
    run = real_run(after__1__every=2, descent__lr=0.02)
    copies, own = [digest(run.references[MASK])], [digest(run.loaded.model)]
    assert copies == own
    for _ in range(4):
        run.record.step(run)
        run.step_index += 1
        copies.append(digest(run.references[MASK]))
        own.append(digest(run.loaded.model))
    assert len(set(own)) == 5
    assert copies == [own[0], own[0], own[2], own[2], own[4]]


def outside(run: Any, model: nn.Module) -> int:
    """How many sampled tokens lie outside the nucleus of `model`."""
    allowed: Allowed = run.record.objective.allowed
    rolls = run.sample(run.next_examples(6), InMask(allowed))
    count = 0
    for ids, prompt, mask in zip(rolls.ids, rolls.prompt.ids, rolls.mask, strict=True):
        row = ids[mask]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *row.tolist()]])).logits[0, len(prompt) - 1 : -1]
        free = torch.isin(row, torch.tensor(special_ids(run.tokenizer)))
        count += int((~allowed(logits).gather(1, row[:, None])[:, 0] & ~free).sum())
    return count


def test_a_refreshed_copy_reaches_the_sampler() -> None:
    run = real_run()
    with torch.no_grad():
        for parameter in run.loaded.model.parameters():
            parameter += 0.3 * torch.linspace(0, 99, parameter.numel()).sin().view_as(parameter) * parameter.std()
    assert outside(run, run.references[MASK]) == 0 and outside(run, run.loaded.model) > 0
    run.snapshot(MASK)
    assert outside(run, run.loaded.model) == 0


def test_evaluations_of_a_run_are_drawn_within_the_mask_too() -> None:
    run = real_run()
    found = evaluated_by(run)
    assert found is not run.sampler
    rolls = found.sample(run.next_examples(2), 3, evaluation_sampling(run.resolved), run.key, 0)
    assert (rolls.logp_sampled - rolls.logp).max() > 1e-3


def test_other_samplers_and_ranks_are_refused_with_the_reason() -> None:
    for options in ({"rollout.sampler": "vllm"}, {"ranks": 2}):
        with pytest.raises(InputError, match=r"draws under a rule, which .* cannot: each of its tokens"):
            make_run(*prepare(Asked("nlpo", {**SMALL, "task": "digit_sum", "steps": 1, **options})))
    run, rule = real_run(), InMask(Allowed())
    with pytest.raises(InputError, match="SharedSampler cannot draw under InMask"):
        under(rule, SharedSampler(run.sampler, run.ranks), {})
    with pytest.raises(InputError, match="InMask reads weights 'mask', which no part of the record scores by"):
        under(rule, run.sampler, {})


def test_a_real_run_resumes_with_its_copy_and_its_coefficient(tmp_path: Path) -> None:
    options = {path.replace(".", "__"): value for path, value in NARROW.items()}
    whole, cut = run_twice("nlpo", tmp_path, after__1__every=1, descent__lr=0.01, **options)
    assert_alike(whole, cut)
    assert memory(whole)["kl_control"]["coef"] != 0.1
    state = whole / "checkpoints" / "step-000004" / "state"
    assert load_file(state / f"snapshot-{MASK}.safetensors")


def test_a_table_is_drawn_within_the_mask_and_scored_alike() -> None:
    bed = load_bed("numbers").with_options({"steps": 2})
    record = bed.setting.fitted(with_options(METHOD, objective__allowed__min_keep=1))
    run = TableRun(bed.task.world(0), bed.setting, record, 0)
    run.rewards.append([])
    batch = record.collect(run)
    assert torch.allclose(batch.column("logp_masked_old"), batch.column("logp_sampled"), atol=1e-9)
    assert (batch.column("logp_sampled") > batch.logp_old + 0.05).all(), "a tenth of the mass is out"
    off = WithinMask(allowed=Allowed(p=1.0))
    run.record = record.replace(objective=off)
    plain = run.draw(run.examples, 5, run.key)
    run.memory["groups"], run.memory["uids"] = 4, 64
    first = run.draw(run.examples, 5, run.key)
    run.memory["groups"], run.memory["uids"] = 4, 64
    assert torch.equal(first.ids, run.draw(run.examples, 5, run.key, rule=InMask(off.allowed)).ids)
    assert plain.extra == {}


def test_the_numbers_count_as_far_as_they_increase() -> None:
    assert [run_length(words.split()) for words in ("1 2 5", "3 3", "x21 4", "0 x30 5", "")] == [3, 1, 0, 1, 0]
    found = load_bed("numbers").run("grpo", {}, 0, train=False)
    assert 0.1 < found["reward"] < 0.3 and found["kl"] == 0.0
    world = load_bed("numbers").task.world(0)
    share = torch.softmax(world.table[NUMBERS + 1], dim=0)
    assert 0.2 < share[NUMBERS:].sum() < 0.6, "distractors are likely at the start"
    assert found["bare"] == pytest.approx(found["distractors"], abs=0.05)
