"""Hosts that lie, stall, drip and change their mind: played by a raw server, byte for byte."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from email.utils import formatdate

import pytest

from daemon.disk import Disk
from daemon.download import Downloader
from daemon.rules import speed
from daemon.rules.failure import Reason, Refused, Spoiled, StepFailed, Trouble
from daemon.rules.filename import name_partial
from daemon.rules.task import Task
from daemon.rules.transfer import OVERLAP_BYTES
from daemon.simulator.films import Film
from daemon.store import Store

FILM = b"".join(Film("raw", 200_000).read(0, 200_000))
HELD = 150_000
START = HELD - OVERLAP_BYTES
OTHER = b"".join(Film("another", 200_000).read(0, 200_000))

Make = Callable[..., Downloader]
Want = Callable[..., Awaitable[Task]]
Act = bytes | float


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = -1) -> bytes:
    """Write an answer; `length` None leaves the Content-Length out."""
    if length is not None:
        headers = (*headers, f"Content-Length: {len(body) if length < 0 else length}")
    head = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {status}\r\nConnection: close\r\n{head}\r\n".encode() + body


def part(
    content_range: str, *headers: str, body: bytes = FILM[START:], **more: int | None
) -> bytes:
    """Write a 206."""
    return answer(body, f"Content-Range: {content_range}", *headers, status="206 Partial", **more)


WHOLE = answer(FILM, 'ETag: "v"')
TRUE_RANGE = f"bytes {START}-199999/200000"


@asynccontextmanager
async def host(*answers: bytes | Sequence[Act]) -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """Serve `answers` in turn, the last one for ever; a number in one is a pause in seconds.

    Yields a link and the headers of the requests so far.
    """
    left, asked, visits = list(answers), list[dict[str, str]](), set[asyncio.Task[None]]()

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
            asked.append({name.lower(): value for name, value in (x.split(": ") for x in lines)})
            acts = left.pop(0) if len(left) > 1 else left[0]
            for act in [acts] if isinstance(acts, bytes) else acts:
                if isinstance(act, bytes):
                    writer.write(act)
                    await writer.drain()
                else:
                    await asyncio.sleep(act)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has left
        finally:
            writer.close()

    def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.add(asyncio.create_task(visit(reader, writer)))

    server = await asyncio.start_server(welcome, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.mp4", asked
    finally:
        server.close()
        for task in visits:
            task.cancel()
        await asyncio.gather(*visits, return_exceptions=True)


@pytest.fixture
def resume(want: Want, disk: Disk) -> Callable[[str], Awaitable[Task]]:
    """Begin a task whose first 150,000 of 200,000 bytes are on the disk, of version "v"."""

    async def begin(link: str) -> Task:
        disk.partial(name_partial("a")).write_bytes(FILM[:HELD])
        return await want(link, spans=f"0-{HELD}", size_bytes=len(FILM), validator='"v"')

    return begin


async def get(store: Store) -> Task:
    """Read the task."""
    task = await store.task("a")
    assert task is not None
    return task


def finished(disk: Disk) -> bytes:
    """Return what lies under the final name."""
    return (disk.directory / "video_a.mp4").read_bytes()


async def fetch(downloader: Downloader, task: Task) -> Task:
    """Fetch and publish."""
    return await downloader.publish(await downloader.fetch(task))


@pytest.mark.parametrize(
    "extra",
    [
        ('ETag: "v"',),
        (),
        ('ETag: "v"', "Transfer-Encoding: chunked"),
    ],
)
async def test_an_honest_part_is_taken(
    make_downloader: Make, resume: Want, disk: Disk, extra: tuple[str, ...]
) -> None:
    """With the same validator or none, with a length or with chunks."""
    reply = part(TRUE_RANGE, *extra)
    if "Transfer-Encoding: chunked" in extra:
        chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(FILM) - START, FILM[START:])
        reply = part(TRUE_RANGE, *extra, body=chunk, length=None)
    async with host(reply) as (link, asked):
        await fetch(make_downloader(), await resume(link))
    assert finished(disk) == FILM
    assert [(one["range"], one["if-range"]) for one in asked] == [(f"bytes={START}-", '"v"')]


async def test_a_slow_overlap_is_compared_piece_by_piece(
    make_downloader: Make, resume: Want, disk: Disk
) -> None:
    """A block that brings nothing new is no end."""
    reply = part(TRUE_RANGE)
    head = len(reply) - (len(FILM) - START)
    cut = head + 10_000
    async with host([reply[:head], 0.6, reply[head:cut], 0.6, reply[cut:]]) as (link, asked):
        await fetch(make_downloader(), await resume(link))
    assert finished(disk) == FILM
    assert len(asked) == 1


LIES = {
    "earlier start": part(f"bytes {START - 1}-199999/200000", body=FILM[START - 1 :]),
    "later start": part(f"bytes {START + 1}-199999/200000", body=FILM[START + 1 :]),
    "from zero": part("bytes 0-199999/200000", body=FILM),
    "early end": part(f"bytes {START}-199998/200000", body=FILM[START:-1]),
    "late end": part(f"bytes {START}-200000/200000"),
    "smaller total": part(f"bytes {START}-199998/199999", body=FILM[START:-1]),
    "larger total": part(f"bytes {START}-200000/200001", body=FILM[START:] + b"x"),
    "no total": part(f"bytes {START}-199999/*"),
    "no range": answer(FILM[START:], 'ETag: "v"', status="206 Partial"),
    "another unit": part(f"lines {START}-199999/200000"),
    "multipart": part(TRUE_RANGE, "Content-Type: multipart/byteranges; boundary=x"),
    "other length": part(TRUE_RANGE, body=FILM[START:-1]),
    "other version": part(TRUE_RANGE, 'ETag: "w"'),
    "other bytes": part(TRUE_RANGE, 'ETag: "v"', body=OTHER[START:]),
    "other version, whole": answer(OTHER, 'ETag: "w"'),
    "nothing there": answer(b"", "Content-Range: bytes */9", status="416 No"),
    "shorter and whole": answer(FILM[:120_000], 'ETag: "w"'),
}


@pytest.mark.parametrize("lie", [lie for lie in LIES if not lie.endswith("whole")])
async def test_a_part_that_does_not_continue_is_dropped(
    make_downloader: Make, resume: Want, disk: Disk, lie: str
) -> None:
    """Whatever is wrong with a 206, the file is fetched anew, as a whole, in the same attempt."""
    async with host(LIES[lie], WHOLE) as (link, asked):
        await fetch(make_downloader(), await resume(link))
    assert finished(disk) == FILM
    assert [one.get("range") for one in asked] == [f"bytes={START}-", None]


async def test_another_version_takes_the_place_of_the_old_one(
    make_downloader: Make, resume: Want, disk: Disk
) -> None:
    """A 200 to a range is the new file; not one byte of the old one stays."""
    async with host(LIES["other version, whole"]) as (link, asked):
        await fetch(make_downloader(), await resume(link))
    assert finished(disk) == OTHER
    assert len(asked) == 1


async def test_a_shorter_version_that_is_no_film_is_not_finished(
    make_downloader: Make, resume: Want, disk: Disk
) -> None:
    """The old bytes behind its end do not make it whole."""
    async with host(LIES["shorter and whole"]) as (link, _):
        with pytest.raises(Spoiled) as caught:
            await fetch(make_downloader(), await resume(link))
    assert caught.value.reason is Reason.TRUNCATED
    assert disk.partial(name_partial("a")).stat().st_size == 120_000


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (answer(FILM, "Content-Encoding: gzip"), Trouble),
        (part(TRUE_RANGE, "Content-Encoding: br"), Trouble),
        (part(TRUE_RANGE, length=len(FILM) - START, body=FILM[START:-9]), Trouble),
        (part(TRUE_RANGE, length=None, body=FILM[START:-9]), Trouble),
        (answer(b"", status="204 Nothing"), Trouble),
        (answer(b"", status="304 Same"), Trouble),
        (answer(b"", "Location: /a.mp4", status="302 There"), Refused),
        (answer(b"", status="410 Gone"), Refused),
        (answer(b"", "Content-Length: 99999999999999999999", length=None), Trouble),
        (b"garbage\r\n\r\n", Trouble),
        (b"", Trouble),
    ],
)
async def test_a_bad_moment_keeps_the_bytes(
    make_downloader: Make, resume: Want, store: Store, reply: bytes, failure: type[StepFailed]
) -> None:
    """What is on the disk stays, recorded, with its validator; the next attempt goes on there."""
    async with host(reply) as (link, _):
        task = await resume(link)
        with pytest.raises(failure):
            await make_downloader().fetch(task)
    kept = await get(store)
    assert kept.validator == '"v"'
    assert int(kept.spans.removeprefix("0-")) >= HELD


@pytest.mark.parametrize(
    "reply", [part("bytes 0-199999/200000", body=FILM), answer(b"", status="416 No")]
)
async def test_an_answer_to_a_question_that_nobody_asked_is_not_taken(
    make_downloader: Make, want: Want, store: Store, reply: bytes
) -> None:
    """A 206 without a Range in the request is refused, however whole it looks."""
    async with host(reply) as (link, asked):
        with pytest.raises(Trouble):
            await make_downloader().fetch(await want(link))
    assert "range" not in asked[0]
    assert (await get(store)).spans == ""


async def test_a_body_that_goes_on_behind_its_total_is_never_finished(
    make_downloader: Make, resume: Want, disk: Disk
) -> None:
    """Chunks may bring more than Content-Range announced; that is no file that anybody knows."""
    body = FILM[START:] + b"more" * 1000
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    reply = part(TRUE_RANGE, "Transfer-Encoding: chunked", body=chunked, length=None)
    async with host(reply) as (link, _):
        with pytest.raises(StepFailed):
            await fetch(make_downloader(), await resume(link))
    assert not (disk.directory / "video_a.mp4").exists()


async def test_an_old_enough_date_is_a_validator_too(
    make_downloader: Make, want: Want, disk: Disk, store: Store
) -> None:
    """Without any ETag, a Last-Modified a minute older than the answer carries the resumption."""
    modified = f"Last-Modified: {formatdate(1_700_000_000, usegmt=True)}"
    date = f"Date: {formatdate(1_700_000_060, usegmt=True)}"
    first: list[Act] = [answer(FILM, modified, date)[:-50_000], 0.1]
    async with host(first, part(TRUE_RANGE, modified, date)) as (link, asked):
        with pytest.raises(Trouble):
            await make_downloader().fetch(await want(link))
        await fetch(make_downloader(), await get(store))
    assert finished(disk) == FILM
    assert asked[1]["if-range"] == modified.removeprefix("Last-Modified: ")


async def test_a_total_that_a_question_told_must_hold(
    make_downloader: Make, want: Want, disk: Disk
) -> None:
    """No length, and the probe says another total than the body has: it is no whole file."""
    for total, failure in ((199_000, Spoiled), (201_000, Trouble)):
        one = part(f"bytes 0-0/{total}", body=FILM[:1])
        async with host(answer(FILM, length=None), one) as (link, asked):
            with pytest.raises(failure):
                await fetch(make_downloader(), await want(link, task_id=f"t{total}"))
        assert asked[1]["range"] == "bytes=0-0"
    assert [path.name for path in disk.directory.iterdir()] == [".partial"]


async def test_a_host_that_serves_another_file_every_time_is_left_alone(
    make_downloader: Make, want: Want, store: Store
) -> None:
    """Two fresh starts in one attempt, then a pause as after any other trouble."""
    films = [b"".join(Film(str(n), 200_000).read(0, 200_000)) for n in range(9)]
    async with host(*(answer(film, length=None) for film in films)) as (link, asked):
        with pytest.raises(Trouble, match="another version at every request"):
            await make_downloader().fetch(await want(link))
    assert len(asked) == 9
    assert (await get(store)).spans == ""


@pytest.mark.parametrize("first_bytes", [1, 7])
async def test_a_film_that_begins_slowly_is_still_a_film(
    make_downloader: Make, want: Want, disk: Disk, first_bytes: int
) -> None:
    """The first packet may hold less than a box header."""
    cut = len(WHOLE) - len(FILM) + first_bytes
    async with host([WHOLE[:cut], 0.6, WHOLE[cut:]]) as (link, _):
        await fetch(make_downloader(), await want(link))
    assert finished(disk) == FILM


async def test_silence_is_a_stall_and_keeps_what_came(
    make_downloader: Make, want: Want, store: Store
) -> None:
    """Nothing for `stall_timeout` ends the attempt, with what came before on the disk."""
    async with host([WHOLE[:-100_000], 30.0]) as (link, _):
        downloader = make_downloader(stall_timeout=timedelta(seconds=0.3))
        with pytest.raises(Trouble) as caught:
            await downloader.fetch(await want(link))
    assert caught.value.reason is Reason.STALLED
    assert (await get(store)).spans == "0-100000"


async def test_a_drip_is_a_stall_too(make_downloader: Make, want: Want, store: Store) -> None:
    """Slower than `min_speed` for `min_speed_time`, although something always comes."""
    drip: list[Act] = [WHOLE[:1000]]
    for start in range(1000, 6000, 100):
        drip += [0.05, WHOLE[start : start + 100]]
    async with host(drip) as (link, _):
        downloader = make_downloader(min_speed=8192, min_speed_time=timedelta(seconds=0.5))
        with pytest.raises(Trouble, match=r"only \d+ bytes a second") as caught:
            await downloader.fetch(await want(link))
    assert caught.value.reason is Reason.STALLED
    assert (await get(store)).spans.startswith("0-")


async def test_a_host_that_would_take_days_is_left_for_another_time(
    make_downloader: Make, want: Want, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fast enough never to stall, too slow to hold a worker for ever; the bytes are kept."""
    monkeypatch.setattr(speed, "PATIENCE_SECONDS", 0.6)
    steps: list[Act] = []
    for start in range(0, len(WHOLE), 2_000):
        steps += [WHOLE[start : start + 2_000], 0.05]
    async with host(steps) as (link, _):
        with pytest.raises(Trouble, match=r"\d+ bytes in \d+ minutes") as caught:
            await make_downloader().fetch(await want(link))
    assert caught.value.reason is Reason.STALLED
    assert (await get(store)).spans.startswith("0-")


