"""Runs the statements of the ledger: those that wait at the same time in one transaction.

Rule: nobody is told the result of a statement before it is on the disk. A commit costs a sync of
the disk, which takes longer than all statements of a group together; who comes meanwhile waits for
this commit and shares the next one, so nobody waits for more than two. A statement that breaks a
constraint fails alone. Only this module speaks to the connection that writes.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias

import aiosqlite

from daemon.inspection import is_fatal

GROUP_LIMIT: Final = 256

Rows: TypeAlias = list[sqlite3.Row]


@dataclass(frozen=True, slots=True)
class _Statement:
    sql: str
    parameters: object
    alone: bool
    committed: asyncio.Future[Rows]
    began: float

    def tell(self, result: Rows | Exception) -> None:
        """Hand over what became of it; who was cancelled meanwhile does not wait any more."""
        if self.committed.done():
            return
        if isinstance(result, Exception):
            self.committed.set_exception(result)
        else:
            self.committed.set_result(result)


class Commits:
    """The one way to the connection that writes."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.connection = connection
        self.observe: Callable[[float], None] = lambda _: None
        """Is told how many seconds each transaction took."""
        self._waiting: list[_Statement] = []
        self._under_way: Sequence[_Statement] = ()
        self._committing: asyncio.Task[None] | None = None

    async def run(self, sql: str, parameters: object, *, alone: bool = False) -> Rows:
        """Return the rows of a statement once it is committed, also when the caller is cancelled.

        `alone` is for what cannot be done within a transaction.

        Raises:
            sqlite3.Error: nothing of it was committed.
        """
        committed: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Statement(sql, parameters, alone, committed, time.monotonic()))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all(), name="commits")
        return await committed

    def waiting_seconds(self) -> float:
        """Return for how long the oldest statement has waited."""
        oldest = next(chain(self._under_way, self._waiting), None)
        return time.monotonic() - oldest.began if oldest else 0.0

    async def settle(self) -> None:
        """Wait until nothing is on its way any more."""
        while self._committing is not None:
            await asyncio.wait({self._committing})

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                group = self._under_way = self._take()
                began = time.monotonic()
                try:
                    results = await self._commit(group)
                    self.observe(time.monotonic() - began)
                except Exception as error:  # noqa: BLE001 - it is raised where the statement came from
                    # Only a new start can be trusted: nothing is written any more.
                    group += self._waiting
                    self._waiting = []
                    results = [error] * len(group)
                for statement, result in zip(group, results, strict=True):
                    statement.tell(result)
        finally:
            self._under_way = ()
            self._committing = None

    def _take(self) -> list[_Statement]:
        """Take the statements of one transaction from those that wait, in their order."""
        count = 0
        while count < min(len(self._waiting), GROUP_LIMIT) and not self._waiting[count].alone:
            count += 1
        group = self._waiting[: max(1, count)]
        del self._waiting[: len(group)]
        return group

    async def _commit(self, group: Sequence[_Statement]) -> list[Rows | Exception]:
        """Commit a group; raises what is fatal."""
        if len(group) > 1:
            try:
                return await self._commit_together(group)
            except sqlite3.Error as error:
                with suppress(sqlite3.Error):
                    await self.connection.execute_fetchall("ROLLBACK")
                if is_fatal(error):
                    raise
        # A full disk, say: each for itself finds out what it is to blame for.
        return [await self._try(statement) for statement in group]

    async def _commit_together(self, group: Sequence[_Statement]) -> list[Rows | Exception]:
        await self.connection.execute_fetchall("BEGIN")
        found = []
        for statement in group:
            result = await self._try(statement)
            # A constraint, or a value that SQLite cannot hold, undoes its own statement alone. What
            # is worse may have ended the transaction: the next one would be committed by itself.
            if isinstance(result, sqlite3.Error) and not isinstance(result, sqlite3.IntegrityError):
                raise result
            found.append(result)
        await self.connection.execute_fetchall("COMMIT")
        return found

    async def _try(self, statement: _Statement) -> Rows | Exception:
        try:
            return list(await self.connection.execute_fetchall(statement.sql, statement.parameters))
        except Exception as error:  # noqa: BLE001 - it is raised where the statement came from
            return error
