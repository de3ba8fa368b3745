"""Statements that wait at the same time are committed together, and each is told the truth."""

import asyncio
import sqlite3  # noqa: TID251 - its errors
from collections.abc import AsyncIterator
from pathlib import Path

import aiosqlite  # noqa: TID251 - a database of the test
import pytest

from daemon import commits
from daemon.commits import Commits

INSERT = "INSERT INTO word VALUES (?) RETURNING rowid"


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[aiosqlite.Connection]:
    """A database of unique words."""
    async with aiosqlite.connect(tmp_path / "words", isolation_level=None) as opened:
        await opened.execute_fetchall("PRAGMA journal_mode = WAL")
        await opened.execute_fetchall("CREATE TABLE word (text TEXT NOT NULL UNIQUE) STRICT")
        yield opened


@pytest.fixture
async def said(connection: aiosqlite.Connection) -> list[str]:
    """Every statement that SQLite is given from here on."""
    heard: list[str] = []
    await connection.set_trace_callback(heard.append)
    return heard


async def words(connection: aiosqlite.Connection) -> list[str]:
    """Return what is committed, as another connection sees it."""
    (path,) = (row[2] for row in await connection.execute_fetchall("PRAGMA database_list"))
    with sqlite3.connect(path) as other:
        return [row[0] for row in other.execute("SELECT text FROM word ORDER BY rowid")]


def put(ledger: Commits, *texts: str | None) -> list[asyncio.Task[list[sqlite3.Row]]]:
    """Let several insert at the same time."""
    return [asyncio.create_task(ledger.run(INSERT, (text,))) for text in texts]


async def test_those_who_wait_share_one_commit(
    connection: aiosqlite.Connection, said: list[str]
) -> None:
    """One transaction for all, in the order in which they came."""
    ledger = Commits(connection)
    results = await asyncio.gather(*put(ledger, "a", "b", "c", "d"))
    assert [rows[0][0] for rows in results] == [1, 2, 3, 4]
    assert await words(connection) == ["a", "b", "c", "d"]
    assert [text for text in said if not text.startswith(("INSERT", "PRAGMA"))] == [
        "BEGIN",
        "COMMIT",
    ]


async def test_one_alone_needs_no_transaction(
    connection: aiosqlite.Connection, said: list[str]
) -> None:
    """A single statement is one already, and two round trips cheaper."""
    ledger = Commits(connection)
    await ledger.run(INSERT, ("a",))
    await ledger.run(INSERT, ("b",))
    assert "BEGIN" not in said


