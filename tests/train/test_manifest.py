"""The manifest of a checkpoint tells every change of a file, of itself too, and asks for what no checkpoint lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rekindle.train import manifest

FILES = ("config.json", "model.safetensors", "state/run.json", "state/optimizer.safetensors")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A sealed folder with the files of a checkpoint."""
    (tmp_path / "state").mkdir()
    for name in FILES:
        (tmp_path / name).write_text(f"what {name} holds")
    manifest.seal(tmp_path, 3)
    assert manifest.damage(tmp_path) is None and manifest.read(tmp_path)["step"] == 3
    return tmp_path


def rewritten(place: Path, **other: Any) -> str | None:
    """What is wrong once the manifest, without its own checksum, says other things; None takes an entry away."""
    told = json.loads((place / manifest.NAME).read_text()) | {manifest.DIGEST: None} | other
    (place / manifest.NAME).write_text(json.dumps({name: v for name, v in told.items() if v is not None}))
    return manifest.damage(place)


def test_a_flipped_bit_of_a_manifest_is_noticed_wherever_it_is(place: Path) -> None:
    file = place / manifest.NAME
    data = file.read_bytes()
    for at in range(len(data)):
        for bit in (0, 5):
            file.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
            assert manifest.NAME in str(manifest.damage(place)), (at, bit, data[max(0, at - 20) : at + 5])


def test_an_older_manifest_without_its_own_checksum_is_read(place: Path) -> None:
    assert rewritten(place) is None
    (place / "config.json").write_text("other")
    assert "config.json has" in str(manifest.damage(place))


@pytest.mark.parametrize("name", ["format", "step", "versions", "files"])
def test_what_lacks_a_part_is_no_manifest(place: Path, name: str) -> None:
    assert rewritten(place, **{name: None}) == "its manifest.json is no manifest"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("state/run.json", "does not name state/run.json"),
        ("state/optimizer.safetensors", "does not name state/optimizer.safetensors"),
        ("model.safetensors", "names no weights"),
    ],
)
def test_a_manifest_names_what_every_checkpoint_has(place: Path, name: str, said: str) -> None:
    (place / name).unlink()
    manifest.seal(place, 3)
    assert manifest.damage(place) == f"its manifest.json {said}"


def test_a_manifest_of_another_format_is_told(place: Path) -> None:
    assert rewritten(place, format=2) == "its manifest.json has format 2, and this version reads 1"
