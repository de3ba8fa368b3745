"""What the ledger says is due: downloads, questions, links nobody confirmed, deadlines."""

from collections.abc import Awaitable, Callable

import pytest

from daemon.rules.lifecycle import Cause, State
from daemon.rules.task import Task, Tidings
from daemon.store import Store

NOW = 1_790_000_000_000
HOUR = 3_600_000

Plant = Callable[..., Awaitable[Task]]


async def fetches(store: Store, *, freshest: bool = False, limit: int = 9) -> list[str]:
    """Return the ids of the downloads that are due."""
    return [due.task_id for due in await store.due_downloads(NOW, limit, freshest=freshest)]


async def questions(store: Store, *, freshest: bool = False, limit: int = 9) -> list[str]:
    """Return the ids of the questions that are due."""
    return [task.task_id for task in await store.due_questions(NOW, limit, freshest=freshest)]


async def test_the_nearest_deadline_is_downloaded_first(store: Store, plant: Plant) -> None:
    """By deadline, and by age where two have the same; or the youngest first."""
    await plant("later", State.WANTED, deadline_at=NOW + 9)
    await plant("soon", State.WANTED, deadline_at=NOW + 1)
    await plant("soon too", State.VERIFIED, deadline_at=NOW + 1)
    await plant("stored", State.STORED, deadline_at=NOW + 2)
    order = ["soon", "soon too", "stored", "later"]
    assert await fetches(store) == order
    assert await fetches(store, limit=2) == order[:2]
    assert await fetches(store, freshest=True) == ["stored", "soon too", "soon", "later"]


async def test_what_failed_before_waits_behind_what_did_not(store: Store, plant: Plant) -> None:
    """Hosts that never answer do not hold back those that do, unless time is running out."""
    await plant("failing", State.WANTED, deadline_at=NOW + 25 * HOUR, failures=9)
    await plant("good", State.WANTED, deadline_at=NOW + 26 * HOUR)
    await plant("failing, near", State.WANTED, deadline_at=NOW + 24 * HOUR, failures=9)
    await plant("good, later", State.WANTED, deadline_at=NOW + 27 * HOUR)
    assert await fetches(store) == ["failing, near", "good", "good, later", "failing"]
    assert await fetches(store, freshest=True) == [
        "good, later",
        "failing, near",
        "good",
        "failing",
    ]
    due = await store.due_downloads(NOW, 9, freshest=False)
    assert [one.failing for one in due] == [0, 0, 0, 1]


async def test_a_download_is_due_once_and_not_while_somebody_has_it(
    store: Store, plant: Plant
) -> None:
    """Neither before its time, nor claimed, nor in a state without a download step."""
    await plant("ready", State.WANTED, fetch_at=NOW)
    await plant("not yet", State.WANTED, fetch_at=NOW + 1)
    await plant("claimed", State.WANTED, claimed_at=NOW)
    await plant("no time", State.STORED, fetch_at=None)
    for state in (State.DONE, State.FAILED, State.LOST, State.PRUNED, State.EXPECTED):
        await plant(state.value, state, fetch_at=NOW)
    assert await fetches(store) == ["ready"]
    assert [due.deadline_at for due in await store.due_downloads(NOW + 1, 9, freshest=True)] == [
        NOW + 7 * 24 * HOUR
    ] * 2


async def test_the_longest_overdue_question_comes_first(store: Store, plant: Plant) -> None:
    """Or the freshest, for a callback of this minute need not wait behind old trouble."""
    for task_id, ask_at in (("b", NOW - 5), ("a", NOW - 9), ("now", NOW), ("later", NOW + 1)):
        await plant(task_id, ask_at=ask_at)
    await plant("never", ask_at=None)
    await plant("unconfirmed", State.DONE, ask_at=NOW - 7)
    assert await questions(store) == ["a", "unconfirmed", "b", "now"]
    assert await questions(store, freshest=True, limit=2) == ["now", "b"]


async def test_made_up_callbacks_do_not_hide_what_the_owner_asked_for(
    store: Store, plant: Plant
) -> None:
    """Who has learned the token can put any number of ids in front, but none of these."""
    for number in range(5):
        await plant(f"forged{number}", source="callback", ask_at=NOW - 9)
    await plant("tracked", source="track", ask_at=NOW - 2)
    await plant("sent", source="gateway", ask_at=NOW - 3)
    due = await store.due_questions(NOW, 3, freshest=False, known=True)
    assert [task.task_id for task in due][:3] == ["sent", "tracked", "forged0"]