async def test_nobody_hears_of_a_result_before_the_commit(
    connection: aiosqlite.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever hears finds it in the file, by another connection."""
    ledger = Commits(connection)
    monkeypatch.setattr(commits, "GROUP_LIMIT", 3)
    seen = []

    async def tell(text: str) -> None:
        await ledger.run(INSERT, (text,))
        seen.append(text in await words(connection))

    await asyncio.gather(*(tell(str(number)) for number in range(20)))
    assert seen == [True] * 20


async def test_what_breaks_a_constraint_fails_alone(connection: aiosqlite.Connection) -> None:
    """The others of its group are committed, also those behind it."""
    ledger = Commits(connection)
    results = await asyncio.gather(*put(ledger, "a", "b", "b", None, "c"), return_exceptions=True)
    broken = [isinstance(result, sqlite3.IntegrityError) for result in results]
    assert broken == [False, False, True, True, False]
    assert await words(connection) == ["a", "b", "c"]


@pytest.mark.parametrize("count", [1, 3])
async def test_a_value_that_cannot_be_held_is_the_trouble_of_its_own_statement(
    connection: aiosqlite.Connection, count: int
) -> None:
    """It is no error of SQLite's; nobody waits for ever, and no transaction stays open."""
    ledger = Commits(connection)
    good = put(ledger, *"abc"[: count - 1])
    odd = asyncio.create_task(ledger.run(INSERT, ("\ud800",)))
    large = asyncio.create_task(ledger.run(INSERT, (1 << 70,)))
    async with asyncio.timeout(5):
        results = await asyncio.gather(odd, large, *good, return_exceptions=True)
    assert [type(result) for result in results[:2]] == [UnicodeEncodeError, OverflowError]
    assert await words(connection) == [*"abc"[: count - 1]]
    assert not connection.in_transaction
    await ledger.run(INSERT, ("z",))


async def test_a_mistaken_statement_takes_nobody_with_it(
    connection: aiosqlite.Connection,
) -> None:
    """Its group is rolled back and done again, each statement for itself, and once."""
    ledger = Commits(connection)
    first = put(ledger, "a", "b")
    wrong = asyncio.create_task(ledger.run("INSERT INTO nothing VALUES (1)", ()))
    last = put(ledger, "c")
    results = await asyncio.gather(*first, wrong, *last, return_exceptions=True)
    assert isinstance(results[2], sqlite3.OperationalError)
    assert await words(connection) == ["a", "b", "c"]
    assert not connection.in_transaction


async def test_a_commit_that_fails_is_told_to_all_of_its_group(
    connection: aiosqlite.Connection,
) -> None:
    """Nothing of it is in the file; and when the trouble is over, the next one is."""
    ledger = Commits(connection)

    def deny(action: int, what: str | None, *_: object) -> int:
        begins = action == sqlite3.SQLITE_TRANSACTION and what == "COMMIT"
        return sqlite3.SQLITE_DENY if begins or action == sqlite3.SQLITE_INSERT else 0

    await connection.set_authorizer(deny)
    results = await asyncio.gather(*put(ledger, "a", "b", "c"), return_exceptions=True)
    assert all(isinstance(result, sqlite3.DatabaseError) for result in results)
    await connection.set_authorizer(None)
    assert not connection.in_transaction
    assert await words(connection) == []
    await ledger.run(INSERT, ("d",))
    assert await words(connection) == ["d"]


async def test_after_a_fatal_error_nothing_is_written_any_more(
    connection: aiosqlite.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who stands in the group and who waits behind it hears of it, and no second try is made."""
    monkeypatch.setattr(commits, "is_fatal", lambda _: True)
    monkeypatch.setattr(commits, "GROUP_LIMIT", 2)
    ledger = Commits(connection)
    await connection.set_authorizer(
        lambda action, what, *_: (
            sqlite3.SQLITE_DENY
            if action == sqlite3.SQLITE_TRANSACTION and what == "COMMIT"
            else sqlite3.SQLITE_OK
        )
    )
    results = await asyncio.gather(*put(ledger, "a", "b", "c", "d"), return_exceptions=True)
    assert [isinstance(result, sqlite3.DatabaseError) for result in results] == [True] * 4
    await connection.set_authorizer(None)
    assert await words(connection) == []


async def test_what_cannot_be_done_in_a_transaction_is_done_between_two(
    connection: aiosqlite.Connection, said: list[str]
) -> None:
    """A checkpoint comes in its turn, and everybody else in theirs."""
    ledger = Commits(connection)
    before = put(ledger, "a", "b", "c")
    alone = asyncio.create_task(ledger.run("PRAGMA wal_checkpoint(TRUNCATE)", (), alone=True))
    after = put(ledger, "d", "e")
    await asyncio.gather(*before, alone, *after)
    assert (await alone)[0][0] == 0
    order = [text.split("(")[0] for text in said if not text.startswith("INSERT")]
    assert order == ["BEGIN", "COMMIT", "PRAGMA wal_checkpoint", "BEGIN", "COMMIT"]
    assert await words(connection) == ["a", "b", "c", "d", "e"]


async def test_who_is_cancelled_leaves_the_others_alone(
    connection: aiosqlite.Connection,
) -> None:
    """The statement is carried out all the same; `settle` waits for it."""
    ledger = Commits(connection)
    tasks = put(ledger, "a", "b", "c")
    await asyncio.sleep(0)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    await ledger.settle()
    assert await words(connection) == ["a", "b", "c"]
    assert not connection.in_transaction


async def test_nothing_is_done_twice_when_a_transaction_ends_in_its_middle(
    connection: aiosqlite.Connection,
) -> None:
    """SQLite may end one by itself: what stands behind is not committed alone, and then again."""
    await connection.execute_fetchall("CREATE TABLE tally (number INTEGER) STRICT")
    await connection.execute_fetchall("INSERT INTO tally VALUES (0)")
    ledger = Commits(connection)
    add = "UPDATE tally SET number = number + 1"
    before = asyncio.create_task(ledger.run(add, ()))
    # As a full disk does it: the transaction is gone, and the statement failed.
    ends = asyncio.create_task(ledger.run("ROLLBACK", ()))
    wrong = asyncio.create_task(ledger.run("INSERT INTO nothing VALUES (1)", ()))
    after = asyncio.create_task(ledger.run(add, ()))
    await asyncio.gather(before, ends, wrong, after, return_exceptions=True)
    assert list(await connection.execute_fetchall("SELECT number FROM tally")) == [(2,)]
