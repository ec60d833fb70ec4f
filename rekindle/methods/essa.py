"""ESSA: black-box search over the singular values of a trained adapter, by forward passes alone.

Korotyshova, Shaposhnikov, Malakhov et al., arXiv 2507.04453. It has no parent on this shelf: there is no gradient.
"""

from __future__ import annotations

from rekindle.core.evolution import Evolution
from rekindle.core.method import Card, Effect
from rekindle.tokens.cma import CMA
from rekindle.tokens.factors import SingularValues
from rekindle.tokens.trials import Responses


def _warmed(claim: str, sft: int) -> Effect:
    """A claim on a start that was trained for `sft` steps, against that start alone."""
    size = {"search.population": 24}
    return Effect(claim=claim, bed="factors", metric="accuracy", against="", options=size, bed_options={"sft": sft})


CARD = Card(
    title="ESSA",
    summary="CMA-ES searches the singular values of a trained adapter; no gradient, no optimiser.",
    authors="Korotyshova, Shaposhnikov, Malakhov, Khokhulin, Surnachev, Ovcharenko, Bredis, Gorbatovski, Sinii, "
    "Gavrilov",
    year=2025,
    arxiv="2507.04453",
    code=None,
    parent=None,
    essence=("space", "search"),
    status="close",
    deviations=(
        "The paper states neither the first step size nor how candidates decode: here 0.2 of the mean of the factors' "
        "largest singular values, and greedy.",
        "All candidates of a generation answer the same prompts, the next generation others; in the paper each may "
        "have a batch of its own.",
        "CMA-ES is that of the package cmaes: its full form also learns from the worse half of a generation; beyond "
        "500 numbers it is the separable form.",
        "The adapter is that of --lora or of the start model, at every linear layer unless lora.targets says "
        "otherwise; the paper adapts the four attention projections.",
        "The short supervised run before the search is a run of its own.",
        "Prompts a generation are `rollout.prompts`; the paper takes 100 to 500.",
        "The final mean is returned; the paper does not say which point is.",
    ),
    version=1,
    sources={
        "space.share": "paper, table of defaults: alpha 1.0, stable from 0.4 up",
        "search.population": "paper, table of defaults: 96; best runs 24 to 96",
        "search.sigma": "not stated; ours: 0.1 to 0.2 of the mean top singular value",
    },
    effects=(
        _warmed("gains accuracy over a start of 10 supervised steps", 10),
        _warmed("gains accuracy over a start of 20 supervised steps", 20),
        _warmed("gains accuracy over a start of 40 supervised steps", 40),
        Effect(
            claim="learns nothing without a warm start",
            bed="factors",
            metric="accuracy",
            against="",
            options={"search.population": 24},
            bed_options={"sft": 0},
            within=0.0,
        ),
    ),
)


def method() -> Evolution:
    """ESSA as a record of parts."""
    return Evolution(
        collect=Responses(),
        space=SingularValues(share=1.0),
        search=CMA(population=96, sigma=0.2),
    )
