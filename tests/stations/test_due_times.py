"""Due times that a wrong clock put years ahead, or a day behind."""

from collections.abc import Awaitable, Callable

from daemon.rules.lifecycle import State
from daemon.rules.schedule import HOUR
from daemon.rules.submission import Wish
from daemon.rules.task import Task
from daemon.store import Store

Plant = Callable[..., Awaitable[Task]]
LONGEST = 6 * HOUR


async def test_what_lies_too_far_ahead_is_due_now(
    store: Store, plant: Plant, now: Callable[[], int]
) -> None:
    """Questions, downloads, wishes and messages; what is put off as far as allowed stays so."""
    far, near = now() + LONGEST + 1, now() + LONGEST
    await plant("far", State.WANTED, ask_at=far, fetch_at=far)
    await plant("near", State.WANTED, ask_at=near, fetch_at=near)
    await plant("none", State.DONE, ask_at=None, fetch_at=None)
    wish = Wish(music_task_id="music", audio_id="audio", author=None, domain_name=None)
    await store.intents.record(
        "submit-1", wish, source="submit", label=None, now=far, deadline_at=far
    )
    before = await store.task("near")
    await store.due_times.pull_in(now(), LONGEST)
    due = {task.task_id: (task.ask_at, task.fetch_at) for task in await store.tasks()}
    assert due == {
        "far": (now(), now()),
        "near": (near, near),
        "none": (None, None),
        "submit-1": (None, now()),
    }
    assert await store.task("near") == before
    assert await store.intents.due(now(), first=True) is not None
