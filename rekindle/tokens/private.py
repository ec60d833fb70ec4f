"""Secrets: what an option must not hold, and what no file of a run may show.

A secret is what an environment variable holds whose name ends like one (HF_TOKEN, WANDB_API_KEY), a name and password
inside a URL, and a token of the hub by its form.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rekindle.errors import InputError

LEAST = 8
"""Characters of a secret; shorter ones ("none", "true") would blot out words."""
_NAMES = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIALS?)$", re.IGNORECASE
)
_END = r"\s\"'\\"
_IN_URL = re.compile(
    rf"(?<=://)(?:[^:@/\[{_END}]*:(?!\d*(?:[/?#]|$))[^{_END}]{{1,200}}|[^:/{_END}]*:[^/{_END}]+)(?=@)"
    rf"|(?:(?<=http://)|(?<=https://))[^/{_END}]+(?=@)"
)
"""`name:password` before the last @ of the authority, or of the text where the password holds a raw slash; a name alone
only under http, where it may be a token: elsewhere it says whose place it is (git+ssh://git@host, abfs://box@account)."""
_OF_HUB = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
_BLOT = "***"


def secrets() -> dict[str, str]:
    """Environment variable -> the secret that it holds. A path is none: it only says where one lies, and
    a number is none."""
    named = {name: value for name, value in os.environ.items() if _NAMES.search(name) and len(value) >= LEAST}
    return {name: value for name, value in named.items() if not (value.isdigit() or os.path.exists(value))}


def redacted(text: str) -> str:
    """The text with `***` in the place of every secret."""
    for value in sorted(secrets().values(), key=len, reverse=True):
        text = text.replace(value, _BLOT).replace(" ".join(value.split()), _BLOT)  # a message has one line
    return _OF_HUB.sub(_BLOT, _IN_URL.sub(_BLOT, text))


def refuse_private(toml: Mapping[str, Any] | None, sets: Sequence[str], flags: Mapping[str, Any]) -> None:
    """InputError where an option holds a secret, which would be kept in the run's folder, or a NUL character.

    The sentence does not repeat the value.
    """
    given = [(name, value) for name, _, value in (text.partition("=") for text in sets)]
    for name, text in _texts((toml or {}, dict(given), flags), ""):
        if "\0" in text:
            raise InputError(f"--set or option '{name}' holds a NUL character: drop it, and give the text without")
        held = next((variable for variable, value in secrets().items() if value in text), None)
        what = f"what the variable {held} holds" if held else ""
        # The client of vllm.url takes it without http:// too, and no such URL has another use for an @.
        url = _IN_URL.search(text) or (name.strip() == "vllm.url" and "@" in text)
        what = what or ("a name or password in a URL" if url else "")
        what = what or ("a token of the hub" if _OF_HUB.search(text) else "")
        if what:
            raise InputError(
                f"option '{name}' holds {what}, and a run keeps its options in its folder: drop it there and give it "
                "by the environment (HF_TOKEN, REKINDLE_TOKEN)"
            )


def _texts(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """(dotted name, text) of every text in mappings and sequences."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _texts(child, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for child in value:
            yield from _texts(child, name)
