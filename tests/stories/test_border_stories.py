"""The public listener and what strangers, scanners and broken senders do to it."""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from daemon.rules.notice import sign
from tests.stories.harness import TOKEN, Daemon, Heard, ask, configure
from tests.stories.stage import Stage, failure, success

REFUSED = b'{"error":{"code":"404","message":"refused"}}'
RECEIVED = b'{"status":"received"}'
LINK = "https://files.invalid/film.mp4"

VALID = json.dumps(success("mutant", LINK)).encode()
NASTY = (
    b"",
    b" ",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"0",
    b"NaN",
    b"1" * 5_000,
    b"-0",
    b'{"code":' + b"9" * 5_000 + b"}",
    b'{"code":1e999,"data":{"task_id":"huge-code"}}',
    b'{"code":NaN,"data":{"task_id":"no-number"}}',
    b'{"code":true,"data":{"task_id":"true-code"}}',
    b'{"code":"200","data":{"task_id":"text-code","video_url":"https://files.invalid/a"}}',
    b'{"code":200,"data":{"task_id":""}}',
    b'{"code":200,"data":{"task_id":"../../etc/passwd"}}',
    b'{"code":200,"data":{"task_id":"a/b"}}',
    b'{"code":200,"data":{"task_id":"-rf"}}',
    b'{"code":200,"data":{"task_id":"' + b"a" * 129 + b'"}}',
    b'{"code":200,"data":{"task_id":"' + b"a" * 128 + b'"}}',
    b'{"code":200,"data":{"task_id":["list"]}}',
    b'{"code":200,"data":{"task_id":{"$ne":null}}}',
    b'{"code":200,"data":{"task_id":12345}}',
    b'{"code":200,"data":{"task_id":"nul\\u0000byte"}}',
    b'{"code":200,"data":{"task_id":"\\ud800"}}',
    b'{"code":200,"msg":"\\ud800\\udfff\\u0000","data":{"task_id":"odd-text"}}',
    b'{"code":500,"msg":"\\u0000\\ud83d","data":{"task_id":"odd-failure"}}',
    b'{"code":200,"data":{"task_id":"odd-link","video_url":"https://h/\\ud800"}}',
    b'{"code":200,"data":{"task_id":"nul-link","video_url":"https://h/\\u0000"}}',
    b'{"code":200,"data":{"task_id":"list-link","video_url":["https://h/"]}}',
    b'{"code":200,"data":{"task_id":"file-link","video_url":"file:///etc/passwd"}}',
    b'{"code":200,"data":{"task_id":"long-link","video_url":"https://' + b"h" * 9_000 + b'"}}',
    b'{"code":200,"data":null}',
    b'{"code":200,"data":[]}',
    b'{"code":200,"data":"text","task_id":"outside"}',
    b'{"code":200,"data":{"task_id":"twice","task_id":"last-wins"}}',
    b'{"code":200,"data":{"callbackType":"complete","task_id":"music","data":[]}}',
    b'{"code":200,"data":{"audio_wav_url":"https://h/a.wav","task_id":"wav"}}',
    b"[" * 60_000,
    b'{"a":' * 10_000 + b"}" * 10_000,
    b'"' + b"\\u0000" * 10_000 + b'"',
    b"\xff\xfe\x00\x00",
    b"\xef\xbb\xbf" + VALID,
    VALID.decode().encode("utf-16"),
    VALID[:-1],
    VALID + b"}",
    VALID + b"\n\n",
    b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY a 'a'>]><a>&a;</a>",
    b"task_id=form&video_url=https%3A%2F%2Fh%2F",
    b"\x1f\x8b\x08\x00gzip",
)


