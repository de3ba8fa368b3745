"""The tables say the same as the rules, and refuse what the rules forbid."""

import json
import re
import sqlite3  # noqa: TID251 - its errors are expected here
from dataclasses import fields
from typing import get_args, get_type_hints

import pytest

from daemon.outbox import Message
from daemon.rules.failure import Reason
from daemon.rules.lifecycle import State
from daemon.rules.submission import Intent
from daemon.rules.task import COLUMNS, Task
from daemon.schema import MIGRATIONS
from daemon.store import Store

FACTS: dict[str, object] = {
    "link": "l",
    "fetch_at": 1,
    "size_bytes": 1,
    "sha256": "00",
    "path": "/a",
    "stored_at": 1,
}
"""What has to be known in every state."""


async def execute(store: Store, sql: str, *values: object) -> list[tuple[object, ...]]:
    """Run a statement past the ledger's own calls."""
    return [tuple(row) for row in await store.commits.connection.execute_fetchall(sql, values)]


async def insert(store: Store, **columns: object) -> None:
    """Insert a task by hand; the rest of its columns is good."""
    words = {"task_id": "a", "state": "expected", "cause": "adopted", "source": "track"}
    values = words | dict.fromkeys(("created_at", "updated_at", "deadline_at"), 1) | columns
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    await execute(store, f"INSERT INTO task ({names}) VALUES ({marks})", *values.values())  # noqa: S608 - only column names


async def test_the_columns_are_the_fields_of_a_task(store: Store) -> None:
    """Order, names, types and what may be missing: a row becomes a `Task` without a look."""
    found = await execute(
        store, "SELECT name, type, \"notnull\" OR pk FROM pragma_table_info('task')"
    )
    assert tuple(name for name, _, _ in found) == COLUMNS
    hints = get_type_hints(Task)
    kinds = {str: "TEXT", int: "INTEGER", float: "REAL"}
    for name, kind, required in found:
        hint = hints[str(name)]
        assert kind == kinds[get_args(hint)[0] if get_args(hint) else hint], name
        assert bool(required) == (type(None) not in get_args(hint)), name


@pytest.mark.parametrize(("table", "kind"), [("submission", Intent), ("outbox", Message)])
async def test_a_row_becomes_a_value(store: Store, table: str, kind: type) -> None:
    """The columns of an intent and of a message are the fields of theirs."""
    found = await execute(store, "SELECT name FROM pragma_table_info(?)", table)
    assert {name for (name,) in found} == {field.name for field in fields(kind)}


async def test_every_state_and_reason_can_be_written_and_no_other(store: Store) -> None:
    """The vocabularies of the rules are those of the database."""
    for number, state in enumerate(State):
        facts = FACTS | {"path": f"/{number}"}
        await insert(store, **facts, task_id=f"s{number}", state=state)
    for number, reason in enumerate(Reason):
        await insert(store, task_id=f"r{number}", reason=reason)
    for column in ("state", "reason", "source"):
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            await insert(store, **{column: "nonsense"})
    words = re.findall(r"'(\w+)'", json.dumps(MIGRATIONS[0][0]))
    assert {*State, *Reason} <= set(words)


@pytest.mark.parametrize(
    ("state", "missing"),
    [
        *(("wanted", name) for name in ("link", "fetch_at")),
        *(("verified", name) for name in ("size_bytes", "sha256", "path")),
        *((state, "stored_at") for state in ("stored", "done")),
    ],
)
async def test_a_state_without_its_facts_cannot_be_written(
    store: Store, state: str, missing: str
) -> None:
    """A finished task without a path or a digest is impossible, whoever wrote it."""
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        await insert(store, **FACTS | {missing: None}, state=state)
    await insert(store, **FACTS, state=state)


async def test_two_tasks_never_have_one_file(store: Store) -> None:
    """One of them would delete or mend what belongs to the other."""
    await insert(store, task_id="a", path="/a")
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        await insert(store, task_id="b", path="/a")


async def test_text_in_a_column_of_numbers_is_refused(store: Store) -> None:
    """The tables are STRICT."""
    with pytest.raises(sqlite3.IntegrityError, match="cannot store TEXT"):
        await insert(store, created_at="yesterday")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM task WHERE ask_at <= 1 ORDER BY ask_at LIMIT 9",
        "SELECT * FROM task WHERE source <> 'callback' AND ask_at <= 1 ORDER BY ask_at LIMIT 9",
        "SELECT min(ask_at) FROM task WHERE ask_at IS NOT NULL",
        "SELECT min(fetch_at) FROM task WHERE state IN ('wanted', 'verified', 'stored')",
        "SELECT * FROM task WHERE state = 'expected' AND hint_at <= 1",
        "SELECT state, count(*) FROM task GROUP BY state",
        "SELECT * FROM history WHERE task = 1 ORDER BY id",
        "SELECT min(send_at) FROM submission WHERE send_at IS NOT NULL",
        "SELECT * FROM submission WHERE send_at <= 1 AND tries = 0",
        "SELECT * FROM submission WHERE task = 1 ORDER BY id DESC LIMIT 1",
        "SELECT * FROM submission WHERE calling = 1",
        "SELECT task FROM submission WHERE local_id = 'a'",
        "SELECT * FROM outbox WHERE due_at IS NOT NULL ORDER BY due_at, number LIMIT 1",
    ],
)
async def test_what_is_asked_every_second_uses_an_index(store: Store, query: str) -> None:
    """A ledger of a hundred thousand tasks is not read from end to end for the next one due."""
    plan = await execute(store, f"EXPLAIN QUERY PLAN {query}")
    assert all("INDEX" in str(step[-1]) or step[-1] == "SCAN CONSTANT ROW" for step in plan), plan
