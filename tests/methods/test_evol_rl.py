"""EVOL-RL: the source's worked example, its invariants, its edge cases, and TTRL where novelty is constant."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rekindle.core.advantages import GroupNormalized
from rekindle.methods import evol_rl, ttrl, ttrl_entropy
from rekindle.methods.evol_rl import NoveltyBands
from rekindle.tokens.collect import to_batch
from rekindle.tokens.labels import MajorityVote, Verdicts, Verified
from rekindle.train.options import diff
from tests.methods.made import VERIFIER, spoken
from tests.methods.stage import collected, on_leaves

METHOD = evol_rl.method()
SIX = [[1, 0, 0], [0.8, 0.6, 0], [0.6, 0.8, 0], [0, 0.6, 0.8], [0, 0, 1], [0.28, 0, 0.96]]
TEXTS = ["e0=5", "e1=5", "e2=5", "e3=5", "e4=3", "e5=7", "none"]


def shaped(texts: list[str], vectors: Tensor | list[list[float]], part: NoveltyBands | None = None) -> Verdicts:
    """The verdicts on `texts`, where the text "e3=..." has embedding number 3."""
    table = torch.as_tensor(vectors, dtype=torch.float64)
    run = SimpleNamespace(verifier=VERIFIER, embed=lambda said: table[[int(s.strip("!")[1:]) for s in said]])
    rollouts = spoken(texts)
    return (part or NoveltyBands())(rollouts, MajorityVote()(rollouts, VERIFIER), run)


def advantages(verdicts: Verdicts, texts: list[str]) -> list[float]:
    return METHOD.credit(to_batch(spoken(texts), verdicts, torch.tensor(0))).advantage[:, 0].tolist()


def crowd(n: int, seed: int = 0, minority: int = 0) -> tuple[list[str], Tensor]:
    """n texts, the last `minority` of them with another answer, and random embeddings with positive entries."""
    rng = torch.Generator().manual_seed(seed)
    texts = [f"e{i}={5 if i < n - minority else 7}" for i in range(n)]
    return texts, torch.rand(n, 8, generator=rng, dtype=torch.float64) ** 3


def test_worked_example() -> None:
    verdicts = shaped(TEXTS, SIX)
    assert verdicts.score.tolist() == pytest.approx([0.840909, 0.5, 0.522727, 1, -0.75, -0.75, -1], abs=1e-5)
    assert verdicts.score.mean().item() == pytest.approx(0.051948, abs=1e-6)
    assert verdicts.score.std().item() == pytest.approx(0.850145, abs=1e-6)
    want = [0.928030, 0.527029, 0.553763, 1.115163, -0.943306, -0.943306, -1.237373]
    assert advantages(verdicts, TEXTS) == pytest.approx(want, abs=1e-5)
    theirs = advantages(MajorityVote()(spoken(TEXTS), VERIFIER), TEXTS)
    assert theirs == pytest.approx([0.801782] * 4 + [-1.069043] * 3, abs=1e-5), "TTRL on the same group"
    assert verdicts.success.tolist() == [True] * 4 + [False] * 3


def test_worked_example_of_the_majority_alone() -> None:
    verdicts = shaped(TEXTS[:4], SIX)
    assert verdicts.score.tolist() == pytest.approx([0.720588, 0.5, 0.514706, 1], abs=1e-5)
    want = [0.157380, -0.786902, -0.723950, 1.353472]
    assert advantages(verdicts, TEXTS[:4]) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_row_order_and_the_scale_of_an_embedding_do_not_matter(seed: int) -> None:
    texts, vectors = crowd(17, seed, minority=5)
    score = shaped(texts, vectors).score
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(17, generator=rng)
    moved = shaped([texts[i] for i in order.tolist()], vectors).score
    torch.testing.assert_close(moved, score[order], rtol=0, atol=1e-12)
    scale = 10 ** (4 * torch.rand(17, 1, generator=rng, dtype=torch.float64) - 2)
    torch.testing.assert_close(shaped(texts, vectors * scale).score, score, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_majority_lies_a_whole_point_above_the_minority(seed: int) -> None:
    texts, vectors = crowd(32, seed, minority=12)
    score = shaped(texts, vectors).score
    assert (score[:20].min() - score[20:].max()).item() >= 1.0
    assert score[:20].aminmax() == (0.5, 1.0) and score[20:].aminmax() == (-1.0, -0.5)


def test_invalid_rows_change_nobody_else() -> None:
    texts, vectors = crowd(12, minority=4)
    score = shaped(texts, vectors).score
    more = [*texts, "e3!=5", "e4!=7", "words without an answer"]
    verdicts = shaped(more, vectors)
    assert torch.equal(verdicts.score[:12], score)
    assert verdicts.score[12:].tolist() == [-1.0] * 3
    assert not verdicts.success[12:].any(), "an invalid row is no success, though its answer is the label"


def test_an_invalid_row_still_votes() -> None:
    verdicts = shaped(["e0=5", "e1=7", "e2!=7"], SIX)
    assert verdicts.vote[0] == "7" and verdicts.score.tolist() == [-0.5, 1.0, -1.0]


def test_an_ungraded_row_is_in_no_comparison() -> None:
    texts, vectors = crowd(8, minority=3)
    run = SimpleNamespace(verifier=VERIFIER, embed=lambda said: vectors[[int(s[1:]) for s in said]])
    verdicts = Verdicts.of([""] * 8, [None if i == 2 else i < 5 for i in range(8)], {})
    score = NoveltyBands()(spoken(texts), verdicts, run).score
    rest = torch.tensor([0, 1, 3, 4, 5, 6, 7])
    assert torch.equal(score[rest], NoveltyBands()(spoken(texts).take(rest), verdicts.take(rest), run).score)


def test_identical_texts_are_ttrl() -> None:
    texts = crowd(9, minority=4)[0]
    verdicts = shaped(texts, torch.ones(9, 3))
    assert verdicts.score.tolist() == [0.75] * 5 + [-0.75] * 4
    ours, theirs = advantages(verdicts, texts), advantages(MajorityVote()(spoken(texts), VERIFIER), texts)
    assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_unanimous_group_still_teaches(seed: int) -> None:
    texts, vectors = crowd(32, seed)
    got = torch.tensor(advantages(shaped(texts, vectors), texts))
    assert (got != 0).sum() >= 31 and 0.3 <= (got < 0).double().mean() <= 0.7
    assert advantages(MajorityVote()(spoken(texts), VERIFIER), texts) == [0.0] * 32


@pytest.mark.parametrize("texts", [["e0=5", "e1!=5", "a"], ["a", "b"], ["e0=5"]])
def test_fewer_than_two_valid_rows_score_minus_one(texts: list[str]) -> None:
    verdicts = shaped(texts, SIX)
    assert (verdicts.score == -1).all() and advantages(verdicts, texts) == [0.0] * len(texts)


def test_a_single_member_gets_the_best_of_its_band() -> None:
    assert shaped(["e0=5", "e1=5", "e2=7"], SIX).score.tolist() == [1.0, 0.5, -0.5]
    assert shaped(["e0=3", "e1=7"], SIX).score.tolist() == [1.0, -0.5], "the smaller answer wins the tie"
    assert shaped(["e0!=5", "e1!=5", "e2=5", "e3=3", "e5=7"], SIX).score[2].item() == 1.0


def test_with_two_members_the_closest_other_decides() -> None:
    vectors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.9, 0.1, 0.0], [0.8, 0.0, 0.6]])
    score = shaped(["e0=5", "e1=5", "e2=3", "e3=7"], vectors).score
    assert score[0].item() == 0.5 and score[1].item() == 1.0


def test_noise_is_not_stretched_over_a_band() -> None:
    texts, _ = crowd(6)
    noise = 1e-9 * torch.rand(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert shaped(texts, torch.ones(6, 3, dtype=torch.float64) + noise).score.tolist() == [0.75] * 6
    vectors = torch.ones(6, 3, dtype=torch.float64) + 1e4 * noise.sqrt()
    assert shaped(texts, vectors).score.unique().numel() == 6


def test_a_text_without_embedding_is_similar_to_nothing() -> None:
    score = shaped(["e0=5", "e1=5", "e2=5"], [[1.0, 0.2], [0.0, 0.0], [1.0, 0.0]]).score
    assert score[1].item() == 1.0 and score.isfinite().all()


def test_a_broken_embedding_raises() -> None:
    texts = ["e0=5", "e1=5", "e2=5"]
    verdicts = shaped(texts, [[1.0, float("nan")], [0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="not finite"):
        advantages(verdicts, texts)


def test_groups_do_not_see_each_other() -> None:
    texts, vectors = crowd(12, minority=4)
    table = vectors.float()
    run = SimpleNamespace(verifier=VERIFIER, embed=lambda said: table[[int(s[1:]) for s in said]])
    rollouts = spoken(texts, group=[i % 2 for i in range(12)])
    got = NoveltyBands()(rollouts, MajorityVote()(rollouts, VERIFIER), run).score
    for g in (0, 1):
        alone = rollouts.take(torch.arange(g, 12, 2))
        assert torch.equal(got[g::2], NoveltyBands()(alone, MajorityVote()(alone, VERIFIER), run).score)


def test_constant_novelty_is_the_control_with_affine_scores() -> None:
    exact = GroupNormalized(eps=0.0)
    flat = METHOD.replace(collect=METHOD.collect.replace(shape=(NoveltyBands(tolerance=1e9),)), advantage=exact)
    other = ttrl_entropy.method().replace(advantage=exact)
    texts = [f"{'abc' * i}={5 if i % 5 < 3 else 7}" for i in range(15)]
    rollouts = spoken(texts, group=[i // 5 for i in range(15)], lengths=[1 + i % 4 for i in range(15)])
    (stage, ours), (_, theirs) = collected(flat, rollouts), collected(other, rollouts)
    assert ours.score.unique().tolist() == [-0.75, 0.75] and theirs.score.unique().tolist() == [0, 1]
    now = stage.policy(ours).detach()
    got, want = on_leaves(flat, ours, now), on_leaves(other, theirs, now)
    assert got[0] == pytest.approx(want[0], rel=1e-12) and (want[1] != 0).any()
    for a, b in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


def test_the_difference_from_ttrl_fits_on_six_lines() -> None:
    changes = {c.path: (c.old, c.new) for c in diff(ttrl.method(), METHOD)}
    assert changes.keys() == {"collect.shape.0", "objective.high", "terms.1"}
    assert changes["objective.high"] == (1.2, 1.28)


def test_scores_come_from_all_votes_and_advantages_from_the_trained_rows() -> None:
    texts = [f"{'abcdefgh'[: i + 1]}={5 if i < 5 else 7}" for i in range(8)]
    stage, batch = collected(METHOD, spoken(texts), group_size=4)
    rollouts, verdicts, trained = stage.seen[0]
    assert len(rollouts) == 8 and trained.tolist() == [0, 1, 2, 3] == batch.uid.tolist()
    assert torch.equal(batch.score, verdicts.score[:4])
    want = (batch.score - batch.score.mean()) / (batch.score.std() + 1e-6)
    assert batch.score.unique().numel() > 2
    torch.testing.assert_close(batch.advantage[:, 0], want)


def test_with_the_truth_in_place_of_the_vote_the_bands_follow_the_truth() -> None:
    verified = METHOD.replace(collect=METHOD.collect.replace(label=Verified()))
    texts = ["ab=5", "abcd=5", "ccd=5", "x=7", "xyz=7", "zzz=7", "none", "a!=7"]
    _, batch = collected(verified, spoken(texts, truth="7"))
    _, voted = collected(METHOD, spoken(texts[:5], truth="7"))
    right, wrong = batch.score[3:6], batch.score[:3]
    assert batch.success.tolist() == [False] * 3 + [True] * 3 + [False] * 2
    assert tuple(right.aminmax()) == (0.5, 1.0) and tuple(wrong.aminmax()) == (-1.0, -0.5)
    assert (batch.score[6:] == -1).all(), "an invalid response scores -1, right or not"
    assert voted.success.tolist() == [True] * 3 + [False] * 2, "the vote would have taken the majority's side"
    assert (batch.advantage[3:6] > 0).any() and (batch.advantage[:3] < 0).all()


def test_a_broken_reference_leaves_its_rows_out_of_the_bands() -> None:
    verified = METHOD.replace(collect=METHOD.collect.replace(label=Verified()))
    _, batch = collected(verified, spoken(["ab=5", "abcd=5", "x=7"], truth="?"))
    assert not batch.graded.any() and (batch.advantage == 0).all()


def test_a_group_that_is_all_right_by_the_truth_still_varies() -> None:
    verified = METHOD.replace(collect=METHOD.collect.replace(label=Verified()))
    _, batch = collected(verified, spoken(["ab=5", "abcd=5", "xy=5", "xyz=5"], truth="5"))
    assert batch.success.all() and (batch.advantage > 0).any() and (batch.advantage < 0).any()
