"""The queue and its workers: in order, once each, paused by our own disk and by nothing else."""

# ruff: noqa: ASYNC240 - a test may wait for its own disk

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daemon import queue
from daemon.bell import Bell
from daemon.disk import Disk
from daemon.download import Downloader
from daemon.gates import Gates
from daemon.hosts import Hosts
from daemon.queue import DownloadQueue, work
from daemon.rules.failure import Hindered, Reason, Refused, Trouble
from daemon.rules.lifecycle import State
from daemon.rules.schedule import HOUR, MINUTE, SECOND, Pace
from daemon.rules.task import Task
from daemon.rules.verdict import Terms
from daemon.simulator.faults import Faults, FileFault
from daemon.simulator.films import Film
from daemon.simulator.simulator import Simulator
from daemon.store import Store

START = 1_790_000_000_000
PACE = Pace(first_after_ms=3 * MINUTE, interval_ms=30 * SECOND, limit_ms=6 * HOUR)

Advance = Callable[[int], None]
Make = Callable[..., Downloader]
Now = Callable[[], int]
Plant = Callable[..., Awaitable[Task]]
Step = Callable[[Task], Awaitable[Task]]
Wanted = Callable[..., Awaitable[str]]


class Hall:
    """Running workers, their bell and what they did."""

    def __init__(self) -> None:
        self.bell = Bell()
        self.questions_rung = 0
        self.steps: list[tuple[str, str]] = []
        self.workers: list[asyncio.Task[None]] = []

    def ring_questions(self) -> None:
        """Count."""
        self.questions_rung += 1


Open = Callable[..., AbstractAsyncContextManager[Hall]]
Break = Callable[..., Awaitable[None]]


@pytest.fixture
def open_hall(store: Store, gates: Gates, now: Now) -> Open:
    """Run a feeder and workers with these steps while the block runs."""

    @asynccontextmanager
    async def start(
        steps: Mapping[State, Step], workers: int = 2, *, line: DownloadQueue | None = None
    ) -> AsyncIterator[Hall]:
        terms = Terms(
            pace=PACE, retry_first_ms=2 * SECOND, retry_limit_ms=15 * MINUTE, has_key=True
        )
        hall, line = Hall(), line or DownloadQueue()

        def log(state: State) -> Step:
            async def step(task: Task) -> Task:
                hall.steps.append((task.task_id, state.value))
                return await steps[state](task)

            return step

        loops = [line.feed(store, now, hall.bell)]
        loops += [
            work(
                *(line, store, {state: log(state) for state in steps}, gates),
                *(Hosts(gates, now, lambda: 60_000), lambda: terms),
                now=now,
                bell=hall.bell,
                ring_questions=hall.ring_questions,
                freshest=number == 1,
                is_surplus=lambda: False,
            )
            for number in range(workers)
        ]
        hall.workers = [asyncio.create_task(loop) for loop in loops]
        try:
            yield hall
        finally:
            for task in hall.workers:
                task.cancel()
            await asyncio.gather(*hall.workers, return_exceptions=True)

    return start


def steps_of(downloader: Downloader) -> dict[State, Step]:
    """Return what really happens in each state."""
    return {
        State.WANTED: downloader.fetch,
        State.VERIFIED: downloader.publish,
        State.STORED: downloader.finish,
    }


async def settled(store: Store, task_id: str, **expected: object) -> Task:
    """Wait until a task looks as expected."""
    async with asyncio.timeout(10):
        while True:
            task = await store.task(task_id)
            assert task is not None
            if all(getattr(task, name) == value for name, value in expected.items()):
                return task
            await asyncio.sleep(0.01)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0.01)


async def fill_line(store: Store) -> DownloadQueue:
    """Return a queue that holds what is due, and that nobody feeds any more."""
    line = DownloadQueue()
    feeding = asyncio.create_task(line.feed(store, lambda: START, Bell()))
    await until(lambda: line._fresh.qsize() > 0)
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    return line


