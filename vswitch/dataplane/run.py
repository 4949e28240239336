"""The unit of work: neighbouring frames that share a fate."""

from typing import final

from mypy_extensions import i64, mypyc_attr


@final
@mypyc_attr(acyclic=True)  # or the collector would look at each, and there are many
class Run:
    """`frames` frames, with their prefixes, at chunk[start:end]. Shared between ports: never changed.

    `unfinished` is what is left to do for each of them (offload.py); 0 if nothing is.
    """

    def __init__(self, chunk: bytes, start: i64, end: i64, frames: i64, unfinished: i64 = 0) -> None:
        self.chunk = chunk
        self.start = start
        self.end = end
        self.frames = frames
        self.unfinished = unfinished
