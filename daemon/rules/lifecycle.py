"""What happens next? The states of a task, and the one table of moves between them.

Rule: a pair of cause and state that is not in `TRANSITIONS` is a bug, here and in the database:
the store looks every move up in this table, inside the statement that makes it.

A state says what is true. Who is busy with a task (the claim) is kept apart from it, so a restart
frees every task with one statement. A cause that finds nothing to change stands in the table as a
move to the same state, so any order and any duplication of messages ends in the same state.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """What is true of a task."""

    EXPECTED = "expected"
    """Known; there is no link that we trust."""
    WANTED = "wanted"
    """A link is known; bytes are missing."""
    VERIFIED = "verified"
    """Every byte is in the partial file and checked; the rename is pending."""
    STORED = "stored"
    """In place under its final name, durable; finishing steps are pending."""
    DONE = "done"
    """Finished."""
    FAILED = "failed"
    """The provider says that no video was made. Soft: evidence of success revives it."""
    LOST = "lost"
    """A video existed or may have existed, and can no longer be had. Soft too."""
    PRUNED = "pruned"
    """Removed by the retention policy; a late callback does not fetch it again."""


class Cause(StrEnum):
    """Why a task moved."""

    ADOPTED = "adopted"
    """Somebody told us the id of a task that was submitted elsewhere."""
    SUBMITTED = "submitted"
    """We asked the provider for it, or are about to."""
    HINTED = "hinted"
    """A callback came that proves nothing by itself: the question is due now."""
    LINKED = "linked"
    """Evidence of success that we trust, with a link."""
    DECLINED = "declined"
    """Evidence of failure that we trust, and no link was ever known."""
    UNKNOWN = "unknown"
    """The provider answered, often enough, that it does not know the task."""
    KNOWN = "known"
    """The provider knows a task after all that it had disowned."""
    UNANSWERED = "unanswered"
    """Nobody answered for so long that the link at hand is tried without confirmation."""
    LINK_REFUSED = "link_refused"
    """The link is dead: a fresh one is asked for."""
    FETCHED = "fetched"
    """All bytes are on disk and checked."""
    VANISHED = "vanished"
    """The verified bytes were gone before they were published."""
    PUBLISHED = "published"
    """The file has its final name, durably."""
    MISSING = "missing"
    """The finished file is not where the ledger says, and can still be fetched."""
    FINISHED = "finished"
    """Every finishing step ended."""
    EXPIRED = "expired"
    """The deadline passed and there is proof that no working link can be had."""
    REOPENED = "reopened"
    """A person asked for another try."""


def _unmoved(*states: State) -> dict[State | None, State]:
    return {state: state for state in states}


IN_PLACE = (State.VERIFIED, State.STORED, State.DONE, State.PRUNED)
"""States in which no byte is missing any more."""

TRANSITIONS: Mapping[Cause, Mapping[State | None, State]] = MappingProxyType(
    {
        Cause.ADOPTED: {None: State.EXPECTED, **_unmoved(*State)},
        Cause.SUBMITTED: {None: State.EXPECTED},
        Cause.HINTED: {None: State.EXPECTED, **_unmoved(*State)},
        Cause.LINKED: {
            None: State.WANTED,
            State.EXPECTED: State.WANTED,
            State.WANTED: State.WANTED,
            State.FAILED: State.WANTED,
            State.LOST: State.WANTED,
            **_unmoved(*IN_PLACE),
        },
        Cause.DECLINED: {
            None: State.FAILED,
            State.EXPECTED: State.FAILED,
            **_unmoved(State.WANTED, State.FAILED, State.LOST, *IN_PLACE),
        },
        Cause.UNKNOWN: {State.EXPECTED: State.FAILED},
        Cause.KNOWN: {State.FAILED: State.EXPECTED},
        Cause.UNANSWERED: {State.EXPECTED: State.WANTED},
        Cause.LINK_REFUSED: {State.WANTED: State.EXPECTED},
        Cause.FETCHED: {State.WANTED: State.VERIFIED},
        Cause.VANISHED: {State.VERIFIED: State.WANTED},
        Cause.PUBLISHED: {State.VERIFIED: State.STORED},
        Cause.MISSING: {State.STORED: State.EXPECTED, State.DONE: State.EXPECTED},
        Cause.FINISHED: {State.STORED: State.DONE},
        Cause.EXPIRED: {State.EXPECTED: State.LOST, State.WANTED: State.LOST},
        Cause.REOPENED: {
            State.FAILED: State.EXPECTED,
            State.LOST: State.EXPECTED,
            State.PRUNED: State.EXPECTED,
            **_unmoved(State.EXPECTED, State.WANTED, State.VERIFIED, State.STORED, State.DONE),
        },
    }
)
"""Cause -> state before (None: the task was not known) -> state after."""

ASKING = (State.EXPECTED, State.FAILED, State.LOST)
"""States whose next attempt is a question; in all others it is a download step."""


class IllegalTransition(Exception):
    """A move that is not in the table: a bug, never caught."""


def move(state: State | None, cause: Cause) -> State:
    """Return the state after `cause`.

    Raises:
        IllegalTransition: the table has no such move.
    """
    try:
        return TRANSITIONS[cause][state]
    except KeyError:
        raise IllegalTransition(f"{cause} in {state or 'no state'}") from None


def draw_table() -> str:
    """Return the table as the Markdown that stands in `docs/lifecycle.md`."""
    columns = (None, *State)
    head = ["cause", *("(new)" if state is None else state.value for state in columns)]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for cause, moves in TRANSITIONS.items():
        cells = [_cell(moves.get(state), state) for state in columns]
        lines.append(f"| {' | '.join([f'`{cause.value}`', *cells])} |")
    return "\n".join(lines) + "\n"


def _cell(after: State | None, before: State | None) -> str:
    if after is None:
        return ""
    return "=" if after is before else after.value
