"""The provider's own paths, so that an existing application changes only its base URL.

Rule: the application hears what the provider said, as it said it, or a refusal in the provider's
shape; it never hears of us. A video is recorded before it is asked for; everything else is passed
on once, with our key, and nothing of it is kept.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Final, Protocol

import structlog
from aiohttp import web

from daemon.gates import Gates
from daemon.provider import QUERY_GATES, Provider, Reply
from daemon.rules.address import AddressPolicy
from daemon.rules.dialect import Outcome
from daemon.rules.failure import Reason, StepFailed, Unreached
from daemon.rules.lifecycle import State
from daemon.rules.notice import TASK_ID, read_answer
from daemon.rules.outgoing import CODE_OK, Unfit, envelope, read_path, read_wish
from daemon.rules.submission import Decision, Fate, Next, Receipt, Wish
from daemon.rules.task import Task
from daemon.store import Store, StoreFailed

PREFIX: Final = "/api/v1/"
BODY_LIMIT_BYTES: Final = 1 << 20
BODY_SECONDS: Final = 30.0
PERMIT_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 30
"""What Retry-After says where nobody knows better."""

_GENERATE: Final = ("api", "v1", "mp4", "generate")
_RECORD_INFO: Final = ("api", "v1", "mp4", "record-info")
# TRACE would send our key back, and CONNECT is for proxies (RFC 9110, 9.3.6 and 9.3.8).
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# A list of what travels, for nobody knows all names under which a proxy tells of its client.
_TRAVELLING: Final = ("Content-Type", "Accept")
_NAMES_LIMIT: Final = 100

_log = structlog.get_logger()


class Submitted(Protocol):
    """How it stands with a wish that was handed over, and the provider's word if there is one."""

    @property
    def task(self) -> Task:
        """The task, or the open intent."""

    @property
    def receipt(self) -> Receipt | None:
        """What the provider's answer meant."""

    @property
    def reply(self) -> Reply | None:
        """The answer as it came."""

    @property
    def decision(self) -> Decision | None:
        """What follows."""


class Submit(Protocol):
    """Records a wish, sends it and waits for the provider's word."""

    def __call__(
        self, wish: Wish, *, source: str, label: str | None, patient: bool
    ) -> Awaitable[Submitted]:
        """Do so; raises StoreFailed when nothing was recorded and nothing sent."""


