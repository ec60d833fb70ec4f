"""What all tests share: one thread, a fixed seed, no network and no memory of one test in another."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Every test starts from one random state, so that it does not depend on which ran before it."""
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
