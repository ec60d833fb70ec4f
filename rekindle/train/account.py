"""The memory of a run on one rank, term by term, from the sizes of its model.

One account serves the plan before a run (`plan.py`) and the sentence for an update that does not get its memory
(`memory.py`). Its terms count what the code keeps; `docs/planning.md` has their measured error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rekindle.tokens.packing import SHORT
from rekindle.tokens.scores import chunk_of
from rekindle.train.footprint import Footprint

_MOMENTS = 2  # Adam keeps two numbers a parameter
_LOGITS = 2.15  # tables of a chunk's logits: the kept one and its copy in the backward pass, or two chunks; and blocks
_KERNELS = 2**27  # what oneDNN keeps of the bfloat16 kernels that it compiles, about the same for all sizes
_DRAWN, _SORTED = 16, 44  # bytes a logit while a token is drawn; and more where top-k or top-p sort


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a run holds its model. element: bytes of a weight. narrow: bfloat16 products by autocast beside it.

    base: bytes of a frozen weight under adapters of `lora` rank (0: all weights train). heads: parameters of scalar
    heads. ranks: that share weights, gradients and optimiser (1: each has all). copy: bytes a weight of a whole copy
    that the sampler holds. tables: of logits that a scoring pass holds at a time (0: a step scores nothing by itself).
    engine: bytes of a sampling engine that stays in this process while the model trains.
    """

    element: int = 4
    narrow: bool = False
    checkpointing: bool = False
    lora: int = 0
    targets: tuple[str, ...] = ("all-linear",)
    base: float = 4.0
    heads: int = 0
    reference: bool = False
    ranks: int = 1
    copy: int = 0
    tables: int = 0
    engine: int = 0
    gpu: bool = False


