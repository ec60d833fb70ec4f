"""GRPO with an entropy bonus: the oldest remedy against a policy that stops exploring, with a fixed coefficient.

Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", arXiv 1602.01783. Differs from GRPO by one term.
"""

from __future__ import annotations

from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.core.terms import EntropyBonus
from rekindle.methods import grpo

TOY = {"terms.0.coef": 0.01}
CARD = Card(
    title="GRPO + entropy bonus",
    summary="A fixed reward for the entropy of every token.",
    authors="Mnih, Badia, Mirza, Graves, Lillicrap, Harley, Silver, Kavukcuoglu",
    year=2016,
    arxiv="1602.01783",
    code="verl, actor.entropy_coeff; TRL, entropy_coef",
    parent="grpo",
    essence=("terms",),
    status="exact",
    deviations=(
        "Of little use for language models: Cui et al. (arXiv 2505.22617) saw 1e-3 do nothing and 1e-2 explode.",
    ),
    version=1,
    sources={"terms.0.coef": "launch script of EchoRL (arXiv 2605.31228): 0.001"},
    effects=(Effect(claim="keeps entropy", bed="digits", metric="entropy", options=TOY),),
)


def method() -> PolicyGradient:
    """GRPO with an entropy bonus as a record of parts."""
    return grpo.method().replace(terms=(EntropyBonus(coef=0.001),))
