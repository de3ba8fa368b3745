"""The ledger: what a call promises, and what a cancelled or failed one leaves behind."""

import asyncio
import sqlite3  # noqa: TID251 - its errors are expected here
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daemon.rules.lifecycle import TRANSITIONS, Cause, State
from daemon.rules.task import Move, Task
from daemon.rules.verdict import Verdict
from daemon.store import STORE_PAUSE_MS, Store, StoreFailed, open_store, survive
from tests.stations.holding import hold
from tests.stations.quota import file_limit

NOW = 1_790_000_000_000
DAY = 86_400_000
LINK = "https://files.example.com/a.mp4"
WHOLE = {"size_bytes": 1, "sha256": "00", "path": "/a.mp4", "stored_at": NOW}

Plant = Callable[..., Awaitable[Task]]


async def adopt(store: Store, *task_ids: str, label: str | None = None) -> tuple[list[Task], int]:
    """Take tasks into the ledger."""
    return await store.adopt(
        task_ids, source="track", label=label, now=NOW, deadline_at=NOW + DAY, ask_at=NOW
    )


async def get(store: Store, task_id: str) -> Task:
    """Read a task that has to be there."""
    task = await store.task(task_id)
    assert task is not None
    return task


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("cause", list(Cause))
async def test_a_move_is_in_the_table_or_does_not_happen(
    store: Store, plant: Plant, cause: Cause, state: State
) -> None:
    """The database looks every move up; an illegal one fails and changes nothing at all."""
    before = await plant("a", state, link=LINK, fetch_at=NOW)
    history = await store.history("a")
    verdict = Verdict(cause, {"message": "news"})
    if state in TRANSITIONS[cause]:
        after, _ = await store.settle(before, NOW + 1, lambda _: verdict)
        assert (after.state, after.message) == (TRANSITIONS[cause][state], "news")
        assert len(await store.history("a")) - len(history) == (after.state != state)
        return
    with pytest.raises(sqlite3.IntegrityError):
        await store.settle(before, NOW + 1, lambda _: verdict)
    assert await get(store, "a") == before
    assert await store.history("a") == history
    assert not store.commits.connection.in_transaction


async def test_history_is_written_for_every_move_and_told_once(
    store: Store, moves: list[Move]
) -> None:
    """No caller can forget it: a trigger writes it in the transaction of the move."""
    ((task,), _) = await adopt(store, "a")
    verdicts = (
        Verdict(Cause.LINKED, {"link": LINK, "fetch_at": NOW}),
        Verdict(Cause.FETCHED, WHOLE),
        Verdict(None, {"message": "no move"}),
        Verdict(Cause.PUBLISHED, {"reason": "finish"}),
        Verdict(Cause.FINISHED, {}),
    )
    for number, verdict in enumerate(verdicts, 1):
        task, _ = await store.settle(task, NOW + number, lambda _, verdict=verdict: verdict)  # type: ignore[misc]
    history = await store.history("a")
    steps = [(step.before, step.after, step.cause, step.reason) for step in history]
    assert steps == [
        (None, "expected", "adopted", None),
        ("expected", "wanted", "linked", None),
        ("wanted", "verified", "fetched", None),
        ("verified", "stored", "published", "finish"),
        ("stored", "done", "finished", "finish"),
    ]
    assert [step.at - NOW for step in history] == [0, 1, 2, 4, 5]
    assert [(move.before, move.task.state) for move in moves] == [step[:2] for step in steps]


async def test_a_decision_is_made_anew_when_the_row_changed(store: Store) -> None:
    """Two decisions about one task never overwrite one another's news."""
    ((task,), _) = await adopt(store, "a")
    seen: list[int] = []

    async def count() -> None:
        def decide(row: Task) -> Verdict:
            seen.append(row.attempts)
            return Verdict(None, {"attempts": row.attempts + 1})

        await store.settle(task, NOW, decide)

    await asyncio.gather(*(count() for _ in range(20)))
    after = await get(store, "a")
    assert after.attempts == 20
    assert after.version == task.version + 20
    assert len(seen) > 20


async def test_a_decision_may_be_to_do_nothing(store: Store) -> None:
    """None leaves the row as it is, also when it was taken about a newer one."""
    ((task,), _) = await adopt(store, "a")
    assert await store.settle(task, NOW + 9, lambda _: None) == (task, None)
    moved, _ = await store.settle(task, NOW, lambda _: Verdict(None, {"message": "first"}))

    def once(row: Task) -> Verdict | None:
        return Verdict(None, {"message": "second"}) if row.message is None else None

    assert await store.settle(task, NOW, once) == (moved, None)
    assert await get(store, "a") == moved


