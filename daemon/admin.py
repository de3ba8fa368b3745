"""The private listener: the JSON API behind the command line, on a unix socket and perhaps TCP.

Rule: handlers take and return Structs, and every error has one shape. The socket takes root and
our own user, by the kernel's word; TCP takes names that are its own (a foreign Host is a rebinding
attack) and, when configured, a token. Nothing of this is reachable through the public listener.
"""

import base64
import binascii
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from daemon.disk import Disk
from daemon.gates import Gates
from daemon.rules.failure import Hindered
from daemon.rules.lifecycle import State
from daemon.rules.notice import TASK_ID, check_token
from daemon.rules.verdict import Terms, judge_retry
from daemon.store import Store, StoreFailed
from daemon.views import (
    DiskView,
    HeldPage,
    Problem,
    ProblemView,
    Rejected,
    StatusView,
    TaskPage,
    Tracked,
    show_time,
    view_gate,
    view_held,
    view_history,
    view_task,
)

IDS_LIMIT: Final = 1_000
PAGE: Final = 100
PAGE_LIMIT: Final = 1_000
LABEL_LIMIT: Final = 200
BODY_LIMIT_BYTES: Final = 1 << 20

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Guard = Callable[[web.Request], web.Response | None]


class TrackRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tasks that somebody else submitted."""

    task_ids: list[str]
    label: str | None = None


class Refusal(Exception):
    """A request that cannot be granted; becomes the error's body."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.response = answer(ProblemView(Problem(code, message)), status)


@dataclass(slots=True, kw_only=True)
class Office:
    """What the handlers need to know."""

    store: Store
    gates: Gates
    disk: Disk
    min_free_bytes: int
    terms: Terms
    retention_ms: int
    now: Callable[[], int]
    ring: Callable[[], None]
    answered_at: Callable[[], int | None]
    credits_left: float | None = None
    stopping: bool = False

    def remember_credits(self, credits_left: float) -> None:
        """Keep the balance for the next who asks."""
        self.credits_left = credits_left

    async def healthz(self, _: web.Request) -> web.Response:
        """Return 200: the process is alive."""
        return answer({"status": "ok"})

    async def readyz(self, _: web.Request) -> web.Response:
        """Return 200, or 503 while the store cannot be written or we are stopping."""
        if self.stopping or not await self.store.writable():
            return _problem(503, "unavailable", "not ready")
        return answer({"status": "ok"})

    async def status(self, _: web.Request) -> web.Response:
        """Return how it stands."""
        oldest_at, deadline_at, quarantined = await self.store.outlook()
        return answer(
            StatusView(
                counts=await self.store.counts(),
                oldest_waiting_at=show_time(oldest_at),
                next_deadline_at=show_time(deadline_at),
                gates=[view_gate(shut) for shut in self.gates.shut()],
                disk=await self._disk(),
                quarantined=quarantined,
                credits=self.credits_left,
                provider_answered_at=show_time(self.answered_at()),
            )
        )

    async def _disk(self) -> DiskView | None:
        try:
            free_bytes = await self.disk.free_bytes()
        except Hindered:
            return None
        return DiskView(str(self.disk.directory), free_bytes, self.min_free_bytes)

    async def tasks(self, request: web.Request) -> web.Response:
        """Return a page of tasks."""
        states = [state for text in request.query.getall("state", ()) for state in text.split(",")]
        for state in states:
            if state not in set(State):
                known = ", ".join(State)
                raise Refusal(422, "bad_state", f"no state is called {state[:40]!r}: use {known}")
        limit = _read_number(request, "limit", PAGE, PAGE_LIMIT)
        after = _read_number(request, "after", None, (1 << 63) - 1)
        tasks = await self.store.tasks(states, limit or PAGE, after)
        more = str(tasks[-1].id) if len(tasks) == limit else None
        return answer(TaskPage([view_task(task) for task in tasks], more))

    async def task(self, request: web.Request) -> web.Response:
        """Return one task with its history."""
        task = await self.store.task(request.match_info["task_id"])
        if task is None:
            raise _unknown(request.match_info["task_id"])
        return answer(view_history(task, await self.store.history(task.task_id)))

    async def track(self, request: web.Request) -> web.Response:
        """Adopt tasks that were submitted elsewhere; the provider is asked about them at once."""
        wish = await _read_body(request, TrackRequest)
        if not 0 < len(wish.task_ids) <= IDS_LIMIT:
            raise Refusal(422, "invalid", f"task_ids takes 1 to {IDS_LIMIT} ids")
        if wish.label is not None and not (
            0 < len(wish.label) <= LABEL_LIMIT and wish.label.isprintable()
        ):
            raise Refusal(422, "bad_label", f"a label has 1 to {LABEL_LIMIT} printable characters")
        good = [task_id for task_id in wish.task_ids if TASK_ID.fullmatch(task_id)]
        rejected = [
            Rejected(task_id[:200], "a task id has 1 to 128 letters, digits or _ . : -")
            for task_id in wish.task_ids
            if not TASK_ID.fullmatch(task_id)
        ]
        now = self.now()
        tasks, new = await self.store.adopt(
            dict.fromkeys(good),
            source="track",
            label=wish.label,
            now=now,
            deadline_at=now + self.retention_ms,
            ask_at=now if self.terms.has_key else None,
        )
        self.ring()
        return answer(Tracked([view_task(task) for task in tasks], rejected), 202 if new else 200)

    async def retry(self, request: web.Request) -> web.Response:
        """Ask and fetch again, now."""
        task = await self.store.task(request.match_info["task_id"])
        if task is None:
            raise _unknown(request.match_info["task_id"])
        now = self.now()
        task, verdict = await self.store.settle(
            task, now, lambda newest: judge_retry(newest, now, self.terms)
        )
        if verdict is None:
            raise Refusal(409, task.state, f"{task.task_id} was pruned and is not fetched again")
        self.gates.probe_now()
        self.ring()
        return answer(view_task(task), 202)

    async def quarantine(self, request: web.Request) -> web.Response:
        """Return a page of callbacks that could not be read."""
        limit = _read_number(request, "limit", PAGE, PAGE_LIMIT)
        after = _read_number(request, "after", None, (1 << 63) - 1)
        held = await self.store.held(limit or PAGE, after)
        more = str(held[-1].number) if len(held) == limit else None
        return answer(HeldPage([view_held(one) for one in held], more))


