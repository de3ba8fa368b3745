"""The OpenAPI document: valid, complete, and true of every answer."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, get_args, get_origin

import msgspec
import pytest

from daemon.admin import BODY_LIMIT_BYTES, admin_app, guard_socket, guard_tcp
from daemon.config.sections import Secret, TcpEndpoint
from daemon.disk import Disk
from daemon.gates import Gates
from daemon.listeners import close, listen, private_runner
from daemon.office import Office
from daemon.openapi import describe
from daemon.outbound import api_session, file_session
from daemon.provider import Provider
from daemon.routes import ROUTES
from daemon.rules.address import AddressPolicy
from daemon.rules.lifecycle import State
from daemon.rules.schedule import Pace
from daemon.rules.verdict import Terms
from daemon.simulator.faults import ApiFaults
from daemon.simulator.music import UNKNOWN_MUSIC
from daemon.simulator.simulator import Simulator
from daemon.store import Store
from daemon.strikes import STRIKES_LIMIT
from daemon.targets import Targets
from daemon.views import ProblemView
from tests.stations.examining import make_examiner, make_submitter
from tests.stations.holding import hold
from tests.stories.harness import ask

DOCUMENT = msgspec.json.decode(msgspec.json.encode(describe()))
OPERATIONS: Mapping[tuple[str, str], Any] = {
    (method.upper(), path): operation
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}
WEEK = 7 * 86_400_000
POLICY = AddressPolicy(allow_http=True)
NONCE = "0" * 32
TELLS_ANYWAY = {("GET", "/v1/diagnosis"), ("GET", "/v1/callback-tests/{nonce}")}
"""What is answered without the ledger: a doctor is asked because something is broken."""
JSON_TYPES = {"string", "integer", "number", "boolean", "array", "object", "null"}


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a document."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def test_the_document_is_valid() -> None:
    """What OpenAPI 3.1 demands is there, every reference resolves, every schema is a schema."""
    assert re.fullmatch(r"3\.1\.\d+", DOCUMENT["openapi"])
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    for found in walk(DOCUMENT):
        if "$ref" in found:
            place: Any = DOCUMENT
            assert found["$ref"].startswith("#/")
            for part in found["$ref"].removeprefix("#/").split("/"):
                place = place[part]
            assert isinstance(place, dict)
    for schema in walk(DOCUMENT["components"]["schemas"]):
        if isinstance(schema.get("type"), str):
            assert schema["type"] in JSON_TYPES
    for schema in DOCUMENT["components"]["schemas"].values():
        assert schema["type"] == "object"
        assert set(schema["required"]) <= schema["properties"].keys()
    names = {name for need in DOCUMENT["security"] for name in need}
    assert names == DOCUMENT["components"]["securitySchemes"].keys()


def test_every_operation_is_whole() -> None:
    """A unique name, a summary, each variable of the path once, answers with a body each."""
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(names)) == len(names)
    for (method, path), operation in OPERATIONS.items():
        assert operation["summary"]
        told = [(one["in"], one["name"]) for one in operation["parameters"]]
        assert len(set(told)) == len(told)
        variables = re.findall(r"\{(\w+)\}", path)
        assert [name for place, name in told if place == "path"] == variables
        assert all(one["required"] is (one["in"] == "path") for one in operation["parameters"])
        assert all(one["schema"] for one in operation["parameters"])
        assert any(status.startswith("2") for status in operation["responses"])
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status)
            assert response["description"]
            assert response["content"]["application/json"]["schema"]
        assert ("requestBody" in operation) <= (method == "POST")


def test_the_document_and_the_listener_have_the_same_paths() -> None:
    """Every route is told, and nothing under `/v1/` exists that is not."""
    assert set(OPERATIONS) == {(route.method, route.path) for route in ROUTES}
    assert len(OPERATIONS) == len(ROUTES)
    office = Office.__new__(Office)  # No handler is called here.
    served = {
        (resource.method, resource.resource.canonical)
        for resource in admin_app(office, guard_socket).router.routes()
        if resource.resource is not None and resource.method != "HEAD"
    }
    under = {(method, path) for method, path in served if path.startswith("/v1/")}
    assert under == set(OPERATIONS)


def test_queries_and_bodies_are_told_as_they_are_read() -> None:
    """Names, limits and defaults of the types that the handlers decode into."""
    query = {one["name"]: one["schema"] for one in OPERATIONS["GET", "/v1/tasks"]["parameters"]}
    assert query["limit"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
    assert query["state"]["type"] == "array"
    assert "after" in query
    body = OPERATIONS["POST", "/v1/tasks"]["requestBody"]
    assert body["required"] is True
    schemas = body["content"]["application/json"]["schema"]["anyOf"]
    named = {schema["$ref"].rpartition("/")[2] for schema in schemas}
    assert named == {"TrackRequest", "SubmitRequest"}
    submit = DOCUMENT["components"]["schemas"]["SubmitRequest"]
    assert submit["required"] == ["music_task_id", "audio_id"]
    assert submit["additionalProperties"] is False
    assert OPERATIONS["POST", "/v1/tasks/{task_id}/retry"]["requestBody"]["required"] is False


def keys_of(kind: Any, value: Any, place: str = "") -> None:
    """Compare the names of a value with those of its type, both ways and all the way down."""
    if isinstance(kind, UnionType):
        kinds = [one for one in get_args(kind) if one is not type(None)]
        if value is not None:
            keys_of(kinds[0], value, place)
    elif get_origin(kind) is list:
        for item in value:
            keys_of(get_args(kind)[0], item, f"{place}[]")
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        needed = {name for name, field in fields.items() if field.required}
        assert needed <= set(value) <= set(fields), place
        for name in value:
            keys_of(fields[name].type, value[name], f"{place}.{name}")


Call = Callable[..., Any]


@pytest.fixture
async def call(
    tmp_path: Path,
    heard: set[tuple[str, str, int]],
    store: Store,
    gates: Gates,
    disk: Disk,
    simulator: Simulator,
    *,
    now: Callable[[], int],
) -> AsyncIterator[Call]:
    """Serve the admin API on TCP; call it, and check each answer against the document."""
    terms = Terms(Pace(1000, 1000, 1000), 1000, 1000, has_key=True)
    async with (
        api_session(simulator.base_url, lambda: Secret("key")) as session,
        file_session(lambda: POLICY, 1, 1, 1) as files,
    ):
        provider = Provider(session, "sunoapi", gates, now, 1000)
        submitter = make_submitter(store, provider, files, gates, policy=POLICY, now=now)
        examiner = make_examiner(
            *(tmp_path, store, gates, disk), provider=provider, submitter=submitter, now=now
        )
        examiner.turnstile.note(NONCE, "test", "127.0.0.1", "/video-callback/token")
        office = Office(
            store=store,
            gates=gates,
            disk=disk,
            submitter=submitter,
            targets=Targets(session, tuple, now),
            min_free_bytes=lambda: 1,
            terms=lambda: terms,
            retention_ms=lambda: WEEK,
            now=now,
            ring=lambda: None,
            answered_at=lambda: None,
            examiner=examiner,
        )

        guard = guard_tcp(lambda: frozenset({"127.0.0.1"}), frozenset, lambda: "token")
        runner = private_runner(admin_app(office, guard))
        url = await listen(runner, TcpEndpoint("127.0.0.1", 0), 0o600)
        sending = asyncio.create_task(submitter.run(first=True))

        async def call(
            method: str,
            path: str,
            wanted: int,
            body: object = None,
            query: str = "",
            headers: Mapping[str, str] = MappingProxyType({}),
            **names: str,
        ) -> Any:
            data = body if isinstance(body, bytes) else msgspec.json.encode(body) if body else b""
            told = {"Authorization": "Bearer token", **headers}
            answer = await ask(method, url + path.format(**names) + query, data=data, headers=told)
            assert answer.status == wanted, answer
            (route,) = [route for route in ROUTES if (route.method, route.path) == (method, path)]
            assert str(wanted) in OPERATIONS[method, path]["responses"]
            kind = route.gives.get(wanted, ProblemView)
            found = msgspec.json.decode(answer.body)
            msgspec.convert(found, kind, strict=True)
            keys_of(kind, found)
            heard.add((method, path, wanted))
            return found

        yield call
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await close([runner])


@pytest.fixture
def heard() -> set[tuple[str, str, int]]:
    """Which statuses of which operation were heard."""
    return set()


async def look_at_numbers(call: Call) -> None:
    """Ask for what is told over time."""
    assert (await call("GET", "/v1/credits", 200))["credits"][0]["credits"] == 12.5
    await call("GET", "/v1/credits", 422, query="?since=-1")
    assert len((await call("GET", "/v1/chart", 200, query="?days=7"))["days"]) == 7
    await call("GET", "/v1/chart", 422, query="?days=0")


async def hear_diagnosis(call: Call) -> None:
    """Ask for a diagnosis of everything, of a task in each state, and of a test callback."""
    assert (await call("GET", "/v1/diagnosis", 200))["ledger"]["checked"]
    await call("GET", "/v1/callback-tests/{nonce}", 200, nonce=NONCE)
    await call("GET", "/v1/callback-tests/{nonce}", 404, nonce="1" * 32)
    for state in State:
        await call("GET", "/v1/tasks/{task_id}/diagnosis", 200, task_id=state.value)


async def hear_no_ledger(call: Call, held_id: str) -> None:
    """Ask for everything while the ledger can be neither read nor written."""
    for method, path in OPERATIONS:
        body = {"task_ids": ["new"]} if (method, path) == ("POST", "/v1/tasks") else None
        if (method, path) in TELLS_ANYWAY:
            assert (await call(method, path, 200, nonce=NONCE)).get("overdue") is None
        else:
            await call(method, path, 503, body, task_id="new", held_id=held_id)


async def test_every_answer_is_as_the_document_says(
    call: Call,
    heard: set[tuple[str, str, int]],
    store: Store,
    *,
    plant: Callable[..., Any],
    simulator: Simulator,
    now: Callable[[], int],
    break_ledger: Callable[..., Any],
) -> None:
    """Each operation gives each of its statuses here, and each body is of the type that is told."""
    tasks, one = "/v1/tasks", "/v1/tasks/{task_id}"
    for state in State:
        await plant(state.value, state, reason="network", message="odd", provider_code=500)
    held = await hold(store, b"\xff", why="odd", now=now())
    await store.balances.record(now(), 12.5)
    for path in (tasks, "/v1/export", "/v1/quarantine"):
        page = await call("GET", path, 200, query="?limit=1")
        assert page["next"] is None or await call("GET", path, 200, query=f"?after={page['next']}")
        await call("GET", path, 422, query="?limit=0")
    await call("GET", tasks, 422, query="?state=odd")
    await call("GET", "/v1/status", 200)
    await look_at_numbers(call)
    await call("POST", "/v1/notifications/test", 200)
    await hear_diagnosis(call)
    for state in State:
        await call("GET", one, 200, task_id=state.value)
        pruned = state is State.PRUNED
        await call("POST", f"{one}/retry", 409 if pruned else 202, task_id=state.value)
        open_now = state not in {State.VERIFIED, State.STORED, State.DONE, State.PRUNED}
        forgets = open_now and state is not State.WANTED
        await call("POST", f"{one}/forget", 200 if forgets else 409, task_id=state.value)
    await call("POST", f"{one}/retry", 202, {"force": True}, task_id="pruned")
    await call("POST", f"{one}/retry", 422, {"force": 1}, task_id="pruned")
    await call("POST", f"{one}/retry", 413, b" " * (BODY_LIMIT_BYTES + 1), task_id="pruned")
    for method, path in (
        *(("GET", one), ("GET", f"{one}/diagnosis")),
        *(("POST", f"{one}/retry"), ("POST", f"{one}/forget")),
    ):
        await call(method, path, 404, task_id="nobody")
    for method, path in (("GET", ""), ("POST", "/forget")):
        await call(method, f"/v1/quarantine/{{held_id}}{path}", 200, held_id=held.id)
        await call(method, f"/v1/quarantine/{{held_id}}{path}", 404, held_id="quarantine-0")
    assert "rejected" in await call("POST", tasks, 202, {"task_ids": ["new", "a/b"]})
    await call("POST", tasks, 200, {"task_ids": ["new"]})
    await call("POST", tasks, 422, {"task_ids": []})
    await call("POST", tasks, 413, b" " * (BODY_LIMIT_BYTES + 1))
    wish = {"music_task_id": "music", "audio_id": "audio"}
    for status in (202, 200):
        await call("POST", tasks, status, wish)
    await call("POST", tasks, 409, wish | {"music_task_id": UNKNOWN_MUSIC})
    simulator.script_api(ApiFaults(codes=(451,), path="/api/v1/mp4/generate"))
    await call("POST", tasks, 422, wish | {"audio_id": "deaf"})
    for method, path in OPERATIONS:
        names = {"task_id": "new", "held_id": held.id, "nonce": NONCE}
        await call(method, path, 401, headers={"Authorization": ""}, **names)
        await call(method, path, 421, headers={"Host": "evil.example"}, **names)
        await call(method, path, 413, b" " * (BODY_LIMIT_BYTES + 1), **names)
        await call(method, path, 415, b" ", headers={"Content-Encoding": "gzip"}, **names)
        if method == "POST":
            await call(method, path, 403, headers={"Sec-Fetch-Site": "cross-site"}, **names)
    await break_ledger(broken=True, looks=True)
    await hear_no_ledger(call, held.id)
    await break_ledger(broken=False, looks=True)
    for _ in range(STRIKES_LIMIT):
        await call("GET", tasks, 401, headers={"Authorization": "Bearer wrong"})
    for method, path in OPERATIONS:
        names = {"task_id": "new", "held_id": held.id, "nonce": NONCE}
        await call(method, path, 429, headers={"Authorization": "Bearer wrong"}, **names)
    told = {
        (method, path, int(status))
        for (method, path), operation in OPERATIONS.items()
        for status in operation["responses"]
    }
    # The socket refuses other users' GET with 403; TCP refuses pages, which do not GET. A slow body
    # takes its time, and has a test of its own.
    assert told - heard == {
        (method, path, status)
        for method, path in OPERATIONS
        for status in (403, 408)
        if status == 408 or method == "GET"
    } | {(*operation, 503) for operation in TELLS_ANYWAY}
