"""The submitted wishes in the ledger: recorded before the call, settled after it.

Rule: each method is one statement, and the triggers of the schema keep task and submission
together within it. A row that is marked as on its way when the process starts was interrupted:
nobody knows what became of its call.
"""

from dataclasses import fields
from typing import Final

from daemon.rules.submission import DOUBTS_LIMIT, Intent, Wish
from daemon.statements import Fetch

_COLUMNS: Final = ", ".join(field.name for field in fields(Intent))


class Intents:
    """The table `submission`; the store makes it and hands it its connection."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def record(
        self,
        local_id: str,
        wish: Wish,
        *,
        source: str,
        label: str | None,
        now: int,
        deadline_at: int,
        send: bool = True,
    ) -> Intent:
        """Commit a wish and its task, due to be sent at once unless not `send`."""
        await self._fetch(
            """
            INSERT INTO intent (local_id, label, source, deadline_at, music_task_id, audio_id,
                                author, domain_name, application_url, send_at, created_at)
            VALUES (:local_id, :label, :source, :deadline_at, :music_task_id, :audio_id,
                    :author, :domain_name, :application_url, :send_at, :now)
            """,
            {
                "local_id": local_id,
                "label": label,
                "source": source,
                "deadline_at": deadline_at,
                "music_task_id": wish.music_task_id,
                "audio_id": wish.audio_id,
                "author": wish.author,
                "domain_name": wish.domain_name,
                "application_url": wish.application_url,
                "send_at": now if send else None,
                "now": now,
            },
        )
        return await self._one("local_id = ?", local_id)

    async def due(self, now: int, *, first: bool) -> Intent | None:
        """Return the oldest that is to be sent, for the first time or again."""
        found = await self._many(
            """
            send_at <= ? AND (tries = 0) = ?
            AND EXISTS (SELECT 1 FROM task WHERE id = submission.task
                        AND state = 'expected' AND forgotten_at IS NULL)
            ORDER BY id LIMIT 1
            """,
            (now, first),
        )
        return found[0] if found else None

    async def next_due(self, now: int) -> int | None:
        """Return when, after `now`, the next one is to be sent."""
        rows = await self._fetch(
            """
            SELECT min(send_at) FROM submission CROSS JOIN task ON task.id = submission.task
            WHERE send_at > ? AND state = 'expected' AND forgotten_at IS NULL
            """,
            (now,),
        )
        at: int | None = rows[0][0]
        return at

    async def of_task(self, row: int) -> Intent | None:
        """Return the newest intent of a task's row."""
        found = await self._many("task = ? ORDER BY id DESC LIMIT 1", (row,))
        return found[0] if found else None

    async def begin(self, intent: Intent) -> Intent | None:
        """Mark one as on its way, before the call; None when it is not due any more."""
        rows = await self._fetch(
            f"""
            UPDATE submission SET calling = 1, send_at = NULL, tries = tries + 1
            WHERE id = ? AND send_at IS NOT NULL RETURNING {_COLUMNS}
            """,
            (intent.id,),
        )
        return Intent(*rows[0]) if rows else None

    async def name(
        self, intent: Intent, task_id: str, *, ask_at: int | None, now: int, tells: bool
    ) -> None:
        """Give its task the provider's id; `tells`: the application is called when it ends."""
        await self._fetch(
            """
            UPDATE intent SET task_id = :task_id, send_at = :ask_at, settled_at = :now,
                              application_url = iif(:tells, application_url, NULL)
            WHERE id = :id
            """,
            {"task_id": task_id, "ask_at": ask_at, "now": now, "tells": tells, "id": intent.id},
        )

    async def postpone(
        self, intent: Intent, send_at: int | None, *, doubts: int, unheard: int
    ) -> None:
        """Send one again at `send_at`; None: not before a person asks for it."""
        await self._fetch(
            """
            UPDATE submission SET calling = 0, send_at = ?, doubts = ?, unheard = ?
            WHERE id = ?
            """,
            (send_at, doubts, unheard, intent.id),
        )

    async def twin(self, intent: Intent) -> str | None:
        """Return the id of a video with the same words that is made or being made, or None."""
        rows = await self._fetch(
            """
            SELECT task.task_id FROM submission JOIN task ON task.id = submission.task
            WHERE submission.music_task_id = ? AND submission.audio_id = ?
                  AND author IS ? AND domain_name IS ? AND submission.id <> ?
                  AND task.task_id <> submission.local_id
                  AND task.state NOT IN ('failed', 'lost') AND task.forgotten_at IS NULL
            ORDER BY submission.id DESC LIMIT 1
            """,
            (
                *(intent.music_task_id, intent.audio_id, intent.author, intent.domain_name),
                intent.id,
            ),
        )
        return rows[0][0] if rows else None

    async def open_twin(self, wish: Wish) -> Intent | None:
        """Return an open intent of the same wish, which a second request is to join."""
        found = await self._many(
            """
            music_task_id = ? AND audio_id = ? AND author IS ? AND domain_name IS ?
            AND settled_at IS NULL
            AND EXISTS (SELECT 1 FROM task WHERE id = submission.task AND task_id = local_id
                        AND state = 'expected' AND forgotten_at IS NULL)
            ORDER BY id DESC LIMIT 1
            """,
            (wish.music_task_id, wish.audio_id, wish.author, wish.domain_name),
        )
        return found[0] if found else None

    async def is_of_another(self, intent: Intent, task_id: str) -> bool:
        """Return whether a task was submitted here for other tracks only."""
        rows = await self._fetch(
            """
            SELECT count(*), sum(music_task_id = ? AND audio_id = ?)
            FROM submission WHERE task = (SELECT id FROM task WHERE task_id = ?)
            """,
            (intent.music_task_id, intent.audio_id, task_id),
        )
        return bool(rows[0][0] and not rows[0][1])

    async def withdraw_unsent(self, now: int) -> None:
        """Fail the wishes of applications that no call was made for: their askers are gone."""
        await self._fetch(
            """
            UPDATE task SET previous_state = state, cause = 'declined',
                   state = (SELECT after FROM transition
                            WHERE cause = 'declined' AND before = task.state),
                   reason = 'provider_error', message = 'the daemon stopped before it was sent',
                   fetch_at = NULL, updated_at = ?, version = version + 1
            WHERE source = 'gateway' AND state = 'expected' AND id IN
                  (SELECT task FROM submission INDEXED BY submission_unsent
                   WHERE settled_at IS NULL AND tries = 0)
                  AND EXISTS (SELECT 1 FROM submission WHERE task = task.id
                              AND local_id = task.task_id AND tries = 0 AND settled_at IS NULL)
            """,
            (now,),
        )

    async def reopen(self, intent: Intent, now: int) -> None:
        """Send one again, with new patience: a person asks for it.

        Nothing happens while it is on its way, or when its task got the provider's id meanwhile.
        """
        await self._fetch(
            """
            UPDATE submission SET send_at = ?, doubts = 0, settled_at = NULL
            WHERE id = ? AND calling = 0
                  AND EXISTS (SELECT 1 FROM task WHERE id = submission.task AND task_id = local_id)
            """,
            (now, intent.id),
        )

    async def recover(self, now: int) -> None:
        """Doubt what was on its way when the last process ended."""
        await self._fetch(
            """
            UPDATE submission SET calling = 0, doubts = doubts + 1, unheard = unheard + 1,
                                  send_at = iif(doubts + 1 < ?, ?, NULL)
            WHERE calling = 1
            """,
            (DOUBTS_LIMIT, now),
        )

    async def _one(self, where: str, value: object) -> Intent:
        return (await self._many(where, (value,)))[0]

    async def _many(self, where: str, parameters: object) -> list[Intent]:
        rows = await self._fetch(f"SELECT {_COLUMNS} FROM submission WHERE {where}", parameters)
        return [Intent(*row) for row in rows]
