"""What all downloads receive together: how much it is, and the limit that they share.

Rule: every byte is paid for with time after it came, so over any time that counts no more than the
limit comes in, however many downloads there are. What a busy moment cost is made up for; time that
nobody used buys nothing.
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


class Flow:
    """Counts bytes of all downloads and holds them back to `limit()` a second; 0: no limit."""

    def __init__(
        self, limit: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.received_bytes = 0
        self._limit = limit
        self._clock = clock
        self._paid_until = 0.0

    def piece_bytes(self, most: int) -> int:
        """Return how much, of `most`, may be read at once."""
        limit = self._limit()
        return min(most, max(LEAST_PIECE_BYTES, limit // PIECES_A_SECOND)) if limit else most

    async def count(self, size_bytes: int) -> None:
        """Count bytes that came, and wait until their time is over."""
        self.received_bytes += size_bytes
        limit = self._limit()
        if limit:
            now = self._clock()
            late = now - self._paid_until > CATCH_UP_SECONDS
            self._paid_until = (now if late else self._paid_until) + size_bytes / limit
            await asyncio.sleep(self._paid_until - now)
