"""Counts every answer of the callback listener by its cause, and remembers test callbacks.

Rule: counting is an increment in memory, for an acknowledgement waits for nothing but its own
commit. What changed is written once a minute at most, and at a polite stop: a crash loses at most a
minute of counts, and never a callback.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple
from urllib.parse import unquote

from daemon.logs import mask
from daemon.rules.redaction import escape_control
from daemon.rules.schedule import HOUR, MINUTE
from daemon.store import Store, StoreFailed, survive
from daemon.tally import Tallied

WRITE_SECONDS: Final = 60.0
NOTES_LIMIT: Final = 256
"""Anybody may send the header of a test: the oldest are forgotten first."""


class Answered(StrEnum):
    """Why the listener answered as it did."""

    ACCEPTED = "accepted"
    """200: in the ledger."""
    TEST = "test"
    """A test callback of ours."""
    QUARANTINED = "quarantined"
    """200: the token is right, nobody can read it, and it is kept."""
    WRONG_PATH = "wrong_path"
    WRONG_TOKEN = "wrong_token"  # noqa: S105 - a cause, and no secret
    LIMITED = "limited"
    """429: too many wrong tokens."""
    WRONG_METHOD = "wrong_method"
    BAD_SIGNATURE = "bad_signature"
    ENCODED = "encoded"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    CUT_OFF = "cut_off"
    """The sender hung up in the middle of the body."""
    MALFORMED = "malformed"
    """No proper HTTP, or a demand in `Expect` that nobody knows."""
    CROWDED = "crowded"
    """Turned away without an answer: no room for another connection."""
    NOT_STORED = "not_stored"
    """503: the ledger did not commit."""


REFUSALS: Final = {
    Answered.BAD_SIGNATURE: 401,
    Answered.ENCODED: 415,
    Answered.TOO_LARGE: 413,
    Answered.TOO_SLOW: 408,
    Answered.CUT_OFF: 400,
    Answered.NOT_STORED: 503,
}
"""The HTTP status of what came with the right token and was not taken."""


class Note(NamedTuple):
    """What became of a test callback, and how it looked when it came."""

    at: int
    cause: str
    remote: str
    path: str
    """Without its last segment, where the token stands, and masked."""


class Turnstile:
    """Counts since the last writing; `now` is in milliseconds since 1970."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.totals: Counter[str] = Counter()
        """All answers since the start, by cause."""
        self._now = now
        self._fresh: dict[tuple[int, str], tuple[int, int, str]] = {}
        self._notes: OrderedDict[str, Note] = OrderedDict()
        self._cleaned_hour = 0

    def count(self, cause: str, remote: str) -> None:
        """Count one answer."""
        self.totals[cause] += 1
        at = self._now()
        key = (at // HOUR, cause)
        before = self._fresh.get(key)
        self._fresh[key] = (before[0] + 1 if before else 1, at, remote)

    def note(self, nonce: str, cause: str, remote: str, path: str) -> None:
        """Remember a test callback for a minute; `path` is as it was sent."""
        # A proxy may have put something behind the token, a slash for instance.
        shown = escape_control(mask(unquote(path.rpartition("/")[0])))[:200] or "/"
        self._notes[nonce] = Note(self._now(), cause, remote, shown)
        self._notes.move_to_end(nonce)
        while len(self._notes) > NOTES_LIMIT:
            self._notes.popitem(last=False)

    def find(self, nonce: str) -> Note | None:
        """Return what became of a test callback; None when none came in the last minute."""
        note = self._notes.get(nonce)
        return note if note is not None and self._now() - note.at <= MINUTE else None

    def take(self) -> list[Tallied]:
        """Return what was counted since the last time, and begin anew."""
        taken, self._fresh = self._fresh, {}
        return [
            Tallied(hour, cause, times, at, remote)
            for (hour, cause), (times, at, remote) in taken.items()
        ]

    async def write(self, store: Store) -> None:
        """Bring what was counted into the ledger.

        Raises:
            StoreFailed: it is still here, and comes with the next writing.
        """
        taken = self.take()
        if not taken:
            return
        try:
            await store.tally.add(taken)
        except StoreFailed:
            self._put_back(taken)
            raise
        hour = self._now() // HOUR
        if hour != self._cleaned_hour:
            await store.tally.delete_old(self._now())
            self._cleaned_hour = hour

    def _put_back(self, taken: list[Tallied]) -> None:
        for one in taken:
            times, at, remote = self._fresh.get((one.hour, one.cause), (0, 0, ""))
            newest = (at, remote) if at >= one.last_at else (one.last_at, one.remote or "")
            self._fresh[one.hour, one.cause] = (times + one.times, *newest)

    async def run(self, store: Store) -> None:
        """Write for ever, and once more at the end."""
        try:
            while True:
                await asyncio.sleep(WRITE_SECONDS)
                try:
                    await self.write(store)
                except StoreFailed as failure:
                    survive(failure)
        finally:
            try:
                await self.write(store)
            except StoreFailed:
                # They are only counts, and whoever stops does not wait for a disk.
                self.take()
