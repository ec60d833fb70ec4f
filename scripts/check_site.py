"""Check the built site: `python scripts/check_site.py site`. All links resolve, nothing is loaded from elsewhere.

A link to another site is a link and may stand; a script, style, image, font or frame from elsewhere may not.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
LOADED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "manifest"}
CSS_LOADS = re.compile(r"""url\(\s*["']?((?:https?:)?//[^)"']+)|@import\s+["']([^"']+)""")


@dataclass
class Seen:
    """What one page has: ids that can be linked to, links, and what it loads."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)


class Reader(HTMLParser):
    """Collects ids, links and loads of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Seen()
        self._style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One tag."""
        given = {name: value for name, value in attrs if value is not None}
        self.seen.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.seen.links.append(given["href"])
        if tag == "link" and LOADED_LINKS & set(given.get("rel", "").split()):
            self.seen.loads.append(given.get("href", ""))
        if tag in LOADING and LOADING[tag] in given:
            self.seen.loads.append(given[LOADING[tag]])
        self.seen.loads += [part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()]
        self.seen.loads += css_loads(given.get("style", ""))
        self._style = tag == "style"

    def handle_data(self, data: str) -> None:
        """Text; what stands in a `style` is CSS."""
        if self._style:
            self.seen.loads += css_loads(data)
            self._style = False


def css_loads(text: str) -> list[str]:
    """What CSS loads from other hosts, and what it imports."""
    return [one or other for one, other in CSS_LOADS.findall(text)]


def read(page: Path) -> Seen:
    """What one page has."""
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader.seen


def foreign(target: str) -> bool:
    """Whether a target is on another host."""
    parts = urlsplit(target)
    return bool(parts.netloc) or parts.scheme in ("http", "https")


def faults(site: Path) -> Iterator[str]:
    """A sentence for each fault of the site."""
    pages = {page.resolve(): read(page) for page in sorted(site.resolve().rglob("*.html"))}
    for page, seen in pages.items():
        name = page.relative_to(site.resolve())
        yield from (f"{name} loads {target} from elsewhere" for target in seen.loads if foreign(target))
        here = [target for target in (*seen.links, *seen.loads) if not urlsplit(target).scheme and not foreign(target)]
        for target in dict.fromkeys(here):
            broken = fault(page, target, pages, site)
            if broken:
                yield f"{name}: {target}: {broken}"
    for sheet in sorted(site.rglob("*.css")):
        loaded = css_loads(sheet.read_text(encoding="utf-8"))
        yield from (f"{sheet.relative_to(site)} loads {target} from elsewhere" for target in loaded if foreign(target))


def fault(page: Path, target: str, pages: dict[Path, Seen], site: Path) -> str:
    """What is wrong with a target within the site; "" where nothing is."""
    parts = urlsplit(target)
    # The page of what was not found is served at any depth, so its links start at the root.
    start = site if parts.path.startswith("/") else page.parent
    path = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else page
    path = path / "index.html" if path.is_dir() else path
    if not path.is_file():
        return "there is no such file"
    anchor = unquote(parts.fragment)
    if anchor and path.suffix == ".html" and anchor not in pages[path.resolve()].ids:
        return "there is no such anchor"
    return ""


def main(arguments: list[str]) -> int:
    """Print the faults; 1 where there are any, 2 where there is no site."""
    site = Path(arguments[0])
    count = sum(1 for _ in site.rglob("*.html"))
    if not count:
        print(f"{site} has no page: build it first (make docs)", file=sys.stderr)
        return 2
    found = list(faults(site.resolve()))
    for sentence in found:
        print(sentence, file=sys.stderr)
    print(f"{count} pages, {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
