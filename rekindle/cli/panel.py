"""The panel of a run on a terminal: progress, entropy, scores, the truth meter, ways of working, a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rekindle.cli.live import NAMES, Watch, line, number, to_beat

BLOCKS = "▁▂▃▄▅▆▇█"
SPARK = 32
"""Steps that a sparkline shows."""
SAMPLE = 400
"""Characters of a response that are shown."""


class LivePanel:
    """A panel that is drawn anew four times a second; notes scroll by above it."""

    def __init__(self, watch: Watch, console: Console | None = None) -> None:
        self.watch = watch
        self._live = Live(get_renderable=lambda: render(watch), console=console, refresh_per_second=4)

    def __call__(self, record: dict[str, Any]) -> None:
        """Take the record in."""
        self.watch.add(record)
        if record["kind"] in ("note", "resume"):
            self._live.console.print(Text(line(record, self.watch.steps) or ""))

    def __enter__(self) -> LivePanel:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def clock(seconds: float) -> str:
    """Seconds as people say them: `48 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def spark(values: Sequence[float]) -> str:
    """The last values as blocks, from 0 to the largest of them."""
    shown = list(values)[-SPARK:]
    top = max(shown, default=0.0)
    return "".join(BLOCKS[min(7, int(8 * max(v, 0.0) / top))] if top > 0 else BLOCKS[0] for v in shown)


def render(watch: Watch) -> RenderableType:
    """The whole panel."""
    body: list[RenderableType] = [progress(watch), Text(), facts(watch)]
    if watch.sample:
        body += [Text(), completion(watch.sample)]
    return Panel(Group(*body), title=watch.title, title_align="left", border_style="dim")


def progress(watch: Watch) -> RenderableType:
    """Bar, steps, seconds a step and what is left."""
    bar = ProgressBar(total=watch.steps, completed=watch.step)
    said = f"{watch.step}/{watch.steps}"
    if watch.left is not None:
        said += f"  {watch.seconds[-1]:.1f} s a step  {clock(watch.left)} left"
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(bar, Text(said))
    return grid


def facts(watch: Watch) -> RenderableType:
    """The metrics of the last step, a line each."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column()
    for name, value in fact_rows(watch):
        grid.add_row(name, Text(value))
    return grid


def fact_rows(watch: Watch) -> list[tuple[str, str]]:
    """(name, text) of every line of the panel that there is something to tell of."""
    last = watch.last
    if not last:
        return [("first step", "under way")]
    own = {key: name for key, name in NAMES.items() if not key.startswith(("vote/", "truth/"))}
    rows = [(name, number(last[key])) for key, name in own.items() if key in last]
    rows[0] = (rows[0][0], f"{rows[0][1]}  {spark(watch.entropy)}") if rows and rows[0][0] == "entropy" else rows[0]
    if "vote/majority_share" in last:
        rows += truth_rows(watch)
    ways = {name.removeprefix("ways/"): value for name, value in last.items() if name.startswith("ways/")}
    if ways:
        rows.append(("ways", "  ".join(f"{way} {value:.2f}" for way, value in ways.items())))
    if watch.evaluated:
        values = {n: v for n, v in watch.evaluated.items() if n.startswith(("pass@", "maj@"))}
        said = "  ".join(f"{n} {number(v)}" for n, v in values.items())
        rows.append(("evaluation", f"{said}  (step {watch.evaluated['step']})"))
    time = last["time"]
    parts = {name: time[name] for name in ("sample", "score", "update") if name in time}
    spent = "  ".join(f"{name} {value:.1f} s" for name, value in parts.items())
    return [*rows, ("speed", f"{time['tokens_per_s']:.0f} tokens/s  {spent}")]


def truth_rows(watch: Watch) -> list[tuple[str, str]]:
    """The truth meter: how the votes compare with answers that never touch the reward."""
    last = watch.last
    rows = [("votes", f"majority share {number(last['vote/majority_share'])}  entropy {number(last['vote/entropy'])}")]
    if "truth/label_accuracy" in last:
        label, reward = number(last["truth/label_accuracy"]), number(last.get("truth/reward_accuracy"))
        said = f"label accuracy {label}  reward accuracy {reward}  pass@1 {number(last['truth/pass@1'])}"
        rows.append(("truth", said))
    beat = to_beat(watch.start)
    if beat is not None:
        rows.append(("to beat", f"{beat[0]} of the start model {number(beat[1])}"))
    return rows


def completion(sample: Mapping[str, Any]) -> RenderableType:
    """A prompt (its end), the response (its beginning), and whether it was a success."""
    response = sample["response"]
    shown = response if len(response) <= SAMPLE else response[:SAMPLE] + " ..."
    mark = Text("success", style="green") if sample["success"] else Text("no success", style="red")
    return Text.assemble((sample["prompt"][-SAMPLE:], "dim"), " ", shown.strip(), "  ", mark)
