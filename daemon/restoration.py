"""A backup that was put in the ledger's place: what it does not know, and how that is found out.

Rule: a backup is older than the world. What it calls open is asked about again; a wish that it
holds unsent may have been sent since, so nobody sends it before a person has looked, for a second
video would be paid for. The mark that it is a backup goes last, so an interrupted restoration
begins anew.
"""

from typing import Final

from daemon.rules.submission import DOUBTS_LIMIT
from daemon.statements import Fetch

BACKUP_ID: Final = 0x42414B31
"""`PRAGMA application_id` of a backup, until a daemon has taken it for its ledger."""


class Restoration:
    """The mark of a backup, and the statements that take it over; the store makes it."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def is_due(self) -> bool:
        """Return whether the ledger is a backup that no daemon has taken over yet."""
        rows = await self._fetch("PRAGMA application_id", ())
        return bool(rows[0][0] == BACKUP_ID)

    async def hold_wishes(self) -> None:
        """Let the open wishes wait for a person. The triggers bring their tasks along."""
        await self._fetch("UPDATE submission SET calling = 1 WHERE settled_at IS NULL", ())
        await self._fetch(
            """
            UPDATE submission SET calling = 0, send_at = NULL, doubts = ?, unheard = unheard + 1,
                                  tries = max(tries, 1)
            WHERE calling = 1
            """,
            (DOUBTS_LIMIT,),
        )

    async def ask_again(self, now: int) -> int:
        """Make the question about everything without a file due; return about how many tasks."""
        rows = await self._fetch(
            """
            UPDATE task SET ask_at = :now, asked_since = :now, ask_pause_ms = 0,
                            version = version + 1
            WHERE state IN ('expected', 'wanted', 'failed', 'lost') AND forgotten_at IS NULL
                  AND (deadline_at > :now OR state IN ('expected', 'wanted'))
                  AND NOT EXISTS (SELECT 1 FROM submission WHERE local_id = task_id)
            RETURNING id
            """,
            {"now": now},
        )
        return len(rows)

    async def complete(self) -> bool:
        """Take the mark away; return whether that is in the file itself.

        Not before is its write-ahead log its own: what is in the log alone would be moved away with
        the log by the next start. Somebody who reads the ledger holds it up.
        """
        await self._fetch("PRAGMA application_id = 0", ())
        rows = await self._fetch("PRAGMA wal_checkpoint(TRUNCATE)", ())
        return bool(rows[0][0] == 0)
