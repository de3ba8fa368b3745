"""Is our clock right? Deadlines are kept by it, and nothing ends because of it alone.

Rule: durations are monotonic, deadlines are wall time, and a jump of the one against the other is
noticed. After it nothing expires for six hours, nor while the provider's answers carry another
date. A machine that was suspended is no jump: the boot clock went on.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Final

import structlog

from daemon.rules.schedule import HOUR, MINUTE, PROOF_APART_MS
from daemon.store import StoreFailed, survive

JUMP_MS: Final = MINUTE
WRONG_MS: Final = HOUR
LOOK_SECONDS: Final = 10.0

_log = structlog.get_logger()


def boot_clock() -> int:
    """Return milliseconds since the machine started, those in which it was suspended included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Clock:
    """What is known about the wall clock `now`, in milliseconds since 1970."""

    def __init__(self, now: Callable[[], int], boot: Callable[[], int] = boot_clock) -> None:
        self._now = now
        self._boot = boot
        self._began = boot()
        self._ahead = now() - boot()
        self._jumped_at: int | None = None
        self._is_wrong = False
        self.off_ms: int | None = None
        """By how much we were ahead of the provider at its last answer."""

    def is_sane(self) -> bool:
        """Return whether something may end by this clock."""
        if self._is_wrong:
            return False
        return self._jumped_at is None or self._boot() - self._jumped_at >= PROOF_APART_MS

    def up_ms(self) -> int:
        """Return for how long this process could have noticed a jump."""
        return self._boot() - self._began

    def look(self) -> int:
        """Return by how many milliseconds the clock was set since the last look; 0: it was not."""
        before, self._ahead = self._ahead, self._now() - self._boot()
        jump = self._ahead - before
        if abs(jump) <= JUMP_MS:
            return 0
        self._jumped_at = self._boot()
        _log.warning("clock.jumped", seconds=round(jump / 1000))
        return jump

    def compare(self, date: str | None) -> None:
        """Compare with the date of an answer of the provider's (RFC 9110, section 6.6.1)."""
        if date is None:
            return
        try:
            theirs = int(parsedate_to_datetime(date).timestamp() * 1000)
        except (ValueError, OverflowError):
            return
        off = self.off_ms = self._now() - theirs
        was_wrong, self._is_wrong = self._is_wrong, abs(off) > WRONG_MS
        if self._is_wrong and not was_wrong:
            _log.error(
                "clock.wrong",
                seconds=round(off / 1000),
                message="this clock and the provider's differ: set it, nothing expires meanwhile",
            )
        elif was_wrong and not self._is_wrong:
            _log.info("clock.right")


async def watch_clock(
    clock: Clock, mend: Callable[[], Awaitable[None]], look_seconds: float = LOOK_SECONDS
) -> None:
    """Look for ever; `mend` is called after each jump, for what was due then may lie far ahead."""
    waiting = False
    while True:
        waiting = bool(clock.look()) or waiting
        if waiting:
            try:
                await mend()
                waiting = False
            except StoreFailed as failure:
                survive(failure)
        await asyncio.sleep(look_seconds)
