"""What is stored: how much in all, and how much came on which day.

Rule: both are read out of one index, and not again while nobody has committed anything. Days are
those of UTC.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from daemon.rules.schedule import HOUR
from daemon.statements import Fetch

DAY_MS = 24 * HOUR


class Stock:
    """The stored videos of the ledger; the store makes it and hands it its reading connection."""

    def __init__(self, look: Fetch, look_once: Callable[[str], Awaitable[list[Any]]]) -> None:
        self._look = look
        self._look_once = look_once

    async def by_day(self, since_day: int) -> dict[int, tuple[int, int]]:
        """Return how many videos and bytes came on each day, by its number since 1970."""
        rows = await self._look(
            """
            SELECT stored_at / :day, count(*), sum(size_bytes)
            FROM task INDEXED BY task_stored WHERE stored_at >= :since GROUP BY 1
            """,
            {"since": since_day * DAY_MS, "day": DAY_MS},
        )
        return {row[0]: (row[1], row[2]) for row in rows}

    async def total_bytes(self) -> int:
        """Return how many bytes all videos have that are in place."""
        rows = await self._look_once(
            """
            SELECT total(size_bytes) FROM task INDEXED BY task_stored
            WHERE stored_at IS NOT NULL AND state IN ('stored', 'done')
            """
        )
        return int(rows[0][0])
