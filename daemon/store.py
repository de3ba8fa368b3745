"""Everything that must survive a power cut; the only SQL.

Rule: one await, one statement, whole or not at all; a caller that is cancelled between two awaits
leaves nothing half done. What waits at the same time is committed together (`commits`). A statement
that returns rows goes through `execute_fetchall`, for only the fetch ends it. Every change of state
is looked up in the transition table inside the statement that makes it, and a trigger writes the
history in the same transaction.

`synchronous=FULL`: NORMAL may lose what was acknowledged (https://www.sqlite.org/pragma.html).
"""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import aiosqlite
import structlog

from daemon import selections
from daemon.balances import Balances
from daemon.ballast import Ballast
from daemon.commits import Commits
from daemon.database import open_database, open_reader
from daemon.due_times import DueTimes
from daemon.inspection import is_fatal, is_full, note_failure
from daemon.intents import Intents
from daemon.outbox import Outbox
from daemon.overview import Overview
from daemon.quarantine import Quarantine
from daemon.restoration import Restoration
from daemon.rules.lifecycle import State
from daemon.rules.schedule import HOUR
from daemon.rules.task import COLUMNS, Due, Move, Received, Step, Task, Tidings
from daemon.rules.verdict import Verdict
from daemon.schema import MIGRATIONS
from daemon.sightings import Sightings
from daemon.statements import ADOPT, ALL, RECEIVE, STEPPING
from daemon.stock import Stock
from daemon.tally import Tally

NEAR_MS: Final = 24 * HOUR
"""A deadline this near outranks earlier failures."""
_log = structlog.get_logger()


class StoreFailed(Exception):
    """A statement did not commit. Nothing of it happened, nothing may be acknowledged.

    `fatal` says whether the process must end; else (a full disk, a lock) it may succeed later.
    """

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


_BROKEN: Final = StoreFailed("the database failed: only a new start can be trusted", fatal=True)
STORE_PAUSE_MS: Final = 5_000
"""How long a loop rests after a failed statement."""


def survive(failure: StoreFailed) -> int:
    """Return how many milliseconds to wait before trying again.

    Raises:
        StoreFailed: `failure` is fatal.
    """
    if failure.fatal:
        raise failure
    return STORE_PAUSE_MS


class PathTaken(Exception):
    """Another task has the path that this one was to get; nothing was committed."""


