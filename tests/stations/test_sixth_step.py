"""A ledger of before keeps what it holds, and tells from then on what is to be told."""

import sqlite3  # noqa: TID251 - a ledger of an older program is made here
from pathlib import Path

from daemon.outbox import Message
from daemon.rules.lifecycle import Cause
from daemon.rules.verdict import Verdict
from daemon.schema import MIGRATIONS
from daemon.store import open_store

NOW = 1_790_000_000_000


def make_fifth(folder: Path) -> None:
    """Write a ledger of the fifth step, with what the gateway keeps for an application."""
    old = sqlite3.connect(folder / "ledger.sqlite3", isolation_level=None)
    try:
        for step in MIGRATIONS[:5]:
            for statement in step:
                old.execute(statement)
        old.execute("PRAGMA user_version = 5")
        old.execute(
            """
            INSERT INTO task (task_id, state, cause, source, created_at, updated_at, deadline_at)
            VALUES ('t', 'expected', 'adopted', 'gateway', 1, 1, 3)
            """
        )
        for number, due_at in ((1, 5), (2, None)):
            old.execute(
                """
                INSERT INTO outbox (id, target, type, task_id, reason, created_at, due_at, tries,
                                    error)
                VALUES (?, 'https://app.example/cb?x=1', 'task.failed', 't', 'network', 1, ?, 3,
                        'no answer')
                """,
                (f"id-{number}", due_at),
            )
    finally:
        old.close()


async def test_what_an_older_outbox_held_is_still_to_be_told(tmp_path: Path) -> None:
    """Column by column; what was given up is named, and a task that moves is told from now on."""
    make_fifth(tmp_path)
    async with open_store(tmp_path) as store:
        message = await store.outbox.next([])
        assert message == Message(
            number=1,
            id="id-1",
            target="https://app.example/cb?x=1",
            type="task.failed",
            task_id="t",
            reason="network",
            link=None,
            path=None,
            sha256=None,
            created_at=1,
            due_at=5,
            tries=3,
            error="no answer",
        )
        (lost,) = await store.outbox.undelivered()
        assert (lost.target, lost.count, lost.error) == (message.target, 1, "no answer")
        await store.outbox.subscribe([("task.failed", "notify:a")])
        assert await store.outbox.drop_others(["notify:a"]) == 0
        task = await store.task("t")
        assert task is not None
        await store.settle(task, NOW, lambda _: Verdict(Cause.DECLINED, {"reason": "network"}))
        told = await store.outbox.next([message.target])
        assert told is not None
        assert (told.target, told.type, told.created_at) == ("notify:a", "task.failed", NOW)
