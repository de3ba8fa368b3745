"""The only door out: what leaves for a file host, where redirects lead, who hears the key."""

import asyncio
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path

import pytest

from daemon import __version__
from daemon.config.secret import Secret
from daemon.outbound import api_session, customs, file_session, get_file, read_answer, read_chunk
from daemon.rules.address import AddressPolicy, AddressRefused
from daemon.rules.failure import Reason, Refused, Trouble
from tests.security.hosts import host

LOOPBACK = AddressPolicy(allow_http=True, allow_private=(ip_network("127.0.0.1/32"),))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfilm"


def redirect(location: str, status: int = 302, more: str = "") -> bytes:
    """Write a redirect."""
    head = f"HTTP/1.1 {status} Go\r\nContent-Length: 0\r\nLocation: {location}\r\n{more}\r\n"
    return head.encode()


async def fetch(link: str, headers: Mapping[str, str] | None = None) -> bytes:
    """Get a file the way a download does."""
    async with (
        file_session(lambda: LOOPBACK, 1, 1, 1) as session,
        get_file(session, link, LOOPBACK, headers or {}) as response,
    ):
        body = b""
        while chunk := await read_chunk(response, 1):
            body += chunk
        return body


async def test_a_file_arrives_and_the_request_says_only_what_it_must() -> None:
    """No credential, no cookie, no compression; the caller's range travels, nothing else does."""
    heard: list[bytes] = []
    async with host(OK, heard=heard) as port:
        wish = {"Range": "bytes=4-", "If-Range": '"x"', "Authorization": "Bearer k", "Cookie": "a"}
        assert await fetch(f"http://127.0.0.1:{port}/a", headers=wish) == b"film"
    lines = heard[0].decode().split("\r\n")
    assert {line.partition(":")[0] for line in lines[1:-2]} == {
        *("Host", "User-Agent", "Accept-Encoding", "Range", "If-Range", "Connection")
    }
    assert f"User-Agent: suno-videod/{__version__}" in lines
    assert "Accept-Encoding: identity" in lines


async def test_a_signed_link_is_sent_byte_for_byte() -> None:
    """Quoting is not tidied; what is not ASCII is escaped, the fragment stays home."""
    heard: list[bytes] = []
    async with host(OK, heard=heard) as port:
        await fetch(f"http://127.0.0.1:{port}/a//%2f%7E/\u6b4c?s=%2B+/=|'#part")
        await fetch(f"http://127.0.0.1:{port}?s=1")
    assert heard[0].startswith(b"GET /a//%2f%7E/%E6%AD%8C?s=%2B+/=|' HTTP/1.1\r\n")
    assert heard[1].startswith(b"GET /?s=1 HTTP/1.1\r\n")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_with_the_same_few_headers(status: int) -> None:
    """A cookie set on the way stays there, and no Referer tells where we came from."""
    heard: list[bytes] = []
    hop = redirect("/b?c=%2f", status, "Set-Cookie: a=b\r\n")
    async with host(hop, OK, heard=heard) as port:
        link = f"http://127.0.0.1:{port}/a"
        assert await fetch(link, headers={"range": "bytes=1-"}) == b"film"
    assert heard[1].partition(b"\r\n")[0] == b"GET /b?c=%2f HTTP/1.1"
    assert heard[0].partition(b"\r\n")[2] == heard[1].partition(b"\r\n")[2]


@pytest.mark.parametrize("status", [206, 300, 304, 404, 416, 500])
async def test_the_last_answer_is_not_judged(status: int) -> None:
    """Which status is a good one is another rule's business."""
    head = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nLocation: http://127.0.0.2/\r\n\r\n"
    async with (
        host(head.encode()) as port,
        file_session(lambda: LOOPBACK, 1, 1, 1) as session,
        get_file(session, f"http://127.0.0.1:{port}/", LOOPBACK, {}) as response,
    ):
        assert response.status == status


async def test_five_redirects_are_followed_and_six_are_not() -> None:
    """A chain ends, even when no link comes twice."""
    hops = [redirect(f"/{number}") for number in range(6)]
    async with host(*hops[:5], OK) as port:
        assert await fetch(f"http://127.0.0.1:{port}/a") == b"film"
    async with host(*hops, OK) as port:
        with pytest.raises(Refused, match="more than 5") as caught:
            await fetch(f"http://127.0.0.1:{port}/a")
    assert caught.value.reason is Reason.LINK_REFUSED


@pytest.mark.parametrize("location", ["/a?b", "/a?b#again", "?b"])
async def test_a_redirect_in_a_circle_is_refused(location: str) -> None:
    """The second time at one place is the last."""
    async with host(redirect(location)) as port:
        with pytest.raises(Refused, match="circle"):
            await fetch(f"http://127.0.0.1:{port}/a?b")


async def test_a_redirect_that_leads_nowhere_is_refused() -> None:
    """Without a Location there is nothing to follow and nothing to keep."""
    async with host(b"HTTP/1.1 302 Go\r\nContent-Length: 0\r\n\r\n") as port:
        with pytest.raises(Refused, match="without saying where"):
            await fetch(f"http://127.0.0.1:{port}/")


