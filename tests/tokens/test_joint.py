"""Needs of every pass: computed with the policy's gradient, none through other weights, and the same in any cut."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rekindle.core.distill import LOGP_TEACHER
from rekindle.core.random import uniforms
from rekindle.core.types import Batch, Need, Seen, taken
from rekindle.tokens.collect import to_batch
from rekindle.tokens.policy import LMPolicy
from tests.methods.made import VERIFIER, group_rollouts
from tests.methods.stage import gradients
from tests.tiny_models import build


def batch_of(g: int = 0) -> Batch:
    """The rows of one made-up prompt."""
    rows = group_rollouts(g)
    batch = to_batch(rows, VERIFIER.verify(rows), torch.tensor(5))
    return batch.with_columns(wide=torch.rand(*batch.mask.shape, 3, generator=torch.Generator().manual_seed(0)))


def own(seen: Seen) -> Tensor:
    """The policy's log-prob of each action."""
    return taken(torch.log_softmax(seen.logits["policy"], dim=-1), seen.action)


def gap(seen: Seen) -> Tensor:
    """KL of the policy to the other model, over the whole vocabulary."""
    logp, other = (torch.log_softmax(seen.logits[name], dim=-1) for name in ("policy", "teacher"))
    return (logp.exp() * (logp - other)).sum(dim=-1)


OWN, GAP = Need("own", own, when="now"), Need("gap", gap, passes=("policy", "teacher"), when="now")


@pytest.mark.parametrize("chunk", [None, 3])
def test_a_need_of_every_pass_has_the_policys_gradient(chunk: int | None) -> None:
    model, batch = build("llama", torch.float64), batch_of()
    policy = LMPolicy(model, chunk=chunk)
    now = policy(batch, (OWN,))
    torch.testing.assert_close(now.extra["own"], now.logp, rtol=1e-12, atol=1e-12)
    parameters = list(model.parameters())
    weight = torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mine = gradients(parameters, lambda: (policy(batch, (OWN,)).extra["own"] * weight).sum().backward())
    want = gradients(parameters, lambda: (policy(batch).logp * weight).sum().backward())
    torch.testing.assert_close(mine, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_another_model_is_seen_beside_the_policy_and_gets_no_gradient(kind: str) -> None:
    """Also one of another architecture, which is given whole rows."""
    model, teacher, batch = build("llama", torch.float64), build(kind, torch.float64, seed=1), batch_of()
    policy = LMPolicy(model)
    now = policy(batch, (GAP,), {"teacher": teacher})
    now.extra["gap"].sum().backward()
    assert all(p.grad is None for p in teacher.parameters()) and any(p.grad is not None for p in model.parameters())
    one = (batch.mask.sum(dim=1)).argmax()
    prompt, size = batch.prompt.ids[one], int(batch.mask[one].nonzero().max()) + 1  # type: ignore[attr-defined]
    ids = torch.tensor([[*prompt, *batch.action[one, :size].tolist()]])
    with torch.no_grad():
        logp, other = (torch.log_softmax(m(ids).logits[0, len(prompt) - 1 : -1], -1) for m in (model, teacher))
    want = (logp.exp() * (logp - other)).sum(-1)
    got = now.extra["gap"][one, :size]
    torch.testing.assert_close(got, want.where(batch.mask[one, :size], 0.0), rtol=1e-6, atol=1e-8)


def test_columns_and_draws_stand_beside_their_actions_in_any_cut() -> None:
    batch, policy = batch_of(), LMPolicy(build("llama", torch.float64), chunk=4)

    def read(seen: Seen) -> Tensor:
        return seen.columns["wide"][:, 1].double() + 10 * seen.draws(2)[:, 1]

    need = Need("read", read, when="now")
    whole = policy(batch, (need,)).extra["read"]
    places = torch.arange(batch.mask.shape[1])
    table = torch.stack([uniforms(batch.key, batch.uid, 2, offset=2 * int(t))[:, 1] for t in places], dim=1)
    want = (batch.column("wide")[..., 1].double() + 10 * table).where(batch.mask, 0.0)
    torch.testing.assert_close(whole, want)
    order = torch.tensor([4, 1, 0])
    torch.testing.assert_close(policy(batch.take(order), (need,)).extra["read"], want[order])
    scored = policy.columns(batch, (replace(need, when="rollout"),), {})["read"]
    torch.testing.assert_close(scored, want)


def test_draws_without_a_place_are_refused() -> None:
    nothing = torch.zeros(1, 2)
    seen = Seen({"policy": nothing}, {}, {}, {}, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="where these actions stand"):
        seen.draws(1)


def test_a_teacher_of_the_same_architecture_with_a_window_is_seen_as_it_is() -> None:
    model, batch = build("qwen3"), batch_of()
    config = deepcopy(model.config)
    config.layer_types, config.sliding_window, config.use_sliding_window = ["sliding_attention"] * 2, 3, True
    teacher = type(model)(config).eval()
    teacher.load_state_dict(model.state_dict())
    said = LMPolicy(model).columns(batch, (LOGP_TEACHER,), {"teacher": teacher})["logp_teacher"]
    one = (batch.mask.sum(dim=1)).argmax()
    prompt, size = batch.prompt.ids[one], int(batch.mask[one].nonzero().max()) + 1  # type: ignore[attr-defined]
    ids = torch.tensor([[*prompt, *batch.action[one, :size].tolist()]])
    with torch.no_grad():
        want = taken(torch.log_softmax(teacher(ids).logits[0, len(prompt) - 1 : -1], -1), batch.action[one, :size])
    torch.testing.assert_close(said[one, :size], want.where(batch.mask[one, :size], 0.0), rtol=1e-4, atol=1e-4)
