"""The tables of the ledger, as numbered steps that only ever grow.

Rule: a step that was released is never edited. Each is a list of statements, for a text that is
split at semicolons tears triggers apart.
"""

from daemon.news import SUBSCRIPTIONS

_TASK_STATES = "'expected', 'wanted', 'verified', 'stored', 'done', 'failed', 'lost', 'pruned'"
_REASONS = (
    "'bad_request', 'unauthorized', 'out_of_credits', 'source_audio', 'provider_error', "
    "'create_failed', 'generate_failed', 'unknown_task', 'link_refused', 'address_refused', "
    "'too_large', 'not_a_video', 'truncated', 'damaged', 'stalled', 'network', 'disk', "
    "'deadline', 'finish'"
)

_FIRST = (
    f"""
    CREATE TABLE task (
        id INTEGER PRIMARY KEY,
        task_id TEXT NOT NULL UNIQUE,
        label TEXT,
        state TEXT NOT NULL CHECK (state IN ({_TASK_STATES})),
        previous_state TEXT,
        cause TEXT NOT NULL,
        version INTEGER NOT NULL DEFAULT 1,
        reason TEXT CHECK (reason IN ({_REASONS})),
        message TEXT,
        provider_code INTEGER,
        source TEXT NOT NULL
            CHECK (source IN ('callback', 'submit', 'track', 'gateway', 'adopt')),
        music_task_id TEXT,
        audio_id TEXT,
        link TEXT,
        hint TEXT,
        hint_at INTEGER,
        unconfirmed INTEGER NOT NULL DEFAULT 0,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        stored_at INTEGER,
        deadline_at INTEGER NOT NULL,
        forgotten_at INTEGER,
        ask_at INTEGER,
        asked_since INTEGER,
        ask_pause_ms INTEGER NOT NULL DEFAULT 0,
        answered_at INTEGER,
        unanswered_since INTEGER,
        denials INTEGER NOT NULL DEFAULT 0,
        denied_at INTEGER,
        questions INTEGER NOT NULL DEFAULT 0,
        questioned_at INTEGER,
        fetch_at INTEGER,
        claimed_at INTEGER,
        attempts INTEGER NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0,
        refusals INTEGER NOT NULL DEFAULT 0,
        refusal_proofs INTEGER NOT NULL DEFAULT 0,
        refusal_proved_at INTEGER,
        spoils INTEGER NOT NULL DEFAULT 0,
        spoiled_sha256 TEXT,
        callbacks INTEGER NOT NULL DEFAULT 0,
        size_bytes INTEGER,
        spans TEXT NOT NULL DEFAULT '',
        validator TEXT,
        sha256 TEXT,
        path TEXT UNIQUE,
        duration_seconds REAL,
        width INTEGER,
        height INTEGER,
        video_codec TEXT,
        audio_codec TEXT,
        audio_sample_rate INTEGER,
        finish_error TEXT,
        CHECK (state <> 'wanted' OR (link IS NOT NULL AND fetch_at IS NOT NULL)),
        CHECK (state NOT IN ('verified', 'stored', 'done')
               OR (size_bytes IS NOT NULL AND sha256 IS NOT NULL AND path IS NOT NULL)),
        CHECK (state NOT IN ('stored', 'done') OR stored_at IS NOT NULL)
    ) STRICT
    """,
    "CREATE INDEX task_by_state ON task (state, id)",
    "CREATE INDEX task_to_ask ON task (ask_at) WHERE ask_at IS NOT NULL",
    """
    CREATE INDEX task_to_fetch ON task (fetch_at)
    WHERE state IN ('wanted', 'verified', 'stored')
    """,
    """
    CREATE TABLE history (
        id INTEGER PRIMARY KEY,
        task_id TEXT NOT NULL,
        at INTEGER NOT NULL,
        before TEXT,
        after TEXT NOT NULL,
        cause TEXT NOT NULL,
        reason TEXT
    ) STRICT
    """,
    "CREATE INDEX history_of_task ON history (task_id, id)",
    """
    CREATE TRIGGER task_adopted AFTER INSERT ON task BEGIN
        INSERT INTO history (task_id, at, before, after, cause, reason)
        VALUES (new.task_id, new.updated_at, NULL, new.state, new.cause, new.reason);
    END
    """,
    """
    CREATE TRIGGER task_moved AFTER UPDATE OF state ON task WHEN old.state <> new.state BEGIN
        INSERT INTO history (task_id, at, before, after, cause, reason)
        VALUES (new.task_id, new.updated_at, old.state, new.state, new.cause, new.reason);
    END
    """,
    """
    CREATE TABLE quarantine (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        received_at INTEGER NOT NULL,
        why TEXT NOT NULL,
        remote TEXT,
        content_type TEXT,
        sha256 TEXT NOT NULL UNIQUE,
        body BLOB NOT NULL,
        copies INTEGER NOT NULL DEFAULT 1,
        forgotten_at INTEGER
    ) STRICT
    """,
)

