"""The poller: asks what is due, once, at its pace, and leaves nothing behind."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from structlog.testing import capture_logs

from daemon import poller
from daemon.bell import Bell
from daemon.config.secret import Secret
from daemon.config.sections import Provider as Section
from daemon.gates import Gates
from daemon.outbound import api_session
from daemon.poller import Poller, watch_credits
from daemon.provider import BURST, Provider
from daemon.rules.lifecycle import Cause, State
from daemon.rules.schedule import HOUR, MINUTE, SECOND, Pace
from daemon.rules.task import Task, Tidings
from daemon.rules.verdict import Terms, Verdict
from daemon.simulator.faults import ApiFaults, Faults, Reply
from daemon.simulator.simulator import Simulator
from daemon.store import Store

PACE = Pace(first_after_ms=3 * MINUTE, interval_ms=30 * SECOND, limit_ms=6 * HOUR)
TERMS = Terms(pace=PACE, retry_first_ms=2000, retry_limit_ms=15 * MINUTE, has_key=True)
NO_CALLBACK = Faults(callbacks=())

START = 1_790_000_000_000

Advance = Callable[[int], None]
Now = Callable[[], int]
Plant = Callable[..., Awaitable[Task]]
Run = Callable[..., AbstractAsyncContextManager["Station"]]


class Station:
    """A running poller with its bell, and how often it rang for downloads."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.bell = Bell()
        self.downloads_rung = 0

    def ring_downloads(self) -> None:
        """Count."""
        self.downloads_rung += 1


