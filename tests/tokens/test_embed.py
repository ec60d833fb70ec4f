"""Embeddings: unit rows with non-negative cosines, equal in every process, and states pooled without padding."""

from __future__ import annotations

import math
import random
import time

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rekindle.tokens.embed import HashedNgrams, PolicyStates, pieces, unit_rows

PINNED = [[14, 19, 21, 32, 33, 37, 42, 44, 46, 49, 55, 60], [27, 34, 41]]
TEXTS = ["5*9=45 3*5=15", "3*5=15 5*9=45", "1+1=2", "", "\u00e9t\u00e9 \ud800 x_1", "   "]


def test_pieces_are_numbers_words_and_single_marks() -> None:
    assert pieces("5*12 = -60.5") == ["5", "*", "12", "=", "-", "60", ".", "5"]
    assert pieces("so x_1 is \\frac") == ["so", "x", "_", "1", "is", "\\", "frac"]
    assert pieces(" \n") == []


def test_the_cosine_of_two_counted_texts_is_the_one_on_paper() -> None:
    # "1 2" has the grams (1) (2) (1 2); "1 3" has (1) (3) (1 3): one of three in common.
    rows = HashedNgrams(dim=1 << 16)(["1 2", "1 3", "1 1", "12"])
    assert rows.dtype == torch.float32
    assert float(rows[0] @ rows[1]) == pytest.approx(1 / 3, abs=1e-6)
    # "1 1" counts (1) twice and (1 1) once.
    assert float(rows[0] @ rows[2]) == pytest.approx(2 / math.sqrt(3 * 5), abs=1e-6)
    assert float(rows[0] @ rows[3]) == 0.0


def test_grams_spread_evenly_over_the_buckets() -> None:
    rows = HashedNgrams(dim=512, orders=(3,))([" ".join(map(str, range(4098)))])
    counts = (rows[0] / rows[0][rows[0] > 0].min()).round()
    chi_squared = float(((counts - 8) ** 2 / 8).sum())
    assert counts.sum() == 4096
    assert abs(chi_squared - 511) < 4 * math.sqrt(2 * 511)


def test_sublinear_counts_weigh_a_repetition_less() -> None:
    rows = HashedNgrams(dim=1 << 16, orders=(1,), sublinear=True)(["a a a b", "b"])
    count = 1 + math.log(3)
    assert float(rows[0] @ rows[1]) == pytest.approx(1 / math.hypot(count, 1), abs=1e-6)


def test_rows_are_unit_non_negative_and_an_empty_text_is_similar_to_nothing() -> None:
    rows = HashedNgrams()(TEXTS)
    assert rows.shape == (6, 512)
    assert bool((rows >= 0).all())
    torch.testing.assert_close(rows.norm(dim=1), torch.tensor([1.0, 1, 1, 0, 1, 0]))
    assert bool((rows[3] == 0).all())
    assert HashedNgrams()([]).shape == (0, 512)


def test_order_of_steps_matters_and_white_space_does_not() -> None:
    rows = HashedNgrams()([*TEXTS[:2], " 5 * 9 = 45\n3*5 =15 "])
    assert 0.5 < float(rows[0] @ rows[1]) < 0.99
    assert torch.equal(rows[0], rows[2])


def test_a_text_has_the_same_row_alone_and_in_company() -> None:
    together = HashedNgrams()(TEXTS)
    assert torch.equal(together, torch.cat([HashedNgrams()([text]) for text in TEXTS]))


def test_the_buckets_are_the_same_in_every_process() -> None:
    # Written down, for Python's own hash of a text differs from process to process.
    rows = HashedNgrams(dim=64)(["5*9=45", "\u00e9 \ud800"])
    assert [row.nonzero()[:, 0].tolist() for row in rows] == PINNED


def test_a_group_takes_milliseconds() -> None:
    rng = random.Random(0)
    steps = [f"{rng.randrange(99)}*{rng.randrange(9)}={rng.randrange(999)}" for _ in range(64 * 7)]
    texts = [" ".join(steps[7 * n : 7 * n + 7]) for n in range(64)]
    embed = HashedNgrams()
    embed(texts)
    spent = []
    for _ in range(5):
        start = time.process_time()
        embed(texts)
        spent.append(time.process_time() - start)
    assert min(spent) < 0.05  # about 1 ms on a quiet core; the room is for a busy machine


def test_bad_sizes_are_refused() -> None:
    for arguments in ({"dim": 0}, {"orders": ()}, {"orders": (0, 1)}):
        with pytest.raises(ValueError, match="HashedNgrams needs"):
            HashedNgrams(**arguments)


def test_unit_rows_ignore_scale_and_keep_zero() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.3, 0.4]])
    torch.testing.assert_close(unit_rows(x), torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, 0.8]]))


class Letters:
    """A tokenizer of one id a character."""

    def __call__(self, text: str, add_special_tokens: bool) -> Letters:
        assert not add_special_tokens
        self.input_ids = [ord(character) % 32 for character in text]
        return self


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=16)
    return LlamaForCausalLM(config).eval()


def test_policy_states_are_the_mean_of_the_last_hidden_states(model: LlamaForCausalLM) -> None:
    texts = ["abc", "", "a longer text", "zz"]
    rows = PolicyStates(model, Letters(), batch=2)(texts)
    assert rows.shape == (4, 32)
    assert not rows.requires_grad
    assert bool((rows[1] == 0).all())
    for row, text in zip(rows, texts, strict=True):
        if text:
            ids = torch.tensor([[ord(character) % 32 for character in text]])
            states = model(ids, output_hidden_states=True).hidden_states[-1][0]
            expected = states.mean(dim=0) / states.mean(dim=0).norm()
            torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


def test_policy_states_keep_the_last_tokens_that_fit_the_context(model: LlamaForCausalLM) -> None:
    embed = PolicyStates(model, Letters())
    assert embed.limit == 16
    long = "abcdefghijklmnopqrstuvwxyz"
    assert torch.equal(embed([long]), embed([long[-16:]]))
    assert embed([]).shape == (0, 32)