async def test_a_redirect_to_a_forbidden_address_is_not_followed() -> None:
    """The second hop is judged like the first: the inner server never hears of us."""
    heard: list[bytes] = []
    async with (
        host(OK, heard=heard) as inner,
        host(redirect(f"http://127.0.0.2:{inner}/")) as port,
    ):
        with pytest.raises(AddressRefused):
            await fetch(f"http://127.0.0.1:{port}/")
    assert not heard


async def test_every_request_has_a_connection_of_its_own() -> None:
    """A connection that waits for reuse can be dead or poisoned, so none waits."""
    heard: list[bytes] = []
    async with host(OK, heard=heard) as port, file_session(lambda: LOOPBACK, 1, 1, 1) as session:
        for _ in range(2):
            link = f"http://127.0.0.1:{port}/"
            async with get_file(session, link, LOOPBACK, {}) as response:
                assert await read_chunk(response, 1) == b"film"
    assert all(b"Connection: close" in request for request in heard)


async def test_no_more_connections_are_open_than_allowed() -> None:
    """The second file waits for the first, however long that takes."""
    film = b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n" + bytes(8_000_000)
    async with host(film) as port, file_session(lambda: LOOPBACK, 0.2, 0.2, 1, 4096) as session:
        link = f"http://127.0.0.1:{port}/"
        async with get_file(session, link, LOOPBACK, {}):
            second = get_file(session, link, LOOPBACK, {})
            waiting = asyncio.create_task(second.__aenter__())
            await asyncio.sleep(0.4)
            assert not waiting.done()
        assert (await waiting).status == 200
        await second.__aexit__(None, None, None)


async def test_a_compressed_body_is_handed_on_as_it_came() -> None:
    """Bytes are counted against Content-Length, so nobody unpacks them on the way."""
    packed = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nfilm"
    async with host(packed) as port:
        assert await fetch(f"http://127.0.0.1:{port}/") == b"film"


async def test_the_key_goes_to_the_api_and_nowhere_else() -> None:
    """Another host, another port, a path that names a host: refused before a byte is sent."""
    api: list[bytes] = []
    other: list[bytes] = []
    async with (
        host(OK, heard=api) as port,
        host(OK, heard=other) as foreign,
        api_session(f"http://127.0.0.1:{port}/v1", lambda: Secret("sk-1")) as session,
    ):
        for path in ("task?id=1", "/credit"):
            assert await read_answer(await session.get(path)) == b"film"
        for link in (f"http://127.0.0.1:{foreign}/", f"//127.0.0.1:{foreign}/", "https://a.com/"):
            with pytest.raises(AddressRefused, match="not the host of the API"):
                await session.get(link)
    assert [request.split(b" ")[1] for request in api] == [b"/v1/task?id=1", b"/credit"]
    assert all(b"Authorization: Bearer sk-1\r\n" in request for request in api)
    assert f"User-Agent: suno-videod/{__version__}".encode() in api[0]
    assert not other


async def test_an_api_that_redirects_is_trouble_and_takes_no_key_along() -> None:
    """A redirect means a wrong base_url; it is named without its query, and not followed."""
    other: list[bytes] = []
    async with host(OK, heard=other) as foreign:
        hop = redirect(f"http://127.0.0.1:{foreign}/x?sig=SECRET", 307)
        async with (
            host(hop) as port,
            api_session(f"http://127.0.0.1:{port}/", lambda: Secret("sk-1")) as session,
        ):
            with pytest.raises(Trouble, match="base_url") as caught, customs():
                await session.post("task", json={})
    assert f"{foreign}/x" in caught.value.message
    assert "SECRET" not in caught.value.message
    assert not other


async def test_a_file_on_the_apis_own_host_is_fetched_without_the_key() -> None:
    """Being the API's host does not make a link trusted."""
    heard: list[bytes] = []
    async with (
        host(OK, heard=heard) as port,
        api_session(f"http://127.0.0.1:{port}", lambda: Secret("sk-1")) as session,
    ):
        await read_answer(await session.get("task"))
        await fetch(f"http://127.0.0.1:{port}/a.mp4")
    assert b"sk-1" in heard[0]
    assert b"Authorization" not in heard[1]


async def test_without_a_key_none_is_sent() -> None:
    """A session for a host that needs no key says nothing about one."""
    heard: list[bytes] = []
    async with (
        host(OK, heard=heard) as port,
        api_session(f"http://127.0.0.1:{port}", lambda: None) as session,
    ):
        await read_answer(await session.get("task"))
    assert b"Authorization" not in heard[0]


async def test_proxies_and_passwords_of_the_environment_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A proxy would connect out of the guard's sight, and .netrc would hand out credentials."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n", encoding="utf-8")
    netrc.chmod(0o600)
    heard: list[bytes] = []
    proxied: list[bytes] = []
    async with host(OK, heard=heard) as port, host(OK, heard=proxied) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NETRC", str(netrc))
        await fetch(f"http://127.0.0.1:{port}/a.mp4")
        async with api_session(f"http://127.0.0.1:{port}", lambda: None) as session:
            await read_answer(await session.get("task"))
    assert len(heard) == 2
    assert not proxied
    assert b"Authorization" not in b"".join(heard)
