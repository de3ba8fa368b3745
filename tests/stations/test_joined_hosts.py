"""Hosts that misbehave only where several connections of one film meet, played byte for byte."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
import structlog

from daemon.attempt import Attempt
from daemon.config.sections import Download
from daemon.disk import Disk
from daemon.download import Downloader
from daemon.flow import Flow
from daemon.pulse import Pulse, listen
from daemon.right_of_way import RightOfWay
from daemon.rules import segments
from daemon.rules.failure import Reason, StepFailed, Trouble
from daemon.rules.filename import name_partial
from daemon.rules.segments import Growth, Segment
from daemon.rules.task import Task
from daemon.rules.transfer import Changed
from daemon.simulator.films import Film
from daemon.store import Store
from daemon.traffic import Traffic

Make = Callable[..., Downloader]
Want = Callable[..., Awaitable[Task]]

SIZE = 3_000_000
ONE = b"".join(Film("one", SIZE).read(0, SIZE))
OTHER = b"".join(Film("other", SIZE).read(0, SIZE))
PACE = 1_500_000
STEP = 32 << 10
SEVERAL = {"connections": 2, "min_segment": 128 << 10}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A third of a second is long here; and the log is as it was afterwards."""
    monkeypatch.setattr(segments, "WORTH_SECONDS", 0.3)
    yield
    structlog.reset_defaults()


@dataclass(eq=False)
class Visit:
    """One connection: what was asked over it, and how far it came."""

    number: int
    start: int
    end: int
    is_part: bool
    writer: asyncio.StreamWriter
    sent_to: int = 0

    def head(self, **changes: str) -> bytes:
        """Write the head of an honest answer, but for `changes`."""
        status = "206 Partial Content" if self.is_part else "200 OK"
        lines = {"ETag": '"same"', "Content-Length": str(self.end - self.start)}
        if self.is_part:
            lines["Content-Range"] = f"bytes {self.start}-{self.end - 1}/{SIZE}"
        told = "".join(f"{name}: {value}\r\n" for name, value in (lines | changes).items())
        return f"HTTP/1.1 {status}\r\nConnection: close\r\n{told}\r\n".encode()

    async def send(self, film: bytes, upto: int, pace: float = PACE) -> None:
        """Send bytes of a film up to a place."""
        while self.sent_to < upto:
            stop = min(self.sent_to + STEP, upto)
            self.writer.write(film[self.sent_to : stop])
            await self.writer.drain()
            self.sent_to = stop
            await asyncio.sleep(STEP / pace)

    def reset(self) -> None:
        """Break off."""
        self.writer.transport.abort()


@dataclass(eq=False)
class Host:
    """Who was asked for what, and how many were served at once."""

    link: str = ""
    visits: list[Visit] = field(default_factory=list)
    open: int = 0
    most_open: int = 0


Play = Callable[[Host, Visit], Awaitable[None]]


