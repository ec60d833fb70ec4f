"""Novelty bands, echo mining, votes, TTRL's metrics, pass@k and maj@k against slow literal loops on random inputs."""

from __future__ import annotations

from itertools import combinations
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from rekindle.core.types import Batch, mean_metrics
from rekindle.methods.echo_rl import EchoNLL, MineEcho
from rekindle.methods.evol_rl import NoveltyBands
from rekindle.tokens.labels import MajorityVote, Verdicts
from rekindle.train.estimators import maj_at_k, pass_at_k
from rekindle.train.meter import meter
from tests.batches import DELIMITER, assert_alive, make_batch, make_now
from tests.methods.made import VERIFIER, spoken

seeds = pytest.mark.parametrize("seed", range(12))


def evol_reward(
    y: np.ndarray, valid: np.ndarray, embed: np.ndarray, alpha: float = 0.5, tol: float = 1e-6
) -> np.ndarray:
    """One group, loop by loop, from the description of steps 2 to 6."""
    r = np.full(len(y), -1.0)
    inside = [i for i in range(len(y)) if valid[i]]
    if len(inside) <= 1:
        return r
    unit = {i: embed[i] / max(float(np.linalg.norm(embed[i])), 1e-8) for i in inside}
    sim = {(i, j): min(max(float(unit[i] @ unit[j]), 0.0), 1.0) for i in inside for j in inside if i != j}
    nu = {}
    for i in inside:
        others = [j for j in inside if j != i]
        peers = [j for j in others if y[j] == y[i]] or others
        m, g = sum(sim[i, j] for j in peers) / len(peers), max(sim[i, j] for j in others)
        nu[i] = 1 - (alpha * m + (1 - alpha) * g)
    for side, low in ((True, 0.5), (False, -1.0)):
        members = [i for i in inside if bool(y[i]) == side]
        span = max((nu[i] for i in members), default=0.0) - min((nu[i] for i in members), default=0.0)
        for i in members:
            if len(members) == 1:
                r[i] = 1.0 if side else -0.5
            elif span > tol:
                r[i] = low + 0.5 * (nu[i] - min(nu[j] for j in members)) / span
            else:
                r[i] = low + 0.25
    return r


