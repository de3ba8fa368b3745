"""A real admin listener on a unix socket that sends the events that a test gives it.

Rule: it speaks as the daemon does, over real sockets, and the test decides what it says; the tasks
are those that were put into it.
"""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from daemon.rules.lifecycle import State

MIB = 1 << 20


def make_task(task_id: str, state: str = "expected", **fields: object) -> dict[str, Any]:
    """Return a task as the admin API shows it."""
    unknown = dict.fromkeys(
        ("label", "reason", "message", "path", "size_bytes", "forgotten_at", "stored_at")
    )
    return {
        **unknown,
        "task_id": task_id,
        "state": state,
        "received_bytes": 0,
        "unconfirmed": False,
        "created_at": "2026-11-22T08:00:00.000Z",
        "deadline_at": "2099-01-01T00:00:00.000Z",
        "next_attempt_at": "2026-11-22T09:00:00.000Z",
        "history": [],
        **fields,
    }


class Station:
    """The admin listener; its methods may be called from any thread."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.tasks: dict[str, dict[str, Any]] = {}
        self.gates: list[dict[str, str]] = []
        self.looks = 0
        self._readers: set[asyncio.Queue[str | None]] = set()
        self._listening = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen."""
        ready = threading.Event()
        self._listening.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)))
        self._thread.start()
        assert ready.wait(10)

    def stop(self) -> None:
        """Hang up on everybody."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(10)
            assert not self._thread.is_alive()
            self._thread = None

    def wait(self) -> None:
        """Wait until somebody listens to the events."""
        assert self._listening.wait(20)

    def say(self, event: str, **fields: object) -> None:
        """Send an event to everybody who listens."""
        stamp = {"timestamp": "2026-11-22T08:00:00.000000Z", "level": "info", "event": event}
        text = f"event: {event}\r\ndata: {json.dumps({**stamp, **fields})}\r\n\r\n"
        self.send(text)

    def send(self, text: str) -> None:
        """Send a text as it is."""
        for queue in list(self._readers):
            self._loop.call_soon_threadsafe(queue.put_nowait, text)

    def put(self, task: dict[str, Any]) -> None:
        """Put a task into the ledger, and say nothing."""
        self.tasks[task["task_id"]] = task

    def move(self, task_id: str, state: str, **fields: object) -> None:
        """Move a task, and say so."""
        before = self.tasks[task_id]["state"]
        self.tasks[task_id] = {**self.tasks[task_id], "state": state, **fields}
        moved = {"from": before, "to": state, "cause": "linked", "reason": None}
        self.say("task.moved", task_id=task_id, **moved)

    def progress(self, task_id: str, received: int, total: int | None, speed: int) -> None:
        """Say how far a download is."""
        numbers = {"received_bytes": received, "size_bytes": total, "bytes_per_second": speed}
        self.say("download.progress", task_id=task_id, **numbers)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_get("/v1/events", self._events)
        app.router.add_get("/v1/status", self._status)
        app.router.add_get("/v1/tasks", self._page)
        app.router.add_get("/v1/tasks/{task_id}", self._task)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(self.socket)).start()
        ready.set()
        await self._end.wait()
        for queue in self._readers:
            queue.put_nowait(None)
        await runner.cleanup()
        self.socket.unlink(missing_ok=True)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._readers.add(queue)
        self._listening.set()
        try:
            await response.write(b": hello\r\n\r\n")
            while (text := await queue.get()) is not None:
                await response.write(text.encode())
        except ConnectionError:
            pass
        finally:
            self._readers.discard(queue)
        return response

    async def _status(self, _: web.Request) -> web.Response:
        self.looks += 1
        counts = {state.value: 0 for state in State}
        for task in self.tasks.values():
            counts[task["state"]] += 1
        return web.json_response({"counts": counts, "gates": self.gates})

    async def _page(self, request: web.Request) -> web.Response:
        states = request.query.getall("state", list(State))
        found = [task for task in self.tasks.values() if task["state"] in states]
        return web.json_response({"tasks": found[: int(request.query["limit"])], "next": None})

    async def _task(self, request: web.Request) -> web.Response:
        task = self.tasks.get(request.match_info["task_id"])
        if task is None:
            error = {"code": "unknown_task", "message": "the ledger has no such task"}
            return web.json_response({"error": error}, status=404)
        return web.json_response(task)


@contextmanager
def station(folder: Path) -> Iterator[Station]:
    """Run a listener, where a configuration in `folder` names its socket."""
    found = Station(folder / "admin.sock")
    (folder / "config.toml").write_text(f'[admin]\nsocket = "{found.socket}"\n')
    found.start()
    try:
        yield found
    finally:
        found.stop()
