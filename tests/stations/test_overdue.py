"""What is overdue: said in `status`, long before anything is lost."""

from collections.abc import Awaitable, Callable

from daemon.gates import Gates
from daemon.overdue import find_overdue
from daemon.rules.lifecycle import State
from daemon.rules.schedule import HOUR
from daemon.rules.task import Task
from daemon.store import Store

Plant = Callable[..., Awaitable[Task]]
Now = Callable[[], int]


async def test_what_is_on_time_is_not_mentioned(
    store: Store, plant: Plant, gates: Gates, now: Now
) -> None:
    """Neither what is due for less than an hour, nor what is safe, seen, or somebody else's."""
    await plant("asked", ask_at=now() - HOUR + 1)
    await plant("claimed", State.WANTED, fetch_at=now() - 2 * HOUR, claimed_at=now())
    await plant("safe", State.DONE, deadline_at=now(), fetch_at=None)
    await plant("seen", ask_at=0, deadline_at=now(), forgotten_at=now())
    gates.close("host:a.example.com", "down")
    gates.close("key", "wrong key")
    assert await find_overdue(store, gates.shut(), now(), has_key=True) == []


async def test_what_is_late_is_told_with_its_reason(
    store: Store, plant: Plant, gates: Gates, now: Now, advance: Callable[[int], None]
) -> None:
    """A gate with its words, questions and downloads by number, videos near their deadline."""
    gates.close("key", "wrong key")
    advance(2 * HOUR)
    await plant("asked", ask_at=now() - HOUR, deadline_at=now() + 72 * HOUR)
    await plant("wanted", State.WANTED, fetch_at=now() - HOUR)
    found = await find_overdue(store, gates.shut(), now(), has_key=True)
    assert found == [
        "gate key has been shut for 2 h: wrong key",
        "1 question has been due for over an hour",
        "1 download has been due for over an hour",
        (
            "1 video is not here and near the provider's deadline, or past it: check says which, "
            "and doctor with its id why"
        ),
    ]
    keyless = await find_overdue(store, [], now(), has_key=False)
    assert keyless == found[2:]
