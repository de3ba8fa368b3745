"""The public listener: one path, one method, one token; 200 only after the commit.

Rule: what was answered with 200 is on the disk. Callbacks that wait at the same time are committed
together, in one statement; a commit that fails or takes longer than 10 s is a 503, so that the
provider's retries still count. Bad input never gives a 5xx, and nothing redirects.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypeVar
from urllib.parse import unquote

import structlog
from aiohttp import web

from daemon.config.sections import Callback
from daemon.connections import hide_software, read_encoding
from daemon.logs import mask
from daemon.rules.forwarded import find_client
from daemon.rules.notice import Unreadable, check_signature, check_token, read_callback
from daemon.rules.redaction import escape_control
from daemon.rules.task import Held, Task, Tidings, Unread
from daemon.rules.verdict import judge_callback
from daemon.store import Store, StoreFailed, survive
from daemon.strikes import STRIKES_SECONDS, Strikes

BODY_LIMIT_BYTES: Final = 64 << 10
BODY_SECONDS: Final = 5.0
COMMIT_SECONDS: Final = 10.0
"""The provider hangs up after 15."""
BATCH_LIMIT: Final = 256

_CONTINUE: Final = "100-continue"
_RECEIVED: Final = b'{"status":"received"}'

T = TypeVar("T")
R = TypeVar("R")

_log = structlog.get_logger()


class _Lane(Generic[T, R]):
    """What waits for one kind of statement, and those who wait for its commit."""

    def __init__(self, commit: Callable[[Sequence[T]], Awaitable[list[R]]]) -> None:
        self._commit = commit
        self.waiting: list[tuple[T, asyncio.Future[R]]] = []

    async def empty(self) -> None:
        """Commit all that waits, a batch at a time."""
        while self.waiting:
            batch, self.waiting = self.waiting[:BATCH_LIMIT], self.waiting[BATCH_LIMIT:]
            try:
                rows = await self._commit([item for item, _ in batch])
            except StoreFailed as failure:
                for _, committed in batch:
                    if not committed.done():
                        committed.set_exception(failure)
                survive(failure)
                continue
            for (_, committed), row in zip(batch, rows, strict=True):
                if not committed.done():
                    committed.set_result(row)


class Intake:
    """Gathers callbacks that wait, and commits them together; likewise those nobody can read."""

    def __init__(self, store: Store) -> None:
        self._news: _Lane[Tidings, Task] = _Lane(store.receive)
        self._unread: _Lane[Unread, Held] = _Lane(store.quarantine.keep)
        self._arrived = asyncio.Event()

    async def commit(self, tidings: Tidings) -> Task:
        """Return the task's row once the callback is on the disk.

        Raises:
            StoreFailed: nothing was committed.
        """
        return await self._put(self._news, tidings)

    async def hold(self, unread: Unread) -> Held:
        """Return the row in quarantine once the body is on the disk.

        Raises:
            StoreFailed: nothing was committed.
        """
        return await self._put(self._unread, unread)

    async def _put(self, lane: _Lane[T, R], item: T) -> R:
        committed: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        lane.waiting.append((item, committed))
        self._arrived.set()
        return await committed

    async def run(self) -> None:
        """Commit for ever, all that waits at a time."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await self._news.empty()
            await self._unread.empty()


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """What the listener needs to know."""

    section: Callable[[], Callback]
    tokens: Callable[[], tuple[str, ...]]
    has_key: Callable[[], bool]
    retention_ms: Callable[[], int]
    intake: Intake
    now: Callable[[], int]
    ring: Callable[[], None]
    """Called when a question or a download may have become due."""
    strikes: Strikes = field(default_factory=lambda: Strikes(time.monotonic))


def callback_app(receiver: Receiver) -> web.Application:
    """Build the public application; run it with `public_runner`."""
    app = web.Application(client_max_size=BODY_LIMIT_BYTES)
    prefix = f"{receiver.section().path.rstrip('/')}/"

    async def answer(request: web.Request) -> web.Response:
        # As it was sent: a slash that is written %2F is none to the proxies that hide this path.
        path = request.rel_url.raw_path
        if not path.startswith(prefix):
            return _refuse(404)
        # A scope id of an address may hold anything.
        client = escape_control(
            find_client(
                request.remote or "",
                request.headers.getall("X-Forwarded-For", ()),
                receiver.section().trusted_proxies,
            )
        )
        if not check_token(unquote(path.removeprefix(prefix)), receiver.tokens()):
            if receiver.strikes.count(client):
                return _refuse(429, {"Retry-After": str(int(STRIKES_SECONDS))})
            _log.info("callback.rejected", remote=client, status=404, why="wrong token")
            return _refuse(404)
        if request.method != "POST":
            _log.info(
                "callback.rejected", remote=client, status=404, why=f"method {request.method[:10]}"
            )
            return _refuse(404)
        status = await _receive(request, receiver, client) if _expects_to_continue(request) else 417
        if status != 200:  # noqa: PLR2004 - HTTP OK
            return _refuse(status)
        return web.Response(body=_RECEIVED, content_type="application/json")

    app.router.add_route("*", "/{path:.*}", answer, expect_handler=_expect)
    app.on_response_prepare.append(hide_software)
    return app


