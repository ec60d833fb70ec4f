"""Steps of a response, cut at delimiters as EchoRL (Bi et al., arXiv 2605.31228) cuts reasoning at line breaks."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def segments(
    mask: Bool[Tensor, "B T"], is_delimiter: Bool[Tensor, "B T"], bare: Bool[Tensor, "B T"] | None = None
) -> Int[Tensor, "B T"]:
    """The step (0, 1, ...) that each position belongs to, -1 off the mask.

    A delimiter closes the step that it ends; what follows the last one is the last step. Further delimiters in a run
    belong to the step before them, leading delimiters to the first step; a row of delimiters only is one step. bare:
    the delimiters that are nothing else (None: all); one with content of its own (".\\n") can be a step by itself.
    Positions off the mask are skipped as if they were not there: a gap neither opens nor closes a step.
    """
    content = mask & ~(is_delimiter if bare is None else bare)
    ends = (mask & is_delimiter).long()
    closed = ends.cumsum(dim=1) - ends  # before this position
    seen = closed.where(content, -1).cummax(dim=1).values
    before = torch.nn.functional.pad(seen[:, :-1], (1, 0), value=-1)
    opens = content & (before >= 0) & (closed > before)
    return opens.long().cumsum(dim=1).where(mask, -1)


def segment_totals(x: Float[Tensor, "B T"], segment: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """The sum of `x` over each segment of each row, by its id: place k holds that of segment k, 0 where there is none.

    Segment ids lie in 0 .. T-1, row by row; they need not be contiguous.
    """
    return torch.zeros_like(x).scatter_add(1, segment.clamp(min=0), x.where(segment >= 0, 0.0))


def segment_spread(total: Float[Tensor, "B T"], segment: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """What is by segment id, given to every position of the segment; 0 where `segment` is -1."""
    return total.gather(1, segment.clamp(min=0)).where(segment >= 0, 0.0)


def segment_mean(x: Float[Tensor, "B T"], segment: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Mean of `x` over each position's segment, given to every position of it; 0 where `segment` is -1."""
    count = segment_totals(torch.ones_like(x), segment)
    return segment_spread(segment_totals(x, segment) / count.clamp(min=1), segment)
