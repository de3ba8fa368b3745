"""What others are to be told, kept until they heard it.

Rule: a message is written by the transaction that made it true, and deleted when its receiver said
that it has it; one that was given up stays, without a time, for a person to see.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

from daemon.rules.target import PREFIX
from daemon.statements import Fetch


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `id` stays the same over all tries, so that a receiver knows a repetition."""

    number: int
    id: str
    target: str
    """Where it goes: the URL of an application, or the key of a `[[notify]]`."""
    type: str
    """The event, such as `task.stored`."""
    task_id: str
    reason: str | None
    link: str | None
    path: str | None
    sha256: str | None
    created_at: int
    due_at: int | None
    tries: int
    error: str | None
    message: str | None = None
    size_bytes: int | None = None
    data: str | None = None
    """What a `[[notify]]` is told of an event that is of no task, in JSON."""


@dataclass(frozen=True, slots=True)
class Undelivered:
    """What was given up for one target."""

    target: str
    count: int
    error: str | None


_COLUMNS: Final = ", ".join(field.name for field in fields(Message))
AT_ONCE: Final = 1_000
"""So many rows are deleted in one statement: callbacks wait for it."""
# The words of the indexes `outbox_to_post` and `outbox_to_tell`.
_OF_APPLICATION: Final = f"due_at IS NOT NULL AND substr(target, 1, {len(PREFIX)}) <> '{PREFIX}'"
_OF_TARGET: Final = f"due_at IS NOT NULL AND substr(target, 1, {len(PREFIX)}) = '{PREFIX}'"
# However much waits for one target, only its first row is looked at.
_NEXT: Final = f"""
WITH RECURSIVE known (target) AS (
    VALUES ('{PREFIX}')
    UNION ALL
    SELECT (SELECT target FROM outbox WHERE {_OF_TARGET} AND target > known.target
            ORDER BY target LIMIT 1)
    FROM known WHERE known.target IS NOT NULL
),
first (number) AS (
    SELECT (SELECT number FROM outbox WHERE {_OF_TARGET} AND target = known.target
            ORDER BY due_at, number LIMIT 1)
    FROM known WHERE known.target NOT IN (SELECT value FROM json_each(:busy))
    UNION ALL
    SELECT (SELECT number FROM outbox
            WHERE {_OF_APPLICATION} AND NOT EXISTS
                (SELECT 1 FROM json_each(:busy) WHERE value = substr(target, 1, length(value)))
            ORDER BY due_at, number LIMIT 1)
)
SELECT {_COLUMNS} FROM outbox WHERE number IN (SELECT number FROM first)
ORDER BY due_at, number LIMIT 1
"""


class Outbox:
    """The table `outbox`; the store makes it and hands it its connection."""

    def __init__(self, fetch: Fetch, look: Fetch) -> None:
        self._fetch = fetch
        self._look = look

    async def subscribe(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Keep messages for these pairs of event and target from now on, and for no others."""
        pairs = json.dumps([*wanted])
        # In this order: a crash between the two costs no message.
        await self._fetch(
            """
            INSERT OR IGNORE INTO subscriber (event, key)
            SELECT value ->> 0, value ->> 1 FROM json_each(?)
            """,
            (pairs,),
        )
        await self._fetch(
            """
            DELETE FROM subscriber WHERE NOT EXISTS
                (SELECT 1 FROM json_each(?)
                 WHERE value ->> 0 = subscriber.event AND value ->> 1 = subscriber.key)
            """,
            (pairs,),
        )

    async def drop_others(self, targets: Iterable[str]) -> int:
        """Delete what is kept for a `[[notify]]` that is none of these; return how much it was."""
        return await self._delete(
            """
            substr(target, 1, length(:prefix)) = :prefix
            AND target NOT IN (SELECT value FROM json_each(:targets))
            """,
            {"prefix": PREFIX, "targets": json.dumps([*targets])},
        )

    async def announce(self, event: str, data: object, now: int) -> None:
        """Keep an event that is of no task, for everybody who is to hear of it."""
        await self._fetch(
            """
            INSERT INTO outbox (id, target, type, task_id, created_at, due_at, data)
            SELECT lower(hex(randomblob(16))), key, event, '', :now, :now, :data
            FROM subscriber WHERE event = :event
            """,
            {"event": event, "data": json.dumps(data), "now": now},
        )

    async def undelivered(self) -> list[Undelivered]:
        """Return what was given up, by target, with the last error."""
        rows = await self._look(
            """
            SELECT target, count(*), error, max(number) FROM outbox
            WHERE due_at IS NULL GROUP BY target ORDER BY target
            """,
            (),
        )
        return [Undelivered(*row[:3]) for row in rows]

    async def clear(self, targets: Iterable[str]) -> None:
        """Forget what was given up for these targets: they can be told again."""
        await self._delete(
            "due_at IS NULL AND target IN (SELECT value FROM json_each(:targets))",
            {"targets": json.dumps([*targets])},
        )

    async def forget_old(self, before: int) -> None:
        """Forget what was made before then and given up."""
        await self._delete("due_at IS NULL AND created_at < :before", {"before": before})

    async def _delete(self, which: str, values: dict[str, object]) -> int:
        """Delete rows, a part at a time; return how many they were."""
        deleted = 0
        while True:
            rows = await self._fetch(
                f"""
                DELETE FROM outbox WHERE number IN
                    (SELECT number FROM outbox WHERE {which} LIMIT {AT_ONCE})
                RETURNING number
                """,
                values,
            )
            deleted += len(rows)
            if len(rows) < AT_ONCE:
                return deleted

    async def next(self, busy: Iterable[str]) -> Message | None:
        """Return what is to be sent next, perhaps only later, to a target that starts otherwise.

        `busy` are keys of targets and beginnings of URLs: who is being told something must not
        hold others back.
        """
        rows = await self._fetch(_NEXT, {"busy": json.dumps([*busy])})
        return Message(*rows[0]) if rows else None

    async def delete(self, message: Message) -> None:
        """Forget a message that arrived."""
        await self._fetch("DELETE FROM outbox WHERE number = ?", (message.number,))

    async def postpone(self, message: Message, due_at: int | None, error: str) -> None:
        """Send it again at `due_at`, or never (None)."""
        await self._fetch(
            "UPDATE outbox SET due_at = ?, tries = tries + 1, error = ? WHERE number = ?",
            (due_at, error, message.number),
        )
