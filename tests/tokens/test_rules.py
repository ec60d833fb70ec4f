"""Sampling under rules: where one changes nothing, the very tokens of the ordinary sampler; else what it promises."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from rekindle.core.allowed import Allowed
from rekindle.core.random import pack_key, uniforms
from rekindle.core.soft import Thinking
from rekindle.errors import GuardStop, InputError
from rekindle.tokens.collect import to_batch
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.mixture import embedding, refuse_unmixable
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.draw import draw
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.tokens.sampling.masked import InMask
from rekindle.tokens.sampling.rules import Step, StepRule, Taken, more_uniforms, single_id, special_ids
from rekindle.tokens.sampling.soft import Soft
from rekindle.tokens.sampling.stepwise import Ruled
from tests.tiny_models import BUILDERS, EOS, VOCABULARY, build, tokenizer

KEY = pack_key(5, 0, 0)
EXAMPLES = [Example(f"x{i}", text) for i, text in enumerate(["abcde", "f", "kkk", "ba", "abcdefghij"])]
OFF = InMask(Allowed(p=1.0))
NEVER = torch.zeros(VOCABULARY, dtype=torch.bool)


@dataclass(frozen=True)
class Free:
    """The rule that changes nothing; a column says where a token stands."""

    passes: ClassVar[tuple[str, ...]] = ()
    mixes: ClassVar[bool] = False

    def __call__(self, step: Step) -> Taken:
        place = torch.full_like(step.uniform, step.place)
        return Taken(draw(step.logits["policy"], step.uniform, step.settings, step.place), {"place": place})


def sampler(name: str = "qwen3", dtype: torch.dtype = torch.float64) -> LocalSampler:
    return LocalSampler(build(name, dtype), tokenizer())


def drawn(source: LocalSampler, rule: StepRule, settings: Sampling, n: int = 4, **beside: torch.nn.Module) -> Rollouts:
    return source.stepwise(EXAMPLES, n, settings, KEY, 10, Ruled(rule, beside))


def scored(rolls: Rollouts, model: torch.nn.Module, **settings: float) -> Tensor:
    yes = torch.ones(len(rolls), dtype=torch.bool)
    verdicts = Verdicts(answer=[None] * len(rolls), success=yes, graded=yes, score=yes.double(), vote={})
    return LMPolicy(model, **settings)(to_batch(rolls, verdicts, KEY)).logp.detach()


def same(a: Rollouts, b: Rollouts, tolerance: float = 1e-9) -> None:
    for name in ("ids", "mask", "group", "uid"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert list(a.text) == list(b.text) and list(a.finish) == list(b.finish)
    for name in ("logp", "logp_sampled", "entropy"):
        assert torch.allclose(getattr(a, name), getattr(b, name), atol=tolerance, rtol=0), name


@pytest.mark.parametrize("name", BUILDERS)
def test_a_rule_that_changes_nothing_draws_the_tokens_of_the_ordinary_sampler(name: str) -> None:
    source, settings = sampler(name), Sampling(temperature=0.8, top_p=0.95, max_tokens=16, block=3)
    plain = source.sample(EXAMPLES, 4, settings, KEY, 10)
    ruled = drawn(source, Free(), settings)
    same(plain, ruled, 1e-5)
    assert torch.equal(ruled.extra["place"], torch.arange(ruled.ids.shape[1]).double().where(ruled.mask, 0.0))
    assert {"eos", "length"} == set(plain.finish), "ragged, so that rows were dropped on the way"


def test_a_mask_that_is_off_changes_nothing() -> None:
    source, settings = sampler(), Sampling(max_tokens=14, top_k=9, block=2)
    same(source.sample(EXAMPLES, 4, settings, KEY, 10), drawn(source, OFF, settings))


def test_without_a_limit_and_a_marker_thinking_lasts_to_the_end() -> None:
    rolls = drawn(sampler(), Soft(Thinking(steps=0)), Sampling(max_tokens=14))
    assert torch.equal(rolls.extra["soft_weight"].sum(-1) > 0, rolls.mask & (rolls.ids != EOS))


def test_soft_thinking_without_noise_over_one_token_is_greedy() -> None:
    source, settings = sampler(), Sampling(max_tokens=12)
    greedy = source.sample(EXAMPLES, 1, replace(settings, top_k=1), KEY, 10)
    soft = drawn(source, Soft(Thinking(top_k=1, noise=0.0, steps=0)), settings, n=1)
    assert torch.equal(soft.ids, greedy.ids) and torch.equal(soft.mask, greedy.mask)
    assert torch.allclose(soft.logp, greedy.logp, atol=1e-9)


def test_rows_depend_on_their_own_numbers_alone() -> None:
    source, settings = sampler(), Sampling(max_tokens=12, block=8)
    for rule in (Soft(Thinking(steps=3)), InMask(Allowed(p=0.6, min_keep=1))):
        beside = {"mask": build("qwen3", torch.float64, seed=3)} if rule.passes else {}
        whole = source.stepwise(EXAMPLES, 4, settings, KEY, 10, Ruled(rule, beside))
        blocks = source.stepwise(EXAMPLES, 4, replace(settings, block=1), KEY, 10, Ruled(rule, beside))
        alone = source.stepwise(EXAMPLES[3:4], 4, settings, KEY, 13, Ruled(rule, beside))
        same(whole, blocks)
        rows, width = whole.take(torch.arange(12, 16)), alone.ids.shape[1]
        assert torch.equal(rows.ids[:, :width], alone.ids) and list(rows.text) == list(alone.text)
        for name, column in alone.extra.items():
            assert torch.allclose(rows.extra[name][:, :width], column, atol=1e-9), name


def test_tokens_stay_within_the_copys_nucleus_and_the_special_ones() -> None:
    source, other = sampler(), build("qwen3", torch.float64, seed=3)
    rule, settings = InMask(Allowed(p=0.3, min_keep=1)), Sampling(max_tokens=12, temperature=0.9)
    rolls = drawn(source, rule, settings, n=20, mask=other)
    assert torch.allclose(scored(rolls, source.model, temperature=0.9), rolls.logp, atol=1e-9), "unmasked, as KL wants"
    assert (rolls.logp_sampled >= rolls.logp - 1e-12).all() and (rolls.logp_sampled > rolls.logp + 0.1).any()
    seen = set()
    for row, prompt, mask in zip(rolls.ids, rolls.prompt.ids, rolls.mask, strict=True):
        ids = torch.tensor([[*prompt, *row[mask].tolist()]])
        logits = other(input_ids=ids).logits[0, len(prompt) - 1 : -1] / 0.9
        allowed = rule.allowed(logits)
        for place, token in enumerate(row[mask].tolist()):
            assert allowed[place, token] or token in special_ids(source.tokenizer)
            seen.add(bool(allowed[place, token]))
    assert seen == {True, False}, "special tokens were drawn from outside"


def test_a_mask_of_the_policys_own_weights_is_nucleus_sampling() -> None:
    source = sampler()
    bare = LocalSampler(source.model, tokenizer())
    bare.tokenizer.pad_token = bare.tokenizer.bos_token = bare.tokenizer.eos_token = None
    settings = Sampling(max_tokens=10)
    ours = drawn(bare, InMask(Allowed(p=0.7, min_keep=1)), settings, mask=source.model)
    same(bare.sample(EXAMPLES, 4, replace(settings, top_p=0.7), KEY, 10), ours)


def test_the_policys_own_top_k_is_kept_in_a_column() -> None:
    source, settings = sampler(), Sampling(max_tokens=6)
    rolls = drawn(source, InMask(Allowed(kind="topk", k=3)), settings)
    kept = rolls.extra["kept_ids"]
    assert kept.shape == (*rolls.ids.shape, 3)
    inside = (kept == rolls.ids[..., None]).any(dim=2) | torch.isin(rolls.ids, torch.tensor([0, 1, 2]))
    assert inside[rolls.mask].all()


def test_a_soft_step_keeps_what_it_did() -> None:
    source, how = sampler(), Thinking(steps=3, top_k=4, tau=0.5)
    rolls = drawn(source, Soft(how), Sampling(max_tokens=8))
    extra = rolls.extra
    soft = extra["soft_weight"].sum(dim=-1) > 0
    assert (soft[:, :3] == (rolls.mask & (rolls.ids != EOS))[:, :3]).all() and not soft[:, 3:].any()
    weight = how.mixture(extra["soft_noise"][soft])
    assert torch.allclose(weight, extra["soft_weight"][soft]) and extra["soft_noise"].dtype == torch.float64
    assert torch.allclose(weight.sum(dim=1), torch.ones(len(weight), dtype=torch.float64))
    heaviest = extra["soft_ids"].gather(2, extra["soft_weight"].argmax(dim=2, keepdim=True))[..., 0]
    assert torch.equal(heaviest[soft], rolls.ids[soft])
    for name in ("soft_ids", "soft_weight", "soft_noise", "soft_on"):
        assert not extra[name][~soft].any(), "plain tokens have none"
    first = source.model(input_ids=torch.tensor([rolls.prompt.ids[0]])).logits[:, -1]
    ids, share = how.likely(first)
    noise = more_uniforms(KEY, rolls.uid[:1], 0)(4)
    assert torch.equal(extra["soft_ids"][0, 0], ids[0])
    assert torch.allclose(extra["soft_noise"][0, 0], how.perturbed(share, noise)[0], atol=1e-9)


@pytest.mark.parametrize("name", ["qwen3", "llama", "gpt2"])
def test_the_policy_replays_mixtures_as_the_sampler_fed_them(name: str) -> None:
    """Packed and padded: log-probs of what was drawn behind soft steps equal those of the sampler's own pass."""
    source = sampler(name)
    rolls = drawn(source, Soft(Thinking(steps=4, tau=1.0)), Sampling(max_tokens=9))
    again = scored(rolls, source.model)
    assert torch.allclose(again, rolls.logp, atol=1e-9)
    plain = replace(rolls, extra={})
    assert (scored(plain, source.model) - rolls.logp).abs().max() > 1e-3, "as tokens they would be others"