@pytest.fixture
def run(store: Store, simulator: Simulator, gates: Gates, now: Now) -> Run:
    """Run a poller while the block runs, with this many calls a second."""

    @asynccontextmanager
    async def start(rate: float = 1000.0) -> AsyncIterator[Station]:
        async with api_session(simulator.base_url, lambda: Secret("key"), 5) as session:
            station = Station(Provider(session, "sunoapi", gates, now, rate))
            asking = asyncio.create_task(
                Poller(
                    *(store, station.provider, lambda: TERMS, now),
                    bell=station.bell,
                    ring_downloads=station.ring_downloads,
                ).run()
            )
            try:
                yield station
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            assert asking.cancelled()

    return start


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 5) -> None:
    """Wait until something has happened."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - neither a file nor a ledger has an event
            await asyncio.sleep(0.01)


def asked(simulator: Simulator) -> list[str | None]:
    """Return the ids that were asked about, in order."""
    return [request.task_id for request in simulator.requests]


async def settled(store: Store, task_id: str, **expected: object) -> None:
    """Wait until a task looks as expected."""

    async def looks() -> bool:
        task = await store.task(task_id)
        return all(getattr(task, name) == value for name, value in expected.items())

    await until(looks)


async def test_a_due_task_is_asked_about_and_what_follows_is_committed(
    run: Run, store: Store, plant: Plant, simulator: Simulator
) -> None:
    """Success makes it wanted, with the link, and the downloads hear of it."""
    task_id = simulator.add_task(NO_CALLBACK)
    await plant(task_id, ask_at=START)
    async with run() as station:
        await settled(store, task_id, state="wanted")
        assert station.downloads_rung == 1
    task = await store.task(task_id)
    assert task is not None
    assert task.link == simulator.tasks[task_id].video_url
    assert task.fetch_at == START


async def test_nothing_is_asked_before_its_time(
    run: Run, store: Store, plant: Plant, simulator: Simulator, advance: Advance
) -> None:
    """And then once; the bell alone makes nobody ask again."""
    task_id = simulator.add_task(NO_CALLBACK, finished=False)
    await plant(task_id, ask_at=START + 1000)
    async with run() as station:
        for _ in range(3):
            station.bell.ring()
            await asyncio.sleep(0.02)
        assert asked(simulator) == []
        advance(1000)
        station.bell.ring()
        await settled(store, task_id, ask_at=START + 1000 + PACE.interval_ms)
        station.bell.ring()
        await asyncio.sleep(0.05)
    assert asked(simulator) == [task_id]


async def test_what_falls_due_is_asked_without_a_bell(
    run: Run, store: Store, plant: Plant, simulator: Simulator, advance: Advance
) -> None:
    """A lost ring costs a moment: the poller sleeps until the next question."""
    task_id = simulator.add_task(NO_CALLBACK)
    await plant(task_id, ask_at=START + 300)
    async with run():
        await asyncio.sleep(0.1)
        advance(300)
        await settled(store, task_id, state="wanted")


async def test_every_task_is_asked_once(
    run: Run, store: Store, plant: Plant, simulator: Simulator
) -> None:
    """Many at a time, none twice, however often the bell rings meanwhile."""
    task_ids = [simulator.add_task(NO_CALLBACK) for _ in range(60)]
    for task_id in task_ids:
        await plant(task_id, ask_at=START - 1)

    async def all_wanted() -> bool:
        return (await store.counts())["wanted"] == len(task_ids)

    async with run() as station:
        while not await all_wanted():
            station.bell.ring()
            await asyncio.sleep(0)
    assert sorted(asked(simulator), key=str) == sorted(task_ids)


async def test_a_question_that_is_no_longer_due_is_not_asked(
    run: Run, store: Store, plant: Plant, simulator: Simulator, gates: Gates
) -> None:
    """A task that moved on while the gate was shut costs no call; the next one is asked."""
    moved = await plant(simulator.add_task(NO_CALLBACK), ask_at=START)
    gates.close("maintenance", "x")
    async with run() as station:
        await asyncio.sleep(0.1)
        await store.settle(moved, START, lambda _: Verdict(None, {"ask_at": None}))
        gates.open("maintenance")
        await asyncio.sleep(0.1)
        assert asked(simulator) == []
        task_id = simulator.add_task(NO_CALLBACK)
        await plant(task_id, ask_at=START)
        station.bell.ring()
        await settled(store, task_id, state="wanted")
    assert asked(simulator) == [task_id]


async def test_a_slow_answer_is_not_asked_for_twice(
    run: Run, store: Store, plant: Plant, simulator: Simulator
) -> None:
    """While a question is on its way the task stays due, and only once."""
    slow = Faults(callbacks=(), replies=(Reply(flag="SUCCESS", delay_seconds=0.3),))
    task_id = simulator.add_task(slow)
    await plant(task_id, ask_at=START)
    async with run() as station:
        for _ in range(10):
            await asyncio.sleep(0.02)
            station.bell.ring()
        await settled(store, task_id, state="wanted")
    assert asked(simulator) == [task_id]


async def test_a_fresh_callback_does_not_wait_behind_old_trouble(
    run: Run, store: Store, plant: Plant, simulator: Simulator
) -> None:
    """With 500 old questions due, that of this minute is among the next few."""
    for number in range(500):
        await plant(f"old{number}", ask_at=START - 500 + number)
    async with run(100) as station:

        async def begun() -> bool:
            return len(asked(simulator)) > 2 * BURST

        await until(begun)
        fresh = simulator.add_task(NO_CALLBACK)
        await store.receive(
            [
                Tidings(
                    task_id=fresh,
                    cause=Cause.HINTED,
                    now=START,
                    deadline_at=START + HOUR,
                    ask_at=START,
                )
            ]
        )
        before = len(asked(simulator))
        station.bell.ring()
        await settled(store, fresh, state="wanted")
    assert asked(simulator).index(fresh) <= before + poller.AT_ONCE
    assert set(asked(simulator)) > {"old0"}


async def test_a_task_that_nobody_knows_fails_softly(
    run: Run, store: Store, plant: Plant, simulator: Simulator, advance: Advance
) -> None:
    """`data` null three times, the last an hour after adoption; and it is still asked about."""
    await plant("nobody", ask_at=START)
    async with run() as station:
        waited = 0
        for denials in (1, 2, 3):
            await settled(store, "nobody", denials=denials, state="expected")
            waited += 10 * MINUTE
            advance(10 * MINUTE)
            station.bell.ring()
        await settled(store, "nobody", denials=4)
        advance(HOUR - waited)
        station.bell.ring()
        await settled(store, "nobody", state="failed", reason="unknown_task")
        failed = await store.task("nobody")
        assert failed is not None
        assert failed.ask_at == START + HOUR + PACE.limit_ms
        before = len(asked(simulator))
        advance(PACE.limit_ms - 1)
        station.bell.ring()
        await asyncio.sleep(0.05)
        assert len(asked(simulator)) == before
        advance(1)
        station.bell.ring()
        await settled(store, "nobody", ask_at=START + HOUR + 2 * PACE.limit_ms)
    assert len(asked(simulator)) == before + 1
    moved = [(step.before, step.after, step.cause) for step in await store.history("nobody")]
    assert moved[1:] == [("expected", "failed", "unknown")]


async def test_denials_in_one_breath_are_one(
    run: Run, store: Store, plant: Plant, advance: Advance
) -> None:
    """Questions less than ten minutes apart prove nothing, how many they may be."""
    await plant("nobody", ask_at=START, created_at=START - HOUR)
    async with run() as station:
        for _ in range(5):
            await settled(store, "nobody", denials=1, state="expected")
            advance(30 * SECOND)
            station.bell.ring()
            await asyncio.sleep(0.03)
    assert (await store.counts())["failed"] == 0


async def test_a_wrong_key_holds_all_questions_and_no_task_fails(
    run: Run,
    store: Store,
    plant: Plant,
    simulator: Simulator,
    announced: list[str],
    advance: Advance,
) -> None:
    """A burst may be on its way; then one probe at a time; with a good key all are asked."""
    task_ids = [simulator.add_task(NO_CALLBACK) for _ in range(20)]
    for task_id in task_ids:
        await plant(task_id, ask_at=START)
    simulator.script_api(ApiFaults(codes=(401,), repeat=1000))
    async with run(5) as station:
        gates = station.provider._gates

        async def shut_for(closings: int) -> None:
            async def is_shut() -> bool:
                return [gate.closings for gate in gates.shut()] == [closings]

            await until(is_shut)

        await shut_for(1)
        await asyncio.sleep(0.3)
        asked_once = len(asked(simulator))
        assert 1 <= asked_once <= BURST + 1
        for probes, pause in enumerate((MINUTE, 2 * MINUTE, 5 * MINUTE), 1):
            advance(pause)
            gates._bell.ring()
            await shut_for(1 + probes)
            await asyncio.sleep(0.1)
            assert len(asked(simulator)) == asked_once + probes
        assert announced == ["gate.closed key"]
        assert (await store.counts())["expected"] == len(task_ids)
        simulator.script_api(ApiFaults(codes=()))
    async with run(1000) as station:
        advance(10 * MINUTE)
        station.provider._gates._bell.ring()

        async def all_wanted() -> bool:
            return (await store.counts())["wanted"] == len(task_ids)

        await until(all_wanted)
    assert announced == ["gate.closed key", "gate.opened key"]


async def test_a_callback_beats_the_answer_that_was_on_its_way(
    run: Run, store: Store, plant: Plant, simulator: Simulator
) -> None:
    """An answer of failure, asked before a trusted success came, does not take it back."""
    slow = Faults(callbacks=(), replies=(Reply(flag="GENERATE_MP4_FAILED", delay_seconds=0.3),))
    task_id = simulator.add_task(slow)
    await plant(task_id, ask_at=START)
    success = Tidings(
        task_id=task_id,
        cause=Cause.LINKED,
        now=START,
        deadline_at=START + HOUR,
        ask_at=None,
        link="https://x",
    )
    async with run():

        async def on_its_way() -> bool:
            return bool(asked(simulator))

        await until(on_its_way)
        await store.receive([success])
        await settled(store, task_id, answered_at=START)
    task = await store.task(task_id)
    assert task is not None
    assert (task.state, task.link, task.reason) == ("wanted", "https://x", None)


async def test_a_contradicted_file_is_told_and_stays(
    run: Run, store: Store, plant: Plant, simulator: Simulator
) -> None:
    """A film fetched without confirmation that the provider does not confirm: an event, no more."""
    task_id = simulator.add_task(Faults(outcome="GENERATE_MP4_FAILED", callbacks=()))
    await plant(task_id, State.DONE, unconfirmed=1, ask_at=START)
    with capture_logs() as logs:
        async with run():
            await settled(store, task_id, answered_at=START)
    assert [log["task_id"] for log in logs if log["event"] == "task.unconfirmed"] == [task_id]
    task = await store.task(task_id)
    assert task is not None
    assert (task.state, task.unconfirmed) == ("done", 1)


async def test_a_ledger_that_cannot_be_written_is_waited_for(
    run: Run,
    store: Store,
    plant: Plant,
    simulator: Simulator,
    break_ledger: Callable[..., Awaitable[None]],
) -> None:
    """No question while it cannot be read; one whose answer cannot be kept is asked again."""
    task_id = simulator.add_task(NO_CALLBACK)
    await plant(task_id, ask_at=START)
    await break_ledger(broken=True)
    async with run():
        await asyncio.sleep(0.1)
        assert asked(simulator) == []
        await break_ledger(broken=False)
        await store.commits.connection.execute_fetchall("PRAGMA query_only = ON")

        async def asked_twice() -> bool:
            return len(asked(simulator)) >= 2

        await until(asked_twice)
        await store.commits.connection.execute_fetchall("PRAGMA query_only = OFF")
        await settled(store, task_id, state="wanted")


async def test_low_credits_are_said_once(
    store: Store, simulator: Simulator, gates: Gates, now: Now, advance: Callable[[int], None]
) -> None:
    """At the crossing, and again only after they were higher; every balance is remembered."""
    seen: list[float] = []
    bell, section = Bell(), Section(base_url="", api_key=Secret("key"), credits_low=20)
    with capture_logs() as logs:
        async with api_session(simulator.base_url, lambda: Secret("key"), 5) as session:
            provider = Provider(session, "sunoapi", gates, now, 1000)
            watching = asyncio.create_task(
                watch_credits(
                    store, provider, lambda: section, now, bell=bell, remember=seen.append
                )
            )
            for credits_left in (20, 19, 3, 500, 7):
                simulator.credits = credits_left
                before = len(seen)

                async def seen_twice(before: int = before) -> bool:
                    advance(10)
                    bell.ring()
                    return len(seen) >= before + 2

                await until(seen_twice)
            simulator.script_api(ApiFaults(codes=(500,), repeat=2))
            bell.ring()
            await asyncio.sleep(0.1)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    assert list(dict.fromkeys(seen)) == [20, 19, 3, 500, 7]
    told = [log["credits"] for log in logs if log["event"] == "credits.low"]
    assert told == [19, 7]
    assert {left for _, left in await store.balances.since(0)} == {20, 19, 3, 500, 7}


async def test_a_task_of_the_owner_has_a_turn_of_its_own(
    run: Run, plant: Plant, simulator: Simulator
) -> None:
    """Neither the longest overdue nor the freshest, it stands behind none of the made-up ids."""
    for number in range(20):
        await plant(f"old{number}", ask_at=START - 100, source="callback")
        await plant(f"new{number}", ask_at=START, source="callback")
    await plant("tracked", ask_at=START - 50, ask_pause_ms=1_000, source="track")
    async with run():

        async def heard() -> bool:
            return len(simulator.requests) >= 8

        await until(heard)
    assert "tracked" in asked(simulator)[:8]
