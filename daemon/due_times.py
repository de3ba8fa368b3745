"""When things are due: what was put off too far is pulled in, what is overdue is counted.

Rule: what is due as it should be is not touched, and nothing is looked for without an index. Times
are milliseconds since 1970.
"""

from daemon.selections import OPEN
from daemon.statements import STEPPING, Fetch


class DueTimes:
    """The due times of the ledger; the store makes it and hands it its connections."""

    def __init__(self, fetch: Fetch, look: Fetch) -> None:
        self._fetch = fetch
        self._look = look

    async def pull_in(self, now: int, longest_ms: int) -> None:
        """Make due now whatever is due later than `longest_ms` from now: a wrong clock did that."""
        times = {"now": now, "limit": now + longest_ms}
        await self._fetch(
            """
            UPDATE task INDEXED BY task_to_ask
            SET ask_at = :now, asked_since = :now, version = version + 1
            WHERE ask_at > :limit
            """,
            times,
        )
        await self._fetch(
            f"""
            UPDATE task INDEXED BY task_to_fetch SET fetch_at = :now, version = version + 1
            WHERE {STEPPING} AND fetch_at > :limit
            """,
            times,
        )
        await self._fetch(
            """
            UPDATE task SET fetch_at = :now, version = version + 1
            WHERE id IN (SELECT task FROM submission WHERE send_at > :limit) AND fetch_at > :limit
            """,
            times,
        )
        await self._fetch("UPDATE submission SET send_at = :now WHERE send_at > :limit", times)
        await self._fetch("UPDATE outbox SET due_at = :now WHERE due_at > :limit", times)

    async def count_overdue(self, before: int, near: int) -> tuple[int, int, int]:
        """Count the videos with a deadline before `near`, and questions and steps due `before`."""
        rows = await self._look(
            f"""
            SELECT (SELECT count(*) FROM task INDEXED BY task_open
                    WHERE {OPEN} AND deadline_at <= :near AND forgotten_at IS NULL),
                   (SELECT count(*) FROM task INDEXED BY task_to_ask
                    WHERE ask_at <= :before AND forgotten_at IS NULL),
                   (SELECT count(*) FROM task INDEXED BY task_to_fetch
                    WHERE {STEPPING} AND claimed_at IS NULL AND fetch_at <= :before)
            """,
            {"before": before, "near": near},
        )
        return rows[0][0], rows[0][1], rows[0][2]

    async def longest_due(self, now: int) -> tuple[int | None, int | None]:
        """Return since when the question and the download step are due that have waited longest."""
        rows = await self._look(
            f"""
            SELECT (SELECT ask_at FROM task INDEXED BY task_to_ask
                    WHERE ask_at <= :now AND forgotten_at IS NULL ORDER BY ask_at LIMIT 1),
                   (SELECT fetch_at FROM task INDEXED BY task_to_fetch
                    WHERE {STEPPING} AND claimed_at IS NULL AND fetch_at <= :now
                    ORDER BY fetch_at LIMIT 1)
            """,
            {"now": now},
        )
        return rows[0][0], rows[0][1]
