"""What all downloads receive together: how much it is, and the limit that they share.

Rule: every byte is paid for with time after it came, so over any time that counts no more than the
limit comes in, however many downloads there are. What a busy moment cost is made up for; time that
nobody used buys nothing. What is owed is owed at the limit of now, not of when it came.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

CATCH_UP_SECONDS: Final = 0.25
"""A loop that wakes late, piece for piece, would never reach the limit."""
PIECES_A_SECOND: Final = 16
"""Small pieces, so that downloads take turns and a host sees its bytes being taken."""
LEAST_PIECE_BYTES: Final = 4 << 10
LOOK_SECONDS: Final = 1.0
"""So soon a limit that was raised or lifted is seen by those who wait: under one that was much too
low by mistake, a single piece costs many minutes."""


class Flow:
    """Counts bytes of all downloads and holds them back to `limit()` a second; 0: no limit."""

    def __init__(
        self, limit: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.received_bytes = 0
        self._limit = limit
        self._clock = clock
        self._rate = 0
        """The limit when it was last looked at."""
        self._paid_bytes = 0.0
        """Of those received; more than them, while time is left to be made up for."""
        self._paid_at = 0.0

    def piece_bytes(self, most: int) -> int:
        """Return how much, of `most`, may be read at once."""
        limit = self._limit()
        return min(most, max(LEAST_PIECE_BYTES, limit // PIECES_A_SECOND)) if limit else most

    async def count(self, size_bytes: int) -> None:
        """Count bytes that came, and wait until their time is over."""
        self._pay()
        self.received_bytes += size_bytes
        due_bytes = self.received_bytes
        while self._rate:
            owed_bytes = due_bytes - self._paid_bytes
            await asyncio.sleep(min(owed_bytes / self._rate, LOOK_SECONDS))
            self._pay()
            # A part of a byte is a rounding error, and too short a time for some clocks.
            if due_bytes - self._paid_bytes < 1:
                return

    def _pay(self) -> None:
        """Pay with the time that went by, and look at the limit for the time to come."""
        now = self._clock()
        self._paid_bytes += self._rate * (now - self._paid_at)
        self._paid_at = now
        self._rate = self._limit()
        spare_bytes = self._paid_bytes - self.received_bytes
        if not self._rate or spare_bytes > self._rate * CATCH_UP_SECONDS:
            self._paid_bytes = self.received_bytes
