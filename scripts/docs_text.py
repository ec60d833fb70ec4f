"""Markdown of the site: notebooks as pages (text in fences, images as files), links out of docs as code names."""

from __future__ import annotations

import base64
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

Cell = Mapping[str, Any]
STATED = "stated"
"""The tag of a cell whose text must come out as it is stored."""
LINK = re.compile(r"(?<!!)\[([^\]\[]+)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^```.*?^```[ \t]*$)", re.MULTILINE | re.DOTALL)


def as_markdown(notebook: Mapping[str, Any], stem: str) -> tuple[str, dict[str, bytes]]:
    """(the page, name of an image file -> its bytes) of a notebook that was stored with its outputs."""
    pieces: list[str] = []
    images: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            pieces.append(joined(cell["source"]))
            continue
        pieces.append(fenced(joined(cell["source"]), "python"))
        for output in cell["outputs"]:
            pieces += _shown(output, stem, images)
    foot = f"This page is a notebook with its outputs: [{stem}.ipynb]({stem}.ipynb)."
    return "\n\n".join([*(piece for piece in pieces if piece), foot]) + "\n", images


def joined(source: str | list[str]) -> str:
    """A field of a cell, stored as one string or as lines."""
    return source if isinstance(source, str) else "".join(source)


def fenced(text: str, kind: str) -> str:
    """A fenced block that no line of the text can close; "" where there is no text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{kind}\n{text.rstrip()}\n{fence}" if text.strip() else ""


def printed(cell: Cell) -> str:
    """All text that a code cell wrote or returned."""
    return "".join(_text(output) for output in cell["outputs"])


def differences(stored: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each line of a stated cell that is not as stored; a stated cell without text is one, too."""
    for cell, again in zip(stored["cells"], new["cells"], strict=True):
        if STATED not in cell["metadata"].get("tags", ()):
            continue
        was, now = printed(cell).splitlines(), printed(again).splitlines()
        if not was:
            yield f"{cell['id']}: nothing is stated"
        if len(was) != len(now):
            yield f"{cell['id']}: {len(now)} lines in the place of {len(was)}"
        yield from (f"{cell['id']}: '{b}' in the place of '{a}'" for a, b in zip(was, now, strict=False) if a != b)


def _text(output: Mapping[str, Any]) -> str:
    if output["output_type"] == "stream":  # what went to stderr speaks of the machine, not of the matter
        return joined(output["text"]) if output["name"] == "stdout" else ""
    return joined(output.get("data", {}).get("text/plain", "")) if output["output_type"] == "execute_result" else ""


def _shown(output: Mapping[str, Any], stem: str, images: dict[str, bytes]) -> list[str]:
    png = output.get("data", {}).get("image/png")
    if png is None:
        return [fenced(_text(output), "text")]
    name = f"{stem}_{len(images) + 1}.png"
    images[name] = base64.b64decode(joined(png))
    alt = output.get("metadata", {}).get("alt", "A plot")
    return [f"![{alt}]({name})"]


def named(markdown: str, folder: str) -> str:
    """Markdown of a page in `folder` of docs, with links to files outside docs as their names from the root."""
    pieces = FENCE.split(markdown)
    return "".join(
        piece if piece.startswith("```") else LINK.sub(lambda m: _named(m, folder), piece) for piece in pieces
    )


def _named(link: re.Match[str], folder: str) -> str:
    text, target = link.groups()
    place = posixpath.normpath(posixpath.join("docs", folder, target.partition("#")[0]))
    if ":" in target or target.startswith(("#", "/")) or place.startswith("docs/"):
        return link.group()
    return f"`{place}`" if text.strip("`") in (place, posixpath.basename(place)) else f"{text} (`{place}`)"
