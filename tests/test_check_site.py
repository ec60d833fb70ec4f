"""The check of the built site finds links and anchors that lead nowhere, and whatever is loaded from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.check_site import css_loads, faults, main

SOUND = {
    "index.html": '<a href="sub/page.html#there">a</a><a href="sub/">b</a><a href="#here">c</a><p id="here">'
    '<a href="https://example.org/x">out</a><link rel="canonical" href="https://example.org/">'
    '<link rel="stylesheet" href="style.css"><script src="a.js"></script><img src="sub/i%20i.png">',
    "sub/page.html": '<h2 id="there">x</h2><a href="../index.html">up</a><a href="mailto:a@b">mail</a>',
    "sub/index.html": '<a href="page.html?q=1">x</a><img src="data:image/png;base64,AAAA">',
    "404.html": '<a href="/sub/page.html">x</a>',
    "sub/i i.png": "",
    "a.js": "",
    "style.css": "p { background: url(sub/i.png) }",
}


def built(folder: Path, **changed: str) -> Path:
    for name, text in (SOUND | changed).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_a_sound_site_has_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(built(tmp_path))]) == 0
    assert capsys.readouterr().out == "4 pages, 0 faults\n"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ('<a href="gone.html">', "gone.html: there is no such file"),
        ('<a href="sub/page.html#gone">', "there is no such anchor"),
        ('<a href="#gone">', "there is no such anchor"),
        ('<img src="gone.png">', "there is no such file"),
        ('<script src="https://cdn.example/a.js"></script>', "loads https://cdn.example/a.js from elsewhere"),
        ('<script src="//cdn.example/a.js"></script>', "from elsewhere"),
        ('<img src="http://example/i.png">', "from elsewhere"),
        ('<img srcset="i.png 1x, https://example/i.png 2x" src="a.js">', "from elsewhere"),
        ('<link rel="preconnect" href="https://fonts.example">', "from elsewhere"),
        ("<style>p { background: url('https://example/i.png') }</style>", "from elsewhere"),
        ('<p style="background: url(//example/i.png)">', "from elsewhere"),
        ('<iframe src="https://example/"></iframe>', "from elsewhere"),
    ],
)
def test_a_fault_is_named_with_its_page(tmp_path: Path, page: str, said: str) -> None:
    found = list(faults(built(tmp_path, **{"sub/page.html": SOUND["sub/page.html"], "bad.html": page})))
    assert found and all(sentence.startswith("bad.html") for sentence in found)
    assert any(said in sentence for sentence in found)


def test_a_style_sheet_may_not_load_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(built(tmp_path, **{"style.css": '@import "https://fonts.example/f.css";'}))]) == 1
    assert "style.css loads https://fonts.example/f.css from elsewhere" in capsys.readouterr().err
    assert css_loads("url(i.png) url( 'https://e/x' )") == ["https://e/x"]


def test_a_folder_without_pages_is_no_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "make docs" in capsys.readouterr().err
