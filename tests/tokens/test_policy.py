"""The policy against the model's own full logits: values, gradients, and independence of padding and neighbours."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rekindle.core.advantages import GroupNormalized
from rekindle.core.descend import backward
from rekindle.core.method import PolicyGradient
from rekindle.core.objectives import Clip
from rekindle.core.random import pack_key
from rekindle.core.terms import EntropyBonus, KLToReference
from rekindle.core.types import ENTROPY_OLD, LOGP_OLD, LOGP_REF, Batch, Need, Now, Seen, entropy_of
from rekindle.errors import InputError
from rekindle.tokens.collect import to_batch
from rekindle.tokens.heads import split
from rekindle.tokens.labels import Verdicts
from rekindle.tokens.policy import LMPolicy, logp_and_entropy
from rekindle.tokens.rollouts import Example, PromptRows, Rollouts
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.local import LocalSampler
from tests.tiny_models import BUILDERS, EXACT, VOCABULARY, build, tokenizer

PROMPTS = ((5, 6, 7, 8, 9), (4,), (11, 3), (3, 4, 5), (9, 9), (6, 7))
LENGTHS = (4, 7, 1, 0, 9, 5)


def make(rows: tuple[int, ...] = tuple(range(6)), width: int = 9, junk: int = 0, gap: bool = True) -> Batch:
    """Ragged rows: one empty, one with an inner gap in its mask; `junk` fills what lies after a row's end."""
    generator = torch.Generator().manual_seed(0)
    action = torch.randint(1, VOCABULARY, (6, 9), generator=generator)
    mask = torch.arange(9) < torch.tensor(LENGTHS)[:, None]
    action = torch.where(mask, action, junk)
    if gap:
        mask[4, 3:5] = False
    index = torch.tensor(rows, dtype=torch.int64)
    size = len(rows)
    return Batch(
        action=torch.nn.functional.pad(action, (0, width - 9), value=junk)[index],
        mask=torch.nn.functional.pad(mask, (0, width - 9))[index],
        uid=index.clone(),
        group=index.clone(),
        success=torch.ones(size, dtype=torch.bool),
        graded=torch.ones(size, dtype=torch.bool),
        score=torch.zeros(size),
        prompt=PromptRows(tuple(PROMPTS[i] for i in rows)),
        key=torch.tensor(0),
    )


