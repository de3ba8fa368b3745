"""Carries what others are to be told: every message of the outbox, until its receiver has it.

Rule: at least once. A message leaves the ledger only after a 2xx, and stays there, without a time,
once it was given up. One receiver that is silent holds nobody else back.

An application behind the gateway hears the provider's shape; a `[[notify]]` hears the event, about
the task as it is now, with the facts of the event (state, reason, path, digest, size) as they were.
"""

import asyncio
import json
import random
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog

from daemon.bell import Bell, sleep_until
from daemon.logs import mask
from daemon.outbound import Session, file_session, post_message
from daemon.outbox import Message
from daemon.rounds import go_round, insist
from daemon.rules.address import AddressPolicy, without_query
from daemon.rules.failure import Reason, StepFailed, Trouble
from daemon.rules.notice import sign
from daemon.rules.outgoing import find_host, plan_resend, write_news
from daemon.rules.schedule import HOUR
from daemon.rules.target import PREFIX
from daemon.store import Store
from daemon.targets import Note, Target, Targets
from daemon.views import view_task

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

    A receiver is a host of applications, or one of `targets`. `hmac_key` returns what signs for
    applications as kie.ai does; None leaves messages unsigned, as others do.
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
        targets: Targets | None = None,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._targets = targets
        self._count = count
        self._session = session
        self._policy = policy
        self._now = now
        self._bell = bell
        self._hmac_key = hmac_key
        self._busy: set[str] = set()
        self._broken: set[str] = set()

    async def run(self) -> None:
        """Deliver for ever."""
        await go_round(AT_ONCE, self._take, self._deliver, lambda message: f"tell {message.number}")

    async def _take(self) -> Message:
        while True:
            heard = self._bell.listen()
            message = await self._store.outbox.next(self._busy)
            wait_ms = LONGEST_WAIT_MS
            if message is not None and message.due_at is not None:
                wait_ms = message.due_at - self._now()
                if wait_ms <= 0:
                    self._busy.add(_receiver(message))
                    return message
            await sleep_until(heard, wait_ms / 1000)

    async def _deliver(self, message: Message) -> None:
        receiver = _receiver(message)
        target = self._targets.find(message.target) if self._targets else None
        named = _name(message, target)
        try:
            if not message.target.startswith(PREFIX):
                await self._post(message)
            elif self._targets is not None and target is not None:
                await self._targets.tell(target, await self._note(message))
            else:
                # A reload took it away while the message was due.
                _log.info("notify.dropped", count=1)
        except StepFailed as failure:
            await self._put_off(message, named, failure)
        else:
            await insist(lambda: self._store.outbox.delete(message))
            self._count("delivered")
            _log.debug("notify.sent", **named, tries=message.tries + 1)
            if receiver in self._broken:
                self._broken.discard(receiver)
                _log.info("notify.recovered", **named)
        finally:
            self._busy.discard(receiver)
            self._bell.ring()

    async def _note(self, message: Message) -> Note:
        data: dict[str, Any] = json.loads(message.data or "{}")
        if message.task_id:
            task = await insist(lambda: self._store.task(message.task_id))
            data = {"task_id": message.task_id}
            if task is not None:
                data = msgspec.to_builtins(view_task(task))
            data |= tell_facts(message, task.deadline_at if task else None)
        return Note(message.id, message.type, message.created_at, data)

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

    async def _put_off(self, message: Message, named: dict[str, str], failure: StepFailed) -> None:
        now, tries = self._now(), message.tries + 1
        due_at = plan_resend(message.created_at, tries, now, random.random())
        said = mask(failure.message)
        await insist(lambda: self._store.outbox.postpone(message, due_at, said))
        receiver = _receiver(message)
        self._count("given_up" if due_at is None else "delayed")
        if due_at is None:
            _log.warning("notify.failed", **named, tries=tries, error=said)
        elif receiver not in self._broken:
            self._broken.add(receiver)
            _log.warning("notify.delayed", **named, error=said)


def tell_facts(message: Message, deadline_at: int | None) -> dict[str, Any]:
    """Return what an event is about, as it was when it happened."""
    facts: dict[str, Any] = {
        "reason": message.reason,
        # The provider's words may repeat a key or a signed link.
        "message": message.message and mask(message.message),
        "path": message.path,
        "sha256": message.sha256,
        "size_bytes": message.size_bytes,
    }
    if message.type.startswith("task."):
        facts["state"] = message.type.removeprefix("task.")
    elif message.type == "deadline.near" and deadline_at is not None:
        facts["hours_left"] = round((deadline_at - message.created_at) / HOUR, 1)
    return facts


def _receiver(message: Message) -> str:
    """Return who is told one message at a time: a host of applications, or a `[[notify]]`."""
    if message.target.startswith(PREFIX):
        return message.target
    return find_host(message.target)


def _name(message: Message, target: Target | None) -> dict[str, str]:
    return {
        "task_id": message.task_id,
        "type": message.type,
        "target": target.name if target else without_query(message.target),
    }
