"""What somebody has acknowledged: nobody is asked of it, until it is news again."""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from daemon.rules.lifecycle import Cause, State
from daemon.rules.request import judge_forget, judge_retry
from daemon.rules.schedule import HOUR, MINUTE, SECOND, Pace
from daemon.rules.submission import Wish
from daemon.rules.task import Task, Tidings
from daemon.rules.verdict import Terms, judge_answer
from daemon.store import Store
from tests.rules.tasks import PENDING
from tests.stations.holding import hold

START = 1_790_000_000_000
WEEK = 7 * 86_400_000
LINK = "https://files.example.com/a.mp4"
TERMS = Terms(Pace(3 * MINUTE, 30 * SECOND, 6 * HOUR), 2 * SECOND, 15 * MINUTE, has_key=True)
FORGETTABLE = [State.EXPECTED, State.FAILED, State.LOST]

Plant = Callable[..., Awaitable[Task]]


async def forget(store: Store, task: Task) -> Task:
    """Acknowledge a task."""
    forgotten, verdict = await store.settle(task, START, partial(judge_forget, now=START))
    assert verdict is not None
    return forgotten


async def record(store: Store, local_id: str = "submit-1") -> Task:
    """Record a wish and return its task."""
    intent = await store.intents.record(
        local_id,
        Wish(music_task_id="music", audio_id="audio"),
        source="submit",
        label=None,
        now=START,
        deadline_at=START + WEEK,
    )
    task = await store.task(intent.local_id)
    assert task is not None
    return task


async def track(store: Store, task_id: str, label: str | None = None) -> Task:
    """Adopt a task a second later, to be asked about at once."""
    tasks, _ = await store.adopt(
        [task_id],
        source="track",
        label=label,
        now=START + 1000,
        deadline_at=START + WEEK,
        ask_at=START + 1000,
    )
    return tasks[0]


def heard(
    cause: Cause, *, link: str | None = None, hint: str | None = None, reason: str | None = None
) -> Tidings:
    """Return what a callback brings a second later."""
    return Tidings(
        task_id="a",
        cause=cause,
        now=START + 1000,
        deadline_at=START + WEEK,
        ask_at=START + 1000,
        link=link,
        hint=hint,
        reason=reason,
    )


async def hear(store: Store, tidings: Tidings) -> Task:
    """Commit a callback; return the row as it is afterwards."""
    await store.receive([tidings])
    task = await store.task(tidings.task_id)
    assert task is not None
    return task


@pytest.mark.parametrize("state", FORGETTABLE)
async def test_nobody_looks_at_what_was_forgotten(store: Store, plant: Plant, state: State) -> None:
    """Neither the poller, nor the sweeps, nor the figures; it stays in the ledger."""
    columns = {"ask_at": START, "hint": LINK, "hint_at": 1, "unanswered_since": 1, "deadline_at": 1}
    task = await forget(store, await plant("a", state, **columns))
    assert (task.state, task.forgotten_at, task.next_attempt_at) == (state, START, None)
    later = START + WEEK
    assert await store.due_questions(later, 9, freshest=False) == []
    assert await store.next_due(0) == (None, None)
    assert await store.unanswered(later, 9, silent=True) == []
    assert await store.ending(later, None, 9) == []
    assert await store.overview.outlook() == (None, None, 0)
    assert await store.tasks() == [task]
    assert (await store.history("a"))[0].cause == "hinted"


@pytest.mark.parametrize("state", FORGETTABLE)
async def test_a_callback_without_a_film_leaves_it_forgotten(
    store: Store, plant: Plant, state: State
) -> None:
    """The provider calls three times about a task that failed; that is no news."""
    await forget(store, await plant("a", state, link=None, fetch_at=None))
    task = await hear(store, heard(Cause.HINTED))
    assert (task.forgotten_at, task.ask_at, task.callbacks) == (START, None, 2)
    task = await hear(store, heard(Cause.DECLINED, reason="provider_error"))
    assert (task.forgotten_at, task.ask_at) == (START, None)
    assert task.state == ("lost" if state is State.LOST else "failed")


@pytest.mark.parametrize("state", FORGETTABLE)
async def test_a_callback_with_a_film_brings_it_back(
    store: Store, plant: Plant, state: State
) -> None:
    """A hint makes the question due, a trusted link is fetched."""
    await forget(store, await plant("a", state))
    task = await hear(store, heard(Cause.HINTED, hint=LINK))
    assert (task.state, task.forgotten_at, task.ask_at) == (state, None, START + 1000)
    await forget(store, task)
    task = await hear(store, heard(Cause.LINKED, link=LINK))
    assert (task.state, task.forgotten_at, task.fetch_at) == ("wanted", None, START + 1000)


@pytest.mark.parametrize("state", FORGETTABLE)
async def test_tracking_it_anew_brings_it_back(store: Store, plant: Plant, state: State) -> None:
    """Asked about at once; the state is the provider's to change."""
    await forget(store, await plant("a", state, label="old"))
    task = await track(store, "a")
    assert (task.state, task.forgotten_at, task.label) == (state, None, "old")
    assert (task.ask_at, task.asked_since) == (START + 1000, START + 1000)


async def test_tracking_what_is_known_disturbs_nothing(store: Store, plant: Plant) -> None:
    """Its question keeps its time; a new label is taken."""
    before = await plant("a", ask_at=START + HOUR, asked_since=START)
    task = await track(store, "a", "new")
    assert (task.ask_at, task.asked_since) == (START + HOUR, START)
    assert (task.label, task.version) == ("new", before.version + 1)