async def test_a_decision_about_nothing_known_is_a_bug(store: Store) -> None:
    """A column that does not exist and a task that never was are told, not ignored."""
    ((task,), _) = await adopt(store, "a")
    with pytest.raises(ValueError, match="nonsense"):
        await store.settle(task, NOW, lambda _: Verdict(None, {"nonsense": 1}))
    await store.commits.connection.execute_fetchall("DELETE FROM task")
    with pytest.raises(LookupError, match="a left the ledger"):
        await store.settle(task, NOW, lambda _: Verdict(None, {"message": "x"}))


async def test_adopting_twice_adds_nothing(store: Store, moves: list[Move]) -> None:
    """The same ids again give their rows, zero new ones, and take a label that was missing."""
    tasks, new = await adopt(store, "a", "b", "a")
    assert ([task.task_id for task in tasks], new) == (["a", "b", "a"], 2)
    tasks, new = await adopt(store, "b", "c", label="song")
    assert ([task.label for task in tasks], new) == (["song", "song"], 1)
    tasks, new = await adopt(store, "b", label=None)
    assert ([task.label for task in tasks], new) == (["song"], 0)
    assert [move.task.task_id for move in moves] == ["a", "b", "c"]
    assert len(await store.history("b")) == 1


async def test_a_claim_has_one_owner_until_the_process_ends(tmp_path: Path) -> None:
    """Of many workers one gets the task; a restart, as after a crash, frees it."""
    async with open_store(tmp_path) as store:
        ((task,), _) = await adopt(store, "a")
        assert await store.claim("a", NOW) is None
        wanted = Verdict(Cause.LINKED, {"link": LINK, "fetch_at": NOW + 5})
        await store.settle(task, NOW, lambda _: wanted)
        assert await store.claim("a", NOW + 4) is None
        claims = await asyncio.gather(*(store.claim("a", NOW + 5) for _ in range(8)))
        (claimed,) = [claim for claim in claims if claim is not None]
        assert (claimed.claimed_at, claimed.attempts) == (NOW + 5, 1)
    async with open_store(tmp_path) as store:
        again = await store.claim("a", NOW + 6)
        assert again is not None
        assert again.attempts == 2


@pytest.mark.parametrize("state", [State.VERIFIED, State.STORED])
async def test_only_a_download_is_charged_as_an_attempt(
    store: Store, plant: Plant, state: State
) -> None:
    """Publishing and finishing are not trials of the host."""
    await plant("a", state)
    claimed = await store.claim("a", NOW)
    assert claimed is not None
    assert claimed.attempts == 0


async def test_progress_is_recorded_only_while_bytes_are_missing(
    store: Store, plant: Plant
) -> None:
    """A late record must not describe a file that is finished."""
    await plant("a", State.WANTED)
    await plant("b", State.STORED)
    for task_id in ("a", "b"):
        await store.record_progress(task_id, "0-10", 20, '"v"')
    found = [(row.spans, row.size_bytes, row.validator) for row in await store.tasks()]
    assert found == [("", 1, None), ("0-10", 20, '"v"')]


async def test_bytes_of_a_link_that_was_replaced_are_not_recorded(
    store: Store, plant: Plant
) -> None:
    """A download from an unconfirmed link may end after the provider named the true one."""
    await plant("a", State.WANTED, link=LINK, size_bytes=None)
    await store.record_progress("a", "0-5", 9, None, only_of="https://forged.example.com/")
    assert (await get(store, "a")).spans == ""
    await store.record_progress("a", "0-5", 9, None, only_of=LINK)
    assert (await get(store, "a")).spans == "0-5"


async def test_the_same_bytes_are_quarantined_once(store: Store) -> None:
    """A repeated unreadable callback raises a number; nothing of the first one changes."""

    async def keep(body: bytes, now: int) -> tuple[str, int, int]:
        held = await hold(store, body, now=now)
        return held.id, held.copies, held.received_at

    first = await keep(b"{", NOW)
    assert await keep(b"{", NOW + 1) == (first[0], 2, NOW)
    for number in range(3):
        await keep(b"%d" % number, NOW + 2)
    page = await store.quarantine.page(2)
    assert [held.body for held in page] == [b"2", b"1"]
    rest = await store.quarantine.page(9, before_number=page[-1].number)
    assert [(held.body, held.copies, held.why) for held in rest] == [
        (b"0", 1, "not JSON"),
        (b"{", 2, "not JSON"),
    ]
    assert await store.overview.outlook() == (None, None, 4)


