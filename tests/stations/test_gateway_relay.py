"""The gateway: everything but a new video arrives as it was sent, and comes back likewise."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from daemon import gateway
from daemon.config.secret import Secret
from daemon.gates import Gates
from daemon.outbound import api_session
from daemon.provider import Provider
from daemon.rules.schedule import MINUTE
from daemon.store import Store
from tests.stations.desk import (
    MIB,
    TRACK,
    WEEK,
    Now,
    Open,
    Plant,
    make_desks,
    place,
    record,
    reply,
    say,
)

Break = Callable[..., Awaitable[None]]


@pytest.fixture
def open_desk(store: Store, gates: Gates, now: Now, plant: Plant) -> Open:
    """Open a gateway, as (kind, path of base_url)."""
    return make_desks(store, gates, now, plant)


@pytest.mark.parametrize("below", ["", "/suno/v9"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/v1/generate/record-info?taskId=%61+b&x=%2F&&y=%E9?=;", b""),
        ("POST", "/api/v1/generate", b'{ "prompt": "\xc3\xa9" }\r\n'),
        ("POST", "/api/v1/lyrics", b""),
        ("PUT", "/api/v1/a%2Fb%20c/%C3%A9", b"\x00\xff" * 9),
        ("PATCH", "/api/v1/x//y/", b"x"),
        ("DELETE", "/api/v1/x", b""),
        ("GET", "/api/v1/mp4/generate", b""),
        ("POST", "/api/v1/mp4/record-info", b"{}"),
        ("OPTIONS", "/api/v1/", b""),
        ("GET", "/api/v1/a:b?c:d", b"a body"),
    ],
)
async def test_everything_else_is_passed_on_byte_for_byte(
    open_desk: Open, store: Store, below: str, method: str, path: str, body: bytes
) -> None:
    """Method, path, query and body, below the configured base_url, and nothing is recorded."""
    async with open_desk(below=below) as desk:
        before = await store.counts()
        status, _, answer = await desk.ask(method, path, body)
        assert status == 200
        assert answer == desk.upstream.body
        assert desk.upstream.requests == [(method, below + path, body)]
        if method == "GET":
            # A length of nothing on a GET is odd enough for a firewall.
            assert ("Content-Length" in desk.upstream.headers[0]) == bool(body)
        assert desk.wishes == []
        assert await store.counts() == before


async def test_only_what_belongs_to_the_request_travels(open_desk: Open) -> None:
    """Our key takes the place of theirs, and nothing tells who the client is."""
    named = {
        "Authorization": "Bearer theirs",
        "Cookie": "session=1",
        "X-Forwarded-For": "10.9.9.9",
        "X-Forwarded-Host": "app.example",
        "X-Real-IP": "10.9.9.9",
        "Forwarded": "for=10.9.9.9",
        "Via": "1.1 app.example",
        "Origin": "https://app.example",
        "Referer": "https://app.example/",
        "User-Agent": "their-client/1",
        "Accept-Encoding": "br",
        "Connection": "X-Hop",
        "X-Hop": "1",
        "Proxy-Authorization": "Basic x",
        "TE": "trailers",
        "Upgrade": "h2c",
        "Content-Type": "Application/JSON ; charset=utf-8",
        "Accept": "application/json;q=0.9, */*",
    }
    async with open_desk() as desk:
        await desk.ask("POST", "/api/v1/generate", b"{}", named)
        (heard,) = desk.upstream.headers
        assert heard["Authorization"] == "Bearer key"
        assert heard["Content-Type"] == "Application/JSON ; charset=utf-8"
        assert heard["Accept"] == "application/json;q=0.9, */*"
        assert heard["Host"] == desk.upstream.base_url.partition("//")[2]
        assert heard["User-Agent"].startswith("suno-videod/")
        ours = {"authorization", "content-type", "accept", "host", "user-agent"}
        ours |= {"accept-encoding", "content-length"}
        assert {name.lower() for name in heard} == ours
        assert "br" not in heard["Accept-Encoding"]


async def test_no_content_type_stays_none(open_desk: Open) -> None:
    """Nobody invents one for bytes."""
    async with open_desk() as desk:
        reader, writer = await asyncio.open_connection(*place(desk.url))
        head = "POST /api/v1/generate HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
        writer.write(head.encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        assert desk.upstream.requests == [("POST", "/api/v1/generate", b"{}")]
        assert "Content-Type" not in desk.upstream.headers[0]


async def test_the_answer_comes_back_as_it_was(open_desk: Open) -> None:
    """Status, content type, Retry-After and body; what concerns only our connection does not."""
    async with open_desk() as desk:
        upstream = desk.upstream
        upstream.status = 418
        upstream.body = b"\x00\xfe" * (MIB // 2)
        upstream.answer_headers = {
            "Content-Type": "text/x; a=b",
            "Retry-After": "7",
            "Set-Cookie": "a=b",
            "X-Internal": "1",
            "Access-Control-Allow-Origin": "*",
        }
        status, headers, body = await desk.ask("GET", "/api/v1/x")
        assert (status, body) == (418, upstream.body)
        assert headers["Content-Type"] == "text/x; a=b"
        assert headers["Retry-After"] == "7"
        assert not {"Set-Cookie", "X-Internal", "Access-Control-Allow-Origin"} & set(headers)


async def test_one_attempt_and_clear_words(open_desk: Open) -> None:
    """An answer that is too long, and one that never comes, are said to be so; nothing repeats."""
    async with open_desk() as desk:
        desk.upstream.body = b"x" * (MIB + 1)
        status, _, answer = await desk.ask("POST", "/api/v1/x", b"{}")
        assert (status, json.loads(answer)["code"]) == (502, 502)
        assert "longer than 1048576 bytes" in json.loads(answer)["msg"]
        assert "may have acted" in json.loads(answer)["msg"]
        desk.upstream.body, desk.upstream.wait = b"", 3
        status, headers, answer = await desk.ask("POST", "/api/v1/x", b"{}")
        assert (status, json.loads(answer)["code"]) == (503, 503)
        assert "may have acted" in json.loads(answer)["msg"]
        assert int(headers["Retry-After"]) > 0
        desk.upstream.wait = 0
        desk.upstream.status = 302
        desk.upstream.answer_headers = {"Location": "https://evil.example/?secret"}
        status, _, answer = await desk.ask("GET", "/api/v1/x")
        assert status == 503
        assert b"redirects" in answer
        assert b"secret" not in answer
        assert len(desk.upstream.requests) == 3


async def test_a_provider_that_is_not_there_is_503(open_desk: Open, now: Now) -> None:
    """Nothing was sent then."""
    gates = Gates(now, lambda *_: None)
    async with (
        open_desk() as desk,
        api_session("http://127.0.0.1:9", lambda: Secret("key"), 2) as session,
    ):
        desk.gateway._provider = Provider(session, "sunoapi", gates, now, 1000)
        status, _, answer = await desk.ask("GET", "/api/v1/x")
        assert status == 503
        assert b"was not reached" in answer


@pytest.mark.parametrize("path", ["mp4/generate", "generate"])
async def test_a_body_has_a_limit(open_desk: Open, path: str) -> None:
    """A mebibyte passes, and one byte more does not, in the provider's shape."""
    async with open_desk() as desk:
        body = json.dumps(TRACK).encode().ljust(MIB)
        desk.outcome = say(desk, reply())
        assert (await desk.ask("POST", f"/api/v1/{path}", body))[0] == 200
        asked = len(desk.upstream.requests) + len(desk.wishes)
        status, _, answer = await desk.ask("POST", f"/api/v1/{path}", body + b" ")
        assert (status, json.loads(answer)["code"]) == (413, 413)
        assert len(desk.upstream.requests) + len(desk.wishes) == asked == 1