async def test_a_retry_brings_it_back(store: Store, plant: Plant) -> None:
    """A person may think again."""
    forgotten = await forget(store, await plant("a", State.FAILED, reason="unknown_task"))
    task, _ = await store.settle(forgotten, START, partial(judge_retry, now=START, terms=TERMS))
    assert (task.state, task.forgotten_at, task.ask_at) == ("expected", None, START)
    assert [due.task_id for due in await store.due_questions(START, 9, freshest=False)] == ["a"]


async def test_a_forgotten_wish_is_sent_when_a_person_wants_it_again(store: Store) -> None:
    """Forgetting takes it off the list, a retry puts it back."""
    forgotten = await forget(store, await record(store))
    assert await store.intents.due(START, first=True) is None
    assert forgotten.next_attempt_at is None
    task, _ = await store.settle(forgotten, START, partial(judge_retry, now=START, terms=TERMS))
    assert (task.forgotten_at, task.ask_at) == (None, None)
    assert await store.intents.due(START, first=True) is not None


async def test_an_answer_under_way_leaves_it_forgotten(store: Store, plant: Plant) -> None:
    """The question was asked before somebody forgot the task, and answered after."""
    asked = await plant("a", ask_at=START)
    await forget(store, asked)
    settled, _ = await store.settle(
        asked, START, lambda task: judge_answer(task, PENDING, START, TERMS, 0.5)
    )
    assert (settled.forgotten_at, settled.ask_at) == (START, None)


async def test_tracking_a_local_id_asks_nobody(store: Store) -> None:
    """The provider knows nothing of it, and its denials would end the wish as unknown."""
    await forget(store, await record(store))
    assert (await track(store, "submit-1")).ask_at is None


async def test_tracking_a_local_id_finds_the_task_that_it_became(store: Store) -> None:
    """As every other verb does."""
    task = await record(store)
    intent = await store.intents.of_task(task.id)
    assert intent is not None
    await store.intents.name(intent, "v1", ask_at=START, now=START, tells=False)
    await track(store, "submit-1")
    assert [task.task_id for task in await store.tasks()] == ["v1"]


async def test_a_new_key_asks_about_what_waits(store: Store, plant: Plant) -> None:
    """Where bytes are missing, or a callback alone said that there are none; no open wish."""
    for state in State:
        await plant(state.value, state)
        await plant(f"{state.value}-asked", state, ask_at=START + HOUR)
    await forget(store, await plant("forgotten"))
    await record(store, "submit-1")
    task = await record(store, "submit-2")
    intent = await store.intents.of_task(task.id)
    assert intent is not None
    await store.intents.name(intent, "named", ask_at=None, now=START, tells=False)
    await store.ask_about_all(START + 5)
    tasks = await store.tasks()
    due = {task.task_id for task in tasks if task.ask_at == START + 5}
    assert due == {"expected", "wanted", "named", "failed"}
    assert {task.asked_since for task in tasks if task.task_id in due} == {START + 5}
    assert all(task.ask_at == START + HOUR for task in tasks if task.task_id.endswith("-asked"))


async def test_a_retry_that_a_crash_cut_short_asks_nobody(store: Store) -> None:
    """The task was reopened and its intent was not: the provider never heard of a local id."""
    task = await record(store)
    for decide in (Cause.DECLINED, Cause.REOPENED):
        changed = await store.commits.connection.execute_fetchall(
            "UPDATE task SET state = (SELECT after FROM transition WHERE cause = ? "
            "AND before = state) WHERE id = ? RETURNING state",
            (decide, task.id),
        )
        assert changed
    await store.ask_about_all(START)
    found = await store.task("submit-1")
    assert found is not None
    assert found.ask_at is None


async def test_a_quarantined_callback_is_acknowledged(store: Store) -> None:
    """The first time counts; the same bytes again are counted, and no news."""
    keep = partial(
        hold, store, b"odd", why="not JSON", remote="192.0.2.1", content_type="text/plain"
    )
    held = await keep(now=START)
    other = await hold(store, b"other", why="no task id", now=START)
    assert (await store.overview.outlook())[2] == 2
    for at in (START + 1, START + 2):
        forgotten = await store.quarantine.forget(held.id, at)
        assert forgotten is not None
        assert forgotten.forgotten_at == START + 1
    again = await keep(now=START + 9)
    assert (again.id, again.copies, again.forgotten_at) == (held.id, 2, START + 1)
    assert (again.received_at, again.body) == (START, b"odd")
    assert (await store.overview.outlook())[2] == 1
    assert await store.quarantine.one(held.id) == again
    assert await store.quarantine.one("quarantine-none") is None
    assert await store.quarantine.forget("quarantine-none", START) is None
    assert [one.id for one in await store.quarantine.page(9)] == [other.id, held.id]
    assert await store.quarantine.page(9, other.number) == [again]
    assert [one.id for one in await store.quarantine.page(1)] == [other.id]


async def test_balances_begin_with_the_one_before(store: Store) -> None:
    """So that a report can say what a month began with; the last word of a moment counts."""
    assert await store.balances.since(START) == []
    for at, left in ((START, 90.0), (START + 10, 80.5), (START + 20, 70.0), (START + 20, 60.0)):
        await store.balances.record(at, left)
    assert await store.balances.since(START + 11) == [(START + 10, 80.5), (START + 20, 60.0)]
    assert await store.balances.since(START + 10) == [
        *((START, 90.0), (START + 10, 80.5)),
        (START + 20, 60.0),
    ]
    assert await store.balances.since(0) == await store.balances.since(START)
    assert await store.balances.since(START + WEEK) == [(START + 20, 60.0)]
