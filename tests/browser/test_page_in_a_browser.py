"""The page of the three-seed comparison as a reader has it: drawn, clicked through, by keyboard, at both widths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from rekindle.report.page.build import document, page
from rekindle.report.recording import Recording
from tests.browser.conftest import Seen
from tests.report.recorded import recording, row, steps, table

pytestmark = pytest.mark.heavy

PANELS = ("options", "passk", "coverage", "entropy", "covariance", "law", "clipping", "groups", "truth", "warnings")
NASTY = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>"
# What may not be violated: everything that axe calls serious or worse.
GRAVE = ("serious", "critical")


def grave(found: Sequence[str]) -> list[str]:
    return [text for text in found if text.startswith(GRAVE)]


def test_every_panel_is_there_and_every_chart_has_marks(seen: Seen, report: Path) -> None:
    seen.open(report.as_uri())
    assert [name for name in PANELS if not seen.count(f"#{name}")] == []
    charts = seen.count(".chart")
    assert charts > 15 and seen.count(".chart[data-ready='1'] svg") == charts
    marks = ", ".join(f".mark-{kind} path" for kind in ("line", "rect", "symbol", "area"))
    full = "return [...document.querySelectorAll('.chart svg')].filter((s) => s.querySelector(arguments[0])).length"
    assert seen.js(full, marks) == charts
    lines = "return document.querySelectorAll('#passk .chart')[0].querySelectorAll('.mark-line path').length"
    assert seen.js(lines) == 3, "base, and two methods"
    bands = "return document.querySelectorAll('#entropy .chart')[0].querySelectorAll('.mark-area path').length"
    assert seen.js(bands) == 2, "three seeds are a band"
    assert seen.complaints() == []
    assert seen.requests() == [report.as_uri()]


def test_filters_narrow_what_is_listed(seen: Seen, report: Path) -> None:
    seen.open(report.as_uri())
    whole = seen.text("#rollouts caption")
    seen.choose("verdict", "wrong")
    assert seen.text("#rollouts caption") != whole
    cells = (
        "return [...document.querySelectorAll('#rollouts tbody tr')].map((r) => r.children[arguments[0]].textContent)"
    )
    assert set(seen.js(cells, 4)) == {"wrong"}
    seen.choose("step", "8")
    assert set(seen.js(cells, 2)) == {"8"}
    seen.choose("verdict", "")
    seen.choose("run", seen.js("return document.querySelectorAll('[name=run] option')[1].value"))
    assert len(set(seen.js(cells, 1))) == 1
    seen.choose("low", "0.5")
    assert seen.js(cells, 5) and all(float(score) >= 0.5 for score in seen.js(cells, 5))
    seen.choose("low", "99")
    assert seen.text("#rollouts caption").startswith("0 of ")
    assert seen.complaints() == []


def test_tokens_are_coloured_by_what_is_chosen_and_clips_are_underlined(seen: Seen, report: Path) -> None:
    seen.open(report.as_uri())
    colours = "return [...document.querySelectorAll('.tokens span')].map((s) => s.style.backgroundColor)"
    found = {}
    for kind in ("entropy", "advantage", "ratio", "logp", "none"):
        seen.choose("colour", kind)
        found[kind] = seen.js(colours)
    assert len(set(found["entropy"])) > 2 and found["entropy"] != found["logp"]
    assert set(found["none"]) == {""} and found["advantage"] != found["none"]
    runs = seen.js("return [...document.querySelectorAll('[name=run] option')].map((o) => o.textContent)")
    seen.choose("run", next(name for name in runs if name.startswith("echo")))
    seen.choose("verdict", "right")
    left = "document.querySelectorAll('[aria-label^=\"show on the left\"]')"
    for i in range(seen.js(f"return {left}.length")):
        seen.js(f"{left}[arguments[0]].click()", i)
        if seen.count(".tokens .echo"):
            break
    assert seen.count(".tokens .echo") > 0 and "the clip that is echoed" in seen.text(".legend")


def test_two_samples_stand_side_by_side_with_their_differences(seen: Seen, report: Path) -> None:
    seen.open(report.as_uri())
    assert seen.count(".sample") == 1 and seen.count(".differs") == 0
    seen.js("document.querySelectorAll('[aria-label^=\"show on the right\"]')[1].click()")
    assert seen.count(".sample") == 2 and seen.count(".sample:nth-child(1) .differs") > 0
    seen.js("document.querySelectorAll('[aria-label^=\"show on the right\"]')[0].click()")
    assert seen.count(".differs") == 0, "a sample does not differ from itself"
    seen.js("document.querySelector('.sample button').click()")
    prompts = "return [...document.querySelectorAll('#rollouts tbody tr')].map((r) => r.children[3].textContent)"
    assert len(set(seen.js(prompts))) == 1


def test_it_is_read_by_keyboard(seen: Seen, report: Path) -> None:
    seen.open(report.as_uri())
    body = seen.driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    assert seen.js("return document.activeElement.className") == "skip"
    tokens = seen.driver.find_element(By.CSS_SELECTOR, ".tokens")
    tokens.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert seen.text(".sample [role=status]").startswith("token 2 ") and "entropy" in seen.text(".sample [role=status]")
    chosen = seen.driver.find_element(By.NAME, "verdict")
    chosen.send_keys("w")
    assert seen.js("return document.activeElement.name") == "verdict", "the focus stays where it was"
    numbers = seen.driver.find_element(By.CSS_SELECTOR, "#passk summary")
    numbers.send_keys(Keys.ENTER)
    seen.until(lambda: seen.count("#passk details table tbody tr") > 3)


def test_buttons_of_the_rollouts_keep_the_focus_and_have_names_of_their_own(seen: Seen, report: Path) -> None:
    seen.open(report.as_uri())
    names = seen.js("return [...document.querySelectorAll('#rollouts tbody button')].map((b) => b.ariaLabel)")
    assert len(names) == 24 and len(set(names)) == 24
    for text, place in (("Later", "page 2 of "), ("Earlier", "page 1 of "), ("Earlier", "page 1 of ")):
        seen.driver.find_element(By.XPATH, f"//button[.='{text}']").send_keys(Keys.ENTER)
        assert seen.text(".pager span").startswith(place)
        assert seen.js("return document.activeElement.textContent") == text
    third = seen.driver.find_elements(By.CSS_SELECTOR, "[aria-label^='show on the right']")[2]
    third.send_keys(Keys.ENTER)
    assert seen.js("return document.activeElement.ariaLabel") == names[5], (
        "the third row's, not the first that is alike"
    )
    seen.driver.find_elements(By.CSS_SELECTOR, ".sample button")[1].send_keys(Keys.ENTER)
    assert seen.js("return document.activeElement.ariaLabel") == "This prompt over the steps (B)"


def test_dark_and_light(seen: Seen, report: Path) -> None:
    seen.open(report.as_uri())
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = seen.js(ground)
    seen.driver.find_element(By.ID, "theme").click()
    assert seen.js(ground) != light
    seen.until(lambda: seen.count(".chart[data-ready='1'] svg") == seen.count(".chart"))
    assert seen.complaints() == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious_and_nothing_runs_over_the_edge(
    seen: Seen, report: Path, axe: str, width: int, dark: bool
) -> None:
    seen.open(report.as_uri(), width)
    if dark:
        seen.driver.find_element(By.ID, "theme").click()
        seen.until(lambda: seen.count(".chart[data-ready='1'] svg") == seen.count(".chart"))
    assert seen.js("return document.documentElement.scrollWidth") <= width
    assert grave(seen.violations(axe)) == []


def test_axe_would_say_so(seen: Seen, report: Path, axe: str) -> None:
    seen.open(report.as_uri())
    seen.js("document.querySelector('.lead').style.color = '#eee'")
    seen.js("const e = document.querySelector('[name=verdict]'); e.closest('label').replaceWith(e)")
    found = grave(seen.violations(axe))
    assert any("color-contrast" in text for text in found) and any("select-name" in text for text in found)


def shown(tmp_path: Path, *runs: Recording) -> str:
    file = tmp_path / "page.html"
    file.write_text(page(document(runs)), encoding="utf-8")
    return file.as_uri()


def test_what_a_model_wrote_stays_text(seen: Seen, tmp_path: Path) -> None:
    cells = {"response": NASTY, "token_text": [NASTY, "x"], "prompt": NASTY, "answer": NASTY, "id": NASTY}
    seen.open(shown(tmp_path, recording(NASTY, steps=steps(entropy=[1.0, 0.5]), tables={1: table(row(**cells))})))
    assert seen.js("return window.pwned") is None
    assert NASTY in seen.text(".tokens") and NASTY in seen.text(".prompt") and NASTY in seen.text("#title")
    assert seen.count("main img") == 0
    # Refused by the policy, whoever puts it there.
    seen.js("const s = document.createElement('script'); s.textContent = 'window.pwned = 1'; document.body.append(s)")
    assert seen.js("return window.pwned") is None


def test_a_run_without_anything_still_is_a_page(seen: Seen, tmp_path: Path) -> None:
    seen.open(shown(tmp_path, recording(steps=[])))
    assert seen.count(".missing") > 5 and seen.complaints() == []
