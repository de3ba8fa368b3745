"""Callbacks that could not be read, kept for a person: the same bytes would come again.

Rule: a body is kept once, however often it comes, and never thrown away; forgetting it only says
that somebody has seen it.
"""

import hashlib
import secrets
from dataclasses import fields
from typing import Final

from daemon.rules.task import Held
from daemon.rules.ulid import LUCK_BYTES, make_ulid
from daemon.statements import Fetch

_HELD: Final = ", ".join(field.name for field in fields(Held))


class Quarantine:
    """The table `quarantine`; the store makes it and hands it its connection."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def keep(
        self, body: bytes, *, why: str, remote: str, content_type: str, now: int
    ) -> Held:
        """Keep a body that cannot be read; the same bytes again only raise `copies`."""
        rows = await self._fetch(
            f"""
            INSERT INTO quarantine (id, received_at, why, remote, content_type, sha256, body)
            VALUES (?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (sha256) DO UPDATE SET copies = copies + 1
            RETURNING {_HELD}
            """,
            (
                f"quarantine-{make_ulid(now, secrets.token_bytes(LUCK_BYTES))}",
                *(now, why, remote, content_type, hashlib.sha256(body).hexdigest(), body),
            ),
        )
        return Held(*rows[0])

    async def page(self, limit: int, before_number: int | None = None) -> list[Held]:
        """Return a page of callbacks in quarantine, the newest first."""
        rows = await self._fetch(
            f"""
            SELECT {_HELD} FROM quarantine
            WHERE :before IS NULL OR number < :before
            ORDER BY number DESC LIMIT :limit
            """,
            {"before": before_number, "limit": limit},
        )
        return [Held(*row) for row in rows]

    async def one(self, held_id: str) -> Held | None:
        """Return one callback in quarantine."""
        rows = await self._fetch(f"SELECT {_HELD} FROM quarantine WHERE id = ?", (held_id,))
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