def naive(model: nn.Module, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Row by row from full logits, a token at a time."""
    logp = torch.zeros(batch.mask.shape, dtype=next(model.parameters()).dtype)
    entropy = torch.zeros_like(logp)
    for b, prompt in enumerate(batch.prompt.ids):  # type: ignore[attr-defined]
        if not batch.mask[b].any():
            continue
        last = int(batch.mask[b].nonzero().max())
        ids = torch.tensor([[*prompt, *batch.action[b, : last + 1].tolist()]])
        table = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0] / temperature, dim=-1)
        for t in batch.mask[b].nonzero()[:, 0].tolist():
            row = table[len(prompt) + t - 1]
            logp[b, t] = row[batch.action[b, t]]
            entropy[b, t] = -(row.exp() * row).sum()
    return logp, entropy


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_equals_full_logits(name, dtype, tolerance):
    model, batch = build(name, dtype), make()
    logp, entropy = naive(model, batch, temperature=0.7)
    for chunk in (5, 2048):
        now = LMPolicy(model, temperature=0.7, chunk=chunk)(batch)
        assert now.logp.dtype == now.entropy.dtype == dtype
        assert torch.allclose(now.logp, logp, atol=tolerance, rtol=0)
        assert torch.allclose(now.entropy, entropy, atol=tolerance, rtol=0)
        assert not now.logp[~batch.mask].any() and not now.entropy[~batch.mask].any()
    # The models are far from uniform:
    assert float(logp.detach().min()) < -3 and float(entropy.detach()[batch.mask].std()) > 0.1


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("name", BUILDERS)
def test_gradient_equals_full_logits(name):
    model, batch = build(name, torch.float64), make()
    weight = torch.randn(2, *batch.mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logp, entropy = naive(model, batch)
    expected = gradients(model, (weight[0] * logp + weight[1] * entropy).sum())
    now = LMPolicy(model, chunk=4)(batch)
    got = gradients(model, (weight[0] * now.logp + weight[1] * now.entropy).sum())
    assert max(float(g.abs().max()) for g in expected.values()) > 0.1
    assert largest_difference(expected, got) < (1e-12 if name in EXACT else 1e-5)  # the others round inside


def test_rows_do_not_see_each_other():
    model = build("qwen3", torch.float64)
    policy = LMPolicy(model)
    whole = policy(make())
    for rows in ((0,), (3,), (4, 1), (5, 3, 2, 0)):
        part = policy(make(rows))
        assert torch.allclose(part.logp, whole.logp[list(rows)], atol=1e-12, rtol=0)
        assert torch.allclose(part.entropy, whole.entropy[list(rows)], atol=1e-12, rtol=0)
    expected = gradients(model, whole.logp.pow(2).sum())
    pieces = [gradients(model, policy(make(rows)).logp.pow(2).sum()) for rows in ((5, 1), (3,), (0, 2, 4))]
    summed = {name: sum(piece[name] for piece in pieces) for name in expected}
    assert largest_difference(expected, summed) < 1e-12


def test_padding_is_invisible_and_gets_exactly_no_gradient():
    model = build("llama", torch.float64)
    policy = LMPolicy(model)
    plain, padded = policy(make()), policy(make(width=14, junk=22))
    assert torch.equal(padded.logp[:, :9], plain.logp) and not padded.logp[:, 9:].any()
    unused = [token for token in range(VOCABULARY) if token not in {t for p in PROMPTS for t in p}]
    got = gradients(model, padded.logp.sum())["model.embed_tokens.weight"]
    context = set(make().action[make().mask].tolist()) | set(make().action[4].tolist())
    never = [token for token in unused if token not in context]
    assert never and not got[never].any()  # 0 pads the input


def test_a_gap_in_the_mask_stays_context():
    policy = LMPolicy(build("llama", torch.float64))
    gap, full = policy(make()), policy(make(gap=False))
    assert not gap.logp[4, 3:5].any() and full.logp[4, 3:5].all()
    assert torch.allclose(gap.logp[4, 5:], full.logp[4, 5:], atol=1e-12)


@pytest.mark.parametrize("rows", [(3,), (3, 3), ()])
def test_empty_mask_backpropagates_zero(rows):
    model = build("gemma2", torch.float64)
    batch = make(rows)
    now = LMPolicy(model)(batch)
    assert now.logp.shape == batch.mask.shape and not now.logp.any()
    got = gradients(model, now.logp.sum() + now.entropy.sum())
    assert got and all(not g.any() for g in got.values())


def test_empty_prompt_is_refused():
    batch = make((0, 1))
    policy = LMPolicy(build("llama"))
    with pytest.raises(InputError, match="no tokens"):
        policy(Batch(**{**vars(batch), "prompt": PromptRows(((), (4,)))}))


def test_never_holds_all_logits_of_a_batch():
    model = build("llama")
    policy, batch = LMPolicy(model, chunk=4), make()
    seen: list[int] = []
    handle = policy.parts.head.register_forward_hook(lambda _m, _a, out: seen.append(out.numel() // VOCABULARY))
    policy(batch).logp.sum().backward()
    handle.remove()
    tokens = int(batch.mask.sum())
    assert max(seen) == 4 and sum(seen) == 2 * tokens  # once forward, once recomputed; real tokens only


def test_minus_infinity_logits_are_safe():
    logits = torch.tensor([[0.0, -torch.inf, 1.0]], dtype=torch.float64, requires_grad=True)
    logp, entropy = logp_and_entropy(logits, torch.tensor([2]))
    p = 1 / (1 + math.e)
    assert logp.tolist() == pytest.approx([math.log(1 - p)])
    assert entropy.tolist() == pytest.approx([-p * math.log(p) - (1 - p) * math.log(1 - p)])
    (logp + entropy).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and float(logits.grad[0, 1]) == 0.0
    assert torch.equal(
        ENTROPY_OLD.compute(Seen({"policy": logits.detach()}, {}, {}, {}, torch.tensor([2]))), entropy.detach()
    )
    assert entropy_of(torch.full((1, 4), 0.25, dtype=torch.float64).log()).tolist() == pytest.approx([math.log(4)])


def test_construction_leaves_random_state_and_mode_alone():
    for training in (True, False):
        model = build("gemma3").train(training)
        before = torch.get_rng_state()
        policy = LMPolicy(model)
        policy(make())
        policy.columns(make(), [LOGP_OLD], {})
        assert torch.equal(torch.get_rng_state(), before)
        assert all(module.training == training for module in model.modules())
        assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("name", "attribute"), [("gemma2", "final_logit_softcapping"), ("llama", "")])
def test_unknown_logit_transform_is_refused(name, attribute, monkeypatch):
    model = build(name)
    if attribute:
        monkeypatch.setattr("rekindle.tokens.heads._CAPS", ())
    else:
        plain = model.forward

        def odd(input_ids, use_cache, return_dict):
            out = plain(input_ids=input_ids, use_cache=use_cache, return_dict=return_dict)
            out["logits"] = 1000 * torch.tanh(out.logits / 1000)  # 0.3 off at a logit of 100
            return out

        monkeypatch.setattr(model, "forward", odd)
    with pytest.raises(InputError, match=type(model).__name__):
        LMPolicy(model)


def test_dropout_is_refused():
    model = build("llama")
    model.config.attention_dropout = 0.1
    with pytest.raises(InputError, match="set attention_dropout=0"):
        LMPolicy(model)
    model.config.attention_dropout = 0.0
    model.model.layers[0].mlp.extra = nn.Dropout(0.2)
    with pytest.raises(InputError, match=r"model\.layers\.0\.mlp\.extra=0"):
        LMPolicy(model)


@pytest.mark.parametrize(("option", "value"), [("temperature", 0.0), ("temperature", float("inf")), ("chunk", 0)])
def test_settings_are_checked(option, value):
    with pytest.raises(InputError, match=option):
        LMPolicy(build("llama"), **{option: value})


def test_columns_equal_direct_scores():
    model, reference, batch = build("cohere2", torch.float64), build("cohere2", torch.float64, seed=1), make()
    policy = LMPolicy(model, temperature=0.8, chunk=5)
    gap = Need(
        "gap",
        lambda s: (s.logits["policy"] - s.logits["reference"]).gather(1, s.action[:, None])[:, 0],
        ("policy", "reference"),
    )
    for micro_batch in (1, 4, 100):
        got = policy.columns(batch, [LOGP_OLD, LOGP_REF, ENTROPY_OLD, gap], {"reference": reference}, micro_batch)
        now, ref = policy(batch), LMPolicy(reference, temperature=0.8)(batch)
        assert set(got) == {"logp_old", "logp_ref", "entropy_old", "gap"}
        assert torch.allclose(got["logp_old"], now.logp, atol=1e-12) and not got["logp_old"].requires_grad
        assert torch.allclose(got["logp_ref"], ref.logp, atol=1e-12)
        assert torch.allclose(got["entropy_old"], now.entropy, atol=1e-12)
        assert got["gap"][batch.mask].all() and not got["gap"][~batch.mask].any()
    assert float((got["logp_old"] - got["logp_ref"]).abs().max()) > 0.1


def test_columns_run_each_model_once_a_micro_batch():
    model = build("llama")
    policy = LMPolicy(model)
    calls: list[int] = []
    handle = policy.parts.backbone.register_forward_hook(lambda _m, _a, _o: calls.append(1))
    policy.columns(make(), [LOGP_OLD, ENTROPY_OLD], {}, micro_batch=3)
    handle.remove()
    assert len(calls) == 2
    assert policy.columns(make(), [], {}) == {}


def test_columns_refuse_an_unknown_pass():
    with pytest.raises(InputError, match="'reference'"):
        LMPolicy(build("llama")).columns(make(), [LOGP_REF], {})


def test_split_needs_a_language_model_head():
    with pytest.raises(InputError, match="LlamaModel"):
        split(build("llama").model)
    with pytest.raises(InputError, match="Linear"):
        split(nn.Linear(2, 2))


class Elsewhere(Tensor):
    """Stands for a tensor on a GPU: what is computed from it is one too, until it is copied to the CPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        out = super().__torch_function__(func, types, args, kwargs or {})
        copied = func is Tensor.cpu or (func is Tensor.to and torch.device("cpu") in args)
        return out.as_subclass(Tensor) if copied else out


def elsewhere(model: nn.Module) -> nn.Module:
    """All that `model` says is `Elsewhere`; scores, draws and lengths follow from its logits."""
    model.get_output_embeddings().register_forward_hook(lambda _m, _a, out: out.as_subclass(Elsewhere))  # type: ignore
    return model


def one_update(model: nn.Module, reference: nn.Module) -> tuple[Rollouts, dict[str, Tensor], Now, dict[str, Tensor]]:
    """Samples, scored columns, and the gradient of a loss with every column: the path of a step of training."""
    key = pack_key(1, 2, 3)
    examples = [Example(f"x{i}", text) for i, text in enumerate(["abcde", "f", "kkk"])]
    with torch.no_grad():
        rolls = LocalSampler(model, tokenizer()).sample(examples, 4, Sampling(max_tokens=12, stop=("q",)), key, 0)
    verdicts = Verdicts.of(rolls.text, [i % 2 == 0 for i in range(len(rolls))], {})
    policy, batch = LMPolicy(model, chunk=7), to_batch(rolls, verdicts, key)
    columns = policy.columns(batch, [LOGP_OLD, LOGP_REF, ENTROPY_OLD], {"reference": reference}, micro_batch=5)
    method = PolicyGradient(
        collect=lambda _run: batch,
        advantage=GroupNormalized(),
        objective=Clip(),
        terms=(EntropyBonus(coef=0.1), KLToReference(coef=0.1)),
    )
    model.zero_grad(set_to_none=True)
    _, now, _ = backward(policy, method.credit(batch.with_columns(**columns)), method, 5)
    grads = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return rolls, columns, now, grads


def test_what_the_model_says_comes_back_to_the_batch():
    plain = one_update(build("llama", torch.float64), build("llama", torch.float64, seed=1))
    rolls, columns, now, grads = one_update(
        elsewhere(build("llama", torch.float64)), elsewhere(build("llama", torch.float64, seed=1))
    )
    of_rolls = {name: value for name, value in vars(rolls).items() if isinstance(value, Tensor)}
    assert len(of_rolls) == 7
    for name, value in {**of_rolls, **columns, "logp": now.logp, "entropy": now.entropy}.items():
        assert type(value) is Tensor, f"{name} was left on the model's device"
    assert torch.equal(rolls.ids, plain[0].ids) and torch.allclose(now.logp, plain[2].logp, rtol=0, atol=1e-12)
    assert {"stop", "length"} <= set(rolls.finish)
    assert max(float(g.abs().max()) for g in grads.values()) > 1e-3
    assert largest_difference(grads, plain[3]) < 1e-12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_a_gpu_equals_the_cpu():
    rolls, columns, now, grads = one_update(build("llama", torch.float64), build("llama", torch.float64, seed=1))
    model, reference = build("llama", torch.float64).cuda(), build("llama", torch.float64, seed=1).cuda()
    there, scored, said, slopes = one_update(model, reference)
    assert torch.equal(there.ids, rolls.ids) and there.text == rolls.text and there.finish == rolls.finish
    for name, value in {**scored, "logp": said.logp, "entropy": said.entropy, "sampled": there.logp}.items():
        assert value.device.type == "cpu"
        same = {**columns, "logp": now.logp, "entropy": now.entropy, "sampled": rolls.logp}[name]
        assert torch.allclose(value, same, atol=1e-3, rtol=0)
    assert largest_difference(grads, slopes) < 1e-3
