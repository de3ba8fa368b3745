"""How the private listener reads a request and words an answer.

Rule: what comes in becomes a Struct here or is refused here, and every error has one shape.
"""

import re
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from daemon.views import Problem, ProblemView, StateNames

_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)

T = TypeVar("T")
Query = TypeVar("Query", bound=msgspec.Struct)


class Refusal(Exception):
    """A request that cannot be granted; becomes the error's body."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.response = problem(status, code, message)


def answer(body: object, status: int = 200) -> web.Response:
    """Return a JSON response."""
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )


def problem(status: int, code: str, message: str) -> web.Response:
    """Return an error in the one shape that all have."""
    return answer(ProblemView(Problem(code, message)), status)


def read_query(request: web.Request, kind: type[Query]) -> Query:
    """Read the query string as a Struct; a list takes several keys and commas.

    Raises:
        Refusal: a value makes no sense.
    """
    given: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        texts = request.query.getall(field.name, [])
        if texts and field.type == StateNames:
            given[field.name] = [part for text in texts for part in text.split(",")]
        elif texts and not _NUMBER.fullmatch(texts[-1]):
            raise Refusal(422, "invalid", f"{field.name} is a whole number without a sign")
        elif texts:
            given[field.name] = int(texts[-1])
    try:
        # Not strict: a tuple is given as a list.
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Refusal(422, "invalid", f"the query: {error}") from None


async def read_json(request: web.Request) -> object:
    """Read a body as JSON.

    Raises:
        Refusal: it is none.
    """
    try:
        return msgspec.json.decode(await request.read())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(422, "invalid", f"the body cannot be read: {error}") from None


def convert(body: object, kind: type[T]) -> T:
    """Read JSON as a Struct, or as whatever a handler takes.

    Raises:
        Refusal: it is something else.
    """
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise Refusal(422, "invalid", f"the body cannot be read: {error}") from None