@seeds
def test_novelty_bands(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [1, 2, 3, 9, 20]
    vectors = rng.normal(size=(sum(sizes), 4)) * rng.choice([0.0, 1.0, 1.0, 1.0], size=(sum(sizes), 1))
    if seed % 3 == 0:
        vectors = np.abs(vectors.round())
    label = rng.random(len(vectors)) < [0.2, 0.5, 0.9, 1.0][seed % 4]
    valid = rng.random(len(vectors)) < [1.0, 0.7, 0.3][seed % 3]
    group = np.repeat(np.arange(5), sizes)
    order = rng.permutation(len(vectors))
    vectors, label, valid, group = vectors[order], label[order], valid[order], group[order]
    texts = [f"e{i}{'' if v else '!'}=1" for i, v in enumerate(valid)]
    table = torch.tensor(vectors)
    run = SimpleNamespace(verifier=VERIFIER, embed=lambda said: table[[int(s[1:]) for s in said]])
    alpha = [0.5, 0.0, 1.0, 0.3][seed % 4]
    verdicts = Verdicts.of([None] * len(texts), [bool(x) for x in label], {})
    got = NoveltyBands(alpha=alpha)(spoken(texts, group.tolist()), verdicts, run)
    want = np.empty(len(texts))
    for g in range(5):
        rows = group == g
        want[rows] = evol_reward(label[rows], valid[rows], vectors[rows], alpha)
    np.testing.assert_allclose(got.score.numpy(), want, rtol=0, atol=1e-9)
    assert got.success.tolist() == (label & valid).tolist()


def steps_of(batch: Batch, row: int) -> list[list[int]]:
    """Positions of each step of a row: cut after a delimiter, a step of delimiters only joins the one before."""
    steps: list[list[int]] = [[]]
    for t in range(batch.mask.shape[1]):
        if not batch.mask[row, t]:
            continue
        ends = int(batch.action[row, t]) == DELIMITER
        before = [int(batch.action[row, s]) for s in steps[-1]]
        if not ends and before and before[-1] == DELIMITER and any(a != DELIMITER for a in before):
            steps.append([])
        steps[-1].append(t)
    return steps


def mine(batch: Batch, scope: str) -> tuple[Tensor, int]:
    """(echo mask [B T] of 1 / L, number of clips), prompt by prompt, step by step."""
    echo = torch.zeros(batch.mask.shape, dtype=torch.float64)
    clips = 0
    for g in sorted(set(batch.group.tolist())):
        rows = [i for i in range(len(batch)) if batch.group[i] == g and batch.graded[i]]
        wins = [i for i in rows if batch.success[i] and batch.mask[i].any()]
        if not wins or (scope == "all_success" and not all(batch.success[i] for i in rows)):
            continue
        entropy = batch.column("entropy_old")
        best = max(
            (sum(entropy[i, t].item() for t in step) / len(step), -int(batch.uid[i]), -step[0], i, step[-1])
            for i in wins
            for step in steps_of(batch, i)
        )
        row, end = best[3], best[4]
        clip = [t for t in range(end + 1) if batch.mask[row, t]]
        for t in clip:
            echo[row, t] = 1 / len(clip)
        clips += 1
    return echo, clips


@seeds
@pytest.mark.parametrize("scope", ["any_success", "all_success"])
def test_echo_mining_and_its_loss(seed: int, scope: str) -> None:
    batch = make_batch(B=14 + seed, T=12, seed=seed, ungraded=seed % 2 == 0)
    assert_alive(batch)
    if scope == "all_success":
        lucky = batch.group == batch.group[0]
        batch = batch.__class__(**{**batch.__dict__, "success": (batch.success | lucky) & batch.graded})
    if seed % 3 == 0:
        batch = batch.with_columns(entropy_old=batch.column("entropy_old").round())
    want, clips = mine(batch, scope)
    got = MineEcho(scope=scope)(batch)  # type: ignore[arg-type]
    torch.testing.assert_close(got.column("echo"), want, rtol=0, atol=1e-15)
    assert clips > 0
    now, term = make_now(batch).detach(), EchoNLL(coef=0.25)
    loss = (term.weights(got) * term.per_token(now, got)[0]).sum().item()
    nll = -sum((want[i] * now.logp[i]).sum().item() for i in range(len(batch))) / clips
    assert loss == pytest.approx(0.25 * nll, rel=1e-12)


@seeds
def test_votes_and_ttrl_metrics(seed: int) -> None:
    rng = Random(seed)
    n, prompts = rng.choice([1, 4, 9]), 4
    said = [rng.choice(["1", "2", "4/2", "10", "", "3"]) for _ in range(n * prompts)]
    group = [i % prompts for i in range(n * prompts)]
    truth = rng.choice(["2", "10", "7"])
    rollouts = spoken([f"x={a}" for a in said], group, truth)
    verdicts = MajorityVote()(rollouts, VERIFIER)
    got = mean_metrics(meter(rollouts, verdicts, torch.arange(len(said)), MajorityVote(), VERIFIER))

    def equal(a: str, b: str) -> bool:
        canonical = {"4/2": "2"}
        return bool(a) and bool(b) and canonical.get(a, a) == canonical.get(b, b)

    label_right = reward_right = share = 0.0
    for g in range(prompts):
        votes = [a for a, h in zip(said, group, strict=True) if h == g]
        label, top = None, 0
        for candidate in sorted({a for a in votes if a}):
            if votes.count(candidate) > top:
                label, top = candidate, votes.count(candidate)
        assert verdicts.vote[g] == label
        rewards = [equal(a, label or "") for a in votes]
        assert verdicts.success[torch.tensor(group) == g].tolist() == rewards
        label_right += equal(label or "", truth) / prompts
        reward_right += sum(r == equal(a, truth) for a, r in zip(votes, rewards, strict=True)) / len(said)
        share += top / len(votes) / prompts
    want = {"truth/label_accuracy": label_right, "truth/reward_accuracy": reward_right, "vote/majority_share": share}
    want["truth/pass@1"] = sum(equal(a, truth) for a in said) / len(said)
    assert {name: got[name] for name in want} == pytest.approx(want)
    assert got["success"] >= got["vote/majority_share"] - 1e-12, "agreement is by equivalence, the vote by string"


@pytest.mark.parametrize("n", [1, 4, 7])
def test_pass_at_k_over_all_subsets(n: int) -> None:
    for right in range(n + 1):
        samples = [i < right for i in range(n)]
        for k in range(1, n + 1):
            subsets = list(combinations(samples, k))
            assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


@seeds
def test_maj_at_k_over_all_subsets(seed: int) -> None:
    rng = Random(seed)
    n = rng.randrange(3, 9)
    answers = [rng.choice(["a", "b", "c", "d", None]) for _ in range(n)]
    good = {"a", "b"} if seed % 2 else {"c"}
    for k in range(1, n + 1):
        total, count = 0.0, 0
        for subset in combinations(answers, k):
            votes = [a for a in subset if a is not None]
            most = max((votes.count(a) for a in votes), default=0)
            tied = {a for a in votes if votes.count(a) == most}
            total += len(tied & good) / len(tied) if tied else 0.0
            count += 1
        assert maj_at_k(answers, [a in good for a in answers], k) == pytest.approx(total / count, abs=1e-12)
