"""The courier: every message arrives, in its time, and nobody's silence holds another one back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from daemon import courier
from daemon.bell import Bell
from daemon.courier import AT_ONCE, Courier, message_session
from daemon.rules.notice import check_signature
from daemon.rules.outgoing import GIVE_UP_MS, RESEND_FIRST_MS, application_policy
from daemon.store import Store, StoreFailed
from tests.stations.receiving import Application, serving

Advance = Callable[[int], None]
Now = Callable[[], int]
Write = Callable[..., Awaitable[None]]
Break = Callable[..., Awaitable[None]]
Run = Callable[..., AbstractAsyncContextManager[Bell]]
Lines = list[dict[str, Any]]


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    """One receiver."""
    async with serving() as receiver:
        yield receiver


@pytest.fixture
def write(store: Store, now: Now) -> Write:
    """Put a message into the outbox, as (target, task id, columns)."""

    async def put(target: str, task_id: str = "a", **columns: object) -> None:
        name = {"id": f"id-{task_id}", "target": target, "type": "task.stored", "task_id": task_id}
        film = {"link": "https://f.example/a.mp4", "path": "/v/a.mp4", "sha256": "00"}
        values = {**name, **film, "created_at": now(), "due_at": now(), **columns}
        names = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        await store.commits.connection.execute_fetchall(
            f"INSERT INTO outbox ({names}) VALUES ({marks})",  # noqa: S608 - only column names
            values,
        )

    return put


@pytest.fixture
def run(store: Store, now: Now) -> Run:
    """Run a courier while the block runs; yield its bell."""
    policy = application_policy([])

    @asynccontextmanager
    async def start(hmac_key: str | None = None) -> AsyncIterator[Bell]:
        bell = Bell()
        async with message_session(lambda: policy) as session:
            station = Courier(
                *(store, session, lambda: policy, now), bell=bell, hmac_key=lambda: hmac_key
            )
            working = asyncio.create_task(station.run())
            try:
                yield bell
            finally:
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
            assert working.cancelled()

    return start


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged."""
    with capture_logs() as captured:
        yield captured  # type: ignore[misc]


async def rows(store: Store) -> list[tuple[Any, ...]]:
    """Return what the outbox holds: task, due time, tries, error."""
    found = await store.commits.connection.execute_fetchall(
        "SELECT task_id, due_at, tries, error FROM outbox ORDER BY number"
    )
    return [tuple(row) for row in found]


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 5) -> None:
    """Wait until something has happened."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - neither a receiver nor a ledger has an event
            await asyncio.sleep(0.01)


async def emptied(store: Store) -> None:
    """Wait until nothing is left to tell."""

    async def is_empty() -> bool:
        return await rows(store) == []

    await until(is_empty)


async def tried(store: Store, times: int = 1) -> tuple[Any, ...]:
    """Wait until every message was tried so often, and return the row of the oldest."""

    async def is_tried() -> bool:
        return {row[2] for row in await rows(store)} == {times}

    await until(is_tried)
    return (await rows(store))[0]


def named(lines: Lines, event: str) -> Lines:
    """Return the lines of one event."""
    return [line for line in lines if line["event"] == event]


@pytest.mark.parametrize("status", [200, 204, 299])
async def test_a_message_is_delivered_once_and_deleted(
    run: Run, write: Write, store: Store, application: Application, lines: Lines, status: int
) -> None:
    """In the provider's shape, unsigned, and with any 2xx it is over."""
    application.status = status
    await write(application.url + "?order=secret", "a")
    async with run():
        await emptied(store)

        async def is_told() -> bool:
            return bool(named(lines, "notify.sent"))

        # It is said after it was deleted.
        await until(is_told)
    data = {"task_id": "a", "video_url": "https://f.example/a.mp4"}
    data |= {"path": "/v/a.mp4", "sha256": "00"}
    assert application.bodies == [{"code": 200, "msg": "success", "data": data}]
    (request,) = application.heard
    assert (request.method, request.path_qs) == ("POST", "/cb?order=secret")
    assert request.headers["Content-Type"] == "application/json"
    assert not [name for name in request.headers if name.lower().startswith("x-")]
    (sent,) = named(lines, "notify.sent")
    assert (sent["log_level"], sent["task_id"], sent["tries"]) == ("debug", "a", 1)
    assert "secret" not in str(lines)


