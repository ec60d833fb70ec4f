"""Pictures of a report for the documentation: `page_shots.py REPORT.html`, with a Chromium and its driver on the path.

Writes docs/images/report_WIDTH_THEME.png: the verdict and the first charts, and the rollout browser below them.
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
SHOTS = ((1280, "light"), (1280, "dark"), (390, "light"))
PARTS = ("passk", "entropy", "rollouts")
COLOURS = 128


def driver() -> webdriver.Chrome:
    """A headless browser."""
    options = Options()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    options.binary_location = str(shutil.which("chromium"))
    return webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))


def shot(page: webdriver.Chrome, url: str, width: int, theme: str) -> Image.Image:
    """The header and the verdict, then the sections of PARTS, below each other."""
    metrics: dict[str, Any] = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.get(url)
    while not page.execute_script("return document.body.dataset.ready"):
        time.sleep(0.1)
    if page.execute_script("return document.documentElement.dataset.theme") != theme:
        page.execute_script("document.getElementById('theme').click()")
    page.execute_script("document.querySelectorAll('[aria-label^=\"show on the right\"]')[2].click()")
    keep = ["verdict", *PARTS]
    others = "[...document.querySelectorAll('section')].filter((s) => !arguments[0].includes(s.id))"
    page.execute_script(f"for (const s of {others}) s.remove()", keep)
    time.sleep(2)
    height = int(page.execute_script("return document.documentElement.scrollHeight"))
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**metrics, "height": height})
    time.sleep(1)
    data = page.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})["data"]
    return Image.open(io.BytesIO(base64.b64decode(data)))


def main(report: str) -> None:
    """Write the pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    page = driver()
    try:
        for width, theme in SHOTS:
            picture = shot(page, Path(report).resolve().as_uri(), width, theme)
            picture.convert("RGB").quantize(COLOURS).save(IMAGES / f"report_{width}_{theme}.png", optimize=True)
    finally:
        page.quit()


if __name__ == "__main__":
    main(sys.argv[1])
