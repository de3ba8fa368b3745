"""The simulated file host, asked through real sockets."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import aiohttp
import pytest

from daemon.simulator.faults import Faults, FileFault
from daemon.simulator.files import parse_range
from daemon.simulator.films import Film
from daemon.simulator.simulator import Simulator
from tests.simulator.asking import ask, fetch, read_all, simulate

SIZE = 300_000


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """Run a provider with files of 300,000 bytes."""
    async with simulate(file_size_bytes=SIZE) as simulator:
        yield simulator


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", range(1)),
        ("bytes=10-19", range(10, 20)),
        ("BYTES=10-19", range(10, 20)),
        ("bytes=90-", range(90, 100)),
        ("bytes=90-1000", range(90, 100)),
        ("bytes=-10", range(90, 100)),
        ("bytes=-1000", range(100)),
        ("bytes=-0", range(0)),
        ("bytes=100-", range(0)),
        ("bytes=100-200", range(0)),
        ("bytes=20-10", None),
        ("BYTES=-", None),
        ("bytes=a-b", None),
        ("bytes=0-1,5-6", None),
        ("items=0-1", None),
    ],
)
def test_range_header_is_read_as_rfc_9110_says(header: str | None, expected: range | None) -> None:
    """Single, open and suffix ranges are honoured; what cannot be read is ignored."""
    assert parse_range(header, 100) == expected


async def test_whole_film_comes_with_its_headers(simulator: Simulator) -> None:
    """A plain GET gives the true bytes, their length, a strong ETag and a date."""
    task = simulator.tasks[simulator.add_task()]
    download = await fetch(task.video_url)
    assert download.status == 200
    assert hashlib.sha256(download.body).hexdigest() == task.film.sha256()
    assert download.headers["Content-Length"] == str(SIZE)
    assert download.headers["Content-Type"] == "video/mp4"
    assert download.headers["Accept-Ranges"] == "bytes"
    assert download.headers["ETag"] == task.film.etag
    assert download.headers["ETag"].startswith('"')
    assert download.headers["Last-Modified"].endswith(" GMT")


async def test_head_has_the_headers_and_no_body(simulator: Simulator) -> None:
    """HEAD says what GET would, ignores Range and uses up no fault."""
    faults = Faults(files=(FileFault(etag=None),))
    task = simulator.tasks[simulator.add_task(faults)]
    head = await fetch(task.video_url, {"Range": "bytes=0-9"}, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(SIZE)
    assert "ETag" not in head.headers
    assert "ETag" not in (await fetch(task.video_url)).headers
    assert "ETag" in (await fetch(task.video_url, method="HEAD")).headers


async def test_part_of_a_film_is_206(simulator: Simulator) -> None:
    """A range gives exactly its bytes and says where they belong."""
    task = simulator.tasks[simulator.add_task()]
    part = await fetch(task.video_url, {"Range": "bytes=100000-199999"})
    assert part.status == 206
    assert part.headers["Content-Range"] == f"bytes 100000-199999/{SIZE}"
    assert part.headers["Content-Length"] == "100000"
    assert part.body == read_all(task.film)[100_000:200_000]


async def test_range_behind_the_end_is_416(simulator: Simulator) -> None:
    """A range without a byte is refused with the true length."""
    task = simulator.tasks[simulator.add_task()]
    refusal = await fetch(task.video_url, {"Range": f"bytes={SIZE}-"})
    assert (refusal.status, refusal.body) == (416, b"")
    assert refusal.headers["Content-Range"] == f"bytes */{SIZE}"


async def test_if_range_guards_the_range(simulator: Simulator) -> None:
    """Only the present strong ETag or date lets a range through, else the whole film comes."""
    task = simulator.tasks[simulator.add_task()]
    modified = (await fetch(task.video_url, method="HEAD")).headers["Last-Modified"]
    statuses = [
        (await fetch(task.video_url, {"Range": "bytes=5-", "If-Range": validator})).status
        for validator in (
            task.film.etag,
            modified,
            '"other"',
            f"W/{task.film.etag}",
            "Thu, 01 Jan 1970 00:00:00 GMT",
        )
    ]
    assert statuses == [206, 206, 200, 200, 200]


async def test_weak_etag_never_lets_a_range_through(simulator: Simulator) -> None:
    """If-Range compares strongly: an equal weak ETag gets the whole film."""
    faults = Faults(files=(FileFault(etag='W/"1"', lasts="always"),))
    task = simulator.tasks[simulator.add_task(faults)]
    headers = {"Range": "bytes=5-", "If-Range": 'W/"1"'}
    whole = await fetch(task.video_url, headers)
    assert (whole.status, whole.headers["ETag"]) == (200, 'W/"1"')


async def test_download_is_cut_once_and_resumes(simulator: Simulator) -> None:
    """A cut ends the body early, is not used up by a probe, and the rest can be fetched after."""
    faults = Faults(files=(FileFault(cut_after_bytes=100_000),))
    task = simulator.tasks[simulator.add_task(faults)]
    assert (await fetch(task.video_url, {"Range": "bytes=0-0"})).broken is None
    cut = await fetch(task.video_url)
    assert cut.broken is aiohttp.ClientPayloadError
    assert len(cut.body) == 100_000
    rest = await fetch(task.video_url, {"Range": "bytes=100000-", "If-Range": task.film.etag})
    assert rest.broken is None
    assert cut.body + rest.body == read_all(task.film)


async def test_cut_can_be_a_reset(simulator: Simulator) -> None:
    """A reset is an error of the connection, not an early end of it."""
    faults = Faults(files=(FileFault(cut_after_bytes=100_000, reset=True, framing="close"),))
    task = simulator.tasks[simulator.add_task(faults)]
    reader, writer = await asyncio.open_connection(*_address(simulator))
    writer.write(f"GET {_path(task.video_url)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


@pytest.mark.parametrize("cut_after", [None, 100_000])
async def test_body_without_length_ends_with_its_connection(
    simulator: Simulator, cut_after: int | None
) -> None:
    """With framing "close" a whole film and half of one end in the same way."""
    faults = Faults(files=(FileFault(framing="close", cut_after_bytes=cut_after),))
    task = simulator.tasks[simulator.add_task(faults)]
    download = await fetch(task.video_url)
    assert download.headers.keys().isdisjoint({"Content-Length", "Transfer-Encoding"})
    assert download.headers["Connection"] == "close"
    assert download.broken is None
    assert download.body == read_all(task.film)[:cut_after]


async def test_chunked_body_shows_its_end(simulator: Simulator) -> None:
    """Chunks name no length, but a cut inside them shows."""
    faults = Faults(
        files=(FileFault(framing="chunked", cut_after_bytes=9), FileFault(framing="chunked"))
    )
    task = simulator.tasks[simulator.add_task(faults)]
    assert (await fetch(task.video_url)).broken is aiohttp.ClientPayloadError
    whole = await fetch(task.video_url)
    assert "Content-Length" not in whole.headers
    assert whole.headers["Transfer-Encoding"] == "chunked"
    assert whole.body == read_all(task.film)


async def test_download_falls_silent(simulator: Simulator) -> None:
    """A stall sends what comes before it, then nothing, and keeps the connection."""
    faults = Faults(files=(FileFault(stall_after_bytes=100_000),))
    task = simulator.tasks[simulator.add_task(faults)]
    stalled = await fetch(task.video_url, patience_seconds=0.3)
    assert stalled.broken is not None
    assert issubclass(stalled.broken, TimeoutError)
    assert len(stalled.body) == 100_000
    assert len((await fetch(task.video_url)).body) == SIZE


async def test_stalled_download_ends_with_its_client(simulator: Simulator) -> None:
    """A client that gave up leaves nothing running behind."""
    before = asyncio.all_tasks()
    faults = Faults(files=(FileFault(stall_after_bytes=10),))
    await fetch(simulator.tasks[simulator.add_task(faults)].video_url, patience_seconds=0.1)
    for _ in range(100):
        if asyncio.all_tasks() <= before:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the download still runs")


async def test_download_is_slow(simulator: Simulator) -> None:
    """A pace is held: 300,000 bytes at a million a second take about 0.3 seconds."""
    faults = Faults(files=(FileFault(bytes_per_second=1_000_000),))
    task = simulator.tasks[simulator.add_task(faults)]
    clock = asyncio.get_running_loop().time
    began = clock()
    slow = await fetch(task.video_url)
    assert 0.25 < clock() - began < 2.0
    assert len(slow.body) == SIZE


async def test_one_byte_is_damaged(simulator: Simulator) -> None:
    """A flipped byte is at its place in the file, whatever range it is fetched by."""
    faults = Faults(files=(FileFault(flip_at_byte=150_000, lasts=2),))
    task = simulator.tasks[simulator.add_task(faults)]
    truth = read_all(task.film)
    whole = (await fetch(task.video_url)).body
    assert [at for at in range(SIZE) if whole[at] != truth[at]] == [150_000]
    part = (await fetch(task.video_url, {"Range": "bytes=149999-150001"})).body
    assert [a != b for a, b in zip(part, truth[149_999:150_002], strict=True)] == [
        False,
        True,
        False,
    ]
    assert (await fetch(task.video_url)).body == truth


@pytest.mark.parametrize("length", [0, 1_000])
async def test_file_that_is_still_being_written_is_short(simulator: Simulator, length: int) -> None:
    """A short file, or an empty one, is served as if it were whole."""
    faults = Faults(files=(FileFault(truncate_to_bytes=length),))
    task = simulator.tasks[simulator.add_task(faults)]
    short = await fetch(task.video_url)
    assert (short.status, short.broken) == (200, None)
    assert short.headers["Content-Length"] == str(length)
    assert short.body == read_all(task.film)[:length]


async def test_html_page_instead_of_a_film(simulator: Simulator) -> None:
    """An error page comes with status 200."""
    task = simulator.tasks[simulator.add_task(Faults(files=(FileFault(html=True),)))]
    page = await fetch(task.video_url)
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html")
    assert page.body.startswith(b"<!doctype html>")


async def test_other_film_has_another_etag(simulator: Simulator) -> None:
    """A file that was made anew changes under the same link, and If-Range notices."""
    faults = Faults(files=(FileFault(), FileFault(other_film=True)))
    task = simulator.tasks[simulator.add_task(faults)]
    first = await fetch(task.video_url)
    headers = {"Range": "bytes=5-", "If-Range": first.headers["ETag"]}
    second = await fetch(task.video_url, headers)
    assert second.status == 200
    assert second.headers["ETag"] != first.headers["ETag"]
    assert len(second.body) == SIZE
    assert second.body != first.body


async def test_ranges_can_be_ignored(simulator: Simulator) -> None:
    """A host without ranges sends the whole film whatever is asked."""
    faults = Faults(files=(FileFault(ignore_ranges=True),))
    task = simulator.tasks[simulator.add_task(faults)]
    whole = await fetch(task.video_url, {"Range": "bytes=5-9"})
    assert (whole.status, len(whole.body)) == (200, SIZE)


async def test_redirect_and_refusals_come_in_turn(simulator: Simulator) -> None:
    """Faults of a file follow one another, each for its number of downloads, then all is well."""
    faults = Faults(
        files=(
            FileFault(status=503, retry_after="7", lasts=2),
            FileFault(redirect_to="?again"),
            FileFault(status=404),
        )
    )
    task = simulator.tasks[simulator.add_task(faults)]
    downloads = [await fetch(task.video_url) for _ in range(5)]
    assert [download.status for download in downloads] == [503, 503, 302, 404, 200]
    assert [download.headers.get("Retry-After") for download in downloads[:3]] == ["7", "7", None]
    assert downloads[2].headers["Location"] == "?again"


async def test_expired_link_is_renewed_by_asking(simulator: Simulator) -> None:
    """A dead link stays dead; record-info gives a new path once it was refused, not before."""
    faults = Faults(files=(FileFault(status=403, lasts="renewed"), FileFault(status=500)))
    task_id = simulator.add_task(faults)

    async def ask_link() -> str:
        return str((await ask(simulator, task_id))["data"]["response"]["videoUrl"])

    old = await ask_link()
    assert await ask_link() == old == f"{simulator.base_url}/files/{task_id}.mp4"
    assert [(await fetch(old)).status for _ in range(3)] == [403, 403, 403]
    new = await ask_link()
    assert new == f"{simulator.base_url}/files/{task_id}-2.mp4"
    assert [(await fetch(url)).status for url in (old, new, new, old)] == [403, 500, 200, 403]
    assert await ask_link() == new


async def test_unknown_unfinished_and_outlived_files_are_404(simulator: Simulator) -> None:
    """There is a file from the end of the generation until the retention ends, and no other."""
    base = f"{simulator.base_url}/files/"
    task_id = simulator.add_task(finished=False)
    task = simulator.tasks[task_id]
    for name in ("0" * 32, "x", f"{task_id}-2", f"{task_id}-0", f"{task_id}-x", task_id):
        assert (await fetch(f"{base}{name}.mp4")).status == 404
    simulator.finish(task_id)
    assert (await fetch(task.video_url, method="HEAD")).status == 200
    task.completes_at -= simulator.options.retention_seconds
    assert (await fetch(task.video_url)).status == 404


async def test_task_may_have_a_film_of_its_own(simulator: Simulator) -> None:
    """A test chooses size and layout of one film."""
    film = Film("mine", 400_000, "moov_last")
    task = simulator.tasks[simulator.add_task(film=film)]
    assert (await fetch(task.video_url)).body == read_all(film)


def _address(simulator: Simulator) -> tuple[str, int]:
    host, port = simulator.base_url.removeprefix("http://").split(":")
    return host, int(port)


def _path(url: str) -> str:
    return "/" + url.split("/", 3)[3]