async def test_a_body_that_is_not_what_it_says_is_400(open_desk: Open) -> None:
    """Broken compression is the sender's fault."""
    async with open_desk() as desk:
        packed = {"Content-Encoding": "gzip"}
        status, _, answer = await desk.ask("POST", "/api/v1/x", b"no gzip at all", packed)
        assert status == 400
        assert desk.upstream.requests == []
        assert json.loads(answer)["code"] == 400


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/../../v1/status",
        "/api/v1/./x",
        "/api/v1/%2e%2e/%2E%2E/secret",
        "/api/v1/a%2f..%2f..%2f..%2fx",
        "/api/v1/..%5c..%5cx",
        "/api/v1/..\\..\\x",
        "/api/v1/..;/x",
        "/api/v1/%252e%252e/x",
        "http://evil.example/api/v1/../x",
        "/api/v1/\xe9\xff",
        "/api/v1/x?y=\xe9\xff",
    ],
)
async def test_nothing_leaves_the_api(open_desk: Open, target: str) -> None:
    """A path that would climb out is 404 and reaches nobody."""
    async with open_desk() as desk:
        reader, writer = await asyncio.open_connection(*place(desk.url))
        writer.write(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode("latin-1"))
        line = await reader.readline()
        writer.close()
        assert line.split()[1] in {b"404", b"400"}, line
        assert desk.upstream.requests == []


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "LOCK"])
async def test_a_method_that_no_api_has_is_refused(open_desk: Open, method: str) -> None:
    """TRACE above all: it would send our key back."""
    async with open_desk() as desk:
        reader, writer = await asyncio.open_connection(*place(desk.url))
        writer.write(f"{method} /api/v1/x HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        line = await reader.readline()
        writer.close()
        assert line.split()[1] in {b"404", b"400"}
        assert desk.upstream.requests == []


async def test_a_shut_gate_is_waited_for_and_then_named(
    open_desk: Open, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason, and with the time after which a call may pass."""
    monkeypatch.setattr(gateway, "PERMIT_SECONDS", 0.1)
    gates.close("rate", "too fast")
    gates.close("maintenance", "Service under maintenance")
    gates.close("credits", "no concern of a question")
    async with open_desk() as desk:
        status, headers, answer = await desk.ask("GET", "/api/v1/x")
        assert (status, json.loads(answer)["code"]) == (503, 503)
        told = json.loads(answer)["msg"]
        assert "maintenance" in told
        assert "Service under maintenance" in told
        assert "credits" not in told
        assert int(headers["Retry-After"]) == 5 * MINUTE // 1000
        assert desk.upstream.requests == []
        gates.open("maintenance")
        gates.open("rate")
        assert (await desk.ask("GET", "/api/v1/x"))[0] == 200


async def test_too_many_calls_are_503_as_well(
    open_desk: Open, monkeypatch: pytest.MonkeyPatch, now: Now, gates: Gates
) -> None:
    """The pace holds for the application too."""
    monkeypatch.setattr(gateway, "PERMIT_SECONDS", 0.1)
    async with (
        open_desk() as desk,
        api_session(desk.upstream.base_url, lambda: Secret("key"), 2) as session,
    ):
        desk.gateway._provider = Provider(session, "sunoapi", gates, now, 0.1)
        statuses = [(await desk.ask("GET", "/api/v1/x"))[0] for _ in range(6)]
        assert statuses == [200] * 5 + [503]


@pytest.mark.parametrize(("code", "shut"), [(401, []), (429, []), (455, []), (430, ["rate"])])
async def test_only_the_rate_is_everybodys(
    open_desk: Open, gates: Gates, code: int, shut: list[str]
) -> None:
    """Another product may refuse the key and mean itself; the pace is the account's."""
    async with open_desk() as desk:
        desk.upstream.body = b'{"code":%d,"msg":"this product is not in your plan"}' % code
        status, headers, answer = await desk.ask("GET", "/api/v1/generate/credit")
        assert (status, answer) == (200, desk.upstream.body)
        assert headers["Content-Security-Policy"] == "sandbox"
        assert [gate.name for gate in gates.shut()] == shut


async def test_a_task_that_is_asked_about_is_tracked(
    open_desk: Open, store: Store, now: Now
) -> None:
    """Once the provider knows it; the answer stays as it was, and the question is due at once."""
    async with open_desk() as desk:
        desk.upstream.body = record("other")
        path = "/api/v1/mp4/record-info?taskId=other"
        for _ in range(2):
            status, _, answer = await desk.ask("GET", path)
            assert (status, answer) == (200, desk.upstream.body)
        task = await store.task("other")
        assert task is not None
        assert (task.state, task.source, task.label) == ("expected", "gateway", None)
        assert (task.ask_at, task.deadline_at) == (now(), now() + WEEK)
        assert desk.rings == 1
        assert [request[1] for request in desk.upstream.requests] == [path] * 2


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("taskId=mistyped", b'{"code":200,"msg":"success","data":null}'),
        ("taskId=mistyped", b'{"code":404,"msg":"Not found","data":null}'),
        ("taskId=mistyped", record("another")),
        ("taskId=mistyped", b"<html>"),
        ("taskId=mis%20typed", record("mis typed")),
        ("taskId=", record("")),
        ("", record("x")),
        ("taskId=video", record("video")),
    ],
)
async def test_nothing_else_is_tracked(
    open_desk: Open, store: Store, query: str, body: bytes
) -> None:
    """Neither a mistyped id nor a known one."""
    async with open_desk() as desk:
        desk.upstream.body = body
        before = await store.counts()
        status, _, answer = await desk.ask("GET", f"/api/v1/mp4/record-info?{query}")
        assert (status, answer) == (200, body)
        assert await store.counts() == before
        assert desk.rings == 0


