"""EchoRL with a whole right answer in place of the most uncertain step: the control.

Bi et al., arXiv 2605.31228, has no such numbers; without a selection, the NLL of one's own samples has an expected
gradient of zero, so what EchoRL does beyond this is what its choice of steps does.
"""

from __future__ import annotations

from rekindle.core.echo import MineEcho
from rekindle.core.method import Card, Effect, PolicyGradient
from rekindle.methods import echo_rl

CARD = Card(
    title="EchoRL of a whole response",
    summary="Echoes a random right answer whole: the control for EchoRL's cut.",
    authors="Bi, Aniri, Yang, ..., Tresp, Ma (control: ours)",
    year=2026,
    arxiv="2605.31228",
    code=None,
    parent="echo_rl",
    essence=("collect.columns", "prepare", "terms"),
    status="exact",
    deviations=(),
    version=1,
    effects=(
        Effect(
            claim="One's own right answers, echoed whole, have no drift towards the uncertain branch, unlike EchoRL.",
            bed="echo",
            metric="flat",
            more=False,
        ),
    ),
)


def method() -> PolicyGradient:
    """The control as a record of parts."""
    return echo_rl.method().replace(prepare=(MineEcho(choose="whole"),))
