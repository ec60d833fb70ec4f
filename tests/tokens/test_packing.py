"""Packed tokens: every prompt once, nothing padded, and the same numbers and gradients as padded rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rekindle.errors import InputError
from rekindle.tokens import packed, packing
from rekindle.tokens.packed import can_pack, checkpoint_layers, packed_hidden, padded_hidden
from rekindle.tokens.packing import Packing, pack
from rekindle.tokens.policy import LMPolicy
from tests.tiny_models import BUILDERS, VOCABULARY, build
from tests.tokens.test_policy import gradients, largest_difference, make

PACKING = {"llama", "qwen3", "granite", "gpt2", "gpt_neox"}  # the others have windows or cap their scores
A, B, C = (5, 6, 7, 8, 9), (4,), (11, 3, 9)
PROMPTS = (A, B, A, C, A, B, A, C, A, A, B, A)
LENGTHS = (4, 7, 1, 0, 9, 5, 2, 8, 3, 6, 9, 1)


def rows() -> tuple[tuple[tuple[int, ...], ...], Tensor, Tensor]:
    action = torch.randint(1, VOCABULARY, (12, 9), generator=torch.Generator().manual_seed(0))
    return PROMPTS, action, torch.arange(9) < torch.tensor(LENGTHS)[:, None]


def test_every_prompt_stands_once_and_no_pad_at_all() -> None:
    found = pack(*rows())
    assert len(found.ids) == len(A) + len(B) + len(C) + sum(max(n - 1, 0) for n in LENGTHS)
    assert len(found.action) == len(found.flat) == sum(LENGTHS)
    assert found.ids[: len(A)].tolist() == list(A) and found.position[: len(A)].tolist() == [0, 1, 2, 3, 4]
    assert sorted(found.home.tolist()) == sorted(set(found.home.tolist()))  # a seat of its own for each token


def test_worked_example() -> None:
    action = torch.tensor([[20, 21, 22], [23, 0, 0], [24, 25, 0]])
    mask = torch.tensor([[True, True, True], [True, False, False], [False, True, False]])
    found = pack(((1, 2), (1, 2), (3,)), action, mask)
    assert found.ids.tolist() == [1, 2, 3, 20, 21, 24]
    assert found.position.tolist() == [0, 1, 0, 2, 3, 1]
    assert found.action.tolist() == [20, 21, 22, 23, 25]
    assert found.flat.tolist() == [1, 3, 4, 1, 5]  # both first actions are predicted by the one token 2


def states(model: nn.Module, whole: bool) -> tuple[Tensor, Packing]:
    found = pack(*rows(), whole=whole)
    return (padded_hidden if whole else packed_hidden)(model, found), found


@pytest.mark.parametrize("short", [256, 0, 7])
@pytest.mark.parametrize("name", sorted(PACKING))
def test_hidden_states_and_gradients_are_those_of_padded_rows(
    name: str, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """short 0 and 7: the fused kernel, on causal rows, on rows beside their prompts, and both in one batch."""
    monkeypatch.setattr(packing, "SHORT", short)
    monkeypatch.setattr(packed, "SHORT", short)
    monkeypatch.setattr(packing, "_ROWS", 1)
    model = build(name, torch.float64)
    weight = torch.randn(sum(LENGTHS), 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = {}
    for whole in (True, False):
        hidden, order = states(model, whole)
        picked = hidden[order.flat]
        found[whole] = (picked.detach(), gradients(model, (picked * weight).sum()))
    assert len(pack(*rows()).buckets) > 3
    torch.testing.assert_close(found[True][0], found[False][0], rtol=0, atol=1e-12)
    largest = max(float(g.abs().max()) for g in found[True][1].values())
    assert largest > 0.1 and largest_difference(found[True][1], found[False][1]) < 1e-12 * largest


def test_long_prompts_are_not_repeated_in_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SHORT", 0)
    action = torch.ones(4, 3, dtype=torch.int64)
    found = pack(((1,) * 50,) * 4, action, torch.ones(4, 3, dtype=torch.bool))
    asked, answers = found.buckets
    assert asked.query.shape == (1, 50) and answers.query.shape == (4, 2) and answers.key.shape == (4, 52)


@pytest.mark.parametrize("name", BUILDERS)
def test_who_packs(name: str) -> None:
    assert LMPolicy(build(name)).packs is (name in PACKING)


@pytest.mark.parametrize("name", sorted(PACKING))
def test_scores_of_packed_and_padded_rows_agree_in_single_precision(name: str) -> None:
    model, batch = build(name), make()
    policy, padded = LMPolicy(model), LMPolicy(model)
    object.__setattr__(padded, "packs", False)
    with torch.no_grad():
        a, b = policy(batch), padded(batch)
    torch.testing.assert_close(a.logp, b.logp, rtol=0, atol=1e-5)
    torch.testing.assert_close(a.entropy, b.entropy, rtol=0, atol=1e-5)
    assert float(a.logp.min()) < -3


def test_a_model_that_keeps_its_arguments_to_itself_is_padded() -> None:
    model = build("llama")
    config = model.config
    model.model.layers[0].register_forward_pre_hook(
        lambda _m, args, kwargs: (args, {k: v for k, v in kwargs.items() if k != "packing"}), with_kwargs=True
    )
    assert not can_pack(model) and config._attn_implementation == "sdpa"
    padded, plain = LMPolicy(model)(make()), LMPolicy(build("llama"))(make())
    torch.testing.assert_close(padded.logp, plain.logp, rtol=0, atol=1e-5)


def test_a_model_without_a_cache_is_padded_and_scored_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_cache(_model: nn.Module) -> bool:
        raise InputError("keeps a state whose rows cannot be dropped while decoding")

    monkeypatch.setattr(packed, "is_plain", no_cache)
    policy = LMPolicy(build("llama"))
    assert not policy.packs and float(policy(make()).logp.detach().min()) < -3


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_recomputed_layers_have_the_same_gradient_and_keep_less(name: str) -> None:
    batch, found, kept = make(), [], []
    for recomputed in (False, True):
        model = build(name, torch.float64).train()
        if recomputed:
            checkpoint_layers(model)
        held: dict[int, int] = {}

        def note(x: Tensor, held: dict[int, int] = held) -> Tensor:
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            now = LMPolicy(model)(batch)
        kept.append(sum(held.values()))
        found.append(gradients(model, now.logp.sum() + now.entropy.pow(2).sum()))
    assert largest_difference(*found) < 1e-12 and kept[1] < 0.8 * kept[0]


def test_a_model_without_recomputation_is_refused() -> None:
    model = build("llama")
    model.supports_gradient_checkpointing = False
    with pytest.raises(InputError, match="set checkpointing=false"):
        checkpoint_layers(model)


def test_products_in_bfloat16_leave_weights_and_gradients_in_single_precision() -> None:
    model, batch = build("llama"), make()
    exact, narrow = LMPolicy(model)(batch), LMPolicy(model, precision="bf16")(batch)
    far = (narrow.logp - exact.logp).detach().abs().max()
    assert narrow.logp.dtype == torch.float32 and 1e-4 < far.item() < 0.3
    grads = gradients(model, narrow.logp.sum())
    assert {g.dtype for g in grads.values()} == {torch.float32}
    slopes = torch.cat([g.flatten() for g in grads.values()])
    right = torch.cat([g.flatten() for g in gradients(model, LMPolicy(model)(batch).logp.sum()).values()])
    assert float(torch.cosine_similarity(slopes, right, dim=0)) > 0.99


def test_an_empty_prompt_cannot_be_packed_where_its_first_token_is_an_action() -> None:
    with pytest.raises(InputError, match="prepend a BOS token"):
        pack(((),), torch.ones(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool))
    later = pack(((),), torch.tensor([[3, 4]]), torch.tensor([[False, True]]))
    assert later.ids.tolist() == [3] and later.flat.tolist() == [0] and later.action.tolist() == [4]