def test_no_gradient_flows_through_a_mixture() -> None:
    source = sampler("llama")
    rolls = drawn(source, Soft(Thinking(steps=4, tau=1.0, top_k=3)), Sampling(max_tokens=5), n=1)
    table = embedding(source.model).weight
    fed = set(rolls.ids[:, 4].tolist()) | {token for prompt in rolls.prompt.ids for token in prompt}
    yes = torch.ones(len(rolls), dtype=torch.bool)
    verdicts = Verdicts(answer=[None] * len(rolls), success=yes, graded=yes, score=yes.double(), vote={})
    LMPolicy(source.model)(to_batch(rolls, verdicts, KEY)).logp.sum().backward()
    touched = set(table.grad.abs().sum(dim=1).nonzero()[:, 0].tolist())
    source.model.zero_grad()
    assert touched <= fed and {t for p in rolls.prompt.ids for t in p} <= touched


def test_thinking_ends_at_the_marker_and_the_forced_one_is_off_the_mask() -> None:
    source, end = sampler(), 9
    rolls = drawn(source, Soft(Thinking(steps=3, end="g"), end), Sampling(max_tokens=8), n=30)
    soft = rolls.extra["soft_weight"].sum(dim=-1) > 0
    kinds = set()
    for ids, mask, on, finish in zip(rolls.ids, rolls.mask, soft, rolls.finish, strict=True):
        marks = (ids == end).nonzero()[:, 0].tolist()
        if not marks:
            assert finish == "eos" and not on[ids == EOS].any()
            continue
        first = marks[0]
        assert on[:first].all() and not on[first:].any(), "soft before, tokens from the marker on"
        assert bool(mask[first]) == (first < 3), "one that was forced is nobody's action"
        kinds.add(first < 3)
    assert kinds == {True, False}