# What the application behind the gateway is told: the facts as they were at that moment.
_TELL = """
INSERT INTO outbox (id, target, type, task_id, reason, link, path, sha256, created_at, due_at)
SELECT lower(hex(randomblob(16))), submission.application_url, 'task.' || task.state, task.task_id,
       task.reason, task.link, task.path, task.sha256, task.updated_at, task.updated_at
FROM task JOIN submission ON submission.task = task.id
WHERE submission.application_url IS NOT NULL AND submission.settled_at IS NOT NULL
      AND task.task_id <> submission.local_id
      AND task.state IN ('stored', 'done', 'failed', 'lost')
"""

# The newest news replace older ones that were not heard yet: the provider's shape has no time.
_FORGET_OLDER = """
DELETE FROM outbox WHERE due_at IS NOT NULL AND (task_id, target) IN
    (SELECT task.task_id, submission.application_url
     FROM task JOIN submission ON submission.task = task.id WHERE {which})
"""

_SECOND = (
    "ALTER TABLE task ADD COLUMN fresh_link TEXT",
    """
    CREATE TABLE submission (
        id INTEGER PRIMARY KEY,
        task INTEGER NOT NULL,
        local_id TEXT NOT NULL UNIQUE,
        music_task_id TEXT NOT NULL,
        audio_id TEXT NOT NULL,
        author TEXT,
        domain_name TEXT,
        application_url TEXT,
        send_at INTEGER,
        calling INTEGER NOT NULL DEFAULT 0,
        doubts INTEGER NOT NULL DEFAULT 0,
        unheard INTEGER NOT NULL DEFAULT 0,
        tries INTEGER NOT NULL DEFAULT 0,
        created_at INTEGER NOT NULL,
        settled_at INTEGER
    ) STRICT
    """,
    "CREATE INDEX submission_of_task ON submission (task)",
    "CREATE INDEX submission_of_track ON submission (music_task_id, audio_id)",
    "CREATE INDEX submission_to_send ON submission (send_at) WHERE send_at IS NOT NULL",
    "CREATE INDEX submission_on_its_way ON submission (calling) WHERE calling = 1",
    """
    CREATE TABLE outbox (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        target TEXT NOT NULL,
        type TEXT NOT NULL,
        task_id TEXT NOT NULL,
        reason TEXT,
        link TEXT,
        path TEXT,
        sha256 TEXT,
        created_at INTEGER NOT NULL,
        due_at INTEGER,
        tries INTEGER NOT NULL DEFAULT 0,
        error TEXT
    ) STRICT
    """,
    "CREATE INDEX outbox_of_task ON outbox (task_id)",
    "CREATE INDEX outbox_to_send ON outbox (due_at) WHERE due_at IS NOT NULL",
    """
    CREATE TABLE balance (
        at INTEGER PRIMARY KEY,
        credits REAL NOT NULL
    ) STRICT
    """,
    # Two inserts in one statement: the task, and what is asked of the provider for it.
    """
    CREATE VIEW intent AS
    SELECT task.task_id, task.label, task.source, task.deadline_at, submission.*
    FROM task JOIN submission ON submission.task = task.id
    """,
    """
    CREATE TRIGGER intent_recorded INSTEAD OF INSERT ON intent BEGIN
        INSERT INTO task (task_id, label, state, cause, source, music_task_id, audio_id,
                          created_at, updated_at, deadline_at, fetch_at)
        VALUES (new.local_id, new.label, 'expected', 'submitted', new.source, new.music_task_id,
                new.audio_id, new.created_at, new.created_at, new.deadline_at, new.send_at);
        INSERT INTO submission (task, local_id, music_task_id, audio_id, author, domain_name,
                                application_url, send_at, created_at)
        SELECT id, new.local_id, new.music_task_id, new.audio_id, new.author, new.domain_name,
               new.application_url, new.send_at, new.created_at
        FROM task WHERE task_id = new.local_id;
    END
    """,
    # The provider's id takes the place of the local one. When its callback was faster than its
    # answer, there is a row of that id already: it knows more, and takes over what the intent knew.
    f"""
    CREATE TRIGGER intent_named INSTEAD OF UPDATE OF task_id ON intent BEGIN
        UPDATE history SET task_id = new.task_id WHERE task_id = old.task_id;
        UPDATE task SET
            label = COALESCE(label, old.label),
            music_task_id = COALESCE(music_task_id, old.music_task_id),
            audio_id = COALESCE(audio_id, old.audio_id),
            source = CASE source WHEN 'callback' THEN old.source ELSE source END,
            ask_at = iif(forgotten_at IS NULL, ask_at, new.send_at),
            asked_since = iif(forgotten_at IS NULL, asked_since, new.settled_at),
            forgotten_at = NULL,
            version = version + 1
        WHERE task_id = new.task_id;
        UPDATE submission SET
            task = COALESCE((SELECT id FROM task WHERE task_id = new.task_id), old.task),
            application_url = new.application_url,
            calling = 0, send_at = NULL, settled_at = new.settled_at
        WHERE id = old.id;
        DELETE FROM task
        WHERE id = old.task AND EXISTS
            (SELECT 1 FROM task WHERE task_id = new.task_id AND id <> old.task);
        UPDATE task SET
            task_id = new.task_id, ask_at = new.send_at, asked_since = new.settled_at,
            ask_pause_ms = 0, fetch_at = NULL, reason = NULL, message = NULL, forgotten_at = NULL,
            updated_at = new.settled_at, version = version + 1
        WHERE id = old.task;
        {_FORGET_OLDER.format(which="submission.id = old.id")};
        {_TELL} AND submission.id = old.id;
    END
    """,
    # After a call or a crash: what the outside sees as the next attempt is when it is sent again.
    """
    CREATE TRIGGER intent_postponed AFTER UPDATE OF calling ON submission
    WHEN old.calling = 1 AND new.calling = 0 AND new.settled_at IS NULL BEGIN
        UPDATE task SET fetch_at = new.send_at, version = version + 1
        WHERE id = new.task AND task_id = new.local_id;
    END
    """,
    # A refusal fails the task and settles its intent in one transaction.
    """
    CREATE TRIGGER intent_refused AFTER UPDATE OF state ON task WHEN new.state = 'failed' BEGIN
        UPDATE submission SET calling = 0, send_at = NULL, settled_at = new.updated_at
        WHERE task = new.id AND settled_at IS NULL;
    END
    """,
    f"""
    CREATE TRIGGER task_told AFTER UPDATE OF state ON task
    WHEN old.state <> new.state AND new.state <> 'done' AND EXISTS
         (SELECT 1 FROM submission WHERE task = new.id AND application_url IS NOT NULL) BEGIN
        {_FORGET_OLDER.format(which="task.id = new.id")};
        {_TELL} AND task.id = new.id;
    END
    """,
)

