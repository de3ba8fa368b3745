"""Videos and pictures over HTTP: whole, in parts, and only those of the ledger."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from daemon.rules.lifecycle import State
from tests.dashboard.scene import CLIPS, JPEG, TOKEN, Scene, see

pytestmark = pytest.mark.asyncio(loop_scope="module")
FILM = (CLIPS / "faststart.mp4").read_bytes()
TAG = f'"{"5e" * 32}"'


async def test_a_film_comes_whole_with_what_a_player_needs(scene: Scene) -> None:
    """Type, length, and that parts may be asked for; HEAD says the same without a body."""
    await scene.film("one")
    whole = await see(scene, "/v1/tasks/one/video")
    assert (whole.status, whole.body) == (200, FILM)
    head = await see(scene, "/v1/tasks/one/video", "HEAD")
    assert (head.status, head.body) == (200, b"")
    for name in ("Content-Type", "Content-Length", "Accept-Ranges", "Etag", "Content-Disposition"):
        assert head.headers[name] == whole.headers[name]
    assert whole.headers["Content-Type"] == "video/mp4"
    assert whole.headers["Content-Length"] == str(len(FILM))
    assert whole.headers["Content-Disposition"] == 'inline; filename="video_one.mp4"'


@pytest.mark.parametrize(
    ("headers", "status", "first", "end"),
    [
        ({"Range": "bytes=0-99"}, 206, 0, 100),
        ({"Range": "bytes=1000-"}, 206, 1000, len(FILM)),
        ({"Range": "bytes=-7"}, 206, len(FILM) - 7, len(FILM)),
        ({"Range": "bytes=5-1"}, 200, 0, len(FILM)),
        ({"Range": "bytes=0-1,4-5"}, 200, 0, len(FILM)),
        ({"Range": "bytes=0-99", "If-Range": TAG}, 206, 0, 100),
        ({"Range": "bytes=0-99", "If-Range": '"another"'}, 200, 0, len(FILM)),
        (
            {"Range": "bytes=0-99", "If-Range": "Sun, 22 Nov 2026 08:00:00 GMT"},
            200,
            0,
            len(FILM),
        ),
        ({"Range": f"bytes={len(FILM)}-"}, 416, 0, 0),
        ({"If-None-Match": TAG}, 304, 0, 0),
    ],
)
async def test_parts_are_right_to_the_byte(
    scene: Scene, headers: dict[str, str], status: int, first: int, end: int
) -> None:
    """A part of another file than the asker has is never sent."""
    await scene.film("one")
    heard = await see(scene, "/v1/tasks/one/video", **headers)
    assert heard.status == status
    assert heard.body == FILM[first:end]
    if status == 206:
        assert heard.headers["Content-Range"] == f"bytes {first}-{end - 1}/{len(FILM)}"
    if status == 416:
        assert heard.headers["Content-Range"] == f"bytes */{len(FILM)}"


async def test_a_picture_is_a_jpeg_or_not_there(scene: Scene) -> None:
    """Whatever else has its name is not sent."""
    await scene.film("one", picture=True)
    await scene.film("two")
    heard = await see(scene, "/v1/tasks/one/thumbnail")
    assert (heard.status, heard.body) == (200, JPEG)
    assert heard.headers["Content-Type"] == "image/jpeg"
    assert (await see(scene, "/v1/tasks/two/thumbnail")).status == 404
    picture = scene.disk.directory / "video_two.jpg"
    await asyncio.to_thread(picture.write_bytes, b"<svg onload=alert(1)>")
    assert (await see(scene, "/v1/tasks/two/thumbnail")).status == 404


async def _link(scene: Scene, path: Path) -> None:
    secret = scene.disk.directory.parent / "secret.mp4"
    await asyncio.to_thread(secret.write_bytes, FILM)
    await asyncio.to_thread(path.unlink)
    await asyncio.to_thread(os.symlink, secret, path)


async def test_what_is_not_in_place_is_not_there(scene: Scene) -> None:
    """A link, another size, another folder, another state, an unknown id: all the same 404."""
    for name in ("linked", "cut", "elsewhere", "gone"):
        await scene.film(name)
    await _link(scene, scene.disk.directory / "video_linked.mp4")
    await asyncio.to_thread((scene.disk.directory / "video_cut.mp4").write_bytes, FILM[:-1])
    outside = scene.disk.directory.parent / "video_elsewhere.mp4"
    await asyncio.to_thread(outside.write_bytes, FILM)
    await scene.change("elsewhere", path=str(outside))
    await asyncio.to_thread((scene.disk.directory / "video_gone.mp4").unlink)
    await scene.film("early")
    await scene.change("early", state=State.VERIFIED)
    for name in ("linked", "cut", "elsewhere", "gone", "early", "nobody"):
        for what in ("video", "thumbnail"):
            heard = await see(scene, f"/v1/tasks/{name}/{what}")
            assert heard.status == 404, (name, what)
            assert FILM[:20] not in heard.body


async def test_who_hangs_up_in_the_middle_leaves_nothing_behind(scene: Scene) -> None:
    """A player that seeks does that all the time: no error, and no file is kept open."""
    await scene.film("big")
    path = scene.disk.directory / "video_big.mp4"
    await asyncio.to_thread(os.truncate, path, 64 << 20)
    await scene.change("big", size_bytes=64 << 20)
    host, _, port = scene.url.removeprefix("http://").partition(":")
    for _ in range(5):
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = ["GET /v1/tasks/big/video HTTP/1.1", f"Host: {host}:{port}"]
        lines += [f"Authorization: Bearer {TOKEN}", "", ""]
        writer.write("\r\n".join(lines).encode())
        assert (await reader.readline()).split()[1] == b"200"
        writer.transport.abort()

    def holds() -> bool:
        found = Path("/proc/self/fd").iterdir()
        return any(str(path) == os.path.realpath(one) for one in found)

    until = time.monotonic() + 5
    while await asyncio.to_thread(holds):
        assert time.monotonic() < until, "the file is still open"
        await asyncio.sleep(0.02)
    assert (await see(scene, "/healthz")).status == 200