@dataclass(frozen=True, kw_only=True)
class Work:
    """The most that is computed at once, tokens a row at most. rows: of a forward pass, of prompts with `group` each.

    pieces: forward passes an update. block: prompts decoded together, `samples` of each; 0: nothing is sampled here.
    engine: bytes that one in this process takes while it samples. pushed: of weights on their way to it. truncates:
    top-k or top-p.
    """

    rows: int
    group: int
    prompt: int
    response: int
    pieces: int = 2
    block: int = 0
    samples: int = 0
    engine: int = 0
    pushed: int = 0
    truncates: bool = False

    @property
    def prompts(self) -> int:
        """Different prompts of a forward pass."""
        return -(-self.rows // self.group)

    @property
    def tokens(self) -> int:
        """Tokens that a forward pass computes: each prompt once, and each row's response but its last token."""
        return self.prompts * self.prompt + self.rows * max(self.response - 1, 0)


@dataclass(frozen=True)
class Estimate:
    """Bytes a rank, term by term. held: always there; sample, score, update: beside it, in that part of a step."""

    held: Mapping[str, int]
    sample: Mapping[str, int]
    score: Mapping[str, int]
    update: Mapping[str, int]

    @property
    def always(self) -> int:
        """What is held."""
        return sum(self.held.values())

    @property
    def peaks(self) -> dict[str, int]:
        """The most in each part of a step, with what is held."""
        parts = {"sample": self.sample, "score": self.score, "update": self.update}
        return {name: self.always + sum(part.values()) for name, part in parts.items()}

    @property
    def peak(self) -> int:
        """The most in a step."""
        return max(self.peaks.values())

    def __str__(self) -> str:
        parts = {**self.held, **self.update}
        said = ", ".join(f"{name} {gib(size)}" for name, size in parts.items())
        return f"about {gib(self.peaks['update'])} ({said})"


def estimate(model: Footprint, setup: Setup, work: Work) -> Estimate:
    """The memory of a step. Not counted: what the libraries take, the batch itself, and fragmentation.

    Gradients stay until the next update begins. In an update of one forward pass they come into being while the
    activations go, and only what exceeds these is counted.
    """
    adapters = model.adapters(setup.lora, setup.targets) if setup.lora else 0
    trained = (adapters if setup.lora else model.parameters) + setup.heads
    base = model.parameters * setup.base if setup.lora else 0
    shared = setup.ranks
    held: dict[str, float] = {
        "weights": (base + trained * setup.element) / shared,
        "optimizer": _MOMENTS * trained * setup.element / shared,
        "reference": model.parameters * setup.element if setup.reference else 0,
        "sampler's copy": model.parameters * setup.copy,
        "sampling engine": setup.engine,
    }
    if setup.narrow and not setup.gpu:
        held["oneDNN's kernels"] = _KERNELS
    gradients = trained * setup.element / shared
    spread = (2 * model.layer + model.root) * setup.element if shared > 1 else 0
    sample = {"gradients of the last update": gradients, **_sampling(model, setup, work)}
    score = {
        "gradients of the last update": gradients,
        "logits": setup.tables * _table(model, setup, work),
        "gathered layers": spread,
    }
    update: dict[str, float] = {
        "activations": activations(model, setup, work),
        **_moment(model, setup, work),
        "bf16 copies": 2 * (model.linear + model.head) if setup.narrow else 0,
        "gathered layers": spread + _whole_gradients(model, setup),
    }
    busy = sum(update.values())
    update["gradients"] = gradients if work.pieces > 1 else max(0, gradients - busy)
    every = (held, sample, score if setup.tables else {}, update)
    return Estimate(*({name: round(size) for name, size in part.items() if size} for part in every))


def _whole_gradients(model: Footprint, setup: Setup) -> int:
    """Gradients of one layer and the root before each rank takes its share."""
    return (model.layer + model.root) * setup.element if setup.ranks > 1 and not setup.lora else 0


def activations(model: Footprint, setup: Setup, work: Work) -> int:
    """Bytes that are kept from a forward pass for its backward pass: all that autograd keeps of every layer.

    With checkpointing the input of every layer.
    """
    inputs = work.tokens * model.hidden * setup.element
    each = inputs if setup.checkpointing else layer_bytes(model, setup, work)
    return model.layers * each + 4 * inputs


def _moment(model: Footprint, setup: Setup, work: Work) -> dict[str, int]:
    """What comes to the activations at the peak: the head's backward pass, or after it that of the last layer.

    The head: its logits, and its gradient before it is added. The layer: gradients of what it kept, and with
    checkpointing what it keeps, computed again.
    """
    head = round(_LOGITS * _table(model, setup, work) + (0 if setup.lora else model.head * setup.element))
    width = 2 if setup.narrow else setup.element
    layer = work.tokens * (model.matrices * model.inner + 4 * model.hidden) * width
    layer += layer_bytes(model, setup, work) if setup.checkpointing else 0
    return {"logits": head} if head >= layer else {"a layer's backward pass": layer}


def layer_bytes(model: Footprint, setup: Setup, work: Work) -> int:
    """Bytes that autograd keeps of one layer, counted.

    Of each token: the inputs and outputs of norms, projections and the MLP's product. With frozen weights a norm's last
    product and a projection's input are kept once, not twice.
    """
    mlp = model.matrices + 1
    if setup.narrow:
        normed = (8 if not setup.lora else 4) * model.head_norms
        d, q, k, i = 26 if not setup.lora else 32, 2 + 0.75 * normed, 0.75 * normed, 2 * mlp
    else:
        normed, last = 2 * model.head_norms, 1 if not setup.lora else 0
        d, q, k, i = 4 + 2 * last, 1 + normed - (1 - last) * model.head_norms, normed, mlp
        d, q, k, i = (setup.element * n for n in (d, q, k, i))
    token = d * model.hidden + q * model.query + k * model.key + i * model.inner
    return round(work.tokens * token + _attention(model, setup, work))


def _attention(model: Footprint, setup: Setup, work: Work) -> int:
    """Bytes that attention keeps of one layer, bucket by bucket as `packing.py` lays them out."""
    width = 2 if setup.narrow else setup.element
    fed, short = max(work.response - 1, 0), 0 if setup.gpu else SHORT
    share = width + (4 if setup.narrow else 0)
    asked = _products(model, work.prompt, work.prompt, width, share)
    if work.prompt > short:
        asked = 2 * work.prompt * (model.query + model.key) * width
    keys = work.prompt + fed
    if short - work.prompt < fed >= work.prompt:
        answered = 2 * keys * (model.query + model.key) * width
    elif keys <= short:
        answered = _products(model, fed, keys, width, share)
    else:
        answered = (2 * (keys + fed) * model.query + fed * keys) * width
    return work.prompts * asked + work.rows * answered


def _products(model: Footprint, queries: int, keys: int, width: int, share: int) -> int:
    return queries * keys * model.heads * share + (queries * model.query + 2 * keys * model.key) * width


def _table(model: Footprint, setup: Setup, work: Work) -> int:
    """Bytes of the logits of a chunk."""
    actions = work.rows * work.response
    return min(actions, chunk_of(model.vocabulary, actions)) * model.vocabulary * max(4, setup.element)


def _sampling(model: Footprint, setup: Setup, work: Work) -> dict[str, int]:
    """What decoding a block holds: each prompt's keys and values once, every row's own, and the logits of a token."""
    width = 2 if setup.narrow else setup.element
    rows = work.block * work.samples
    token = 2 * model.key * model.layers * width
    drawn = _DRAWN + (_SORTED if work.truncates else 0)
    return {
        "key-value cache": (work.block * work.prompt + rows * (1 + work.response)) * token,
        "drawing": rows * model.vocabulary * drawn,
        "laid-out weights": 0 if setup.gpu or not work.block else model.laid_out * width,
        "sampling engine": work.engine,
        "weights on their way": work.pushed,
    }


def gib(size: int | float) -> str:
    """Bytes in words."""
    if size < 2**20:
        return "under 1 MiB"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
