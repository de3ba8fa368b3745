"""The courier and its targets: each is told everything once, whatever happens to the others."""

import asyncio
import base64
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from daemon import targets
from daemon.announcer import KEPT_MS, Announcer
from daemon.bell import Bell
from daemon.config.sections import Notify, Secret
from daemon.courier import Courier, message_session
from daemon.hooks import hook_session
from daemon.logs import hide
from daemon.outbox import AT_ONCE
from daemon.rules.lifecycle import Cause, State
from daemon.rules.outgoing import GIVE_UP_MS, application_policy
from daemon.rules.task import Task
from daemon.rules.verdict import Verdict
from daemon.store import Store
from daemon.targets import Targets
from tests.stations.receiving import Application, serving

SECRET = f"whsec_{base64.b64encode(b'0123456789abcdef01234567').decode()}"

Advance = Callable[[int], None]
Now = Callable[[], int]
Plant = Callable[..., Awaitable[Task]]


class Post:
    """Targets, what is told to them, and who carries it."""

    def __init__(self, announcer: Announcer, told: Targets, entries: list[Notify]) -> None:
        self.announcer = announcer
        self.targets = told
        self.entries = entries
        self.bell = Bell()


Open = Callable[..., AbstractAsyncContextManager[Post]]


@pytest.fixture
def post(store: Store, now: Now) -> Open:
    """Run a courier and an announcer for these entries while the block runs."""
    policy = application_policy([])

    @asynccontextmanager
    async def start(*entries: Notify) -> AsyncIterator[Post]:
        configured = list(entries)
        async with message_session(lambda: policy) as session, hook_session() as hooks:
            told = Targets(hooks, lambda: configured, now)
            bell = Bell()
            announcer = Announcer(store, told, now, bell.ring)
            courier = Courier(
                *(store, session, lambda: policy, now),
                bell=bell,
                hmac_key=lambda: None,
                targets=told,
            )
            await announcer.subscribe()
            opened = Post(announcer, told, configured)
            opened.bell = bell
            working = [asyncio.create_task(loop) for loop in (courier.run(), announcer.run())]
            try:
                yield opened
            finally:
                for one in working:
                    one.cancel()
                await asyncio.gather(*working, return_exceptions=True)
            assert all(one.cancelled() for one in working)

    return start


@pytest.fixture
async def ears() -> AsyncIterator[list[Application]]:
    """Two receivers."""
    async with serving() as one, serving() as two:
        yield [one, two]


def entry(url: str, secret: str | None = None, **more: tuple[str, ...]) -> Notify:
    """Return one `[[notify]]`."""
    return Notify(url=Secret(url), secret=Secret(secret) if secret else None, **more)


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Wait until something has happened."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - a receiver has no event
            await asyncio.sleep(0.01)


async def rows(store: Store) -> list[tuple[Any, ...]]:
    """Return what the outbox holds: target, due time, tries."""
    found = await store.commits.connection.execute_fetchall(
        "SELECT target, due_at, tries FROM outbox ORDER BY number"
    )
    return [tuple(row) for row in found]


async def emptied(store: Store) -> None:
    """Wait until nothing is left to tell."""
    async with asyncio.timeout(5):
        while await rows(store):  # noqa: ASYNC110 - nor has a ledger
            await asyncio.sleep(0.01)


async def lose(store: Store, task_id: str, now: int) -> None:
    """Let a task be lost."""
    task = await store.task(task_id)
    assert task is not None
    changes = {"reason": "deadline", "message": "no link"}
    await store.settle(task, now, lambda _: Verdict(Cause.EXPIRED, changes))


async def test_a_task_is_told_with_the_facts_of_the_event(
    post: Open, store: Store, plant: Plant, ears: list[Application], now: Now
) -> None:
    """The whole task in JSON, as it is; state, reason and file as they were."""
    await plant("t", State.WANTED, label="mine")
    async with post(entry(ears[0].url, events=("task.lost",))) as opened:
        ears[0].open.clear()
        await lose(store, "t", now())
        opened.bell.ring()
        await until(lambda: len(ears[0].bodies) == 1)
        ears[0].open.set()
        await emptied(store)
    (told,) = ears[0].bodies
    assert told["type"] == "task.lost"
    assert told["timestamp"].endswith("Z")
    data = told["data"]
    facts = {"task_id": "t", "label": "mine", "state": "lost", "reason": "deadline"}
    assert facts | {"message": "no link"} == {key: data[key] for key in (*facts, "message")}
    assert {"deadline_at", "callbacks", "size_bytes", "sha256", "path"} <= data.keys()


