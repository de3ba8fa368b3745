"""A provider in a box on a free port, and the questions that its tests ask it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import msgspec

from daemon.simulator.films import Film
from daemon.simulator.provider import Kind, SimulatorOptions
from daemon.simulator.simulator import Simulator

KINDS: tuple[Kind, ...] = ("sunoapi", "apibox", "kie")
FAST = SimulatorOptions(
    api_key="key",
    render_seconds=0,
    callback_timeout_seconds=3.0,
    callback_retry_delays=(0.05, 0.05, 0.05),
    # Longer than the place where the scenarios cut and stall.
    file_size_bytes=1_200_000,
)
KEY = {"Authorization": "Bearer key"}
NOWHERE = "https://callback.invalid/none"
TRACK = {"taskId": "music", "audioId": "5c4d6f6e-0f3a-4a53-9d0e-d1b9dc9a0bd2"}


async def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """Send a callback as the service does."""
    async with aiohttp.request(
        "POST", url, data=body, headers=headers, allow_redirects=False
    ) as response:
        return response.status


@asynccontextmanager
async def simulate(kind: Kind = "sunoapi", **changes: Any) -> AsyncIterator[Simulator]:
    """Run a fast provider of one kind."""
    simulator = Simulator(replace(FAST, kind=kind, **changes), post)
    async with simulator.serve():
        yield simulator


async def call(
    simulator: Simulator,
    path: str,
    body: object = None,
    headers: Mapping[str, str] = KEY,
) -> tuple[int, Any]:
    """Call the API: a POST when there is a body. Returns the HTTP status and the JSON."""
    method, data = ("GET", None) if body is None else ("POST", msgspec.json.encode(body))
    async with aiohttp.request(
        method, simulator.base_url + path, data=data, headers=headers
    ) as response:
        return response.status, await response.json(content_type=None)


async def generate(simulator: Simulator, **fields: object) -> Any:
    """Submit a generation and return the whole envelope."""
    body = {**TRACK, "callBackUrl": NOWHERE, **fields}
    status, answer = await call(simulator, "/api/v1/mp4/generate", body)
    assert status == 200
    return answer


async def ask(simulator: Simulator, task_id: str) -> Any:
    """Ask record-info and return the whole envelope."""
    return (await call(simulator, f"/api/v1/mp4/record-info?taskId={task_id}"))[1]


async def become_true(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError


class Download:
    """What one request brought: everything until the body ended or broke."""

    status = 0
    headers: Mapping[str, str]
    body = b""
    broken: type[Exception] | None = None


async def fetch(
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    patience_seconds: float = 5.0,
    **body: Any,
) -> Download:
    """Download without a belief: what went wrong is noted, the bytes so far are kept.

    `body` is `data` or `json`, as aiohttp has it.
    """
    download = Download()
    timeout = aiohttp.ClientTimeout(sock_read=patience_seconds)
    async with aiohttp.request(
        method, url, headers=headers, allow_redirects=False, timeout=timeout, **body
    ) as response:
        download.status = response.status
        download.headers = response.headers
        try:
            async for block in response.content.iter_any():
                download.body += block
        except (aiohttp.ClientError, TimeoutError) as error:
            download.broken = type(error)
    return download


def read_all(film: Film) -> bytes:
    """Return a whole film."""
    return b"".join(film.read(0, film.size_bytes))
