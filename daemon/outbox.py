"""What others are to be told, kept until they heard it.

Rule: a message is written by the transaction that made it true, and deleted when its receiver said
that it has it; one that was given up stays, without a time, for a person to see.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

from daemon.statements import Fetch


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `id` stays the same over all tries, so that a receiver knows a repetition."""

    number: int
    id: str
    target: str
    """Where it goes: a URL."""
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


_COLUMNS: Final = ", ".join(field.name for field in fields(Message))


class Outbox:
    """The table `outbox`; the store makes it and hands it its connection."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def next(self, busy: Iterable[str]) -> Message | None:
        """Return what is to be sent next, perhaps only later, to a target that starts otherwise.

        `busy` are beginnings of URLs: who is being told something must not hold others back.
        """
        rows = await self._fetch(
            f"""
            SELECT {_COLUMNS} FROM outbox
            WHERE due_at IS NOT NULL AND NOT EXISTS
                (SELECT 1 FROM json_each(?) WHERE value = substr(target, 1, length(value)))
            ORDER BY due_at, number LIMIT 1
            """,
            (json.dumps(list(busy)),),
        )
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
