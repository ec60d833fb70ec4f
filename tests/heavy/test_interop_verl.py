"""Methods of ours inside real verl 0.9.1: the rows of the conformance table again, through verl's own registries."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from benchmarks.judge import page
from benchmarks.judge.cases import KINDS, Case
from benchmarks.judge.sides import Said
from rekindle.errors import InputError
from rekindle.interop.verl import Registered, register

# verl's and its dependencies' own warnings are not ours to fix.
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]

STORED = page.load()["rows"]
ROWS = [name for name, row in STORED.items() if row["rival"] == "verl"]
REFUSED = {
    "verl-tis-token": "SamplerWeighted",
    "verl-tis-sequence": "SamplerWeighted",
    "verl-tis-mask": "SamplerWeighted",
}
REFUSED |= {"verl-gae": "value_old"}
ELSEWHERE = {"verl-k1", "verl-k2", "verl-k3", "verl-k2-beyond", "verl-value-loss"}
"""Terms alone: verl adds its own, and ours are compared with its options."""
CUT = {"verl-kl-cov-micro", "verl-clip-cov-micro"}
DRAWN = {"verl-clip-cov-drawn"}


@pytest.fixture(scope="module")
def judge() -> Any:
    reason = "verl is in the environment of `make judge` only: methods inside verl NOT CHECKED here"
    pytest.importorskip("verl", reason=reason)
    pytest.importorskip("trl", reason=reason)
    from benchmarks.judge import __main__

    return __main__


@pytest.fixture(scope="module")
def rows(judge: Any) -> dict[str, Any]:
    return judge.rows()


def algos() -> Any:
    from verl.trainer.ppo import core_algos  # type: ignore[import-not-found]

    return core_algos


def options(told: Registered, place: str) -> dict[str, Any]:
    """verl's options below `place`, dotted ones as nested dicts."""
    found: dict[str, Any] = {}
    for path, value in told.flags.items():
        if path.startswith(place) and not path.endswith(("loss_mode", "adv_estimator")):
            *outer, last = path.removeprefix(f"{place}.").split(".")
            inner = found
            for key in outer:
                inner = inner.setdefault(key, {})
            inner[last] = value
    return found


def loss(told: Registered, case: Case, pieces: int = 1) -> Said:
    """Loss and gradient by the function that verl finds, called as its actor calls it."""
    from benchmarks.judge import sides, verl_side

    actor = options(told, "actor_rollout_ref.actor")
    settings = verl_side.config({**actor, "loss_scale_factor": actor.get("loss_scale_factor", 9)})
    if pieces > 1:
        counts = {"batch_num_tokens": case.batch.mask.sum(), "global_batch_size": len(case.batch)}
        settings.global_batch_info.update(dp_size=1, **counts)
    leaf, total = sides.leaves(case), 0.0
    for rows in torch.arange(len(case.batch)).chunk(pieces):
        piece = case.batch.take(rows)
        found, metrics = algos().get_policy_loss_fn(told.name)(
            old_log_prob=piece.logp_old,
            log_prob=leaf[0][rows],
            advantages=piece.advantage,
            response_mask=piece.mask.long(),
            loss_agg_mode=actor["loss_agg_mode"],
            config=settings,
            rollout_is_weights=None,
        )
        found.backward()
        total += found.item()
        assert all(isinstance(value, float) for value in metrics.values())
    return Said(loss=total, gradient=leaf.grad)


def advantage(told: Registered, case: Case, kl_coef: float = 0.0, greedy: bool = False) -> Said:
    """Advantages by the estimator that verl finds, called as its trainer calls it."""
    from benchmarks.judge import verl_side

    batch = case.batch
    rewards, mask = verl_side.token_rewards(batch), batch.mask.to(batch.score.dtype)
    if kl_coef:
        rewards = rewards - kl_coef * mask * algos().kl_penalty(batch.logp_old, batch.column("logp_ref"), "kl")
    found, returns = algos().get_adv_estimator_fn(told.name)(
        token_level_rewards=rewards,
        response_mask=mask,
        config=options(told, "algorithm"),
        index=numpy.array([f"prompt-{g}" for g in batch.group.tolist()], dtype=object),
        **({"reward_baselines": batch.column("score_greedy")} if greedy else {}),
    )
    assert torch.equal(found, returns) and not found.requires_grad
    return Said(advantage=found.where(batch.mask, 0.0))


def whole(told: Registered, case: Case) -> Said:
    from benchmarks.judge import sides

    found = advantage(told, case).advantage
    assert found is not None
    said = loss(told, sides.with_batch(case, case.batch.with_columns(advantage=found)))
    return Said(found, said.loss, said.gradient)


