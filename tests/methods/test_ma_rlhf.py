"""MA-RLHF: PPO over tokens at n = 1, bit for bit; the other rules by option; phrases in whole steps and a real run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rekindle.core.gae import OverValue
from rekindle.core.macro import FixedMacros, PerplexityMacros, RandomMacros, macro_starts
from rekindle.core.macro_gae import MacroReturns, OverMacroValue
from rekindle.core.method import PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.errors import InputError
from rekindle.methods import ma_rlhf, ppo_clip
from rekindle.methods.ppo_clip import ValueLoss
from rekindle.tokens.trees import ParsedMacros
from rekindle.train.options import flatten, override
from tests.methods.made import group_rollouts, playing
from tests.methods.resumed import assert_alike, run_twice
from tests.methods.stage import direct, table_stage

METHOD = ma_rlhf.method()


def token_ppo(whiten: bool) -> tuple[PolicyGradient, PolicyGradient]:
    """(MA-RLHF with macro actions of one token, PPO), all else the same."""
    ours = METHOD
    for path, value in (("prepare.1.coef", 0.0), ("prepare.2.n", 1), ("advantage.whiten", whiten)):
        ours = override(ours, path, value)
    theirs = ppo_clip.method().replace(
        advantage=OverValue(whiten=whiten), objective=Clip(low=0.8, high=1.2), terms=(ValueLoss(clip=0.2),)
    )
    return ours, theirs


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("mean", [False, True])
def test_macro_actions_of_one_token_are_ppo_over_tokens(whiten: bool, mean: bool) -> None:
    ours, theirs = token_ppo(whiten)
    ours = override(ours, "prepare.3.reward", "mean" if mean else "sum")
    gradients, losses = [], []
    for method in (ours, theirs):
        stage = table_stage(method)
        batch = method.credit(method.collect(stage))
        with torch.no_grad():
            for parameter in stage.parameters:
                parameter += 0.3 * torch.linspace(0, 400, parameter.numel()).sin().view_as(parameter)
        now = stage.policy(batch)
        losses.append(method.loss(now, method.weigh(batch))[0].item())
        gradients.append(direct(stage, batch))
    assert losses[0] == pytest.approx(losses[1], abs=1e-12) and gradients[1].abs().max() > 1e-3
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


def test_so_are_whole_steps() -> None:
    ends = []
    for method in token_ppo(whiten=False):
        stage = table_stage(method, lr=0.2)
        for _ in range(3):
            method.step(stage)
        ends.append(torch.cat([p.detach().flatten() for p in stage.parameters]))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)
    stage = table_stage(override(METHOD, "prepare.1.coef", 0.0), lr=0.2)
    for _ in range(3):
        stage.method.step(stage)
    other = torch.cat([p.detach().flatten() for p in stage.parameters])
    assert (other - ends[1]).abs().max() > 1e-4, "macro actions of five are something else"


def test_the_record_is_the_papers() -> None:
    flat = flatten(METHOD)
    assert (flat["prepare.2.n"], flat["prepare.3.sigma"], flat["prepare.3.reward"]) == (5, "equal", "sum")
    assert (flat["prepare.0.limit"], flat["prepare.1.coef"], flat["prepare.3.lam"]) == (2.5, 0.05, 0.95)
    assert flat["objective.dual"] is None and flat["advantage.whiten"] is False and flat["terms.0.clip"] == 0.2
    assert METHOD.heads() == ("value",) and METHOD.separable and flat["aggregate"] == "TokenMean"


def test_ratios_stay_by_token() -> None:
    stage = table_stage(METHOD)
    batch = METHOD.credit(METHOD.collect(stage))
    starts = macro_starts(batch.column("macro"), batch.live)
    inside = batch.live & ~starts
    before = torch.nn.functional.pad(batch.advantage[:, :-1], (1, 0))
    side_by_side = inside & torch.nn.functional.pad(batch.live[:, :-1], (1, 0), value=False)
    assert side_by_side.any() and torch.equal(batch.advantage[side_by_side], before[side_by_side])
    gradient = torch.autograd.grad(METHOD.loss(stage.policy(batch), METHOD.weigh(batch))[0], stage.parameters)
    assert all(g.isfinite().all() for g in gradient)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("random_macros", RandomMacros), ("perplexity_macros", PerplexityMacros), ("FixedMacros", FixedMacros)],
)
def test_a_rule_is_chosen_by_name(name: str, kind: type) -> None:
    method = override(METHOD, "prepare.2", name)
    assert isinstance(method.prepare[2], kind)
    stage = table_stage(method)
    metrics = method.step(stage)
    assert metrics["macro/tokens"][0] >= metrics["macro/tokens"][1] > 0


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("prepare.2.n", 0, "'prepare.2.n' cannot be 0: .* a whole number of tokens from 1 up, or none"),
        ("prepare.2.n", 2.5, "'prepare.2.n' is a whole number or none"),
        ("prepare.2", "phrase", "or choose fixed_macros, perplexity_macros, random_macros"),
        ("prepare.2.n", float("inf"), "'prepare.2.n' is a whole number or none, not 'inf'"),
        ("prepare.3.sigma", "even", "one of 'equal', 'unit', 'position', 'start'"),
        ("prepare.3.reward", "max", "one of 'sum', 'mean'"),
        ("prepare.0.limit", -1.0, "a number above 0, not -1.0"),
    ],
)
def test_bad_options_are_told_in_a_sentence(path: str, value: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        override(METHOD, path, value)


def test_the_whole_response_is_one_by_option() -> None:
    method = override(METHOD, "prepare.2.n", "none")
    stage = table_stage(method)
    batch = method.credit(method.collect(stage))
    for advantage, live in zip(batch.advantage, batch.live, strict=True):
        assert not live.any() or (advantage[live] == advantage[live][0]).all()


def test_phrases_take_the_place_of_the_fixed_rule() -> None:
    method = ma_rlhf.parsed()
    assert [type(part).__name__ for part in method.prepare] == ["ClippedScore", "KLInReward", "MacroReturns"]
    stage = table_stage(method)
    metrics = method.step(stage)
    assert metrics["macro/by_token"] == (12.0, 16.0), "all but one prompt have an answer that is in no token"


def letters(sentence: str) -> tuple[str, ...]:
    return tuple(sentence)


def test_phrases_cut_rows_that_say_what_their_tokens_say() -> None:
    rows = group_rollouts(0)
    stage = table_stage(ma_rlhf.parsed(letters), prompts_per_step=1, group_size=6)
    ids = [row[mask].tolist() for row, mask in zip(rows.ids, rows.mask | (rows.ids > 0), strict=True)]
    texts = [stage.tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    stage = replace(stage, source=playing(replace(rows, text=texts)))
    batch = stage.method.credit(stage.method.collect(stage))
    actions = macro_starts(batch.column("macro"), batch.live).sum(dim=1)
    assert (actions <= 4).all() and batch.live.sum(dim=1).max() > 5
    assert (batch.advantage != 0).any()


def test_steps_of_five_move_less_than_the_ends_say() -> None:
    """One row of ten tokens, values 0: the first five share .95 of the score, the last five all of it."""
    method = METHOD.replace(prepare=METHOD.prepare[2:])
    stage = table_stage(method)
    batch = method.collect(stage)
    zeros = torch.zeros_like(batch.logp_old)
    last = batch.live & (batch.live.flip(1).cumsum(1).flip(1) == 1)
    batch = method.credit(batch.with_columns(value_old=zeros, reward=last.to(zeros.dtype)))
    left = batch.live.sum(dim=1, keepdim=True) - 1
    place = batch.live.long().cumsum(dim=1) - 1
    want = (0.95 ** ((left // 5) - place // 5).double()).where(batch.live, 0.0)
    torch.testing.assert_close(batch.advantage, want, rtol=1e-12, atol=1e-12)


def test_a_real_run_resumes_with_its_head(tmp_path: Path) -> None:
    whole, cut = run_twice("ma_rlhf", tmp_path, descent__head_lr=0.005)
    assert_alike(whole, cut)


def test_parts_compare_and_hash_as_values() -> None:
    assert MacroReturns() == MacroReturns() and hash(OverMacroValue()) == hash(OverMacroValue())
    assert ParsedMacros() != ParsedMacros(below=4) and FixedMacros(n=3) != FixedMacros()