async def _expect(request: web.Request) -> None:
    """Answer `Expect: 100-continue` (RFC 9110, 10.1.1); who may not enter hears of nothing else."""
    if request.headers.get("Expect", "").lower() == _CONTINUE:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _expects_to_continue(request: web.Request) -> bool:
    return request.headers.get("Expect", _CONTINUE).lower() == _CONTINUE


async def _receive(request: web.Request, receiver: Receiver, client: str) -> int:
    """Take a callback whose token is right; return the HTTP status."""
    encoding = read_encoding(request)
    if encoding != "identity":
        _log.warning(
            "callback.rejected", remote=client, status=415, why=f"Content-Encoding {encoding[:20]}"
        )
        return 415
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        _log.warning(
            "callback.rejected", remote=client, status=413, why=f"over {BODY_LIMIT_BYTES} bytes"
        )
        return 413
    except TimeoutError:
        _log.warning(
            "callback.rejected",
            remote=client,
            status=408,
            why=f"body slower than {BODY_SECONDS:g} s",
        )
        return 408
    except ConnectionError:
        # Nobody is there to read the answer; without this aiohttp would call it our error.
        _log.warning(
            "callback.rejected", remote=client, status=400, why="the sender hung up in mid-body"
        )
        return 400
    try:
        async with asyncio.timeout(COMMIT_SECONDS):
            return await _commit(request, receiver, body, client)
    except (StoreFailed, TimeoutError) as failure:
        why = str(failure) or f"no commit within {COMMIT_SECONDS:g} s"
        _log.error("callback.rejected", remote=client, status=503, why=why)
        return 503


async def _commit(request: web.Request, receiver: Receiver, body: bytes, client: str) -> int:
    now = receiver.now()
    try:
        notice, unreadable = read_callback(body), None
        notice = replace(notice, message=mask(notice.message))
        signed_id: str | None = notice.task_id
    except Unreadable as failure:
        notice, unreadable, signed_id = None, failure.why, failure.signed_id
    if not _is_genuine(request, receiver, signed_id, now):
        _log.warning("callback.rejected", remote=client, status=401, why="signature")
        return 401
    if notice is None:
        held = await receiver.intake.hold(
            Unread(
                body=body,
                why=unreadable or "",
                remote=client,
                # aiohttp lets any bytes through as surrogates, which no database can hold.
                content_type=escape_control(request.headers.get("Content-Type", "")[:200]),
                now=now,
            )
        )
        _log.warning(
            "callback.quarantined", id=held.id, why=held.why, copies=held.copies, remote=client
        )
        return 200
    tidings = judge_callback(
        notice,
        now,
        trusted=receiver.section().trust == "callback",
        has_key=receiver.has_key(),
        retention_ms=receiver.retention_ms(),
    )
    task = await receiver.intake.commit(tidings)
    receiver.ring()
    _log.info(
        "callback.received",
        task_id=task.task_id,
        code=notice.code,
        evidence=notice.evidence.name.lower(),
        copies=task.callbacks,
        state=task.state,
        remote=client,
    )
    return 200


def _is_genuine(request: web.Request, receiver: Receiver, task_id: str | None, now: int) -> bool:
    """With keys, a body without an id cannot be checked and is refused too."""
    keys = [key.reveal() for key in receiver.section().hmac_keys]
    if not keys:
        return True
    return task_id is not None and check_signature(
        keys,
        task_id,
        _only(request, "X-Webhook-Timestamp"),
        _only(request, "X-Webhook-Signature"),
        now / 1000,
    )


def _only(request: web.Request, name: str) -> str | None:
    """Return a header that came once: of two, nobody can say which one was meant."""
    values = request.headers.getall(name, ())
    return values[0] if len(values) == 1 else None


def _refuse(status: int, headers: dict[str, str] | None = None) -> web.Response:
    """One answer for everything that does not exist here: it tells a scanner nothing."""
    return web.Response(
        status=status,
        body=b'{"error":{"code":"%d","message":"refused"}}' % status,
        content_type="application/json",
        headers=headers,
    )
