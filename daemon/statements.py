"""The two statements that take news into the ledger: adoptions, and callbacks in batches.

Rule: what a callback does to a task is decided inside the statement, by the transition table and by
the row as it is at that moment; a decision made before could be about an older row.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from daemon.rules.task import COLUMNS, Received

Fetch: TypeAlias = Callable[[str, object], Awaitable[list[Any]]]
"""Runs one statement and returns its rows; raises StoreFailed when it did not commit."""

STEPPING: Final = "state IN ('wanted', 'verified', 'stored')"
"""States with a download step; the words of the index `task_to_fetch`."""
ALL: Final = ", ".join(COLUMNS)
_TOLD: Final = ", ".join(Received._fields)

ADOPT: Final = f"""
INSERT INTO task (task_id, label, state, cause, source, created_at, updated_at, deadline_at,
                  ask_at, asked_since)
SELECT COALESCE((SELECT task_id FROM intent WHERE local_id = value), value), :label,
       (SELECT after FROM transition WHERE cause = 'adopted' AND before = ''),
       'adopted', :source, :now, :now, :deadline_at, :ask_at, :now
FROM json_each(:ids) WHERE true
ON CONFLICT (task_id) DO UPDATE SET
    label = COALESCE(excluded.label, label),
    previous_state = state,
    -- A wish that has no id yet is sent, and never asked about.
    ask_at = iif(forgotten_at IS NULL OR task_id GLOB 'submit-*', ask_at, excluded.ask_at),
    asked_since = iif(forgotten_at IS NULL, asked_since, excluded.asked_since),
    forgotten_at = NULL,
    version = version + 1
RETURNING {ALL}
"""

# The effective cause: a failure that follows a success proves nothing, for evidence of success
# never goes down.
_EFFECT = """
CASE WHEN excluded.cause = 'declined' AND task.link IS NOT NULL THEN 'hinted'
     ELSE excluded.cause END
"""
# The link enters while bytes are missing; later it would only confuse.
_LINKS = "excluded.cause = 'linked' AND task.state IN ('expected', 'wanted', 'failed', 'lost')"
# What proved the old link dead says nothing of a new one, and a lost task is tried before it can be
# lost again.
_HOPES = f"{_LINKS} AND (link IS NOT excluded.link OR state = 'lost')"
_FAILS = f"{_EFFECT} = 'declined' AND task.state IN ('expected', 'failed')"
_ASKABLE = "task.state IN ('expected', 'wanted', 'failed', 'lost') OR unconfirmed"
# What somebody forgot is asked about again only when a callback names a film.
_REMEMBERS = "(forgotten_at IS NULL OR excluded.hint IS NOT NULL)"
_HINTS = f"{_EFFECT} = 'hinted' AND ({_ASKABLE}) AND {_REMEMBERS}"

RECEIVE: Final = f"""
INSERT INTO task (task_id, state, cause, source, created_at, updated_at, deadline_at, ask_at,
                  asked_since, link, fetch_at, hint, hint_at, reason, message, provider_code,
                  callbacks)
SELECT value ->> 0,
       (SELECT after FROM transition WHERE cause = value ->> 1 AND before = ''),
       value ->> 1, 'callback', value ->> 2, value ->> 2, value ->> 3, value ->> 4, value ->> 2,
       value ->> 5, iif(value ->> 5 IS NULL, NULL, value ->> 2),
       value ->> 6, iif(value ->> 6 IS NULL, NULL, value ->> 2),
       value ->> 7, value ->> 8, value ->> 9, 1
FROM json_each(?) WHERE true
ON CONFLICT (task_id) DO UPDATE SET
    callbacks = callbacks + 1,
    version = version + 1,
    updated_at = excluded.updated_at,
    previous_state = state,
    cause = {_EFFECT},
    state = (SELECT after FROM transition WHERE cause = {_EFFECT} AND before = task.state),
    link = CASE WHEN {_LINKS} THEN excluded.link ELSE link END,
    fetch_at = CASE WHEN {_LINKS} AND (state <> 'wanted' OR link <> excluded.link)
                    THEN excluded.updated_at ELSE fetch_at END,
    refusals = CASE WHEN {_HOPES} THEN 0 ELSE refusals END,
    refusal_proofs = CASE WHEN {_HOPES} THEN 0 ELSE refusal_proofs END,
    refusal_proved_at = CASE WHEN {_HOPES} THEN NULL ELSE refusal_proved_at END,
    fresh_link = CASE WHEN {_HOPES} THEN NULL ELSE fresh_link END,
    forgotten_at = CASE WHEN excluded.cause = 'linked' OR excluded.hint IS NOT NULL THEN NULL
                        ELSE forgotten_at END,
    hint = COALESCE(excluded.hint, hint),
    hint_at = CASE WHEN excluded.hint IS NOT NULL AND hint IS NOT excluded.hint
                   THEN excluded.hint_at ELSE hint_at END,
    -- A failure asks for no question, and takes away none that is due.
    ask_at = CASE WHEN {_HINTS} OR {_LINKS} THEN COALESCE(excluded.ask_at, ask_at)
                  WHEN {_FAILS} THEN NULL ELSE ask_at END,
    ask_pause_ms = CASE WHEN {_HINTS} THEN 0 ELSE ask_pause_ms END,
    asked_since = CASE WHEN {_HINTS} THEN excluded.updated_at ELSE asked_since END,
    reason = CASE WHEN {_FAILS} THEN excluded.reason
                  WHEN {_LINKS} AND state <> 'wanted' THEN NULL ELSE reason END,
    message = CASE WHEN {_FAILS} THEN excluded.message
                   WHEN {_LINKS} AND state <> 'wanted' THEN NULL ELSE message END,
    provider_code = CASE WHEN {_FAILS} THEN excluded.provider_code ELSE provider_code END
RETURNING {_TOLD}
"""
