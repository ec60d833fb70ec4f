"""Time travel: a step of a finished run taken again, and where two runs part. Nothing here writes to a run folder."""
