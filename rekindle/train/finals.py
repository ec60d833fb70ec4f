"""What a finished run leaves besides its adapter, and models taken out of run folders."""

from __future__ import annotations

import shutil
from pathlib import Path

from rekindle.errors import InputError, unknown
from rekindle.tokens.fetching import quiet
from rekindle.tokens.loader import DTYPES, load_model
from rekindle.tokens.lora import CONFIG, adapted_layers, save_merged
from rekindle.train import manifest
from rekindle.train.card import write_model_card
from rekindle.train.checkpoint import STATE, save_model
from rekindle.train.durable import partial_of, publish
from rekindle.train.measure import model_folder
from rekindle.train.run import Run

MERGED = "final-merged"


def leave_merged(run: Run, root: Path) -> None:
    """`final-merged/` in the run folder `root` where an adapter trained and `lora.merge` is on; whole or not at all.

    Summed in the number format of the run's base, which may be a quantised one; `export` sums anew in float32.
    """
    if not run.resolved.config.lora.merge or not adapted_layers(run.loaded.model):
        return
    partial = partial_of(root / MERGED)
    save_model(run, partial, merged=True)
    write_model_card(run, partial, MERGED, merged=True)
    publish(partial, root / MERGED)


def export(source: str, out: Path, merge: bool, dtype: str | None) -> Path:
    """Copy the model of a run, a checkpoint or a model folder to `out`, without what only a resumed run needs.

    merge: an adapter becomes a whole model, summed in float32, its weights in `dtype` (None: float32). InputError
    where `out` is not new or empty, and where there is nothing to merge.
    """
    out = out.expanduser().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"the folder {out} is there and not empty: give a new one")
    folder = Path(model_folder(source)).expanduser()
    if not folder.is_dir():
        raise InputError(f"'{source}' is no folder here: name a run, a checkpoint or a model folder")
    adapter = (folder / CONFIG).is_file()
    if merge and not adapter:
        raise InputError(f"'{source}' holds a whole model, and there is nothing to merge: leave --merge out")
    if dtype is not None and not merge:
        raise InputError("--dtype is for merged weights, and the others are copied as they are: add --merge")
    if dtype is not None and dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if not adapter and not (folder / "config.json").is_file():
        raise InputError(f"'{source}' is no model: neither config.json nor {CONFIG} is in {folder}")
    partial = partial_of(out)
    if merge:
        _merge(folder, partial, dtype or "float32")
    else:
        shutil.copytree(folder, partial, ignore=shutil.ignore_patterns(STATE, manifest.NAME))
    if out.exists():
        out.rmdir()
    publish(partial, out)
    return out


def _merge(folder: Path, partial: Path, dtype: str) -> None:
    """Products and sums in float32, whatever the run computed in; they are rounded once, to `dtype`."""
    loaded = load_model(str(folder))
    partial.mkdir(parents=True)
    with quiet():
        save_merged(loaded.model, partial, DTYPES[dtype])
        loaded.tokenizer.save_pretrained(partial)
