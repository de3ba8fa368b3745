"""S1-10: what a hostile file host, or a broken API, may send before we leave."""

import asyncio
import gzip
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from daemon.outbound import api_session, read_answer
from daemon.rules.failure import Reason, StepFailed, Trouble
from daemon.rules.transfer import Changed, Request, read_head
from daemon.simulator.films import Film
from tests.security.hosts import Act, Endless, answer, fetch, host, shop

FILM = b"".join(Film("raw", 200_000).read(0, 200_000))
MIB = 1 << 20
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "script",
    [
        [HEAD, Endless(b"X-More: " + b"y" * 1000 + b"\r\n")],
        [HEAD + b"X-More: y\r\n" * 5000 + b"\r\n"],
        [HEAD + b"X: y\r\n" * 129 + b"\r\n"],
        [HEAD + b"X-Long: " + b"y" * 9000 + b"\r\n\r\n"],
        [HEAD + b"X" * 9000 + b": y\r\n\r\n"],
        [b"HTTP/1.1 200 " + b"O" * 9000 + b"\r\n\r\n"],
        [HEAD + b"X: ", Endless(b"y" * 1000)],
        [Endless(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")],
        [HEAD, Endless(b"X: y\r\n", 0.05)],
    ],
    ids=[
        *("endless", "5000", "129", "long-value", "long-name", "long-reason"),
        *("no-end", "hints", "dribble"),
    ],
)
async def test_s1_10_the_head_of_an_answer_has_limits(script: Sequence[Act]) -> None:
    """Number, length, informational answers and time: each has an end, and none takes memory."""
    tracemalloc.start()
    try:
        async with host(script) as port:
            with pytest.raises(Trouble):
                await asyncio.wait_for(fetch(port, patience_seconds=0.3), 5)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 * MIB


async def test_s1_10_a_head_within_the_limits_is_read() -> None:
    """A CDN sends some dozen headers, and long ones."""
    head = HEAD + b"X: y\r\n" * 100 + b"X-Long: " + b"y" * 8000 + b"\r\nContent-Length: 4\r\n\r\n"
    async with host(head + b"film") as port:
        assert await fetch(port) == b"film"


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "identity, gzip", "x"])
async def test_s1_10_a_compressed_film_is_refused_unread(tmp_path: Path, encoding: str) -> None:
    """Nothing of it is unpacked, and nothing of it is written."""
    async with (
        host(answer(gzip.compress(FILM), f"Content-Encoding: {encoding}")) as port,
        shop(tmp_path, port) as at,
    ):
        with pytest.raises(Trouble, match="compressed"):
            await at.downloader.fetch(at.task)
        assert at.names == []


@pytest.mark.parametrize(
    ("body", "length"), [(FILM, 200_001), (FILM[:-1], 200_000), (FILM, 199_999), (FILM, 8)]
)
async def test_s1_10_a_false_length_publishes_nothing(
    tmp_path: Path, body: bytes, length: int
) -> None:
    """Longer or shorter than what comes: neither is a film."""
    async with host(answer(body, length=length)) as port, shop(tmp_path, port) as at:
        with pytest.raises(StepFailed):
            await at.downloader.publish(await at.downloader.fetch(at.task))
        assert at.names == []


@pytest.mark.parametrize(
    "content_range",
    [
        *("bytes 0-199999/200000", "bytes 101-199999/200000", "bytes 100-199998/200000"),
        *("bytes 100-199999/*", "bytes 100-199999/200001", "bytes 199999-100/200000"),
        *("bytes=100-199999/200000", "octets 100-199999/200000", "", "bytes 100-9/200000"),
    ],
)
def test_s1_10_a_part_that_was_not_asked_for_is_not_taken(content_range: str) -> None:
    """Only the range that was asked for, of the file that is known, continues it."""
    asked = Request(100, '"v"', 200_000)
    headers = {"etag": '"v"', "content-range": content_range}
    with pytest.raises(Changed):
        read_head(206, headers, asked, now=0, max_bytes=MIB)
    headers["content-range"] = "bytes 100-199999/200000"
    assert read_head(206, headers, asked, now=0, max_bytes=MIB).start == 100


