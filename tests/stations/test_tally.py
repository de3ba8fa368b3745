"""Every answer of the callback listener is counted by its cause, and no count is lost in order."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.logs import hide
from daemon.rules.notice import sign
from daemon.rules.rehearsal import HEADER, WRONG_TOKEN, make_body
from daemon.rules.schedule import HOUR
from daemon.store import Store, StoreFailed
from daemon.tally import KEPT_HOURS, Tallied
from daemon.turnstile import NOTES_LIMIT, Answered, Turnstile
from tests.stations.listening import TOKEN, open_desk, success

NONCE = "0123456789abcdef" * 2


def counted(turnstile: Turnstile) -> dict[str, int]:
    """Return what a turnstile counted since it was last asked."""
    found: dict[str, int] = {}
    for one in turnstile.take():
        found[one.cause] = found.get(one.cause, 0) + one.times
    return found


async def test_every_answer_has_its_cause(tmp_path: Path) -> None:
    """What is counted is what was answered."""
    async with open_desk(tmp_path) as desk:
        here = f"/video-callback/{TOKEN}"
        wrong = "/video-callback/wrong"
        expected: list[tuple[Answered, int]] = []

        async def hear(cause: Answered, status: int, body: bytes = b"{}", **given: object) -> None:
            got, _ = await desk.post(body, **given)  # type: ignore[arg-type]
            assert got == status, cause
            assert counted(desk.turnstile) == {cause: 1}
            expected.append((cause, got))

        await hear(Answered.ACCEPTED, 200, json.dumps(success("t1")).encode())
        await hear(Answered.QUARANTINED, 200)
        await hear(Answered.WRONG_PATH, 404, path="/favicon.ico")
        await hear(Answered.WRONG_METHOD, 404, b"", path=here, method="GET")
        await hear(Answered.ENCODED, 415, headers={"Content-Encoding": "gzip"})
        await hear(Answered.TOO_LARGE, 413, b"x" * (64 * 1024 + 1))
        await hear(Answered.TEST, 404, path=f"/video-callback/{WRONG_TOKEN}x")
        for _ in range(5):
            await hear(Answered.WRONG_TOKEN, 404, path=wrong)
        await hear(Answered.LIMITED, 429, path=wrong)
        # No number of tests shuts anybody out, and no guess hides behind one.
        await hear(Answered.TEST, 404, path=f"/video-callback/{WRONG_TOKEN}x")
        host, port = desk.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"no HTTP at all\r\n\r\n")
        assert b" 400 " in await reader.readline()
        writer.close()
        assert counted(desk.turnstile) == {Answered.MALFORMED: 1}
    assert {cause for cause, _ in expected} < set(Answered)


async def test_a_test_is_committed_and_leaves_nothing_else(tmp_path: Path) -> None:
    """It gets the answer of a real one, after a commit of its own, and is remembered a minute."""
    async with open_desk(tmp_path) as desk:
        real = await desk.post(success("t1"))
        for _ in range(2):
            assert await desk.post(make_body(NONCE), headers={HEADER: NONCE}) == real
        assert sum((await desk.store.counts()).values()) == 1
        assert await desk.store.quarantine.page(10) == []
        (row,) = await desk.store.tally.since(0)
        assert (row.cause, row.times, row.remote) == ("test", 2, "127.0.0.1")
        note = desk.turnstile.find(NONCE)
        assert note is not None
        assert (note.cause, note.remote, note.path) == ("test", "127.0.0.1", "/video-callback")
        assert desk.turnstile.find("1" * 32) is None
        assert len(desk.rings) == 1


async def test_a_test_without_the_right_token_is_only_noted(tmp_path: Path) -> None:
    """Where it lost its way is known, and what it lost is not repeated."""
    hide([TOKEN])
    async with open_desk(tmp_path) as desk:
        body = make_body(NONCE)
        for path, cause, shown in (
            (f"/{TOKEN}", "wrong_path", "/"),
            ("/video-callback/old", "wrong_token", "/video-callback"),
            # What a proxy may make of it.
            (f"/video-callback/{TOKEN}/", "wrong_token", "/video-callback/***"),
            (f"/x/%{ord(TOKEN[0]):x}{TOKEN[1:]}/y", "wrong_path", "/x/***"),
        ):
            assert (await desk.post(body, path=path, headers={HEADER: NONCE}))[0] == 404
            note = desk.turnstile.find(NONCE)
            assert note is not None
            assert (note.cause, note.path) == (cause, shown)
        assert await desk.store.tally.since(0) == []
        assert await desk.store.quarantine.page(10) == []


async def test_a_test_needs_a_signature_where_callbacks_do(tmp_path: Path) -> None:
    """It goes through the same checks as a real one."""
    async with open_desk(tmp_path, '[callback]\nhmac_keys = ["key"]') as desk:
        at = int(time.time())
        headers = {HEADER: NONCE, "X-Webhook-Timestamp": str(at)}
        for key, status in (("wrong", 401), ("key", 200)):
            headers["X-Webhook-Signature"] = sign(key, NONCE, at)
            assert (await desk.post(make_body(NONCE), headers=headers))[0] == status
        assert counted(desk.turnstile) == {Answered.BAD_SIGNATURE: 1}


async def test_a_test_is_no_success_while_the_ledger_cannot_commit(tmp_path: Path) -> None:
    """The time and the answer of a test are honest: 503 as for a real one."""
    async with open_desk(tmp_path) as desk:
        database = desk.store.commits.connection
        await database.execute_fetchall("PRAGMA query_only = 1")
        assert (await desk.post(make_body(NONCE)))[0] == 503
        await database.execute_fetchall("PRAGMA query_only = 0")
        assert (await desk.post(make_body(NONCE)))[0] == 200


async def test_counts_are_added_up_and_old_ones_deleted(
    store: Store, now: Callable[[], int], advance: Callable[[int], None]
) -> None:
    """A row stands for an hour and a cause; the newest remote wins; 30 days are kept."""
    turnstile = Turnstile(now)
    for remote in ("a", "b"):
        turnstile.count("accepted", remote)
    turnstile.count("wrong_path", "c")
    await turnstile.write(store)
    turnstile.count("accepted", "c")
    await turnstile.write(store)
    advance(HOUR)
    turnstile.count("accepted", "d")
    await turnstile.write(store)
    await turnstile.write(store)
    found = {one.cause: one for one in await store.tally.since(now() - 24 * HOUR)}
    assert (found["accepted"].times, found["accepted"].remote) == (4, "d")
    assert (found["wrong_path"].times, found["wrong_path"].last_at) == (1, now() - HOUR)
    assert [one.times for one in await store.tally.since(now())] == [1]
    advance((KEPT_HOURS + 1) * HOUR)
    turnstile.count("accepted", "e")
    await turnstile.write(store)
    assert [one.times for one in await store.tally.since(0)] == [1]


async def test_an_older_count_does_not_replace_a_newer_remote(store: Store) -> None:
    """A statement that comes late adds its number and nothing else."""
    for at, remote in ((20, "new"), (10, "old")):
        await store.tally.add([Tallied(0, "accepted", 1, at, remote)])
    assert await store.tally.since(0) == [Tallied(0, "accepted", 2, 20, "new")]


async def test_counts_wait_while_the_ledger_fails(
    store: Store, now: Callable[[], int], break_ledger: Callable[..., object]
) -> None:
    """What could not be written comes with the next writing, once."""
    turnstile = Turnstile(now)
    turnstile.count("accepted", "a")
    await break_ledger(broken=True)  # type: ignore[misc]
    with pytest.raises(StoreFailed):
        await turnstile.write(store)
    turnstile.count("accepted", "b")
    await break_ledger(broken=False)  # type: ignore[misc]
    await turnstile.write(store)
    ((_, _, times, _, remote),) = await store.tally.since(0)
    assert (times, remote) == (2, "b")


async def test_a_polite_stop_writes_what_is_left(store: Store, now: Callable[[], int]) -> None:
    """Nobody waits for the minute to be over."""
    turnstile = Turnstile(now)
    running = asyncio.create_task(turnstile.run(store))
    await asyncio.sleep(0)
    turnstile.count("accepted", "a")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [one.times for one in await store.tally.since(0)] == [1]


def test_notes_are_bounded_and_forgotten(
    now: Callable[[], int], advance: Callable[[int], None]
) -> None:
    """Whoever sends headers of tests all day fills no memory."""
    turnstile = Turnstile(now)
    for number in range(NOTES_LIMIT + 5):
        turnstile.note(f"{number:032x}", "wrong_path", "a", "/x/secret")
    assert len(turnstile._notes) == NOTES_LIMIT
    newest = f"{NOTES_LIMIT + 4:032x}"
    assert turnstile.find(newest) is not None
    advance(60_001)
    assert turnstile.find(newest) is None
