"""The way of an acknowledgement: prepared bytes, and one commit for all that are at the door."""

import asyncio
import json
import re
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from daemon import callback
from daemon.callback import Heard, Intake
from daemon.connections import Prepared
from daemon.rules.lifecycle import Cause
from daemon.rules.task import Received, Tidings
from daemon.store import Store, StoreFailed
from tests.security.wire import request, say
from tests.stations.listening import TOKEN, open_desk, success

PATH = f"/video-callback/{TOKEN}"
NOW = 1_790_000_000_000


def call(task_id: str, *headers: str, version: str = "1.1") -> bytes:
    """Return a callback as it goes over the wire."""
    body = json.dumps(success(task_id)).encode()
    return request(f"POST {PATH}", *headers, body=body).replace(
        b" HTTP/1.1\r\n", f" HTTP/{version}\r\n".encode(), 1
    )


def parse(text: str) -> tuple[str, dict[str, str], str]:
    """Return the first line, the headers by their names in small letters, and the body."""
    head, _, body = text.partition("\r\n\r\n")
    first, *rest = head.split("\r\n")
    headers = dict(line.split(": ", 1) for line in rest)
    assert len(headers) == len(rest)
    return first, {name.lower(): value for name, value in headers.items()}, body


def heard(task_id: str) -> Heard:
    """Return a callback that waits for its commit."""
    return Heard(Tidings(task_id, Cause.HINTED, NOW, NOW + 1, None))


@pytest.mark.parametrize(
    ("version", "headers", "stays", "connection"),
    [
        ("1.1", (), True, None),
        ("1.1", ("Connection: close",), False, "close"),
        ("1.0", (), False, None),
        ("1.0", ("Connection: keep-alive",), True, "keep-alive"),
    ],
)
async def test_an_acknowledgement_is_the_same_however_it_is_made(
    tmp_path: Path, version: str, headers: tuple[str, ...], connection: str | None, *, stays: bool
) -> None:
    """Prepared bytes or aiohttp's own: same status, headers and body, and the connection's due."""
    async with open_desk(tmp_path) as desk:
        answer = await say(desk.url, call("t1", *headers, version=version), patience=1)
    first, found, body = parse(answer.text)
    assert first == f"HTTP/{version} 200 OK"
    assert body == '{"status":"received"}'
    assert abs(parsedate_to_datetime(found.pop("date")).timestamp() - time.time()) < 60
    assert found.pop("connection", None) == connection
    assert found == {
        "content-type": "application/json",
        "content-length": "21",
        "server": "suno-videod",
    }
    assert answer.closed is not stays


async def test_a_connection_that_stays_open_is_answered_again(tmp_path: Path) -> None:
    """Each callback on it, also those that come without waiting, in their order."""
    async with open_desk(tmp_path) as desk:
        calls = [call(f"t{number}") for number in range(5)]
        answer = await say(desk.url, b"".join(calls), call("t5"), pause=0.2, patience=1)
        assert answer.statuses == [200] * 6
        assert answer.text.count('{"status":"received"}') == 6
        assert sum((await desk.store.counts()).values()) == 6


@pytest.mark.parametrize(
    ("version", "path", "firsts"),
    [
        ("1.1", PATH, ["HTTP/1.1 100 Continue", "HTTP/1.1 200 OK"]),
        ("1.0", PATH, ["HTTP/1.0 200 OK"]),
        ("1.1", f"{PATH}x", ["HTTP/1.1 404 Not Found"]),
        ("1.1", "/elsewhere", ["HTTP/1.1 404 Not Found"]),
    ],
)
async def test_a_body_is_asked_for_where_it_is_wanted(
    tmp_path: Path, version: str, path: str, firsts: list[str]
) -> None:
    """RFC 9110, 10.1.1: never from HTTP/1.0; and who has no token hears no and nothing else."""
    whole = call("t1", "Expect: 100-continue", version=version).replace(
        PATH.encode(), path.encode(), 1
    )
    head, _, body = whole.partition(b"\r\n\r\n")
    async with open_desk(tmp_path) as desk:
        answer = await say(desk.url, head + b"\r\n\r\n", body, pause=0.2, patience=1)
    assert re.findall(r"HTTP/1\.. \d+ [\w ]+", answer.text) == firsts