async def test_a_message_can_be_signed_as_kie_signs(
    run: Run, write: Write, store: Store, application: Application, now: Now, advance: Advance
) -> None:
    """The time is that of the try, so that a late one is not refused as stale."""
    application.status = 500
    await write(application.url)
    async with run("whk_key") as bell:
        await tried(store)
        application.status = 200
        advance(RESEND_FIRST_MS)
        bell.ring()
        await emptied(store)
    for request, at in zip(application.heard, (-RESEND_FIRST_MS, 0), strict=True):
        stamp = request.headers["X-Webhook-Timestamp"]
        assert int(stamp) == (now() + at) // 1000
        seal = request.headers["X-Webhook-Signature"]
        assert check_signature(["whk_key"], "a", stamp, seal, int(stamp))


@pytest.mark.parametrize("status", [300, 302, 307, 400, 410, 500])
async def test_anything_but_2xx_is_tried_again(
    run: Run, write: Write, store: Store, application: Application, now: Now, status: int
) -> None:
    """Also a redirect, which is not followed; the next try is in a few seconds at most."""
    application.status = status
    await write(application.url)
    async with run():
        _, due_at, _, error = await tried(store)
    assert now() + RESEND_FIRST_MS // 2 <= due_at <= now() + RESEND_FIRST_MS
    assert error == f"answered HTTP {status}"
    assert len(application.heard) == 1


