"""TRL's flat option names (1.16, `GRPOConfig`) under Rekindle's, so that a known recipe can be typed as it is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from rekindle.errors import InputError
from rekindle.train import options

SAME_VALUE = {
    "num_generations": "rollout.group",
    "max_completion_length": "rollout.max_tokens",
    "temperature": "rollout.temperature",
    "top_p": "rollout.top_p",
    "top_k": "rollout.top_k",
    "max_steps": "steps",
    "output_dir": "out",
    "learning_rate": "descent.lr",
    "num_iterations": "descent.epochs",
    "max_grad_norm": "descent.grad_clip",
    "weight_decay": "descent.weight_decay",
    "adam_beta1": "descent.beta1",
    "adam_beta2": "descent.beta2",
    "gradient_checkpointing": "checkpointing",
    "delta": "objective.dual",
}


@runtime_checkable
class Needy(Protocol):
    """A part that says which columns it reads."""

    needs: tuple[Any, ...]


def translate(values: Mapping[str, Any], ours: Mapping[str, Any], record: Any) -> tuple[dict[str, Any], list[str]]:
    """`values` under Rekindle's names, and one note for each name that was translated.

    ours: the options of the run; a name that is one of them, or one of the record's, is never translated.
    """
    known = {**ours, **options.flatten(record)}
    out: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in values.items():
        meant = {name: value} if name in known else _meaning(name, value, values, record)
        clash = sorted(path for path in meant if path in out or (path != name and path in values))
        if clash:
            raise InputError(f"'{clash[0]}' is given twice, once as '{name}': drop one")
        if meant.keys() != {name}:
            said = ", ".join(f"{path}={options.show(v)}" for path, v in meant.items())
            notes.append(f"{name}: read as {said or 'what the method does already'}")
        out |= meant
    return out, notes


def _meaning(name: str, value: Any, values: Mapping[str, Any], record: Any) -> dict[str, Any]:
    if name in SAME_VALUE:
        return {SAME_VALUE[name]: value}
    if name == "bf16":
        return {"precision": "bf16" if value else "full"}
    if name == "epsilon":
        width = _number(name, value)
        high = {} if "epsilon_high" in values else {"objective.high": round(1 + width, 12)}
        return {"objective.low": round(1 - width, 12), **high}
    if name == "epsilon_high":
        return {"objective.high": round(1 + _number(name, value), 12)}
    return _kl(_number(name, value), record) if name == "beta" else {name: value}


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"option '{name}' is a number, not {value!r}")
    return float(value)


def _kl(coef: float, record: Any) -> dict[str, Any]:
    """`beta` is the coefficient of the one term that reads the reference's log-probs."""
    stages = dict(options.children(record)).get("methods", (record,))
    terms = [dict(options.children(stage)).get("terms", ()) for stage in stages]
    pairs = [(i, term) for some in terms for i, term in enumerate(some)]
    found = sorted({i for i, term in pairs if isinstance(term, Needy) and _reads_reference(term)})
    if len(found) == 1:
        return {f"terms.{found[0]}.coef": coef}
    if coef == 0 and not found:
        return {}
    raise InputError(
        f"option 'beta' is the coefficient of one KL term, and this method has {len(found)}: set terms.N.coef"
    )


def _reads_reference(term: Needy) -> bool:
    return any("reference" in need.passes for need in term.needs)
