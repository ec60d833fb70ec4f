"""What autograd keeps of a forward pass for its backward pass, counted from the sizes of a model."""

from __future__ import annotations

from rekindle.tokens.packing import SHORT
from rekindle.train.footprint import Footprint
from rekindle.train.workload import Setup, Work


def activations(model: Footprint, setup: Setup, work: Work) -> int:
    """Bytes that are kept from a forward pass for its backward pass: all that autograd keeps of every layer.

    With checkpointing the input of every layer.
    """
    inputs = work.tokens * model.hidden * setup.element
    each = inputs if setup.checkpointing else layer_bytes(model, setup, work)
    return model.layers * each + 4 * inputs


def layer_bytes(model: Footprint, setup: Setup, work: Work) -> int:
    """Bytes that autograd keeps of one layer, counted.

    Of each token: the inputs and outputs of norms, projections and the MLP's product. With frozen weights a norm's last
    product is not kept for the norm, and a projection's input for its adapter alone.
    """
    token = _adapted(model, setup) if setup.lora and not setup.narrow else _trained(model, setup)
    return round(work.tokens * token + _attention(model, setup, work))


def _trained(model: Footprint, setup: Setup) -> int | float:
    """Bytes a token where all weights train, or where autocast makes narrow products."""
    if setup.narrow:
        normed = (8 if not setup.lora else 4) * model.head_norms
        d, q, k, i = 26 if not setup.lora else 32, 2 + 0.75 * normed, 0.75 * normed, 2 * model.mlp.kept
    else:
        normed = 2 * model.head_norms
        d, q, k, i = (setup.element * n for n in (6, 1 + normed, normed, model.mlp.kept))
    return d * model.hidden + q * model.query + k * model.key + i * model.mlp.inner


def _adapted(model: Footprint, setup: Setup) -> int | float:
    """Bytes a token under adapters: norms compute in float32 or wider, and so do adapters, on copies of what is narrow.

    The copies are one for each adapted layer; where nothing is narrow, layers that have an input together share it.
    """
    wide = setup.trains
    norms = 2 * model.hidden + model.head_norms * (model.query + model.key)
    found = model.adapted(setup.targets, copies=wide > setup.element)
    return (
        wide * (norms + found.inputs + setup.lora * found.layers)
        + setup.element * (model.mlp.kept - 1) * model.mlp.inner
    )


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
