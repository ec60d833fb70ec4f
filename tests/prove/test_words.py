"""The bed `words`: what its classifier knows, what a text of concepts is worth, and that both can be learned."""

from __future__ import annotations

import pytest
import torch

from rekindle.prove.beds import load_bed
from rekindle.prove.words import BAD, GOOD, WORDS, Words, counted, covered, trained


def test_the_classifier_tells_favourable_words_from_others_in_spite_of_wrong_labels() -> None:
    for seed in range(3):
        weights = trained(8, seed)
        good, bad, plain = weights[:GOOD], weights[GOOD : GOOD + BAD], weights[GOOD + BAD : WORDS]
        assert good.min() > plain.mean() > bad.max()
        texts = ["w0 w1 w2 w0 w3 ", "w12 w13 w14 w12 w15 ", "x45 x50 "]
        said = torch.sigmoid(counted(texts) @ weights[:-1] + weights[-1]).tolist()
        assert said[0] > 0.9 and said[1] < 0.1 and said[1] < said[2] < said[0]


def test_concepts_count_once_each_and_distractors_are_none() -> None:
    prompts = ["0: w24 w30 w39"] * 3
    assert covered(prompts, ["w24 w24 w30 x50 ", "x24 w2 ", "w39 w30 w24 "]) == pytest.approx([2 / 3, 0.0, 1.0])


def test_a_prompt_names_other_concepts_than_the_next_and_the_seed_decides_them() -> None:
    task = Words(reward="concepts")
    names = [task.prompt(place, 0) for place in range(task.prompts)]
    assert len({name.split(":")[1] for name in names}) > 1 and names == [task.prompt(p, 0) for p in range(6)]
    assert names != [task.prompt(p, 1) for p in range(6)]
    assert all(len(set(name.split()[1:])) == 3 for name in names)


@pytest.mark.parametrize("reward", ["opinion", "concepts"])
def test_both_rewards_rise_by_ppo(reward: str) -> None:
    bed = load_bed("words").with_options({"reward": reward, "steps": 20, "prompts": 4, "lr": 0.1})
    start, trained_by = bed.run("ppo_clip", {}, 0, train=False), bed.run("ppo_clip", {}, 0)
    assert trained_by["reward"] > start["reward"] + 0.03
    assert 0.1 < start["distractors"] < 0.5
