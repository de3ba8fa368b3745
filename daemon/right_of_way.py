"""Callbacks go first: downloads stand back while one of them has waited for too long.

Rule: a turn of the loop lasts as long as all that came for all downloads takes, and a callback
needs some ten turns from its first byte to its answer. Who gives way does so between two pieces of
a film and for a moment only, so that no sender of callbacks can stop the downloads.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

PATIENCE_SECONDS: Final = 0.01
"""So long a callback may wait before anybody stands back for it."""
LONGEST_SECONDS: Final = 0.25


class RightOfWay:
    """Who waits for an answer since when, and who stands back meanwhile."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[object, float] = {}
        self._is_free = asyncio.Event()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have it until the answer is made."""
        this = object()
        self._since[this] = self._clock()
        try:
            yield
        finally:
            del self._since[this]
            if not self._is_claimed():
                self._is_free.set()

    def _is_claimed(self) -> bool:
        """Say whether the one who came first waits for too long."""
        since = next(iter(self._since.values()), None)
        return since is not None and self._clock() - since > PATIENCE_SECONDS

    async def give_way(self) -> None:
        """Stand back while somebody waits for too long, for a moment at most."""
        if not self._is_claimed():
            return
        self._is_free.clear()
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                await self._is_free.wait()
        except TimeoutError:
            return
