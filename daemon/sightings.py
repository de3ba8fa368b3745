"""The file hosts that videos came from: no provider documents them.

Rule: each method is one statement. Times are milliseconds since 1970.
"""

from daemon.statements import Fetch


class Sightings:
    """The table `file_host`; the store makes it and hands it its connection."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def note(self, host: str, now: int) -> bool:
        """Remember a host; return whether it was never seen before."""
        rows = await self._fetch(
            "INSERT INTO file_host VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING name",
            (host, now),
        )
        return bool(rows)
