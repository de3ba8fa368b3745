"""The tables of the ledger, as numbered steps that only ever grow.

Rule: a step that was released is never edited. Each is a list of statements, for a text that is
split at semicolons tears triggers apart.
"""

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

MIGRATIONS = (_FIRST,)
"""`PRAGMA user_version` is the number of steps that a file has seen."""
