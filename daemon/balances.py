"""What the provider said was left of the credits, over time.

Rule: each method is one statement. Times are milliseconds since 1970.
"""

from daemon.statements import Fetch


class Balances:
    """The table `balance`; the store makes it and hands it its connections."""

    def __init__(self, fetch: Fetch, look: Fetch) -> None:
        self._fetch = fetch
        self._look = look

    async def record(self, now: int, credits_left: float) -> None:
        """Keep what the provider said was left."""
        await self._fetch("INSERT OR REPLACE INTO balance VALUES (?, ?)", (now, credits_left))

    async def since(self, since: int) -> list[tuple[int, float]]:
        """Return the balances since then, and the last one before, the oldest first."""
        rows = await self._look(
            """
            SELECT at, credits FROM balance
            WHERE at >= coalesce((SELECT max(at) FROM balance WHERE at < :since), :since)
            ORDER BY at
            """,
            {"since": since},
        )
        return [(row[0], row[1]) for row in rows]
