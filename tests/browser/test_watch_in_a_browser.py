"""A run that goes on changes its page without a reload, and the reader keeps what was chosen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from rekindle.report.page.browser import STEPS
from rekindle.report.page.live import serve
from rekindle.report.page.tokens import spread_steps
from rekindle.report.recording import Recording
from tests.browser.conftest import Seen
from tests.report.recorded import recording, row, steps, table

pytestmark = pytest.mark.heavy

MAIN = [sys.executable, "-c", "from rekindle.cli.main import main; main()"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def step_of(seen: Seen) -> int:
    found = re.search(r"step (\d+)", seen.text("#about"))
    assert found is not None
    return int(found.group(1))


def test_the_page_follows_a_run(seen: Seen, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # Far more steps than are waited for: what the page shows changes because the run goes on.
    command = [*MAIN, "train", "grpo", "--task", "digit_sum", "--steps", "4000", "--out", str(out)]
    training = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    watching = None
    try:
        seen.until(lambda: (out / "rollouts").is_dir() and len(list((out / "rollouts").glob("step-*"))) >= 2, 120)
        watch = [*MAIN, "watch", str(out), "--port", "0"]
        watching = subprocess.Popen(watch, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        assert watching.stdout is not None
        url = re.search(r"http://\S+", watching.stdout.readline())
        assert url is not None
        seen.open(url.group(0))
        first, marks = step_of(seen), seen.js("return window.same = Math.random()")
        seen.choose("verdict", "wrong")
        path = "return document.querySelector('#entropy .mark-line path')?.getAttribute('d')"
        before = seen.js(path)
        seen.until(lambda: step_of(seen) >= first + 5, 120)
        # The heading is written first, then the charts are drawn, and the news are told last.
        seen.until(lambda: seen.js(path) not in (before, None))
        seen.until(lambda: seen.text("#news").startswith("Live: step "))
        assert seen.js("return window.same") == marks, "the page was loaded again"
        assert seen.js("return document.querySelector('[name=verdict]').value") == "wrong"
        watching.terminate()
        watching.wait(30)
        seen.until(lambda: "does not answer" in seen.text("#news"), 120)
        assert seen.count("#passk") == 1
    finally:
        for process in (training, watching):
            if process is not None:
                process.kill()
                process.communicate()


def grown(last: int) -> Recording:
    """A run that came to its step `last`: two prompts of its own in each step, two responses to each."""

    def rows(step: int) -> list[dict[str, object]]:
        names = [f"p{step}{'aabb'[i]}" for i in range(4)]
        cells = [{"id": n, "prompt": f"{n}?", "uid": 10 * step + i, "group": i // 2} for i, n in enumerate(names)]
        return [row(**own, success=i % 2 == 0, token_text=[own["id"], "!"]) for i, own in enumerate(cells)]

    entropy = [1.0 / (1 + i) for i in range(last)]
    return recording(steps=steps(entropy=entropy), tables={s: table(*rows(s)) for s in range(1, last + 1)})


@contextmanager
def watched(seen: Seen, last: int) -> Iterator[Callable[[int], None]]:
    """The page of a run at its step `last`; what is given lets it go on to another step, and waits for that."""
    now = [grown(last)]
    server = serve(lambda: now, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def news(step: int) -> None:
        now[:] = [grown(step)]
        seen.until(lambda: seen.text("#news") == f"Live: step {step}.")

    try:
        seen.open(f"http://127.0.0.1:{server.server_address[1]}/")
        seen.until(lambda: seen.text("#news") == f"Live: step {last}.")
        yield news
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


CHOSEN = "return document.querySelector('[name=' + arguments[0] + ']').selectedOptions[0].textContent"
SHOWN = "return [...document.querySelectorAll('.sample')].map((s) => s.querySelector('h3, .tokens').textContent)"


def prompt_of(seen: Seen, name: str) -> str:
    """The value by which the list of prompts has a prompt."""
    options = seen.driver.find_elements(By.CSS_SELECTOR, "[name=prompt] option")
    return next(str(o.get_attribute("value")) for o in options if str(o.get_attribute("text")).startswith(f"{name}:"))


def test_what_is_chosen_and_written_stays_while_news_come(seen: Seen) -> None:
    with watched(seen, 2) as news:
        seen.choose("prompt", prompt_of(seen, "p2a"))
        for side in ("left", "right"):
            seen.driver.find_elements(By.CSS_SELECTOR, f"[aria-label^='show on the {side}: step 2']")[
                side == "right"
            ].click()
        low = seen.driver.find_element(By.NAME, "low")
        low.send_keys("0.")
        was = seen.js(SHOWN)
        news(3)
        assert seen.js(CHOSEN, "prompt") == "p2a: p2a?" and seen.text("#rollouts caption") == "2 of 12 rollouts"
        assert seen.js(SHOWN) == was == ["A: p2a", "B: p2a"] and seen.count("#rollouts [aria-pressed=true]") == 2
        assert seen.js("return document.activeElement.name") == "low"
        low.send_keys("5")
        assert low.get_attribute("value") == "0.5", "a number that is half written goes on"
        assert seen.js("return [...document.querySelector('[name=step]').options].map((o) => o.value)") == [
            "",
            "1",
            "2",
            "3",
        ]


def test_a_list_that_may_be_open_gets_its_news_when_the_reader_is_done_with_it(seen: Seen) -> None:
    with watched(seen, 2) as news:
        seen.driver.execute_script("document.querySelector('[name=step]').focus()")
        own = "return window.own = document.querySelector('[name=step] option')"
        first = seen.js(own)
        news(3)
        assert seen.js("return document.querySelector('[name=step] option') === window.own"), first
        assert seen.count("[name=step] option") == 3 and seen.js("return document.activeElement.name") == "step"
        seen.driver.execute_script("document.activeElement.blur()")
        assert seen.count("[name=step] option") == 4


def test_open_tables_the_focus_and_the_token_that_is_read_stay_while_news_come(seen: Seen) -> None:
    with watched(seen, 2) as news:
        seen.driver.find_element(By.CSS_SELECTOR, ".tokens").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
        summary = seen.driver.find_element(By.CSS_SELECTOR, "#entropy summary")
        summary.send_keys(Keys.ENTER)
        seen.until(lambda: seen.count("#entropy details[open] tbody tr") == 2)
        news(3)
        assert seen.count("#entropy details[open] tbody tr") == 3, "open, and with the new step"
        assert seen.js("return document.activeElement.localName") == "summary"
        assert seen.text(".sample [role=status]").startswith("token 2 ") and seen.count(".tokens .here") == 1
        link = seen.driver.find_element(By.CSS_SELECTOR, "#nav a")
        seen.js("arguments[0].focus()", link)
        news(4)
        assert seen.js("return document.activeElement === arguments[0]", link)
        assert seen.count("#entropy details[open] tbody tr") == 4


def test_a_step_for_which_there_is_no_more_room_is_said_to_be_gone(seen: Seen) -> None:
    gone = next(s for s in range(1, STEPS + 1) if s not in spread_steps(range(1, 31), STEPS))
    with watched(seen, STEPS) as news:
        seen.choose("step", str(gone))
        seen.driver.find_element(By.CSS_SELECTOR, "[aria-label^='show on the left']").click()
        news(30)
        assert seen.js(CHOSEN, "step") == f"{gone} (no longer here)" and seen.text("#rollouts caption").startswith(
            "0 of "
        )
        assert seen.js(SHOWN) == [f"A: p{gone}a"] and "no longer among the rollouts" in seen.text(".sample .facts")
        assert seen.text(".tokens") == f"p{gone}a!"
        seen.choose("step", "")
        assert "no longer" not in seen.text("[name=step]")
        assert seen.complaints() == []
