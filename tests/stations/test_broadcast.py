"""Looking on: what happens reaches everyone who listens, and nobody is held up by it."""

import asyncio
import io
import json
import threading
from typing import Any

import pytest
import structlog

from daemon import logs
from daemon.broadcast import BACKLOG_LINES, DROPPED, Broadcast, Listener, News
from daemon.disk import Disk
from daemon.logs import Rows, set_up_logs
from daemon.partial import open_partial
from daemon.progress import EVENT, Progress


async def heard(listener: Listener) -> list[News]:
    """Return what has come so far."""
    async with asyncio.timeout(5):
        return await listener.take()


async def test_every_listener_hears_what_is_logged_while_he_listens(stream: io.StringIO) -> None:
    """Not what was before, and not what comes after."""
    set_up_logs(level="info", form="json", secrets=[], stream=stream)
    broadcast, log = Broadcast(), structlog.get_logger()
    log.info("before")
    with broadcast.listen() as first:
        log.info("task.moved", rows=Rows([{"task_id": "a"}, {"task_id": "b"}]))
        assert [news.event for news in await heard(first)] == ["task.moved", "task.moved"]
        with broadcast.listen() as second:
            log.warning("gate.closed", gate="key")
            (news,) = await heard(first)
            assert await heard(second) == [news]
    assert logs._onlooker is None
    log.info("after")
    assert json.loads(news.line)["gate"] == "key"
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == [
        *("before", "task.moved", "task.moved", "gate.closed", "after")
    ]


@pytest.mark.parametrize(("level", "written"), [("warning", []), ("debug", ["poll.asked", "a.b"])])
async def test_what_is_shown_does_not_depend_on_what_is_written(
    stream: io.StringIO, level: str, written: list[str]
) -> None:
    """Level info and above is shown, also when the log is to say less, and never more."""
    set_up_logs(level=level, form="json", secrets=["the-secret"], stream=stream)
    broadcast, log = Broadcast(), structlog.get_logger()
    with broadcast.listen() as listener:
        log.debug("poll.asked")
        log.info("a.b", message="the-secret")
        (news,) = await heard(listener)
    log.info("x" if level == "warning" else "a.b")
    assert news.event == "a.b"
    assert "the-secret" not in news.line
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events == [*written, *(["a.b"] if written else [])]


async def test_a_console_is_shown_as_json_as_well(stream: io.StringIO) -> None:
    """What people read in the terminal is no JSON; who looks on gets some all the same."""
    set_up_logs(level="info", form="console", secrets=[], stream=stream)
    broadcast = Broadcast()
    with broadcast.listen() as listener:
        structlog.get_logger().info("daemon.ready", seconds=1)
        (news,) = await heard(listener)
    assert json.loads(news.line)["seconds"] == 1
    assert "daemon.ready" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


async def test_another_thread_may_log(stream: io.StringIO) -> None:
    """The ledger's check and the log's own thread have something to say too."""
    set_up_logs(level="info", form="json", secrets=[], stream=stream)
    broadcast = Broadcast()
    with broadcast.listen() as listener:
        thread = threading.Thread(target=structlog.get_logger().warning, args=["store.unchecked"])
        thread.start()
        thread.join()
        assert [news.event for news in await heard(listener)] == ["store.unchecked"]


async def test_who_is_too_slow_is_told_how_much_he_missed() -> None:
    """His backlog is bounded, and what found no place is counted."""
    broadcast = Broadcast()
    with broadcast.listen() as listener:
        broadcast.send("a", "\n".join(["{}"] * (BACKLOG_LINES + 7)))
        await asyncio.sleep(0)
        taken = await heard(listener)
        assert len(taken) == BACKLOG_LINES + 1
        assert taken[-1].event == DROPPED
        assert json.loads(taken[-1].line)["lines"] == 7
        broadcast.send("b", "{}")
        assert await heard(listener) == [News("b", "{}")]


async def test_everybody_leaves_when_the_process_stops() -> None:
    """Who listens then hears no more, and neither does who comes later."""
    broadcast = Broadcast()
    with broadcast.listen() as listener:
        broadcast.close()
        assert await heard(listener) == []
    with broadcast.listen() as late:
        assert await heard(late) == []


async def test_how_far_downloads_are_is_told_with_their_speed(disk: Disk) -> None:
    """Bytes on the disk so far, all of them when that is known, and how fast they came."""
    clock = [100.0]
    progress, broadcast = Progress(lambda: clock[0]), Broadcast()

    async def tell(listener: Listener) -> dict[str, Any]:
        progress.tell(broadcast)
        (news,) = await heard(listener)
        assert news.event == EVENT
        found: dict[str, Any] = json.loads(news.line)
        return {name: found[name] for name in ("received_bytes", "size_bytes", "bytes_per_second")}

    async def record(*_: object) -> None:
        """Nobody asks for it again."""

    with broadcast.listen() as listener:
        async with open_partial(
            disk, disk.partial("t1.part"), record, spans="", total_bytes=None, validator=None
        ) as part:
            with progress.follow("t1", part):
                assert progress.running == 1
                assert await tell(listener) == _told(0, None, None)
                await part.write(0, memoryview(bytes(3000)))
                part.total_bytes = 5000
                clock[0] += 2
                assert await tell(listener) == _told(3000, 5000, 1500)
                await part.reset()
                clock[0] += 1
                assert await tell(listener) == _told(0, None, None)
        progress.tell(broadcast)
        broadcast.send("end", "{}")
        assert [news.event for news in await heard(listener)] == ["end"]
    assert progress.running == 0


def _told(received_bytes: int, size_bytes: int | None, speed: int | None) -> dict[str, int | None]:
    return {
        "received_bytes": received_bytes,
        "size_bytes": size_bytes,
        "bytes_per_second": speed,
    }


async def test_progress_is_told_while_somebody_looks_on_and_only_then() -> None:
    """An idle daemon does not wake up for nobody."""
    told = []

    def clock() -> float:
        told.append(0.0)
        return 0.0

    broadcast = Broadcast()
    reporting = asyncio.create_task(Progress(clock).report(broadcast))
    await asyncio.sleep(0.05)
    assert not told
    with broadcast.listen():
        await asyncio.sleep(0.05)
        assert len(told) == 1
    reporting.cancel()


async def test_logs_that_nobody_set_up_are_left_alone() -> None:
    """As in a test of one station, which may want to see each line of level debug."""
    structlog.reset_defaults()
    with Broadcast().listen():
        assert not structlog.is_configured()
    assert not structlog.is_configured()
