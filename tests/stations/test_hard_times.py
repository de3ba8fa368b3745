"""Peers and machines at their worst: what must neither stop the others nor lose anything."""

import asyncio
import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
import structlog

from daemon.bell import Bell
from daemon.config.secret import Secret
from daemon.disk import Disk
from daemon.download import Downloader
from daemon.gates import Gates
from daemon.hosts import Hosts
from daemon.logs import LINES_LIMIT, ThreadedStream, set_up_logs
from daemon.outbound import api_session, file_session, get_file
from daemon.provider import Provider
from daemon.queue import DownloadQueue, Step, work
from daemon.rules.address import AddressPolicy
from daemon.rules.dialect import Outcome
from daemon.rules.failure import Reason, Refused, Trouble
from daemon.rules.filename import name_partial
from daemon.rules.lifecycle import Cause, State
from daemon.rules.notice import Answer, Evidence, Notice
from daemon.rules.schedule import API_FAILURES, HOUR, MINUTE, SECOND, Pace
from daemon.rules.speed import FAIR_SPEED, PATIENCE_SECONDS, Speed
from daemon.rules.task import Task, Tidings
from daemon.rules.verdict import Terms, judge_answer
from daemon.store import Store, StoreFailed, survive

TERMS = Terms(Pace(MINUTE, MINUTE, HOUR), 100, 1_000, has_key=True)
Plant = Callable[..., Awaitable[Task]]
Now = Callable[[], int]


def test_two_ids_never_share_a_partial_file() -> None:
    """An id that was made to look like the filtered name of another gets bytes of its own."""
    crafted = name_partial("x.y").removesuffix(".part")
    names = {name_partial(task_id) for task_id in ("x.y", "x_y", "X_y", crafted, "x" * 128)}
    assert len({name.lower() for name in names}) == 5
    assert all(len(name) < 80 for name in names)


async def test_headers_that_dribble_come_to_an_end() -> None:
    """A byte now and then begins every socket timeout anew, and still the host is given up."""

    async def dribble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for byte in b"HTTP/1.1 200 OK\r\nX-Endless: " + b"x" * 1000:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(dribble, "127.0.0.1", 0)
    link = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v.mp4"
    networks = AddressPolicy(allow_http=True, allow_private=(ip_network("127.0.0.0/8"),))
    began = time.monotonic()
    async with file_session(lambda: networks, 0.2, 0.5, 2) as session:
        with pytest.raises(Trouble) as trouble:
            async with get_file(session, link, networks, {}):
                pass
    server.close()
    assert trouble.value.reason is Reason.STALLED
    assert time.monotonic() - began < 3


