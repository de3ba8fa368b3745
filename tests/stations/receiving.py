"""Applications that are called back, for the tests of the courier."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class Application:
    """A receiver: it notes what it hears, and answers with `status` when `open` is set."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.heard: list[web.Request] = []
        self.bodies: list[Any] = []
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = 0
        self.most_waiting = 0

    async def answer(self, request: web.Request) -> web.Response:
        """Note one request."""
        self.heard.append(request)
        self.bodies.append(json.loads(await request.read()))
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            await self.open.wait()
        finally:
            self.waiting -= 1
        return web.Response(status=self.status, headers={"Location": self.url})

    @property
    def tasks(self) -> list[str]:
        """The tasks that it was told about, in order."""
        return [body["data"]["task_id"] for body in self.bodies]


@asynccontextmanager
async def serving() -> AsyncIterator[Application]:
    """Run an application on a free port."""
    application = Application()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", application.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        application.url = f"http://127.0.0.1:{runner.addresses[0][1]}/cb"
        yield application
    finally:
        await runner.cleanup()
