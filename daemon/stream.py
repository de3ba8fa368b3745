"""Lets people look on: the log's lines and the progress of downloads as server-sent events.

Rule: only what happens from now on is sent; who comes, or comes back, reads the status first. A
reader that takes nothing for half a minute is let go.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from contextlib import suppress
from typing import Final

from aiohttp import ClientConnectionResetError, web
from aiohttp_sse import EventSourceResponse

from daemon.asking import problem
from daemon.broadcast import LISTENERS_LIMIT, Broadcast

QUIET_SECONDS: Final = 15.0
SEND_SECONDS: Final = 30.0


def stream_routes(broadcast: Broadcast) -> list[web.RouteDef]:
    """Return the path of the stream."""

    async def stream(request: web.Request) -> web.StreamResponse:
        return await _stream(request, broadcast)

    return [web.get("/v1/events", stream, allow_head=False)]


async def _stream(request: web.Request, broadcast: Broadcast) -> web.StreamResponse:
    """Send news until the reader leaves or the daemon stops."""
    if broadcast.is_full:
        refused = problem(503, "crowded", f"{LISTENERS_LIMIT} read the events already: try later")
        refused.headers["Retry-After"] = "30"
        return refused
    response = EventSourceResponse(send_timeout=SEND_SECONDS, ping_interval=QUIET_SECONDS)
    # The library's own word is no-cache, and whoever set one first is right.
    response.headers["Cache-Control"] = "no-store"
    with suppress(ClientConnectionResetError, TimeoutError), broadcast.listen() as listener:
        # Somebody may be gone before he is answered.
        await response.prepare(request)
        async with response:
            # At once: from here on a reader misses nothing.
            await response.write(b": listening\r\n\r\n")
            while news := await listener.take():
                for event, line in news:
                    await response.send(line, event=event)
    return response
