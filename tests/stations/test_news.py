"""What becomes true of a task is kept for those who want to hear of it, in the same transaction."""

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from daemon.rules.lifecycle import Cause, State
from daemon.rules.task import Task, Tidings
from daemon.rules.verdict import Verdict
from daemon.store import Store

Plant = Callable[..., Awaitable[Task]]
Now = Callable[[], int]
HOUR = 3_600_000


async def kept(store: Store) -> list[tuple[Any, ...]]:
    """Return what the outbox holds: target, type, task."""
    rows = await store.commits.connection.execute_fetchall(
        "SELECT target, type, task_id FROM outbox ORDER BY number"
    )
    return [tuple(row) for row in rows]


def _decide(verdict: Verdict, _: Task) -> Verdict:
    return verdict


async def move(store: Store, task_id: str, cause: Cause, now: int, **changes: Any) -> None:
    """Move a task by its cause."""
    task = await store.task(task_id)
    assert task is not None
    await store.settle(task, now, lambda _: Verdict(cause, changes))


async def test_every_end_of_a_task_is_kept_for_its_subscribers(
    store: Store, plant: Plant, now: Now
) -> None:
    """Each with an id of its own, due at once, with the facts as they were; no other move is."""
    await store.outbox.subscribe(
        [
            *(("task.stored", "notify:a"), ("task.done", "notify:a")),
            *(("task.stored", "notify:b"), ("task.failed", "notify:b"), ("task.lost", "notify:b")),
        ]
    )
    await plant("v", State.VERIFIED, size_bytes=7, sha256="ab", path="/v/v.mp4", stored_at=None)
    await plant("e")
    await plant("w", State.WANTED)
    assert await kept(store) == []
    await move(store, "v", Cause.PUBLISHED, now(), stored_at=now())
    await move(store, "v", Cause.FINISHED, now() + 1)
    await move(store, "e", Cause.DECLINED, now(), reason="provider_error", message="no credits")
    await move(store, "w", Cause.EXPIRED, now(), reason="deadline")
    assert await kept(store) == [
        ("notify:a", "task.stored", "v"),
        ("notify:b", "task.stored", "v"),
        ("notify:a", "task.done", "v"),
        ("notify:b", "task.failed", "e"),
        ("notify:b", "task.lost", "w"),
    ]
    first = await store.outbox.next(["notify:b"])
    assert first is not None
    facts = (first.path, first.sha256, first.size_bytes, first.created_at, first.due_at)
    assert facts == ("/v/v.mp4", "ab", 7, now(), now())
    failed = await store.outbox.next(["notify:a"])
    assert failed is not None
    assert failed.id != first.id
    rows = await store.commits.connection.execute_fetchall(
        "SELECT reason, message, path, link FROM outbox WHERE type <> 'task.stored' ORDER BY number"
    )
    assert [tuple(row) for row in rows][1:] == [
        ("provider_error", "no credits", None, None),
        ("deadline", None, "/videos/w.mp4", None),
    ]


async def test_a_task_that_is_born_failed_is_told_as_well(store: Store, now: Now) -> None:
    """Its first callback, where callbacks are believed, is its end."""
    await store.outbox.subscribe([("task.failed", "notify:a")])
    birth = Tidings(
        task_id="t", cause=Cause.DECLINED, now=now(), deadline_at=now() + HOUR, ask_at=None
    )
    await store.receive([birth, birth])
    assert await kept(store) == [("notify:a", "task.failed", "t")]


async def test_a_deadline_that_comes_near_is_told_at_each_level(
    store: Store, plant: Plant, now: Now
) -> None:
    """With the commit of the warning, and with no other change."""
    await store.outbox.subscribe([("deadline.near", "notify:a")])
    await plant("t")
    for warnings in (1, 1, 2):
        task = await store.task("t")
        assert task is not None
        verdict = Verdict(None, {"warnings": warnings})
        await store.settle(task, now(), partial(_decide, verdict))
    assert await kept(store) == [("notify:a", "deadline.near", "t")] * 2


async def test_a_step_that_failed_for_good_is_told_once(
    store: Store, plant: Plant, now: Now
) -> None:
    """When its error is written down."""
    await store.outbox.subscribe([("finish.failed", "notify:a")])
    task = await plant("t", State.STORED)
    await store.settle(task, now(), lambda _: Verdict(Cause.FINISHED, {"finish_error": "exit 1"}))
    assert await kept(store) == [("notify:a", "finish.failed", "t")]


async def test_without_subscribers_nothing_is_kept(store: Store, plant: Plant, now: Now) -> None:
    """Neither of tasks nor of gates; and what was subscribed is forgotten with its target."""
    await store.outbox.subscribe([("task.lost", "notify:a"), ("gate.closed", "notify:a")])
    await store.outbox.subscribe([])
    await plant("t", State.WANTED)
    await move(store, "t", Cause.EXPIRED, now())
    await store.outbox.announce("gate.closed", {"name": "key"}, now())
    assert await kept(store) == []


async def test_an_event_of_no_task_is_kept_with_its_data(store: Store, now: Now) -> None:
    """For each who wants to hear of it; what a target no longer configured had is dropped."""
    await store.outbox.subscribe([("gate.closed", "notify:a"), ("gate.closed", "notify:b")])
    await store.outbox.announce("gate.closed", {"name": "key", "reason": "401"}, now())
    await store.outbox.announce("gate.opened", {"name": "key", "reason": "401"}, now())
    assert await kept(store) == [(f"notify:{name}", "gate.closed", "") for name in "ab"]
    message = await store.outbox.next([])
    assert message is not None
    assert json.loads(message.data or "") == {"name": "key", "reason": "401"}
    assert await store.outbox.drop_others(["notify:b"]) == 1
    assert await kept(store) == [("notify:b", "gate.closed", "")]


@pytest.mark.parametrize("cleared", [True, False])
async def test_what_was_given_up_is_counted_until_somebody_clears_it(
    store: Store, now: Now, *, cleared: bool
) -> None:
    """By target, with the last error; or it is forgotten after its time."""
    pairs = [("gate.closed", "notify:a"), ("gate.closed", "notify:b")]
    await store.outbox.subscribe(pairs)
    for number in range(3):
        await store.outbox.announce("gate.closed", {}, now() + number)
    for number in range(5):
        message = await store.outbox.next([])
        assert message is not None
        await store.outbox.postpone(message, None, f"error {number}")
    found = {one.target: (one.count, one.error) for one in await store.outbox.undelivered()}
    assert found == {"notify:a": (3, "error 4"), "notify:b": (2, "error 3")}
    if cleared:
        await store.outbox.clear(["notify:a"])
        assert [one.target for one in await store.outbox.undelivered()] == ["notify:b"]
    else:
        await store.outbox.forget_old(now() + 2)
        assert [(one.target, one.count) for one in await store.outbox.undelivered()] == [
            ("notify:a", 1)
        ]
    assert await store.outbox.next([]) is not None
