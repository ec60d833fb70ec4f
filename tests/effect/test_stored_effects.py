"""The stored results: verdicts follow from the numbers, claims are those of the cards, the page is current."""

from __future__ import annotations

import pytest

from rekindle import methods
from rekindle.prove.beds import LANGUAGE, load_bed, names
from rekindle.prove.results import Row, experiment, judge, load
from rekindle.prove.runner import SEEDS, check
from scripts import effects

STORED = load()
ROWS = [(name, i) for name, rows in STORED.items() for i in range(len(rows))]
WHAT = ("claim", "bed", "metric", "more", "against", "options", "against_options", "bed_options")
WHAT = (*WHAT, "against_bed_options", "within")


def said(row: Row) -> dict[str, object]:
    return {name: vars(row)[name] for name in WHAT}


@pytest.mark.parametrize(("name", "place"), ROWS)
def test_a_stored_verdict_follows_from_the_stored_numbers(name: str, place: int) -> None:
    row = STORED[name][place]
    assert judge(row).verdict == row.verdict
    assert len(row.seeds) == len(row.ours) == len(row.theirs) == len(set(row.seeds))
    assert len(row.seeds) >= SEEDS["language" if row.bed in LANGUAGE else "table"]


@pytest.mark.parametrize("name", methods.names())
def test_what_is_stored_is_what_the_card_claims(name: str) -> None:
    """A row whose claim has left the card, or a claim whose numbers are missing, is stale: `make effects`."""
    card = methods.load(name).CARD
    assert [said(row) for row in STORED.get(name, [])] == [experiment(e, card.parent) for e in card.effects]


@pytest.mark.parametrize("name", methods.names())
def test_every_claim_can_be_run(name: str) -> None:
    card = methods.load(name).CARD
    for effect in card.effects:
        check(effect)
        assert effect.bed in names()
        assert effect.against is not None or card.parent is not None


def test_no_row_is_of_a_method_that_left_the_shelf() -> None:
    assert set(STORED) <= set(methods.names())


@pytest.mark.effect
def test_a_stored_number_comes_out_again() -> None:
    row = STORED["dapo"][0]
    bed = load_bed(row.bed).with_options(row.bed_options)
    again = [bed.run("dapo", row.options, seed)[row.metric] for seed in row.seeds[:2]]
    assert again == pytest.approx(row.ours[:2], abs=1e-3)


def test_the_page_is_current() -> None:
    assert effects.main(["--check"]) == 0
