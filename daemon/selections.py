"""What the ledger is asked for again and again: what is due, what ends, what people look at.

Rule: what is asked costs what is answered, not what the ledger holds. Each statement names its
index where SQLite, which keeps no statistics here, might take another one; a query whose index is
gone fails in every test instead of growing slow with the years.

An order over several indexes is a UNION ALL with one ORDER BY: SQLite merges what comes in order
already, and reads no further than the limit.
"""

from collections.abc import Sequence
from typing import Final

from daemon.statements import ALL, STEPPING

OPEN: Final = "state IN ('expected', 'wanted', 'verified')"
"""States without a file in place; the words of the index `task_open`."""
NEWEST_ID: Final = (1 << 63) - 1

RELEASE_CLAIMS: Final = """
UPDATE task INDEXED BY task_claimed SET claimed_at = NULL WHERE claimed_at IS NOT NULL
"""

_NO_WISH: Final = "NOT EXISTS (SELECT 1 FROM submission WHERE local_id = task_id)"

ASK_ABOUT_ALL: Final = f"""
UPDATE task SET ask_at = :now, asked_since = :now, version = version + 1
WHERE {_NO_WISH} AND id IN (
    SELECT id FROM task INDEXED BY task_unasked
    WHERE ask_at IS NULL AND forgotten_at IS NULL AND state IN ('expected', 'wanted')
    UNION ALL
    SELECT id FROM task INDEXED BY task_failed_unasked
    WHERE ask_at IS NULL AND forgotten_at IS NULL AND state = 'failed' AND answered_at IS NULL
          AND deadline_at > :now)
"""

_STEP: Final = f"{STEPPING} AND fetch_at <= :now AND claimed_at IS NULL"


def due_downloads(*, freshest: bool, failing: bool) -> str:
    """Return the query for download steps that are due: what is `failing`, or everything else.

    What failed before and has its deadline near is with everything else.
    """
    index, order = (
        ("task_to_fetch_by_age", "id DESC")
        if freshest
        else ("task_to_fetch_by_deadline", "deadline_at, id")
    )
    select = f"SELECT id, task_id, deadline_at, {int(failing)} FROM task INDEXED BY {index}"
    lanes = (
        [f"(failures > 0) = 1 AND deadline_at > :near AND {_STEP}"]
        if failing
        else [
            f"(failures > 0) = 0 AND {_STEP}",
            f"(failures > 0) = 1 AND deadline_at <= :near AND {_STEP}",
        ]
    )
    found = " UNION ALL ".join(f"{select} WHERE {lane}" for lane in lanes)
    return f"{found} ORDER BY {order} LIMIT :limit"


_QUESTION: Final = "ask_at <= ? AND forgotten_at IS NULL"

DUE_QUESTIONS: Final = {
    "longest": f"""
    SELECT {ALL} FROM task INDEXED BY task_to_ask WHERE {_QUESTION} ORDER BY ask_at LIMIT ?
    """,
    "freshest": f"""
    SELECT {ALL} FROM task INDEXED BY task_to_ask_first
    WHERE ask_pause_ms = 0 AND {_QUESTION} ORDER BY ask_at DESC LIMIT ?
    """,
    "known": f"""
    SELECT {ALL} FROM task INDEXED BY task_to_ask_known
    WHERE source <> 'callback' AND {_QUESTION} ORDER BY ask_at LIMIT ?
    """,
}

NEXT_DUE: Final = f"""
SELECT (SELECT ask_at FROM task INDEXED BY task_to_ask
        WHERE ask_at > :now AND forgotten_at IS NULL ORDER BY ask_at LIMIT 1),
       (SELECT fetch_at FROM task INDEXED BY task_to_fetch
        WHERE {STEPPING} AND claimed_at IS NULL AND fetch_at > :now ORDER BY fetch_at LIMIT 1)
"""

_EXPECTED: Final = "state = 'expected' AND forgotten_at IS NULL"

UNANSWERED: Final = f"""
SELECT {ALL} FROM task WHERE id IN (
    SELECT id FROM task INDEXED BY task_linked
    WHERE {_EXPECTED} AND link IS NOT NULL AND unanswered_since <= :cutoff
    UNION ALL
    SELECT id FROM task INDEXED BY task_hinted
    WHERE {_EXPECTED} AND hint_at <= :cutoff
          AND (unanswered_since <= :cutoff OR :silent AND
               (ask_at <= :cutoff OR coalesce(answered_at, 0) < hint_at)))
LIMIT :limit
"""

ENDING: Final = f"""
SELECT {ALL} FROM task INDEXED BY task_open
WHERE {OPEN} AND forgotten_at IS NULL AND deadline_at <= :before
      AND (deadline_at, id) > (:after_deadline, :after_id)
ORDER BY deadline_at, id LIMIT :limit
"""

# Only after a restoration: one look at every row.
OBTAINABLE: Final = f"""
SELECT {ALL} FROM task NOT INDEXED
WHERE id < :before_id AND state IN ('stored', 'done') AND deadline_at > :now
ORDER BY id DESC LIMIT :limit
"""

_OLDEST: Final = " UNION ALL ".join(
    f"""
    SELECT * FROM (SELECT id, created_at FROM task INDEXED BY task_by_state
                   WHERE state = '{state}' AND forgotten_at IS NULL ORDER BY id LIMIT 1)
    """
    for state in ("expected", "wanted", "verified")
)

