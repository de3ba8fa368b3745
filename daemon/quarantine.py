"""Callbacks that could not be read, kept for a person: the same bytes would come again.

Rule: a body is kept once, however often it comes, and never thrown away; forgetting it only says
that somebody has seen it.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import fields
from typing import Final

from daemon.rules.task import Held, Unread
from daemon.rules.ulid import LUCK_BYTES, make_ulid
from daemon.selections import NEWEST_ID
from daemon.statements import Fetch

_HELD: Final = ", ".join(field.name for field in fields(Held))


class Quarantine:
    """The table `quarantine`; the store makes it and hands it its connections."""

    def __init__(self, fetch: Fetch, look: Fetch) -> None:
        self._fetch = fetch
        self._look = look

    async def keep(self, batch: Sequence[Unread]) -> list[Held]:
        """Keep bodies that cannot be read; the same bytes again only raise `copies`.

        Returns the rows in their order. All in one statement, for each has to be on the disk
        before its sender is answered, and a hundred of them cost one sync.
        """
        values = [
            (
                f"quarantine-{make_ulid(unread.now, secrets.token_bytes(LUCK_BYTES))}",
                *(unread.now, unread.why, unread.remote, unread.content_type),
                *(hashlib.sha256(unread.body).hexdigest(), unread.body),
            )
            for unread in batch
        ]
        places = ", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * len(values))
        rows = await self._fetch(
            f"""
            INSERT INTO quarantine (id, received_at, why, remote, content_type, sha256, body)
            VALUES {places}
            ON CONFLICT (sha256) DO UPDATE SET copies = copies + 1
            RETURNING {_HELD}
            """,
            [value for row in values for value in row],
        )
        return [Held(*row) for row in rows]

    async def page(self, limit: int, before_number: int | None = None) -> list[Held]:
        """Return a page of callbacks in quarantine, the newest first."""
        rows = await self._look(
            f"SELECT {_HELD} FROM quarantine WHERE number < ? ORDER BY number DESC LIMIT ?",
            (NEWEST_ID if before_number is None else before_number, limit),
        )
        return [Held(*row) for row in rows]

    async def one(self, held_id: str) -> Held | None:
        """Return one callback in quarantine."""
        rows = await self._look(f"SELECT {_HELD} FROM quarantine WHERE id = ?", (held_id,))
        return Held(*rows[0]) if rows else None

    async def forget(self, held_id: str, now: int) -> Held | None:
        """Acknowledge a callback in quarantine; None when there is none of that id."""
        rows = await self._fetch(
            f"""
            UPDATE quarantine SET forgotten_at = COALESCE(forgotten_at, ?)
            WHERE id = ? RETURNING {_HELD}
            """,
            (now, held_id),
        )
        return Held(*rows[0]) if rows else None
