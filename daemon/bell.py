"""Somebody may sleep until there is work: the bell wakes them, the database says for what.

Rule: the bell is only a hint. A ring that nobody hears costs seconds, never a task.
"""

import asyncio
import math
from collections.abc import Callable


class Bell:
    """Listen first, look for work second, sleep third: then no ring is missed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def listen(self) -> asyncio.Event:
        """Return what the next ring sets."""
        return self._event

    def ring(self) -> None:
        """Wake everybody who listens."""
        event, self._event = self._event, asyncio.Event()
        event.set()


class Spaced:
    """Passes rings on: the first at once, those that come within `seconds` of it as one at the end.

    Who is woken looks into the ledger, and a flood of news would keep it looking.
    """

    def __init__(self, ring: Callable[[], None], seconds: float) -> None:
        self._ring = ring
        self._seconds = seconds
        self._free_at = -math.inf
        self._pending: asyncio.TimerHandle | None = None

    def ring(self) -> None:
        """Ring now or soon."""
        if self._pending is not None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._free_at:
            self._pending = loop.call_at(self._free_at, self._pass_on)
        else:
            self._pass_on()

    def _pass_on(self) -> None:
        self._pending = None
        self._free_at = asyncio.get_running_loop().time() + self._seconds
        self._ring()


async def sleep_until(event: asyncio.Event, seconds: float) -> None:
    """Return when the bell rings, or after `seconds`.

    Nobody sleeps longer than 30 s, for the monotonic clock stands still while a machine is
    suspended and due times are wall time.
    """
    try:
        async with asyncio.timeout(min(30.0, max(0.0, seconds))):
            await event.wait()
    except TimeoutError:
        return
