"""Keeps who is to hear of what, and the events that are of no task: gates and credits.

Rule: the ledger's own triggers write what is of a task, within its transaction. What happens in
this process alone is written here, at once, and is lost only with a process that dies meanwhile;
the next one meets the same gate.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import structlog

from daemon.bell import Bell, sleep_until
from daemon.pulse import rest
from daemon.rounds import insist
from daemon.rules.schedule import HOUR
from daemon.store import Store, StoreFailed, survive
from daemon.targets import Targets

KEPT_MS: Final = 30 * 24 * HOUR
"""How long what was given up stays for a person to see."""
_WAITING_LIMIT: Final = 1_000
_SWEEP_MS: Final = 6 * HOUR

_log = structlog.get_logger()


class Announcer:
    """Writes events into the outbox, for the courier."""

    def __init__(
        self, store: Store, targets: Targets, now: Callable[[], int], ring: Callable[[], None]
    ) -> None:
        self._store = store
        self._targets = targets
        self._now = now
        self._ring = ring
        self._bell = Bell()
        self._subscribed: set[tuple[str, str]] | None = None
        # The oldest go first when a ledger takes nothing for hours and gates flap.
        self._waiting: deque[tuple[str, Mapping[str, object], int]] = deque(maxlen=_WAITING_LIMIT)

    def say(self, event: str, data: Mapping[str, object]) -> None:
        """Tell whoever wants to hear of it; never waits."""
        if any(event in target.events for target in self._targets.all()):
            self._waiting.append((event, data, self._now()))
            self._bell.ring()

    async def subscribe(self) -> None:
        """Let the ledger keep events for the targets of now, and for no others.

        Raises:
            StoreFailed: it may be done in part, and has to be done again.
        """
        wanted = self._targets.subscriptions()
        await self._store.outbox.subscribe(wanted)
        dropped = await self._store.outbox.drop_others(target.key for target in self._targets.all())
        if dropped:
            _log.info("notify.dropped", count=dropped)
        self._subscribed = wanted
        self._ring()

    async def run(self) -> None:
        """Write for ever what was said, and forget what was given up long ago."""
        sweep_at = 0
        while True:
            rest()
            heard = self._bell.listen()
            if self._subscribed != self._targets.subscriptions():
                # A reload met a ledger in trouble.
                await insist(self.subscribe)
            while self._waiting:
                announce = partial(self._store.outbox.announce, *self._waiting.popleft())
                await insist(announce)
                self._ring()
            if self._now() >= sweep_at:
                sweep_at = self._now() + _SWEEP_MS
                await self._sweep()
            await sleep_until(heard, (sweep_at - self._now()) / 1000)

    async def _sweep(self) -> None:
        try:
            await self._store.outbox.forget_old(self._now() - KEPT_MS)
        except StoreFailed as failure:
            await asyncio.sleep(survive(failure) / 1000)