@asynccontextmanager
async def playing(play: Play) -> AsyncIterator[Host]:
    """Let `play` answer each request."""
    host, tasks = Host(), set[asyncio.Task[None]]()

    counting = asyncio.get_running_loop()

    def count() -> None:
        # A moment later: one that was left as this one came is gone by then.
        host.most_open = max(host.most_open, host.open)

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host.open += 1
        counting.call_later(0.1, count)
        with suppress(ConnectionError):
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
            headers = dict(line.lower().split(": ", 1) for line in lines)
            first, _, last = headers.get("range", "bytes=0-")[6:].partition("-")
            new = Visit(
                *(len(host.visits), int(first), int(last) + 1 if last else SIZE),
                *("range" in headers, writer),
            )
            new.sent_to = new.start
            host.visits.append(new)
            gone = asyncio.create_task(reader.read())
            served = asyncio.ensure_future(play(host, new))
            await asyncio.wait({gone, served}, return_when=asyncio.FIRST_COMPLETED)
            served.cancel()
            gone.cancel()
            for ended in await asyncio.gather(served, gone, return_exceptions=True):
                if isinstance(ended, Exception) and not isinstance(ended, ConnectionError):
                    raise ended
        host.open -= 1
        writer.close()

    def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(visit(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(welcome, "127.0.0.1", 0)
    host.link = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/film.mp4"
    try:
        yield host
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until(condition: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        await asyncio.sleep(0.01)


async def check_whole(downloader: Downloader, task: Task, disk: Disk, store: Store) -> None:
    """Fetch, again where it failed, and look whether what came is one film or the other."""
    for _ in range(4):
        try:
            await downloader.fetch(task)
            break
        except StepFailed:
            newest = await store.task(task.task_id)
            assert newest is not None
            task = newest
    found = disk.partial(name_partial("a")).read_bytes()
    assert found in {ONE, OTHER}


async def test_a_seam_is_compared_when_the_second_connection_is_slow(
    make_downloader: Make, want: Want, disk: Disk, store: Store
) -> None:
    """The first is at the seam before the second's first byte, which is of another film."""

    async def play(_: Host, visit: Visit) -> None:
        if visit.number == 0:
            visit.writer.write(visit.head())
            await visit.send(ONE, SIZE)
        elif visit.number == 1:
            visit.writer.write(visit.head())
            part = disk.partial(name_partial("a"))
            await _until(lambda: part.stat().st_size >= visit.start)
            await asyncio.sleep(0.3)
            await visit.send(OTHER, visit.end)
        else:
            visit.writer.write(visit.head())
            await visit.send(OTHER, visit.end)

    async with playing(play) as host:
        await check_whole(make_downloader(**SEVERAL), await want(host.link), disk, store)


async def test_a_seam_is_compared_when_the_first_connection_breaks_at_it(
    make_downloader: Make, want: Want, disk: Disk, store: Store
) -> None:
    """The host closes the first connection right at the byte where the second began."""

    async def play(host: Host, visit: Visit) -> None:
        visit.writer.write(visit.head())
        if visit.number == 0:
            while True:
                upto = host.visits[1].start if len(host.visits) > 1 else SIZE
                if visit.sent_to >= upto:
                    break
                await visit.send(ONE, min(upto, visit.sent_to + STEP))
            # All of it has arrived, and was written, before it breaks.
            part = disk.partial(name_partial("a"))
            await asyncio.sleep(0.7)
            assert part.stat().st_size >= upto
            visit.reset()
        else:
            await visit.send(OTHER, visit.end)

    async with playing(play) as host:
        await check_whole(make_downloader(**SEVERAL), await want(host.link), disk, store)


async def test_never_more_connections_than_allowed(
    make_downloader: Make, want: Want, disk: Disk, store: Store
) -> None:
    """A connection whose segment is done is closed before another one is opened."""

    async def play(_: Host, visit: Visit) -> None:
        visit.writer.write(visit.head())
        await visit.send(ONE, visit.end, PACE if visit.number == 0 else PACE / 4)

    async with playing(play) as host:
        await check_whole(make_downloader(**SEVERAL), await want(host.link), disk, store)
        assert len(host.visits) > 2
        assert host.most_open <= SEVERAL["connections"]


async def test_a_second_answer_that_is_too_large_does_not_end_the_first(
    make_downloader: Make, want: Want
) -> None:
    """The first connection is not disturbed by what a joined one is told."""

    async def play(_: Host, visit: Visit) -> None:
        if visit.number == 0:
            visit.writer.write(visit.head())
            await visit.send(ONE, visit.end)
        else:
            head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 99999999999\r\n\r\n"
            visit.writer.write(head)
            await asyncio.sleep(5)

    async with playing(play) as host:
        await make_downloader(**SEVERAL).fetch(await want(host.link))
        assert len(host.visits) == 2


async def test_the_connection_that_delivers_is_the_one_that_is_kept(
    make_downloader: Make, want: Want
) -> None:
    """All fall silent but the newest: it goes on."""

    async def play(host: Host, visit: Visit) -> None:
        visit.writer.write(visit.head())
        if visit.number in {0, 1}:
            # Silent once the last one delivers; the first a little later than the second.
            while len(host.visits) < 3 or host.visits[2].sent_to < host.visits[2].start + STEP:
                await visit.send(ONE, visit.sent_to + 4096, PACE / 4)
            if visit.number == 0:
                await asyncio.sleep(0.5)
                await visit.send(ONE, visit.sent_to + 4096)
            await asyncio.sleep(30)
        await visit.send(ONE, visit.end, PACE / 3)

    section = {**SEVERAL, "connections": 3, "stall_timeout": timedelta(seconds=1)}
    async with playing(play) as host:
        await make_downloader(**section).fetch(await want(host.link))


async def test_a_film_without_a_length_keeps_the_watchdog_fed(
    make_downloader: Make, want: Want
) -> None:
    """Whoever receives beats, whether or not he knows how much is to come."""
    moment = 0.0
    pulse = Pulse(lambda: moment)
    late = list[list[str]]()

    async def play(_: Host, visit: Visit) -> None:
        nonlocal moment
        visit.writer.write(b'HTTP/1.1 200 OK\r\nETag: "same"\r\nTransfer-Encoding: chunked\r\n\r\n')
        for start in range(0, SIZE, SIZE // 10):
            piece = ONE[start : start + SIZE // 10]
            visit.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await visit.writer.drain()
            await asyncio.sleep(0.1)
            late.append(pulse.late())
            # Ten minutes a piece: slow, and always going on.
            moment += 600
        visit.writer.write(b"0\r\n\r\n")

    async with playing(play) as host:
        task = await want(host.link)
        listen(pulse)
        await make_downloader().fetch(task)
    assert not any(late)


async def _fail(failure: Exception) -> None:
    raise failure


async def test_bytes_that_differ_outrank_a_broken_connection() -> None:
    """Two end at once, and one found that the bytes are of two films: all is fetched anew."""
    attempt = Attempt(
        *("https://a.example/v.mp4", None, None, None),  # type: ignore[arg-type]
        Traffic(Flow(lambda: 0), RightOfWay()),
        section=Download,  # type: ignore[arg-type]
        check_room=None,  # type: ignore[arg-type]
        now=lambda: 0,
    )
    for _ in range(50):
        broken = asyncio.create_task(_fail(Trouble(Reason.NETWORK, "the connection broke")))
        differs = asyncio.create_task(_fail(Changed("other bytes")))
        attempt._hands = {broken: Segment(0, 10), differs: Segment(10, 20)}
        done, _ = await asyncio.wait(attempt._hands)
        with pytest.raises(Changed):
            attempt._collect(done, Growth(limit=2, began=0.0))
