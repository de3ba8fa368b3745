"""File hosts that play by a script, on loopback: what they send, when, and what they heard.

Rule: a script ends when its guest leaves, however endless it is.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from daemon.config.sections import Download
from daemon.disk import Disk
from daemon.download import Downloader
from daemon.gates import Gates
from daemon.outbound import file_session, get_file, read_chunk
from daemon.rules.address import AddressPolicy
from daemon.rules.lifecycle import Cause
from daemon.rules.task import Task, Tidings
from daemon.store import open_store

LOOPBACK: Final = AddressPolicy(allow_http=True, allow_private=(ip_network("127.0.0.1/32"),))
NOW: Final = 1_790_000_000_000


@dataclass(frozen=True)
class Endless:
    """A piece that is sent again and again, with a pause between."""

    piece: bytes
    pause_seconds: float = 0.0


Act = bytes | float | Endless
"""Bytes to send, seconds to wait, or something without an end."""


@asynccontextmanager
async def host(
    *answers: bytes | Sequence[Act], heard: list[bytes] | None = None
) -> AsyncIterator[int]:
    """Serve `answers` in turn, the last one for ever; yield the port."""
    left, visits = list(answers), set[asyncio.Task[None]]()

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await reader.readuntil(b"\r\n\r\n")
            if heard is not None:
                heard.append(asked)
            script = left.pop(0) if len(left) > 1 else left[0]
            for act in [script] if isinstance(script, bytes) else script:
                await perform(act, writer)
            writer.close()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()

    def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.add(asyncio.create_task(visit(reader, writer)))

    server = await asyncio.start_server(welcome, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in visits:
            task.cancel()
        await asyncio.gather(*visits)


async def perform(act: Act, writer: asyncio.StreamWriter) -> None:
    """Play one act."""
    if isinstance(act, float):
        await asyncio.sleep(act)
        return
    while True:
        writer.write(act if isinstance(act, bytes) else act.piece)
        await writer.drain()
        if isinstance(act, bytes):
            return
        await asyncio.sleep(act.pause_seconds)


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """Write an answer; `length` None tells the truth, -1 nothing."""
    told = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", *headers, *([f"Content-Length: {told}"] if told >= 0 else [])]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


async def fetch(port: int, path: str = "/a.mp4", patience_seconds: float = 0.5) -> bytes:
    """Get a whole file through the guard."""
    body = b""
    async with (
        file_session(lambda: LOOPBACK, patience_seconds, patience_seconds, 1) as session,
        get_file(session, f"http://127.0.0.1:{port}{path}", LOOPBACK, {}) as response,
    ):
        while chunk := await read_chunk(response, patience_seconds):
            body += chunk
    return body


@dataclass
class Shop:
    """A downloader with a ledger and a folder of its own."""

    downloader: Downloader
    disk: Disk
    task: Task

    @property
    def names(self) -> list[str]:
        """What stands under finished names."""
        folder = self.disk.directory
        return sorted(path.name for path in folder.iterdir() if path.is_file())


@asynccontextmanager
async def shop(folder: Path, port: int, **changes: Any) -> AsyncIterator[Shop]:
    """Take a task whose link leads to `port`; `changes` are keys of `[download]`."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(folder / "state"))
        disk = Disk(folder / "videos", workers=2, file_mode=0o640, directory_mode=0o750)
        stack.callback(disk.close)
        await disk.prepare()
        link = f"http://127.0.0.1:{port}/a.mp4"
        linked = Tidings(
            task_id="a", cause=Cause.LINKED, now=NOW, deadline_at=2 * NOW, ask_at=None, link=link
        )
        await store.receive([linked])
        task = await store.claim("a", NOW)
        assert task is not None
        section = Download(
            directory=disk.directory, **{"stall_timeout": timedelta(seconds=2), **changes}
        )
        session = await stack.enter_async_context(file_session(lambda: LOOPBACK, 2, 2, 1))
        downloader = Downloader(
            *(store, session, lambda: LOOPBACK, disk, Gates(lambda: NOW, lambda *_: None)),
            section=lambda: section,
            min_free_bytes=lambda: 0,
            now=lambda: NOW,
        )
        yield Shop(downloader, disk, task)