async def test_a_receiver_that_was_down_hears_it_later(
    run: Run, write: Write, store: Store, application: Application, advance: Advance, lines: Lines
) -> None:
    """One line says that it is late, one that it goes on, however many tries there were."""
    application.status = 503
    for task_id in ("a", "b"):
        await write(application.url + "?order=secret", task_id)
    async with run() as bell:
        for times in (1, 2, 3):
            await tried(store, times)
            advance(GIVE_UP_MS // 100)
            bell.ring()
        await tried(store, 4)
        assert len(named(lines, "notify.delayed")) == 1
        assert named(lines, "notify.recovered") == []
        application.status = 200
        advance(GIVE_UP_MS // 100)
        bell.ring()
        await emptied(store)
    assert len(named(lines, "notify.recovered")) == 1
    assert len(named(lines, "notify.sent")) == 2
    (delayed,) = named(lines, "notify.delayed")
    assert (delayed["log_level"], delayed["error"]) == ("warning", "answered HTTP 503")
    assert "secret" not in str(lines)


async def test_a_message_is_given_up_after_three_days(
    run: Run, write: Write, store: Store, application: Application, advance: Advance, lines: Lines
) -> None:
    """It stays for a person to see, is said once, and never tried again, not even after years."""
    application.status = 500
    await write(application.url + "?order=secret")
    async with run() as bell:
        await tried(store)
        advance(GIVE_UP_MS)
        bell.ring()
        assert await tried(store, 2) == ("a", None, 2, "answered HTTP 500")
        advance(100 * GIVE_UP_MS)
        bell.ring()
        await asyncio.sleep(0.1)
    assert len(application.heard) == 2
    (failed,) = named(lines, "notify.failed")
    assert (failed["log_level"], failed["task_id"], failed["tries"]) == ("warning", "a", 2)
    assert failed["target"] == application.url + "?<redacted>"
    assert failed["error"] == "answered HTTP 500"


@pytest.mark.parametrize(
    "target",
    ["http://10.0.0.1/cb?secret", "ftp://a.example/?secret", "https://8.8.8.8/?secret", "x?secret"],
)
async def test_a_forbidden_receiver_is_not_dialled(
    run: Run, write: Write, store: Store, lines: Lines, target: str
) -> None:
    """It is tried again, for a policy or a resolver may be mended; no query stands anywhere."""
    await write(target)
    async with run():
        _, due_at, _, error = await tried(store)
    assert due_at is not None
    assert "secret" not in error
    assert [line["event"] for line in lines] == ["notify.delayed"]
    assert "secret" not in str(lines)


async def test_nobody_listens(run: Run, write: Write, store: Store) -> None:
    """A refused connection is a failure like any other, without the query in its words."""
    await write("http://127.0.0.1:9/cb?secret")
    async with run():
        _, due_at, _, error = await tried(store)
    assert due_at is not None
    assert "127.0.0.1:9" in error
    assert "secret" not in error


async def test_a_silent_receiver_is_left_in_time(
    run: Run, write: Write, store: Store, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who accepts and never answers costs one patience."""
    monkeypatch.setattr(courier, "ANSWER_SECONDS", 0.2)
    application.open.clear()
    await write(application.url)
    async with run():
        assert (await tried(store))[3] == "no answer within 0.2 s"


async def test_one_silent_receiver_holds_nobody_back(
    run: Run, write: Write, store: Store, application: Application
) -> None:
    """Hundreds of messages for it are older, each with an address of its own, and still."""
    application.open.clear()
    for number in range(300):
        await write(f"{application.url}/{number}?order={number}", f"silent-{number}")
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(serving()) for _ in range(3)]
        for number, other in enumerate(others):
            await write(other.url, f"other-{number}")
            await write(other.url, f"next-{number}")
        async with run():
            for number, other in enumerate(others):
                await until(told(other, [f"other-{number}", f"next-{number}"]))

            async def only_silent_are_left() -> bool:
                return len(await rows(store)) == 300

            await until(only_silent_are_left)
    assert application.most_waiting == 1


def told(application: Application, task_ids: list[str]) -> Callable[[], Awaitable[bool]]:
    """Return whether a receiver was told about exactly these."""

    async def is_told() -> bool:
        return application.tasks == task_ids

    return is_told


async def test_many_receivers_are_told_at_once_but_not_all(run: Run, write: Write) -> None:
    """So many at one time that the rest of the daemon has its share."""
    async with AsyncExitStack() as stack:
        others = [await stack.enter_async_context(serving()) for _ in range(AT_ONCE + 2)]
        for number, other in enumerate(others):
            other.open.clear()
            await write(other.url, f"other-{number}")

        async def full() -> bool:
            return sum(other.waiting for other in others) == AT_ONCE

        async with run():
            await until(full)
            await asyncio.sleep(0.1)
            assert await full()


async def test_one_receiver_hears_all_in_order(
    run: Run, write: Write, store: Store, application: Application
) -> None:
    """The oldest first, one after the other."""
    for number in range(20):
        await write(application.url, f"t{number:02}")
    async with run():
        await emptied(store)
    assert application.tasks == [f"t{number:02}" for number in range(20)]
    assert application.most_waiting == 1


async def test_a_message_that_is_written_later_is_told_when_the_bell_rings(
    run: Run, write: Write, store: Store, application: Application
) -> None:
    """The courier sleeps while there is nothing, and wakes at once."""
    async with run() as bell:
        await asyncio.sleep(0.05)
        await write(application.url)
        bell.ring()
        await emptied(store)
    assert application.tasks == ["a"]


async def test_a_message_waits_for_its_time(
    run: Run, write: Write, application: Application, now: Now, advance: Advance
) -> None:
    """Not before, and then without a bell."""
    await write(application.url, due_at=now() + 300)
    async with run():
        await asyncio.sleep(0.1)
        assert application.tasks == []
        advance(300)
        await until(told(application, ["a"]))


async def test_a_broken_ledger_is_survived_and_nothing_told_twice(
    run: Run, write: Write, store: Store, application: Application, break_ledger: Break
) -> None:
    """What arrived is deleted once the ledger takes it, without another call."""
    application.open.clear()
    await write(application.url)
    async with run():
        await until(told(application, ["a"]))
        await break_ledger(broken=True)
        application.open.set()
        await asyncio.sleep(0.2)
        await break_ledger(broken=False)
        await emptied(store)
    assert application.tasks == ["a"]


async def test_a_ledger_that_cannot_be_read_is_waited_for(
    run: Run, write: Write, store: Store, application: Application, break_ledger: Break
) -> None:
    """The courier does not die of it."""
    await write(application.url)
    await break_ledger(broken=True)
    async with run():
        await asyncio.sleep(0.1)
        await break_ledger(broken=False)
        await emptied(store)
    assert application.tasks == ["a"]


async def test_a_fatal_failure_ends_the_courier(store: Store, now: Now) -> None:
    """A damaged ledger is nothing to go on with."""

    async def refuse(_: object) -> None:
        raise StoreFailed("damaged", fatal=True)

    store.outbox.next = refuse  # type: ignore[method-assign,assignment]
    async with message_session(lambda: application_policy([])) as session:
        station = Courier(
            *(store, session, lambda: application_policy([]), now),
            bell=Bell(),
            hmac_key=lambda: None,
        )
        with pytest.raises(ExceptionGroup) as group:
            await asyncio.wait_for(station.run(), 5)
    assert group.group_contains(StoreFailed)


async def test_who_is_cancelled_loses_nothing(
    run: Run, write: Write, store: Store, application: Application, now: Now
) -> None:
    """A message that is on its way when the process stops is told by the next one."""
    application.open.clear()
    await write(application.url)
    async with run():
        await until(told(application, ["a"]))
    assert [row[:3] for row in await rows(store)] == [("a", now(), 0)]
    application.open.set()
    async with run():
        await emptied(store)
    assert application.tasks == ["a", "a"]
