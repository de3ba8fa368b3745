"""The private listener: who may enter.

Rule: the socket takes root and our own user, by the kernel's word; TCP takes names that are its own
(a foreign Host is a rebinding attack) and, when configured, a token. Nothing of this is reachable
through the public listener.
"""

import base64
import binascii
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

from aiohttp import web

from daemon.office import Office, Refusal, answer, problem
from daemon.openapi import describe
from daemon.routes import ROUTES
from daemon.rules.notice import check_token
from daemon.store import StoreFailed

BODY_LIMIT_BYTES: Final = 1 << 20
GATEWAY: Final = "/api/v1/"
"""The provider's own paths, for applications behind the gateway."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Guard = Callable[[web.Request], web.Response | None]


def admin_app(office: Office, guard: Guard, routes: Iterable[web.RouteDef] = ()) -> web.Application:
    """Build the private application; `guard` answers instead of it where somebody may not enter."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = guard(request)
        harmless = request.method in {"GET", "HEAD", "OPTIONS"}
        # A relayed GET is made with our key and at our pace.
        if refused is None and (not harmless or request.path.startswith(GATEWAY)):
            refused = _refuse_foreign_page(request)
        if refused is not None:
            return refused
        try:
            return await handler(request)
        except Refusal as refusal:
            return refusal.response
        except StoreFailed as failure:
            return problem(503, "unavailable", str(failure))
        except web.HTTPException as error:
            if error.status == 413:  # noqa: PLR2004 - Content Too Large
                return problem(413, "too_large", f"a body has at most {BODY_LIMIT_BYTES} bytes")
            return problem(error.status, "not_found", f"there is no {request.method} here")

    async def announce_nothing(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = "suno-videod"
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"

    app = web.Application(middlewares=[check], client_max_size=BODY_LIMIT_BYTES)
    app.on_response_prepare.append(announce_nothing)
    app.router.add_get("/healthz", office.healthz)
    app.router.add_get("/readyz", office.readyz)
    app.router.add_get("/openapi.json", _show_document)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, partial(route.handler, office))
    app.add_routes(routes)
    return app


async def _show_document(_: web.Request) -> web.Response:
    return answer(describe())


def guard_socket(request: web.Request) -> web.Response | None:
    """Let root and our own user in (SO_PEERCRED, unix(7))."""
    if request.transport is None:
        return problem(403, "forbidden", "the connection is gone")
    peer = request.transport.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    if uid in {0, os.geteuid()}:
        return None
    return problem(403, "forbidden", "the socket is for root and the daemon's own user")


_OPEN_TO_ALL: Final = frozenset({"/healthz", "/readyz"})


def guard_tcp(
    hosts: Callable[[], frozenset[str]],
    token: Callable[[], str | None],
    api_key: Callable[[], str | None] = lambda: None,
) -> Guard:
    """Let requests in that name one of `hosts` and bring the token, as Bearer or Basic.

    Below `/api/v1/` the provider's API key opens as well: an application that changed nothing but
    its base URL sends that.
    """

    def guard(request: web.Request) -> web.Response | None:
        if _without_port(request.host) not in hosts():
            return problem(421, "misdirected", "this host name is not in admin.hosts")
        wanted, key = token(), api_key()
        if wanted is None or request.path in _OPEN_TO_ALL or _brings(request, wanted):
            return None
        if key is not None and request.path.startswith(GATEWAY) and _brings(request, key):
            return None
        refused = problem(401, "unauthorized", "a token is needed (admin.token)")
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
    return problem(403, "cross_site", "this request was made by a page of another site")
