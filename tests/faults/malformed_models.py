"""Malformed model folders: configuration, tokenizer, weights, parts and their index, adapters."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from hypothesis import strategies as st
from safetensors.torch import load, save

from tests.faults.damage import JUNK, ODD, bytes_of, tree_of, written
from tests.faults.malformed import Case, Place

PLACES: tuple[Place, ...] = ("FIFO", "DIRECTORY", "LOOP", "EMPTY")
EVAL = ("eval", "DIR/base", "--task", "digit_sum", "-n", "1", "-k", "1", "--prompts", "1", "--max-tokens", "4")
PLAN = ("train", "grpo", "--dry-run", "--no-probe", "--model", "DIR/base", "--set", "rollout.max_tokens=8")
CHECK = ("data", "check", "--task", "digit_sum", "--model", "DIR/base")
WEIGHTS = "model.safetensors"
ALLOCATES = (2**31, 2**63, 2**64)
"""Sizes that no machine has room for."""


def json_file(base: Path, name: str, commands: tuple[tuple[str, ...], ...]) -> st.SearchStrategy[Case]:
    """One JSON file of a model folder with damaged bytes or one damaged value."""
    data = (base / name).read_bytes()
    argv = st.sampled_from(commands)

    def case(command: tuple[str, ...], key: str, content: bytes) -> Case:
        return Case(f"{name}, {key}", command, (name, key), {f"base/{name}": content}, base)

    torn = st.builds(case, argv, st.just(name), bytes_of(data))
    odd = st.builds(
        lambda command, pair: case(command, pair[0], written(pair[1]).encode("utf-8", "surrogatepass")),
        argv,
        tree_of(json.loads(data)),
    )
    return st.one_of(torn, odd, odd)


def weights(base: Path) -> st.SearchStrategy[Case]:
    """Weights with damaged bytes, a damaged header, or tensors of another name, shape, kind or value."""
    data = (base / WEIGHTS).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    tensors = load(data)
    names = [WEIGHTS, *tensors]

    def case(what: str, content: bytes) -> Case:
        return Case(what, EVAL, tuple(names), {f"base/{WEIGHTS}": content}, base)

    headers = tree_of(header).map(lambda pair: case(f"header {pair[0]}", framed(written(pair[1]), data[8 + size :])))
    lengths = st.sampled_from((0, 1, size - 1, size + 1, 2**31, 2**63 - 1, 2**64 - 1)).map(
        lambda length: case(f"header of {length} bytes", struct.pack("<Q", length) + data[8:])
    )
    cut = st.integers(0, len(data) - 1).map(lambda at: case(f"cut at {at}", data[:at]))
    torn = bytes_of(data[: 8 + size]).map(lambda head: case("bytes of the header", head + data[8 + size :]))
    more = st.sampled_from(JUNK).map(lambda junk: case("stuffed", data + junk))
    tensor = st.builds(
        lambda name, how: case(f"{name} {how}", save(spoiled(tensors, name, how))),
        st.sampled_from(sorted(tensors)),
        st.sampled_from(sorted(SPOILS)),
    )
    return st.one_of(headers, lengths, cut, torn, more, tensor, tensor)


def framed(header: str, rest: bytes) -> bytes:
    """A safetensors file of a header as text."""
    text = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + rest


def _at(tensor: torch.Tensor, value: float) -> torch.Tensor:
    copy = tensor.clone()
    copy.view(-1)[copy.numel() // 2] = value
    return copy


SPOILS = {
    "nan": lambda t: _at(t, float("nan")),
    "inf": lambda t: _at(t, float("inf")),
    "minus inf": lambda t: _at(t, float("-inf")),
    "rows gone": lambda t: t[:-1].clone(),
    "rows doubled": lambda t: torch.cat([t, t]),
    "flat": lambda t: t.reshape(-1, 1).clone() if t.dim() > 1 else t[:, None].clone(),
    "whole numbers": lambda t: t.to(torch.int64),
    "truth values": lambda t: t > 0,
    "complex": lambda t: t.to(torch.complex64),
    "empty": lambda t: t[:0].clone(),
}


def spoiled(tensors: Mapping[str, torch.Tensor], name: str, how: str) -> dict[str, torch.Tensor]:
    """The tensors, one of them changed."""
    return {**tensors, name: SPOILS[how](tensors[name])}


def parts(base: Path) -> dict[str, bytes]:
    """The weights in two files with an index, and no file of all."""
    tensors = load((base / WEIGHTS).read_bytes())
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    where = {name: file for file, held in halves.items() for name in held}
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    files = {file: save({name: tensors[name] for name in held}) for file, held in halves.items()}
    return {**files, "model.safetensors.index.json": json.dumps(index).encode()}


def indexed(base: Path) -> st.SearchStrategy[Case]:
    """Weights in parts whose index, or one of whose parts, is damaged."""
    files = parts(base)
    index = "model.safetensors.index.json"
    first = "model-00001-of-00002.safetensors"
    tree = json.loads(files[index])

    def case(what: str, names: tuple[str, ...], held: Mapping[str, bytes | Place]) -> Case:
        placed: dict[str, bytes | Place] = {f"base/{name}": content for name, content in held.items()}
        return Case(what, EVAL, names, {f"base/{WEIGHTS}": "GONE", **placed}, base)

    bad = (
        *ODD,
        "/etc/passwd",
        "../base/model-00001-of-00002.safetensors",
        "model.bin",
        "config.json",
        "a/b.safetensors",
    )
    odd = tree_of(tree, bad).map(
        lambda pair: case(
            f"index {pair[0]}",
            (index, pair[0]),
            {**files, index: written(pair[1]).encode("utf-8", "surrogatepass")},
        )
    )
    torn = bytes_of(files[index]).map(lambda data: case("index", (index,), {**files, index: data}))
    cut = st.integers(0, len(files[first]) - 1).map(
        lambda at: case("part cut", (first,), {**files, first: files[first][:at]})
    )
    return st.one_of(odd, odd, torn, cut)


def hand_models(base: Path) -> list[Case]:
    """Files that are of another kind or not there, and folders that hold something else."""
    names = [path.name for path in base.iterdir()]
    found = [
        Case(f"{place} in place of {name}", command, (name,), {f"base/{name}": place}, base)
        for name in names
        for place in PLACES
        for command in (EVAL, PLAN, CHECK)
        if not (command in (PLAN, CHECK) and name == WEIGHTS)
    ]
    gone: dict[str, bytes | Place] = {f"base/{WEIGHTS}": "GONE"}
    files = parts(base)
    for name in files:
        rest: dict[str, bytes | Place] = {f"base/{other}": data for other, data in files.items() if other != name}
        found.append(Case(f"no {name}", EVAL, (name, "model.safetensors.index.json"), {**gone, **rest}, base))
    for name in ("pytorch_model.bin", "consolidated.00.pth", "model.pt"):
        found.append(Case("pickled", EVAL, (name,), {**gone, f"base/{name}": b"\x80\x04."}, base))
    found += [Case("no weights", EVAL, (WEIGHTS,), gone, base)]
    found += [Case(f"{p} as the folder", EVAL, ("base",), {"base": p}) for p in ("FIFO", "LOOP", "EMPTY", "DIRECTORY")]
    return found


def adapters(base: Path) -> st.SearchStrategy[Case]:
    """An adapter folder whose configuration or weights are damaged."""
    config, file = "adapter_config.json", "adapter_model.safetensors"
    data = (base / file).read_bytes()
    tensors = load(data)

    def case(what: str, content: bytes) -> Case:
        return Case(what, EVAL, (file, *tensors), {f"base/{file}": content}, base)

    cut = st.integers(0, len(data) - 1).map(lambda at: case(f"cut at {at}", data[:at]))
    torn = bytes_of(data[:600]).map(lambda head: case("bytes", head + data[600:]))
    tensor = st.builds(
        lambda name, how: case(f"{name} {how}", save(spoiled(tensors, name, how))),
        st.sampled_from(sorted(tensors)),
        st.sampled_from(sorted(SPOILS)),
    )
    told = json_file(base, config, (EVAL, PLAN))
    return st.one_of(cut, torn, tensor, told, told, told)