@pytest.fixture(scope="module")
def border(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Run one daemon for several stories; nobody answers its questions, so nothing is fetched."""
    daemon = Daemon(tmp_path_factory.mktemp("border"), configure("http://127.0.0.1:9"))
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.end()


def mutate(luck: random.Random) -> bytes:
    """Return a valid callback with a few bytes changed, cut, doubled or put in."""
    body = bytearray(VALID)
    for _ in range(luck.randint(1, 6)):
        place = luck.randrange(len(body) or 1)
        match luck.randrange(4):
            case 0:
                body[place : place + 1] = bytes([luck.randrange(256)])
            case 1:
                del body[place : place + luck.randint(1, 9)]
            case 2:
                body[place:place] = body[place : place + luck.randint(1, 40)]
            case _:
                body[place:place] = luck.randbytes(luck.randint(1, 9))
    return bytes(body)


async def test_no_body_makes_a_server_error_and_none_is_lost(stage: Stage) -> None:
    """Any bytes get 200; what cannot be read is in quarantine, listed and counted, with copies."""
    daemon = await stage.daemon(None, log={"level": "info"})
    luck = random.Random(20_261_122)
    noise = [luck.randbytes(luck.randrange(400)) for _ in range(150)]
    bodies = [*NASTY, *noise, *(mutate(luck) for _ in range(250)), NASTY[2], NASTY[2]]
    odd = {"Content-Type": "text/odd"}
    replies: list[Heard] = []
    for start in range(0, len(bodies), 25):
        group = bodies[start : start + 25]
        replies += await asyncio.gather(*(daemon.post(body, headers=odd) for body in group))
    assert {(reply.status, reply.body) for reply in replies} == {(200, RECEIVED)}
    assert all("Location" not in reply.headers for reply in replies)
    tasks, held = await daemon.tasks(), []
    after = ""
    while True:
        page = await daemon.get(f"/v1/quarantine?limit=100{after}")
        held += page["quarantine"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    received = sum(task["callbacks"] for task in tasks.values())
    assert received + sum(one["copies"] for one in held) == len(bodies)
    assert received > 20
    assert (await daemon.get("/v1/status"))["quarantined"] == len(held)
    assert len(held) > 100
    assert len({one["id"] for one in held}) == len(held)
    (null,) = [one for one in held if one["body"] == "null"]
    assert (null["copies"], null["size_bytes"], null["content_type"]) == (3, 4, "text/odd")
    assert null["id"].startswith("quarantine-")
    assert {"last-wins", "outside", "a" * 128, "text-code", "odd-text"} <= tasks.keys()
    assert not {"music", "wav", "-rf", "a/b", "", "twice"} & tasks.keys()
    assert (await daemon.run("check")).code == 1


async def test_headers_of_any_bytes_make_no_server_error(border: Daemon) -> None:
    """Header values that are no text are kept or ignored, and the callback is still taken."""
    for number, header in enumerate(
        (
            b"Content-Type: \xff\xfe\x80",
            b"X-Forwarded-For: \xff, 1.2.3.4",
            b"X-Forwarded-For: " + b"1.2.3.4, " * 200 + b"::1",
            b"User-Agent: \xc3\x28\xa0\xa1",
            b"X-Webhook-Signature: \xff",
        )
    ):
        for body in (json.dumps(failure(f"headers-{number}")).encode(), b"headers %d" % number):
            request = b"POST %s HTTP/1.1\r\nHost: a\r\n%s\r\nContent-Length: %d\r\n\r\n%s"
            path = f"{urlsplit(border.callback).path}/{TOKEN}".encode()
            answer = await send_raw(border, request % (path, header, len(body), body))
            assert answer.startswith(b"HTTP/1.1 200 "), (header, answer)


async def send_raw(daemon: Daemon, request: bytes) -> bytes:
    """Send bytes as they stand and return what comes within a second, or until the end."""
    place = urlsplit(daemon.callback)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    answer = b""
    try:
        writer.write(request)
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while b"\r\n\r\n" not in answer and (piece := await reader.read(65_536)):
                    answer += piece
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    return answer


async def test_malformed_requests_are_refused_and_do_no_harm(border: Daemon) -> None:
    """No request makes a 5xx, a redirect or an error in the log, with the right token or not."""
    call = f"POST {urlsplit(border.callback).path}/{TOKEN} HTTP/1.1\r\nHost: a\r\n".encode()
    chunked = call + b"Transfer-Encoding: chunked\r\n"
    heads = (
        b"GET / HTTP/9.9",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"POST " + b"/a" * 5_000 + b" HTTP/1.1",
        b"GET /%ff%00%2e%2e HTTP/1.1\r\nHost: a",
        b"POST /video-callback/\xff\xfe HTTP/1.1\r\nHost: a",
        b"POST //evil.example/ HTTP/1.1\r\nHost: a",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: a",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: a",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"OPTIONS * HTTP/1.1\r\nHost: a",
        b"P\xffST / HTTP/1.1\r\nHost: a",
        call + b"Content-Length: -1",
        call + b"Content-Length: 2\r\nContent-Length: 3",
        call + b"Content-Length: " + b"9" * 30,
        call + b"\r\n".join(b"X-%d: 1" % number for number in range(100)),
        call + b"X: " + b"a" * 9_000,
        call + b"X: a\0b\r\nContent-Length: 0",
        call.replace(b"Host: a\r\n", b"") + b"Content-Length: 0",
        chunked + b"Content-Length: 9",
        chunked + b"\r\nZZ",
        chunked + b"\r\n2\r\n{}X",
        call + b"Content-Encoding: \xff\xfe\r\nContent-Length: 0",
        call + b"Expect: 200-ok\r\nContent-Length: 0",
    )
    for head in heads:
        answer = await send_raw(border, head + b"\r\n\r\n")
        assert answer[:13] in {
            *(b"HTTP/1.%d %d " % (minor, code) for minor in (0, 1) for code in (400, 404, 415, 417))
        }, (head[:99], answer)
    for cut in (call + b"Content-Length: 10\r\n\r\n{}", chunked + b"\r\n2\r\n{}\r\n"):
        place = urlsplit(border.callback)
        _, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(cut)
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()
    await border.says("callback.rejected", status=400)
    assert (await border.post(success("after-trouble", LINK))).status == 200


async def test_everything_else_is_the_same_404(stage: Stage) -> None:
    """A wrong token, path or method is one and the same answer, so a scanner learns nothing."""
    daemon = await stage.daemon(None)
    root = daemon.callback.removesuffix("/video-callback")
    body = json.dumps(success("nobody", LINK)).encode()
    wrong = [
        ("POST", f"{daemon.callback}/{TOKEN}x"),
        ("POST", f"{daemon.callback}/"),
        ("POST", daemon.callback),
        ("POST", f"{daemon.callback}/{TOKEN}/"),
        ("POST", f"{daemon.callback}/{TOKEN}/more"),
        ("POST", f"{daemon.callback}/{TOKEN.upper()}"),
        ("POST", f"{root}/"),
        ("POST", f"{root}/{TOKEN}"),
        ("GET", daemon.url),
        ("PUT", daemon.url),
        ("DELETE", daemon.url),
        ("OPTIONS", daemon.url),
        ("PATCH", f"{root}/healthz"),
        ("GET", f"{root}/healthz"),
        ("GET", f"{root}/v1/tasks"),
        ("GET", f"{root}/metrics"),
    ]
    replies = []
    for number, (method, url) in enumerate(wrong):
        # Each from a client of its own: five wrong tokens would be a 429.
        replies.append(
            await ask(method, url, data=body, headers={"X-Forwarded-For": f"203.0.113.{number}"})
        )
    assert {(reply.status, reply.body) for reply in replies} == {(404, REFUSED)}
    names = {tuple(sorted(reply.headers.keys() - {"Date"})) for reply in replies}
    assert len(names) == 1
    assert await daemon.tasks() == {}


async def test_five_wrong_tokens_are_enough(stage: Stage) -> None:
    """The sixth guess of a client in a minute is 429; who has the token is never held up."""
    daemon = await stage.daemon(None)
    guesses = [await daemon.post({}, token=f"guess-{number}") for number in range(8)]
    assert [guess.status for guess in guesses] == [404] * 5 + [429] * 3
    assert 0 < int(guesses[-1].headers["Retry-After"]) <= 60
    assert (await daemon.post(success("held-up", LINK))).status == 200
    other = {"X-Forwarded-For": "198.51.100.7"}
    assert (await daemon.post({}, token="guess", headers=other)).status == 404
    await daemon.says("callback.rejected", remote="198.51.100.7")
    rejected = daemon.log("callback.rejected", status=404)
    assert [line["remote"] for line in rejected] == ["127.0.0.1"] * 5 + ["198.51.100.7"]
    assert not any("guess" in json.dumps(line) for line in daemon.log())


async def test_large_compressed_and_slow_bodies_are_refused(border: Daemon) -> None:
    """64 KiB and no more, nothing compressed, and five seconds for the whole body."""
    limit = 64 << 10
    full = json.dumps(success("full", LINK)).encode().ljust(limit)
    assert (await border.post(full)).status == 200
    assert (await border.post(full + b" ")).status == 413

    async def drip() -> bytes:
        path = f"{urlsplit(border.callback).path}/{TOKEN}"
        place = urlsplit(border.callback)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{{".encode())
        answer = await reader.readuntil(b"\r\n")
        writer.close()
        return answer

    dripping = asyncio.create_task(drip())
    began = time.monotonic()
    for encoding in ("gzip", "deflate", "br", "zstd", "identity, gzip", "nonsense"):
        reply = await border.post(b"{}", headers={"Content-Encoding": encoding})
        assert reply.status == 415, encoding
    for encoding in ("identity", "Identity"):
        reply = await border.post(success("identity", LINK), headers={"Content-Encoding": encoding})
        assert reply.status == 200
    assert (await dripping).split(b" ")[1] == b"408"
    assert 4.5 < time.monotonic() - began < 15
    for status in (408, 413, 415):
        await border.says("callback.rejected", status=status)


async def test_a_signature_is_checked_when_there_are_keys(stage: Stage) -> None:
    """With `hmac_keys` only signed callbacks are taken, with any of the keys, for five minutes."""
    keys = ["the-new-signing-key", "the-old-signing-key"]
    daemon = await stage.daemon(None, callback={"hmac_keys": keys}, provider={"kind": "kie"})
    body, now = success("signed", LINK), int(time.time())

    def seal(key: str, at: int = now, task_id: str = "signed") -> dict[str, str]:
        signature = sign(key, task_id, at)
        return {"X-Webhook-Timestamp": str(at), "X-Webhook-Signature": signature}

    refused = [
        None,
        seal("another-signing-key"),
        seal(keys[0], now - 400),
        seal(keys[0], now + 400),
        seal(keys[0], task_id="other"),
        {**seal(keys[0]), "X-Webhook-Timestamp": str(now - 1)},
        {**seal(keys[0]), "X-Webhook-Timestamp": "soon"},
        {**seal(keys[0]), "X-Webhook-Signature": "not base64!"},
        {"X-Webhook-Timestamp": str(now)},
    ]
    for headers in refused:
        assert (await daemon.post(body, headers=headers)).status == 401, headers
    assert (await daemon.post(b"no task id", headers=seal(keys[0]))).status == 401
    assert await daemon.tasks() == {}
    assert (await daemon.get("/v1/status"))["quarantined"] == 0
    for key in keys:
        assert (await daemon.post(body, headers=seal(key, now - 200))).status == 200
    assert (await daemon.task("signed"))["callbacks"] == 2
    music = {"code": 200, "data": {"callbackType": "complete", "task_id": "music"}}
    assert (await daemon.post(music, headers=seal(keys[0], task_id="music"))).status == 200
    assert (await daemon.get("/v1/status"))["quarantined"] == 1


async def test_signed_callbacks_of_the_provider_are_taken(stage: Stage) -> None:
    """The simulated kie.ai signs, a forger cannot; the film arrives."""
    key = "the-signing-key-of-this-story"
    provider = await stage.provider(kind="kie", hmac_key=key)
    daemon = await stage.daemon(provider, callback={"hmac_keys": [key]}, provider={"kind": "kie"})
    task_id = provider.add_task(callback_url=daemon.url)
    task = await daemon.until(task_id)
    assert task["callbacks"] == 1


async def test_a_unix_socket_can_be_the_public_listener(stage: Stage) -> None:
    """Behind a proxy on this machine a socket file does, and it is gone after the end."""
    daemon = await stage.daemon(None, callback={"listen": "unix:public.sock"})
    place = daemon.folder / "public.sock"
    assert daemon.callback == f"unix:{place}/video-callback"
    assert place.stat().st_mode & 0o777 == 0o660
    reader, writer = await asyncio.open_unix_connection(place)
    body = json.dumps(success("by-socket", LINK)).encode()
    head = f"POST /video-callback/{TOKEN} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.9\r\n"
    writer.write(head.encode() + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()
    received = await daemon.says("callback.received", task_id="by-socket")
    assert received["remote"] == "192.0.2.9"
    assert await daemon.stop() == 0
    assert not place.exists()