def test_columns_follow_rows_and_become_columns_of_the_batch() -> None:
    rolls = drawn(sampler(), Soft(Thinking(steps=2)), Sampling(max_tokens=4))
    part = rolls.take(torch.tensor([3, 1]))
    assert torch.equal(part.extra["soft_ids"], rolls.extra["soft_ids"][[3, 1]])
    narrow = replace(part, **{n: getattr(part, n)[:, :2] for n in ("ids", "mask", "logp", "logp_sampled", "entropy")})
    narrow = replace(narrow, extra={name: column[:, :2] for name, column in part.extra.items()})
    joined = Rollouts.concat([rolls, narrow])
    assert joined.extra["soft_noise"].shape == (len(rolls) + 2, 4, 5)
    assert not joined.extra["soft_noise"][-2:, 2:].any()
    with pytest.raises(InputError, match="others were not"):
        Rollouts.concat([rolls, replace(part, extra={})])


def test_a_marker_of_several_tokens_is_refused() -> None:
    assert single_id(tokenizer(), "g", "end") == 9
    with pytest.raises(InputError, match=r"objective\.thinking\.end is 'ab', which is 2 tokens"):
        single_id(tokenizer(), "ab", "objective.thinking.end")


def test_further_uniforms_are_no_uniforms_of_tokens() -> None:
    uid = torch.tensor([3, 4])
    plain, more = uniforms(KEY, uid, 500), more_uniforms(KEY, uid, 2)(5)
    assert not torch.isin(more, plain).any()
    assert torch.equal(more, more_uniforms(KEY, uid.flip(0), 2)(5).flip(0))
    assert not torch.isin(more, more_uniforms(KEY, uid, 3)(5)).any()


def test_diverged_weights_stop_in_a_sentence() -> None:
    source = sampler()
    with torch.no_grad():
        embedding(source.model).weight.fill_(torch.nan)
    for rule in (Free(), Soft(Thinking()), OFF):
        with pytest.raises(GuardStop, match="not finite at step 0"):
            drawn(source, rule, Sampling(max_tokens=3))


def test_a_model_that_looks_at_ids_besides_is_refused() -> None:
    model = build("qwen3", torch.float64)
    refuse_unmixable(model)
    inner = model.model.forward

    def by_ids(**given: Tensor) -> object:
        assert "input_ids" in given, "needs ids"
        return inner(**given)

    def stubborn(**given: Tensor) -> object:
        if "input_ids" not in given:
            raise ValueError("needs ids")
        return by_ids(**given)

    model.model.forward = stubborn
    with pytest.raises(InputError, match="does not take embeddings in place of tokens"):
        refuse_unmixable(model)
