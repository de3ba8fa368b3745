"""How many download at the same time: as many as the configuration says, now."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from daemon.bell import Bell
from daemon.gates import Gates
from daemon.hosts import Hosts
from daemon.queue import DownloadQueue, keep_workers, work
from daemon.rules.lifecycle import State
from daemon.rules.schedule import HOUR, MINUTE, SECOND, Pace
from daemon.rules.task import Task
from daemon.rules.verdict import Terms
from daemon.store import Store

PACE = Pace(first_after_ms=3 * MINUTE, interval_ms=30 * SECOND, limit_ms=6 * HOUR)

Now = Callable[[], int]
Plant = Callable[..., Awaitable[Task]]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0.01)


async def keep(task: Task) -> Task:
    """Be a step that never ends."""
    await asyncio.get_running_loop().create_future()
    return task


class Crew:
    """Workers of a number that changes; each says when it came and when it left."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.bell = Bell()
        self.present: list[int] = []
        self.came: list[int] = []
        self.leave = Bell()

    async def work(self, number: int) -> None:
        """Stay until this worker is one too many."""
        assert number not in self.present
        self.present.append(number)
        self.came.append(number)
        while number < self.size:
            await self.leave.listen().wait()
        self.present.remove(number)

    def resize(self, size: int) -> None:
        """Change the number, as a reload does."""
        self.size = size
        self.bell.ring()


@pytest.fixture
async def crew() -> AsyncIterator[Crew]:
    """Keep two workers at work."""
    crew = Crew(2)
    keeping = asyncio.create_task(keep_workers(lambda: crew.size, crew.work, crew.bell))
    await until(lambda: len(crew.present) == 2)
    yield crew
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_workers_come_at_the_bell_and_leave_by_themselves(crew: Crew) -> None:
    """More come at once; those that are too many stay until they look; none is made twice."""
    assert crew.present == [0, 1]
    crew.resize(4)
    await until(lambda: len(crew.present) == 4)
    crew.resize(1)
    await asyncio.sleep(0.05)
    assert sorted(crew.present) == [0, 1, 2, 3]
    crew.resize(3)
    await asyncio.sleep(0.05)
    crew.resize(1)
    crew.leave.ring()
    await until(lambda: crew.present == [0])
    crew.resize(2)
    await until(lambda: crew.present == [0, 1])
    assert sorted(crew.came) == [0, 1, 1, 2, 3]


async def test_a_bug_in_one_worker_ends_the_crew() -> None:
    """It is not kept at work without that one: the process ends, and a restart mends it."""
    entered: list[int] = []

    async def stumble(number: int) -> None:
        entered.append(number)
        if number:
            raise KeyError("bug")
        await asyncio.get_running_loop().create_future()

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(5):
            await keep_workers(lambda: 2, stumble, Bell())
    assert caught.group_contains(KeyError)
    assert entered == [0, 1]


async def test_a_worker_too_many_leaves_its_task_to_the_others(
    store: Store, gates: Gates, hosts: Hosts, now: Now, plant: Plant
) -> None:
    """What it was just handed is claimed by nobody, and the bell lets another one find it."""
    line, bell, surplus = DownloadQueue(), Bell(), [False]
    terms = Terms(pace=PACE, retry_first_ms=2 * SECOND, retry_limit_ms=15 * MINUTE, has_key=True)
    worker = asyncio.create_task(
        work(
            *(line, store, {State.WANTED: keep}, gates, hosts, lambda: terms),
            now=now,
            bell=bell,
            ring_questions=lambda: None,
            freshest=False,
            is_surplus=lambda: surplus[0],
        )
    )
    await asyncio.sleep(0)
    surplus[0] = True
    await plant("a", State.WANTED)
    heard = bell.listen()
    feeding = asyncio.create_task(line.feed(store, now, Bell()))
    async with asyncio.timeout(5):
        await worker
    assert heard.is_set()
    task = await store.task("a")
    assert task is not None
    assert task.claimed_at is None
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    async with asyncio.timeout(5):
        refilled = asyncio.create_task(line.feed(store, now, Bell()))
        assert await line.take(freshest=False) == "a"
        refilled.cancel()
        await asyncio.gather(refilled, return_exceptions=True)