async def test_what_changed_since_does_not_change_what_happened(
    post: Open, store: Store, plant: Plant, ears: list[Application], now: Now
) -> None:
    """A task that is wanted again when its loss is told was lost all the same."""
    await plant("t", State.WANTED)
    async with post(entry(ears[0].url, events=("task.lost", "deadline.near"))):
        pass
    task = await store.task("t")
    assert task is not None
    await store.settle(task, now(), lambda _: Verdict(None, {"warnings": 1}))
    await lose(store, "t", now())
    task = await store.task("t")
    assert task is not None
    await store.settle(
        task, now(), lambda _: Verdict(Cause.LINKED, {"reason": None, "fetch_at": now()})
    )
    async with post(entry(ears[0].url, events=("task.lost", "deadline.near"))):
        await emptied(store)
    near, lost = ears[0].bodies
    assert (near["type"], near["data"]["hours_left"]) == ("deadline.near", 168.0)
    assert (lost["data"]["state"], lost["data"]["reason"]) == ("lost", "deadline")


async def test_every_try_has_one_id_and_a_fresh_seal(
    post: Open, ears: list[Application], advance: Advance, store: Store, now: Now
) -> None:
    """A receiver knows a repetition, and takes no late try for an old one."""
    ears[0].status = 503
    with capture_logs() as logs:
        async with post(entry(ears[0].url, SECRET)) as opened:
            opened.announcer.say("gate.closed", {"name": "key", "reason": "401"})
            for tries in (1, 2, 3):
                await until(lambda tries=tries: len(ears[0].heard) == tries)  # type: ignore[misc]
                ears[0].status = 410 if tries < 2 else 200
                advance(2 * 3_600_000)
                opened.bell.ring()
            await emptied(store)
    assert len({request.headers["webhook-id"] for request in ears[0].heard}) == 1
    stamps = [int(request.headers["webhook-timestamp"]) for request in ears[0].heard]
    assert stamps == sorted(set(stamps))
    for request, stamp in zip(ears[0].heard, stamps, strict=True):
        body = (await request.read()).decode()
        at = datetime.fromtimestamp(stamp, UTC)
        seal = Webhook(SECRET).sign(request.headers["webhook-id"], at, body)
        assert request.headers["webhook-signature"] == seal
    events = [line["event"] for line in logs]
    assert events.count("notify.delayed") == events.count("notify.recovered") == 1
    assert now() > stamps[0]


async def test_a_dead_target_holds_no_other_on_its_host(
    post: Open, ears: list[Application], store: Store
) -> None:
    """Not even one on the same host, with another path, while the first has the line open."""
    good, deaf = ears
    deaf.open.clear()
    host = deaf.url.removesuffix("/cb")
    entries = [entry(f"{host}/dead"), entry(good.url), entry(f"{host}/also")]
    async with post(*entries) as opened:
        for number in range(3):
            opened.announcer.say("gate.closed", {"name": f"host:{number}", "reason": "x"})
        await until(lambda: len(good.bodies) == 3)
        await until(lambda: {one.path for one in deaf.heard} == {"/dead", "/also"})
        assert deaf.most_waiting == 2
    assert [body["data"]["name"] for body in good.bodies] == ["host:0", "host:1", "host:2"]
    assert len(await rows(store)) == 6


async def test_after_three_days_it_is_given_up_visibly(
    post: Open, ears: list[Application], store: Store, advance: Advance
) -> None:
    """It is said once and counted, until it is too old to matter."""
    ears[0].status = 500
    with capture_logs() as logs:
        async with post(entry(ears[0].url + "/a-token-12345")) as opened:
            opened.announcer.say("gate.closed", {"name": "key", "reason": "401"})
            await until(lambda: len(ears[0].heard) == 1)
            advance(GIVE_UP_MS)
            opened.bell.ring()
            await until(lambda: any(line["event"] == "notify.failed" for line in logs))
            (given_up,) = await store.outbox.undelivered()
            assert (given_up.count, given_up.error) == (1, "answered HTTP 500")
            found = opened.targets.find(given_up.target)
            assert found is not None
            assert found.name == "notify[1] " + ears[0].url.removesuffix("/cb")
            advance(KEPT_MS)
            opened.announcer.say("gate.opened", {"name": "key"})
            await until(lambda: len(ears[0].heard) == 3)
    (line,) = [line for line in logs if line["event"] == "notify.failed"]
    assert (line["log_level"], line["tries"], line["type"]) == ("warning", 2, "gate.closed")
    assert "a-token" not in str(logs)
    assert "a-token" not in str(await rows(store))
    assert await store.outbox.undelivered() == []


