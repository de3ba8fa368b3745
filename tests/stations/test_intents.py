"""Intents in the ledger: recorded with their task, settled with it, and never sent twice."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiosqlite  # noqa: TID251 - a file of an older schema is made here
import pytest

from daemon.outbox import Message
from daemon.rules.lifecycle import Cause, State
from daemon.rules.schedule import MINUTE
from daemon.rules.submission import Intent, Wish
from daemon.rules.task import Task, Tidings
from daemon.rules.verdict import Verdict
from daemon.schema import MIGRATIONS
from daemon.store import Store, open_store

START = 1_790_000_000_000
WEEK = 7 * 86_400_000
APPLICATION = "https://app.example.com/done"
WISH = Wish(music_task_id="music", audio_id="audio", author="Ann", domain_name="ann.example.com")
LINK = "https://files.example.com/a.mp4"

Plant = Callable[..., Awaitable[Task]]
Record = Callable[..., Awaitable[Intent]]


@pytest.fixture
def record(store: Store) -> Record:
    """Record a wish, as (local id, label, what the wish has besides)."""

    async def put(local_id: str = "submit-1", label: str | None = "song", **more: str) -> Intent:
        wish = replace(WISH, **more)
        return await store.intents.record(
            local_id, wish, source="submit", label=label, now=START, deadline_at=START + WEEK
        )

    return put


async def name(store: Store, intent: Intent, task_id: str = "v1", *, tells: bool = True) -> None:
    """Give the task of an intent the provider's id, a second later."""
    await store.intents.name(intent, task_id, ask_at=START + MINUTE, now=START + 1000, tells=tells)


async def find(store: Store, task_id: str) -> Task:
    """Return a task that is there."""
    task = await store.task(task_id)
    assert task is not None
    return task


async def move(
    store: Store, task_id: str, cause: Cause | None, *, at: int = START, **changes: object
) -> Task:
    """Move a task, whatever led to it."""
    moved, _ = await store.settle(await find(store, task_id), at, lambda _: Verdict(cause, changes))
    return moved


async def outbox(store: Store) -> list[Message]:
    """Return what somebody is to be told."""
    rows = await store.commits.connection.execute_fetchall("SELECT * FROM outbox ORDER BY number")
    return [Message(*row) for row in rows]


async def reread(store: Store, intent: Intent) -> Intent:
    """Return an intent as it is now."""
    return await store.intents._one("local_id = ?", intent.local_id)


async def count(store: Store) -> int:
    """Return how many tasks there are."""
    return sum((await store.counts()).values())


async def test_a_wish_is_recorded_with_its_task(store: Store, record: Record) -> None:
    """In one statement: an intent without a task, or a task without one, cannot be."""
    intent = await record(application_url=APPLICATION)
    assert intent.wish() == replace(WISH, application_url=APPLICATION)
    assert (intent.send_at, intent.calling, intent.tries, intent.doubts) == (START, 0, 0, 0)
    assert (intent.created_at, intent.settled_at) == (START, None)
    task = await find(store, "submit-1")
    assert (task.id, task.state, task.cause, task.source) == (
        *(intent.task, "expected", "submitted"),
        "submit",
    )
    assert (task.label, task.music_task_id, task.audio_id) == ("song", "music", "audio")
    assert (task.ask_at, task.next_attempt_at) == (None, START)
    assert task.deadline_at == START + WEEK
    assert [step.cause for step in await store.history("submit-1")] == ["submitted"]
    assert await store.due_questions(START + WEEK, 9, freshest=False) == []


async def test_one_local_id_is_one_intent(store: Store, record: Record) -> None:
    """A second one of the same id is refused whole."""
    await record()
    with pytest.raises(Exception, match="UNIQUE"):
        await record()
    assert await count(store) == 1


async def test_the_oldest_is_sent_first_and_each_in_its_lane(store: Store, record: Record) -> None:
    """What was never sent, apart from what has to be sent again; nothing before its time."""
    one, two = await record("submit-1"), await record("submit-2")
    assert await store.intents.due(START, first=True) == one
    assert await store.intents.due(START - 1, first=True) is None
    assert await store.intents.due(START, first=False) is None
    begun = await store.intents.begin(one)
    assert begun == replace(one, send_at=None, calling=1, tries=1)
    assert await store.intents.begin(one) is None
    assert await store.intents.due(START, first=True) == two
    assert await store.intents.next_due(0) == START
    await store.intents.begin(two)
    assert await store.intents.next_due(0) is None
    await store.intents.postpone(begun, START + 5, doubts=1, unheard=1)
    assert await store.intents.next_due(0) == START + 5
    assert await store.intents.due(START + 4, first=False) is None
    again = await store.intents.due(START + 5, first=False)
    assert again == replace(begun, send_at=START + 5, calling=0, doubts=1, unheard=1)
    assert await store.intents.due(START + 5, first=True) is None


