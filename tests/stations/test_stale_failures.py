"""A callback that says failure and comes too late: it must not silence a task that had a link."""

from collections.abc import Awaitable, Callable

from daemon.rules.lifecycle import State
from daemon.rules.notice import read_callback
from daemon.rules.task import Task
from daemon.rules.verdict import judge_callback
from daemon.store import Store


async def test_a_failure_after_a_refused_link_leaves_the_question_due(
    store: Store, plant: Callable[..., Awaitable[Task]], now: Callable[[], int]
) -> None:
    """The link was refused and a fresh one is asked for; a stale failure changes nothing of it."""
    due_at = now() + 30_000
    await plant("a", State.EXPECTED, link="https://files.example.com/a.mp4", ask_at=due_at)
    stale = read_callback(b'{"code": 500, "msg": "", "data": {"task_id": "a", "video_url": null}}')
    tidings = judge_callback(stale, now(), trusted=True, has_key=True, retention_ms=1_000_000)
    await store.receive([tidings])
    task = await store.task(tidings.task_id)
    assert task is not None
    assert task.state == State.EXPECTED
    assert task.ask_at is not None
    assert task.ask_at <= due_at