async def test_the_list_is_paged_newest_first(store: Store, plant: Plant) -> None:
    """A page ends where the next one begins, with states and without."""
    for number, state in enumerate((State.WANTED, State.FAILED, State.WANTED, State.EXPECTED)):
        await plant(f"t{number}", state, deadline_at=NOW + number)
    first = await store.tasks(limit=3)
    rest = await store.tasks(limit=3, before_id=first[-1].id)
    assert [task.task_id for task in (*first, *rest)] == ["t3", "t2", "t1", "t0"]
    some = await store.tasks(["wanted", "expected"], limit=2)
    assert [task.task_id for task in some] == ["t3", "t2"]
    assert await store.counts() == dict.fromkeys(State, 0) | {
        State.WANTED: 2,
        State.FAILED: 1,
        State.EXPECTED: 1,
    }
    assert await store.overview.outlook() == (NOW, NOW, 0)
    assert await store.task("t9") is None


async def test_a_full_disk_fails_the_call_and_nothing_else(store: Store) -> None:
    """Nothing of a failed call happened, nothing is left open, and it works once there is room."""
    ((task,), _) = await adopt(store, "a")
    verdict = Verdict(None, {"message": "m" * 2000})
    with capture_logs() as logs:
        with file_limit(1):
            with pytest.raises(StoreFailed, match="did not commit") as caught:
                await adopt(store, "b")
            assert survive(caught.value) == STORE_PAUSE_MS
            with pytest.raises(StoreFailed):
                await store.settle(task, NOW, lambda _: verdict)
            assert not await store.writable()
            assert not store.commits.connection.in_transaction
        assert await store.tasks() == [task]
        assert await store.writable()
    assert [log["event"] for log in logs] == ["store.failed", "store.recovered"]
    await store.settle(task, NOW, lambda _: verdict)
    assert (await get(store, "a")).message == verdict.changes["message"]


async def test_a_damaged_file_is_not_survived(tmp_path: Path, store: Store) -> None:
    """What is read from it may be a lie: the process ends, and a new start looks at all of it."""
    await adopt(store, *(f"t{number}" for number in range(500)))
    await store.tidy()
    path = tmp_path / "state" / "ledger.sqlite3"
    before = path.read_bytes()
    path.write_bytes(before[:8192] + b"\xff" * (len(before) - 8192))
    await store.commits.connection.execute_fetchall("PRAGMA shrink_memory")
    with pytest.raises(StoreFailed, match="malformed") as caught:
        await store.tasks(limit=500)
    with pytest.raises(StoreFailed, match="malformed"):
        survive(caught.value)
    # Whoever's statement it was, and whatever it made of it.
    with pytest.raises(StoreFailed, match="only a new start"):
        await store.fail_for_good()
    with pytest.raises(StoreFailed, match="only a new start"):
        await store.counts()
    path.write_bytes(before)


@pytest.mark.parametrize("hops", range(4))
async def test_a_cancelled_call_leaves_no_transaction_behind(store: Store, hops: int) -> None:
    """The statement still runs to its end by itself, and the next caller finds all in order."""
    ((task,), _) = await adopt(store, "a")
    wanted = Verdict(Cause.LINKED, {"link": LINK, "fetch_at": NOW})
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: adopt(store, *(f"t{number}" for number in range(500))),
        lambda: store.settle(task, NOW, lambda _: wanted),
        lambda: store.claim("a", NOW),
        lambda: store.record_progress("a", "0-1", None, None),
        lambda: hold(store, b"x", now=NOW),
        lambda: store.tasks(limit=1000),
        store.release_claims,
        store.tidy,
    ]
    for call in calls:
        running = asyncio.ensure_future(call())
        for _ in range(hops):
            await asyncio.sleep(0)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        assert await store.writable()
        assert not store.commits.connection.in_transaction
    if hops:
        assert (await get(store, "a")).state == "wanted"
        assert sum((await store.counts()).values()) == 501
