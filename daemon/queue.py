"""The downloads that are due, in order, and the workers that take them.

Rule: the queue carries only task ids; the database is the truth, and a worker begins with a claim
there, so an id that is stale, doubled or lost does no harm. It is refilled from the store at the
start and whenever something falls due.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

import structlog

from daemon.bell import Bell, sleep_until
from daemon.gates import Gates
from daemon.hosts import Hosts
from daemon.pulse import STEP_SECONDS, beat, rest, resting
from daemon.rounds import insist
from daemon.rules.failure import Hindered, StepFailed
from daemon.rules.lifecycle import State
from daemon.rules.task import Task
from daemon.rules.verdict import Terms, Verdict, judge_failure
from daemon.store import Store, StoreFailed, survive

CAPACITY: Final = 1_000
LOOK_SECONDS: Final = 30.0
TOP_UP: Final = 16

_log = structlog.get_logger()


Place = tuple[int, int, str]
"""Failing or not, deadline or age, and the task id."""


class DownloadQueue:
    """Task ids by deadline, the nearest first; and by age, the youngest first, for one worker."""

    def __init__(self) -> None:
        self._urgent: asyncio.PriorityQueue[Place] = asyncio.PriorityQueue(CAPACITY)
        self._fresh: asyncio.PriorityQueue[Place] = asyncio.PriorityQueue(CAPACITY)
        self._waiting: tuple[set[str], set[str]] = (set(), set())

    async def feed(self, store: Store, now: Callable[[], int], bell: Bell) -> None:
        """Refill for ever, when the bell rings and when the next task falls due."""
        while True:
            beat()
            heard = bell.listen()
            try:
                wait_ms = await self._refill(store, now())
            except StoreFailed as failure:
                wait_ms = survive(failure)
            await sleep_until(heard, wait_ms / 1000)

    async def _refill(self, store: Store, moment: int) -> int:
        """Put in what is due; return how long until more is."""
        for due in await store.due_downloads(moment, self._limit(self._urgent), freshest=False):
            self._put(self._urgent, self._waiting[0], (due.failing, due.deadline_at, due.task_id))
        for due in await store.due_downloads(moment, self._limit(self._fresh), freshest=True):
            self._put(self._fresh, self._waiting[1], (due.failing, -due.id, due.task_id))
        _, due_at = await store.next_due(moment)
        # What is due already lies in the queue; the worker that takes it rings afterwards.
        return 30_000 if due_at is None else due_at - moment

    @staticmethod
    def _limit(queue: asyncio.PriorityQueue[Place]) -> int:
        """Read much only into an emptying queue; into a full one just what may be more urgent."""
        return CAPACITY if queue.qsize() < CAPACITY // 2 else TOP_UP

    @staticmethod
    def _put(queue: asyncio.PriorityQueue[Place], waiting: set[str], item: Place) -> None:
        if item[-1] not in waiting and not queue.full():
            waiting.add(item[-1])
            queue.put_nowait(item)

    async def take(self, *, freshest: bool) -> str:
        """Wait for a task id: the nearest deadline, or the freshest task."""
        queue, waiting = (
            (self._fresh, self._waiting[1]) if freshest else (self._urgent, self._waiting[0])
        )
        *_, task_id = await queue.get()
        waiting.discard(task_id)
        return task_id


Step = Callable[[Task], Awaitable[Task]]


async def work(
    queue: DownloadQueue,
    store: Store,
    steps: Mapping[State, Step],
    gates: Gates,
    hosts: Hosts,
    terms: Callable[[], Terms],
    *,
    now: Callable[[], int],
    bell: Bell,
    ring_questions: Callable[[], None],
    freshest: bool,
    is_surplus: Callable[[], bool],
) -> None:
    """Take tasks and carry each as far as its steps go, until this worker is one too many.

    `steps` is keyed by state. A failure that is no `StepFailed` is a bug: it is not caught, and the
    process ends.
    """
    while not is_surplus():
        with resting():
            task_id = await queue.take(freshest=freshest)
        if is_surplus():
            # The id is lost here and still due in the ledger: the refill finds it again.
            break
        with resting():
            await gates.pass_through("disk")
        try:
            task = await store.claim(task_id, now())
        except StoreFailed as failure:
            await asyncio.sleep(survive(failure) / 1000)
            gates.give_back("disk")
            # Its id has left the queue, and is put in again.
            bell.ring()
            continue
        if task is None:
            gates.give_back("disk")
            continue
        wait_until = hosts.hold_back(task) if task.state == State.WANTED else None
        if wait_until is not None:
            gates.give_back("disk")
            await _put_back(store, task, now, wait_until)
            bell.ring()
            continue
        with structlog.contextvars.bound_contextvars(task_id=task.task_id):
            began = task
            try:
                while (state := State(task.state)) in steps:
                    beat(STEP_SECONDS)
                    task = await steps[state](task)
                    if state is State.WANTED:
                        hosts.learn(began, task.spans, None)
            except StepFailed as failure:
                _log.warning("download.failed", reason=failure.reason, message=failure.message)
                if isinstance(failure, Hindered):
                    gates.close("disk", failure.message)
                task = await _try_settle(store, task, failure, now, terms())
                hosts.learn(began, task.spans, failure)
            except StoreFailed as failure:
                await _give_back(store, task, failure, now)
        ring_questions()
        bell.ring()
    rest()
    bell.ring()


async def keep_workers(
    size: Callable[[], int], make: Callable[[int], Coroutine[Any, Any, None]], bell: Bell
) -> None:
    """Keep `size()` workers at work, numbered from 0; the bell says that the size changed."""
    working: set[int] = set()
    async with asyncio.TaskGroup() as workers:
        while True:
            heard = bell.listen()
            for number in {*range(size())} - working:
                working.add(number)
                workers.create_task(_occupy(number, working, make), name=f"worker {number}")
            await sleep_until(heard, LOOK_SECONDS)


async def _occupy(
    number: int, working: set[int], make: Callable[[int], Coroutine[Any, Any, None]]
) -> None:
    try:
        await make(number)
    finally:
        working.discard(number)


async def _put_back(store: Store, task: Task, now: Callable[[], int], fetch_at: int) -> None:
    """Its host is in trouble: it waits, and is not charged for it."""
    freed = Verdict(
        None, {"claimed_at": None, "attempts": max(0, task.attempts - 1), "fetch_at": fetch_at}
    )
    try:
        await store.settle(task, now(), lambda _: freed)
    except StoreFailed as failure:
        await _give_back(store, task, failure, now)


async def _give_back(
    store: Store, task: Task, failure: StoreFailed, now: Callable[[], int]
) -> Task:
    """The ledger could not be written: free the claim as soon as it can."""
    freed = Verdict(None, {"claimed_at": None})
    await asyncio.sleep(survive(failure) / 1000)
    given, _ = await insist(lambda: store.settle(task, now(), lambda _: freed))
    return given


async def _try_settle(
    store: Store, task: Task, failure: StepFailed, now: Callable[[], int], terms: Terms
) -> Task:
    moment, luck = now(), random.random()

    def decide(newest: Task) -> Verdict:
        if newest.link != task.link:
            # What the old link did is not charged to the one that came meanwhile.
            return Verdict(None, {"claimed_at": None, "fetch_at": moment})
        return judge_failure(newest, failure, moment, terms, luck)

    try:
        settled, _ = await store.settle(task, moment, decide)
    except StoreFailed as broken:
        return await _give_back(store, task, broken, now)
    return settled
