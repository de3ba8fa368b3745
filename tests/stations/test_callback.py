"""The public listener: what it answers, and that 200 means committed."""

import asyncio
import time
from pathlib import Path

import pytest

from daemon import callback
from daemon.callback import Intake, Receiver, callback_app
from daemon.config.loader import load
from daemon.listeners import close, listen, public_runner
from daemon.rules.notice import sign
from daemon.store import open_store
from daemon.strikes import CLIENTS_LIMIT, Strikes
from tests.stations.listening import LINK, TOKEN, open_desk, success

DAY_MS = 86_400_000


async def test_a_success_without_key_is_wanted_at_once(tmp_path: Path) -> None:
    """Without a key the callback's link is the only one there is, so it is believed."""
    async with open_desk(tmp_path) as desk:
        assert await desk.post(success("t1")) == (200, '{"status":"received"}')
        task = await desk.store.task("t1")
    assert task is not None
    assert (task.state, task.link, task.callbacks, task.source) == ("wanted", LINK, 1, "callback")
    assert desk.rings


async def test_under_confirm_a_callback_only_makes_the_question_due(tmp_path: Path) -> None:
    """Neither a forged link nor a forged failure moves a task; the link is kept as a hint."""
    async with open_desk(tmp_path, '[provider]\napi_key = "k"', has_key=True) as desk:
        await desk.post(success("good"))
        await desk.post({"code": 500, "msg": "no", "data": {"task_id": "bad", "video_url": None}})
        good, bad = await desk.store.task("good"), await desk.store.task("bad")
    assert good is not None
    assert bad is not None
    assert (good.state, good.link, good.hint) == ("expected", None, LINK)
    assert (bad.state, bad.reason) == ("expected", None)
    assert good.ask_at == good.created_at
    assert bad.ask_at == bad.created_at


async def test_everything_else_is_the_same_404(tmp_path: Path) -> None:
    """A scanner cannot tell a wrong path from a wrong token or a wrong method."""
    async with open_desk(tmp_path) as desk:
        answers = {
            await desk.post("{}", path="/"),
            await desk.post("{}", path="/video-callback"),
            await desk.post("{}", path="/video-callback/"),
            await desk.post("{}", path="/video-callback/wr%C3%B6ng"),
            await desk.post("{}", path=f"/video-callback/{TOKEN}/more"),
            await desk.post("", method="GET"),
            await desk.post("{}", method="PUT"),
            await desk.post("", method="OPTIONS"),
            await desk.post("{}", path="/v1/tasks"),
        }
        assert await desk.store.counts() == dict.fromkeys(await desk.store.counts(), 0)
    assert len(answers) == 1
    assert answers.pop()[0] == 404


async def test_the_older_token_is_still_accepted(tmp_path: Path) -> None:
    """A token that was replaced keeps working for what is already in flight."""
    async with open_desk(tmp_path) as desk:
        status, _ = await desk.post(success("t1"), path="/video-callback/the-older-token")
    assert status == 200


async def test_five_wrong_tokens_slow_the_guesser_and_nobody_else(tmp_path: Path) -> None:
    """The sixth guess in a minute is a 429; the right token is never limited."""
    async with open_desk(tmp_path) as desk:
        guesses = [(await desk.post("{}", path="/video-callback/guess"))[0] for _ in range(6)]
        status, _ = await desk.post(success("t1"))
        other, _ = await desk.post(
            "{}", path="/video-callback/guess", headers={"X-Forwarded-For": "203.0.113.9"}
        )
    assert guesses == [404] * 5 + [429]
    assert (status, other) == (200, 404)


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"x" * (64 * 1024 + 1), {}, 413),
        (b"{}", {"Content-Encoding": "gzip"}, 415),
        (b"{}", {"Content-Encoding": "identity"}, 200),
        (b'{"data":{"task_id":"t1"}}', {"Content-Type": "text/plain; charset=nonsense"}, 200),
    ],
)
async def test_limits_of_a_body(
    tmp_path: Path, body: bytes, headers: dict[str, str], expected: int
) -> None:
    """Too large is 413, compressed is 415, and the Content-Type does not matter."""
    async with open_desk(tmp_path) as desk:
        assert (await desk.post(body, headers=headers))[0] == expected


