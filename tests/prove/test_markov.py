"""The bed of drafts: its exact numbers, its best draft, and a teacher whose table has rows of its own."""

from __future__ import annotations

import pytest
import torch

from rekindle.core.draft_losses import acceptance, kld
from rekindle.methods import tvdpp
from rekindle.prove.bed import Bed
from rekindle.prove.beds import load_bed
from rekindle.prove.markov import LENGTH, TOKENS, Markov, V, answers, best_draft, visits
from rekindle.prove.policy import TablePolicy
from rekindle.prove.run import Setting, TableRun
from rekindle.tokens.collect import Answers

TASK = Markov(rows=40)
SHORT = Setting(steps=6, prompts=16, group=1, minibatches=1, lr=0.02)


def test_a_response_is_the_targets_and_goes_on_from_its_pair() -> None:
    world = TASK.world(3)
    first = world.task.examples[0]
    text = first.meta["demonstration"]
    assert len(text) == LENGTH and set(text) <= set(TOKENS) and len(first.prompt) == 2
    state = world.start[first.prompt]
    for before, token in zip(first.prompt[1] + text, text, strict=False):
        assert TOKENS[state % V] == before
        state = int(world.follow[state, TOKENS.index(token)])
    assert TOKENS[state // V] + TOKENS[state % V] == text[-2:]
    again = TASK.world(3)
    assert [e.meta for e in again.task.examples] == [e.meta for e in world.task.examples]
    assert torch.equal(again.table, world.table) and not torch.equal(TASK.world(4).table, world.table)


def test_visits_are_those_of_many_responses() -> None:
    world = TASK.world(0)
    assert world.teacher is not None
    share = visits(world.teacher)
    assert share.sum().item() == pytest.approx(1.0) and (share > 0).all()
    pairs = torch.arange(V * V).repeat(4)
    states = torch.zeros(V * V, dtype=torch.float64)
    for pair, text in zip(pairs.tolist(), answers(world, pairs, 1), strict=True):
        for token in text:
            states[pair] += 1
            pair = int(world.follow[pair, TOKENS.index(token)])
    last = (states / states.sum()).view(V, V).sum(dim=0)
    torch.testing.assert_close(last, share.view(V, V).sum(dim=0), rtol=0.1, atol=0.002)


def test_the_tuned_start_has_the_least_kl_but_not_the_most_acceptance() -> None:
    target = TASK.source(torch.Generator().manual_seed(0))
    table = best_draft(target).requires_grad_()
    share, q = visits(target), torch.softmax(target, dim=1)
    logp = torch.log_softmax(table, dim=1).repeat(V, 1)
    loss = (share * kld(logp, q)).sum()
    assert torch.autograd.grad(loss, table)[0].abs().max() < 1e-12
    start = (share * acceptance(logp, q)).sum().item()
    for _ in range(20):
        logp = torch.log_softmax(table, dim=1).repeat(V, 1)
        missed = (share * 0.5 * (logp.exp() - q).abs().sum(dim=1)).sum()
        table = (table - 20 * torch.autograd.grad(missed, table)[0]).detach().requires_grad_()
    assert (share * acceptance(torch.log_softmax(table, dim=1).repeat(V, 1), q)).sum().item() > start + 0.002


def test_the_metric_is_what_the_method_says_of_its_rows() -> None:
    bed = load_bed("markov")
    run = TableRun(TASK.world(0), SHORT, SHORT.fitted(tvdpp.method()), 0)
    found = bed.task.measure(run)
    run.step()
    assert found["acceptance"] == pytest.approx(run.trained[0]["acceptance"], abs=0.03)
    assert found["blocks"] == pytest.approx(sum(found["acceptance"] ** i for i in range(4)))
    assert set(found) == set(Markov.metrics)


def test_a_teacher_with_rows_of_its_own_is_seen_with_them() -> None:
    world = TASK.world(0)
    record = SHORT.fitted(tvdpp.method())
    run = TableRun(world, SHORT, record, 0)
    assert isinstance(record.collect, Answers) and world.teacher is not None
    run.rewards.append([])
    batch = record.collect(run)
    seen = run.policy._seen(batch, run.references)
    states = world.states(batch)[batch.mask]
    assert torch.equal(seen.logits["teacher"], world.teacher[states])
    assert torch.equal(seen.logits["policy"], run.policy.table[states % V])
    for name, table in (("teacher", world.teacher), ("policy", run.policy.table)):
        torch.testing.assert_close(seen.hidden[name] @ seen.weight[name].T, table[seen.hidden[name].argmax(dim=1)])
    assert TablePolicy(world.taught()).table.shape == (V * V, V)
    with pytest.raises(ValueError, match="no teacher"):
        load_bed("digits").task.world(0).taught()


def test_a_draft_that_sees_both_tokens_starts_like_the_other_and_could_equal_its_target() -> None:
    wide = Markov(rows=40, sees=2, start="tuned").world(0)
    narrow = Markov(rows=40, start="tuned").world(0)
    assert torch.equal(wide.table[wide.row], narrow.table[narrow.row]) and len(wide.table) == V * V
    run = TableRun(wide, SHORT, SHORT.fitted(tvdpp.method()), 0)
    with torch.no_grad():
        assert wide.teacher is not None
        run.policy.table.copy_(wide.teacher)
    assert TASK.measure(run)["acceptance"] == pytest.approx(1.0) and TASK.measure(run)["blocks"] == pytest.approx(4.0)


def test_a_few_steps_raise_the_acceptance() -> None:
    bed = Bed(name="markov", about="", setting=SHORT, task=TASK)
    start, end = (bed.run("tvdpp", {}, 0, train=train)["acceptance"] for train in (False, True))
    assert end > start + 0.005