@pytest.fixture
def wanted(simulator: Simulator, plant: Plant) -> Callable[..., Awaitable[str]]:
    """Put a film at the host and its task into the ledger; return the id."""

    async def put(*faults: FileFault, film: Film | None = None, **columns: object) -> str:
        task_id = simulator.add_task(Faults(callbacks=(), files=faults), film=film)
        unknown = dict.fromkeys(("size_bytes", "sha256", "path", "stored_at"))
        link = simulator.tasks[task_id].video_url
        await plant(task_id, State.WANTED, **unknown | {"link": link} | columns)
        return task_id

    return put


async def keep(task: Task) -> Task:
    """Be a step that never ends: the task stays claimed."""
    await asyncio.get_running_loop().create_future()
    return task


async def test_a_wanted_task_is_carried_to_its_end(
    open_hall: Open, store: Store, wanted: Wanted, make_downloader: Make
) -> None:
    """One worker takes it, through all its states, once."""
    task_id = await wanted()
    async with open_hall(steps_of(make_downloader()), 4) as hall:
        task = await settled(store, task_id, state="done")
    assert hall.steps == [(task_id, state) for state in ("wanted", "verified", "stored")]
    assert Path(task.path or "").read_bytes()
    assert (task.claimed_at, task.fetch_at, task.attempts) == (None, None, 1)


async def test_a_task_is_found_by_the_bell_and_by_its_time(
    open_hall: Open, store: Store, wanted: Wanted, make_downloader: Make, advance: Advance
) -> None:
    """New work rings; a retry falls due; nobody has to look for it."""
    async with open_hall(steps_of(make_downloader())) as hall:
        await asyncio.sleep(0.05)
        task_id = await wanted(fetch_at=START + 200)
        hall.bell.ring()
        await asyncio.sleep(0.05)
        assert hall.steps == []
        advance(200)
        await settled(store, task_id, state="done")


