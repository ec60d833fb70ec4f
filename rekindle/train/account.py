"""The memory of a run on one rank, term by term, from the sizes of its model.

One account serves the plan before a run (`plan.py`) and the sentence for an update that does not get its memory
(`memory.py`). Its terms count what the code keeps; `docs/planning.md` has their measured error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rekindle.tokens.scores import chunk_of
from rekindle.train.footprint import Footprint
from rekindle.train.kept import activations, layer_bytes
from rekindle.train.workload import Setup, Work

_MOMENTS = 2  # Adam keeps two numbers a parameter
_DOUBLE = 8  # bytes of a float64
_LOGITS = 2.15  # tables of a chunk's logits: the kept one and its copy in the backward pass, or two chunks; and blocks
_KERNELS = 2**27  # what oneDNN keeps of the bfloat16 kernels that it compiles, about the same for all sizes
_DRAWN, _SORTED = 16, 44  # bytes a logit while a token is drawn; and more where top-k or top-p sort


@dataclass(frozen=True)
class Estimate:
    """Bytes a rank, term by term. held: always there; the others: beside it, in that part of a step or of the run.

    later: of what is held, what an evaluation before the first step does not have beside it yet.
    """

    held: Mapping[str, int]
    sample: Mapping[str, int]
    score: Mapping[str, int]
    update: Mapping[str, int]
    evaluate: Mapping[str, int]
    later: int = 0

    @property
    def always(self) -> int:
        """What is held."""
        return sum(self.held.values())

    @property
    def peaks(self) -> dict[str, int]:
        """The most in each part, with what is held."""
        found = {name: self.always + sum(part.values()) for name, part in self.parts.items()}
        return found | {"evaluate": found["evaluate"] - self.later}

    @property
    def parts(self) -> dict[str, Mapping[str, int]]:
        """What comes to what is held, by part."""
        return {"sample": self.sample, "score": self.score, "update": self.update, "evaluate": self.evaluate}

    @property
    def peak(self) -> int:
        """The most in the run."""
        return max(self.peaks.values())

    def __str__(self) -> str:
        parts = {**self.held, **self.update}
        said = ", ".join(f"{name} {gib(size)}" for name, size in parts.items())
        return f"about {gib(self.peaks['update'])} ({said})"


def estimate(model: Footprint, setup: Setup, work: Work) -> Estimate:
    """The memory of a run. Not counted: what the libraries take, the batch itself, and fragmentation.

    Gradients stay until the next update begins. In an update of one forward pass they come into being while the
    activations go, and only what exceeds these is counted.
    """
    adapters = model.adapters(setup.lora, setup.targets) if setup.lora else 0
    trained = (adapters if setup.lora else model.parameters) + setup.heads
    base = model.parameters * setup.base if setup.lora else 0
    shared = setup.ranks
    held: dict[str, float] = {
        "weights": (base + trained * setup.trains) / shared,
        "optimizer": 0 if setup.searches else _MOMENTS * trained * setup.trains / shared,
        "singular vectors": _DOUBLE * adapters if setup.searches else 0,
        "reference": model.parameters * setup.element * setup.copies,
        "teacher": setup.teacher * setup.element,
        "sampler's copy": model.parameters * setup.copy,
        "sampling engine": setup.engine,
    }
    if (setup.narrow or setup.element < 4) and not setup.gpu:
        held["oneDNN's kernels"] = _KERNELS
    gradients = 0 if setup.searches else trained * setup.trains / shared
    spread = (2 * model.layer + model.root) * setup.element if shared > 1 else 0
    last = {"gradients of the last update": gradients}
    engine = {"sampling engine": work.engine, "weights on their way": work.pushed}
    sample = {**last, **_sampling(model, setup, work, work.samples, work.truncates), **engine}
    evaluate = {**({} if work.at_start else last), **_sampling(model, setup, work, work.evaluated, False)}
    score = {**last, "logits": setup.tables * _table(model, setup, work), "gathered layers": spread}
    update = {} if setup.searches else _updating(model, setup, work, gradients, spread)
    every = (held, sample, score if setup.tables else {}, update, evaluate if work.evaluated else {})
    later = round(held.get("optimizer", 0)) if work.evaluated and work.at_start else 0
    return Estimate(*({name: round(size) for name, size in part.items() if size} for part in every), later=later)


def _updating(
    model: Footprint, setup: Setup, work: Work, gradients: int | float, spread: int
) -> dict[str, int | float]:
    update: dict[str, int | float] = {
        "activations": activations(model, setup, work),
        **_moment(model, setup, work),
        "bf16 copies": 2 * (model.linear + model.head) if setup.narrow else 0,
        "gathered layers": spread + _whole_gradients(model, setup),
    }
    busy = sum(update.values())
    return {**update, "gradients": gradients if work.pieces > 1 else max(0, gradients - busy)}


def _whole_gradients(model: Footprint, setup: Setup) -> int:
    """Gradients of one layer and the root before each rank takes its share."""
    return (model.layer + model.root) * setup.element if setup.ranks > 1 and not setup.lora else 0


def _moment(model: Footprint, setup: Setup, work: Work) -> dict[str, int]:
    """What comes to the activations at the peak: the head's backward pass, or after it that of the last layer.

    The head: its logits, and its gradient before it is added. The layer: gradients of what it kept, and with
    checkpointing what it keeps, computed again.
    """
    head = round(_LOGITS * _table(model, setup, work) + (0 if setup.lora else model.head * setup.element))
    width = 2 if setup.narrow else setup.element
    layer = work.tokens * (model.mlp.matrices * model.mlp.inner + 4 * model.hidden) * width
    layer += layer_bytes(model, setup, work) if setup.checkpointing else 0
    return {"logits": head} if head >= layer else {"a layer's backward pass": layer}


def _table(model: Footprint, setup: Setup, work: Work) -> int:
    """Bytes of the logits of a chunk."""
    actions = work.rows * work.response
    return min(actions, chunk_of(model.vocabulary, actions)) * model.vocabulary * max(4, setup.element)


def _sampling(model: Footprint, setup: Setup, work: Work, samples: int, truncates: bool) -> dict[str, int]:
    """What decoding a block holds: each prompt's keys and values once, every row's own, and the logits of a token.

    Under a rule every row holds its prompt's, too, once for each model in lockstep, and a rule sorts the logits.
    """
    width = 2 if setup.narrow else setup.element
    rows = work.block * samples
    token = 2 * model.key * model.layers * width * max(1, work.lockstep)
    prompts = rows if work.lockstep else work.block
    sorts = truncates or work.lockstep > 0
    return {
        "key-value cache": (prompts * work.prompt + rows * (1 + work.response)) * token,
        "drawing": rows * model.vocabulary * (_DRAWN + (_SORTED if sorts else 0)),
        "laid-out weights": 0 if setup.gpu or not work.block else model.laid_out * width,
    }


def gib(size: int | float) -> str:
    """Bytes in words."""
    if size < 2**20:
        return "under 1 MiB"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