async def test_a_slow_body_is_a_408(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that takes longer than five seconds is given up."""
    assert callback.BODY_SECONDS == 5
    monkeypatch.setattr(callback, "BODY_SECONDS", 1.0)
    async with open_desk(tmp_path) as desk:
        host, port = desk.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /video-callback/{TOKEN} HTTP/1.1\r\nHost: x\r\nContent-Length: 9"
        writer.write(f"{head}\r\n\r\n{{".encode())
        began = time.monotonic()
        line = await reader.readline()
        writer.close()
    assert b" 408 " in line
    assert 0.9 < time.monotonic() - began < 5


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"null", b"[]", b"{}", b"[" * 60_000, b'{"data":{"task_id":"../x"}}'],
)
async def test_what_cannot_be_read_is_kept_and_acknowledged(tmp_path: Path, body: bytes) -> None:
    """The same bytes would come again, so they are answered with 200 and shown to a person."""
    async with open_desk(tmp_path) as desk:
        assert (await desk.post(body))[0] == 200
        assert (await desk.post(body))[0] == 200
        (held,) = await desk.store.quarantine.page(10)
    assert (held.body, held.copies, held.remote) == (body, 2, "127.0.0.1")
    assert held.id.startswith("quarantine-")


async def test_a_music_callback_is_quarantined(tmp_path: Path) -> None:
    """The callback of another product does not become a video task."""
    async with open_desk(tmp_path) as desk:
        await desk.post({"code": 200, "data": {"callbackType": "complete", "task_id": "m1"}})
        assert await desk.store.task("m1") is None
        (held,) = await desk.store.quarantine.page(10)
    assert "another kind" in held.why


async def test_a_signature_is_demanded_when_keys_are_set(tmp_path: Path) -> None:
    """Missing, wrong and old signatures are 401 and leave no trace; a good one passes."""
    now = int(time.time())
    async with open_desk(tmp_path, '[callback]\nhmac_keys = ["new-key", "old-key"]') as desk:

        async def send(body: dict[str, object], key: str, at: int) -> int:
            headers = {"X-Webhook-Timestamp": str(at), "X-Webhook-Signature": sign(key, "t1", at)}
            return (await desk.post(body, headers=headers))[0]

        assert (await desk.post(success("t1")))[0] == 401
        assert await send(success("t1"), "wrong-key", now) == 401
        assert await send(success("t2"), "new-key", now) == 401
        assert await send(success("t1"), "new-key", now - 400) == 401
        assert await send({"code": 200}, "new-key", now) == 401
        assert await desk.store.counts() == dict.fromkeys(await desk.store.counts(), 0)
        assert await desk.store.quarantine.page(10) == []
        assert await send(success("t1"), "old-key", now - 200) == 200
        # A signed id that no provider uses is quarantined, like without signatures.
        odd = {"X-Webhook-Timestamp": str(now), "X-Webhook-Signature": sign("new-key", "a/b", now)}
        assert (await desk.post(success("a/b"), headers=odd))[0] == 200
        assert len(await desk.store.quarantine.page(10)) == 1


async def test_callbacks_that_wait_together_are_committed_together(tmp_path: Path) -> None:
    """A hundred callbacks that arrive while a commit runs need only a few commits.

    Each commit writes at least the pages of the table, of its indexes and of the history into the
    write-ahead log, so a hundred commits would need more than four hundred frames.
    """
    log = tmp_path / "state" / "ledger.sqlite3-wal"
    async with open_desk(tmp_path) as desk:
        before = log.stat().st_size
        answers = await asyncio.gather(*(desk.post(success(f"t{n}")) for n in range(100)))
        frames = (log.stat().st_size - before) // 4096
        assert {status for status, _ in answers} == {200}
        assert sum((await desk.store.counts()).values()) == 100
    assert 0 < frames < 250


async def test_a_commit_that_fails_is_a_503_and_the_next_one_works(tmp_path: Path) -> None:
    """A full database never acknowledges; when there is room again, the retry succeeds."""
    async with open_desk(tmp_path) as desk:
        database = desk.store.commits.connection
        ((pages,),) = await database.execute_fetchall("PRAGMA page_count")
        await database.execute_fetchall(f"PRAGMA max_page_count = {pages}")
        long = "x" * 2000
        statuses = [(await desk.post(success(f"t{n}", f"{LINK}?{long}")))[0] for n in range(20)]
        assert 503 in statuses
        kept = sum((await desk.store.counts()).values())
        assert kept == statuses.count(200)
        await database.execute_fetchall("PRAGMA max_page_count = 1000000")
        assert (await desk.post(success("t99")))[0] == 200


async def test_a_commit_that_hangs_is_a_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider is told to come again before its own 15 seconds are over."""
    assert callback.COMMIT_SECONDS == 10
    monkeypatch.setattr(callback, "COMMIT_SECONDS", 1.0)
    async with open_desk(tmp_path, run_intake=False) as desk:
        began = time.monotonic()
        assert (await desk.post(success("t1")))[0] == 503
    assert 0.9 < time.monotonic() - began < 5


async def test_the_listener_can_be_a_unix_socket(tmp_path: Path) -> None:
    """Behind a local proxy no port is needed, and the proxy's word on the client counts."""
    async with open_store(tmp_path / "state") as store:
        path = tmp_path / "config.toml"
        path.write_text('state_dir = "state"\n[callback]\nlisten = "unix:in.sock"')
        config = load(path, {}).config
        intake = Intake(store)
        committing = asyncio.create_task(intake.run())
        receiver = Receiver(
            section=lambda: config.callback,
            tokens=lambda: (TOKEN,),
            has_key=lambda: False,
            retention_ms=lambda: DAY_MS,
            intake=intake,
            now=lambda: 0,
            ring=lambda: None,
        )
        runner = public_runner(callback_app(receiver))
        assert config.callback.listen is not None
        where = await listen(runner, config.callback.listen, 0o660)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "in.sock")
        writer.write(
            f"POST /video-callback/{TOKEN} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
            "X-Forwarded-For: 203.0.113.7\r\n\r\nnull".encode()
        )
        assert b" 200 " in await reader.readline()
        writer.close()
        (held,) = await store.quarantine.page(1)
        mode = (await asyncio.to_thread((tmp_path / "in.sock").stat)).st_mode
        await close([runner])
        committing.cancel()
    assert where == f"unix:{tmp_path / 'in.sock'}"
    assert mode & 0o777 == 0o660
    assert held.remote == "203.0.113.7"


def test_strikes_are_forgotten_after_a_minute_and_bounded() -> None:
    """An old guess does not count, and a flood of clients does not fill the memory."""
    clock = [0.0]
    strikes = Strikes(lambda: clock[0])
    assert [strikes.count("a") for _ in range(6)] == [False] * 5 + [True]
    clock[0] = 61.0
    assert not strikes.count("a")
    for number in range(CLIENTS_LIMIT + 5):
        strikes.count(f"client {number}")
    assert len(strikes._clients) == CLIENTS_LIMIT


async def test_an_address_with_odd_bytes_is_no_reason_to_fail(tmp_path: Path) -> None:
    """A scope id may hold anything, and the next body of the batch is somebody else's."""
    async with open_desk(tmp_path) as desk:
        port = int(desk.url.split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"POST /video-callback/{TOKEN} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n".encode()
            + b"X-Forwarded-For: fe80::1%\x80\r\n\r\nnull"
        )
        assert b" 200 " in await reader.readline()
        writer.close()
        (held,) = await desk.store.quarantine.page(1)
        assert held.remote is not None
        held.remote.encode()
