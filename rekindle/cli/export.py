"""`export`: the model of a run as a folder of its own, an adapter merged into its base where asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[str, typer.Argument(help="a run, a checkpoint or a model folder", metavar="RUN|DIR")]
Out = Annotated[Path, typer.Argument(help="a new or empty folder")]
Merge = Annotated[bool, typer.Option("--merge", help="write an adapter's whole model, with the adapter in its weights")]
Dtype = Annotated[str | None, typer.Option(help="of merged weights: float32 (default), bfloat16 or float16")]


def export(source: Source, out: Out, merge: Merge = False, dtype: Dtype = None) -> None:
    """Copy a trained model to a folder of its own."""
    from rekindle.train.finals import export as taken_out

    print(taken_out(source, out, merge, dtype))
