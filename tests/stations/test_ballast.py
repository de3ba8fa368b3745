"""Room that is given up when the disk is full: callbacks are taken where nothing else is."""

# ruff: noqa: ASYNC240 - a test may wait for its own disk

import asyncio
import resource
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daemon.ballast import Ballast
from daemon.lock import StoreRefused
from daemon.store import StoreFailed, open_store

MIB = 1 << 20


class Quota(Ballast):
    """A ballast in a quota of one byte a file, which is lifted when the ballast is given up."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir)
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def tighten(self) -> None:
        """Let every write beyond the first byte of a file fail."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, self._before[1]))

    def lift(self) -> None:
        """Let files grow again."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)

    def release(self) -> bool:  # type: ignore[explicit-override] # typing.override begins with 3.12
        """Give the room up."""
        self.lift()
        return super().release()


async def keep_for_a_moment(ballast: Ballast) -> None:
    """Let the ballast be looked after a few times."""
    keeping = asyncio.create_task(ballast.keep(0.01))
    await asyncio.sleep(0.2)
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping


async def test_it_is_filled_given_up_and_filled_again(tmp_path: Path) -> None:
    """It occupies real room, is given up once, and is said each time."""
    ballast, path = Ballast(tmp_path), tmp_path / "ballast"
    with capture_logs() as logs:
        await keep_for_a_moment(ballast)
        assert not logs
        found = path.stat()
        assert MIB <= found.st_blocks * 512 <= found.st_size + MIB <= 65 * MIB
        assert found.st_mode & 0o777 == 0o600
        assert ballast.release()
        assert not path.exists()
        assert not ballast.release()
        await keep_for_a_moment(ballast)
        assert path.exists()
    assert [line["event"] for line in logs] == ["ballast.released", "ballast.filled"]
    assert str(tmp_path) in logs[0]["message"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["ballast"]


async def test_a_small_disk_keeps_most_of_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the ballast itself is what fills the disk."""
    monkeypatch.setattr("daemon.ballast.SHARE", 1 << 50)
    await keep_for_a_moment(Ballast(tmp_path))
    assert not list(tmp_path.iterdir())


async def test_a_disk_that_reserves_nothing_is_no_reason_to_stop(tmp_path: Path) -> None:
    """Without a ballast the daemon is as good as it was before there was one."""
    quota = Quota(tmp_path)
    quota.tighten()
    try:
        await keep_for_a_moment(quota)
    finally:
        quota.lift()
    assert not list(tmp_path.iterdir())


async def adopt(state_dir: Path, quota: Quota) -> None:
    """Open a ledger, let the disk be full, take a task."""
    async with open_store(state_dir, ballast=quota) as store:
        quota.tighten()
        try:
            await store.adopt(["a"], source="track", label=None, now=1, deadline_at=2, ask_at=None)
        finally:
            quota.lift()
        assert (await store.counts())["expected"] == 1


async def test_a_full_disk_is_not_felt_while_there_is_ballast(tmp_path: Path) -> None:
    """The statement is repeated in the room that was given up; nobody is told 503."""
    quota = Quota(tmp_path)
    await keep_for_a_moment(quota)
    with capture_logs() as logs:
        await adopt(tmp_path, quota)
    assert [line["event"] for line in logs] == ["ballast.released"]
    with pytest.raises(StoreFailed, match="did not commit"):
        await adopt(tmp_path / "other", quota)


async def test_a_full_disk_is_opened_in_the_room_of_the_ballast(tmp_path: Path) -> None:
    """A file system without room refuses even the shared memory of the log."""
    quota = Quota(tmp_path)
    await keep_for_a_moment(quota)
    quota.tighten()
    try:
        async with open_store(tmp_path, ballast=quota) as store:
            assert await store.writable()
        quota.tighten()
        with pytest.raises(StoreRefused, match="make room"):
            async with open_store(tmp_path / "other", ballast=quota):
                pytest.fail("a ledger was opened without room")
    finally:
        quota.lift()