def test_a_body_may_be_slow_for_ten_minutes_and_no_longer() -> None:
    """Above the configured minimum a host holds a worker only as long as it is fair to others."""
    patient = Speed(1, 60)
    for _ in range(int(PATIENCE_SECONDS // 10)):
        patient.count(10 * FAIR_SPEED // 2, 10)
    with pytest.raises(Trouble, match="in 10 minutes"):
        patient.count(10, 10)
    quick = Speed(1, 60)
    for _ in range(100):
        quick.count(20 * FAIR_SPEED, 10)


async def test_what_failed_waits_behind_what_did_not(store: Store, plant: Plant, now: Now) -> None:
    """Hosts that never answer do not hold back the others, unless a deadline is near."""
    at = now()
    await plant("stuck", State.WANTED, failures=3, deadline_at=at + 48 * HOUR)
    await plant("good", State.WANTED, deadline_at=at + 300 * HOUR)
    await plant("pressing", State.WANTED, failures=3, deadline_at=at + 5 * HOUR)
    await plant("newest", State.WANTED, failures=1, deadline_at=at + 300 * HOUR)
    urgent = [due.task_id for due in await store.due_downloads(at, 9, freshest=False)]
    fresh = [due.task_id for due in await store.due_downloads(at, 9, freshest=True)]
    assert urgent == ["pressing", "good", "stuck", "newest"]
    assert fresh == ["pressing", "good", "newest", "stuck"]


async def test_bytes_of_an_unconfirmed_link_are_dropped_for_another_one(
    store: Store, plant: Plant, now: Now
) -> None:
    """What a forged link gave is neither kept nor remembered once the provider named the true one.

    Also when the download of the forged one still runs.
    """
    forged, true = "https://evil.example.com/a.mp4", "https://files.example.com/a.mp4"
    task = await plant(
        "a", State.WANTED, unconfirmed=1, link=forged, spans="0-100", validator='"e"'
    )
    await store.record_progress("a", "0-200", 300, '"e"', only_of=forged)
    notice = Notice("a", Evidence.SUCCESS, true, None, "", 200)
    answer = Answer(Outcome.ANSWERED, "", 200, notice)
    await store.settle(task, now(), lambda newest: judge_answer(newest, answer, now(), TERMS, 0.5))
    await store.record_progress("a", "0-300", 300, '"e"', only_of=forged)
    after = await store.task("a")
    assert after is not None
    assert (after.link, after.unconfirmed) == (true, 0)
    assert (after.spans, after.size_bytes, after.validator) == ("", None, None)


async def test_a_callback_asks_about_a_wanted_task_too(
    store: Store, plant: Plant, now: Now
) -> None:
    """The provider may have a better link than the one that is tried in vain."""
    await plant("a", State.WANTED, ask_at=now() + 6 * HOUR)
    hint = Tidings(
        task_id="a", cause=Cause.HINTED, now=now(), deadline_at=now() + HOUR, ask_at=now()
    )
    await store.receive([hint])
    task = await store.task("a")
    assert task is not None
    assert (task.state, task.ask_at) == ("wanted", now())


async def test_one_wrong_id_is_no_trouble_of_the_api(gates: Gates, now: Now) -> None:
    """A readable answer shows that the API lives, however odd; unreadable ones shut its gate."""
    answers = [b'{"code": 422, "msg": "Record does not exist", "data": null}'] * 20

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = answers.pop(0) if answers else b"<html>"
        head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with api_session(url, lambda: Secret("key"), 2) as session:
        provider = Provider(session, "kie", gates, now, 1000)
        for _ in range(20):
            assert (await provider.ask("wrong")).outcome is Outcome.ODD
        assert gates.shut() == []
        for _ in range(API_FAILURES):
            assert (await provider.ask("right")).outcome is Outcome.TROUBLE
        assert [gate.name for gate in gates.shut()] == ["api"]
    server.close()


async def test_a_wish_of_nothing_is_not_taken_at_its_word(
    gates: Gates, now: Now, advance: Callable[[int], None]
) -> None:
    """`Retry-After: 0` again and again makes longer and longer pauses all the same."""
    pauses = []
    for _ in range(5):
        gates.close("rate", "slower", 0)
        pauses.append(gates.shut()[0].probe_at - now())
        advance(pauses[-1])
        await gates.pass_through("rate")
    assert pauses == [SECOND, 2 * SECOND, 4 * SECOND, 8 * SECOND, 16 * SECOND]
    gates.close("rate", "slower", 90 * SECOND)
    assert gates.shut()[0].probe_at - now() == 90 * SECOND


async def test_a_publish_opens_the_disk_gate(
    make_downloader: Callable[..., Downloader],
    plant: Plant,
    gates: Gates,
    disk: Disk,
    tmp_path: Path,
) -> None:
    """A folder that can be written again is enough, also when nothing has to be fetched."""
    content = b"verified"
    disk.partial(name_partial("a")).write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    path = str(tmp_path / "videos" / "video_a.mp4")
    task = await plant("a", State.VERIFIED, sha256=sha256, size_bytes=len(content), path=path)
    gates.close("disk", "folder was read-only")
    done = await make_downloader().publish(task)
    assert done.state == "stored"
    assert gates.shut() == []


def start_worker(
    store: Store, gates: Gates, now: Now, bell: Bell, step: Step
) -> list[asyncio.Task[None]]:
    """Start a queue and one worker that does `step` with what is wanted."""
    queue = DownloadQueue()
    worker = work(
        *(queue, store, {State.WANTED: step}, gates),
        *(Hosts(gates, now, lambda: 60_000), lambda: TERMS),
        now=now,
        bell=bell,
        ring_questions=lambda: None,
        freshest=False,
        is_surplus=lambda: False,
    )
    return [asyncio.create_task(loop) for loop in (queue.feed(store, now, bell), worker)]


async def test_a_full_ledger_is_survived(
    store: Store, plant: Plant, gates: Gates, now: Now
) -> None:
    """While the database cannot be written the workers wait; then they go on, and lose nothing."""
    await plant("a", State.WANTED)
    await store.commits.connection.execute_fetchall("PRAGMA query_only = 1")
    assert not await store.writable()
    bell = Bell()
    steps: list[str] = []

    async def step(task: Task) -> Task:
        steps.append(task.task_id)
        await asyncio.get_running_loop().create_future()
        return task

    loops = start_worker(store, gates, now, bell, step)
    await asyncio.sleep(0.2)
    assert not any(loop.done() for loop in loops)
    assert steps == []
    await store.commits.connection.execute_fetchall("PRAGMA query_only = 0")
    async with asyncio.timeout(12):
        while not steps:
            bell.ring()
            await asyncio.sleep(0.1)
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


def test_only_a_failed_sync_or_a_damaged_file_ends_the_process() -> None:
    """A full disk passes; a ledger that may have lost pages is read anew by a new process."""
    assert survive(StoreFailed("disk full")) > 0
    with pytest.raises(StoreFailed):
        survive(StoreFailed("disk I/O error", fatal=True))


@pytest.fixture
def _quiet_logs() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()
    logging.captureWarnings(capture=False)


@pytest.mark.usefixtures("_quiet_logs")
def test_a_reader_that_stalls_stops_nobody() -> None:
    """Lines are dropped and counted while nobody reads, and the count is told afterwards."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", 0) as reader, os.fdopen(writing, "w") as writer:
        stream = ThreadedStream(writer)
        set_up_logs(level="info", form="json", secrets=[], stream=stream)
        log = structlog.get_logger()
        began = time.monotonic()
        for number in range(LINES_LIMIT + 5_000):
            log.info("x", number=number, padding="x" * 100)
        assert time.monotonic() - began < 30
        found = b""
        while b"log.dropped" not in found:
            found += reader.read(1 << 16)
        stream.close()
    lines = [json.loads(line) for line in found.splitlines() if line.endswith(b"}")]
    dropped = next(line["lines"] for line in lines if line["event"] == "log.dropped")
    kept = sum(line["event"] == "x" for line in lines)
    assert dropped > 0
    assert kept + dropped <= LINES_LIMIT + 5_000


def test_a_reader_that_left_ends_nothing() -> None:
    """A broken pipe behind the log is no reason to stop fetching videos."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(os.dup(writing), "w") as writer:
        stream = ThreadedStream(writer)
        assert not stream.isatty()
        for _ in range(3):
            stream.write("nobody hears\n")
        stream.flush()
        stream.close()
        os.close(writing)
        # What stays in the buffer would fail again when the file is closed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer.fileno())
    assert not stream._thread.is_alive()
    memory = io.StringIO()
    late = ThreadedStream(memory)
    late.write("heard\n")
    late.close()
    assert memory.getvalue() == "heard\n"


async def test_the_old_links_end_is_not_charged_to_the_new_one(
    store: Store, plant: Plant, gates: Gates, now: Now
) -> None:
    """A link that came while the old one was refused is tried at once, with a clean slate."""
    await plant("a", State.WANTED, link="https://files.example.com/old.mp4")
    bell = Bell()
    tried: list[str | None] = []

    async def step(task: Task) -> Task:
        tried.append(task.link)
        if len(tried) == 1:
            fresh = Tidings(
                task_id="a",
                cause=Cause.LINKED,
                now=now(),
                deadline_at=now() + HOUR,
                ask_at=None,
                link="https://files.example.com/new.mp4",
            )
            await store.receive([fresh])
            raise Refused(Reason.LINK_REFUSED, "HTTP 403")
        forever: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
        return await forever

    loops = start_worker(store, gates, now, bell, step)
    async with asyncio.timeout(5):
        while len(tried) < 2:
            bell.ring()
            await asyncio.sleep(0.01)
    task = await store.task("a")
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    assert tried == ["https://files.example.com/old.mp4", "https://files.example.com/new.mp4"]
    assert task is not None
    assert (task.state, task.refusals, task.refusal_proofs, task.reason) == ("wanted", 0, 0, None)


async def test_a_stored_film_has_no_trouble_left(
    make_downloader: Callable[..., Downloader], plant: Plant, disk: Disk, tmp_path: Path
) -> None:
    """A disk that was in the way for a while is forgotten once the file is in place."""
    content = b"verified"
    disk.partial(name_partial("a")).write_bytes(content)
    task = await plant(
        "a",
        State.VERIFIED,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        path=str(tmp_path / "videos" / "video_a.mp4"),
        reason="disk",
        message="no room",
    )
    stored = await make_downloader().publish(task)
    assert (stored.state, stored.reason, stored.message) == ("stored", None, None)
