"""The method that docs/adding_a_method.md shows works as it stands on the page."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from rekindle.methods import grpo
from rekindle.train.options import flatten
from tests.batches import make_batch, make_now

PAGE = Path(__file__).parents[1] / "docs" / "adding_a_method.md"


@pytest.fixture
def shown(tmp_path: Path) -> ModuleType:
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    path = tmp_path / "forking_tokens.py"
    path.write_text(code.group(1), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_it_differs_from_its_parent_by_its_essence(shown: ModuleType) -> None:
    child, parent = flatten(shown.method()), flatten(grpo.method())
    changed = {path for path in child.keys() | parent.keys() if child.get(path) != parent.get(path)}
    assert changed and {path.split(".")[0] for path in changed} == set(shown.CARD.essence)
    assert set(shown.CARD.sources) <= set(child)


def test_it_trains_on_the_most_uncertain_tokens(shown: ModuleType) -> None:
    batch = make_batch(ungraded=True)
    now, method = make_now(batch), shown.method()
    assert not method.separable
    weight = method.weigh(batch, now.detach()).column("weight")
    kept = weight > 0
    assert 0.15 < kept.sum() / batch.live.sum() < 0.3
    assert now.entropy[kept].min() > now.entropy[batch.live & ~kept].max()
    everything = method.replace(keep=(shown.MostUncertain(share=1.0),)).weigh(batch, now.detach())
    assert torch.equal(everything.column("weight"), grpo.method().weigh(batch).column("weight"))
