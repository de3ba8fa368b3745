"""Sends a video or its picture to a browser, whole or in part.

Rule: no path comes from the request: the ledger says which name in the download folder it is, and
no link is followed to it. Whoever hangs up, hangs up: a player that seeks does that all the time.
"""

import os
import re
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from aiohttp import web

from daemon.disk import Disk
from daemon.folder import open_folder, open_to_read
from daemon.rules.byte_range import Unsatisfiable, cut
from daemon.rules.failure import Hindered
from daemon.rules.lifecycle import State
from daemon.rules.task import Task

PIECE_BYTES: Final = 256 << 10
"""So much is held for each reader who does not read on."""
IN_PLACE: Final = frozenset({State.STORED, State.DONE})
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._-]")
_JPEG: Final = b"\xff\xd8\xff"
_SANDBOX: Final = "sandbox; default-src 'none'; media-src 'self'; img-src 'self'"


def name_of(task: Task, disk: Disk) -> str | None:
    """Return the name that a task's video has in the download folder; None: it is not there."""
    if task.state not in IN_PLACE or task.path is None:
        return None
    path = Path(task.path)
    return path.name if path.parent == disk.directory else None


def picture_of(name: str) -> str:
    """Return the name of the picture beside a video."""
    return f"{name.removesuffix('.mp4')}.jpg"


@dataclass(slots=True)
class _Opened:
    """A file that is held open; kept here by the thread that opens it, so that none is lost."""

    file: BinaryIO | None = None
    size_bytes: int = 0
    tag: str = ""
    head: bytes = field(default=b"")

    def open(self, directory: Path, name: str) -> None:
        with open_folder(directory) as folder:
            descriptor = open_to_read(folder, name)
        if descriptor is None:
            return
        self.file = os.fdopen(descriptor, "rb", buffering=0)
        found = os.fstat(descriptor)
        self.size_bytes = found.st_size if stat.S_ISREG(found.st_mode) else 0
        self.tag = f"{found.st_mtime_ns:x}-{found.st_size:x}"
        self.head = os.pread(descriptor, len(_JPEG), 0)

    def close(self, disk: Disk) -> None:
        """Close it on a thread, for a dead mount may take its time."""
        if self.file is not None:
            try:
                disk.pool.submit(self.file.close)
            except RuntimeError:
                self.file.close()


@asynccontextmanager
async def _opening(disk: Disk, name: str) -> AsyncIterator[_Opened]:
    opened = _Opened()
    try:
        await disk.run(opened.open, disk.directory, name)
        yield opened
    finally:
        opened.close(disk)


async def send_video(
    request: web.Request, disk: Disk, task: Task, stopping: Callable[[], bool]
) -> web.StreamResponse | None:
    """Answer with a task's video; None: it is not in place.

    Raises:
        Hindered: our own disk failed.
    """
    name = name_of(task, disk)
    if name is None:
        return None
    async with _opening(disk, name) as opened:
        # Another size is another content than the one that was checked.
        if opened.file is None or opened.size_bytes != task.size_bytes:
            return None
        opened.tag = task.sha256 or opened.tag
        return await _send(request, disk, opened, "video/mp4", name, stopping)


async def send_picture(
    request: web.Request, disk: Disk, task: Task, stopping: Callable[[], bool]
) -> web.StreamResponse | None:
    """Answer with the picture beside a task's video; None: there is none.

    Raises:
        Hindered: our own disk failed.
    """
    name = name_of(task, disk)
    if name is None:
        return None
    async with _opening(disk, picture_of(name)) as opened:
        if opened.file is None or opened.head != _JPEG:
            return None
        return await _send(request, disk, opened, "image/jpeg", picture_of(name), stopping)


async def _send(
    request: web.Request,
    disk: Disk,
    opened: _Opened,
    content_type: str,
    name: str,
    stopping: Callable[[], bool],
) -> web.StreamResponse:
    tag, total = f'"{opened.tag}"', opened.size_bytes
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'inline; filename="{_FOREIGN.sub("_", name)}"',
        "Content-Security-Policy": _SANDBOX,
        "ETag": tag,
        "Content-Type": content_type,
    }
    if tag in map(str.strip, request.headers.get("If-None-Match", "").split(",")):
        return web.Response(status=304, headers={"ETag": tag})
    wanted: range | None = None
    # Of GET alone, and only of the very file that the asker has a part of (RFC 9110, 13.1.5).
    if request.method == "GET" and request.headers.get("If-Range", tag) == tag:
        try:
            wanted = cut(request.headers.get("Range"), total)
        except Unsatisfiable:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{total}"})
    part = range(total) if wanted is None else wanted
    response = web.StreamResponse(status=200 if wanted is None else 206, headers=headers)
    response.content_length = len(part)
    if wanted is not None:
        response.headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{total}"
    await response.prepare(request)
    if request.method == "GET":
        with suppress(ConnectionError):
            await _pour(request, response, disk, opened, part, stopping)
    return response


async def _pour(
    request: web.Request,
    response: web.StreamResponse,
    disk: Disk,
    opened: _Opened,
    part: range,
    stopping: Callable[[], bool],
) -> None:
    at = part.start
    assert opened.file is not None  # noqa: S101 - who calls has looked
    while at < part.stop:
        length = min(PIECE_BYTES, part.stop - at)
        piece = b""
        if not stopping():
            with suppress(Hindered):
                piece = await disk.run(os.pread, opened.file.fileno(), length, at)
        if not piece:
            # Less than was promised: the reader learns it by the end of the connection.
            if request.transport is not None:
                request.transport.abort()
            return
        await response.write(piece)
        at += len(piece)
