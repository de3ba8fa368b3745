"""How the simulated API speaks HTTP: it reads bodies, wraps answers, refuses, and obeys a script.

Rule: nothing is remembered here. What a kind of provider says comes from `provider`, what a script
says from `faults`.
"""

import asyncio
import time
from typing import Final, TypeVar

import msgspec
from aiohttp import hdrs, web

from daemon.simulator.faults import Reply
from daemon.simulator.files import close_connection
from daemon.simulator.provider import (
    CODE_BAD_JSON,
    CODE_OK,
    DIALECTS,
    Kind,
    SimulatedTask,
    envelope,
    record,
)

_HTTP_TOO_MANY: Final = 429

Wanted = TypeVar("Wanted")


class Refused(Exception):
    """A call without effect, because of what it asks for: the envelope's code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def answer(kind: Kind, code: int, data: object = None, message: str | None = None) -> web.Response:
    """Return the envelope with the HTTP status that the provider would send."""
    # kie.ai has been recorded to send HTTP 200 with the error in the body; only its rate
    # limiter is documented as a real status. sunoapi.org documents no other status than 200.
    dialect = DIALECTS[kind]
    limited = dialect.limits_by_status and code == dialect.rate_code
    return json_response(
        envelope(kind, code, data, message), _HTTP_TOO_MANY if limited else CODE_OK
    )


async def reply(
    kind: Kind, request: web.Request, scripted: Reply, task: SimulatedTask | None = None
) -> web.Response:
    """Answer as `scripted` says, about `task` where there is one."""
    await asyncio.sleep(scripted.delay_seconds)
    if scripted.cut:
        close_connection(request, reset=True)
    if scripted.raw is not None:
        response = json_response(scripted.raw.encode())
    elif scripted.flag is not None and task is not None:
        response = answer(kind, CODE_OK, record(kind, task, time.time(), scripted.flag))
    else:
        response = answer(kind, scripted.code)
    if scripted.status is not None:
        response.set_status(scripted.status)
    if scripted.retry_after is not None:
        response.headers[hdrs.RETRY_AFTER] = scripted.retry_after
    return response


async def read_body(kind: Kind, request: web.Request, wanted: type[Wanted]) -> Wanted:
    """Return the JSON body as `wanted`.

    Raises:
        Refused: the body is no JSON, or a field is missing or wrong.
    """
    try:
        return msgspec.json.decode(await request.read(), type=wanted)
    except msgspec.ValidationError as error:
        raise Refused(DIALECTS[kind].bad_field_code, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(CODE_BAD_JSON, "The body is not valid JSON") from error


def read_task_id(kind: Kind, request: web.Request) -> str:
    """Return the id that a record-info call asks about.

    Raises:
        Refused: it names none.
    """
    task_id = request.query.get("taskId")
    if not task_id:
        raise Refused(DIALECTS[kind].bad_field_code, "Please enter taskId.")
    return task_id


def find_base_url(request: web.Request) -> str:
    """Return how the client reached us, for links that work from there."""
    # Not where it is bound: a wildcard address, a container and a proxy have other names.
    return f"{request.scheme}://{request.host}"


def json_response(body: bytes, status: int = CODE_OK) -> web.Response:
    """Return a response with a JSON body, or with what a script sends in place of one."""
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8")
