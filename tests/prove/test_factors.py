"""The bed of methods that search: its start, its options, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from rekindle.errors import InputError
from rekindle.methods import essa
from rekindle.prove.beds import SEARCHED, load_bed, names
from rekindle.prove.factors import BED, CLASSES, KNOWN, PIXELS, Accuracy, FactorRun
from tests.methods.records import SEARCHING


def run(seed: int = 0, **options: float) -> FactorRun:
    return BED.with_options(options).start(seed)


def test_the_classifier_knows_six_classes_and_the_update_moves_with_its_steps() -> None:
    none, some, many = (run(sft=steps) for steps in (0, 20, 80))
    assert none.b.count_nonzero() == 0 and none.right(none.test) == 0.0
    assert none.right(none.test) <= some.right(some.test) < many.right(many.test)
    assert torch.equal(none.base, many.base) and none.base.shape == (CLASSES, PIXELS)
    assert set(none.test.classes.tolist()) == set(range(KNOWN, CLASSES)) and len(none.train) == 300
    assert torch.linalg.matrix_rank(many.b @ many.a) <= 4


def test_a_seed_is_a_start_and_batches_are_the_steps_own() -> None:
    one, same, other = run(3), run(3), run(4)
    assert torch.equal(one.a, same.a) and torch.equal(one.b, same.b) and not torch.equal(one.a, other.a)
    batches = [Accuracy().examples(one).pixels for _ in range(2)]
    assert torch.equal(*batches) and len(batches[0]) == 64
    one.step_index += 1
    assert not torch.equal(batches[0], Accuracy().examples(one).pixels)


@pytest.mark.parametrize("name", SEARCHING)
def test_every_method_that_searches_runs_unchanged(name: str) -> None:
    bed = load_bed("factors").with_options({"steps": 2, "prompts": 16})
    found = bed.run(name, {}, 0)
    assert set(bed.metrics) <= set(found) and 0 <= found["accuracy"] <= 1
    assert found["train/fitness"] <= found["max/fitness/best"]
    start = bed.run(name, {}, 0, train=False)
    assert start == {"accuracy": run().right(run().test)}


def test_search_moves_only_the_singular_values() -> None:
    start, done = run(sft=40), run(sft=40)
    record = essa.method().replace(collect=Accuracy())
    for _ in range(3):
        done.step(record)
    assert torch.equal(start.base, done.base) and not torch.equal(start.b, done.b)
    for name, before, now in (("A", start.a, done.a), ("B", start.b, done.b)):
        u, v = (done.kept[f"factors.0.{name}.{part}"] for part in "uv")
        torch.testing.assert_close(u @ (u.T @ now @ v.T) @ v, now)
        torch.testing.assert_close(u @ (u.T @ before @ v.T) @ v, before)


def test_the_kinds_of_beds_and_methods_are_kept_apart() -> None:
    assert SEARCHED == ("factors",) and set(SEARCHED) < set(names())
    with pytest.raises(InputError, match="'grpo' takes gradients: the bed 'factors' is for methods that search"):
        BED.run("grpo", {}, 0)
    with pytest.raises(InputError, match="'essa' searches an adapter, and a table has none: its bed is 'factors'"):
        load_bed("digits").run("essa", {}, 0)
    with pytest.raises(InputError, match=r"unknown option of the bed 'factors' 'sfd': there are sft, rank"):
        BED.with_options({"sfd": 1})
    with pytest.raises(InputError, match=r"unknown metric of the bed 'factors' 'entropy': there are accuracy"):
        BED.check_metric("entropy")
    BED.check_metric("train/fitness")