_THIRD = (
    "ALTER TABLE task ADD COLUMN warnings INTEGER NOT NULL DEFAULT 0",
    """
    CREATE INDEX task_to_ask_first ON task (ask_at)
    WHERE ask_at IS NOT NULL AND ask_pause_ms = 0
    """,
)

_FOURTH = (
    """
    CREATE TABLE file_host (
        name TEXT PRIMARY KEY,
        first_seen_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE INDEX task_to_ask_known ON task (ask_at)
    WHERE ask_at IS NOT NULL AND source <> 'callback'
    """,
)

# By the number of its row: ids are random, and in an index of a million of them each callback costs
# a page of its own in the log.
_FIFTH = (
    "DROP TRIGGER task_adopted",
    "DROP TRIGGER task_moved",
    "DROP TRIGGER intent_named",
    """
    CREATE TABLE history_by_row (
        id INTEGER PRIMARY KEY,
        task INTEGER NOT NULL,
        at INTEGER NOT NULL,
        before TEXT,
        after TEXT NOT NULL,
        cause TEXT NOT NULL,
        reason TEXT
    ) STRICT
    """,
    # Before its rows: it is made of them in memory otherwise.
    "CREATE INDEX history_of_row ON history_by_row (task)",
    """
    INSERT INTO history_by_row (id, task, at, before, after, cause, reason)
    SELECT history.id, task.id, at, before, after, history.cause, history.reason
    FROM history CROSS JOIN task ON task.task_id = history.task_id ORDER BY history.id
    """,
    "DROP TABLE history",
    "ALTER TABLE history_by_row RENAME TO history",
    """
    CREATE TRIGGER task_adopted AFTER INSERT ON task BEGIN
        INSERT INTO history (task, at, before, after, cause, reason)
        VALUES (new.id, new.updated_at, NULL, new.state, new.cause, new.reason);
    END
    """,
    """
    CREATE TRIGGER task_moved AFTER UPDATE OF state ON task WHEN old.state <> new.state BEGIN
        INSERT INTO history (task, at, before, after, cause, reason)
        VALUES (new.id, new.updated_at, old.state, new.state, new.cause, new.reason);
    END
    """,
    # As before, but for the history: it follows its row, and moves only where two rows become one.
    f"""
    CREATE TRIGGER intent_named INSTEAD OF UPDATE OF task_id ON intent BEGIN
        UPDATE history SET task = (SELECT id FROM task WHERE task_id = new.task_id)
        WHERE task = old.task AND EXISTS (SELECT 1 FROM task WHERE task_id = new.task_id);
        UPDATE task SET
            label = COALESCE(label, old.label),
            music_task_id = COALESCE(music_task_id, old.music_task_id),
            audio_id = COALESCE(audio_id, old.audio_id),
            source = CASE source WHEN 'callback' THEN old.source ELSE source END,
            ask_at = iif(forgotten_at IS NULL, ask_at, new.send_at),
            asked_since = iif(forgotten_at IS NULL, asked_since, new.settled_at),
            forgotten_at = NULL,
            version = version + 1
        WHERE task_id = new.task_id;
        UPDATE submission SET
            task = COALESCE((SELECT id FROM task WHERE task_id = new.task_id), old.task),
            application_url = new.application_url,
            calling = 0, send_at = NULL, settled_at = new.settled_at
        WHERE id = old.id;
        DELETE FROM task
        WHERE id = old.task AND EXISTS
            (SELECT 1 FROM task WHERE task_id = new.task_id AND id <> old.task);
        UPDATE task SET
            task_id = new.task_id, ask_at = new.send_at, asked_since = new.settled_at,
            ask_pause_ms = 0, fetch_at = NULL, reason = NULL, message = NULL, forgotten_at = NULL,
            updated_at = new.settled_at, version = version + 1
        WHERE id = old.task;
        {_FORGET_OLDER.format(which="submission.id = old.id")};
        {_TELL} AND submission.id = old.id;
    END
    """,
    "CREATE INDEX task_claimed ON task (claimed_at) WHERE claimed_at IS NOT NULL",
    # In the order of the queue, with what decides whether a row is read at all.
    """
    CREATE INDEX task_to_fetch_by_deadline ON task (failures > 0, deadline_at, id, fetch_at)
    WHERE state IN ('wanted', 'verified', 'stored')
    """,
    """
    CREATE INDEX task_to_fetch_by_age ON task (failures > 0, id, fetch_at, deadline_at)
    WHERE state IN ('wanted', 'verified', 'stored')
    """,
    """
    CREATE INDEX task_open ON task (deadline_at, id)
    WHERE state IN ('expected', 'wanted', 'verified') AND forgotten_at IS NULL
    """,
    """
    CREATE INDEX task_unasked ON task (state)
    WHERE ask_at IS NULL AND forgotten_at IS NULL AND state IN ('expected', 'wanted')
    """,
    """
    CREATE INDEX task_failed_unasked ON task (deadline_at)
    WHERE ask_at IS NULL AND forgotten_at IS NULL AND state = 'failed' AND answered_at IS NULL
    """,
    """
    CREATE INDEX task_hinted ON task (hint_at)
    WHERE state = 'expected' AND forgotten_at IS NULL AND hint_at IS NOT NULL
    """,
    """
    CREATE INDEX task_linked ON task (unanswered_since)
    WHERE state = 'expected' AND forgotten_at IS NULL AND link IS NOT NULL
    """,
    "CREATE INDEX submission_unsent ON submission (tries, task) WHERE settled_at IS NULL",
    "CREATE INDEX quarantine_open ON quarantine (number) WHERE forgotten_at IS NULL",
)

_SIXTH = (
    # What came to the callback listener: a row for each hour and cause, however large a flood is.
    """
    CREATE TABLE tally (
        hour INTEGER NOT NULL,
        cause TEXT NOT NULL,
        count INTEGER NOT NULL,
        last_at INTEGER NOT NULL,
        remote TEXT,
        PRIMARY KEY (hour, cause)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE INDEX task_stored ON task (stored_at, state, size_bytes) WHERE stored_at IS NOT NULL
    """,
    """
    CREATE INDEX task_ended ON task (state, reason)
    WHERE forgotten_at IS NULL AND state IN ('failed', 'lost')
    """,
    *SUBSCRIPTIONS,
)

MIGRATIONS = (_FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH, _SIXTH)
"""`PRAGMA user_version` is the number of steps that a file has seen."""
