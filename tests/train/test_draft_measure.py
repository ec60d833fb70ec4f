"""Assisted generation, counted: what a copy of the target must reach, what no draft may change, and what is refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from rekindle.core.draft_losses import block_efficiency
from rekindle.core.random import pack_key
from rekindle.errors import InputError
from rekindle.tokens.chat import Encode
from rekindle.tokens.loader import Loaded
from rekindle.tokens.rollouts import Example
from rekindle.tokens.sampling.base import Sampling
from rekindle.tokens.sampling.local import LocalSampler
from rekindle.train.draft_measure import (
    Pair,
    bound_speedup,
    counted,
    deviation,
    drafted,
    measure,
    paired,
    same_law,
    undrafted,
)
from tests.tiny_models import VOCABULARY, build, tokenizer

PROMPT = [3, 4, 5]


def loaded(seed: int = 0, vocabulary: int = VOCABULARY, words: int | None = None) -> Loaded:
    """A tiny model; `words`: of its tokenizer, where the vocabulary has padding rows."""
    spoken = tokenizer(words or vocabulary)
    return Loaded(build("llama", vocabulary=vocabulary, seed=seed), spoken, Encode(spoken, chat=False))


def endless(gamma: int = 3, seed: int | None = None) -> Pair:
    """A pair whose texts never end; without a seed the draft is a copy of its target."""
    target = loaded()
    draft = copy.deepcopy(target) if seed is None else loaded(seed)
    pair = paired(target, draft, gamma, 1.0)
    for model in (pair.target, pair.draft):
        model.generation_config.eos_token_id = None
    return pair


def test_the_formulas_are_the_papers() -> None:
    for accepted, gamma, tau in ((0.8, 3, 2.952), (0.8, 5, 3.689), (0.6, 3, 2.176)):
        assert block_efficiency(accepted, gamma) == pytest.approx(tau, abs=5e-4)
        assert block_efficiency(accepted, gamma) == pytest.approx((1 - accepted ** (gamma + 1)) / (1 - accepted))
    assert block_efficiency(1.0, 3) == 4
    assert bound_speedup(2.3, 0.0164, 3) == pytest.approx(2.192, abs=5e-4)
    assert bound_speedup(2.4, 0.0164, 5) == pytest.approx(2.218, abs=5e-4)


@pytest.mark.parametrize(("tokens", "calls"), [(24, 6), (25, 7)])
def test_a_copy_of_the_target_spares_all_that_can_be_spared(tokens: int, calls: int) -> None:
    """Also where the padding id is an ordinary symbol: this vocabulary says 0 as often as any."""
    pair = endless()
    seen = [pair.generate(PROMPT, tokens, seed) for seed in range(8)]
    assert all((len(ids), passes) == (tokens, calls) for ids, passes in seen)
    assert any(0 in ids for ids, _ in seen)


def test_without_a_draft_each_token_is_a_pass() -> None:
    pair = endless(seed=1)
    ids, calls = pair.generate(PROMPT, 12, 0, assisted=False)
    assert len(ids) == calls == 12
    ids, calls = pair.generate(PROMPT, 12, 0)
    assert len(ids) == 12 and 3 <= calls <= 12


def test_a_seed_is_an_answer_and_the_global_generator_is_left_alone() -> None:
    pair = endless(seed=1)
    before = torch.random.get_rng_state()
    assert pair.generate(PROMPT, 8, 5) == pair.generate(PROMPT, 8, 5) != pair.generate(PROMPT, 8, 6)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_numbers_of_a_measurement_fit_together() -> None:
    pair = endless(seed=1)
    found = measure(pair, [PROMPT, [6, 7]], 8, 0)
    assert found.tokens == 16 and found.tau == 16 / found.calls and found.ended == 0
    assert 0 < found.acceptance < 1 and found.expected == block_efficiency(found.acceptance, 3)
    assert found.share == 1.0 and found.mbsu == found.tau / 4 and found.speedup > 0
    alone = measure(endless(), [PROMPT], 8, 0)
    assert (alone.tau, alone.calls) == (4.0, 2) and alone.acceptance == pytest.approx(1.0, abs=1e-5)


def test_acceptance_is_at_the_temperature_of_decoding() -> None:
    target, draft = loaded(), loaded(1)
    pair = paired(target, draft, 3, 0.5)
    with torch.no_grad():
        p, q = (torch.softmax(m.model(torch.tensor([[*PROMPT, 6]])).logits[0, 2] / 0.5, -1) for m in (draft, target))
    assert pair.acceptance(PROMPT, [6]) == [pytest.approx(torch.minimum(p, q).sum().item(), abs=1e-6)]


def test_a_limit_that_cuts_a_block_is_refused() -> None:
    with pytest.raises(InputError, match=r"--max-tokens 25 is no multiple of a block of 4 .*: give 24"):
        measure(endless(), [PROMPT], 25, 0)


def test_drafts_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match=r"^draft 'd' has another tokenizer than the target .*: choose a draft of"):
        paired(loaded(), loaded(vocabulary=VOCABULARY + 1), 3, 1.0, "d")
    with pytest.raises(InputError, match="draft 'd' has 26 rows of vocabulary and the target 24"):
        paired(loaded(), loaded(vocabulary=VOCABULARY + 2, words=VOCABULARY), 3, 1.0, "d")
    same = loaded()
    with pytest.raises(ValueError, match="load it twice"):
        paired(same, same, 3, 1.0)


def test_what_transformers_would_do_by_itself_is_switched_off() -> None:
    pair = paired(loaded(), loaded(1), 5, 0.7)
    told = pair.draft.generation_config
    assert (told.num_assistant_tokens, told.num_assistant_tokens_schedule) == (5, "constant")
    assert told.assistant_confidence_threshold == 0.0
    for model in (pair.target, pair.draft):
        kept = model.generation_config
        assert (kept.top_k, kept.top_p, kept.temperature, kept.do_sample) == (0, 1.0, 0.7, True)
        assert kept.pad_token_id == VOCABULARY and kept.eos_token_id == [2]


def test_a_table_of_counts_by_hand() -> None:
    one, other = [(1,)] * 30 + [(2,)] * 10, [(1,)] * 20 + [(2,)] * 19 + [(3,)]
    table = counted(one, other)
    assert table.tolist() == [[30, 10, 0], [20, 19, 1]]
    want = 2 * 25 / 25 + 2 * 4.5**2 / 14.5 + 2 * 0.25 / 0.5
    assert deviation(table) == pytest.approx(want)
    found = same_law([(one, other)])
    assert found.freedom == 2 and found.p == pytest.approx(math.exp(-want / 2))  # the law of 2 degrees
    assert same_law([([(1,)] * 5, [(1,)] * 5)]).p == 1.0


def test_a_weak_draft_does_not_change_what_the_target_says() -> None:
    """And the test would notice: the draft's own samples are told apart at once."""
    target, draft = loaded(), loaded(1)
    pair, count = paired(target, draft, 2, 1.0), 500
    how = Sampling(max_tokens=2, block=1)
    plain, alone = (
        LocalSampler(one.model, one.tokenizer, one.encode).sample(
            [Example("0", "abc")], count, how, pack_key(0, 0, 0), 0
        )
        for one in (target, draft)
    )
    with_draft = drafted(pair, PROMPT, count, 2, 0)
    found = same_law([(with_draft, undrafted(plain.ids, plain.mask))])
    assert found.freedom > 10 and found.p > 1e-3, found
    assert same_law([(undrafted(alone.ids, alone.mask), undrafted(plain.ids, plain.mask))]).p < 1e-9
