"""Asks the provider about every task that is due.

Rule: a callback makes a question due now, silence makes it due later; this station only asks and
carries the verdict to the store. It works when no callback ever comes.
"""

import asyncio
import random
from collections.abc import Callable, Mapping

import structlog

from daemon.bell import Bell, sleep_until
from daemon.config.sections import Provider as Section
from daemon.provider import Provider
from daemon.pulse import beat, resting
from daemon.rounds import go_round
from daemon.rules.notice import Answer
from daemon.rules.schedule import HOUR
from daemon.rules.task import Task
from daemon.rules.verdict import Terms, judge_answer, wants_fresh_link
from daemon.store import Store, StoreFailed, survive

AT_ONCE = 8
"""Questions on their way at the same time: at 100 a second and 80 ms each, eight keep the pace."""
LONGEST_WAIT_MS = 30_000
CREDITS_EVERY_MS = 6 * HOUR
_FRESHEST, _KNOWN, _TURNS = 1, 2, 3

_log = structlog.get_logger()


class Poller:
    """Asks about due tasks: the longest overdue, the freshest, the known, in turn.

    In turn, so that a callback of this minute need not wait behind thousands of tracked ids, nor
    a task of the owner's behind thousands of callbacks that somebody made up.
    """

    def __init__(
        self,
        store: Store,
        provider: Provider,
        terms: Callable[[], Terms],
        now: Callable[[], int],
        *,
        bell: Bell,
        ring_downloads: Callable[[], None],
    ) -> None:
        self._store = store
        self._provider = provider
        self._terms = terms
        self._now = now
        self._bell = bell
        self._ring_downloads = ring_downloads
        self._asking: set[int] = set()
        self._turn = 0

    async def run(self) -> None:
        """Ask for ever."""

        async def take() -> Task | None:
            await self._wait_until_due()
            with resting():
                await self._provider.permit()
            return await self._take()

        await go_round(AT_ONCE, take, self._ask, lambda task: f"ask {task.task_id}")

    async def _wait_until_due(self) -> None:
        while True:
            beat()
            heard, now = self._bell.listen(), self._now()
            if not self._terms().has_key:
                await sleep_until(heard, LONGEST_WAIT_MS / 1000)
                continue
            if await self._pick(now) is not None:
                return
            # What was due by `now` is on its way, and rings when its answer is settled.
            due_at, _ = await self._store.next_due(now)
            await sleep_until(heard, (LONGEST_WAIT_MS if due_at is None else due_at - now) / 1000)

    async def _take(self) -> Task | None:
        self._turn = (self._turn + 1) % _TURNS
        task = await self._pick(self._now())
        if task is not None:
            self._asking.add(task.id)
        return task

    async def _pick(self, now: int) -> Task | None:
        due = await self._store.due_questions(
            now, AT_ONCE + 1, freshest=self._turn == _FRESHEST, known=self._turn == _KNOWN
        )
        return next((task for task in due if task.id not in self._asking), None)

    async def _ask(self, task: Task) -> None:
        try:
            answer = await self._provider.ask(task.task_id)
            _log.debug("poll.asked", task_id=task.task_id, outcome=answer.outcome.value)
            fresh_link = await self._renew(task, answer)
            now, luck = self._now(), random.random()
            _, verdict = await self._store.settle(
                task,
                now,
                lambda newest: judge_answer(
                    newest, answer, now, self._terms(), luck, fresh_link=fresh_link
                ),
            )
            if verdict is not None and verdict.doubted:
                _log.warning("task.unconfirmed", task_id=task.task_id, message=answer.message)
        except StoreFailed as failure:
            # The question stays due and is asked again.
            await asyncio.sleep(survive(failure) / 1000)
        finally:
            self._asking.discard(task.id)
            self._bell.ring()
            self._ring_downloads()

    async def _renew(self, task: Task, answer: Answer) -> str | None:
        """Ask for a short-lived link where the host refused the one that the answer names again."""
        wanted = self._provider.renews_links and wants_fresh_link(task, answer)
        # An answer is at hand: it does not wait for a gate.
        if not wanted or self._provider.is_held_back:
            return None
        await self._provider.permit()
        return await self._provider.renew(task.link or "")


async def watch_credits(
    store: Store,
    provider: Provider,
    section: Callable[[], Section],
    now: Callable[[], int],
    *,
    bell: Bell,
    remember: Callable[[float], None],
    announce: Callable[[str, Mapping[str, object]], None] = lambda *_: None,
) -> None:
    """Ask for the balance at start, after each submit and every six hours; say when it is low.

    `section.credits_low` 0 says nothing. Without an API key nobody is asked.
    """
    low = False
    while True:
        heard, until = bell.listen(), now() + CREDITS_EVERY_MS
        if section().api_key is not None:
            await provider.permit()
            credits_left = await provider.balance()
            if credits_left is not None:
                remember(credits_left)
                try:
                    await store.balances.record(now(), credits_left)
                except StoreFailed as failure:
                    survive(failure)
                was_low, low = low, credits_left < section().credits_low
                if low and not was_low:
                    limit = section().credits_low
                    _log.warning("credits.low", credits=credits_left, limit=limit)
                    announce("credits.low", {"credits": credits_left, "limit": limit})
        while not heard.is_set() and now() < until:
            await sleep_until(heard, (until - now()) / 1000)
