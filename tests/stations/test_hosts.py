"""A host in trouble holds back its own downloads, uncharged, and nobody else's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from daemon.bell import Bell
from daemon.gates import Gates
from daemon.hosts import IDLE_MS, Hosts
from daemon.queue import DownloadQueue, Step, work
from daemon.rules.failure import Hindered, Reason, Refused, StepFailed, Trouble
from daemon.rules.lifecycle import State
from daemon.rules.schedule import HOST_FAILURES, HOUR, MINUTE, SECOND, Pace
from daemon.rules.task import Task
from daemon.rules.verdict import Terms, Verdict
from daemon.store import Store

Plant = Callable[..., Awaitable[Task]]
Advance = Callable[[int], None]
Now = Callable[[], int]
PACE = Pace(first_after_ms=3 * MINUTE, interval_ms=30_000, limit_ms=6 * HOUR)
TERMS = Terms(pace=PACE, retry_first_ms=SECOND, retry_limit_ms=15 * MINUTE, has_key=True)
BAD = "https://bad.example.com/{}.mp4?token=secret"
GOOD = "https://good.example.com/{}.mp4"
UNFINISHED: dict[str, object] = dict.fromkeys(("size_bytes", "sha256", "path", "stored_at"))
DOWN = Trouble(Reason.NETWORK, "the connection broke")


@asynccontextmanager
async def working(
    store: Store, gates: Gates, hosts: Hosts, now: Now, step: Step
) -> AsyncIterator[Bell]:
    """Let one worker do `step` with what is wanted."""
    queue, bell = DownloadQueue(), Bell()
    loops = [
        queue.feed(store, now, bell),
        work(
            *(queue, store, {State.WANTED: step}, gates, hosts, lambda: TERMS),
            now=now,
            bell=bell,
            ring_questions=lambda: None,
            freshest=False,
            is_surplus=lambda: False,
        ),
    ]
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield bell
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def settle_down(bell: Bell) -> None:
    """Let everything that is due be done."""
    for _ in range(10):
        bell.ring()
        await asyncio.sleep(0.05)


async def test_the_others_wait_until_one_gets_through(
    store: Store,
    plant: Plant,
    gates: Gates,
    hosts: Hosts,
    *,
    now: Now,
    advance: Advance,
    announced: list[str],
) -> None:
    """Five fail, the rest is not even tried and not charged; another host goes on all the time."""
    for number in range(8):
        await plant(f"bad{number}", State.WANTED, link=BAD.format(number), **UNFINISHED)
    await plant("good", State.WANTED, link=GOOD.format(1), **UNFINISHED)
    tried: list[str] = []
    is_down = True

    async def fetch(task: Task) -> Task:
        tried.append(task.task_id)
        if is_down and task.task_id != "good":
            raise DOWN
        done = Verdict(None, {"claimed_at": None, "fetch_at": now() + 1_000 * HOUR})
        settled, _ = await store.settle(task, now(), lambda _: done)
        # A task of a state without a step is let go.
        return replace(settled, state=State.DONE.value)

    async with working(store, gates, hosts, now, fetch) as bell:
        await settle_down(bell)
        assert sum(name != "good" for name in tried) == HOST_FAILURES
        assert "good" in tried
        assert announced == ["gate.closed host:bad.example.com"]
        (shut,) = gates.shut()
        assert "secret" not in shut.name + shut.reason
        waiting = [task for task in await store.tasks() if task.failures == 0]
        assert {task.attempts for task in waiting if task.task_id != "good"} == {0}
        assert all(task.fetch_at == shut.probe_at for task in waiting if task.task_id != "good")
        tried.clear()
        advance(31 * SECOND)
        await settle_down(bell)
        assert len(tried) == 1, "one probe, and its failure shuts the gate for longer"
        is_down = False
        advance(HOUR)
        await settle_down(bell)
        await settle_down(bell)
        assert announced[1:] == ["gate.opened host:bad.example.com"]
        advance(HOUR)
        await settle_down(bell)
    assert len(set(tried) - {"good"}) == 8


@pytest.fixture
def wanted(plant: Plant) -> Callable[..., Awaitable[Task]]:
    """Put a wanted task of the bad host into the ledger."""

    async def put(**columns: object) -> Task:
        return await plant("a", State.WANTED, **{"link": BAD.format(0), **UNFINISHED, **columns})

    return put


def fail(hosts: Hosts, task: Task, failure: StepFailed | None, spans: str = "") -> None:
    """Note an attempt after which these bytes are here."""
    hosts.learn(task, spans, failure)


@pytest.mark.parametrize(
    ("failure", "spans"),
    [
        (None, ""),
        (DOWN, "0-1"),
        (Refused(Reason.LINK_REFUSED, "HTTP 404"), ""),
        (Trouble(Reason.TOO_LARGE, "the file is too large"), ""),
    ],
)
async def test_a_host_that_answers_is_in_no_trouble(
    hosts: Hosts,
    gates: Gates,
    wanted: Callable[..., Awaitable[Task]],
    failure: StepFailed | None,
    spans: str,
) -> None:
    """Neither is one that breaks off after some bytes, again and again: they are kept."""
    task = await wanted()
    for _ in range(HOST_FAILURES - 1):
        fail(hosts, task, DOWN)
    fail(hosts, task, failure, spans)
    for _ in range(HOST_FAILURES - 1):
        fail(hosts, task, DOWN)
    assert not gates.shut()
    fail(hosts, task, Hindered(Reason.DISK, "no room"))
    assert not gates.shut()
    fail(hosts, task, DOWN)
    assert hosts.is_shut(task)
    fail(hosts, task, failure, spans)
    assert not gates.shut()


async def test_nobody_is_held_back_for_longer_than_a_retry(
    gates: Gates, now: Now, wanted: Callable[..., Awaitable[Task]]
) -> None:
    """`download.retry_max` bounds this pause, too; while a probe is out the others look again."""
    hosts, task = Hosts(gates, now, lambda: 2 * SECOND), await wanted()
    for _ in range(HOST_FAILURES):
        fail(hosts, task, DOWN)
    assert hosts.hold_back(task) == now() + 2 * SECOND
    (shut,) = gates.shut()
    assert shut.probe_at == now() + 2 * SECOND


async def test_a_host_that_nobody_wants_is_forgotten(
    hosts: Hosts, gates: Gates, advance: Advance, wanted: Callable[..., Awaitable[Task]]
) -> None:
    """A gate that nobody will ever probe does not stand in the status for ever."""
    task = await wanted()
    for _ in range(HOST_FAILURES):
        fail(hosts, task, DOWN)
    advance(30 * SECOND + IDLE_MS)
    hosts.forget_idle()
    assert gates.shut()
    advance(1)
    hosts.forget_idle()
    assert not gates.shut()
    fail(hosts, task, DOWN)
    assert not gates.shut()


async def test_a_link_without_a_host_is_its_own_trouble(
    hosts: Hosts, gates: Gates, wanted: Callable[..., Awaitable[Task]]
) -> None:
    """The guard refuses it; no gate gets a name that a stranger chose."""
    task = await wanted(link="nonsense\x1b[31m")
    for _ in range(2 * HOST_FAILURES):
        fail(hosts, task, DOWN)
    assert hosts.hold_back(task) is None
    assert not hosts.is_shut(task)
    assert not gates.shut()


async def test_a_host_in_trouble_does_not_keep_the_disk_gate_shut(
    store: Store, plant: Plant, gates: Gates, hosts: Hosts, now: Now
) -> None:
    """The one probe of the disk goes to a download that is made, not to one that has to wait."""
    for number in range(20):
        await plant(f"bad{number}", State.WANTED, link=BAD.format(number), **UNFINISHED)
    await plant("good", State.WANTED, link=GOOD.format(1), **UNFINISHED, deadline_at=2**50)
    for number in range(20, 40):
        await plant(f"bad{number}", State.WANTED, link=BAD.format(number), **UNFINISHED)
    first = await store.task("bad0")
    assert first is not None
    for _ in range(HOST_FAILURES):
        fail(hosts, first, DOWN)
    gates.close("disk", "no room")
    gates.probe_now()
    # The host is not to be probed again yet.
    assert hosts.hold_back(first) is None
    tried: list[str] = []

    async def fetch(task: Task) -> Task:
        tried.append(task.task_id)
        gates.open("disk")
        return replace(task, state=State.DONE.value)

    async with working(store, gates, hosts, now, fetch) as bell:
        for _ in range(5):
            await settle_down(bell)
    assert tried == ["good"]
    assert not gates.is_shut("disk")
