"""Says to somebody outside, again and again, that all goes well; it is missed when it is not.

Rule: the URL is asked only while nothing is overdue and the ledger can be written. There is one
line when it stops and one when it goes on again, however long that takes.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeAlias

import structlog

from daemon.bell import Bell, sleep_until
from daemon.config.sections import Heartbeat as Section
from daemon.hooks import call_hook
from daemon.logs import mask
from daemon.outbound import Session
from daemon.pulse import rest
from daemon.rules.failure import Trouble
from daemon.store import Store, StoreFailed, survive

ANSWER_SECONDS: Final = 10.0

_State: TypeAlias = Literal["beating", "withheld", "failed"]

_log = structlog.get_logger()


class Heartbeat:
    """The loop; `find_overdue` returns a sentence for each thing that should have happened."""

    def __init__(
        self,
        store: Store,
        session: Session,
        section: Callable[[], Section],
        find_overdue: Callable[[], Awaitable[list[str]]],
        *,
        bell: Bell,
    ) -> None:
        self._store = store
        self._session = session
        self._section = section
        self._find_overdue = find_overdue
        self._bell = bell
        self._state: _State = "beating"

    async def run(self) -> None:
        """Beat for ever, where a URL is configured."""
        while True:
            rest()
            heard = self._bell.listen()
            until = time.monotonic() + self._section().interval.total_seconds()
            await self.beat()
            while not heard.is_set() and (left := until - time.monotonic()) > 0:
                await sleep_until(heard, left)

    async def beat(self) -> None:
        """Ask the URL once, or withhold it."""
        url = self._section().url
        if url is None:
            return
        if overdue := await self._find_trouble():
            if self._state != "withheld":
                _log.warning("heartbeat.withheld", overdue=overdue)
            self._state = "withheld"
            return
        try:
            await call_hook(self._session, "GET", url.reveal(), ANSWER_SECONDS)
        except Trouble as trouble:
            if self._state != "failed":
                _log.warning("heartbeat.failed", error=mask(trouble.message))
            self._state = "failed"
            return
        if self._state != "beating":
            _log.info("heartbeat.resumed")
        self._state = "beating"

    async def _find_trouble(self) -> list[str]:
        try:
            overdue = await self._find_overdue()
        except StoreFailed as failure:
            survive(failure)
            return ["the ledger cannot be read"]
        if not await self._store.writable():
            return ["the ledger cannot be written", *overdue]
        return overdue
