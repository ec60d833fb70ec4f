"""The table world: responses walk an automaton, and the table scores them as a language model would."""

from __future__ import annotations

import torch

from rekindle.core.random import pack_key
from rekindle.core.types import ENTROPY_OLD, LOGP_OLD, Need, Seen
from rekindle.methods import grpo
from rekindle.prove.beds import TABLES, load_bed
from rekindle.prove.policy import TablePolicy
from rekindle.prove.run import Setting, TableRun
from rekindle.prove.world import Spelling

KEY = pack_key(0, 0, 0)


def small_run(bed: str, **options: int) -> TableRun:
    chosen = load_bed(bed).with_options({"prompts": 4, "group": 6, "votes": 8, **options})
    return TableRun(chosen.task.world(0), chosen.setting, chosen.setting.fitted(grpo.method()), 0)


def collected(run: TableRun) -> tuple:
    run.rewards.append([])
    return run, run.method.collect(run)


def test_every_world_is_sound() -> None:
    for name in TABLES:
        world = load_bed(name).task.world(1)
        states, tokens = world.follow.shape
        assert world.bias.shape == (states, tokens) and world.table.shape == (int(world.row.max()) + 1, tokens), name
        assert int(world.follow.max()) < states and len(world.tokens) == tokens
        logits = world.table[world.row] + world.bias
        assert bool((logits > -torch.inf).any(dim=1).all()), name
        assert {e.prompt for e in world.task.examples} <= set(world.start)
        drawn = logits[~world.chosen].exp().sum(dim=1)
        assert torch.allclose(drawn, torch.ones_like(drawn)), "the environment's rows hold log-probabilities"


def test_the_columns_of_a_batch_are_what_was_sampled() -> None:
    for name in TABLES:
        run = small_run(name)
        rollouts = run.sample(run.next_examples(4))
        _, batch = collected(small_run(name))
        assert torch.allclose(batch.logp_old, rollouts.logp, atol=1e-12), name
        now = run.policy(batch)
        assert torch.allclose(now.logp, rollouts.logp, atol=1e-12)
        assert torch.allclose(now.entropy, rollouts.entropy, atol=1e-12)
        assert bool((now.logp[~batch.mask] == 0).all())


def test_sampling_follows_the_logits() -> None:
    run = small_run("echo")
    rollouts = run.draw(run.examples, 20_000, KEY)
    first = (rollouts.ids[:, 0] == 1).double().mean().item()
    peaked = rollouts.ids[rollouts.ids[:, 0] == 0, 2]
    assert abs(first - 0.5) < 0.02
    assert abs((peaked == 3).double().mean().item() - torch.tensor([3.0, 0, 0, 0]).softmax(0)[0].item()) < 0.02
    assert bool((peaked >= 3).all()), "forbidden tokens are never drawn"


def test_greedy_takes_the_likeliest_token_and_leaves_the_environment_its_dice() -> None:
    run = small_run("ways")
    with torch.no_grad():
        run.policy.table[0, 3] = 1.0
    rollouts = run.draw(run.next_examples(4) * 50, 1, KEY, greedy=True)
    assert {text[0] for text in rollouts.text} == {"d"}
    assert len({text[1] for text in rollouts.text}) > 4
    assert rollouts.mask.tolist()[0] == [True, False], "what the environment draws is off the mask"


def test_hidden_states_times_weight_are_the_logits() -> None:
    def compute(seen: Seen) -> torch.Tensor:
        rebuilt = seen.hidden["policy"] @ seen.weight["policy"].T
        return (rebuilt - seen.logits["policy"]).abs().amax(dim=1)

    run, batch = collected(small_run("digits"))
    found = run.policy.columns(batch, [Need("gap", compute)], {})
    assert found["gap"].abs().max() < 1e-12
    assert not bool((batch.mask == 0).any())


def test_a_need_per_row_is_the_mean_over_the_row() -> None:
    run, batch = collected(small_run("strata"))
    row = Need("row", ENTROPY_OLD.compute, per="row")
    found = run.policy.columns(batch, [ENTROPY_OLD, row], {})
    want = found["entropy_old"].sum(dim=1) / batch.mask.sum(dim=1)
    assert torch.allclose(found["row"], want)


def test_heads_start_at_zero_and_carry_gradient() -> None:
    run, batch = collected(small_run("digits"))
    policy = TablePolicy(run.world, ("value",))
    now = policy(batch)
    assert now.extra["value"].abs().max() == 0
    now.extra["value"].sum().backward()
    grad = policy.heads["value"].grad
    assert grad is not None and grad.sum() == batch.mask.sum()
    assert policy.columns(batch, [LOGP_OLD], {})["logp_old"].shape == batch.action.shape


def test_only_the_policys_rows_are_trained() -> None:
    run = small_run("ways", steps=3)
    start = run.policy.table.detach().clone()
    while not run.spent():
        run.step()
    moved = (run.policy.table.detach() - start).abs().amax(dim=1)
    assert moved[0] > 0 and moved[1] == 0
    assert torch.equal(run.references["reference"].table, start)


def test_a_seed_gives_the_same_run_and_another_seed_another() -> None:
    bed = load_bed("digits").with_options({"steps": 3, "prompts": 4})
    assert bed.run("grpo", {}, 0) == bed.run("grpo", {}, 0)
    assert bed.run("grpo", {}, 0) != bed.run("grpo", {}, 1)


def test_prompts_come_once_an_epoch_and_uids_never_twice() -> None:
    run = small_run("digits")
    assert sorted(e.id for e in run.next_examples(10)) == sorted(e.id for e in run.examples)
    one, two = run.sample(run.next_examples(2)), run.greedy(run.next_examples(3))
    assert set(one.uid.tolist()).isdisjoint(two.uid.tolist())
    assert set(one.group.tolist()).isdisjoint(two.group.tolist())
    assert run.sampled == 2 * 6 + 3


def test_history_keeps_the_share_of_successes_of_each_visit() -> None:
    run = small_run("echo", steps=2, prompts=1)
    run.step()
    run.step()
    assert run.memory["history"] == {"0": [1.0, 1.0]}


def test_voting_methods_draw_votes() -> None:
    from rekindle.methods import ttrl

    run = small_run("digits")
    voting = TableRun(run.world, run.setting, run.setting.fitted(ttrl.method()), 0)
    assert (run.samples, voting.samples) == (6, 8)


def test_text_and_ids_are_each_others_inverse() -> None:
    spelling = Spelling(("a\n", "a", "\n", "b"))
    assert spelling.encode("aa\nb\n") == [1, 0, 3, 2]
    assert spelling.decode(spelling.encode("aa\nb\n")) == "aa\nb\n"
    assert spelling("ab").input_ids == [1, 3]


def test_the_setting_replaces_the_descent_and_nothing_else() -> None:
    record = grpo.method()
    fitted = Setting(lr=0.3, reuse=5, minibatches=2).fitted(record)
    assert (fitted.descent.lr, fitted.descent.epochs, fitted.descent.minibatches) == (0.3, 5, 2)
    assert fitted.descent.weight_decay == 0 and fitted.descent.grad_clip == record.descent.grad_clip
    assert fitted.replace(descent=record.descent) == record
