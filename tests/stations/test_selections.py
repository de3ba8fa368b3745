"""What each call of the ledger costs: what it answers, never what the ledger holds.

Everything that the store can be asked is asked, of a ledger without statistics as a real one is:
the plans show no walk through a table, and the steps that SQLite takes are counted with a few
finished tasks and with many.
"""

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from daemon import office
from daemon.rules.lifecycle import Cause, State
from daemon.rules.submission import Wish
from daemon.rules.task import Task, Tidings, Unread
from daemon.rules.verdict import Verdict
from daemon.stock import DAY_MS
from daemon.store import Store, open_store
from daemon.tally import Tallied

NOW = 1_790_000_000_000
HOUR = 3_600_000
LIMIT = 20
FEW, MANY = 150, 3_000

OPEN = """
INSERT INTO task (task_id, state, cause, source, created_at, updated_at, deadline_at, ask_at,
                  ask_pause_ms, link, hint, hint_at, unanswered_since, fetch_at, failures,
                  size_bytes, sha256, path, stored_at)
WITH RECURSIVE counter (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counter WHERE n < 99),
     kind AS (SELECT n, CASE n % 4 WHEN 0 THEN 'expected' WHEN 1 THEN 'wanted'
                                   WHEN 2 THEN 'verified' ELSE 'stored' END AS state FROM counter)
SELECT 'open' || n, state, 'adopted', iif(n % 3, 'callback', 'track'), :now, :now,
       :now + n * 3600000, iif(n % 5, :now - n, NULL), iif(n % 2, 0, 30000),
       iif(state <> 'expected' OR n % 8, 'https://h/' || n, NULL),
       iif(n % 12, NULL, 'https://h/' || n), iif(n % 12, NULL, :now - 36000000 + n),
       iif(n % 16, NULL, :now - 36000000), iif(state = 'expected', NULL, :now - n), n % 3,
       1, '00', '/videos/open' || n, :now
FROM kind
"""
FINISHED = """
INSERT INTO task (task_id, state, cause, source, created_at, updated_at, deadline_at, link,
                  answered_at, size_bytes, sha256, path, stored_at)
WITH RECURSIVE counter (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < :count)
SELECT 'finished' || n,
       CASE n % 40 WHEN 0 THEN 'failed' WHEN 1 THEN 'lost'
                   WHEN 2 THEN iif(n < 99, 'pruned', 'done') ELSE 'done' END,
       'adopted', iif(n % 3, 'callback', 'submit'), :now, :now, :now + n, 'https://h/' || n, :now,
       1, '00', '/videos/finished' || n, :now
FROM counter
"""
WAITING = """
INSERT INTO task (task_id, state, cause, source, created_at, updated_at, deadline_at, ask_at,
                  ask_pause_ms)
WITH RECURSIVE counter (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < :count)
SELECT 'waiting' || n, 'expected', 'adopted', 'callback', :now, :now, :now + 1000000000 + n,
       :now + 60000 + n, 30000
FROM counter
"""
SETTLED = """
INSERT INTO submission (task, local_id, music_task_id, audio_id, tries, created_at, settled_at)
SELECT id, 'submit-of-' || task_id, 'music' || id, 'audio', 1, :now, :now
FROM task WHERE source = 'submit'
"""
SEEN = """
INSERT INTO quarantine (id, received_at, why, sha256, body, forgotten_at)
SELECT 'quarantine-' || task_id, :now, 'odd', task_id, x'00', iif(state = 'done', :now, NULL)
FROM task WHERE state IN ('done', 'wanted')
"""
TOLD = """
INSERT INTO outbox (id, target, type, task_id, created_at, due_at)
SELECT task_id, 'https://app.example.com', 'task.stored', task_id, :now,
       iif(state = 'done', NULL, :now)
FROM task WHERE state IN ('done', 'stored')
"""

WISH = Wish(music_task_id="music", audio_id="audio")


def tidings(task_id: str) -> Tidings:
    """Return a callback with a hint."""
    known = {"task_id": task_id, "now": NOW, "deadline_at": NOW + HOUR, "hint": "https://h/x"}
    return Tidings(cause=Cause.HINTED, ask_at=NOW, **known)  # type: ignore[arg-type]


def unread(body: bytes) -> Unread:
    """Return a callback that cannot be read."""
    return Unread(body=body, why="odd", remote="192.0.2.1", content_type="", now=NOW)


