"""The local sampler: exact frequencies, agreement with the policy, tokens by (key, uid, position) alone."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from rekindle.core.random import pack_key, uniforms
from rekindle.core.types import Batch
from rekindle.errors import GuardStop, InputError
from rekindle.tokens.loader import eos_ids
from rekindle.tokens.policy import LMPolicy
from rekindle.tokens.rollouts import Example, Rollouts
from rekindle.tokens.sampling import decode
from rekindle.tokens.sampling import laid_out as layout
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.cascade import Cascade
from rekindle.tokens.sampling.draw import Draw, draw, kept
from rekindle.tokens.sampling.growing import GrowingLayer
from rekindle.tokens.sampling.laid_out import laid_out
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.tokens.sampling.stops import suspect_tokens
from tests.tiny_models import BUILDERS, EOS, build, tokenizer

KEY = pack_key(5, 0, 0)
EXAMPLES = [Example(f"x{i}", text) for i, text in enumerate(["abcde", "f", "kkk", "ba", "abcdefghij"])]


def sampler(name: str = "qwen3", dtype: torch.dtype = torch.float32, seed: int = 0) -> LocalSampler:
    return LocalSampler(build(name, dtype, seed=seed), tokenizer())


def as_batch(rolls: Rollouts) -> Batch:
    flat = torch.ones(len(rolls), dtype=torch.bool)
    return Batch(
        action=rolls.ids,
        mask=rolls.mask,
        uid=rolls.uid,
        group=rolls.group,
        success=flat,
        graded=flat,
        score=flat.float(),
        prompt=rolls.prompt,
        key=KEY,
    )


def same(a: Rollouts, b: Rollouts, tolerance: float = 0.0) -> None:
    assert torch.equal(a.ids, b.ids) and torch.equal(a.mask, b.mask)
    assert torch.equal(a.uid, b.uid) and torch.equal(a.group, b.group)
    assert list(a.text) == list(b.text) and list(a.finish) == list(b.finish)
    for name in ("logp", "logp_sampled", "entropy"):
        assert torch.allclose(getattr(a, name), getattr(b, name), atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", BUILDERS)
def test_agrees_with_the_policy(name, temperature=0.8):
    source = sampler(name)
    rolls = source.sample(EXAMPLES, 6, Sampling(temperature=temperature, max_tokens=16, block=3), KEY, 0)
    now = LMPolicy(source.model, temperature=temperature)(as_batch(rolls))
    assert torch.allclose(now.logp, rolls.logp, atol=1e-4, rtol=0)
    assert torch.allclose(now.entropy, rolls.entropy, atol=1e-4, rtol=0)
    assert torch.equal(rolls.logp, rolls.logp_sampled)
    assert {"eos", "length"} == set(rolls.finish)  # ragged, so rows were dropped on the way


def test_layout_of_the_rollouts():
    rolls = sampler().sample(EXAMPLES[:2], 3, Sampling(max_tokens=12), KEY, first_group=7)
    assert rolls.group.tolist() == [7, 7, 7, 8, 8, 8] and rolls.uid.tolist() == [21, 22, 23, 24, 25, 26]
    assert [e.id for e in rolls.example] == ["x0"] * 3 + ["x1"] * 3
    assert rolls.prompt.ids == ((3, 4, 5, 6, 7),) * 3 + ((8,),) * 3
    assert rolls.mask.shape[1] == int(rolls.mask.sum(1).max())
    for ids, mask, text, finish in zip(rolls.ids, rolls.mask, rolls.text, rolls.finish, strict=True):
        row = ids[mask].tolist()
        assert mask.tolist() == [True] * len(row) + [False] * (len(mask) - len(row)) and not ids[~mask].any()
        assert (row[-1] == EOS) == (finish == "eos") and EOS not in row[:-1]
        assert finish == "eos" or len(row) == 12
        assert text == "".join(chr(ord("a") + token - 3) for token in row if token >= 3)
    for column in (rolls.logp, rolls.logp_sampled, rolls.entropy):
        assert not column[~rolls.mask].any() and column[rolls.mask].all()


@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_tokens_do_not_depend_on_block_or_company(name):
    source = sampler(name, torch.float64)
    settings = Sampling(max_tokens=16, block=8, top_p=0.95)
    whole = source.sample(EXAMPLES, 4, settings, KEY, 10)
    for block in (1, 2, 3):
        same(whole, source.sample(EXAMPLES, 4, replace(settings, block=block), KEY, 10), 1e-10)
    alone = source.sample(EXAMPLES[3:4], 4, settings, KEY, 13)
    rows = whole.take(torch.arange(12, 16))
    assert alone.text == rows.text and torch.equal(alone.uid, rows.uid)
    same(whole, source.sample(EXAMPLES, 4, settings, KEY, 10))


def test_other_keys_and_groups_give_other_tokens():
    source = sampler()
    texts = {
        (seed, first): tuple(source.sample(EXAMPLES, 2, Sampling(max_tokens=10), pack_key(seed, 0, 0), first).text)
        for seed, first in itertools.product((0, 1), (0, 5))
    }
    assert len(set(texts.values())) == 4


@pytest.mark.parametrize("name", BUILDERS)
def test_dropping_rows_changes_nothing(name, monkeypatch):
    source = sampler(name, torch.float64)
    settings = Sampling(max_tokens=20)
    eager = source.sample(EXAMPLES, 4, settings, KEY, 0)
    for share in (1e-9, 2.0):  # drop at once, and never
        monkeypatch.setattr(decode, "_DROP_SHARE", share)
        monkeypatch.setattr(decode, "_CASCADE_DROP_SHARE", share)
        same(eager, source.sample(EXAMPLES, 4, settings, KEY, 0), 1e-6)


@pytest.mark.parametrize("name", ["llama", "qwen3", "granite", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("prompts", [EXAMPLES, EXAMPLES[2:3]])
def test_fast_path_equals_general_path(name, prompts, monkeypatch):
    source = sampler(name, torch.float64)
    assert source.decoder.plain
    calls: list[int] = []
    update = GrowingLayer.update
    monkeypatch.setattr(GrowingLayer, "update", lambda *a, **k: (calls.append(1), update(*a, **k))[1])
    monkeypatch.setattr("rekindle.tokens.sampling.growing._FIRST_ROOM", 3)  # so that buffers grow
    fast = source.sample(prompts, 5, Sampling(max_tokens=20), KEY, 0)
    assert calls and source.model.config._attn_implementation == "sdpa"
    source.decoder.plain = False
    same(fast, source.sample(prompts, 5, Sampling(max_tokens=20), KEY, 0), 1e-10)


@pytest.mark.parametrize("name", ["llama", "qwen3", "granite", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("stop", [(), ("b",)])
def test_admission_changes_no_token(name, stop, monkeypatch):
    monkeypatch.setattr("rekindle.tokens.sampling.growing._FIRST_ROOM", 3)
    source = sampler(name, torch.float64)
    starts: list[int] = []
    begin = Cascade.join
    monkeypatch.setattr(Cascade, "join", lambda self, *a: (starts.append(self.rows.width), begin(self, *a))[1])
    for block in (1, 2, 3):
        settings = Sampling(max_tokens=20, block=block, stop=stop)
        apart = source.sample(EXAMPLES, 4, settings, KEY, 3)
        assert set(starts) == {1}
        starts.clear()
        together = source.sample(EXAMPLES, 4, replace(settings, admit=True), KEY, 3)
        same(apart, together, 1e-10)
        same(together, source.sample(EXAMPLES, 4, replace(settings, admit=True), KEY, 3))
        assert len(starts) > 2 and max(starts) > 1  # some joined rows that were under way
        starts.clear()
    general = sampler("gemma2")  # cannot: decodes in blocks
    settings = Sampling(max_tokens=9, block=2)
    same(
        general.sample(EXAMPLES, 3, settings, KEY, 0),
        general.sample(EXAMPLES, 3, replace(settings, admit=True), KEY, 0),
    )


def test_a_prompt_is_held_once_and_goes_with_its_last_row(monkeypatch):
    source, seen = sampler(), []
    keep = Cascade.keep

    def watched(self, order):
        keep(self, order)
        rows = torch.bincount(self.prompt, minlength=len(self.seen))
        assert bool((rows > 0).all()) and len(order) == int(rows.sum())
        assert all(layer.prompt_keys.shape[0] == len(self.seen) for layer in self.layers)
        assert bool(self.seen[:, 0].any())  # no column is padding for all
        seen.append(self.seen.shape)

    monkeypatch.setattr(Cascade, "keep", watched)
    source.sample(EXAMPLES, 4, Sampling(max_tokens=50), KEY, 0)
    assert max(seen)[0] == 5 and len({prompts for prompts, _ in seen}) > 1


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_attention_that_hands_nothing_on_decodes_the_general_way(name):
    model, source = build(name, torch.float64), sampler(name, torch.float64)
    for module in model.modules():
        if type(module).__name__.endswith("Attention"):
            module.register_forward_pre_hook(
                lambda _m, args, kwargs: (args, {k: v for k, v in kwargs.items() if k != "cascade"}), with_kwargs=True
            )
    general = LocalSampler(model, tokenizer())
    assert source.decoder.plain and not general.decoder.plain
    settings = Sampling(max_tokens=12)
    same(source.sample(EXAMPLES, 4, settings, KEY, 0), general.sample(EXAMPLES, 4, settings, KEY, 0), 1e-10)


@pytest.mark.parametrize("admit", [False, True])
@pytest.mark.parametrize("how", ["autocast", "weights"])
@pytest.mark.parametrize("name", ["qwen3", "gpt2"])
def test_reduced_precision(name, how, admit, monkeypatch):
    monkeypatch.setattr("rekindle.tokens.sampling.laid_out._LEAST", 1)
    model = build(name, torch.bfloat16 if how == "weights" else torch.float32)
    source = LocalSampler(model, tokenizer(), precision="bf16" if how == "autocast" else "full")
    kinds: set[torch.dtype] = set()
    update = GrowingLayer.update

    def watched(self, *a, **k):
        kinds.update((self.own_keys.dtype, self.prompt_values.dtype))
        return update(self, *a, **k)

    monkeypatch.setattr(GrowingLayer, "update", watched)
    settings = Sampling(max_tokens=16, block=2, admit=admit)
    rolls = source.sample(EXAMPLES, 6, settings, KEY, 0)
    assert kinds == {torch.bfloat16} and rolls.logp.dtype == rolls.entropy.dtype == torch.float32
    with torch.no_grad():
        now = LMPolicy(build(name))(as_batch(rolls))  # the same weights
    assert float((now.logp - rolls.logp)[rolls.mask].abs().mean()) < 0.1


def test_layers_are_themselves_again_where_laying_them_out_failed(monkeypatch):
    model, done = build("llama"), []
    monkeypatch.setattr("rekindle.tokens.sampling.laid_out._LEAST", 1)
    plain = layout._forward

    def fails(layer):
        if done:
            raise RuntimeError("no memory")
        done.append(layer)
        return plain(layer)

    monkeypatch.setattr(layout, "_forward", fails)
    with pytest.raises(RuntimeError, match="no memory"), laid_out(model):
        pass
    assert done and not any("forward" in vars(m) for m in model.modules())


def test_laid_out_layers_act_as_themselves(monkeypatch):
    settings, source = Sampling(max_tokens=12), sampler()
    calls: list[int] = []
    source.model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: calls.append(1))
    plain = source.sample(EXAMPLES, 4, settings, KEY, 0)
    before = len(calls)
    monkeypatch.setattr("rekindle.tokens.sampling.laid_out._LEAST", 1)
    with laid_out(source.model):
        assert sum("forward" in vars(m) for m in source.model.modules()) == 2 * 7 + 1
    laid = source.sample(EXAMPLES, 4, settings, KEY, 0)
    same(plain, laid, 1e-5)
    assert len(calls) == 2 * before > 0  # hooks act
    assert not any("forward" in vars(m) for m in source.model.modules())
    layer = nn.Linear(8, 6)  # with a bias
    x = torch.randn(5, 1, 8)
    with torch.no_grad(), laid_out(layer):
        assert "forward" in vars(layer)
        assert torch.allclose(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias), atol=1e-6)


def plain_draw(logits: Tensor, uniform: Tensor, settings: Sampling) -> Draw:
    """The definition, in whole passes over the vocabulary."""
    logp = torch.log_softmax(logits / settings.temperature, dim=-1)
    full = logp.exp()
    entropy = -(full * logp.masked_fill(logp == -torch.inf, 0.0)).sum(dim=-1)
    cdf = (full.masked_fill(~kept(full, settings), 0.0) if settings.truncates else full).cumsum(-1, dtype=torch.float64)
    token = torch.searchsorted(cdf, uniform[:, None] * cdf[:, -1:], right=True)
    taken = logp.gather(1, token)[:, 0]
    cut = taken - cdf[:, -1].log().to(taken.dtype) if settings.truncates else taken
    return Draw(token[:, 0], taken, cut, entropy)


@pytest.mark.parametrize("settings", [Sampling(), Sampling(temperature=0.7), Sampling(top_p=0.9), Sampling(top_k=40)])
@pytest.mark.parametrize("vocabulary", [1, 5, 127, 128, 129, 1000, 1024])
def test_draw_equals_its_definition(vocabulary, settings):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 4 * torch.randn(200, vocabulary, generator=generator)
    ruled_out = torch.rand(200, vocabulary, generator=generator) < 0.3
    ruled_out[::2] = False
    ruled_out[torch.arange(200), torch.randint(vocabulary, (200,), generator=generator)] = False
    logits = logits.masked_fill(ruled_out, -torch.inf)
    uniform = torch.rand(200, generator=generator, dtype=torch.float64)
    uniform[:4] = torch.tensor([2.0**-51, 1 - 2.0**-51, 0.5, 2.0**-51], dtype=torch.float64)
    got, expected = draw(logits, uniform, settings), plain_draw(logits, uniform, settings)
    assert torch.equal(got.token, expected.token)
    assert not ruled_out[torch.arange(200), got.token].any()
    for mine, theirs in zip(got[1:], expected[1:], strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5, rtol=0)


def sequence_probabilities(model: nn.Module, prompt: tuple[int, ...], settings: Sampling, vocabulary: int) -> dict:
    """Exact probability of every response of at most two tokens, by full forward passes and the written-out cut."""

    def next_token(ids: list[int]) -> Tensor:
        share = torch.softmax(model(torch.tensor([ids])).logits[0, -1].double() / settings.temperature, 0)
        ranked = sorted(range(vocabulary), key=lambda token: (-float(share[token]), token))
        ranked = ranked[: settings.top_k or vocabulary]
        total, taken, keep = sum(float(share[t]) for t in ranked), 0.0, []
        for token in ranked:
            if taken >= settings.top_p * total:
                break
            keep.append(token)
            taken += float(share[token])
        out = torch.zeros(vocabulary, dtype=torch.float64)
        out[keep] = share[keep] / share[keep].sum()
        return out

    table = {}
    first = next_token(list(prompt))
    for a in range(vocabulary):
        if a == EOS:
            table[(a,)] = float(first[a])
            continue
        second = next_token([*prompt, a])
        table.update({(a, b): float(first[a] * second[b]) for b in range(vocabulary)})
    return table


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.7, 0), (1.0, 3), (0.8, 4)])
def test_frequencies(top_p, top_k):
    vocabulary, n = 6, 4000
    model = build("llama", vocabulary=vocabulary, seed=3)
    settings = Sampling(temperature=1.5, top_p=top_p, top_k=top_k, max_tokens=2)
    with torch.no_grad():
        expected = sequence_probabilities(model, (3, 4), settings, vocabulary)
    rolls = LocalSampler(model, tokenizer(vocabulary)).sample([Example("x", "ab")], n, settings, KEY, 0)
    counts: dict[tuple[int, ...], int] = dict.fromkeys(expected, 0)
    for ids, mask, logp in zip(rolls.ids, rolls.mask, rolls.logp_sampled, strict=True):
        row = tuple(ids[mask].tolist())
        counts[row] += 1
        assert float(logp.sum().exp()) == pytest.approx(expected[row], rel=1e-4)
    assert sum(expected.values()) == pytest.approx(1.0)
    cells = [row for row in expected if expected[row] * n >= 5]
    assert len(cells) > 4 and {len(row) for row in cells} == {1, 2}  # ragged
    assert all(count == 0 for row, count in counts.items() if expected[row] == 0)
    statistic = sum((counts[row] - n * expected[row]) ** 2 / (n * expected[row]) for row in cells)
    degrees = len(cells) - 1
    assert abs(statistic - degrees) < 4 * (2 * degrees) ** 0.5
    assert torch.equal(rolls.logp, rolls.logp_sampled) == (not settings.truncates)


def test_draw_by_hand():
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log().expand(5, 4)
    uniform = torch.tensor([0.05, 0.15, 0.55, 0.75, 1 - 2.0**-51], dtype=torch.float64)
    got = draw(logits, uniform, Sampling())
    assert got.token.tolist() == [0, 1, 2, 3, 3]
    assert got.logp.exp().tolist() == pytest.approx([0.1, 0.4, 0.2, 0.3, 0.3])
    assert got.entropy.tolist() == pytest.approx([1.2798542] * 5)
    cut = draw(logits, uniform, Sampling(top_p=0.6))  # keeps 1 and 3
    assert cut.token.tolist() == [1, 1, 1, 3, 3]
    assert cut.logp_sampled.exp().tolist() == pytest.approx([4 / 7, 4 / 7, 4 / 7, 3 / 7, 3 / 7])
    assert cut.logp.exp().tolist() == pytest.approx([0.4, 0.4, 0.4, 0.3, 0.3])
    assert torch.equal(cut.entropy, got.entropy)


def test_never_draws_a_token_of_probability_zero():
    logits = torch.full((1, 6), -torch.inf)
    logits[0, [1, 4]] = 0.0
    for u in (2.0**-51, 0.5 - 1e-12, 0.5, 0.5 + 1e-12, 1 - 2.0**-51):
        got = draw(logits, torch.tensor([u], dtype=torch.float64), Sampling())
        assert int(got.token) == (1 if u < 0.5 else 4)
        assert got.logp.exp().tolist() == pytest.approx([0.5])
        assert got.entropy.tolist() == pytest.approx([0.6931472])


@pytest.mark.parametrize("settings", [Sampling(), Sampling(top_p=0.9), Sampling(top_k=2), Sampling(temperature=0.5)])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, None])
def test_logits_that_are_not_finite_stop_the_run(settings, bad):
    logits = torch.zeros(3, 5)
    uniform = torch.full((3,), 0.5, dtype=torch.float64)
    logits[:, 0] = -torch.inf  # a token that is ruled out is no damage
    assert draw(logits, uniform, settings).token.shape == (3,)
    logits[1] = torch.full((5,), -torch.inf) if bad is None else logits[1].index_fill(0, torch.tensor([3]), bad)
    with pytest.raises(
        GuardStop, match=r"not finite at step 7 .*lower descent\.lr and resume from the last checkpoint"
    ):
        draw(logits, uniform, settings, step=7)


def test_diverged_weights_stop_the_run_at_their_step():
    source = sampler()
    calls: list[int] = []

    def diverge(_module, _args, out):
        calls.append(1)
        return torch.full_like(out, torch.nan) if len(calls) == 3 else out

    handle = source.decoder.parts.head.register_forward_hook(diverge)
    with pytest.raises(GuardStop, match="not finite at step 2 "):
        source.sample(EXAMPLES, 4, Sampling(max_tokens=9), KEY, 0)
    handle.remove()
    assert len(source.sample(EXAMPLES, 4, Sampling(max_tokens=9), KEY, 0)) == 20


def test_ties_go_by_token_id_and_top_p_keeps_at_least_one():
    share = torch.tensor([[0.25, 0.25, 0.25, 0.25]])
    assert kept(share, Sampling(top_k=2)).tolist() == [[True, True, False, False]]
    assert kept(share, Sampling(top_p=0.5)).tolist() == [[True, True, False, False]]
    assert kept(share, Sampling(top_p=1e-9)).tolist() == [[True, False, False, False]]
    assert kept(share, Sampling(top_k=99)).all()


def test_all_end_tokens_count():
    model, letters = build("qwen3"), tokenizer()
    model.config.eos_token_id = [5, 7]
    model.generation_config.eos_token_id = 9  # type: ignore[union-attr]
    source = LocalSampler(model, letters)
    assert source.ends == eos_ids(model, letters) == (EOS, 5, 7, 9)
    rolls = source.sample(EXAMPLES, 20, Sampling(max_tokens=30), KEY, 0)
    last = {int(ids[mask][-1]) for ids, mask, f in zip(rolls.ids, rolls.mask, rolls.finish, strict=True) if f == "eos"}
    assert last == {EOS, 5, 7, 9}
    inner = rolls.ids[:, :-1][rolls.mask[:, 1:]]
    assert not torch.isin(inner, torch.tensor([EOS, 5, 7, 9])).any()


def test_stop_strings():
    source = sampler(dtype=torch.float64)
    free = source.sample(EXAMPLES, 30, Sampling(max_tokens=20), KEY, 0)
    pairs = [text[i : i + 2] for text in free.text for i in range(len(text) - 1)]
    stop = (max(sorted(set(pairs)), key=pairs.count), "q")
    cut = source.sample(EXAMPLES, 30, Sampling(max_tokens=20, stop=stop), KEY, 0)
    for row, (before, after, finish) in enumerate(zip(free.text, cut.text, cut.finish, strict=True)):
        ends = [before.find(s) + len(s) for s in stop if s in before]
        length = min(ends) if ends else len(before)
        assert after == before[:length]
        assert finish == ("stop" if ends else free.finish[row])
        kept_ids = free.ids[row][: int(cut.mask[row].sum())]
        assert torch.equal(cut.ids[row][cut.mask[row]], kept_ids)
    assert set(cut.finish) == {"eos", "length", "stop"}


class Pairs(PreTrainedTokenizerFast):
    """A tokenizer whose tokens carry two characters, so that a stop string can end inside one."""

    def decode(self, token_ids, skip_special_tokens=False):
        return "".join(f"{token % 5}{token % 7}" for token in token_ids if token > 2 or not skip_special_tokens)

    def batch_decode(self, sequences, skip_special_tokens=False):
        return [self.decode(row, skip_special_tokens) for row in sequences]


def test_stop_string_inside_a_token():
    letters = Pairs(tokenizer_object=tokenizer()._tokenizer, eos_token="<eos>", pad_token="<pad>")
    source = LocalSampler(build("qwen3"), letters)
    rolls = source.sample(EXAMPLES, 10, Sampling(max_tokens=20, stop=("4",)), KEY, 0)
    stopped = [text for text, finish in zip(rolls.text, rolls.finish, strict=True) if finish == "stop"]
    assert all(text.index("4") == len(text) - 1 for text in stopped)
    assert {len(text) % 2 for text in stopped} == {0, 1}
    assert all("4" not in text for text, finish in zip(rolls.text, rolls.finish, strict=True) if finish != "stop")


def test_suspect_tokens():
    letters = tokenizer()
    assert suspect_tokens(letters, ("xyab",), 30).nonzero()[:, 0].tolist() == [4]
    assert suspect_tokens(letters, ("a", "bc"), 30).nonzero()[:, 0].tolist() == [3, 5]


def test_suspect_tokens_of_awkward_decoders():
    words = {"<unk>": 0, "\u2581x": 1, "x": 2, "\n": 3, "<0xC3>": 4, "<0xA9>": 5}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    pieces = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    assert pieces.decode([1]) == "x"  # the space is stripped from the first token
    assert suspect_tokens(pieces, ("x ",), 6).nonzero()[:, 0].tolist() == [1, 4, 5]
    assert suspect_tokens(pieces, ("\n",), 6).nonzero()[:, 0].tolist() == [3, 4, 5]
    assert suspect_tokens(pieces, ("\N{LATIN SMALL LETTER E WITH ACUTE}",), 6).nonzero()[:, 0].tolist() == [4, 5]


def test_mode_random_state_and_gradients_are_left_alone():
    source = sampler()
    for training in (True, False):
        source.model.train(training)
        before = torch.get_rng_state()
        rolls = source.sample(EXAMPLES[:1], 2, Sampling(max_tokens=3), KEY, 0)
        assert torch.equal(torch.get_rng_state(), before) and source.model.training == training
        assert not rolls.logp.requires_grad


def test_prefills_a_prompt_once():
    source = sampler()
    fed: list[tuple[int, ...]] = []
    handle = source.decoder.parts.backbone.register_forward_pre_hook(
        lambda _m, _a, kw: fed.append(tuple(kw["input_ids"].shape)), with_kwargs=True
    )
    source.sample(EXAMPLES, 6, Sampling(max_tokens=3, block=3), KEY, 0)
    handle.remove()
    assert [shape for shape in fed if shape[1] > 1] == [(3, 5), (2, 10)]


def test_uniforms_are_read_by_uid_and_position():
    source = sampler(dtype=torch.float64)
    rolls = source.sample(EXAMPLES[:1], 3, Sampling(max_tokens=1), KEY, first_group=4)
    with torch.no_grad():
        logits = source.model(torch.tensor([rolls.prompt.ids[0]])).logits[:, -1].expand(3, -1)
    uniform = uniforms(KEY, torch.tensor([12, 13, 14]), 1)[:, 0]
    assert torch.equal(draw(logits, uniform, Sampling()).token, rolls.ids[:, 0])


def test_encode_replaces_the_tokenizer():
    source = LocalSampler(build("llama"), tokenizer(), encode=lambda example: [1, len(example.prompt)])
    assert source.sample(EXAMPLES[:2], 1, Sampling(max_tokens=2), KEY, 0).prompt.ids == ((1, 5), (1, 1))


def test_bad_prompts_are_refused():
    source = sampler()
    with pytest.raises(InputError, match=r"'long' has 60 tokens, .*max_tokens=5 .*context of 64"):
        source.sample([Example("long", "a" * 60)], 1, Sampling(max_tokens=5), KEY, 0)
    assert len(source.sample([Example("fits", "a" * 60)], 1, Sampling(max_tokens=4), KEY, 0)) == 1
    with pytest.raises(InputError, match="'blank' has no tokens"):
        source.sample([Example("blank", "")], 1, Sampling(max_tokens=5), KEY, 0)
    with pytest.raises(InputError, match="0 prompts"):
        source.sample([], 1, Sampling(max_tokens=5), KEY, 0)
    with pytest.raises(InputError, match="with 0 responses"):
        source.sample(EXAMPLES, 0, Sampling(max_tokens=5), KEY, 0)


def test_states_that_cannot_drop_rows_are_refused():
    from transformers import DeepseekV32Config, DeepseekV32ForCausalLM

    config = DeepseekV32Config(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=4,
        n_routed_experts=2,
        num_experts_per_tok=1,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=8,
        first_k_dense_replace=1,
        index_topk=4,
        index_head_dim=8,
        index_n_heads=2,
    )
    with pytest.raises(InputError, match="DeepseekV32ForCausalLM"):
        LocalSampler(DeepseekV32ForCausalLM(config), tokenizer())


def test_models_that_decode_otherwise_than_they_score_are_refused():
    model = build("gpt2")  # absolute positions: left padding shows as soon as position ids are ignored
    model.transformer.register_forward_pre_hook(
        lambda _m, args, kwargs: (args, {**kwargs, "position_ids": None}), with_kwargs=True
    )
    with pytest.raises(InputError, match="GPT2LMHeadModel"):
        LocalSampler(model, tokenizer())


def test_an_adapter_wrapper_is_looked_through():
    class Wrapper(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.inner = model

        def get_base_model(self) -> nn.Module:
            return self.inner

    model = build("qwen3")
    rolls = LocalSampler(Wrapper(model), tokenizer()).sample(EXAMPLES, 2, Sampling(max_tokens=5), KEY, 0)
    same(rolls, LocalSampler(model, tokenizer()).sample(EXAMPLES, 2, Sampling(max_tokens=5), KEY, 0))
    now = LMPolicy(Wrapper(model))(as_batch(rolls))
    assert torch.allclose(now.logp, rolls.logp, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", 0.0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("max_tokens", 0),
        ("block", 0),
        ("stop", ("",)),
    ],
)
def test_sampling_settings_are_checked(option, value):
    with pytest.raises(InputError, match=f"sampling.{option}"):
        Sampling(**{option: value})
