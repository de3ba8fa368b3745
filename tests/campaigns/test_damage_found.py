"""Damages that the campaign of damaged ledgers has met, each in its smallest form."""

import shutil
from pathlib import Path

import pytest

from daemon.inspection import LEDGER_NAME
from daemon.lock import StoreRefused
from daemon.soundness import check_soundness
from daemon.store import StoreFailed, open_store
from tests.campaigns.ledgers import Left, leave

LOG_NAME = f"{LEDGER_NAME}-wal"


async def count(state: Path) -> int:
    """Open a ledger as the daemon does and read all of it."""
    async with open_store(state) as store:
        return len(await store.tasks(limit=10_000))


def harm(path: Path, at: int, data: bytes) -> None:
    """Write over some bytes of a file."""
    found = bytearray(path.read_bytes())
    found[at : at + len(data)] = data
    path.write_bytes(found)


@pytest.fixture
async def folded(tmp_path: Path) -> Left:
    """A ledger of 300 tasks in a file and a log, the second one since it began."""
    return await leave(tmp_path / "ledger", "second log", 1)


async def test_the_backup_takes_the_place_of_what_was_moved_aside(folded: Left) -> None:
    """Wherever in the state folder it was moved to."""
    aside = folded.state / "damaged"
    aside.mkdir()
    for name in (LEDGER_NAME, LOG_NAME, f"{LEDGER_NAME}-shm"):
        (folded.state / name).rename(aside / name)
    shutil.copyfile(folded.backup, folded.state / LEDGER_NAME)
    assert await count(folded.state) == 300
    assert await count(folded.state) == 300


async def test_the_log_of_an_earlier_time_is_no_log_of_this_ledger(folded: Left) -> None:
    """Its own checksums are right, and with it the newest sixty tasks would be gone."""
    shutil.copyfile(folded.older / LOG_NAME, folded.state / LOG_NAME)
    for _ in range(2):
        with pytest.raises(StoreRefused, match="Backup and restore"):
            await count(folded.state)


async def test_a_refusal_leaves_the_log_where_it_is(folded: Left) -> None:
    """It may be the only place of the newest commits; folded into a damaged file it is lost."""
    ledger, log = folded.state / LEDGER_NAME, folded.state / LOG_NAME
    harm(ledger, ledger.stat().st_size // 2, bytes(20_000))
    before = ledger.read_bytes(), log.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreRefused, match="Backup and restore"):
            await count(folded.state)
        assert (ledger.read_bytes(), log.read_bytes()) == before


async def test_a_byte_that_is_no_text_spoils_no_statement(tmp_path: Path) -> None:
    """No check finds it; the other tasks are still listed, asked about and fetched."""
    left = await leave(tmp_path / "ledger", "closed", 1)
    ledger = left.state / LEDGER_NAME
    harm(ledger, ledger.read_bytes().index(b"xxxxxxxx"), b"\xff")
    assert await count(left.state) == 300


async def test_a_large_ledger_that_cannot_be_read_is_refused_with_the_way_out(
    tmp_path: Path,
) -> None:
    """The check beside the work finds it and writes it down, and no later start touches it."""
    left = await leave(tmp_path / "ledger", "large", 1)
    ledger = left.state / LEDGER_NAME
    harm(ledger, ledger.stat().st_size // 4096 // 2 * 4096, b"\xa5" * 40_960)
    log = left.state / LOG_NAME
    before = ledger.read_bytes(), log.read_bytes()
    with pytest.raises(StoreFailed, match="is damaged"):
        await check_soundness(left.state)
    for _ in range(2):
        with pytest.raises(StoreRefused, match="Backup and restore"):
            await count(left.state)
        assert (ledger.read_bytes(), log.read_bytes()) == before


async def test_what_sqlite_says_of_damage_may_hold_the_damaged_bytes(tmp_path: Path) -> None:
    """It names the index that it misses a row in, in bytes that are no text."""
    left = await leave(tmp_path / "ledger", "closed", 1)
    ledger = left.state / LEDGER_NAME
    data = ledger.read_bytes()
    # The row of the schema that holds: older ones may still stand in pages that are free.
    harm(ledger, data.rindex(b"indextask_by_state") + 8, b"\xa0")
    with pytest.raises(StoreRefused, match="Backup and restore"):
        await count(left.state)
