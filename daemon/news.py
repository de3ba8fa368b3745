"""The triggers that keep events for `[[notify]]` in the transaction that makes them true.

Rule: texts for `schema` alone. A ledger without subscribers pays one look into an empty table, and
a URL never enters the ledger: a target is the key that `rules/target` makes of it.
"""

from typing import Final

from daemon.rules.target import PREFIX

_MOVED: Final = "new.state IN ('stored', 'done', 'failed', 'lost')"
# What the event is about stays as it was, whatever happens to the task before it is told.
_TELL: Final = """
    INSERT INTO outbox (id, target, type, task_id, reason, message, path, sha256, size_bytes,
                        created_at, due_at)
    SELECT lower(hex(randomblob(16))), key, event, new.task_id, new.reason, new.message,
           iif(new.stored_at IS NULL, NULL, new.path), new.sha256, new.size_bytes,
           new.updated_at, new.updated_at
    FROM subscriber WHERE event = {event};
"""
_TELL_STATE: Final = _TELL.format(event="'task.' || new.state")
_TELL_NEAR: Final = _TELL.format(event="'deadline.near'")
_TELL_FINISH: Final = _TELL.format(event="'finish.failed'")

SUBSCRIPTIONS: Final = (
    """
    CREATE TABLE subscriber (
        event TEXT NOT NULL,
        key TEXT NOT NULL,
        PRIMARY KEY (event, key)
    ) STRICT, WITHOUT ROWID
    """,
    "ALTER TABLE outbox ADD COLUMN message TEXT",
    "ALTER TABLE outbox ADD COLUMN size_bytes INTEGER",
    "ALTER TABLE outbox ADD COLUMN data TEXT",
    "CREATE INDEX outbox_given_up ON outbox (target) WHERE due_at IS NULL",
    # Of each target the next: nobody reads past all that waits for one that does not answer.
    f"""
    CREATE INDEX outbox_to_post ON outbox (due_at)
    WHERE due_at IS NOT NULL AND substr(target, 1, {len(PREFIX)}) <> '{PREFIX}'
    """,
    f"""
    CREATE INDEX outbox_to_tell ON outbox (target, due_at)
    WHERE due_at IS NOT NULL AND substr(target, 1, {len(PREFIX)}) = '{PREFIX}'
    """,
    f"CREATE TRIGGER news_adopted AFTER INSERT ON task WHEN {_MOVED} BEGIN {_TELL_STATE} END",
    f"""
    CREATE TRIGGER news_moved AFTER UPDATE OF state ON task
    WHEN old.state <> new.state AND {_MOVED} BEGIN {_TELL_STATE} END
    """,
    f"""
    CREATE TRIGGER news_near AFTER UPDATE OF warnings ON task
    WHEN new.warnings > old.warnings BEGIN {_TELL_NEAR} END
    """,
    f"""
    CREATE TRIGGER news_unfinished AFTER UPDATE OF finish_error ON task
    WHEN new.finish_error IS NOT NULL AND old.finish_error IS NULL BEGIN {_TELL_FINISH} END
    """,
)
"""Statements of the sixth step."""
