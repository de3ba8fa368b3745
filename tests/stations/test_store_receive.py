"""Callbacks in the ledger: many in one commit, in any order, as often as they like."""

import asyncio
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from itertools import permutations
from pathlib import Path

import pytest

from daemon.rules.failure import Reason
from daemon.rules.lifecycle import TRANSITIONS, Cause, State
from daemon.rules.task import Move, Received, Task, Tidings
from daemon.store import Store, open_store

NOW = 1_790_000_000_000
DAY = 86_400_000
LINK = "https://files.example.com/a.mp4"
OTHER = "https://files.example.com/b.mp4"

Plant = Callable[..., Awaitable[Task]]


def hint(task_id: str, link: str | None = None, now: int = NOW) -> Tidings:
    """Build a callback that proves nothing."""
    return Tidings(
        task_id=task_id,
        cause=Cause.HINTED,
        now=now,
        deadline_at=now + DAY,
        ask_at=now,
        hint=link,
    )


def success(task_id: str, link: str = LINK, now: int = NOW) -> Tidings:
    """Build a trusted callback with a link."""
    return Tidings(
        task_id=task_id,
        cause=Cause.LINKED,
        now=now,
        deadline_at=now + DAY,
        ask_at=None,
        link=link,
    )


def failure(task_id: str, message: str = "no", now: int = NOW) -> Tidings:
    """Build a trusted callback that says failure."""
    return Tidings(
        task_id=task_id,
        cause=Cause.DECLINED,
        now=now,
        deadline_at=now + DAY,
        ask_at=None,
        reason=Reason.PROVIDER_ERROR,
        message=message,
        code=500,
    )


async def receive(store: Store, tidings: Tidings) -> Task:
    """Commit one callback; return the row as it is afterwards."""
    (received,) = await store.receive([tidings])
    task = await store.task(tidings.task_id)
    assert task is not None
    assert received == tuple(getattr(task, name) for name in Received._fields)
    return task


def count_commits(log: Path) -> int:
    """Count the commits in a write-ahead log: https://www.sqlite.org/fileformat.html#walformat."""
    content = log.read_bytes()
    (page_bytes,) = struct.unpack_from(">I", content, 8)
    frames = range(32, len(content), 24 + page_bytes)
    return sum(struct.unpack_from(">I", content, frame + 4) != (0,) for frame in frames)


async def test_three_hundred_callbacks_are_one_commit(
    tmp_path: Path, store: Store, moves: list[Move]
) -> None:
    """Duplicates of one id included; the rows come back in the order of the batch."""
    log = tmp_path / "state" / "ledger.sqlite3-wal"
    batch = [hint(f"t{number % 250}", now=NOW + number) for number in range(300)]
    before = count_commits(log)
    tasks = await store.receive(batch)
    assert count_commits(log) == before + 1
    assert [task.task_id for task in tasks] == [tidings.task_id for tidings in batch]
    assert [task.callbacks for task in tasks] == [1] * 250 + [2] * 50
    assert sum((await store.counts()).values()) == 250
    assert len(moves) == 250
    assert [len(await store.history(f"t{number}")) for number in (0, 249)] == [1, 1]


@pytest.mark.parametrize("together", [True, False])
async def test_every_order_of_callbacks_ends_alike(store: Store, *, together: bool) -> None:
    """Success outranks failure outranks nothing, whatever comes first and however often."""
    messages = (hint, success, failure, failure, hint)
    orders = sorted(set(permutations(range(len(messages)))))
    batches = [
        [messages[index](f"{number:03}") for index in order] for number, order in enumerate(orders)
    ]
    if together:
        for batch in batches:
            await store.receive(batch)
    else:
        for row in zip(*batches, strict=True):
            await store.receive(row)
    ends = {(task.state, task.link, task.callbacks) for task in await store.tasks(limit=1000)}
    assert ends == {("wanted", LINK, len(messages))}
    assert sum((await store.counts()).values()) == len(orders)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("build", [hint, success, failure])
async def test_a_callback_moves_a_task_as_the_table_says(
    store: Store, plant: Plant, build: Callable[[str], Tidings], state: State
) -> None:
    """No state makes a callback fail, and the trigger writes down every move."""
    before = await plant("a", state)
    tidings = build("a")
    cause = tidings.cause
    if cause is Cause.DECLINED and before.link is not None:
        cause = Cause.HINTED  # evidence of success never goes down
    after = await receive(store, tidings)
    assert (after.state, after.cause) == (TRANSITIONS[cause][state], cause)
    assert after.callbacks == 2
    last = (await store.history("a"))[-1]
    moved = after.state != state
    assert ((last.before, last.after) == (state, after.state)) == moved