@pytest.mark.parametrize("send_at", [START + 5, None])
async def test_the_outside_sees_when_it_is_sent_again(
    store: Store, record: Record, send_at: int | None
) -> None:
    """Nothing planned means that a person has to look, and that has to show."""
    begun = await store.intents.begin(await record())
    assert begun is not None
    await store.intents.postpone(begun, send_at, doubts=1, unheard=0)
    assert (await find(store, "submit-1")).next_attempt_at == send_at


async def test_a_forgotten_or_failed_wish_is_not_sent(store: Store, record: Record) -> None:
    """Neither in this process nor in the next."""
    intent = await record()
    for at in (START, None):
        await move(store, "submit-1", None, forgotten_at=at)
        forgotten = at is not None
        assert (await store.intents.due(START, first=True) is None) == forgotten
        assert (await store.intents.next_due(0) is None) == forgotten
    await move(store, "submit-1", Cause.DECLINED, reason="bad_request")
    settled = await reread(store, intent)
    assert (settled.send_at, settled.calling, settled.settled_at) == (None, 0, START)
    assert await store.intents.begin(settled) is None
    assert await store.intents.next_due(0) is None


async def test_the_provider_s_id_takes_the_place_of_the_local_one(
    store: Store, record: Record
) -> None:
    """The local one still finds the task, and the history goes with it."""
    intent = await store.intents.begin(await record())
    assert intent is not None
    await name(store, intent)
    task = await find(store, "v1")
    assert task == await find(store, "submit-1")
    assert (task.id, task.state, task.ask_at) == (intent.task, "expected", START + MINUTE)
    assert (task.asked_since, task.next_attempt_at) == (START + 1000, START + MINUTE)
    assert (task.label, task.source, task.message) == ("song", "submit", None)
    assert [step.cause for step in await store.history("v1")] == ["submitted"]
    assert await store.history("submit-1") == []
    settled = await reread(store, intent)
    assert (settled.send_at, settled.calling, settled.settled_at) == (None, 0, START + 1000)
    assert settled.task == task.id
    assert await store.intents.of_task(task.id) == settled
    assert await count(store) == 1


async def test_a_name_that_comes_twice_changes_nothing(store: Store, record: Record) -> None:
    """Above all it does not delete the task that has it."""
    intent = await record(application_url=APPLICATION)
    await name(store, intent)
    await name(store, intent)
    task = await find(store, "v1")
    assert (task.id, task.state) == (intent.task, "expected")
    assert await store.history("v1") != []
    assert await outbox(store) == []


FILM: dict[str, Any] = {
    "size_bytes": 1,
    "sha256": "00",
    "path": "/videos/v1.mp4",
    "stored_at": START,
}


@pytest.mark.parametrize("state", State)
async def test_a_callback_may_be_faster_than_the_answer(
    store: Store, record: Record, plant: Plant, state: State
) -> None:
    """Its row knows more: it stays as it is, and takes over what the intent knew."""
    intent = await record(application_url=APPLICATION)
    row = await plant("v1", state, ask_at=START + 7, asked_since=START)
    await name(store, intent)
    task = await find(store, "submit-1")
    kept = replace(
        row,
        label="song",
        music_task_id="music",
        audio_id="audio",
        source="submit",
        version=row.version + 1,
    )
    assert task == kept
    assert await count(store) == 1
    causes = [(step.before, step.cause) for step in await store.history("v1")]
    assert causes[:2] == [(None, "submitted"), (None, "hinted")]
    assert (await reread(store, intent)).task == row.id
    told = [(message.type, message.task_id, message.target) for message in await outbox(store)]
    ended = state in {State.STORED, State.DONE, State.FAILED, State.LOST}
    assert told == ([(f"task.{state.value}", "v1", APPLICATION)] if ended else [])


async def test_what_the_row_knows_already_stays(store: Store, record: Record, plant: Plant) -> None:
    """A person's label and the provider's own word on the track outrank the wish."""
    intent = await record()
    row = await plant(
        "v1", label="mine", music_task_id="m2", audio_id="a2", source="track", hint=LINK
    )
    await name(store, intent)
    assert await find(store, "v1") == replace(row, version=row.version + 1)


