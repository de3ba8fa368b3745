"""The callbacks of the simulated provider: sent, tried again three times, given up.

Rule: every delivery belongs to one `CallbackSender` and ends with it at the latest.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp import hdrs

from daemon.rules.failure import StepFailed
from daemon.rules.notice import sign
from daemon.simulator.faults import Callback
from daemon.simulator.provider import CODE_OK, SimulatedTask, SimulatorOptions, callback_body

Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[int]]
"""Sends a POST (URL, body, headers) without following redirects and returns the HTTP status."""

_REMEMBERED: Final = 10_000


class CallbackAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One sending of a callback; `status` is None when no answer came in time."""

    at: float
    task_id: str
    url: str
    attempt: int
    status: int | None


class CallbackSender:
    """Sends the callbacks of finished tasks; `attempts` are the newest, with their answers."""

    def __init__(self, options: SimulatorOptions, post: Post) -> None:
        self.attempts: deque[CallbackAttempt] = deque(maxlen=_REMEMBERED)
        self._options = options
        self._post = post
        self._deliveries: set[asyncio.Task[None]] = set()

    def schedule(self, task: SimulatedTask) -> None:
        """Send the callbacks of `task` when it completes, each with its own retries."""
        # A name below .invalid never resolves (RFC 6761, 6.4): a client that only polls sends one.
        host = urlsplit(task.callback_url).hostname
        if host is None or host.endswith(".invalid"):
            return
        for callback in task.faults.callbacks:
            delivery = asyncio.create_task(self._deliver(task, callback))
            self._deliveries.add(delivery)
            delivery.add_done_callback(self._retire)

    async def close(self) -> None:
        """End what is still to be sent; an error that no provider would make is raised here."""
        for delivery in self._deliveries:
            delivery.cancel()
        for ending in await asyncio.gather(*self._deliveries, return_exceptions=True):
            if isinstance(ending, Exception):
                raise ending

    def _retire(self, delivery: asyncio.Task[None]) -> None:
        if delivery.cancelled() or delivery.exception() is None:
            self._deliveries.discard(delivery)

    async def _deliver(self, task: SimulatedTask, callback: Callback) -> None:
        await asyncio.sleep(task.completes_at + callback.after_seconds - time.time())
        delays = (0.0, *self._options.callback_retry_delays)
        for attempt, delay_seconds in enumerate(delays, start=1):
            await asyncio.sleep(delay_seconds)
            status = await self._send(task, callback)
            self.attempts.append(
                CallbackAttempt(
                    at=time.time(),
                    task_id=task.task_id,
                    url=task.callback_url,
                    attempt=attempt,
                    status=status,
                )
            )
            if status == CODE_OK:
                return

    async def _send(self, task: SimulatedTask, callback: Callback) -> int | None:
        options = self._options
        headers: dict[str, str] = {hdrs.CONTENT_TYPE: "application/json"}
        if options.hmac_key is not None and callback.signed:
            timestamp = int(time.time())
            headers["X-Webhook-Timestamp"] = str(timestamp)
            headers["X-Webhook-Signature"] = sign(options.hmac_key, task.task_id, timestamp)
        body = callback_body(options.kind, task, callback)
        try:
            async with asyncio.timeout(options.callback_timeout_seconds):
                return await self._post(task.callback_url, body, headers)
        except (OSError, aiohttp.ClientError, StepFailed):
            return None
