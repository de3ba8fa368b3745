"""The OpenAPI document, made of the very types that the handlers read and write.

Rule: nothing about a shape is written here; what a handler cannot send, the document does not say.
Source: https://spec.openapis.org/oas/v3.1.0
"""

import re
from collections.abc import Iterable
from types import UnionType
from typing import Any, Final, get_args

import msgspec

from daemon import __version__
from daemon.routes import ROUTES, Route
from daemon.views import ProblemView

_REFERENCE: Final = "#/components/schemas/{name}"
_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_MEANINGS: Final = {
    200: "Done",
    202: "Committed; it goes on by itself",
    401: "A token is needed",
    403: "The request came from a page of another site, or from another user of this machine",
    404: "There is no such thing",
    408: "The body came too slowly",
    409: "Refused, for its state forbids it",
    413: "The body is too large",
    415: "The body is encoded",
    421: "The host name is not one of ours",
    422: "The request makes no sense, or the provider refused it for good",
    429: "Too many wrong tokens: wait a minute",
    503: "The ledger cannot be written now",
}
_ALWAYS: Final = (401, 403, 408, 413, 415, 421, 429, 503)


def describe() -> dict[str, Any]:
    """Return the document."""
    types = sorted(
        {kind for route in ROUTES for kind in _types(route)}, key=lambda kind: kind.__name__
    )
    _, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "suno-videod",
            "version": __version__,
            "summary": "Is every music video that was paid for safe?",
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"basic": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
    }


def _types(route: Route) -> Iterable[type]:
    yield from route.gives.values()
    yield from _alternatives(route.takes)
    yield ProblemView


def _alternatives(kind: Any) -> tuple[type, ...]:
    if kind is None:
        return ()
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def _operation(route: Route) -> dict[str, Any]:
    name = "_".join([route.method.lower(), *re.findall(r"\w+", route.path.removeprefix("/v1/"))])
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
        "responses": {
            **{str(status): _response(status, kind) for status, kind in route.gives.items()},
            **{str(status): _response(status, ProblemView) for status in _statuses(route)},
        },
    }
    alternatives = [{"$ref": _reference(kind)} for kind in _alternatives(route.takes)]
    if alternatives:
        schema = alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}
        operation["requestBody"] = {
            "required": not route.body_optional,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _statuses(route: Route) -> list[int]:
    return sorted({*route.errors, *_ALWAYS})


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    (reference,), components = msgspec.json.schema_components([route.query])
    schema = components[reference["$ref"].rpartition("/")[2]]
    return [
        {"name": name, "in": "query", "required": False, "schema": shape}
        for name, shape in schema["properties"].items()
    ]


def _response(status: int, kind: type) -> dict[str, Any]:
    return {
        "description": _MEANINGS[status],
        "content": {"application/json": {"schema": {"$ref": _reference(kind)}}},
    }


def _reference(kind: type) -> str:
    return _REFERENCE.format(name=kind.__name__)
