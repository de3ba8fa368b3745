"""What was put off, further than anything is ever put off: by a clock that was wrong.

Rule: each table is pulled in by one statement; what is due as it should be is not touched.
"""

from daemon.statements import Fetch


class Postponements:
    """The due times of the ledger; the store makes it and hands it its connection."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def pull_in(self, now: int, longest_ms: int) -> None:
        """Make due now whatever is due later than `longest_ms` from now."""
        times = {"now": now, "limit": now + longest_ms}
        await self._fetch(
            """
            UPDATE task SET ask_at = :now, asked_since = :now, version = version + 1
            WHERE ask_at > :limit
            """,
            times,
        )
        await self._fetch(
            "UPDATE task SET fetch_at = :now, version = version + 1 WHERE fetch_at > :limit", times
        )
        await self._fetch("UPDATE submission SET send_at = :now WHERE send_at > :limit", times)
        await self._fetch("UPDATE outbox SET due_at = :now WHERE due_at > :limit", times)
