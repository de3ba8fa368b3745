"""Is a connection so slow that its worker is better used for something else?

Rule: only time spent waiting for the network counts, never our own disk's nor our own limit's, and
what several connections of one download have to reach they reach together.
"""

from dataclasses import dataclass
from typing import Final

from daemon.rules.failure import Reason, Trouble

PATIENCE_SECONDS: Final = 600.0
FAIR_SPEED: Final = 64 << 10
"""Bytes a second, on average, that an attempt of more than `PATIENCE_SECONDS` has to reach."""


@dataclass(slots=True)
class Speed:
    """The low-speed limits of one connection.

    Above the configured minimum a host may still hold a worker for days; after ten minutes of
    waiting it has to be fast enough for others not to wait behind it. The bytes are kept.
    """

    least_bytes_per_second: int
    window_seconds: float
    waited_seconds: float = 0.0
    window_bytes: int = 0
    all_seconds: float = 0.0
    all_bytes: int = 0

    def count(self, count: int, waited_seconds: float, connections: int = 1) -> None:
        """Count bytes that were waited for, over one of `connections` of a download.

        Raises:
            Trouble: they came too slowly.
        """
        self.window_bytes += count
        self.waited_seconds += waited_seconds
        self.all_bytes += count
        self.all_seconds += waited_seconds
        least = FAIR_SPEED * self.all_seconds / connections
        if self.all_seconds > PATIENCE_SECONDS and self.all_bytes < least:
            minutes = self.all_seconds / 60
            raise Trouble(Reason.STALLED, f"{self.all_bytes} bytes in {minutes:.0f} minutes")
        if self.waited_seconds < self.window_seconds:
            return
        if self.window_bytes < self.least_bytes_per_second * self.waited_seconds / connections:
            speed = int(self.window_bytes / self.waited_seconds)
            raise Trouble(Reason.STALLED, f"only {speed} bytes a second came")
        self.waited_seconds, self.window_bytes = 0.0, 0
