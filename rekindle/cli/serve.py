"""`serve`: vLLM as a process of its own, for `rekindle train --sampler vllm --set vllm.url=...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rekindle.cli.common import say
from rekindle.errors import InputError

Model = Annotated[str, typer.Option(help="the run's model: a folder, a hub id or 'embedded'", metavar="DIR|HUB_ID")]
TaskName = Annotated[str | None, typer.Option(help="the run's task, where the model is 'embedded'")]
Host = Annotated[str, typer.Option(help="address to listen on; any but this machine's own needs a token")]
TokenFile = Annotated[
    str | None, typer.Option(help="file of mode 600 with the token that clients show (default $REKINDLE_TOKEN)")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="port to listen on, 0: any free one")]
Exchange = Annotated[str | None, typer.Option(help="folder for weights, seen by both sides", metavar="DIR")]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16")]
Longest = Annotated[int | None, typer.Option("--max-model-len", min=2, help="longest prompt and response together")]
Seats = Annotated[int, typer.Option(min=1, help="sequences decoded at once")]
Memory = Annotated[float, typer.Option(min=0.01, max=0.99, help="share of a GPU's memory")]
Eager = Annotated[bool | None, typer.Option("--eager/--compile", help="no compilation (default on a CPU)")]
LONGEST = 4096
"""Where the model's context is longer than this and nothing is said."""


def serve(
    model: Model = "embedded",
    task: TaskName = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token_file: TokenFile = None,
    exchange: Exchange = None,
    dtype: Dtype = "float32",
    max_model_len: Longest = None,
    seats: Seats = 256,
    memory: Memory = 0.3,
    eager: Eager = None,
) -> None:
    """Serve a model by vLLM until interrupted; one run at a time may sample from it and push its weights."""
    from rekindle.tokens.sampling.access import read_token, refuse_open
    from rekindle.tokens.sampling.vllm import TOLERANCE
    from rekindle.tokens.sampling.vllm_engine import Start, VllmEngine
    from rekindle.tokens.sampling.vllm_server import make_server

    if dtype not in TOLERANCE:
        raise InputError(f"--dtype is '{dtype}': give {' or '.join(TOLERANCE)}")
    token = read_token(token_file)
    refuse_open(host, token)  # before a model is loaded
    source, context = described(model, task)
    longest = max_model_len or min(context or LONGEST, LONGEST)
    start = Start(model=source, dtype=dtype, max_model_len=longest, seats=seats, memory=memory, eager=eager)
    engine = VllmEngine(start)
    server = make_server(engine, host, port, None if exchange is None else Path(exchange), token)
    asks = "asks for the token" if token else "asks for no token: every user of this machine may use it"
    about = f"{engine.about.device}, {dtype}, {longest} tokens"
    say(f"serving {model} at http://{host}:{server.server_port} ({about}); {asks}")
    try:
        server.serve_forever()
    finally:
        server.server_close()
        engine.close()


def described(model: str, task: str | None) -> tuple[str, int | None]:
    """Where a model's files are, and its context; `InputError` where they are no causal LM that can be loaded."""
    from rekindle.tokens.loader import context_length, load_model

    loaded = load_model(model, task_name=task)
    return loaded.model.name_or_path, context_length(loaded.model)