OUTLOOK: Final = f"""
SELECT (SELECT min(created_at) FROM ({_OLDEST})),
       (SELECT deadline_at FROM task INDEXED BY task_open
        WHERE {OPEN} AND forgotten_at IS NULL ORDER BY deadline_at, id LIMIT 1),
       (SELECT count(*) FROM quarantine INDEXED BY quarantine_open WHERE forgotten_at IS NULL)
"""

# A submit that only a person can bring on stands with what needs a person.
_STUCK: Final = "task_id GLOB 'submit-*' AND fetch_at IS NULL AND state = 'expected'"

MOVING: Final = f"""
SELECT {ALL} FROM task INDEXED BY task_open
WHERE {OPEN} AND forgotten_at IS NULL AND NOT ({_STUCK}) ORDER BY deadline_at, id LIMIT ?
"""

STUCK: Final = f"""
SELECT {ALL} FROM task
WHERE id IN (SELECT task FROM submission INDEXED BY submission_unsent WHERE settled_at IS NULL)
      AND {_STUCK} AND forgotten_at IS NULL
ORDER BY id DESC LIMIT ?
"""

_ENDED: Final = "FROM task INDEXED BY task_by_state WHERE forgotten_at IS NULL AND"

_COUNTED: Final = """
FROM task INDEXED BY task_ended
WHERE forgotten_at IS NULL AND state IN ('failed', 'lost') AND"""
"""The words of the index: SQLite does not conclude them from one state."""

LOST: Final = f"SELECT {ALL} {_ENDED} state = 'lost' ORDER BY id DESC LIMIT ?"
UNKNOWN: Final = f"""
SELECT {ALL} {_ENDED} state = 'failed' AND reason = 'unknown_task' ORDER BY id DESC LIMIT ?
"""
REFUSED: Final = f"""
SELECT {ALL} {_ENDED} state = 'failed' AND reason IS NOT 'unknown_task' ORDER BY id DESC LIMIT ?
"""

NEWEST_STORED: Final = f"""
SELECT {ALL} FROM task INDEXED BY task_stored
WHERE stored_at IS NOT NULL AND state IN ('stored', 'done') ORDER BY stored_at DESC LIMIT ?
"""

UNSAFE: Final = f"""
SELECT (SELECT count(*) FROM task INDEXED BY task_open WHERE {OPEN} AND forgotten_at IS NULL),
       (SELECT count(*) FROM task
        WHERE id IN (SELECT task FROM submission INDEXED BY submission_unsent
                     WHERE settled_at IS NULL) AND {_STUCK} AND forgotten_at IS NULL),
       (SELECT count(*) {_COUNTED} state = 'lost'),
       (SELECT count(*) {_COUNTED} state = 'failed' AND reason = 'unknown_task'),
       (SELECT count(*) {_COUNTED} state = 'failed' AND reason IS NOT 'unknown_task'),
       (SELECT count(*) FROM quarantine INDEXED BY quarantine_open WHERE forgotten_at IS NULL)
"""

HELD_OPEN: Final = """
SELECT id, received_at, why, copies FROM quarantine
WHERE number IN (SELECT number FROM quarantine INDEXED BY quarantine_open
                 WHERE forgotten_at IS NULL ORDER BY number DESC LIMIT ?)
ORDER BY number DESC
"""

COUNTS: Final = "SELECT state, count(*) FROM task INDEXED BY task_by_state GROUP BY state"

# The rule of the verb `check`, whose callbacks in quarantine `OUTLOOK` counts.
STANDING: Final = f"""
SELECT (SELECT count(*) FROM task INDEXED BY task_open WHERE {OPEN} AND forgotten_at IS NULL)
       + (SELECT count(*) {_COUNTED} state = 'lost')
       + (SELECT count(*) {_COUNTED} state = 'failed' AND reason = 'unknown_task'),
       (SELECT task_id FROM task WHERE id = (
            SELECT id FROM (SELECT id, min(created_at) FROM ({_OLDEST})))),
       (SELECT task_id FROM task INDEXED BY task_open
        WHERE {OPEN} AND forgotten_at IS NULL ORDER BY deadline_at, id LIMIT 1)
"""

HISTORY: Final = """
SELECT at, before, after, cause, reason FROM history INDEXED BY history_of_row
WHERE task = (SELECT id FROM task WHERE task_id = ?) ORDER BY id
"""

HISTORIES: Final = """
SELECT task.task_id, at, before, after, history.cause, history.reason
FROM json_each(?) AS asked CROSS JOIN task ON task.task_id = asked.value
     CROSS JOIN history ON history.task = task.id
ORDER BY history.id
"""


def page(states: Sequence[str]) -> str:
    """Return the query for a page of tasks, the newest first; of all states when none is given."""
    if not states:
        return f"SELECT {ALL} FROM task WHERE id < :before_id ORDER BY id DESC LIMIT :limit"
    lanes = [
        f"SELECT {ALL} FROM task INDEXED BY task_by_state "
        f"WHERE state = :state{number} AND id < :before_id"
        for number in range(len(states))
    ]
    return f"{' UNION ALL '.join(lanes)} ORDER BY id DESC LIMIT :limit"
