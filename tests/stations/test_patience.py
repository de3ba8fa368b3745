"""Waiting ends with proof: links that nobody confirms are tried, lost is what is proved lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from structlog.testing import capture_logs

from daemon import patience
from daemon.clock import Clock
from daemon.gates import Gates
from daemon.hosts import Hosts
from daemon.patience import Patience
from daemon.rules.lifecycle import State
from daemon.rules.schedule import HOUR, MINUTE, Pace
from daemon.rules.task import Task
from daemon.rules.verdict import Terms
from daemon.store import Store

START = 1_790_000_000_000
TRUST_AFTER = 6 * HOUR
PACE = Pace(first_after_ms=3 * MINUTE, interval_ms=30_000, limit_ms=6 * HOUR)

Advance = Callable[[int], None]
Now = Callable[[], int]
Plant = Callable[..., Awaitable[Task]]
Sweep = Callable[..., AbstractAsyncContextManager[list[bool]]]


@pytest.fixture
def clock(now: Now) -> Clock:
    """A clock that was never set."""
    return Clock(now, lambda: now() - START)


@pytest.fixture
def sweep(store: Store, gates: Gates, hosts: Hosts, clock: Clock, now: Now) -> Sweep:
    """Sweep once after the block; yields how often downloads were rung."""

    @asynccontextmanager
    async def start(
        *, has_key: bool = True, grace_ms: int = 0, answered_at: int | None = None
    ) -> AsyncIterator[list[bool]]:
        terms = Terms(pace=PACE, retry_first_ms=2000, retry_limit_ms=MINUTE, has_key=has_key)
        rung: list[bool] = []
        sweeping = asyncio.create_task(
            Patience(
                store=store,
                gates=gates,
                hosts=hosts,
                clock=clock,
                terms=lambda: terms,
                trust_link_after_ms=lambda: TRUST_AFTER,
                answered_at=lambda: answered_at,
                now=now,
                ring_downloads=lambda: rung.append(True),
                grace_ms=grace_ms,
            ).run()
        )
        try:
            yield rung
            await asyncio.sleep(0.3)
        finally:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
        assert sweeping.cancelled()

    return start


async def state_of(store: Store, task_id: str = "a") -> str:
    """Return the state of a task."""
    task = await store.task(task_id)
    assert task is not None
    return task.state


async def test_the_provider_may_answer_a_new_process_first(
    store: Store, plant: Plant, sweep: Sweep, advance: Advance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hours in which the daemon was not there are no silence of the provider."""
    monkeypatch.setattr(patience, "LONGEST_PAUSE_MS", 0)
    await plant("a", hint="https://x", hint_at=START - TRUST_AFTER, ask_at=START - TRUST_AFTER)
    async with sweep(grace_ms=10_000):
        await asyncio.sleep(0.1)
        for _ in range(3):
            assert await state_of(store) == "expected"
            advance(4_000)
            await asyncio.sleep(0.6)
    assert await state_of(store) == "wanted"