async def test_the_nearest_deadline_goes_first(open_hall: Open, store: Store, plant: Plant) -> None:
    """And of two with the same, the one that was adopted first."""
    for number in range(6):
        await plant(f"t{number}", State.WANTED, deadline_at=START + 10 - number // 2)

    async def refuse(task: Task) -> Task:
        raise Refused(Reason.LINK_REFUSED, task.task_id)

    async with open_hall({State.WANTED: refuse}, 1) as hall:
        for number in range(6):
            await settled(store, f"t{number}", state="expected", reason="link_refused")
    assert [task_id for task_id, _ in hall.steps] == ["t4", "t5", "t2", "t3", "t0", "t1"]


async def test_the_second_worker_takes_the_freshest(open_hall: Open, plant: Plant) -> None:
    """While the first one works through the deadlines: old trouble starves no fresh task."""
    for number in range(6):
        await plant(f"t{number}", State.WANTED, deadline_at=START + number)
    async with open_hall({State.WANTED: keep}, 2) as hall:
        await until(lambda: len(hall.steps) == 2)
    assert sorted(task_id for task_id, _ in hall.steps) == ["t0", "t5"]


async def test_more_tasks_than_the_queue_holds_are_all_taken(
    open_hall: Open, store: Store, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is bounded and refilled; the database is the truth."""
    monkeypatch.setattr(queue, "CAPACITY", 4)
    monkeypatch.setattr(queue, "TOP_UP", 2)
    for number in range(30):
        await plant(f"t{number}", State.WANTED)

    async def refuse(task: Task) -> Task:
        await asyncio.sleep(0)
        raise Refused(Reason.LINK_REFUSED, task.task_id)

    async with open_hall({State.WANTED: refuse}, 3) as hall:
        async with asyncio.timeout(10):
            while (await store.counts())["expected"] < 30:  # noqa: ASYNC110 - neither a file nor a ledger has an event
                await asyncio.sleep(0.01)
    assert len(hall.steps) == len({task_id for task_id, _ in hall.steps}) == 30


async def test_what_is_claimed_meanwhile_is_left_alone(
    open_hall: Open, store: Store, plant: Plant
) -> None:
    """An id that is stale by the time a worker takes it does no harm."""
    await plant("a", State.WANTED)
    await plant("b", State.WANTED)
    line = await fill_line(store)
    assert await store.claim("a", START) is not None
    async with open_hall({State.WANTED: keep}, 3, line=line) as hall:
        await until(lambda: bool(hall.steps))
        await asyncio.sleep(0.1)
    assert hall.steps == [("b", "wanted")]


async def test_a_bad_moment_is_tried_again_later(
    open_hall: Open, store: Store, wanted: Wanted, make_downloader: Make, advance: Advance
) -> None:
    """With a pause, without end, and with the bytes that are here."""
    cut = FileFault(cut_after_bytes=1_000_000, bytes_per_second=5_000_000, lasts=2)
    task_id = await wanted(cut)
    with capture_logs() as logs:
        async with open_hall(steps_of(make_downloader())) as hall:
            for failures in (1, 2):
                task = await settled(store, task_id, failures=failures, claimed_at=None)
                assert (task.state, task.reason) == ("wanted", "network")
                assert (task.fetch_at or 0) > START
                advance((task.fetch_at or 0) - task.updated_at)
                hall.bell.ring()
            task = await settled(store, task_id, state="done")
    assert (task.reason, task.message, task.failures, task.attempts) == (None, None, 0, 3)
    failed = [log for log in logs if log["event"] == "download.failed"]
    assert [(log["reason"], log["log_level"]) for log in failed] == [("network", "warning")] * 2
    finished = [log for log in logs if log["event"] == "download.finished"]
    assert finished[0]["resumed_bytes"] > 900_000


async def test_a_dead_link_is_asked_about_at_once(
    open_hall: Open, store: Store, wanted: Wanted, make_downloader: Make
) -> None:
    """The task goes back to its question, and the poller hears of it."""
    task_id = await wanted(FileFault(status=403, lasts="always"))
    async with open_hall(steps_of(make_downloader())) as hall:
        task = await settled(store, task_id, state="expected", claimed_at=None)
        assert (task.reason, task.ask_at, task.refusals) == ("link_refused", START, 1)
        await until(lambda: hall.questions_rung >= 1)


async def test_the_same_bad_content_three_times_waits_for_news(
    open_hall: Open,
    store: Store,
    wanted: Wanted,
    make_downloader: Make,
    simulator: Simulator,
    advance: Advance,
) -> None:
    """Fetched in full three times, then at most once in six hours; a good one ends it."""
    damaged = FileFault(truncate_to_bytes=2_000_000, lasts=4)
    task_id = await wanted(damaged)
    task = await settled(store, task_id, state="wanted")
    async with open_hall(steps_of(make_downloader())) as hall:
        for spoils in (1, 2, 3):
            task = await settled(store, task_id, spoils=spoils, claimed_at=None)
            assert (task.state, task.spans, task.size_bytes) == ("wanted", "", None)
            if spoils < 3:
                advance((task.fetch_at or 0) - task.updated_at)
                hall.bell.ring()
        assert (task.fetch_at or 0) - task.updated_at == 6 * HOUR
        assert task.ask_at == task.updated_at
        advance(6 * HOUR - 1)
        hall.bell.ring()
        await asyncio.sleep(0.1)
        assert len(simulator.requests) == 3
        advance(1)
        hall.bell.ring()
        task = await settled(store, task_id, spoils=4, claimed_at=None)
        advance(6 * HOUR)
        hall.bell.ring()
        task = await settled(store, task_id, state="done")
    assert (task.spoils, len(simulator.requests)) == (0, 5)


async def test_a_full_disk_pauses_downloads_and_room_lets_them_go_on(
    open_hall: Open,
    store: Store,
    wanted: Wanted,
    make_downloader: Make,
    disk: Disk,
    gates: Gates,
    *,
    announced: list[str],
    simulator: Simulator,
    advance: Advance,
) -> None:
    """One gate for all, told once, probed by one task at a time; nobody is charged for it."""
    downloader = make_downloader(min_free=await disk.free_bytes() + (1 << 40))
    task_ids = [await wanted() for _ in range(4)]
    async with open_hall(steps_of(downloader), 3) as hall:
        await until(lambda: gates.is_shut("disk"))
        await asyncio.sleep(0.5)
        first = len(simulator.requests)
        assert 1 <= first <= 3
        closings = gates.shut()[0].closings
        for probes in (1, 2, 3):
            advance(10 * SECOND)
            gates._bell.ring()
            await until(lambda probes=probes: gates.shut()[0].closings == closings + probes)  # type: ignore[misc]
            await asyncio.sleep(0.1)
            assert len(simulator.requests) == first + probes
        assert announced == ["gate.closed disk"]
        for task_id in task_ids:
            task = await store.task(task_id)
            assert task is not None
            assert (task.state, task.attempts, task.failures) == ("wanted", 0, 0)
        downloader._min_free_bytes = lambda: 0
        advance(10 * SECOND)
        gates._bell.ring()
        for task_id in task_ids:
            await settled(store, task_id, state="done")
        assert hall.workers[0].done() is False
    assert announced == ["gate.closed disk", "gate.opened disk"]


async def test_a_host_in_trouble_shuts_no_gate(
    open_hall: Open, store: Store, plant: Plant, announced: list[str]
) -> None:
    """Only our own disk pauses downloads; and a claim ends with every kind of failure."""
    failures = iter((Trouble(Reason.STALLED, "x"), Hindered(Reason.DISK, "y")))
    await plant("a", State.WANTED)
    await plant("b", State.WANTED)

    async def fail(_task: Task) -> Task:
        raise next(failures)

    async with open_hall({State.WANTED: fail}, 1):
        await settled(store, "a", reason="stalled", claimed_at=None)
        await settled(store, "b", reason="disk", claimed_at=None)
    assert announced == ["gate.closed disk"]


async def test_a_broken_ledger_is_waited_for(
    open_hall: Open, store: Store, wanted: Wanted, make_downloader: Make, break_ledger: Break
) -> None:
    """Neither the feeder nor a worker ends; what was due is done when the ledger works again."""
    task_id = await wanted()
    await break_ledger(broken=True)
    async with open_hall(steps_of(make_downloader())) as hall:
        await asyncio.sleep(0.1)
        await break_ledger(broken=False)
        await settled(store, task_id, state="done")
        assert not any(worker.done() for worker in hall.workers)


@pytest.mark.parametrize("moment", ["claim", "step", "verdict"])
async def test_a_claim_is_given_back_when_the_ledger_works_again(
    open_hall: Open, store: Store, plant: Plant, break_ledger: Break, moment: str
) -> None:
    """Whatever could not be written, the task is not left claimed for ever."""
    task_id = (await plant("a", State.WANTED)).task_id
    begun: list[bool] = []

    async def stumble(task: Task) -> Task:
        begun.append(True)
        if moment == "claim" or len(begun) > 1:
            raise Refused(Reason.LINK_REFUSED, "x")
        await break_ledger(broken=True)
        if moment == "step":
            await store.record_progress(task.task_id, "", None, None)
        raise Trouble(Reason.STALLED, "y")

    line = await fill_line(store)
    if moment == "claim":
        await break_ledger(broken=True)
    async with open_hall({State.WANTED: stumble}, 1, line=line) as hall:
        await until(lambda: len(begun) == (moment != "claim"))
        await asyncio.sleep(0.1)
        await break_ledger(broken=False)
        hall.bell.ring()
        await settled(store, task_id, state="expected", claimed_at=None)
    assert len(begun) == 1 + (moment != "claim")


async def test_a_bug_ends_the_worker(open_hall: Open, store: Store, plant: Plant) -> None:
    """It is not taken for a failure; the claim stays until the next start frees it."""
    await plant("a", State.WANTED)

    async def stumble(_task: Task) -> Task:
        raise KeyError("bug")

    async with open_hall({State.WANTED: stumble}, 1) as hall:
        async with asyncio.timeout(5):
            ended, _ = await asyncio.wait(hall.workers, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(KeyError, match="bug"):
            await ended.pop()
    task = await store.task("a")
    assert task is not None
    assert task.claimed_at == START
    await store.release_claims()
    assert await store.claim("a", START) is not None