async def test_what_was_asked_in_vain_is_no_fresher_than_the_rest(
    store: Store, plant: Plant
) -> None:
    """Thousands of tracked ids, asked every half a minute, do not hide the word of a callback."""
    for number in range(5):
        await plant(f"asked{number}", ask_at=NOW - number, ask_pause_ms=30_000)
    await plant("new", ask_at=NOW - 9)
    await plant("known", ask_at=NOW + 9, ask_pause_ms=30_000)
    hint = Tidings(
        task_id="known", cause=Cause.HINTED, now=NOW, deadline_at=NOW, ask_at=NOW, hint="https://x"
    )
    await store.receive([hint])
    assert (await questions(store, freshest=True, limit=3))[:3] == ["known", "new", "new"]
    assert (await questions(store, freshest=True, limit=8))[2:8] == [
        *("new", "asked4", "asked3", "asked2", "asked1", "asked0")
    ]


async def test_it_is_known_when_something_falls_due(store: Store, plant: Plant) -> None:
    """The next question and the next download step, each by its own clock; None without any."""
    assert await store.next_due(NOW) == (None, None)
    await plant("asked", ask_at=NOW + 7)
    await plant("claimed", State.WANTED, fetch_at=NOW + 1, claimed_at=NOW)
    await plant("done", State.DONE, fetch_at=NOW + 1)
    assert await store.next_due(NOW) == (NOW + 7, None)
    await plant("wanted", State.WANTED, fetch_at=NOW + 5, ask_at=NOW + 6)
    assert await store.next_due(NOW) == (NOW + 6, NOW + 5)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"hint": "l", "hint_at": NOW}, True),
        ({"hint": "l", "hint_at": NOW, "answered_at": NOW - 1}, True),
        ({"hint": "l", "hint_at": NOW, "answered_at": NOW + 1}, False),
        ({"hint": "l", "hint_at": NOW, "answered_at": NOW + 1, "unanswered_since": NOW}, True),
        ({"hint": "l", "hint_at": NOW, "answered_at": NOW + 1, "ask_at": NOW}, True),
        ({"hint": "l", "hint_at": NOW, "answered_at": NOW + 1, "ask_at": NOW + 1}, False),
        ({"hint": "l", "hint_at": NOW + 1}, False),
        ({"link": "l", "unanswered_since": NOW}, True),
        ({"link": "l", "unanswered_since": NOW + 1}, False),
        ({"link": "l"}, False),
        ({"unanswered_since": NOW}, False),
    ],
)
async def test_a_link_is_tried_when_nobody_answers_for_long(
    store: Store, plant: Plant, columns: dict[str, object], *, found: bool
) -> None:
    """Only with a link at hand, and only when no answer came since it did."""
    await plant("a", **columns)
    await plant("b", State.WANTED, **columns | {"link": "l"})
    unanswered = await store.unanswered(NOW, 9, silent=True)
    assert [task.task_id for task in unanswered] == (["a"] if found else [])
    assert await store.unanswered(NOW, 0, silent=True) == []


async def test_who_waits_in_our_own_queue_was_not_left_unanswered(
    store: Store, plant: Plant
) -> None:
    """While the provider answers about others, only what was asked about in vain is unanswered."""
    await plant("queued", hint="l", hint_at=NOW - 9, ask_at=NOW - 9)
    await plant("never asked", hint="l", hint_at=NOW - 9, ask_at=NOW + 9)
    await plant("in vain", hint="l", hint_at=NOW - 9, unanswered_since=NOW - 5)
    assert [task.task_id for task in await store.unanswered(NOW, 9, silent=False)] == ["in vain"]
    assert len(await store.unanswered(NOW, 9, silent=True)) == 3


async def test_what_is_past_its_deadline_comes_in_pages(store: Store, plant: Plant) -> None:
    """Every task without a file in place once, in pages, however many there are."""
    for number in range(5):
        await plant(f"t{number}", State.WANTED if number % 2 else State.EXPECTED, deadline_at=NOW)
    await plant("claimed", State.WANTED, deadline_at=NOW, claimed_at=NOW)
    await plant("in time", deadline_at=NOW + 1)
    for state in (State.VERIFIED, State.STORED, State.DONE, State.FAILED, State.LOST):
        await plant(state.value, state, deadline_at=NOW)
    seen: list[str] = []
    last = None
    while page := await store.ending(NOW, last, 2):
        assert len(page) <= 2
        seen += [task.task_id for task in page]
        last = page[-1]
    assert seen == ["t0", "t1", "t2", "t3", "t4", "claimed", "verified"]


async def test_what_is_due_already_hides_nothing_that_falls_due_later(
    store: Store, plant: Plant
) -> None:
    """A question that is on its way, however long it takes, delays no other one."""
    await plant("asked", ask_at=NOW)
    await plant("later", ask_at=NOW + 200)
    await plant("fetched", State.WANTED, fetch_at=NOW)
    await plant("waiting", State.WANTED, fetch_at=NOW + 300)
    assert await store.next_due(NOW) == (NOW + 200, NOW + 300)
    assert await store.next_due(NOW - 1) == (NOW, NOW)
