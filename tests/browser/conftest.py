"""A headless Chromium, and the page of a comparison of two methods over three seeds."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from rekindle.report.page.build import document, page
from rekindle.report.recording import recordings
from rekindle.train.compare import Plan, compare

SETS = ("rollout.prompts=4", "rollout.group=8", "rollout.votes=16", "evaluate.every=4", "evaluate.prompts=8")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TTRL and EchoRL, three seeds, eight steps each."""
    out = tmp_path_factory.mktemp("compare") / "out"
    flags = {"task": "reduce", "steps": 8}
    plan = Plan(
        methods=("evol_rl", "echo_rl"), seeds=(0, 1, 2), flags=flags, sets=SETS, prompts=12, samples=8, ks=(1, 4, 8)
    )
    compare(plan, out, lambda name, record: None)
    return out


@pytest.fixture(scope="session")
def report(comparison: Path) -> Path:
    """Its page."""
    file = comparison / "report.html"
    file.write_text(page(document(recordings(comparison))), encoding="utf-8")
    return file


class Seen:
    """A browser on a page, and what one asks of it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str, width: int = 1280) -> None:
        """Go there, and wait until it is drawn."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(url)
        self.until(lambda: self.js("return document.body.dataset.ready"))

    def js(self, code: str, *arguments: Any) -> Any:
        """The value of a script."""
        return self.driver.execute_script(code, *arguments)

    def until(self, there: Callable[[], Any], seconds: float = 60) -> Any:
        """The first true value of `there`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := there():
                return found
            time.sleep(0.1)
        raise AssertionError("it did not come")

    def count(self, selector: str) -> int:
        """How many elements there are."""
        return int(self.js("return document.querySelectorAll(arguments[0]).length", selector))

    def text(self, selector: str) -> str:
        """The text of the first one."""
        return str(self.js("return document.querySelector(arguments[0]).textContent", selector))

    def choose(self, name: str, value: str) -> None:
        """Set a filter as a user does."""
        find = "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
        self.js(find + "e.dispatchEvent(new Event('change'))", f"[name={name}]", value)

    def complaints(self) -> list[str]:
        """What the console says that is no mere information."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """Every address that was asked for."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]

    def violations(self, axe: str) -> list[str]:
        """What axe-core finds, as "impact id: where"."""
        # Through the protocol: the page's own policy lets no script in.
        run = "axe.run(document, {resultTypes: ['violations']}).then((found) => JSON.stringify(found.violations))"
        told = {"expression": f"{axe}; {run}", "awaitPromise": True, "returnByValue": True}
        answer = self.driver.execute_cdp_cmd("Runtime.evaluate", told)
        found = json.loads(answer["result"]["value"])
        return [f"{v['impact']} {v['id']}: {v['nodes'][0]['target']} {v['nodes'][0]['html'][:200]}" for v in found]


@pytest.fixture
def seen() -> Iterator[Seen]:
    """A fresh browser."""
    options = Options()
    for flag in FLAGS:
        options.add_argument(flag)
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    try:
        yield Seen(driver)
    finally:
        driver.quit()


@pytest.fixture(scope="session")
def axe() -> str:
    """The code of axe-core; scripts/browser.sh says where it lies."""
    place = os.environ.get("REKINDLE_AXE")
    if place is None:
        pytest.skip("scripts/browser.sh runs these tests: it brings axe-core")
    return Path(place).read_text(encoding="utf-8")
