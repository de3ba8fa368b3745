"""Somebody may sleep until there is work: the bell wakes them, the database says for what.

Rule: the bell is only a hint. A ring that nobody hears costs seconds, never a task.
"""

import asyncio


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
