"""Carries what others are to be told: every message of the outbox, until its receiver has it.

Rule: at least once. A message leaves the ledger only after a 2xx, and stays there, without a time,
once it was given up. One receiver that is silent holds nobody else back.
"""

import asyncio
import random
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import structlog

from daemon.bell import Bell, sleep_until
from daemon.outbound import Session, file_session, post_message
from daemon.outbox import Message
from daemon.rounds import go_round, insist
from daemon.rules.address import AddressPolicy, without_query
from daemon.rules.failure import Reason, StepFailed, Trouble
from daemon.rules.notice import sign
from daemon.rules.outgoing import find_host, plan_resend, write_news
from daemon.store import Store

AT_ONCE: Final = 8
ANSWER_SECONDS: Final = 15.0
"""The provider's own patience with a receiver of callbacks."""
LONGEST_WAIT_MS: Final = 30_000

_log = structlog.get_logger()


def message_session(policy: Callable[[], AddressPolicy]) -> Session:
    """Open the session that messages are posted through, to nobody whom `policy` forbids."""
    return file_session(policy, ANSWER_SECONDS, ANSWER_SECONDS, AT_ONCE)


class Courier:
    """Posts what is due, the longest overdue first, one message at a time to each receiver.

    `hmac_key` returns what signs as kie.ai does; None leaves messages unsigned, as others do.
    """

    def __init__(
        self,
        store: Store,
        session: Session,
        policy: Callable[[], AddressPolicy],
        now: Callable[[], int],
        *,
        bell: Bell,
        hmac_key: Callable[[], str | None],
    ) -> None:
        self._store = store
        self._session = session
        self._policy = policy
        self._now = now
        self._bell = bell
        self._hmac_key = hmac_key
        self._busy: set[str] = set()
        self._broken: set[str] = set()

    async def run(self) -> None:
        """Deliver for ever."""
        await go_round(
            AT_ONCE, self._take, self._deliver, lambda message: f"tell {message.task_id}"
        )

    async def _take(self) -> Message:
        while True:
            heard = self._bell.listen()
            message = await self._store.outbox.next(self._busy)
            wait_ms = LONGEST_WAIT_MS
            if message is not None and message.due_at is not None:
                wait_ms = message.due_at - self._now()
                if wait_ms <= 0:
                    self._busy.add(find_host(message.target))
                    return message
            await sleep_until(heard, wait_ms / 1000)

    async def _deliver(self, message: Message) -> None:
        try:
            await self._post(message)
        except StepFailed as failure:
            await self._put_off(message, failure)
        else:
            await insist(lambda: self._store.outbox.delete(message))
            _log.debug("notify.sent", **_name(message), tries=message.tries + 1)
            if find_host(message.target) in self._broken:
                self._broken.discard(find_host(message.target))
                _log.info("notify.recovered", **_name(message))
        finally:
            self._busy.discard(find_host(message.target))
            self._bell.ring()

    async def _post(self, message: Message) -> None:
        # Our own admin API, should somebody name it as a callback, refuses what says so.
        headers = {"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}
        key = self._hmac_key()
        if key is not None:
            at = self._now() // 1000
            headers["X-Webhook-Timestamp"] = str(at)
            headers["X-Webhook-Signature"] = sign(key, message.task_id, at)
        body = write_news(
            message.type,
            message.task_id,
            reason=message.reason,
            link=message.link,
            path=message.path,
            sha256=message.sha256,
        )
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                status = await post_message(
                    self._session, message.target, self._policy(), body, headers
                )
        except TimeoutError:
            told = f"no answer within {ANSWER_SECONDS:g} s"
            raise Trouble(Reason.STALLED, told) from None
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            raise Trouble(Reason.NETWORK, f"answered HTTP {status}")

    async def _put_off(self, message: Message, failure: StepFailed) -> None:
        now, tries = self._now(), message.tries + 1
        due_at = plan_resend(message.created_at, tries, now, random.random())
        said = failure.message
        await insist(lambda: self._store.outbox.postpone(message, due_at, said))
        host = find_host(message.target)
        if due_at is None:
            _log.warning("notify.failed", **_name(message), tries=tries, error=said)
        elif host not in self._broken:
            self._broken.add(host)
            _log.warning("notify.delayed", **_name(message), error=said)


def _name(message: Message) -> dict[str, str]:
    return {
        "task_id": message.task_id,
        "type": message.type,
        "target": without_query(message.target),
    }