class Store:
    """The ledger. Made by `open_store`, which also closes it."""

    def __init__(
        self,
        connection: aiosqlite.Connection,
        reader: aiosqlite.Connection,
        observe: Callable[[Sequence[Move]], None],
        make_room: Callable[[], bool],
    ) -> None:
        self.commits = Commits(connection)
        self._reader = reader
        self._seen: dict[str, tuple[int, list[sqlite3.Row]]] = {}
        self._observe = observe
        self._make_room = make_room
        self._failing = False
        self._broken = asyncio.Event()
        self.balances = Balances(self._fetch, self._look)
        self.sightings = Sightings(self._fetch)
        self.intents = Intents(self._fetch)
        self.outbox = Outbox(self._fetch, self._look)
        self.due_times = DueTimes(self._fetch, self._look)
        self.quarantine = Quarantine(self._fetch, self._look)
        self.restoration = Restoration(self._fetch)
        self.stock = Stock(self._look, self._look_once)
        self.overview = Overview(self._look)
        self.tally = Tally(self._fetch, self._look)

    async def receive(self, batch: Sequence[Tidings]) -> list[Received]:
        """Commit callbacks that waited together; return what became of each, in their order.

        Raises:
            StoreFailed: nothing was committed.
        """
        rows = await self._fetch(RECEIVE, (json.dumps(batch),))
        received = [Received(*row) for row in rows]
        self._tell(received)
        return received

    async def adopt(
        self,
        task_ids: Iterable[str],
        *,
        source: str,
        label: str | None,
        now: int,
        deadline_at: int,
        ask_at: int | None,
    ) -> tuple[list[Task], int]:
        """Take tasks into the ledger; return their rows and how many of them were new."""
        tasks = await self._rows(
            ADOPT,
            {
                "ids": json.dumps(list(task_ids)),
                "source": source,
                "label": label,
                "now": now,
                "deadline_at": deadline_at,
                "ask_at": ask_at,
            },
        )
        new = [task for task in tasks if task.previous_state is None]
        self._tell(new)
        return tasks, len(new)

    async def settle(
        self, task: Task, now: int, decide: Callable[[Task], Verdict | None]
    ) -> tuple[Task, Verdict | None]:
        """Decide about `task` and commit the verdict; return the row as it is afterwards.

        When the row changed since it was read, the newest one is decided on anew, so that a
        callback, an answer and a download never overwrite one another's news.

        Raises:
            PathTaken: the verdict's path is that of another task.
            StoreFailed: nothing was committed.
        """
        while True:
            verdict = decide(task)
            if verdict is None:
                return task, None
            changed = await self._change(task, now, verdict)
            if changed is not None:
                return changed, verdict
            newest = await self.task(task.task_id)
            if newest is None:
                raise LookupError(f"{task.task_id} left the ledger")
            task = newest

    async def _change(self, task: Task, now: int, verdict: Verdict) -> Task | None:
        changes = dict(verdict.changes)
        unknown = changes.keys() - set(COLUMNS)
        if unknown:
            raise ValueError(f"no such columns: {sorted(unknown)}")
        sets = ", ".join(f"{name} = :{name}" for name in changes) + (", " if changes else "")
        if verdict.cause is not None:
            changes["cause"] = verdict.cause
            sets += (
                "cause = :cause, state = "
                "(SELECT after FROM transition WHERE cause = :cause AND before = task.state), "
            )
        tasks = await self._rows(
            f"""
            UPDATE task SET {sets} previous_state = state, updated_at = :now, version = version + 1
            WHERE id = :id AND version = :version RETURNING {ALL}
            """,
            {**changes, "now": now, "id": task.id, "version": task.version},
        )
        self._tell(tasks)
        return tasks[0] if tasks else None

    async def claim(self, task_id: str, now: int) -> Task | None:
        """Take a task whose download step is due; None when it is not, or somebody has it."""
        tasks = await self._rows(
            f"""
            UPDATE task SET claimed_at = :now, version = version + 1,
                            attempts = attempts + (state = 'wanted')
            WHERE task_id = :task_id AND claimed_at IS NULL AND fetch_at <= :now
                  AND {STEPPING}
            RETURNING {ALL}
            """,
            {"task_id": task_id, "now": now},
        )
        return tasks[0] if tasks else None

    async def record_progress(
        self,
        task_id: str,
        spans: str,
        size_bytes: int | None,
        validator: str | None,
        *,
        only_of: str | None = None,
    ) -> None:
        """Remember which bytes are on disk. To be called after they were synced, never before.

        `only_of` is the link of bytes that nobody confirmed: once the provider named another one,
        they are worth nothing and are not remembered.
        """
        await self._fetch(
            """
            UPDATE task SET spans = ?, size_bytes = ?, validator = ?, version = version + 1
            WHERE task_id = ? AND state = 'wanted' AND link = COALESCE(?, link)
            """,
            (spans, size_bytes, validator, task_id, only_of),
        )

    async def release_claims(self) -> None:
        """Free every task: no claim outlives the process that made it."""
        await self._fetch(selections.RELEASE_CLAIMS, ())

    async def ask_about_all(self, now: int) -> None:
        """Make questions due that nobody could ask so far: there was no API key until now.

        Also about what failed by the word of a callback that nobody has confirmed.
        """
        await self._fetch(selections.ASK_ABOUT_ALL, {"now": now})

    async def due_downloads(self, now: int, limit: int, *, freshest: bool) -> list[Due]:
        """Return unclaimed tasks whose download step is due, the nearest deadline first.

        What failed before comes behind what did not, unless its deadline is near: twenty hosts that
        never answer must not hold back hundreds that do.
        """
        found: list[Due] = []
        for failing in (False, True):
            if len(found) < limit:
                sql = selections.due_downloads(freshest=freshest, failing=failing)
                terms = {"now": now, "near": now + NEAR_MS, "limit": limit - len(found)}
                found += [Due(*row) for row in await self._fetch(sql, terms)]
        return found

    async def due_questions(
        self, now: int, limit: int, *, freshest: bool, known: bool = False
    ) -> list[Task]:
        """Return tasks to ask about, the longest overdue first, of each kind up to `limit`.

        Before them the `freshest`, or the `known`, which nobody can make up who has the token.
        """
        lanes = ["known"] if known else ["freshest"] if freshest else []
        first: list[Task] = []
        for lane in [*lanes, "longest"]:
            if len(first) < limit:
                first += await self._rows(selections.DUE_QUESTIONS[lane], (now, limit))
        return first

    async def next_due(self, now: int) -> tuple[int | None, int | None]:
        """Return when, after `now`, the next question and the next download step fall due."""
        rows = await self._fetch(selections.NEXT_DUE, {"now": now})
        return rows[0][0], rows[0][1]

    async def unanswered(self, cutoff: int, limit: int, *, silent: bool) -> list[Task]:
        """Return expected tasks with a link and no answer since `cutoff`; `silent`: or unasked."""
        return await self._rows(
            selections.UNANSWERED, {"cutoff": cutoff, "limit": limit, "silent": silent}
        )

    async def ending(self, before: int, after: Task | None, limit: int) -> list[Task]:
        """Return a page of the tasks without a file in place whose deadline comes by `before`.

        The nearest deadline first; `after` is the last task of the page before.
        """
        return await self._rows(
            selections.ENDING,
            {
                "before": before,
                "after_deadline": after.deadline_at if after else 0,
                "after_id": after.id if after else 0,
                "limit": limit,
            },
        )

    async def task(self, task_id: str) -> Task | None:
        """Return one task, also by the local id that it was submitted under."""
        found = await self._tasks(
            """
            WHERE task_id = :id OR id = (SELECT task FROM submission WHERE local_id = :id)
            """,
            {"id": task_id},
        )
        return found[0] if found else None

    async def tasks(
        self, states: Sequence[str] = (), limit: int = 100, before_id: int | None = None
    ) -> list[Task]:
        """Return a page of tasks, the newest first, older than the row `before_id`."""
        named = dict.fromkeys(states)
        terms: dict[str, object] = {
            "before_id": selections.NEWEST_ID if before_id is None else before_id,
            "limit": limit,
        }
        terms |= {f"state{number}": state for number, state in enumerate(named)}
        return _make(await self._look(selections.page([*named]), terms))

    async def obtainable(self, now: int, limit: int, before_id: int | None) -> list[Task]:
        """Return a page of finished tasks whose deadline is still to come, the newest first."""
        before = selections.NEWEST_ID if before_id is None else before_id
        terms = {"now": now, "limit": limit, "before_id": before}
        return await self._rows(selections.OBTAINABLE, terms)

    async def history(self, task_id: str) -> list[Step]:
        """Return what happened to one task, the oldest first."""
        return [Step(*row) for row in await self._look(selections.HISTORY, (task_id,))]

    async def histories(self, task_ids: Sequence[str]) -> dict[str, list[Step]]:
        """Return what happened to several tasks."""
        rows = await self._look(selections.HISTORIES, (json.dumps(list(task_ids)),))
        found: dict[str, list[Step]] = {}
        for task_id, *step in rows:
            found.setdefault(task_id, []).append(Step(*step))
        return found

    async def counts(self) -> dict[str, int]:
        """Return how many tasks are in each state, zeros included."""
        rows = await self._look_once(selections.COUNTS)
        return {state.value: 0 for state in State} | {row[0]: row[1] for row in rows}

    async def fail_for_good(self) -> None:
        """Wait for an error after which only a new start can be trusted, and raise it."""
        await self._broken.wait()
        raise _BROKEN

    async def writable(self) -> bool:
        """Return whether a transaction commits right now."""
        try:
            # Writes the number that is there already; an UPDATE that meets no row writes nothing.
            await self._fetch(f"PRAGMA user_version = {len(MIGRATIONS)}", (), alone=True)
        except StoreFailed:
            return False
        return True

    async def tidy(self) -> None:
        """Move the write-ahead log into the database and empty it."""
        await self._fetch("PRAGMA wal_checkpoint(TRUNCATE)", (), alone=True)
        await self.commits.settle()

    def _tell(self, tasks: Iterable[Task | Received]) -> None:
        moves = [
            Move(task.previous_state, task) for task in tasks if task.previous_state != task.state
        ]
        if moves:
            self._observe(moves)

    async def _tasks(self, where: str, parameters: object) -> list[Task]:
        return await self._rows(f"SELECT {ALL} FROM task {where}", parameters)

    async def _rows(self, sql: str, parameters: object) -> list[Task]:
        return _make(await self._fetch(sql, parameters))

    async def _look(self, sql: str, parameters: object) -> list[sqlite3.Row]:
        """Run what people ask for; no commit waits for it, however long it takes."""
        return await self._run(lambda: self._reader.execute_fetchall(sql, parameters), reads=True)

    async def _look_once(self, sql: str) -> list[sqlite3.Row]:
        """Run what counts every row of an index; not again while nobody has committed anything."""
        ((version,),) = await self._look("PRAGMA data_version", ())
        if sql not in self._seen or self._seen[sql][0] != version:
            self._seen[sql] = version, await self._look(sql, ())
        return self._seen[sql][1]

    async def _fetch(
        self, sql: str, parameters: object, *, alone: bool = False
    ) -> list[sqlite3.Row]:
        return await self._run(
            lambda: self.commits.run(sql, parameters, alone=alone),
            reads=sql.lstrip().startswith("SELECT"),
        )

    async def _run(
        self, ask: Callable[[], Awaitable[Iterable[sqlite3.Row]]], *, reads: bool
    ) -> list[sqlite3.Row]:
        if self._broken.is_set():
            raise _BROKEN
        try:
            rows = list(await ask())
        except sqlite3.IntegrityError as error:
            if "task.path" in str(error):
                raise PathTaken from error
            raise
        except sqlite3.Error as error:
            if is_full(error) and self._make_room():
                return await self._run(ask, reads=reads)
            if not self._failing:
                _log.error("store.failed", message=str(error))
            self._failing = True
            failure = StoreFailed(f"the database did not commit: {error}", fatal=is_fatal(error))
            if failure.fatal:
                self._broken.set()
            raise failure from error
        if self._failing and not reads:
            self._failing = False
            _log.info("store.recovered")
        return rows


def _make(rows: Iterable[sqlite3.Row]) -> list[Task]:
    return [Task(**dict(zip(COLUMNS, row, strict=True))) for row in rows]


@asynccontextmanager
async def open_store(
    state_dir: Path,
    observe: Callable[[Sequence[Move]], None] = lambda _: None,
    ballast: Ballast | None = None,
) -> AsyncIterator[Store]:
    """Open the ledger in `state_dir`, alone; `ballast` is given up when its disk is full.

    Raises:
        StoreRefused: a second daemon, a newer file, a damaged file, or a disk that cannot do it.
    """
    async with open_database(state_dir, ballast) as connection, open_reader(state_dir) as reader:
        make_room = ballast.release if ballast else lambda: False
        store = Store(connection, reader, observe, make_room)
        try:
            await store.release_claims()
        except StoreFailed as failure:
            raise note_failure(state_dir, str(failure), fatal=failure.fatal) from failure
        yield store
        # On a full disk the log stays beside the database and is read at the next start.
        with suppress(StoreFailed):
            await store.tidy()
