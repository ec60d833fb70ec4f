"""A window's pieces add up to `core.descend`: equal losses, gradients and metrics, whatever the micro-batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rekindle.core.descend import backward
from rekindle.core.method import PolicyGradient
from rekindle.core.types import Batch, Now
from rekindle.errors import InputError
from rekindle.interop.trl.fitting import record_of, refuse_parts
from rekindle.interop.trl.rewards import novelty_reward
from rekindle.interop.trl.window import opened
from rekindle.methods import bapo, clip_cov, entropy_bonus, evol_rl, forking_tokens, grpo, kl_cov
from rekindle.tokens.collect import Answers
from rekindle.tokens.rollouts import PromptRows

RECORDS = {
    "grpo": grpo.method(),
    "entropy_bonus": entropy_bonus.method(),
    "kl_cov": kl_cov.method().replace(objective=kl_cov.KLCov(share=0.3)),
    "clip_cov": clip_cov.method(),
    "forking_tokens": forking_tokens.method(),
    "bapo": bapo.method(),
}
ROWS, WIDTH = 8, 5


def batch_of(old: bool) -> Batch:
    rng = torch.Generator().manual_seed(2)
    mask = torch.arange(WIDTH) < torch.tensor([5, 3, 1, 4, 5, 2, 3, 5])[:, None]
    score = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 1], dtype=torch.float64)
    columns = {"logp_old": -torch.rand(ROWS, WIDTH, generator=rng, dtype=torch.float64).where(mask, 0.0)} if old else {}
    return Batch(
        action=mask.long(),
        mask=mask,
        uid=torch.arange(40, 40 + ROWS),
        group=torch.arange(ROWS) // 4,
        success=score > 0,
        graded=torch.ones(ROWS, dtype=torch.bool),
        score=score,
        prompt=PromptRows(((1,),) * ROWS),
        key=torch.tensor(3),
        extra=columns,
    )


class Leaves:
    """A policy whose log-probs and entropies are the parameters."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(1)
        self.logp = (-torch.rand(ROWS, WIDTH, generator=rng, dtype=torch.float64)).requires_grad_()
        self.entropy = torch.rand(ROWS, WIDTH, generator=rng, dtype=torch.float64).requires_grad_()

    def __call__(self, batch: Batch) -> Now:
        rows = batch.uid - 40
        return Now(logp=self.logp[rows].where(batch.mask, 0.0), entropy=self.entropy[rows].where(batch.mask, 0.0))

    def gradient(self) -> Tensor:
        grads = [leaf.grad for leaf in (self.logp, self.entropy)]
        return torch.stack([torch.zeros(ROWS, WIDTH, dtype=torch.float64) if g is None else g for g in grads])


@pytest.mark.parametrize(
    ("old", "fresh"), [(True, False), (False, True), (True, True)], ids=["stale", "fresh", "fresh and scored"]
)
@pytest.mark.parametrize("size", [8, 3, 1])
@pytest.mark.parametrize("name", RECORDS)
def test_pieces_add_up_to_the_exact_update(name: str, size: int, old: bool, fresh: bool) -> None:
    record = RECORDS[name]
    batch, ours, theirs = record.credit(batch_of(old)), Leaves(), Leaves()
    loss, _, metrics = backward(theirs, batch, record, ROWS, fresh=fresh)
    pieces = [batch.take(rows) for rows in torch.randperm(ROWS, generator=torch.Generator().manual_seed(4)).split(size)]
    order = torch.cat([piece.uid for piece in pieces]) - 40
    window = opened(record, batch.take(order), fresh, lambda: [ours(piece) for piece in pieces])
    total = 0.0
    for piece in pieces:
        value = window.piece(ours(piece), piece.uid)
        value.backward()
        total += value.item()
    assert total == pytest.approx(loss, abs=1e-12)
    assert theirs.gradient().abs().max() > 1e-4, "no gradient: the comparison proves nothing"
    assert (ours.gradient() - theirs.gradient()).abs().max() < 1e-12
    assert {n: v for n, v in window.metrics.items() if n != "entropy"} == {
        n: pytest.approx(v) for n, v in metrics.items()
    }
    live = batch.live
    assert window.metrics["entropy"] == pytest.approx((ours.entropy[live].sum().item(), live.sum().item()))


def test_the_policy_is_asked_beforehand_only_where_the_loss_needs_it() -> None:
    batch = grpo.method().credit(batch_of(True))
    asked: list[int] = []

    def said() -> list[Now]:
        asked.append(1)
        return [Leaves()(batch)]

    opened(RECORDS["grpo"], batch, True, said)
    assert not asked
    opened(RECORDS["kl_cov"], batch, True, said)
    assert asked == [1]


# --- what fits ---


def fits(record: PolicyGradient, rewards: list[object], reference: bool = True) -> None:
    refuse_parts(record, rewards, reference)


def test_a_vote_is_among_the_reward_functions_or_refused() -> None:
    record = evol_rl.method()
    fits(record, [len, novelty_reward()])
    for rewards in ([len], [novelty_reward(alpha=0.3)], []):
        with pytest.raises(InputError, match="MajorityVote and NoveltyBands"):
            fits(record, rewards)
    fits(record.replace(collect=Answers()), [len])


def test_a_reference_is_asked_for_only_where_a_part_reads_it() -> None:
    fits(grpo.method(), [], reference=False)
    with pytest.raises(InputError, match=r"KLToReference needs 'logp_ref'.*beta"):
        fits(evol_rl.method(), [novelty_reward()], reference=False)


def test_a_name_or_a_record_is_a_method() -> None:
    assert record_of("evol-rl") == evol_rl.method() and record_of(grpo.method()) == grpo.method()
    assert isinstance(record_of("grpo+kl_cov").objective, kl_cov.KLCov)
    with pytest.raises(InputError, match="Evolution"):
        record_of("essa")


def test_base_installs_are_told_to_install_trl() -> None:
    import importlib.util

    if importlib.util.find_spec("trl") is not None:
        pytest.skip("TRL is here")
    with pytest.raises(InputError, match="TRL is not installed beside Rekindle: pip install"):
        from rekindle.interop.trl import RekindleTrainer  # noqa: F401