async def test_a_task_is_tracked_by_no_other_question(open_desk: Open, store: Store) -> None:
    """A music task is no video."""
    async with open_desk() as desk:
        desk.upstream.body = record("music")
        for path in ("generate/record-info", "mp4/record-info/x", "wav/record-info"):
            assert (await desk.ask("GET", f"/api/v1/{path}?taskId=music"))[0] == 200
        assert await store.task("music") is None


async def test_an_answer_is_relayed_even_without_a_ledger(
    open_desk: Open, store: Store, break_ledger: Break
) -> None:
    """The next question about it tracks it."""
    async with open_desk() as desk:
        desk.upstream.body = record("other")
        await break_ledger(broken=True)
        path = "/api/v1/mp4/record-info?taskId=other"
        assert (await desk.ask("GET", path))[2] == desk.upstream.body
        await break_ledger(broken=False)
        assert await store.task("other") is None
        assert (await desk.ask("GET", path))[0] == 200
        assert await store.task("other") is not None


async def test_a_body_that_does_not_come_is_given_up(
    open_desk: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who begins a request and falls silent holds no memory of ours for ever."""
    monkeypatch.setattr(gateway, "BODY_SECONDS", 0.1)
    async with open_desk() as desk:
        port = int(desk.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /api/v1/lyrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        async with asyncio.timeout(3):
            assert (await reader.readline()).split()[1] == b"408"
        writer.close()
        await writer.wait_closed()
