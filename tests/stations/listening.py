"""The public listener over a real store and real sockets, for the tests of what it answers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from daemon.callback import Intake, Receiver, callback_app
from daemon.config.loader import load
from daemon.config.sections import TcpEndpoint
from daemon.listeners import close, listen, public_runner
from daemon.outbound import post_session
from daemon.right_of_way import RightOfWay
from daemon.store import Store, open_store
from daemon.turnstile import Turnstile

TOKEN = "a-token-of-this-test"
LINK = "https://files.example.com/v.mp4"
DAY_MS = 86_400_000


@dataclass
class Desk:
    """A listener that runs, and what it works with."""

    url: str
    store: Store
    rings: list[int]
    way: RightOfWay
    turnstile: Turnstile

    async def post(
        self,
        body: bytes | str | dict[str, object],
        *,
        path: str | None = None,
        method: str = "POST",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, str]:
        """Send a request; return status and body."""
        data = json.dumps(body) if isinstance(body, dict) else body
        url = self.url + (path or f"/video-callback/{TOKEN}")
        async with (
            post_session() as session,
            session.request(method, url, data=data, headers=headers) as response,
        ):
            assert response.headers["Server"] == "suno-videod"
            return response.status, await response.text()


@asynccontextmanager
async def open_desk(
    folder: Path, toml: str = "", *, has_key: bool = False, run_intake: bool = True
) -> AsyncIterator[Desk]:
    """Run the listener over a real store and real sockets."""
    path = folder / "config.toml"
    path.write_text(f'state_dir = "state"\n{toml}')
    config = load(path, {}).config
    async with open_store(config.state_dir) as store:
        rings: list[int] = []
        intake = Intake(store)
        receiver = Receiver(
            section=lambda: config.callback,
            tokens=lambda: (TOKEN, "the-older-token"),
            has_key=lambda: has_key,
            retention_ms=lambda: 14 * DAY_MS,
            intake=intake,
            now=lambda: time.time_ns() // 1_000_000,
            ring=lambda: rings.append(1),
        )
        runner = public_runner(callback_app(receiver))
        runner.door.connections.tell = receiver.turnstile.count
        url = await listen(runner, TcpEndpoint("127.0.0.1", 0), 0o660)
        loop = asyncio.create_task(intake.run()) if run_intake else None
        try:
            yield Desk(url, store, rings, receiver.way, receiver.turnstile)
        finally:
            await close([runner])
            if loop is not None:
                loop.cancel()


def success(task_id: str, link: str | None = LINK) -> dict[str, object]:
    """Return the body of a success callback."""
    return {"code": 200, "msg": "ok", "data": {"task_id": task_id, "video_url": link}}