async def test_no_word_of_a_service_enters_the_ledger_with_a_token(
    post: Open, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it repeats the whole URL: neither the row nor the log holds it."""
    url = "json://127.0.0.1:9/a-token-in-the-path-79"
    hide([url, "a-token-in-the-path-79"])
    script = "import json, sys; print(json.dumps({'said': 'no ' + json.load(sys.stdin)['url']}))"
    monkeypatch.setattr(targets, "HERALD", (sys.executable, "-I", "-c", script))
    with capture_logs() as logs:
        async with post(entry(url)) as opened:
            opened.announcer.say("gate.closed", {"name": "key", "reason": "401"})
            await until(lambda: any(line["event"] == "notify.delayed" for line in logs))
    found = await store.commits.connection.execute_fetchall("SELECT error FROM outbox")
    assert [row[0] for row in found] == ["no ***"]
    assert "a-token" not in str(logs)


async def test_who_is_not_configured_any_more_is_not_told(
    post: Open, ears: list[Application], store: Store, plant: Plant, now: Now
) -> None:
    """What was kept for it goes with one line; who came instead hears what happens from then on."""
    old, new = ears
    await plant("a", State.WANTED)
    await plant("b", State.WANTED)
    async with post(entry(old.url)):
        pass
    await lose(store, "a", now())
    assert len(await rows(store)) == 1
    with capture_logs() as logs:
        async with post(entry(new.url)) as opened:
            await lose(store, "b", now())
            opened.bell.ring()
            await emptied(store)
    assert [line["count"] for line in logs if line["event"] == "notify.dropped"] == [1]
    assert old.heard == []
    assert [body["data"]["task_id"] for body in new.bodies] == ["b"]


async def test_a_reload_that_met_a_broken_ledger_is_made_good(
    post: Open, ears: list[Application], store: Store, break_ledger: Callable[..., Awaitable[None]]
) -> None:
    """The announcer subscribes who is configured, as soon as it can."""
    async with post() as opened:
        opened.entries.append(entry(ears[0].url))
        await break_ledger(broken=True)
        opened.announcer.say("gate.closed", {"name": "disk", "reason": "full"})
        await asyncio.sleep(0.05)
        await break_ledger(broken=False)
        await until(lambda: len(ears[0].bodies) == 1)
    assert ears[0].bodies[0]["data"]["name"] == "disk"
    assert await rows(store) == []


async def test_what_nobody_wants_to_hear_costs_no_statement(
    post: Open, store: Store, ears: list[Application]
) -> None:
    """A gate that flaps all day writes nothing."""
    asked: list[str] = []
    async with post(entry(ears[0].url, events=("task.lost",))) as opened:
        await asyncio.sleep(0.05)
        await store.commits.connection.set_trace_callback(asked.append)
        for _ in range(100):
            opened.announcer.say("gate.closed", {"name": "rate"})
        await asyncio.sleep(0.05)
        await store.commits.connection.set_trace_callback(None)  # type: ignore[arg-type]
    assert not [sql for sql in asked if "INSERT" in sql]


async def pile_up(store: Store, target: str, count: int, due_at: int | None) -> None:
    """Keep so many messages for a target."""
    await store.commits.connection.execute_fetchall(
        """
        WITH RECURSIVE counter (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < ?)
        INSERT INTO outbox (id, target, type, task_id, created_at, due_at)
        SELECT lower(hex(randomblob(16))), ?, 'task.stored', 't', 1, ? FROM counter
        """,
        (count, target, due_at),
    )


async def test_what_piles_up_for_one_target_is_read_past_by_nobody(store: Store) -> None:
    """Who is told next is found on the connection that callbacks are committed on."""
    await pile_up(store, "notify:dead", 5_000, 1)
    await pile_up(store, "notify:well", 1, 2)
    await pile_up(store, "https://app.example.com/cb", 1, 3)
    steps = [0]

    def tick() -> int:
        steps[0] += 1
        return 0

    await store.commits.connection.set_progress_handler(tick, 10)
    busy: list[str] = []
    for expected in ("notify:dead", "notify:well", "https://app.example.com/cb"):
        message = await store.outbox.next(busy)
        assert message is not None
        assert message.target == expected
        busy.append(expected)
    assert await store.outbox.next(busy) is None
    assert steps[0] < 500


async def test_much_is_deleted_in_parts(store: Store) -> None:
    """A callback waits for one part at most."""
    seen: list[str] = []
    await store.commits.connection.set_trace_callback(seen.append)
    for delete in (
        lambda: store.outbox.drop_others([]),
        lambda: store.outbox.clear(["notify:a"]),
        lambda: store.outbox.forget_old(9),
    ):
        await pile_up(store, "notify:a", 2 * AT_ONCE + 1, None)
        seen.clear()
        await delete()
        assert sum("DELETE FROM outbox" in sql for sql in seen) == 3
        left = await store.commits.connection.execute_fetchall("SELECT count(*) FROM outbox")
        assert [tuple(row) for row in left] == [(0,)]