def through(name: str, row: Any) -> Any:
    """The row's own side, through verl's registries."""
    from benchmarks.judge import sides
    from rekindle import methods

    if not isinstance(row.ours, partial):  # of ReMax, whose greedy score verl hands over
        told = register(methods.load("remax").method(), name=f"judged-{name}", parts=["advantage"])
        return partial(advantage, told, greedy=True)
    kind, method = row.ours.func, row.ours.args[0]
    parts = {sides.loss: ["loss"], sides.advantage: ["advantage"], sides.whole: ["loss", "advantage"]}[kind]
    told = register(method, name=f"judged-{name}", parts=parts)
    if kind is sides.loss:
        return partial(loss, told, pieces=row.ours.keywords["pieces"])
    if kind is sides.whole:
        return partial(whole, told)
    return partial(advantage, told, kl_coef=row.theirs.keywords.get("kl_coef", 0.0))


def apart(name: str, row: Any, seeds: int = 2) -> dict[str, float]:
    """The largest difference of each number between the registered function and verl's own."""
    ours = through(name, row)
    worst: dict[str, float] = {}
    for kind in row.kinds:
        for seed in range(seeds):
            case = KINDS[kind](seed)
            mine, theirs = ours(case), row.theirs(case)
            for what in ("advantage", "loss", "gradient"):
                a, b = vars(mine)[what], vars(theirs)[what]
                if a is not None and b is not None:
                    worst[what] = max(worst.get(what, 0.0), difference(a, b))
    return worst


def difference(a: Tensor | float, b: Tensor | float) -> float:
    return (torch.as_tensor(a, dtype=torch.float64) - torch.as_tensor(b, dtype=torch.float64)).abs().max().item()


@pytest.mark.parametrize("name", [name for name in ROWS if name not in {*REFUSED, *ELSEWHERE, *CUT, *DRAWN}])
def test_a_row_of_the_table_through_verls_registries(rows: dict[str, Any], name: str) -> None:
    stored, found = STORED[name], apart(name, rows[name])
    assert found.keys() == stored["difference"].keys()
    if stored["verdict"] == "equal":
        assert max(found.values()) <= stored["tolerance"], found
        return
    again = {}  # what differs, differs as our own side does, on the same seeds
    for kind in rows[name].kinds:
        for seed in range(2):
            case = KINDS[kind](seed)
            ours, theirs = rows[name].ours(case), rows[name].theirs(case)
            for what in found:
                again[what] = max(again.get(what, 0.0), difference(vars(ours)[what], vars(theirs)[what]))
    for what, value in found.items():
        assert value == pytest.approx(again[what], rel=1e-9, abs=1e-10), what
        assert value <= 1.01 * stored["difference"][what] + 1e-10, what
    assert max(found.values()) > stored["tolerance"]


@pytest.mark.parametrize("name", sorted(CUT))
def test_cut_into_micro_batches_an_objective_of_the_whole_minibatch_is_verls(rows: dict[str, Any], name: str) -> None:
    assert max(apart(name, rows[name]).values()) <= 1e-10
    case = KINDS["ragged"](0)
    ours, cut = rows[name].ours(case), through(name, rows[name])(case)
    assert difference(ours.gradient, cut.gradient) > 1e-4, "our own trainer's update does not depend on the cut"


def test_tokens_drawn_at_random_are_as_many_as_verls(rows: dict[str, Any]) -> None:
    row = rows["verl-clip-cov-drawn"]
    method = row.ours.args[0]
    told = register(method, name="judged-drawn", parts=["loss"])
    for seed in range(4):
        case = KINDS["extreme"](seed)
        here, there = loss(told, case), row.theirs(case)
        assert here.gradient is not None
        dropped = [
            ((g[0] == 0) & case.batch.mask & (case.batch.advantage != 0)).sum() for g in (here.gradient, there.gradient)
        ]
        assert dropped[0] == dropped[1] > 0
        assert torch.equal(here.gradient, loss(told, case).gradient), "no generator is drawn from"


@pytest.mark.parametrize(("name", "why"), REFUSED.items())
def test_a_method_that_needs_more_is_refused_by_the_part(rows: dict[str, Any], name: str, why: str) -> None:
    parts = ["advantage"] if name == "verl-gae" else ["loss"]
    with pytest.raises(InputError, match=why):
        register(rows[name].ours.args[0], name=f"judged-{name}", parts=parts)
    assert f"judged-{name}" not in {*algos().POLICY_LOSS_REGISTRY, *algos().ADV_ESTIMATOR_REGISTRY}


def test_the_names_of_verl_stay_its_own(judge: Any) -> None:
    before = algos().get_policy_loss_fn("clip_cov")
    with pytest.raises(InputError, match="verl has another 'clip_cov' already: choose another name"):
        register("clip_cov", name="clip_cov", parts=["loss"])
    with pytest.raises(InputError, match="'rloo' already"):
        register("rloo", name="rloo", parts=["advantage"])
    assert algos().get_policy_loss_fn("clip_cov") is before
    assert register("clip-cov") == register("clip_cov"), "again, the same"
    assert algos().get_policy_loss_fn("rekindle_clip_cov").method.objective.share == 2e-4
    with pytest.raises(InputError, match="another 'rekindle_clip_cov'"):
        register("clip_cov", options={"objective.share": 0.1})