async def test_an_error_is_told_also_to_who_was_asked_for_the_body(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To be asked for it is no half of an answer."""

    async def stumble(*_: object) -> Received:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Intake, "commit", stumble)
    async with open_desk(tmp_path) as desk:
        answer = await say(desk.url, call("t1", "Expect: 100-continue"))
    assert answer.statuses == [100, 500]


def test_a_prepared_answer_has_the_time_of_its_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made anew when the second is over, and not before."""
    prepared, clock = Prepared(b"{}"), [1_000_000_000.2]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    first = prepared.whole()
    clock[0] += 0.7
    assert prepared.whole() is first
    clock[0] += 0.2
    second = prepared.whole()
    assert b"Date: Sun, 09 Sep 2001 01:46:40 GMT\r\n" in first
    assert b"Date: Sun, 09 Sep 2001 01:46:41 GMT\r\n" in second


async def test_callbacks_at_the_door_are_one_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that come a turn of the loop later, while nothing is committed, go with the first."""
    sizes: list[int] = []
    receive = store.receive

    async def count(batch: Sequence[Tidings]) -> list[Received]:
        sizes.append(len(batch))
        return await receive(batch)

    monkeypatch.setattr(store, "receive", count)
    monkeypatch.setattr(callback, "GATHER_SECONDS", 5.0)
    intake = Intake(store)
    running = asyncio.create_task(intake.run())
    first = asyncio.create_task(intake.commit(heard("t0")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.create_task(intake.commit(heard(f"t{n}"))) for n in range(1, 40)]
    received = await asyncio.gather(first, *others)
    assert [row.task_id for row in received] == [f"t{number}" for number in range(40)]
    assert sizes == [40]
    await intake.commit(heard("t40"))
    assert sizes == [40, 1]
    running.cancel()


async def test_who_comes_all_the_time_holds_nobody_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is closed when its first has waited for its moment, though the door never shuts."""
    monkeypatch.setattr(callback, "GATHER_SECONDS", 0.05)
    monkeypatch.setattr(callback, "BATCH_LIMIT", 1_000_000)
    intake = Intake(store)
    running = asyncio.create_task(intake.run())
    first = asyncio.create_task(intake.commit(heard("first")))
    crowd: list[asyncio.Task[Received]] = []
    until = time.monotonic() + 3
    while not first.done() and time.monotonic() < until:
        crowd.append(asyncio.create_task(intake.commit(heard(f"t{len(crowd)}"))))
        await asyncio.sleep(0)
    assert first.done()
    await asyncio.gather(*crowd)
    running.cancel()


async def test_who_waited_too_long_is_sent_away_and_committed_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each when its own time is over, by one timer for all; who was served in time stays served."""
    monkeypatch.setattr(callback, "COMMIT_SECONDS", 0.2)
    intake = Intake(store)
    began = time.monotonic()
    early = asyncio.create_task(intake.commit(heard("early")))
    await asyncio.sleep(0.1)
    late = asyncio.create_task(intake.commit(heard("late")))
    with pytest.raises(TimeoutError, match="no commit within 0"):
        await early
    assert time.monotonic() - began > 0.19
    assert not late.done()
    with pytest.raises(TimeoutError):
        await late
    assert time.monotonic() - began > 0.29
    running = asyncio.create_task(intake.run())
    async with asyncio.timeout(5):
        assert (await intake.commit(heard("last"))).callbacks == 1
    assert {task.task_id for task in await store.tasks()} == {"early", "late", "last"}
    await asyncio.sleep(0.3)
    running.cancel()


async def test_a_commit_that_fails_fails_for_the_whole_batch(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody of them is told 200, and those who come next are served."""
    receive = store.receive

    async def fail(_: Sequence[Tidings]) -> list[Received]:
        monkeypatch.setattr(store, "receive", receive)
        raise StoreFailed("the disk is full")

    monkeypatch.setattr(store, "receive", fail)
    intake = Intake(store)
    running = asyncio.create_task(intake.run())
    waiting = [intake.commit(heard(f"t{number}")) for number in range(3)]
    failed = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in failed] == [StoreFailed] * 3
    assert (await intake.commit(heard("t0"))).callbacks == 1
    running.cancel()