@pytest.mark.parametrize(
    "status", [100, 201, 202, 203, 204, 205, 206, 226, 300, 304, 305, 306, 400, 404, 500]
)
def test_s1_10_no_other_status_than_200_brings_a_film(status: int) -> None:
    """Not even a 206, when no part was asked for."""
    headers = {"content-range": "bytes 0-9/10", "content-length": "10"}
    with pytest.raises(StepFailed):
        read_head(status, headers, Request(0, None, None), now=0, max_bytes=MIB)


async def test_s1_10_an_endless_body_ends_at_max_size(tmp_path: Path) -> None:
    """It names no length, so its bytes are counted; those beyond the limit stay off the disk."""
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    endless = Endless(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
    film = b"30d40\r\n" + FILM + b"\r\n"
    async with host([head + film, endless]) as port, shop(tmp_path, port, max_size=MIB) as at:
        with pytest.raises(Trouble) as caught:
            await asyncio.wait_for(at.downloader.fetch(at.task), 20)
        assert at.names == []
        written = sum(path.stat().st_size for path in at.disk.directory.rglob("*.part"))
    assert caught.value.reason is Reason.TOO_LARGE
    assert written <= MIB


async def test_s1_10_a_length_beyond_max_size_is_not_begun(tmp_path: Path) -> None:
    """The announcement is enough."""
    async with host(answer(FILM)) as port, shop(tmp_path, port, max_size=199_999) as at:
        with pytest.raises(Trouble) as caught:
            await at.downloader.fetch(at.task)
    assert caught.value.reason is Reason.TOO_LARGE


async def test_s1_10_a_dribble_below_min_speed_is_left(tmp_path: Path) -> None:
    """Something always comes, so nothing is ever silent; the average is what ends it."""
    changes = {"min_speed": 8192, "min_speed_time": timedelta(seconds=0.4)}
    head = HEAD + b"Content-Length: 200000\r\n\r\n" + FILM[:1000]
    async with (
        host([head, Endless(b"\0" * 20, 0.02)]) as port,
        shop(tmp_path, port, **changes) as at,
    ):
        with pytest.raises(Trouble, match="bytes a second") as caught:
            await asyncio.wait_for(at.downloader.fetch(at.task), 10)
    assert caught.value.reason is Reason.STALLED


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(bytes(256 * MIB), 9),
        gzip.compress(gzip.compress(bytes(64 * MIB))),
        gzip.compress(b"") * 20_000 + gzip.compress(bytes(2 * MIB)),
    ],
    ids=["flood", "in-itself", "empty-members"],
)
async def test_s1_10_a_bomb_of_the_api_is_read_to_a_mebibyte(body: bytes) -> None:
    """The API's answers are unpacked, so the limit counts what comes out (S3-05)."""
    async with (
        host(answer(body, "Content-Encoding: gzip")) as port,
        api_session(f"http://127.0.0.1:{port}/", lambda: None, 10) as session,
    ):
        tracemalloc.start()
        try:
            with suppress(Trouble):
                assert len(await read_answer(await session.get("a"))) <= MIB
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak_bytes < 16 * MIB


async def test_s1_10_the_head_of_the_apis_answer_has_limits_too() -> None:
    """The operator's own host may be broken, or somebody else's by now."""
    async with (
        host(HEAD + b"X: y\r\n" * 5000 + b"\r\n") as port,
        api_session(f"http://127.0.0.1:{port}/", lambda: None, 5) as session,
    ):
        with pytest.raises(Exception, match="Too many") as caught:
            await session.get("a")
    assert type(caught.value).__module__.startswith("aiohttp")