async def test_a_steady_host_above_the_limit_may_take_its_time(
    make_downloader: Make, want: Want, disk: Disk
) -> None:
    """The limit is a speed, measured anew in every window; it is no time limit."""
    steps: list[Act] = []
    for start in range(0, len(WHOLE), 20_000):
        steps += [WHOLE[start : start + 20_000], 0.06]
    async with host(steps) as (link, _):
        downloader = make_downloader(min_speed=50_000, min_speed_time=timedelta(seconds=0.2))
        await fetch(downloader, await want(link))
    assert finished(disk) == FILM


async def test_a_file_that_is_too_large_is_not_begun(
    make_downloader: Make, want: Want, disk: Disk
) -> None:
    """By its length nothing is written; and it is tried again late, for only the owner mends it."""
    async with host(WHOLE) as (link, _):
        with pytest.raises(Trouble) as caught:
            await make_downloader(max_size=199_999).fetch(await want(link))
    assert (caught.value.reason, caught.value.retry_after) == (Reason.TOO_LARGE, 3600)
    assert disk.partial(name_partial("a")).stat().st_size == 0


async def test_a_file_that_grows_too_large_is_stopped_and_tried_late(
    make_downloader: Make, want: Want, disk: Disk
) -> None:
    """Without a length the limit is met under way, and the next try is an hour off as well."""
    chunks = b"".join(
        b"4e20\r\n%s\r\n" % FILM[start : start + 20_000] for start in range(0, 200_000, 20_000)
    )
    reply = answer(chunks + b"0\r\n\r\n", "Transfer-Encoding: chunked", length=None)
    async with host(reply) as (link, _):
        with pytest.raises(Trouble) as caught:
            await make_downloader(max_size=150_000).fetch(await want(link))
    assert (caught.value.reason, caught.value.retry_after) == (Reason.TOO_LARGE, 3600)
    assert disk.partial(name_partial("a")).stat().st_size <= 150_000