async def test_the_provider_may_answer_a_machine_that_was_suspended_first(
    store: Store, plant: Plant, sweep: Sweep, advance: Advance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could ask meanwhile; a forged link would be fetched, and the true one never."""
    monkeypatch.setattr(patience, "LONGEST_PAUSE_MS", 0)
    async with sweep(grace_ms=10_000):
        for _ in range(3):
            advance(4_000)
            await asyncio.sleep(0.6)
        await plant("a", hint="https://x", hint_at=START - TRUST_AFTER, ask_at=START - TRUST_AFTER)
        advance(HOUR)
        await asyncio.sleep(0.6)
        assert await state_of(store) == "expected"
        for _ in range(3):
            advance(4_000)
            await asyncio.sleep(0.6)
    assert await state_of(store) == "wanted"


async def test_a_hint_that_nobody_confirms_is_tried_in_the_end(
    store: Store, plant: Plant, sweep: Sweep
) -> None:
    """Marked as unconfirmed, and the downloads hear of it; promise 2 outranks the confirmation."""
    await plant("a", hint="https://x", hint_at=START - TRUST_AFTER)
    await plant("young", hint="https://x", hint_at=START - TRUST_AFTER + 1)
    await plant("linked", link="https://y", unanswered_since=START - TRUST_AFTER)
    async with sweep() as rung:
        pass
    task = await store.task("a")
    assert task is not None
    assert (task.state, task.link, task.unconfirmed, task.fetch_at) == (
        "wanted",
        "https://x",
        1,
        START,
    )
    linked = await store.task("linked")
    assert linked is not None
    assert (linked.state, linked.link, linked.unconfirmed) == ("wanted", "https://y", 0)
    assert await state_of(store, "young") == "expected"
    assert len(rung) == 2


async def test_no_hint_is_tried_while_the_provider_answers_about_others(
    store: Store, plant: Plant, sweep: Sweep
) -> None:
    """Whoever fills our queue with made-up callbacks does not make the provider silent."""
    await plant("queued", hint="https://x", hint_at=START - TRUST_AFTER, ask_at=START - TRUST_AFTER)
    async with sweep(answered_at=START - TRUST_AFTER + 1):
        pass
    assert await state_of(store, "queued") == "expected"
    async with sweep(answered_at=START - TRUST_AFTER):
        pass
    assert await state_of(store, "queued") == "wanted"


async def test_without_a_key_no_hint_waits_for_an_answer(
    store: Store, plant: Plant, sweep: Sweep
) -> None:
    """There is nobody to confirm anything, so the callback was believed when it came."""
    await plant("a", hint="https://x", hint_at=START - TRUST_AFTER)
    async with sweep(has_key=False) as rung:
        pass
    assert await state_of(store) == "expected"
    assert rung == []


@pytest.mark.parametrize(
    ("state", "proof", "has_key", "after"),
    [
        (State.WANTED, {"refusal_proofs": 3, "questions": 2}, True, "lost"),
        (State.WANTED, {"refusal_proofs": 2, "questions": 2}, True, "wanted"),
        (State.WANTED, {"refusal_proofs": 3, "questions": 1}, True, "wanted"),
        (State.WANTED, {"refusal_proofs": 3}, False, "lost"),
        (State.WANTED, {"refusal_proofs": 2}, False, "wanted"),
        (State.EXPECTED, {"questions": 2}, True, "lost"),
        (State.EXPECTED, {"questions": 1}, True, "expected"),
        (State.EXPECTED, {}, False, "expected"),
        (State.VERIFIED, {"refusal_proofs": 3, "questions": 2}, True, "verified"),
    ],
)
async def test_a_deadline_without_proof_ends_nothing(
    store: Store,
    plant: Plant,
    sweep: Sweep,
    *,
    state: State,
    proof: dict[str, int],
    has_key: bool,
    after: str,
) -> None:
    """Refusals and questions prove a loss, a clock reading does not."""
    await plant("a", state, deadline_at=START, ask_at=None, **proof)
    async with sweep(has_key=has_key):
        pass
    task = await store.task("a")
    assert task is not None
    assert task.state == after
    assert (task.reason == "deadline") == (after == "lost")


async def test_before_the_deadline_proof_ends_nothing_either(
    store: Store, plant: Plant, sweep: Sweep, advance: Advance
) -> None:
    """To the millisecond; and a clock that jumps ahead alone loses no task without proof."""
    proof = {"refusal_proofs": 3, "questions": 2}
    await plant("a", State.WANTED, deadline_at=START + 1, **proof)
    await plant("claimed", State.WANTED, deadline_at=START, claimed_at=START, **proof)
    await plant("unproved", State.WANTED, deadline_at=START)
    async with sweep():
        pass
    assert (await store.counts())["wanted"] == 3
    advance(365 * 24 * HOUR)
    async with sweep():
        pass
    assert await state_of(store) == "lost"
    assert (await store.counts())["wanted"] == 2


async def test_without_a_key_and_a_link_a_day_more_is_waited(
    store: Store, plant: Plant, sweep: Sweep, advance: Advance
) -> None:
    """A callback may still come; after that nobody will ever tell."""
    await plant("a", deadline_at=START)
    advance(24 * HOUR - 1)
    async with sweep(has_key=False):
        pass
    assert await state_of(store) == "expected"
    advance(1)
    async with sweep(has_key=False):
        pass
    assert await state_of(store) == "lost"


async def test_a_machine_may_start_with_a_wrong_clock(
    store: Store, plant: Plant, sweep: Sweep, advance: Advance
) -> None:
    """By the clock alone nothing is lost before it had the time to be set."""
    await plant("a", deadline_at=START - 365 * 24 * HOUR)
    async with sweep(has_key=False):
        pass
    assert await state_of(store) == "expected"
    advance(HOUR)
    async with sweep(has_key=False):
        pass
    assert await state_of(store) == "lost"


async def test_it_is_swept_again_and_again(
    store: Store, plant: Plant, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is proved later is found later, without anybody's word."""
    monkeypatch.setattr(patience, "LONGEST_PAUSE_MS", 0)
    async with sweep():
        await asyncio.sleep(0.1)
        await plant("a", State.WANTED, deadline_at=START, refusal_proofs=3, questions=2)
        await asyncio.sleep(0.6)
    assert await state_of(store) == "lost"


async def test_a_broken_ledger_is_swept_later(
    store: Store,
    plant: Plant,
    sweep: Sweep,
    break_ledger: Callable[..., Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full disk does not end the sweeping."""
    monkeypatch.setattr(patience, "LONGEST_PAUSE_MS", 0)
    await plant("a", State.WANTED, deadline_at=START, refusal_proofs=3, questions=2)
    await break_ledger(broken=True)
    async with sweep():
        await asyncio.sleep(0.1)
        await break_ledger(broken=False)
        assert await state_of(store) == "wanted"
        await asyncio.sleep(0.6)
    assert await state_of(store) == "lost"


async def test_more_than_a_page_is_swept(
    store: Store, plant: Plant, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks that cannot be lost yet do not hide those behind them."""
    monkeypatch.setattr(patience, "BATCH", 2)
    for number in range(5):
        await plant(f"stays{number}", State.WANTED, deadline_at=START)
    await plant("a", State.WANTED, deadline_at=START, refusal_proofs=3, questions=2)
    async with sweep():
        pass
    assert await state_of(store) == "lost"
    assert (await store.counts())["wanted"] == 5


PROVED = {"refusal_proofs": 3, "questions": 2}


@pytest.mark.parametrize("name", ["key", "rate", "maintenance", "api", "disk", "host:a.example"])
async def test_while_a_gate_is_shut_nothing_is_lost(
    store: Store, plant: Plant, sweep: Sweep, gates: Gates, name: str
) -> None:
    """Whoever cannot try cannot prove; another host's trouble, or no credits, stop no proof."""
    await plant("a", State.WANTED, deadline_at=START, link="https://a.example/f", **PROVED)
    gates.close(name, "trouble")
    async with sweep():
        pass
    assert await state_of(store) == "wanted"
    gates.open(name)
    gates.close("credits", "none left")
    gates.close("host:b.example", "trouble")
    async with sweep():
        pass
    assert await state_of(store) == "lost"


async def test_by_a_clock_that_was_set_nothing_is_lost(
    store: Store, plant: Plant, sweep: Sweep, clock: Clock
) -> None:
    """Not even with proof: the times of the proofs come from the same clock."""
    await plant("a", State.WANTED, deadline_at=START, **PROVED)
    await plant("hinted", hint="https://x", hint_at=START - TRUST_AFTER)
    clock.compare("Thu, 01 Jan 1970 00:00:00 GMT")
    async with sweep():
        pass
    assert await state_of(store) == "wanted"
    # Nor has anybody been silent for six hours by it.
    assert await state_of(store, "hinted") == "expected"


async def test_a_near_deadline_is_told_at_72_and_at_24_hours(
    plant: Plant, sweep: Sweep, advance: Advance
) -> None:
    """Once each, of what is not here; a restart repeats nothing, and a late start says one."""
    end = START + 14 * 24 * HOUR
    for state in (State.EXPECTED, State.VERIFIED, State.DONE):
        await plant(state.value, state, deadline_at=end)
    await plant("seen", deadline_at=end, forgotten_at=START)
    # Known with less than a day to go: one warning, at once.
    await plant("short", deadline_at=START + 20 * HOUR)
    told: list[tuple[str, float]] = []
    for pause in (0, 11 * 24 * HOUR - 1, 1, 48 * HOUR - 1, 1, HOUR):
        advance(pause)
        for _ in range(2):
            with capture_logs() as logs:
                async with sweep():
                    pass
            told += [
                (line["task_id"], line["hours_left"])
                for line in logs
                if line["event"] == "deadline.near"
            ]
    assert told[0] == ("short", 20.0)
    assert told[1:] == [
        (state, left) for left in (72.0, 24.0) for state in ("expected", "verified")
    ]
