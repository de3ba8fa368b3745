"""What came to the callback listener, counted by hour and cause.

Rule: each method is one statement. A row stands for an hour and a cause, however large a flood is;
what is older than 30 days is deleted.
"""

import json
from collections.abc import Sequence
from typing import Final, NamedTuple

from daemon.rules.schedule import HOUR
from daemon.statements import Fetch

KEPT_HOURS: Final = 30 * 24


class Tallied(NamedTuple):
    """So many answers of one cause; the last one's time in milliseconds since 1970."""

    hour: int
    cause: str
    times: int
    last_at: int
    remote: str | None


class Tally:
    """The table `tally`; the store makes it and hands it its connections."""

    def __init__(self, fetch: Fetch, look: Fetch) -> None:
        self._fetch = fetch
        self._look = look

    async def add(self, counted: Sequence[Tallied]) -> None:
        """Add to what is there."""
        await self._fetch(
            """
            INSERT INTO tally (hour, cause, count, last_at, remote)
            SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4
            FROM json_each(?) WHERE true
            ON CONFLICT (hour, cause) DO UPDATE SET
                count = count + excluded.count,
                remote = iif(excluded.last_at >= last_at, excluded.remote, remote),
                last_at = max(last_at, excluded.last_at)
            """,
            (json.dumps(counted),),
        )

    async def delete_old(self, now: int) -> None:
        """Delete what nobody asks about any more."""
        await self._fetch("DELETE FROM tally WHERE hour < ?", (now // HOUR - KEPT_HOURS,))

    async def since(self, since: int) -> list[Tallied]:
        """Return one sum for each cause, from the hour of `since` on; the newest cause first."""
        rows = await self._look(
            """
            SELECT max(hour), cause, sum(count), max(last_at), remote FROM tally
            WHERE hour >= ? GROUP BY cause ORDER BY max(last_at) DESC
            """,
            (since // HOUR,),
        )
        return [Tallied(*row) for row in rows]
