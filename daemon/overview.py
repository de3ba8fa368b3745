"""What a person looks for in the ledger: what is on its way, what is stuck, what is new.

Rule: every answer is a page of rows or a handful of numbers, over an index; nothing that is looked
at here holds up a commit.
"""

from typing import Any, NamedTuple

from daemon import selections
from daemon.rules.task import COLUMNS, Task
from daemon.statements import Fetch


class Unsafe(NamedTuple):
    """How many there are of what a person may have to look at, the forgotten left out."""

    open: int
    """No file in place yet; those that are stuck are among them."""
    stuck: int
    """Submits that only a person can bring on."""
    lost: int
    unknown: int
    """The provider says that there is no such task."""
    refused: int
    """No video was made: nothing is unsafe, yet worth knowing."""
    quarantined: int

    @property
    def videos(self) -> int:
        """How many videos are not safe."""
        return self.open + self.lost + self.unknown

    @property
    def moving(self) -> int:
        """How many go on by themselves."""
        return self.open - self.stuck

    @property
    def for_a_person(self) -> int:
        """How many wait for a person's word."""
        return self.stuck + self.lost + self.unknown + self.quarantined


class HeldInBrief(NamedTuple):
    """A callback in quarantine, without its body."""

    id: str
    received_at: int
    why: str
    copies: int


class Overview:
    """What the dashboard asks of the ledger; the store makes it and hands it its reader."""

    def __init__(self, look: Fetch) -> None:
        self._look = look

    async def outlook(self) -> tuple[int | None, int | None, int]:
        """Return when the oldest open task was adopted, the next deadline, and the quarantined."""
        rows = await self._look(selections.OUTLOOK, ())
        return rows[0][0], rows[0][1], rows[0][2]

    async def standing(self) -> tuple[int, str | None, str | None]:
        """Return how many tasks are unsafe, the oldest open one, and that of the next deadline."""
        rows = await self._look(selections.STANDING, ())
        return rows[0][0], rows[0][1], rows[0][2]

    async def unsafe(self) -> Unsafe:
        """Count what is not safe."""
        return Unsafe(*(await self._look(selections.UNSAFE, ()))[0])

    async def moving(self, limit: int) -> list[Task]:
        """Return what goes on by itself and is not in place yet, the nearest deadline first."""
        return await self._tasks(selections.MOVING, limit)

    async def stuck(self, limit: int) -> list[Task]:
        """Return what is unsafe and does not go on by itself: open submits, lost, unknown."""
        found: list[Task] = []
        for sql in (selections.STUCK, selections.LOST, selections.UNKNOWN):
            if len(found) < limit:
                found += await self._tasks(sql, limit - len(found))
        return found

    async def refused(self, limit: int) -> list[Task]:
        """Return what the provider made no video of, the newest first."""
        return await self._tasks(selections.REFUSED, limit)

    async def newest_stored(self, limit: int) -> list[Task]:
        """Return the videos in place, the newest first."""
        return await self._tasks(selections.NEWEST_STORED, limit)

    async def held(self, limit: int) -> list[HeldInBrief]:
        """Return callbacks in quarantine that nobody has seen, the newest first."""
        return [HeldInBrief(*row) for row in await self._look(selections.HELD_OPEN, (limit,))]

    async def _tasks(self, sql: str, limit: int) -> list[Task]:
        rows: list[Any] = await self._look(sql, (limit,))
        return [Task(**dict(zip(COLUMNS, row, strict=True))) for row in rows]