async def test_the_newest_link_enters_while_bytes_are_missing(store: Store, plant: Plant) -> None:
    """A new link is due now; the same one again moves no backoff; a finished file has its own."""
    await plant("a", State.WANTED, link=LINK, fetch_at=NOW + 900, refusals=2)
    same = await receive(store, success("a", LINK))
    assert (same.fetch_at, same.refusals) == (NOW + 900, 2)
    fresh = await receive(store, success("a", OTHER, now=NOW + 1))
    assert (fresh.link, fresh.fetch_at, fresh.refusals) == (OTHER, NOW + 1, 0)
    await plant("b", State.STORED, link=LINK, fetch_at=None)
    kept = await receive(store, success("b", OTHER))
    assert (kept.link, kept.fetch_at) == (LINK, None)


@pytest.mark.parametrize(("state", "link"), [(State.WANTED, OTHER), (State.LOST, LINK)])
async def test_what_proved_an_old_link_dead_proves_nothing_of_news(
    store: Store, plant: Plant, state: State, link: str
) -> None:
    """A task that a callback gives new hope is tried before it can be lost (again)."""
    await plant("a", state, link=LINK, refusal_proofs=3, refusal_proved_at=NOW, refusals=9)
    task = await receive(store, success("a", link))
    assert (task.state, task.fetch_at) == ("wanted", NOW)
    assert (task.refusal_proofs, task.refusal_proved_at, task.refusals) == (0, None, 0)


async def test_a_failure_is_told_and_a_success_takes_it_back(store: Store) -> None:
    """The newest failure explains itself; success wipes the explanation off."""
    await store.receive([hint("a")])
    for message in ("first", "second"):
        failed = await receive(store, failure("a", message))
        assert (failed.state, failed.reason, failed.message) == (
            "failed",
            "provider_error",
            message,
        )
        assert (failed.provider_code, failed.ask_at) == (500, None)
    revived = await receive(store, success("a"))
    assert (revived.state, revived.reason, revived.message) == ("wanted", None, None)
    ignored = await receive(store, failure("a", "third"))
    assert (ignored.state, ignored.reason, ignored.message) == ("wanted", None, None)


async def test_a_hint_makes_the_question_due_and_is_dated_once(store: Store) -> None:
    """Repeating the same link does not make it younger: its confirmation is waited for since."""
    await store.receive([hint("a", LINK)])
    again = await receive(store, hint("a", LINK, now=NOW + 5))
    assert (again.hint, again.hint_at, again.ask_at) == (LINK, NOW, NOW + 5)
    silent = await receive(store, hint("a", None, now=NOW + 6))
    assert (silent.hint, silent.hint_at) == (LINK, NOW)
    other = await receive(store, hint("a", OTHER, now=NOW + 7))
    assert (other.hint, other.hint_at, other.link) == (OTHER, NOW + 7, None)


@pytest.mark.parametrize(
    ("state", "unconfirmed", "asked"),
    [
        (State.FAILED, 0, True),
        (State.LOST, 0, True),
        (State.WANTED, 0, True),
        (State.STORED, 0, False),
        (State.DONE, 0, False),
        (State.DONE, 1, True),
    ],
)
async def test_a_hint_asks_where_an_answer_could_change_something(
    store: Store, plant: Plant, state: State, unconfirmed: int, *, asked: bool
) -> None:
    """A late callback asks about what failed or was lost, and about what nobody confirmed."""
    await plant("a", state, unconfirmed=unconfirmed, ask_at=None)
    task = await receive(store, hint("a", now=NOW + 3))
    assert task.ask_at == (NOW + 3 if asked else None)


async def test_any_text_comes_back_as_it_went_in(store: Store) -> None:
    """Quotes, JSON, other scripts and an emoji pass the one statement unharmed."""
    messages = ["'; DROP TABLE task; --", '{"a": [1]}', "\u97f3\u4e50 \U0001f3b5", "a\\u0041\n", ""]
    batch = [failure(f"t{number}", message) for number, message in enumerate(messages)]
    await store.receive(batch)
    assert [task.message for task in reversed(await store.tasks())] == messages
    assert await store.receive([]) == []


_VICTIM = """
import asyncio, sys
from pathlib import Path
from daemon.rules.lifecycle import Cause
from daemon.rules.task import Tidings
from daemon.store import open_store

async def main():
    async with open_store(Path(sys.argv[1])) as store:
        for number in range(1_000_000):
            facts = {"cause": Cause.HINTED, "now": 1, "deadline_at": 9, "ask_at": 1}
            await store.receive([Tidings(task_id=f"t{number}", **facts)])
            print(number, flush=True)

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """`kill -9` at any moment: every callback whose call returned is there at the next start."""
    for _ in range(3):
        victim = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _VICTIM, str(tmp_path)), stdout=subprocess.PIPE
        )
        assert victim.stdout is not None
        await victim.stdout.readline()
        await asyncio.sleep(random.uniform(0.05, 0.2))
        victim.send_signal(signal.SIGKILL)
        acknowledged = len((await victim.stdout.read()).split())
        await victim.wait()
        assert acknowledged > 5
        async with open_store(tmp_path) as store:
            kept = {task.task_id for task in await store.tasks(limit=1_000_000)}
        assert {f"t{number}" for number in range(acknowledged)} <= kept
