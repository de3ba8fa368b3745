"""The private listener: who may enter.

Rule: the socket takes root and our own user, by the kernel's word; TCP takes names that are its own
(a foreign Host is a rebinding attack) and, when configured, a token. What changes something is
refused to pages of other sites and written down with who did it. Nothing of this is reachable
through the public listener.
"""

import asyncio
import base64
import binascii
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

import structlog
from aiohttp import web

from daemon.asking import Refusal, answer, problem
from daemon.config.endpoints import is_loopback
from daemon.connections import hide_software, read_encoding
from daemon.office import Office
from daemon.openapi import describe
from daemon.routes import ROUTES
from daemon.rules.notice import check_token
from daemon.rules.redaction import escape_control
from daemon.store import StoreFailed
from daemon.strikes import STRIKES_SECONDS, Strikes

BODY_LIMIT_BYTES: Final = 1 << 20
BODY_SECONDS: Final = 10.0
GATEWAY: Final = "/api/v1/"
"""The provider's own paths, for applications behind the gateway."""
_HARMLESS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
PROTECTION: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "media", "connect")),
            "base-uri 'none'",
            # Not 'none': without JavaScript the buttons of the dashboard are forms.
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""What a browser may do with an answer; one that is no page may be stricter, or kept."""
_WHO: Final = web.RequestKey("who", str)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Guard = Callable[[web.Request], web.Response | None]

_log = structlog.get_logger()


def admin_app(office: Office, guard: Guard, routes: Iterable[web.RouteDef] = ()) -> web.Application:
    """Build the private application; `guard` answers instead of it where somebody may not enter."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        harmless = request.method in _HARMLESS
        relayed = request.path.startswith(GATEWAY)
        refused = guard(request)
        # A relayed GET is made with our key and at our pace; so is a diagnosis, which also writes.
        works = relayed or request.path.endswith("/diagnosis") or not harmless
        if refused is None and works:
            refused = _refuse_foreign_page(request)
        if refused is None and not relayed:
            refused = await _refuse_body(request)
        if refused is not None:
            return refused
        status: int | None = None
        try:
            response = await _handle(request, handler)
            status = response.status
        finally:
            # Also of somebody who hung up meanwhile: what he wanted may have been done.
            if not harmless:
                _write_down(request, status)
        return response

    async def protect(_: web.Request, response: web.StreamResponse) -> None:
        for name, value in PROTECTION.items():
            response.headers.setdefault(name, value)

    app = web.Application(middlewares=[check], client_max_size=BODY_LIMIT_BYTES)
    app.on_response_prepare.extend((hide_software, protect))
    app.router.add_get("/healthz", office.healthz)
    app.router.add_get("/readyz", office.readyz)
    app.router.add_get("/openapi.json", _show_document)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, partial(route.handler, office))
    app.add_routes(routes)
    return app


async def _handle(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        return refusal.response
    except StoreFailed as failure:
        return problem(503, "unavailable", str(failure))
    except web.HTTPException as error:
        refused = problem(error.status, "not_found", f"there is no {request.method} here")
        if allowed := error.headers.get("Allow"):
            refused.headers["Allow"] = allowed
        return refused


async def _refuse_body(request: web.Request) -> web.Response | None:
    """Read the body once for all handlers; say what is wrong with it."""
    if read_encoding(request) != "identity":
        return problem(415, "encoded", "send the body as it is, without Content-Encoding")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            await request.read()
    except web.HTTPRequestEntityTooLarge:
        return problem(413, "too_large", f"a body has at most {BODY_LIMIT_BYTES} bytes")
    except TimeoutError:
        return problem(408, "too_slow", f"the body did not come within {BODY_SECONDS:g} s")
    except web.RequestPayloadError:
        return problem(400, "invalid", "the body cannot be read")
    return None


def _write_down(request: web.Request, status: int | None) -> None:
    """Say who wanted what, and what came of it; None: nobody heard it."""
    about = {
        name: escape_control(value[:200])
        for name, value in request.match_info.items()
        if name in {"task_id", "held_id"}
    }
    resource = request.match_info.route.resource
    _log.info(
        "admin.acted",
        who=request[_WHO],
        method=request.method[:10],
        path=resource.canonical if resource else None,
        status=status,
        **about,
    )


async def _show_document(_: web.Request) -> web.Response:
    return answer(describe())


def guard_socket(request: web.Request) -> web.Response | None:
    """Let root and our own user in (SO_PEERCRED, unix(7))."""
    if request.transport is None:
        return problem(403, "forbidden", "the connection is gone")
    peer = request.transport.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    request[_WHO] = f"uid {uid}"
    if uid in {0, os.geteuid()}:
        return None
    return problem(403, "forbidden", "the socket is for root and the daemon's own user")


_OPEN_TO_ALL: Final = frozenset({"/healthz", "/readyz"})


def guard_tcp(
    own: Callable[[], frozenset[str]],
    further: Callable[[], frozenset[str]],
    token: Callable[[], str | None],
    api_key: Callable[[], str | None] = lambda: None,
) -> Guard:
    """Let requests in that name us and bring the token, as Bearer or Basic.

    `own` are the names and addresses of the listener itself, at its own port; `further` are names
    that lead here from elsewhere, at any. Below `/api/v1/` the provider's API key opens as well: an
    application that changed nothing but its base URL sends that.
    """
    strikes = Strikes(time.monotonic)

    def is_ours(host: str, port: int) -> bool:
        name, given = _split_port(host)
        return name in further() or (name in own() and given in {"", str(port)})

    def is_known(request: web.Request) -> bool:
        wanted, key = token(), api_key()
        if wanted is None or request.path in _OPEN_TO_ALL or _brings(request, wanted):
            return True
        return key is not None and request.path.startswith(GATEWAY) and _brings(request, key)

    def guard(request: web.Request) -> web.Response | None:
        host, client = request.headers.get("Host"), request.remote or ""
        if host is None:
            return problem(400, "invalid", "the request names no host")
        if request.transport is None:
            return problem(403, "forbidden", "the connection is gone")
        if not is_ours(host, request.transport.get_extra_info("sockname")[1]):
            return problem(421, "misdirected", "this host name is not in admin.hosts")
        request[_WHO] = client if token() is None else f"token from {client}"
        # On this machine one application with a wrong token must not shut out the others.
        if strikes.is_out(client) and not is_loopback(client):
            return _slow_down()
        if is_known(request):
            return None
        # A browser asks without a token first.
        if request.headers.get("Authorization"):
            if strikes.count(client):
                return _slow_down()
            _log.warning("admin.refused", remote=client, why="wrong token")
        refused = problem(401, "unauthorized", "a token is needed (admin.token)")
        refused.headers["WWW-Authenticate"] = 'Basic realm="suno-videod"'
        return refused

    return guard


def _slow_down() -> web.Response:
    refused = problem(429, "too_many", "too many wrong tokens: wait a minute")
    refused.headers["Retry-After"] = str(int(STRIKES_SECONDS))
    return refused


def _split_port(host: str) -> tuple[str, str]:
    name, bracket, rest = host.lower().partition("]")
    if bracket:
        return f"{name}]", rest.removeprefix(":")
    name, _, port = name.partition(":")
    return name, port


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
    """Refuse what a page of another site makes a browser send.

    Browsers that know no Sec-Fetch-Site still send Origin with what changes something.
    """
    origin = request.headers.get("Origin")
    ours = origin is None or origin.partition("://")[2].lower() == request.host.lower()
    if ours and request.headers.get("Sec-Fetch-Site", "none") in {"same-origin", "none"}:
        return None
    return problem(403, "cross_site", "this request was made by a page of another site")
