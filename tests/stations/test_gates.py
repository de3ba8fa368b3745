"""Gates: shut for all, announced once, probed by one, opened by themselves."""

import asyncio
from collections.abc import Callable

import pytest

from daemon.gates import Gates, Shut
from daemon.rules.schedule import HOUR, MINUTE, SECOND

Advance = Callable[[int], None]


@pytest.fixture
def said() -> list[str]:
    """What was announced."""
    return []


@pytest.fixture
def gates(now: Callable[[], int], said: list[str]) -> Gates:
    """The gates of one process."""

    def announce(event: str, shut: Shut) -> None:
        said.append(f"{event} {shut.name}: {shut.reason}")

    return Gates(now, announce)


async def passes(gates: Gates, *names: str) -> bool:
    """Return whether somebody who comes now gets through at once."""
    try:
        async with asyncio.timeout(0.02):
            await gates.pass_through(*names)
    except TimeoutError:
        return False
    return True


async def test_an_open_gate_holds_nobody(gates: Gates, said: list[str]) -> None:
    """Everybody passes, and opening what is open is no news."""
    assert [await passes(gates, "key", "rate") for _ in range(3)] == [True] * 3
    gates.open("key")
    assert said == []
    assert gates.shut() == []


async def test_a_gate_is_announced_once(gates: Gates, said: list[str], advance: Advance) -> None:
    """However often it is shut again, and once more when it opens; the next time anew."""
    for reason in ("wrong key", "still wrong", "again"):
        gates.close("key", reason)
        advance(HOUR)
        assert await passes(gates, "key")
    assert [(shut.reason, shut.closings) for shut in gates.shut()] == [("again", 3)]
    gates.open("key")
    gates.open("key")
    gates.close("key", "revoked")
    assert said == [
        "gate.closed key: wrong key",
        "gate.opened key: again",
        "gate.closed key: revoked",
    ]


async def test_one_probe_passes_when_the_pause_is_over(gates: Gates, advance: Advance) -> None:
    """Nobody before, one then, and the next one only after another pause."""
    gates.close("rate", "slower")
    assert not await passes(gates, "rate")
    advance(10 * SECOND - 1)
    assert not await passes(gates, "rate")
    advance(1)
    assert [await passes(gates, "rate") for _ in range(3)] == [True, False, False]
    advance(10 * SECOND)
    assert await passes(gates, "rate")
    assert gates.is_shut("rate")


async def test_calls_that_were_on_their_way_shut_a_gate_once(gates: Gates) -> None:
    """Without a probe in between a second no is no news: not a longer pause, not another word."""
    gates.close("key", "wrong key")
    before = gates.shut()
    for _ in range(5):
        gates.close("key", "late answer", HOUR)
    assert gates.shut() == before


async def test_a_failed_probe_shuts_it_for_longer(gates: Gates, advance: Advance) -> None:
    """The pauses grow to their limit, and the gate remembers when it was shut first."""
    since = 0
    for number, pause in enumerate((1, 2, 5, 10, 10)):
        gates.close("key", "wrong key")
        (shut,) = gates.shut()
        since = since or shut.since
        assert (shut.since, shut.closings) == (since, number + 1)
        advance(pause * MINUTE - 1)
        assert not await passes(gates, "key")
        advance(1)
        assert await passes(gates, "key")


async def test_the_wish_of_the_provider_replaces_the_pause(gates: Gates, advance: Advance) -> None:
    """Retry-After is followed where there is one."""
    gates.close("rate", "slower", 2 * SECOND)
    advance(2 * SECOND - 1)
    assert not await passes(gates, "rate")
    advance(1)
    assert await passes(gates, "rate")


async def test_a_wish_for_no_pause_at_all_is_not_followed_for_long(
    gates: Gates, now: Callable[[], int], advance: Advance
) -> None:
    """A host that says "at once" again and again is asked less and less, as any other."""
    pauses = []
    for _ in range(7):
        gates.close("rate", "slower", 0)
        pauses.append((gates.shut()[0].probe_at - now()) // SECOND)
        advance(pauses[-1] * SECOND)
        assert await passes(gates, "rate")
    assert pauses == [1, 2, 4, 8, 16, 32, 64]
    gates.close("key", "x", 0)
    assert gates.shut()[0].probe_at - now() == SECOND


async def test_several_gates_hold_until_the_last_one(gates: Gates, advance: Advance) -> None:
    """A probe of one gate does not slip past another that is still shut."""
    gates.close("rate", "slower")
    gates.close("maintenance", "closed for today")
    advance(10 * SECOND)
    assert not await passes(gates, "rate", "maintenance")
    assert [shut.name for shut in gates.shut()] == ["maintenance", "rate"]
    advance(5 * MINUTE)
    assert await passes(gates, "rate", "maintenance")
    assert not await passes(gates, "rate")


async def test_all_who_wait_are_let_go_when_it_opens(gates: Gates) -> None:
    """At once, and not when their pause would have been over."""
    gates.close("disk", "full")
    waiting = [asyncio.create_task(gates.pass_through("disk")) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in waiting)
    gates.open("disk")
    async with asyncio.timeout(1):
        await asyncio.gather(*waiting)


async def test_a_pause_ends_by_itself(gates: Gates, advance: Advance) -> None:
    """Somebody who already waits gets the probe without another event."""
    gates.close("rate", "slower", 0)
    waiting = [asyncio.create_task(gates.pass_through("rate")) for _ in range(2)]
    await asyncio.sleep(0.02)
    assert not any(task.done() for task in waiting)
    advance(1_000)
    async with asyncio.timeout(2):
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0.02)
    assert sorted(task.done() for task in waiting) == [False, True]
    gates.open("rate")
    async with asyncio.timeout(1):
        await asyncio.gather(*waiting)


async def test_a_person_may_have_it_probed_now(gates: Gates) -> None:
    """One probe each, at once, for those who wait already; a failure keeps it shut."""
    gates.close("key", "wrong key")
    gates.close("disk", "full")
    waiting = [asyncio.create_task(gates.pass_through("key")) for _ in range(3)]
    await asyncio.sleep(0.01)
    gates.probe_now()
    async with asyncio.timeout(1):
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0.02)
    assert sorted(task.done() for task in waiting) == [False, False, True]
    assert await passes(gates, "disk")
    assert [shut.closings for shut in gates.shut()] == [1, 1]
    for task in waiting:
        task.cancel()


async def test_a_cancelled_wait_takes_no_probe(gates: Gates, advance: Advance) -> None:
    """Who leaves the queue does not use up what the next one needs."""
    gates.close("rate", "slower")
    waiting = asyncio.create_task(gates.pass_through("rate"))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    advance(10 * SECOND)
    assert await passes(gates, "rate")


async def test_a_long_pause_is_looked_at_twice_a_minute(gates: Gates) -> None:
    """The monotonic clock stands still while a machine is suspended, the pause does not."""
    gates.close("rate", "slower", HOUR)
    waiting = asyncio.create_task(gates.pass_through("rate"))
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    due = min(handle.when() for handle in loop._scheduled if not handle.cancelled())  # type: ignore[attr-defined]
    assert due - loop.time() <= 30
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
