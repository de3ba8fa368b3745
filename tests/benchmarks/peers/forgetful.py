"""A peer: a bare aiohttp handler that parses a callback, stores nothing, and says 200."""

import json
import sys

from aiohttp import web


async def receive(request: web.Request) -> web.Response:
    """Answer as the samples of the provider's document do, without even a download."""
    json.loads(await request.read())
    return web.Response(body=b'{"status":"received"}', content_type="application/json")


def main(port: int) -> None:
    """Serve on a port of loopback."""
    app = web.Application()
    app.router.add_post("/video-callback/{token}", receive)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
