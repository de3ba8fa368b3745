"""The peer of a benchmark: an aiohttp handler that parses a callback, stores nothing, says 200."""

import json

from aiohttp import web


async def receive(request: web.Request) -> web.Response:
    """Answer as the samples of the provider's document do, without even a download."""
    json.loads(await request.read())
    return web.Response(body=b'{"status":"received"}', content_type="application/json")


def main() -> None:
    """Serve on a free port of loopback and print which one."""
    app = web.Application()
    app.router.add_post("/video-callback/{token}", receive)
    web.run_app(app, host="127.0.0.1", port=0, access_log=None)


if __name__ == "__main__":
    main()
