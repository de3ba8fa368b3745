"""Runs `doctor` and `test-callback`, and finds a line in what they say."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

from tests.stories.harness import Daemon, Ended, run_verb

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Findings:
    """What a verb found."""

    def __init__(self, code: int, told: dict[str, Any]) -> None:
        self.code = code
        self.told = told
        self.all: list[dict[str, Any]] = told["findings"]
        assert told["exit_code"] == code

    def of(self, check: str, verdict: str | None = None) -> dict[str, Any]:
        """Return the one finding of a check (with a verdict)."""
        (found,) = [
            one for one in self.all if one["check"] == check and verdict in {None, one["verdict"]}
        ]
        return found

    def bad(self) -> set[str]:
        """Return the checks that found a problem."""
        return {one["check"] for one in self.all if one["verdict"] == "problem"}

    def problem(self, check: str, measured: str, mend: str) -> None:
        """Assert that a check found a problem, in these words, and says how to mend it."""
        found = self.of(check, "problem")
        assert measured in found["measured"], found
        assert mend in found["mend"], found

    def warning(self, check: str, measured: str, mend: str) -> None:
        """Assert that a check gives a warning, in these words, and says what to do."""
        found = self.of(check, "warning")
        assert measured in found["measured"], found
        assert mend in found["mend"], found


async def examine(
    daemon: Daemon, *arguments: str, verb: str = "doctor", trust: str = ""
) -> Findings:
    """Run a verb beside the test's own loop; every problem and warning says what to do.

    `trust` is a file with the authorities that are trusted in place of the system's.
    """
    command = ("-c", str(daemon.config), verb, "--json", *arguments)

    def run() -> Ended:
        environ = {"SSL_CERT_FILE": trust} if trust else {}
        return run_verb(*command, seconds=60, cwd=None, stdin="", **environ)

    ended = await asyncio.to_thread(run)
    assert not ended.errors, ended
    found = Findings(ended.code, json.loads(ended.output))
    for one in found.all:
        assert bool(one["mend"]) == (one["verdict"] in {"problem", "warning"}), one
        assert one["measured"], one
    return found


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def public(port: int, scheme: str = "http", host: str = "127.0.0.1") -> dict[str, object]:
    """Return settings of a listener, and of a public URL that leads straight to it."""
    return {
        "listen": f"127.0.0.1:{port}",
        "public_url": f"{scheme}://{host}:{port}/video-callback",
    }


@asynccontextmanager
async def proxy(answer: Answer, port: int = 0) -> AsyncIterator[int]:
    """Listen as a proxy does, and answer with `answer`; yield the port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def hand_on(base_url: Callable[[], str], change: Callable[[str], str] = str) -> Answer:
    """Return a proxy that hands requests on, their path changed."""

    async def answer(request: web.Request) -> web.StreamResponse:
        async with aiohttp.request(
            request.method,
            base_url() + change(request.path),
            data=await request.read(),
            headers={key: value for key, value in request.headers.items() if key != "Host"},
            allow_redirects=False,
        ) as heard:
            return web.Response(status=heard.status, body=await heard.read())

    return answer
