from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from rekindle.errors import InputError
from rekindle.train.options import diff, flatten, override, parse_assignment, record_hash, show


@dataclass(frozen=True)
class Ramp:
    start: float
    end: float


Number = float | Ramp


@dataclass(frozen=True)
class Bounds:
    low: float = 0.8
    high: Number = 1.2
    dual: float | None = None
    level: Literal["token", "sequence"] = "token"


@dataclass(frozen=True)
class Bonus:
    coef: float = 0.003


@dataclass(frozen=True)
class Bands:
    alpha: float = 0.5
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError("alpha is a share between 0 and 1")


@dataclass(frozen=True)
class Fit:
    lr: float = 1e-6
    epochs: int = 1
    cut: bool = False
    betas: tuple[float, ...] = (0.9, 0.999)
    lrs: Mapping[str, float] = field(default_factory=lambda: {"head": 0.1})


def vote(x: int) -> int:
    return x


def truth(x: int) -> int:
    return x


@dataclass(frozen=True)
class Recipe:
    label: Callable[[int], int] = truth
    shape: Bands | None = None
    bounds: Any = field(default_factory=Bounds)
    terms: tuple[Any, ...] = ()
    fit: Fit = field(default_factory=Fit)


RICH = Recipe(label=vote, shape=Bands(), bounds=Bounds(high=1.28), terms=(Bonus(),))


def test_flatten_names_every_leaf() -> None:
    flat = flatten(RICH)
    assert flat == {
        "label": "vote",
        "shape": "Bands",
        "shape.alpha": 0.5,
        "shape.share": 0.1,
        "bounds": "Bounds",
        "bounds.low": 0.8,
        "bounds.high": 1.28,
        "bounds.dual": None,
        "bounds.level": "token",
        "terms.0": "Bonus",
        "terms.0.coef": 0.003,
        "fit": "Fit",
        "fit.lr": 1e-6,
        "fit.epochs": 1,
        "fit.cut": False,
        "fit.betas": (0.9, 0.999),
        "fit.lrs.head": 0.1,
    }
    assert flatten(Recipe())["shape"] is None
    assert flatten(Recipe())["terms"] == ()


@pytest.mark.parametrize(
    ("path", "value", "stored"),
    [
        ("fit.lr", 1, 1.0),
        ("fit.epochs", 3, 3),
        ("fit.cut", True, True),
        ("fit.betas", [0.8, 1], (0.8, 1.0)),
        ("fit.lrs.head", 2, 2.0),
        ("terms.0.coef", 0.01, 0.01),
        ("bounds.high", 1.5, 1.5),
        ("bounds.dual", 3, 3.0),
        ("bounds.level", "sequence", "sequence"),
        ("shape.alpha", 0.25, 0.25),
    ],
)
def test_override_sets_exactly_one_value(path: str, value: Any, stored: Any) -> None:
    before, changed = flatten(RICH), flatten(override(RICH, path, value))
    assert changed == {**before, path: stored}
    assert type(changed[path]) is type(stored)
    assert flatten(RICH) == before, "the old record must not move"


def test_a_schedule_gives_way_to_a_number_and_is_itself_settable() -> None:
    ramped = Recipe(bounds=Bounds(high=Ramp(1.2, 1.4)))
    assert flatten(override(ramped, "bounds.high.end", 1.5))["bounds.high.end"] == 1.5
    assert flatten(override(ramped, "bounds.high", 1.3))["bounds.high"] == 1.3


def test_none_where_it_is_allowed_drops_the_part() -> None:
    assert override(RICH, "shape", "none").shape is None
    assert override(RICH, "bounds.dual", "none").bounds.dual is None
    assert override(RICH, "label", "vote") == RICH, "the value that is there already is no change"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("bounds.hihg", 1.0, "did you mean 'bounds.high'"),
        ("lr", 1.0, "fit.lr"),
        ("fit.lr", True, "option 'fit.lr' is a number"),
        ("fit.lr", "fast", "option 'fit.lr' is a number"),
        ("fit.lr", float("nan"), "option 'fit.lr'"),
        ("fit.epochs", 1.5, "option 'fit.epochs' is a whole number"),
        ("fit.epochs", True, "option 'fit.epochs' is a whole number"),
        ("fit.cut", 1, "true or false"),
        ("fit.betas", [0.9, "x"], "a list of a number"),
        ("bounds.level", "word", "one of 'token', 'sequence'"),
        ("shape.alpha", 2.0, "option 'shape.alpha' cannot be 2: alpha is a share"),
        ("label", "truth", "holds vote and takes no plain value"),
        ("bounds", "Other", "set bounds.low"),
        ("fit", "none", "set fit.lr"),
    ],
)
def test_bad_overrides_are_refused_by_name(path: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        override(RICH, path, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1e-4", 1e-4),
        ("a.b = 3", 3),
        ("a.b=true", True),
        ("a.b=[1, 2]", (1, 2)),
        ("a.b='x y'", "x y"),
        ("a.b=embedded", "embedded"),
        ("a.b=.5", 0.5),
        ("a.b=x=y", "x=y"),
        ("a.b=", ""),
        ("a.b=1979-05-27", "1979-05-27"),
        ("a.b=-", "-"),
    ],
)
def test_assignments_are_read_as_toml_and_bare_words_as_text(text: str, value: Any) -> None:
    path, got = parse_assignment(text)
    assert (path, got, type(got)) == ("a.b", value, type(value))


@pytest.mark.parametrize("text", ["a.b", "=3", ""])
def test_an_assignment_without_path_or_value_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="PATH=VALUE"):
        parse_assignment(text)


def test_diff_collapses_parts_to_one_line_each() -> None:
    lines = [str(change) for change in diff(Recipe(), RICH)]
    assert lines == [
        "label: truth -> vote",
        "shape: none -> Bands(alpha=0.5, share=0.1)",
        "bounds.high: 1.2 -> 1.28",
        "terms.0: none -> Bonus(coef=0.003)",
    ]
    assert diff(RICH, RICH) == []
    assert [str(c) for c in diff(RICH, Recipe())][1] == "shape: Bands(alpha=0.5, share=0.1) -> none"


def test_diff_pairs_terms_by_class() -> None:
    old, new = Recipe(terms=(Bonus(0.1),)), Recipe(terms=(Ramp(0.0, 1.0), Bonus(0.2)))
    assert [str(c) for c in diff(old, new)] == ["terms.0: none -> Ramp(start=0, end=1)", "terms.1.coef: 0.1 -> 0.2"]
    exchanged = diff(old, Recipe(terms=(Ramp(0.0, 1.0),)))
    assert [str(c) for c in exchanged] == ["terms.0: Bonus(coef=0.1) -> Ramp(start=0, end=1)"]


def test_diff_of_another_part_in_a_slot_is_one_line() -> None:
    assert [str(c) for c in diff(Recipe(), Recipe(bounds=Bands()))] == [
        f"bounds: {show(Bounds())} -> Bands(alpha=0.5, share=0.1)"
    ]


def test_the_hash_sees_values_names_and_nothing_else() -> None:
    assert record_hash(RICH) == record_hash(Recipe(vote, Bands(), Bounds(high=1.28), (Bonus(),)))
    others = [override(RICH, "terms.0.coef", 0.004), override(RICH, "shape", None), Recipe(), RICH.terms[0]]
    assert len({record_hash(record) for record in [RICH, *others]}) == 5
    assert record_hash(Bonus()) == hashlib.sha256(b'{"coef": 0.003}').hexdigest()