def admin_app(office: Office, guard: Guard) -> web.Application:
    """Build the private application; `guard` answers instead of it where somebody may not enter."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = guard(request)
        if refused is None and request.method not in {"GET", "HEAD", "OPTIONS"}:
            refused = _refuse_foreign_page(request)
        if refused is not None:
            return refused
        try:
            return await handler(request)
        except Refusal as refusal:
            return refusal.response
        except StoreFailed as failure:
            return _problem(503, "unavailable", str(failure))
        except web.HTTPException as error:
            if error.status == 413:  # noqa: PLR2004 - Content Too Large
                return _problem(413, "too_large", f"a body has at most {BODY_LIMIT_BYTES} bytes")
            return _problem(error.status, "not_found", f"there is no {request.method} here")

    async def announce_nothing(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = "suno-videod"
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"

    app = web.Application(middlewares=[check], client_max_size=BODY_LIMIT_BYTES)
    app.on_response_prepare.append(announce_nothing)
    app.router.add_get("/healthz", office.healthz)
    app.router.add_get("/readyz", office.readyz)
    app.router.add_get("/v1/status", office.status)
    app.router.add_get("/v1/tasks", office.tasks)
    app.router.add_post("/v1/tasks", office.track)
    app.router.add_get("/v1/tasks/{task_id}", office.task)
    app.router.add_post("/v1/tasks/{task_id}/retry", office.retry)
    app.router.add_get("/v1/quarantine", office.quarantine)
    return app


def answer(body: object, status: int = 200) -> web.Response:
    """Return a JSON response."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )


def _problem(status: int, code: str, message: str) -> web.Response:
    return answer(ProblemView(Problem(code, message)), status)


def _unknown(task_id: str) -> Refusal:
    return Refusal(404, "unknown_task", f"the ledger has no task {task_id[:200]}")


async def _read_body(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(422, "invalid", f"the body cannot be read: {error}") from None


def _read_number(request: web.Request, name: str, default: int | None, limit: int) -> int | None:
    text = request.query.get(name)
    if text is None:
        return default
    if not (re.fullmatch(r"[0-9]{1,19}", text) and 1 <= int(text) <= limit):
        raise Refusal(422, f"bad_{name}", f"{name} is a number from 1 to {limit}")
    return int(text)


def guard_socket(request: web.Request) -> web.Response | None:
    """Let root and our own user in (SO_PEERCRED, unix(7))."""
    if request.transport is None:
        return _problem(403, "forbidden", "the connection is gone")
    peer = request.transport.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    if uid in {0, os.geteuid()}:
        return None
    return _problem(403, "forbidden", "the socket is for root and the daemon's own user")


_OPEN_TO_ALL: Final = frozenset({"/healthz", "/readyz"})


def guard_tcp(hosts: frozenset[str], token: str | None) -> Guard:
    """Let requests in that name one of `hosts` and bring the token, as Bearer or Basic."""

    def guard(request: web.Request) -> web.Response | None:
        if _without_port(request.host) not in hosts:
            return _problem(421, "misdirected", "this host name is not in admin.hosts")
        if token is None or request.path in _OPEN_TO_ALL or _brings(request, token):
            return None
        refused = _problem(401, "unauthorized", "a token is needed (admin.token)")
        refused.headers["WWW-Authenticate"] = 'Basic realm="suno-videod"'
        return refused

    return guard


def _without_port(host: str) -> str:
    name, bracket, _ = host.lower().partition("]")
    return f"{name}]" if bracket else name.rpartition(":")[0] or name


def _brings(request: web.Request, token: str) -> bool:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return check_token(value.strip(), [token])
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(value.strip(), validate=True).decode("utf-8", "replace")
        except (binascii.Error, ValueError):
            return False
        return check_token(pair.partition(":")[2], [token])
    return False


def _refuse_foreign_page(request: web.Request) -> web.Response | None:
    """Refuse what a page of another site makes a browser send."""
    if request.headers.get("Sec-Fetch-Site", "none") in {"same-origin", "none"}:
        return None
    return _problem(403, "cross_site", "this request was made by a page of another site")