class Gateway:
    """What answers below `/api/v1/` on the private listeners.

    `kind` is `provider.kind`, `api_key` returns its key, `policy` what an application may be called
    back under, and `ring` wakes whoever asks about tasks.
    """

    def __init__(
        self,
        store: Store,
        provider: Provider,
        gates: Gates,
        submit: Submit,
        *,
        kind: str,
        api_key: Callable[[], str | None],
        policy: Callable[[], AddressPolicy],
        retention_ms: Callable[[], int],
        now: Callable[[], int],
        ring: Callable[[], None],
    ) -> None:
        self._store = store
        self._provider = provider
        self._gates = gates
        self._submit = submit
        self._kind = kind
        self._api_key = api_key
        self._policy = policy
        self._retention_ms = retention_ms
        self._now = now
        self._ring = ring
        self._foreign: set[str] = set()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes, for `app.add_routes`."""
        return [web.route("*", PREFIX + "{path:.*}", self._answer)]

    async def _answer(self, request: web.Request) -> web.Response:
        # One list of segments decides, or `mp4//generate` would be paid for and not recorded.
        segments = read_path(request.rel_url.raw_path)
        if segments is None or request.method not in _METHODS:
            return _refuse(404, "There is no such path or method.")
        if self._api_key() is None:
            return _refuse(503, "Nobody can be asked: provider.api_key is not set.")
        try:
            body = await _read_body(request)
        except _TooLarge:
            return _refuse(413, f"A body has at most {BODY_LIMIT_BYTES} bytes.")
        except TimeoutError:
            return _refuse(408, f"The body did not come within {BODY_SECONDS:g} s.")
        except web.RequestPayloadError:
            return _refuse(400, "The body cannot be read.")
        if request.method == "POST" and segments == _GENERATE:
            return await self._generate(body)
        return await self._relay(request, body, segments)

    async def _generate(self, body: bytes) -> web.Response:
        try:
            wish, foreign = read_wish(self._kind, body, self._policy())
        except Unfit as unfit:
            # Both providers say such things with HTTP 200.
            return _say(unfit.code, unfit.message, status=200)
        self._name_foreign(foreign)
        try:
            sent = await self._submit(wish, source="gateway", label=None, patient=False)
        except StoreFailed as failure:
            return _refuse(503, f"Nothing was sent, for it cannot be recorded: {failure}.")
        if sent.reply is None or _is_in_doubt(sent.decision):
            return _explain_silence(sent)
        return _say_first(sent.receipt, sent.decision) or _pass_on(sent.reply)

    def _name_foreign(self, names: frozenset[str]) -> None:
        """Say once per name that a field which nobody documented is not passed on."""
        for name in sorted(names - self._foreign):
            if len(self._foreign) < _NAMES_LIMIT:
                self._foreign.add(name)
                _log.warning("gateway.field_dropped", field=name[:64])

    async def _relay(
        self, request: web.Request, body: bytes, segments: tuple[str, ...]
    ) -> web.Response:
        try:
            async with asyncio.timeout(PERMIT_SECONDS):
                await self._provider.permit_relay()
        except TimeoutError:
            return self._refuse_by_gate()
        query = request.rel_url.raw_query_string
        target = request.rel_url.raw_path + (f"?{query}" if query else "")
        headers = {name: request.headers[name] for name in _TRAVELLING if name in request.headers}
        try:
            reply = await self._provider.relay(request.method, target, body, headers)
        except StepFailed as failure:
            return _explain_failure(failure)
        _log.debug(
            "gateway.relayed",
            method=request.method,
            path=request.rel_url.raw_path,
            status=reply.status,
        )
        if request.method == "GET" and segments == _RECORD_INFO:
            await self._track(request.query.get("taskId", ""), reply)
        return _pass_on(reply)

    def _refuse_by_gate(self) -> web.Response:
        shut = [gate for gate in self._gates.shut() if gate.name in QUERY_GATES]
        if not shut:
            return _refuse(503, "Nothing was sent: too many calls wait for their turn.")
        last = max(shut, key=lambda gate: gate.probe_at)
        seconds = max(1, math.ceil((last.probe_at - self._now()) / 1000))
        told = f"Nothing was sent: the gate {last.name} is shut ({last.reason})."
        return _refuse(503, told, seconds)

    async def _track(self, task_id: str, reply: Reply) -> None:
        """Take a task that the provider knows and we do not; a mistyped id is none."""
        if not TASK_ID.fullmatch(task_id):
            return
        answer = read_answer(self._kind, reply.status, reply.body, task_id)
        if answer.outcome is not Outcome.ANSWERED:
            return
        now = self._now()
        # Without the ledger the application still gets its answer, and asks again.
        with suppress(StoreFailed):
            if await self._store.task(task_id) is None:
                await self._store.adopt(
                    [task_id],
                    source="gateway",
                    label=None,
                    now=now,
                    deadline_at=now + self._retention_ms(),
                    ask_at=now,
                )
                self._ring()


class _TooLarge(Exception):
    """A body is longer than the limit."""


async def _read_body(request: web.Request) -> bytes:
    body = bytearray()
    async with asyncio.timeout(BODY_SECONDS):
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > BODY_LIMIT_BYTES:
                raise _TooLarge
    return bytes(body)


def _say_first(receipt: Receipt | None, decision: Decision | None) -> web.Response | None:
    """Return what the first call would have brought, when only the second was answered.

    Then "exists already" speaks of the video of our own first call.
    """
    if receipt is None or decision is None or not (decision.doubts or decision.unheard):
        return None
    if receipt.fate is not Fate.EXISTED or receipt.task_id is None:
        return None
    return _say(CODE_OK, "success", {"taskId": receipt.task_id}, status=200)


def _is_in_doubt(decision: Decision | None) -> bool:
    """Return whether an earlier call may have been accepted, whatever the last one was told."""
    if decision is None or decision.next in {Next.NAME, Next.FAIL}:
        return False
    return decision.doubts + decision.unheard > 0


def _explain_silence(sent: Submitted) -> web.Response:
    decision = sent.decision
    doubts = 0 if decision is None else decision.doubts + decision.unheard
    if sent.receipt is None:
        nothing = sent.task.state == State.FAILED
        why = "the provider did not answer in time"
    else:
        nothing = sent.receipt.fate is Fate.DEFERRED and doubts == 0
        why = sent.receipt.message
    if nothing:
        return _refuse(503, f"Nothing was sent: {why}.")
    # Without Retry-After: nobody is asked to repeat what may have been paid for.
    return _say(503, f"It may have been accepted, and is looked after: {why}.", status=503)


def _explain_failure(failure: StepFailed) -> web.Response:
    if isinstance(failure, Unreached):
        return _refuse(503, f"The provider was not reached: {failure.message}.")
    silent = failure.reason is Reason.STALLED
    told = f"The provider may have acted on it, but gave no usable answer: {failure.message}."
    return _refuse(503 if silent else 502, told)


def _pass_on(reply: Reply) -> web.Response:
    # A page of the provider's is not to act in our name, where a browser shows it.
    headers = {"Content-Type": reply.content_type, "Content-Security-Policy": "sandbox"}
    if reply.wish is not None:
        headers["Retry-After"] = str(math.ceil(reply.wish))
    return web.Response(status=reply.status, body=reply.body, headers=headers)


def _refuse(status: int, message: str, retry_seconds: int = RETRY_SECONDS) -> web.Response:
    response = _say(status, message, status=status)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = str(retry_seconds)
    return response


def _say(code: int, message: str, data: object = None, *, status: int) -> web.Response:
    body = envelope(code, message, data)
    return web.Response(status=status, body=body, content_type="application/json")