@pytest.mark.parametrize("state", [State.EXPECTED, State.FAILED, State.LOST])
async def test_a_name_brings_back_what_was_forgotten(
    store: Store, record: Record, plant: Plant, state: State
) -> None:
    """It is asked about again, or it would wait for ever."""
    intent = await record()
    await plant("v1", state, forgotten_at=START, ask_at=None)
    await name(store, intent)
    task = await find(store, "v1")
    assert (task.forgotten_at, task.ask_at, task.asked_since) == (
        *(None, START + MINUTE),
        START + 1000,
    )


async def test_a_name_brings_back_a_wish_that_was_forgotten(store: Store, record: Record) -> None:
    """The answer was on its way when somebody gave it up."""
    intent = await record()
    await move(store, "submit-1", None, forgotten_at=START, fetch_at=None)
    await name(store, intent)
    task = await find(store, "v1")
    assert (task.forgotten_at, task.ask_at) == (None, START + MINUTE)


async def test_two_wishes_for_one_track_become_one_task(store: Store, record: Record) -> None:
    """Both local ids find it; each application is told, once each, when it is stored."""
    one = await record("submit-1", "first", application_url=f"{APPLICATION}/1")
    two = await record("submit-2", "second", application_url=f"{APPLICATION}/2")
    three = await record("submit-3", None, application_url=f"{APPLICATION}/3")
    await name(store, one)
    await asyncio.gather(name(store, two), name(store, three, tells=False))
    task = await find(store, "v1")
    assert (task.id, task.label) == (one.task, "first")
    for local_id in ("submit-2", "submit-3"):
        assert await find(store, local_id) == task
    assert await count(store) == 1
    for cause in (Cause.LINKED, Cause.FETCHED, Cause.PUBLISHED, Cause.FINISHED):
        task = await move(store, "v1", cause, link=LINK, fetch_at=START, **FILM)
    assert task.state == "done"
    told = await outbox(store)
    assert [message.target for message in told] == [f"{APPLICATION}/1", f"{APPLICATION}/2"]
    assert len({message.id for message in told}) == 2
    first = told[0]
    assert (first.type, first.task_id, first.link, first.path, first.sha256) == (
        *("task.stored", "v1", LINK, FILM["path"]),
        "00",
    )
    assert (first.created_at, first.due_at, first.tries) == (START, START, 0)


@pytest.mark.parametrize(
    ("causes", "types"),
    [
        ((Cause.DECLINED,), ["task.failed"]),
        ((Cause.DECLINED, Cause.DECLINED), ["task.failed"]),
        ((Cause.EXPIRED,), ["task.lost"]),
        ((Cause.EXPIRED, Cause.REOPENED, Cause.EXPIRED), ["task.lost"]),
        ((Cause.LINKED, Cause.FETCHED), []),
        (
            (Cause.DECLINED, Cause.LINKED, Cause.FETCHED, Cause.PUBLISHED),
            ["task.stored"],
        ),
    ],
)
async def test_the_application_hears_of_every_end(
    store: Store, record: Record, causes: tuple[Cause, ...], types: list[str]
) -> None:
    """By the transaction that made it true; news replace older ones that were not heard yet."""
    await name(store, await record(application_url=APPLICATION))
    for cause in causes:
        await move(store, "v1", cause, link=LINK, fetch_at=START, reason="deadline", **FILM)
    told = await outbox(store)
    assert [(message.type, message.reason) for message in told] == [
        (kind, "deadline") for kind in types
    ]


async def test_nobody_is_told_of_an_open_wish_or_without_a_url(
    store: Store, record: Record
) -> None:
    """Its application has the answer of its own call; a person looks for himself."""
    await record("submit-1", application_url=APPLICATION)
    await name(store, await record("submit-2"), "v2")
    await name(store, await record("submit-3", application_url=APPLICATION), "v3", tells=False)
    for task_id in ("submit-1", "v2", "v3"):
        for cause in (Cause.DECLINED, Cause.REOPENED, Cause.DECLINED):
            await move(store, task_id, cause, reason="bad_request")
    assert await outbox(store) == []


async def test_a_refusal_settles_only_the_wishes_of_its_task(store: Store, record: Record) -> None:
    """In the same transaction; a settled one keeps its time."""
    one, other = await record("submit-1"), await record("submit-2")
    await name(store, one)
    for task_id, at in (("v1", START + 5000), ("submit-2", START + 6000)):
        await move(store, task_id, Cause.DECLINED, at=at, reason="finish")
    assert (await reread(store, one)).settled_at == START + 1000
    assert (await reread(store, other)).settled_at == START + 6000


