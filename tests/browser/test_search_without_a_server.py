"""The site's search in a page that is opened from a folder: the worker runs in a hidden frame."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.browser.conftest import Seen

pytestmark = pytest.mark.heavy
ASSET = Path(__file__).parents[2] / "docs" / "assets" / "iframe-worker.js"
WORKER = """
let base = 0;
addEventListener("message", async (event) => {
  if (event.data.load) await importScripts(event.data.load);
  postMessage({ doubled: event.data.n * 2 + (self.more || 0), frame: self !== parent });
});
"""
ASKING = """
const done = arguments[arguments.length - 1];
const worker = new Worker("worker.js");
const answers = [];
worker.addEventListener("message", (event) => {
  answers.push(event.data);
  if (answers.length === 1) worker.postMessage({ n: 4, load: new URL("more.js", location.href).href });
  if (answers.length === 2) { worker.terminate(); done([answers, document.querySelectorAll("iframe").length]); }
});
worker.postMessage({ n: 3 });
"""


def test_a_worker_answers_in_a_page_from_a_folder(seen: Seen, tmp_path: Path) -> None:
    shutil.copy(ASSET, tmp_path / "shim.js")
    (tmp_path / "worker.js").write_text(WORKER)
    (tmp_path / "more.js").write_text("self.more = 100;")
    (tmp_path / "index.html").write_text('<!doctype html><body><script src="shim.js"></script></body>')
    seen.driver.get((tmp_path / "index.html").as_uri())
    seen.driver.set_script_timeout(120)
    answers, left = seen.driver.execute_async_script(ASKING)
    assert answers == [{"doubled": 6, "frame": True}, {"doubled": 108, "frame": True}]
    assert left == 0