async def find(store: Store, task_id: str) -> Task:
    """Return a task that is there."""
    found = await store.task(task_id)
    assert found is not None
    return found


async def settle(store: Store) -> object:
    """Move one task."""
    task = await find(store, "open1")
    return await store.settle(task, NOW, lambda _: Verdict(None, {"failures": 5}))


async def walk(store: Store) -> object:
    """Send a wish on all its ways: recorded, begun, postponed, named, told of."""
    parts = store.intents
    common: dict[str, Any] = {"source": "gateway", "label": None, "now": NOW, "deadline_at": NOW}
    intent = await parts.record("submit-1", WISH, **common)
    await parts.record("submit-2", WISH, **common)
    await parts.begin(intent)
    await parts.postpone(intent, NOW, doubts=0, unheard=0)
    await parts.reopen(intent, NOW)
    await parts.name(intent, "open4", ask_at=NOW, now=NOW, tells=True)
    await parts.twin(intent)
    return await parts.is_of_another(intent, "open4")


async def send(store: Store) -> object:
    """Take a message, put it off, and forget it."""
    message = await store.outbox.next(["https://other.example.com"])
    assert message is not None
    await store.outbox.postpone(message, NOW, "no answer")
    await store.outbox.delete(message)
    return message


CALLS: Mapping[str, Callable[[Store], Awaitable[object]]] = {
    "receive": lambda store: store.receive([tidings("new"), tidings("open0")]),
    "adopt": lambda store: store.adopt(
        ["adopted", "open0"], source="track", label=None, now=NOW, deadline_at=NOW, ask_at=NOW
    ),
    "settle": settle,
    "task": lambda store: store.task("submit-of-finished3"),
    "claim": lambda store: store.claim("open1", NOW),
    "record_progress": lambda store: store.record_progress("open1", "0-9", 10, None),
    "release_claims": lambda store: store.release_claims(),
    "due_downloads": lambda store: store.due_downloads(NOW, LIMIT, freshest=False),
    "due_downloads, all": lambda store: store.due_downloads(NOW, 1_000, freshest=False),
    "due_downloads, freshest": lambda store: store.due_downloads(NOW, 1_000, freshest=True),
    "due_questions": lambda store: store.due_questions(NOW, LIMIT, freshest=False),
    "due_questions, freshest": lambda store: store.due_questions(NOW, LIMIT, freshest=True),
    "due_questions, known": lambda store: store.due_questions(
        NOW, LIMIT, freshest=False, known=True
    ),
    "next_due": lambda store: store.next_due(NOW),
    "unanswered": lambda store: store.unanswered(NOW - HOUR, LIMIT, silent=True),
    "ending": lambda store: store.ending(NOW + 72 * HOUR, None, LIMIT),
    "tasks": lambda store: store.tasks((), LIMIT),
    "tasks, behind": lambda store: store.tasks((), LIMIT, 90),
    "tasks, rare": lambda store: store.tasks(("pruned",), 3, 1_000_000),
    "tasks, several": lambda store: store.tasks(("failed", "wanted", "lost", "failed"), 4),
    "history": lambda store: store.history("open0"),
    "histories": lambda store: store.histories(["open0", "finished3", "nobody"]),
    "overview.outlook": lambda store: store.overview.outlook(),
    "counts": lambda store: store.counts(),
    "overview.standing": lambda store: store.overview.standing(),
    "obtainable": lambda store: store.obtainable(NOW, LIMIT, None),
    "writable": lambda store: store.writable(),
    "ask_about_all": lambda store: store.ask_about_all(NOW),
    "intents.recover": lambda store: store.intents.recover(NOW),
    "intents.walk": walk,
    "intents.due": lambda store: store.intents.due(NOW, first=True),
    "intents.next_due": lambda store: store.intents.next_due(NOW),
    "intents.of_task": lambda store: store.intents.of_task(3),
    "intents.open_twin": lambda store: store.intents.open_twin(WISH),
    "intents.withdraw_unsent": lambda store: store.intents.withdraw_unsent(NOW),
    "outbox.next": send,
    "outbox.subscribe": lambda store: store.outbox.subscribe([("task.stored", "notify:a")]),
    "outbox.announce": lambda store: store.outbox.announce("gate.closed", {}, NOW),
    "outbox.undelivered": lambda store: store.outbox.undelivered(),
    "outbox.clear": lambda store: store.outbox.clear(["notify:a"]),
    "outbox.drop_others": lambda store: store.outbox.drop_others(["notify:a"]),
    "outbox.forget_old": lambda store: store.outbox.forget_old(NOW - HOUR),
    "sightings.note": lambda store: store.sightings.note("files.example.com", NOW),
    "balances.record": lambda store: store.balances.record(NOW, 20.0),
    "balances.since": lambda store: store.balances.since(NOW),
    "quarantine.keep": lambda store: store.quarantine.keep([unread(b"a"), unread(b"b")]),
    "quarantine.page": lambda store: store.quarantine.page(LIMIT),
    "quarantine.page, behind": lambda store: store.quarantine.page(3, 9),
    "quarantine.one": lambda store: store.quarantine.one("quarantine-open1"),
    "quarantine.forget": lambda store: store.quarantine.forget("quarantine-open1", NOW),
    "due_times.count_overdue": lambda store: store.due_times.count_overdue(NOW - 50, NOW),
    "due_times.longest_due": lambda store: store.due_times.longest_due(NOW),
    "overview.unsafe": lambda store: store.overview.unsafe(),
    "overview.moving": lambda store: store.overview.moving(LIMIT),
    "overview.stuck": lambda store: store.overview.stuck(LIMIT),
    "overview.refused": lambda store: store.overview.refused(LIMIT),
    "overview.newest_stored": lambda store: store.overview.newest_stored(LIMIT),
    "overview.held": lambda store: store.overview.held(LIMIT),
    "tally.add": lambda store: store.tally.add([Tallied(NOW // HOUR, "accepted", 3, NOW, "a")]),
    "tally.since": lambda store: store.tally.since(NOW - HOUR),
    "tally.delete_old": lambda store: store.tally.delete_old(NOW),
    "stock.by_day": lambda store: store.stock.by_day(NOW // DAY_MS + 1),
    "stock.total_bytes": lambda store: store.stock.total_bytes(),
    "due_times.pull_in": lambda store: store.due_times.pull_in(NOW, HOUR),
    "restoration.is_due": lambda store: store.restoration.is_due(),
    "restoration.hold_wishes": lambda store: store.restoration.hold_wishes(),
    "restoration.ask_again": lambda store: store.restoration.ask_again(NOW),
}
"""Everything that the store can be asked, with what each needs."""
WALKED = {f"intents.{name}" for name in ("record", "begin", "postpone", "reopen", "name", "twin")}
WALKED |= {"intents.is_of_another", "outbox.postpone", "outbox.delete"}
NOT_ASKED = {
    "fail_for_good": "waits for ever",
    "tidy": "a checkpoint",
    "restoration.complete": "a checkpoint",
}
WHOLE = {
    "counts": "an index is counted, on the reader and only after a commit",
    "stock.total_bytes": "likewise",
    "overview.standing": "what is unsafe is counted, all of it",
    "overview.unsafe": "likewise",
    "overview.stuck": "a page, which is not full in the smaller one",
    "overview.refused": "likewise",
    "obtainable": "once, after a backup was put in the ledger's place",
    "outbox.undelivered": "what was given up is counted, on the reader",
    "outbox.drop_others": "the outbox alone, at the start and at a reload",
    "outbox.forget_old": "what was given up alone, four times a day",
    "restoration.ask_again": "once, after a backup was put in the ledger's place",
    "restoration.hold_wishes": "once, after a backup was put in the ledger's place",
}
"""What may read more in a larger ledger, and why."""
ALLOWED = {
    "histories": {"USE TEMP B-TREE FOR ORDER BY"},  # the steps of one page
    "intents.due": {"USE TEMP B-TREE FOR ORDER BY"},  # the wishes that are due
    "counts": {"SCAN task USING COVERING INDEX task_by_state"},
    "overview.stuck": {"USE TEMP B-TREE FOR ORDER BY"},  # the submits that are not settled
    # A row for each hour and cause.
    "tally.since": {"USE TEMP B-TREE FOR GROUP BY", "USE TEMP B-TREE FOR ORDER BY"},
    "stock.by_day": {"USE TEMP B-TREE FOR GROUP BY"},  # a row for each day
    "stock.total_bytes": {"SCAN task USING COVERING INDEX task_stored"},
    "outbox.next": {"SCAN known", "SCAN first", "USE TEMP B-TREE FOR ORDER BY"},  # the targets
    "outbox.subscribe": {"SCAN subscriber"},  # a row for each target and event
    "outbox.undelivered": {"SCAN outbox USING INDEX outbox_given_up"},
    "outbox.drop_others": {"SCAN outbox"},
    "outbox.forget_old": {"SCAN outbox USING INDEX outbox_given_up"},
}
HARMLESS = re.compile(
    r"""
    SCAN\ (\d+\ CONSTANT\ ROWS|CONSTANT\ ROW|json_each|asked|intent|\()
    # What was given, or selected before
    |SCAN\ \w+\ USING\ (COVERING\ )?INDEX\ (task_open|quarantine_open|submission_unsent)
    # An index of what is open alone
    """,
    re.VERBOSE,
)


async def fill(store: Store, finished: int) -> None:
    """Put a hundred tasks with work that is due, and so many finished and waiting ones, into it."""
    for statement in (FINISHED, WAITING, OPEN, SETTLED, SEEN, TOLD):
        values = {"now": NOW, "count": finished}
        await store.commits.connection.execute_fetchall(statement, values)


def is_walk(step: str) -> bool:
    """Tell whether a step of a plan walks through a table, or sorts."""
    return step.startswith(("SCAN ", "USE TEMP B-TREE")) and not HARMLESS.match(step)


async def plan(store: Store, sql: str) -> set[str]:
    """Return the steps of a statement's plan that walk or sort."""
    rows = await store.commits.connection.execute_fetchall(f"EXPLAIN QUERY PLAN {sql}")
    return {row[3] for row in rows if is_walk(row[3])}


def test_everything_is_asked_here() -> None:
    """A new method of the store is named in this file, or this fails."""
    parts: dict[str, type] = {"": Store}
    named = ("balances", "sightings", "intents", "outbox", "due_times", "quarantine", "stock")
    for name in (*named, "overview", "tally"):
        hint = inspect.getmodule(Store)
        parts[f"{name}."] = getattr(hint, name.title().replace("_", ""))
    parts["restoration."] = vars(inspect.getmodule(Store))["Restoration"]
    public = {
        f"{prefix}{name}"
        for prefix, kind in parts.items()
        for name, method in vars(kind).items()
        if inspect.iscoroutinefunction(method) and not name.startswith("_")
    }
    asked = {name.partition(",")[0] for name in CALLS} - {"intents.walk"}
    assert asked | WALKED | NOT_ASKED.keys() == public


async def test_no_table_is_walked_through(store: Store) -> None:
    """Each statement, as it is really run, finds its rows by an index and in their order."""
    await fill(store, FEW)
    seen: list[str] = []
    wrong: dict[str, set[str]] = {}
    count = 0
    for name, call in CALLS.items():
        for connection in (store.commits.connection, store._reader):
            await connection.set_trace_callback(seen.append)
        await call(store)
        for connection in (store.commits.connection, store._reader):
            await connection.set_trace_callback(None)  # type: ignore[arg-type]
        # The statements of triggers are comments there; they are looked at below.
        asked = [sql for sql in seen if not sql.startswith(("--", "PRAGMA", "EXPLAIN"))]
        seen.clear()
        count += len(asked)
        for sql in asked:
            walks = await plan(store, sql) - ALLOWED.get(name, set())
            if walks:
                wrong.setdefault(name, set()).update(walks)
    assert count >= len(CALLS)
    assert wrong == {}


async def test_no_trigger_walks_through_a_table(store: Store) -> None:
    """What a commit sets off finds its rows by an index too."""
    await fill(store, FEW)
    rows = await store.commits.connection.execute_fetchall(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
    )
    assert len(list(rows)) >= 6
    for name, sql in rows:
        body = re.sub(r"\b(new|old)\.\w+", "1", sql[sql.index(" BEGIN") + 6 :])
        for statement in body.removesuffix("END").split(";"):
            if statement.strip():
                assert not await plan(store, statement), (name, statement)


async def count_steps(folder: Path, finished: int) -> dict[str, int]:
    """Return how many hundreds of SQLite's own steps each call takes."""
    taken: dict[str, int] = {}
    async with open_store(folder) as store:
        await fill(store, finished)
        for name, call in CALLS.items():
            steps = [0]

            def tick(steps: list[int] = steps) -> int:
                steps[0] += 1
                return 0

            for connection in (store.commits.connection, store._reader):
                await connection.set_progress_handler(tick, 10)
            await call(store)
            taken[name] = steps[0]
    return taken


async def test_a_larger_ledger_costs_nothing(tmp_path: Path) -> None:
    """Twenty times as much is finished, or waits, beside the same work: SQLite takes its steps."""
    few = await count_steps(tmp_path / "few", FEW)
    many = await count_steps(tmp_path / "many", MANY)
    dearer = {
        name: (few[name], many[name])
        for name in CALLS
        if name not in WHOLE and many[name] > 1.1 * few[name] + 5
    }
    assert sum(few.values()) > 100
    assert many["obtainable"] > 1.1 * few["obtainable"] or many["counts"] > 5 * few["counts"]
    assert not dearer


@pytest.mark.parametrize("states", [(), ("done",), ("done", "failed", "done"), tuple(State)])
async def test_pages_hold_every_task_once(store: Store, states: tuple[str, ...]) -> None:
    """The newest first, whichever states are asked for, and however often one is named."""
    await fill(store, FEW)
    expected = [
        row[0]
        for row in await store.commits.connection.execute_fetchall("SELECT id, state FROM task")
        if not states or row[1] in states
    ]
    found: list[int] = []
    before_id = None
    while page := await store.tasks(states, 7, before_id):
        found += [task.id for task in page]
        before_id = page[-1].id
    assert found == sorted(expected, reverse=True)


async def test_counts_are_those_of_the_last_commit(store: Store) -> None:
    """What was counted is counted again after every commit, and not before."""
    await fill(store, FEW)
    asked: list[str] = []
    assert (await store.counts())["expected"] == 25 + FEW
    await store._reader.set_trace_callback(asked.append)
    assert (await store.counts())["expected"] == 25 + FEW
    assert not [sql for sql in asked if "count" in sql]
    await store.receive([tidings("new")])
    assert (await store.counts())["expected"] == 26 + FEW
    assert [sql for sql in asked if "count" in sql]


async def test_the_stock_is_what_is_in_place(store: Store) -> None:
    """Videos that were removed count for the day on which they came, and for nothing else."""
    await fill(store, FEW)
    (row,) = await store.commits.connection.execute_fetchall(
        "SELECT sum(state IN ('stored', 'done')), count(stored_at) FROM task"
    )
    in_place, came = row
    assert in_place < came
    assert await store.stock.total_bytes() == in_place
    assert await store.stock.by_day(NOW // DAY_MS - 1) == {NOW // DAY_MS: (came, came)}
    assert await store.stock.by_day(NOW // DAY_MS + 1) == {}


async def test_who_looks_holds_nobody_up(store: Store) -> None:
    """A commit goes on while a long answer is read, and the answer does not change meanwhile."""
    await fill(store, FEW)
    async with store._reader.execute("SELECT task_id FROM task") as rows:
        assert await rows.fetchone() is not None
        await store.receive([tidings("new")])
        seen = {row[0] async for row in rows}
    assert "new" not in seen
    assert [task.task_id for task in await store.tasks((), 1)] == ["new"]


async def test_an_answer_to_a_look_is_no_sign_that_commits_work_again(
    store: Store, break_ledger: Callable[..., Awaitable[None]]
) -> None:
    """Whoever looks goes another way than the callbacks."""
    with capture_logs() as logs:
        await break_ledger(broken=True)
        assert not await store.writable()
        assert sum((await store.counts()).values()) == 0
        assert await store.tasks() == []
        assert [line["event"] for line in logs] == ["store.failed"]
        await break_ledger(broken=False)
        assert await store.writable()
    assert [line["event"] for line in logs] == ["store.failed", "store.recovered"]


async def test_a_long_page_is_shown_in_turns(store: Store) -> None:
    """Callbacks are answered between its tasks."""
    await fill(store, FEW)
    tasks = await store.tasks((), 200)
    turns = 0

    async def answer() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    answering = asyncio.create_task(answer())
    shown = await office.in_turns(lambda task: task.task_id, tasks)
    answering.cancel()
    assert shown == [task.task_id for task in tasks]
    assert turns == len(tasks) // office.TURN == 10