async def test_a_person_sends_it_again(store: Store, record: Record) -> None:
    """With new patience, but what nobody heard of stays remembered."""
    begun = await store.intents.begin(await record())
    assert begun is not None
    await store.intents.postpone(begun, None, doubts=2, unheard=1)
    await store.intents.reopen(begun, START + 9)
    again = await reread(store, begun)
    assert (again.send_at, again.doubts, again.unheard) == (START + 9, 0, 1)
    assert (again.tries, again.settled_at) == (1, None)
    assert await store.intents.due(START + 9, first=False) == again


async def test_nothing_is_reopened_on_its_way_or_after_its_name(
    store: Store, record: Record
) -> None:
    """Whoever asks a moment too late must not buy the same video again."""
    begun = await store.intents.begin(await record())
    assert begun is not None
    await store.intents.reopen(begun, START)
    assert await reread(store, begun) == begun
    await name(store, begun)
    settled = await reread(store, begun)
    await store.intents.reopen(begun, START)
    assert await reread(store, begun) == settled


async def test_a_refused_wish_can_be_sent_again(store: Store, record: Record) -> None:
    """Credits were bought meanwhile."""
    intent = await record()
    for cause in (Cause.DECLINED, Cause.REOPENED):
        await move(store, "submit-1", cause)
    await store.intents.reopen(intent, START)
    assert await store.intents.due(START, first=True) == await reread(store, intent)


async def test_a_call_that_a_crash_interrupted_is_in_doubt(store: Store, record: Record) -> None:
    """It is sent once more; after the second crash a person has to look."""
    one, untouched = await record("submit-1"), await record("submit-2")
    for doubts, send_at in ((1, START + 1), (2, None)):
        assert await store.intents.begin(await reread(store, one)) is not None
        await store.intents.recover(START + doubts)
        found = await reread(store, one)
        assert (found.doubts, found.unheard, found.calling) == (doubts, doubts, 0)
        assert found.send_at == send_at
        assert (await find(store, "submit-1")).next_attempt_at == send_at
    assert await reread(store, untouched) == untouched


async def test_a_ledger_of_the_first_schema_is_migrated(tmp_path: Path) -> None:
    """With its rows; what could not be known then is not known now."""
    folder = tmp_path / "old"
    folder.mkdir()
    async with aiosqlite.connect(folder / "ledger.sqlite3", isolation_level=None) as old:
        for statement in MIGRATIONS[0]:
            await old.execute(statement)
        await old.execute(
            """
            INSERT INTO task (task_id, state, cause, source, created_at, updated_at, deadline_at,
                              ask_at)
            VALUES ('v1', 'expected', 'adopted', 'track', 1, 2, 3, 4)
            """
        )
        await old.execute("PRAGMA user_version = 1")
    async with open_store(folder) as store:
        task = await find(store, "v1")
        assert (task.state, task.ask_at, task.fresh_link) == ("expected", 4, None)
        assert task.warnings == 0
        assert [step.after for step in await store.history("v1")] == ["expected"]
        intent = await store.intents.record(
            "submit-1", WISH, source="submit", label=None, now=START, deadline_at=START
        )
        await name(store, intent)
        assert (await find(store, "submit-1")).id == task.id
        (version,) = await store.commits.connection.execute_fetchall("PRAGMA user_version")
        assert version[0] == len(MIGRATIONS) == 6
    async with open_store(folder) as store:
        assert await count(store) == 1


async def test_the_triggers_need_no_trust(store: Store) -> None:
    """`trusted_schema` is off, so that a file from elsewhere cannot call what it should not."""
    (row,) = await store.commits.connection.execute_fetchall("PRAGMA trusted_schema")
    assert row[0] == 0


async def test_a_callback_before_the_name_makes_one_task(store: Store, record: Record) -> None:
    """Through the ledger's own calls: the hint stays, and the question stays due at once."""
    intent = await record()
    hinted = Tidings(
        task_id="v1",
        cause=Cause.HINTED,
        now=START + 5,
        deadline_at=START + WEEK,
        ask_at=START + 5,
        hint=LINK,
    )
    await store.receive([hinted])
    await name(store, intent)
    await store.receive([hinted])
    task = await store.task("v1")
    assert task is not None
    assert (task.hint, task.ask_at, task.callbacks) == (LINK, START + 5, 2)
    assert (task.source, task.label) == ("submit", "song")
