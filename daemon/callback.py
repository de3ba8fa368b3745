"""The public listener: one path, one method, one token; 200 only after the commit.

Rule: what was answered with 200 is on the disk. Callbacks that wait at the same time are committed
together, in one statement; a commit that fails or takes longer than 10 s is a 503, so that the
provider's retries still count. Bad input never gives a 5xx, and nothing redirects.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Generic, NamedTuple, TypeVar
from urllib.parse import unquote

import msgspec
import structlog
from aiohttp import web

from daemon.config.sections import Callback
from daemon.connections import (
    BODY_LIMIT_BYTES,
    SERVER,
    Prepared,
    PreparedResponse,
    invite,
    read_encoding,
)
from daemon.listeners import Handler
from daemon.logs import Rows, mask
from daemon.right_of_way import RightOfWay
from daemon.rules.forwarded import find_client
from daemon.rules.notice import Unreadable, check_signature, check_token, decode, read_callback
from daemon.rules.redaction import escape_control
from daemon.rules.rehearsal import HEADER, WRONG_TOKEN, read_nonce
from daemon.rules.schedule import HOUR
from daemon.rules.task import Held, Received, Tidings, Unread
from daemon.rules.verdict import judge_callback
from daemon.store import Store, StoreFailed, survive
from daemon.strikes import STRIKES_SECONDS, Strikes
from daemon.tally import Tallied
from daemon.turnstile import REFUSALS, Answered, Turnstile

BODY_SECONDS: Final = 5.0
COMMIT_SECONDS: Final = 10.0
"""The provider hangs up after 15."""
BATCH_LIMIT: Final = 256
QUIET_TURNS: Final = 5
"""From its first byte to its place in the batch a request takes four turns of the loop."""
GATHER_SECONDS: Final = 0.005

_CONTINUE: Final = "100-continue"
_parse_strict: Final = msgspec.json.Decoder().decode
_RECEIVED: Final = Prepared(b'{"status":"received"}')

T = TypeVar("T")
R = TypeVar("R")

_log = structlog.get_logger()


@dataclass(slots=True)
class _Waiting(Generic[T, R]):
    """Something that is to be committed, who waits for it, and until when."""

    item: T
    committed: asyncio.Future[R]
    until: float


class _Lane(Generic[T, R]):
    """What waits for one kind of statement, and those who wait for its commit."""

    def __init__(self, commit: Callable[[Sequence[T]], Awaitable[list[R]]]) -> None:
        self._commit = commit
        self._loop = asyncio.get_running_loop()
        self.waiting: list[_Waiting[T, R]] = []
        self._committing: list[_Waiting[T, R]] = []
        self._alarm: asyncio.TimerHandle | None = None

    def put(self, item: T) -> asyncio.Future[R]:
        """Return what has the row once it is on the disk, or fails with why it is not."""
        committed: asyncio.Future[R] = self._loop.create_future()
        until = self._loop.time() + COMMIT_SECONDS
        self.waiting.append(_Waiting(item, committed, until))
        if self._alarm is None:
            self._alarm = self._loop.call_at(until, self._send_away)
        return committed

    def oldest(self) -> float:
        """Return when the first came of those who wait; 0 when nobody does."""
        return self.waiting[0].until - COMMIT_SECONDS if self.waiting else 0.0

    async def commit_batch(self) -> None:
        """Commit what waits, as much as goes into one statement."""
        if not self.waiting:
            return
        batch = self._committing = self.waiting[:BATCH_LIMIT]
        del self.waiting[:BATCH_LIMIT]
        try:
            rows = await self._commit([one.item for one in batch])
        except StoreFailed as failure:
            for one in batch:
                if not one.committed.done():
                    one.committed.set_exception(failure)
            survive(failure)
            return
        finally:
            self._committing = []
        for one, row in zip(batch, rows, strict=True):
            if not one.committed.done():
                one.committed.set_result(row)

    def _send_away(self) -> None:
        """Let nobody wait for too long. One timer for all: each of its own costs more than a line.

        What they brought stays, and is committed all the same.
        """
        self._alarm = None
        now = self._loop.time()
        for one in [*self._committing, *self.waiting]:
            if one.committed.done():
                continue
            if one.until > now:
                # They stand in the order in which they came.
                self._alarm = self._loop.call_at(one.until, self._send_away)
                return
            one.committed.set_exception(TimeoutError(f"no commit within {COMMIT_SECONDS:g} s"))


class Heard(NamedTuple):
    """A callback that waits for its commit, and what the log is to say of it besides."""

    tidings: Tidings
    code: int | None = None
    evidence: str = "none"
    remote: str = ""


class Intake:
    """Gathers callbacks that wait, and commits them together; likewise those nobody can read."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._news: _Lane[Heard, Received] = _Lane(self._receive)
        self._unread: _Lane[Unread, Held] = _Lane(store.quarantine.keep)
        self._tests: _Lane[Tallied, Tallied] = _Lane(self._count_tests)
        self._arrived = asyncio.Event()
        self._free_since = 0.0

    async def commit(self, heard: Heard) -> Received:
        """Return what became of the task once the callback is on the disk, and in the log.

        Raises:
            StoreFailed: nothing was committed.
            TimeoutError: nothing was committed so far.
        """
        return await self._put(self._news, heard)

    async def hold(self, unread: Unread) -> Held:
        """Return the row in quarantine once the body is on the disk.

        Raises:
            StoreFailed: nothing was committed.
            TimeoutError: nothing was committed so far.
        """
        return await self._put(self._unread, unread)

    async def rehearse(self, test: Tallied) -> None:
        """Commit a row of the tally, on the way and in the time of a real callback.

        Raises:
            StoreFailed: nothing was committed.
            TimeoutError: nothing was committed so far.
        """
        await self._put(self._tests, test)

    async def _count_tests(self, tests: Sequence[Tallied]) -> list[Tallied]:
        await self._store.tally.add(tests)
        return [*tests]

    async def _put(self, lane: _Lane[T, R], item: T) -> R:
        committed = lane.put(item)
        self._arrived.set()
        return await committed

    async def _receive(self, batch: Sequence[Heard]) -> list[Received]:
        received = await self._store.receive([heard.tidings for heard in batch])
        _log.info(
            "callback.received",
            rows=Rows(
                {
                    "task_id": row.task_id,
                    "code": heard.code,
                    "evidence": heard.evidence,
                    "copies": row.callbacks,
                    "state": row.state,
                    "remote": heard.remote,
                }
                for heard, row in zip(batch, received, strict=True)
            ),
        )
        return received

    async def run(self) -> None:
        """Commit for ever, all that waits at a time."""
        while True:
            await self._arrived.wait()
            while self._news.waiting or self._unread.waiting or self._tests.waiting:
                await self._gather()
                await self._news.commit_batch()
                await self._unread.commit_batch()
                await self._tests.commit_batch()
                self._free_since = self._loop.time()
            self._arrived.clear()

    async def _gather(self) -> None:
        """Let those in who are at the door: return when some turns of the loop brought nobody.

        One commit for all is cheaper than two, and while one is made by the other thread, each row
        of it and each request here wait for the interpreter in turn.
        """
        quiet, count = 0, len(self._news.waiting)
        # Turns may be long, while films come in: who waited for one of those waits for no other.
        until = max(self._news.oldest(), self._free_since) + GATHER_SECONDS
        while quiet < QUIET_TURNS and count < BATCH_LIMIT and self._loop.time() < until:
            await asyncio.sleep(0)
            before, count = count, len(self._news.waiting)
            quiet = 0 if count > before else quiet + 1


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
    way: RightOfWay = field(default_factory=RightOfWay)
    """Who stands back for a callback."""
    strikes: Strikes = field(default_factory=lambda: Strikes(time.monotonic))
    turnstile: Turnstile = field(default_factory=lambda: Turnstile(lambda: time.time_ns() // 10**6))
    """Where every answer is counted."""


def callback_app(receiver: Receiver) -> Handler:
    """Build the public application, which is one handler; run it with `public_runner`."""
    prefix = f"{receiver.section().path.rstrip('/')}/"

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        # As it was sent: a slash that is written %2F is none to the proxies that hide this path.
        path = request.rel_url.raw_path
        # A scope id of an address may hold anything.
        client = escape_control(
            find_client(
                request.remote or "",
                request.headers.getall("X-Forwarded-For", ()),
                receiver.section().trusted_proxies,
            )
        )
        if not path.startswith(prefix):
            return _turn_away(Answered.WRONG_PATH, request, receiver, client)
        token = unquote(path.removeprefix(prefix))
        if not check_token(token, receiver.tokens()):
            if token.startswith(WRONG_TOKEN):
                # `doctor` looks who refuses it; whoever else does learns nothing by it.
                receiver.turnstile.count(Answered.TEST, client)
                return _refuse(404)
            if receiver.strikes.count(client):
                receiver.turnstile.count(Answered.LIMITED, client)
                _note(Answered.LIMITED, request, receiver, client)
                return _refuse(429, {"Retry-After": str(int(STRIKES_SECONDS))})
            _log.info("callback.rejected", remote=client, status=404, why="wrong token")
            return _turn_away(Answered.WRONG_TOKEN, request, receiver, client)
        if request.method != "POST":
            _log.info(
                "callback.rejected", remote=client, status=404, why=f"method {request.method[:10]}"
            )
            return _turn_away(Answered.WRONG_METHOD, request, receiver, client)
        expected = request.headers.get("Expect", _CONTINUE).lower()
        if expected != _CONTINUE:
            receiver.turnstile.count(Answered.MALFORMED, client)
            return _refuse(417)
        with receiver.way.taken():
            answered = await _receive(request, receiver, client)
        if answered is Answered.ACCEPTED:
            receiver.turnstile.count(answered, client)
            return PreparedResponse(_RECEIVED)
        # Its row is committed already, in place of a count.
        if answered is not Answered.TEST:
            receiver.turnstile.count(answered, client)
        _note(answered, request, receiver, client)
        status = REFUSALS.get(answered)
        return _refuse(status) if status else PreparedResponse(_RECEIVED)

    return answer


def _turn_away(
    cause: Answered, request: web.BaseRequest, receiver: Receiver, client: str
) -> web.Response:
    receiver.turnstile.count(cause, client)
    _note(cause, request, receiver, client)
    return _refuse(404)


def _note(cause: Answered, request: web.BaseRequest, receiver: Receiver, client: str) -> None:
    """Let `test-callback` learn what became of its request, also where it lost its way."""
    nonce = read_nonce(request.headers.get(HEADER))
    if nonce is not None:
        receiver.turnstile.note(nonce, cause, client, request.rel_url.raw_path)


async def _receive(request: web.BaseRequest, receiver: Receiver, client: str) -> Answered:
    """Take a callback whose token is right; return what became of it."""
    encoding = read_encoding(request)
    if encoding != "identity":
        _log.warning(
            "callback.rejected", remote=client, status=415, why=f"Content-Encoding {encoding[:20]}"
        )
        return Answered.ENCODED
    try:
        await invite(request)
        if request.content.is_eof() and request.content.total_bytes <= BODY_LIMIT_BYTES:
            # It came together with its headers, as nearly all do: nothing is left to wait for.
            body = request.content.read_nowait()
        else:
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        _log.warning(
            "callback.rejected", remote=client, status=413, why=f"over {BODY_LIMIT_BYTES} bytes"
        )
        return Answered.TOO_LARGE
    except TimeoutError:
        _log.warning(
            "callback.rejected",
            remote=client,
            status=408,
            why=f"body slower than {BODY_SECONDS:g} s",
        )
        return Answered.TOO_SLOW
    except ConnectionError:
        # Nobody is there to read the answer; without this aiohttp would call it our error.
        _log.warning(
            "callback.rejected", remote=client, status=400, why="the sender hung up in mid-body"
        )
        return Answered.CUT_OFF
    try:
        return await _commit(request, receiver, body, client)
    except (StoreFailed, TimeoutError) as failure:
        _log.error("callback.rejected", remote=client, status=503, why=str(failure))
        return Answered.NOT_STORED


def parse(body: bytes) -> object:
    """Read JSON as `decode` does, most of it six times as fast.

    What msgspec takes it reads alike. It takes no NaN, no byte order mark, no half of a surrogate
    pair, no byte that is no UTF-8, and none of these may cost a callback.
    """
    try:
        return _parse_strict(body)
    except ValueError:
        return decode(body)


async def _commit(
    request: web.BaseRequest, receiver: Receiver, body: bytes, client: str
) -> Answered:
    now, nonce = receiver.now(), None
    try:
        notice, unreadable = read_callback(body, parse), None
        if (masked := mask(notice.message)) != notice.message:
            notice = replace(notice, message=masked)
        signed_id: str | None = notice.task_id
    except Unreadable as failure:
        notice, unreadable, signed_id = None, failure.why, failure.signed_id
        nonce = failure.nonce
    if not _is_genuine(request, receiver, signed_id, now):
        _log.warning("callback.rejected", remote=client, status=401, why="signature")
        return Answered.BAD_SIGNATURE
    if nonce is not None:
        await receiver.intake.rehearse(Tallied(now // HOUR, Answered.TEST, 1, now, client))
        receiver.turnstile.note(nonce, Answered.TEST, client, request.rel_url.raw_path)
        _log.info("callback.tested", remote=client)
        return Answered.TEST
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
        return Answered.QUARANTINED
    tidings = judge_callback(
        notice,
        now,
        trusted=receiver.section().trust == "callback",
        has_key=receiver.has_key(),
        retention_ms=receiver.retention_ms(),
    )
    heard = Heard(tidings, notice.code, notice.evidence.name.lower(), client)
    await receiver.intake.commit(heard)
    receiver.ring()
    return Answered.ACCEPTED


def _is_genuine(
    request: web.BaseRequest, receiver: Receiver, task_id: str | None, now: int
) -> bool:
    """With keys, a body without an id cannot be checked and is refused too."""
    keys = receiver.section().hmac_keys
    if not keys:
        return True
    return task_id is not None and check_signature(
        [key.reveal() for key in keys],
        task_id,
        _only(request, "X-Webhook-Timestamp"),
        _only(request, "X-Webhook-Signature"),
        now / 1000,
    )


def _only(request: web.BaseRequest, name: str) -> str | None:
    """Return a header that came once: of two, nobody can say which one was meant."""
    values = request.headers.getall(name, ())
    return values[0] if len(values) == 1 else None


def _refuse(status: int, headers: dict[str, str] | None = None) -> web.Response:
    """One answer for everything that does not exist here: it tells a scanner nothing."""
    return web.Response(
        status=status,
        body=b'{"error":{"code":"%d","message":"refused"}}' % status,
        content_type="application/json",
        headers={"Server": SERVER, **(headers or {})},
    )
