"""Charts as rectangles: where each bar of the last days and each part of the disk is drawn.

Rule: numbers in, numbers out; a chart is never the only place where a number stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

SLOT: Final = 10.0
"""The width that one day has."""
HEIGHT: Final = 100.0
_LEAST: Final = 2.0
"""A day with anything at all is seen."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One day's bar."""

    x: float
    y: float
    height: float
    day: str
    value: int


@dataclass(frozen=True, slots=True)
class Day:
    """What was stored on one day, UTC."""

    day: str
    short: str
    videos: int
    size_bytes: int


def list_days(found: dict[int, tuple[int, int]], today: int, span: int) -> list[Day]:
    """Return every day of the last `span`, the oldest first; days are numbered since 1970."""
    days = []
    for number in range(today - span + 1, today + 1):
        videos, size_bytes = found.get(number, (0, 0))
        date = datetime.fromtimestamp(0, UTC) + timedelta(days=number)
        days.append(Day(f"{date:%Y-%m-%d}", f"{date.day} {date:%b}", videos, size_bytes))
    return days


def draw_bars(values: Sequence[tuple[str, int]]) -> list[Bar]:
    """Return a bar for each day that has a value."""
    most = max((value for _, value in values), default=0)
    bars = []
    for number, (day, value) in enumerate(values):
        if value:
            height = round(max(_LEAST, HEIGHT * value / most), 2)
            bars.append(Bar(number * SLOT + 1, round(HEIGHT - height, 2), height, day, value))
    return bars


@dataclass(frozen=True, slots=True)
class DiskUse:
    """The disk of the download folder, in bytes; widths and places are of a thousand."""

    directory: str
    videos: int
    other: int
    free: int
    min_free: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.videos + self.other + self.free

    def share(self, size_bytes: int) -> float:
        """Return how much of a thousand that is."""
        return round(1000 * size_bytes / self.total, 1) if self.total else 0.0

    @property
    def line(self) -> float:
        """Where downloads stop."""
        return max(0.0, 1000 - self.share(self.min_free))


def divide_disk(directory: str, total: int, free: int, videos: int, min_free: int) -> DiskUse:
    """Return what fills a disk; the videos may be on another one, and larger than what is used."""
    used = max(0, total - free)
    videos = min(videos, used)
    return DiskUse(directory, videos, used - videos, free, min_free)
