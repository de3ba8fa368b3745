"""Which bytes of a file are on disk, and which are missing.

Rule: the ranges of a `Spans` are sorted, never touch and are never empty, so one set of bytes has
one value and one text. Resuming and fetching in parts both ask it the same question: the gaps.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

_RANGE = re.compile(r"(0|[1-9][0-9]*)-([1-9][0-9]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Spans:
    """Half-open byte ranges, `(start, end)` with `end` not included.

    Raises:
        ValueError: the ranges are out of order, overlap, touch or are empty.
    """

    ranges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for start, end in self.ranges:
            if not 0 <= start < end:
                raise ValueError(f"{start}-{end} is no range of bytes")
        for (_, end), (start, _) in pairwise(self.ranges):
            if start <= end:
                raise ValueError(f"the range at {start} begins before a gap after {end}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` wrote: `0-1048576,2097152-3145728`, or nothing for no bytes at all.

        Raises:
            ValueError: the text is not exactly what `str` writes for some set of bytes.
        """
        if not text:
            return cls()
        ranges = []
        for part in text.split(","):
            match = _RANGE.fullmatch(part)
            if match is None:
                raise ValueError(f"{part!r} is no range of bytes")
            ranges.append((int(match[1]), int(match[2])))
        return cls(tuple(ranges))

    def __str__(self) -> str:  # type: ignore[explicit-override]  # typing.override is 3.12
        return ",".join(f"{start}-{end}" for start, end in self.ranges)

    def add(self, start: int, end: int) -> "Spans":
        """Count the bytes from `start` up to `end` as present; an empty range changes nothing.

        Raises:
            ValueError: `start` is negative or lies behind `end`.
        """
        if not 0 <= start <= end:
            raise ValueError(f"{start}-{end} is no range of bytes")
        if start == end:
            return self
        before = tuple(span for span in self.ranges if span[1] < start)
        after = tuple(span for span in self.ranges if span[0] > end)
        touched = self.ranges[len(before) : len(self.ranges) - len(after)]
        if touched:
            start = min(start, touched[0][0])
            end = max(end, touched[-1][1])
        return Spans((*before, (start, end), *after))

    def cut(self, size_bytes: int) -> "Spans":
        """Forget every byte at or beyond `size_bytes`: the file on disk ends there."""
        return Spans(
            tuple((start, min(end, size_bytes)) for start, end in self.ranges if start < size_bytes)
        )

    def gaps(self, size_bytes: int) -> tuple[tuple[int, int], ...]:
        """Give the ranges missing from a file of `size_bytes`, in order."""
        starts = (0, *(end for _, end in self.ranges))
        ends = (*(start for start, _ in self.ranges), size_bytes)
        return tuple(
            (start, min(end, size_bytes))
            for start, end in zip(starts, ends, strict=True)
            if start < min(end, size_bytes)
        )

    def reach(self, start: int) -> int:
        """Return the end of the bytes that are here from `start` on; `start` when it is missing."""
        return next((end for begin, end in self.ranges if begin <= start < end), start)

    def covers(self, size_bytes: int) -> bool:
        """Say whether a file of `size_bytes` is here to its last byte."""
        return not self.gaps(size_bytes)

    @property
    def total_bytes(self) -> int:
        """How many bytes are present."""
        return sum(end - start for start, end in self.ranges)
