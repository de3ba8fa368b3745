"""Where a story plays: a simulated provider, daemons, and what is to be seen on the stage.

Rule: the stage only starts, asks and looks; a story decides what must hold.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from daemon.outbound import post_session
from daemon.simulator.provider import SimulatorOptions
from daemon.simulator.simulator import Simulator
from tests.stories.harness import API_KEY, Daemon, Section, configure

FILM_BYTES: Final = 200_000


class Stage:
    """Where one story plays: a provider and daemons that end with it."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack

    async def provider(self, **options: Any) -> Simulator:
        """Start a simulated provider in this process; it ends with the story."""
        return await self._stack.enter_async_context(simulated_provider(**options))

    async def daemon(
        self,
        provider: Simulator | None,
        /,
        *,
        name: str = "daemon",
        expect_errors: bool = False,
        start: bool = True,
        **changes: Section,
    ) -> Daemon:
        """Make a daemon for `provider` (None: one that nobody answers for), and start it."""
        folder = self._folder / name
        folder.mkdir()
        base_url = provider.base_url if provider else "http://127.0.0.1:9"
        daemon = Daemon(folder, configure(base_url, **changes), expect_errors=expect_errors)
        self._stack.push_async_callback(asyncio.to_thread, daemon.end)
        if start:
            await asyncio.to_thread(daemon.start)
        return daemon


@asynccontextmanager
async def simulated_provider(**options: Any) -> AsyncIterator[Simulator]:
    """Run a provider whose callbacks are really posted, with small films and quick retries."""
    quick = {
        "api_key": API_KEY,
        "render_seconds": 0.0,
        "file_size_bytes": FILM_BYTES,
        "callback_retry_delays": (0.3, 0.3, 0.3),
    }
    async with post_session() as session:

        async def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
            async with session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as response:
                status: int = response.status
                return status

        simulator = Simulator(SimulatorOptions(**{**quick, **options}), post)
        async with simulator.serve():
            yield simulator


def success(task_id: str, link: str) -> dict[str, Any]:
    """Return the callback that says that a film was made."""
    data = {"task_id": task_id, "video_url": link}
    return {"code": 200, "msg": "MP4 generated successfully.", "data": data}


def failure(task_id: str, code: int = 500) -> dict[str, Any]:
    """Return the callback that says that no film was made."""
    return {"code": code, "msg": "it failed", "data": {"task_id": task_id, "video_url": None}}


def downloads(provider: Simulator, task_id: str) -> list[tuple[str, int]]:
    """Return path and first byte of every GET of a task's film, in order."""
    return [
        (asked.path, int((asked.range or "bytes=0-")[6:].partition("-")[0]))
        for asked in provider.requests
        if asked.path.startswith(f"/files/{task_id}") and asked.method == "GET"
    ]


def questions(provider: Simulator, task_id: str) -> int:
    """Return how often record-info was asked about a task."""
    return sum(
        asked.task_id == task_id and asked.path == "/api/v1/mp4/record-info"
        for asked in provider.requests
    )


def paths(provider: Simulator) -> Counter[str]:
    """Return how often each path was asked for."""
    return Counter(asked.path for asked in provider.requests)


def check_film(daemon: Daemon, provider: Simulator, task_id: str) -> None:
    """Assert that a finished file holds the true film's bytes, and nothing unfinished is left."""
    film = provider.tasks[task_id].film
    content = (daemon.videos / f"video_{task_id}.mp4").read_bytes()
    assert content == b"".join(film.read(0, film.size_bytes))
    assert not [path for path in daemon.videos.rglob("*") if path.match(f".partial/*{task_id}*")]


def moves(task: Mapping[str, Any]) -> list[str]:
    """Return the states that a task went through."""
    return [step["to"] for step in task["history"]]
