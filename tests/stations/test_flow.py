"""The limit that all downloads share, by a clock that jumps as told."""

import asyncio
import time

import pytest

from daemon.flow import CATCH_UP_SECONDS, LEAST_PIECE_BYTES, LOOK_SECONDS, PIECES_A_SECOND, Flow


class Clock:
    """Time that passes by sleeping, `late` seconds more each time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, late: float = 0.0) -> None:
        self.now, self._late = 1_000.0, late
        monkeypatch.setattr(asyncio, "sleep", self._sleep)

    def __call__(self) -> float:
        """Return what time it is."""
        return self.now

    async def _sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds) + self._late


@pytest.mark.parametrize("late", [0.0, 0.02])
async def test_the_limit_is_reached_and_not_exceeded(
    monkeypatch: pytest.MonkeyPatch, late: float
) -> None:
    """Within five hundredths over five seconds, also in a loop that wakes late each time."""
    clock = Clock(monkeypatch, late)
    flow = Flow(lambda: 1_000_000, clock)
    while clock.now < 1_005.0:
        await flow.count(flow.piece_bytes(1 << 20))
    assert flow.received_bytes / (clock.now - 1_000) == pytest.approx(1_000_000, rel=0.05)


async def test_unused_time_buys_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an hour without downloads the first second brings no more than a second's bytes."""
    clock = Clock(monkeypatch)
    flow = Flow(lambda: 1_000, clock)
    await flow.count(500)
    clock.now += 3_600
    began = clock.now
    await flow.count(1_000)
    assert clock.now - began == pytest.approx(1.0)
    clock.now += CATCH_UP_SECONDS / 2
    await flow.count(1_000)
    assert clock.now - began == pytest.approx(2.0)


async def test_without_a_limit_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a piece is as large as its reader likes."""
    clock = Clock(monkeypatch)
    flow = Flow(lambda: 0, clock)
    await flow.count(1 << 40)
    assert (clock.now, flow.received_bytes, flow.piece_bytes(77)) == (1_000.0, 1 << 40, 77)


def test_pieces_are_small_under_a_small_limit() -> None:
    """So that downloads take turns; but never so small that a core is busy with them."""
    assert Flow(lambda: 1 << 20).piece_bytes(1 << 20) == (1 << 20) // PIECES_A_SECOND
    assert Flow(lambda: 10).piece_bytes(1 << 20) == LEAST_PIECE_BYTES


async def test_a_changed_limit_holds_from_the_next_piece_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A reload needs no restart of anything."""
    clock, limits = Clock(monkeypatch), [100]
    flow = Flow(lambda: limits[0], clock)
    await flow.count(100)
    limits[0] = 200
    await flow.count(100)
    assert clock.now == pytest.approx(1_001.5)


@pytest.mark.parametrize(("mended", "seconds"), [(0, 0.0), (10_000_000, 0.84)])
async def test_a_limit_that_is_lifted_holds_nobody_back(
    monkeypatch: pytest.MonkeyPatch, mended: int, seconds: float
) -> None:
    """A reload mends a limit that was too low: nobody waits for what the old one cost."""
    clock = Clock(monkeypatch)
    flow = Flow(lambda: 10_000 if clock.now < 1_005 else mended, clock)
    await flow.count(8 << 20)
    assert clock.now - 1_005 <= LOOK_SECONDS + seconds
    before = clock.now
    await flow.count(1_000)
    assert clock.now - before < 0.001


async def test_those_who_wait_pay_in_turn_and_see_a_lifted_limit() -> None:
    """Each waits for those before it; when there is no limit any more, nobody waits."""
    limit = 100_000
    flow = Flow(lambda: limit)
    began = time.monotonic()
    waiting = [asyncio.create_task(flow.count(size)) for size in (10_000, 10_000, 8 << 20)]
    await waiting[0]
    assert time.monotonic() - began >= 0.099
    await waiting[1]
    assert time.monotonic() - began >= 0.199
    assert not waiting[2].done()
    limit = 0
    async with asyncio.timeout(LOOK_SECONDS + 1):
        await waiting[2]
    assert flow.received_bytes == 20_000 + (8 << 20)


async def test_each_second_pays_at_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within one piece: a thousand bytes, then a hundred, then two thousand."""
    clock = Clock(monkeypatch)
    limits = {1_000.0: 1_000, 1_001.0: 100, 1_002.0: 2_000}
    flow = Flow(lambda: limits[min(1_002.0, float(int(clock.now)))], clock)
    await flow.count(2_100)
    assert clock.now == pytest.approx(1_002.5)
