"""Tells systemd that we live, as long as that is true.

Rule: it is fed while the loop turns, the store commits and every loop beats. When it is not fed,
the stacks of all tasks and threads are in the log before systemd ends the process. Trouble outside
(a full disk, a silent provider, a hanging mount) never keeps it hungry: a restart cures nothing.
"""

import asyncio
import faulthandler
import sys
import time
import traceback
from typing import Any, Final

import structlog

from daemon.disk import Disk
from daemon.pulse import Pulse
from daemon.store import Store, StoreFailed, survive
from daemon.systemd import Notifier

REPORT_SECONDS: Final = 30.0
"""At most: the watchdog is fed at least four times in its time."""
COUNT_SECONDS: Final = 5.0
LAG_SECONDS: Final = 5.0
"""Waking up so much too late, everything here has stood still."""
DISK_SECONDS: Final = 60.0
"""A disk call that takes so long hangs, and with it whoever waits for it."""

_log = structlog.get_logger()


class Watchdog:
    """The report to systemd, and the watchdog where the unit has one."""

    def __init__(self, notifier: Notifier, store: Store, disk: Disk, pulse: Pulse) -> None:
        self._notifier = notifier
        self._store = store
        self._disk = disk
        self._pulse = pulse
        self._is_hungry = False

    async def run(self) -> None:
        """Report for ever."""
        limit = self._notifier.watchdog_seconds
        pause = min(REPORT_SECONDS, limit / 4) if limit else REPORT_SECONDS
        try:
            while True:
                # Armed anew with each meal only: who stays hungry is dumped, and then ended.
                if limit and not self._is_hungry:
                    # Written by a thread of its own, also when the loop does not turn any more.
                    faulthandler.dump_traceback_later(limit * 0.7, file=sys.stderr)
                self._feed(*await self._examine(limit / 4 if limit else None))
                began = time.monotonic()
                await asyncio.sleep(pause)
                lag = self._pulse.lag_seconds = time.monotonic() - began - pause
                if lag > LAG_SECONDS:
                    self._pulse.excuse(lag)
                    _log.warning("loop.blocked", seconds=round(lag, 1))
        finally:
            faulthandler.cancel_dump_traceback_later()

    async def _examine(self, store_seconds: float | None) -> tuple[str, list[str]]:
        """Return the status line, and who has stopped."""
        told, late = "", self._pulse.late()
        if self._notifier.is_heard:
            told = await self._count()
        if store_seconds is not None:
            try:
                async with asyncio.timeout(store_seconds):
                    if not await self._store.writable():
                        # A full disk is nothing that a restart would cure.
                        told = "the database did not commit"
            except TimeoutError:
                late = [*late, "store"]
        if self._disk.hanging_seconds() > DISK_SECONDS:
            late = [name for name in late if not name.startswith("worker ")]
        return told, late

    async def _count(self) -> str:
        """Return how it stands in a few words; a large ledger on a slow disk is not waited for."""
        try:
            async with asyncio.timeout(COUNT_SECONDS):
                counts = await self._store.counts()
        except TimeoutError:
            return "counting"
        except StoreFailed as failure:
            survive(failure)
            return str(failure)
        return ", ".join(f"{count} {state}" for state, count in counts.items() if count)

    def _feed(self, told: str, late: list[str]) -> None:
        if not late:
            self._notifier.tell(f"STATUS={told or 'no tasks yet'}", "WATCHDOG=1")
        elif not self._is_hungry:
            told = f"no progress of {', '.join(late)}: the watchdog is not fed"
            self._notifier.tell(f"STATUS={told}")
            _log.error("watchdog.hungry", message=told, stacks=_draw_stacks())
        self._is_hungry = bool(late)


def _draw_stacks() -> dict[str, list[str]]:
    """Return where every task waits, by its name."""
    return {task.get_name(): _draw(task) for task in asyncio.all_tasks()}


def _draw(task: asyncio.Task[Any]) -> list[str]:
    """Follow a task down to what it really waits for; `get_stack` stops at the first await."""
    lines: list[str] = []
    waiting: object = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None)
        if frame is None:
            break
        place = traceback.extract_stack(frame, 1)[0]
        lines.append(f"{place.filename}:{place.lineno} {place.name}")
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)
    return lines
