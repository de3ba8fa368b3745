"""Which downloads are on their way, and how far they are: for those who look on, and for metrics.

Rule: nothing is counted on the way of the bytes. Once a second, and only while somebody looks on,
the partial files are asked how much they hold.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from daemon.broadcast import Broadcast
from daemon.partial import Partial

EVERY_SECONDS: Final = 1.0
EVENT: Final = "download.progress"


class Progress:
    """The downloads of one process that are on their way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._parts: dict[str, Partial] = {}
        self._seen: dict[str, tuple[float, int]] = {}

    @property
    def running(self) -> int:
        """How many there are."""
        return len(self._parts)

    @contextmanager
    def follow(self, task_id: str, part: Partial) -> Iterator[None]:
        """Show a download meanwhile."""
        self._parts[task_id] = part
        try:
            yield
        finally:
            del self._parts[task_id]

    async def report(self, broadcast: Broadcast) -> None:
        """Tell for ever who looks on, each second."""
        while True:
            await broadcast.wait_for_listener()
            self.tell(broadcast)
            await asyncio.sleep(EVERY_SECONDS)

    def tell(self, broadcast: Broadcast) -> None:
        """Tell how far every download is, and how fast since the last time."""
        now, seen, self._seen = self._clock(), self._seen, {}
        for task_id, part in self._parts.items():
            received_bytes = part.spans.total_bytes
            before = seen.get(task_id)
            self._seen[task_id] = (now, received_bytes)
            told = {
                "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
                "level": "info",
                "event": EVENT,
                "task_id": task_id,
                "received_bytes": received_bytes,
                "size_bytes": part.total_bytes,
                "bytes_per_second": _find_speed(before, (now, received_bytes)),
            }
            broadcast.send(EVENT, json.dumps(told))


def _find_speed(before: tuple[float, int] | None, now: tuple[float, int]) -> int | None:
    """Return bytes a second; None where nothing was seen yet, or another version began."""
    if before is None or now[0] <= before[0] or now[1] < before[1]:
        return None
    return round((now[1] - before[1]) / (now[0] - before[0]))
